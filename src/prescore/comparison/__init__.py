"""Samples beside true ones, and samplers beside each other: what `prescore evaluate` and `prescore compare` decide."""

from prescore.comparison.compare import Compared, ComparedRun, compare
from prescore.comparison.evaluate import Evaluation, evaluate

__all__ = ["Compared", "ComparedRun", "Evaluation", "compare", "evaluate"]
