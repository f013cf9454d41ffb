"""Linear operators: pixel, frequency, cosine, dense, PCA, their products, and skew-symmetric ones."""

from prescore.operators.base import Composed, Identity, LinearOperator, compose
from prescore.operators.cosine import Cosine
from prescore.operators.dense import PCA, Dense
from prescore.operators.frequency import Frequency
from prescore.operators.pixel import Pixel
from prescore.operators.skew import OddFrequency, Roll, RollSkew

__all__ = [
    "PCA",
    "Composed",
    "Cosine",
    "Dense",
    "Frequency",
    "Identity",
    "LinearOperator",
    "OddFrequency",
    "Pixel",
    "Roll",
    "RollSkew",
    "compose",
]
