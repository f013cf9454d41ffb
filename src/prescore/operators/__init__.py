"""Linear operators: pixel, frequency, cosine, dense, PCA, their products, and skew-symmetric ones."""

from prescore.operators.base import Identity, LinearOperator
from prescore.operators.composed import Composed, compose
from prescore.operators.cosine import Cosine
from prescore.operators.dense import PCA, Dense
from prescore.operators.frequency import Frequency
from prescore.operators.pixel import Pixel
from prescore.operators.skew import FourierRollSkew, FourierSkew, OddFrequency, Roll, RollSkew, paper_skews

__all__ = [
    "PCA",
    "Composed",
    "Cosine",
    "Dense",
    "FourierRollSkew",
    "FourierSkew",
    "Frequency",
    "Identity",
    "LinearOperator",
    "OddFrequency",
    "Pixel",
    "Roll",
    "RollSkew",
    "compose",
    "paper_skews",
]
