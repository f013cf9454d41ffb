"""Linear operators: pixel, frequency, dense, PCA, their products, and skew-symmetric ones."""

from prescore.operators.base import Identity, LinearOperator
from prescore.operators.composed import Composed, compose
from prescore.operators.frequency import Frequency
from prescore.operators.pixel import Pixel

__all__ = ["Composed", "Frequency", "Identity", "LinearOperator", "Pixel", "compose"]
