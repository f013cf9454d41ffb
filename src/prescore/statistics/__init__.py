"""What is measured of data and of a model of them, and the file that holds it."""

from prescore.statistics.fit import FittedWeights
from prescore.statistics.io import load_statistics, save_statistics
from prescore.statistics.moments import Moments, measure_moments, merge_moments
from prescore.statistics.record import ModelStatistics, Statistics, in_range, merge
from prescore.statistics.score import ScoreStatistics, score_statistics
from prescore.statistics.shrinkage import Shrinkage
from prescore.statistics.steps import StepErrors, Tuning

__all__ = [
    "FittedWeights",
    "ModelStatistics",
    "Moments",
    "ScoreStatistics",
    "Shrinkage",
    "Statistics",
    "StepErrors",
    "Tuning",
    "in_range",
    "load_statistics",
    "measure_moments",
    "merge",
    "merge_moments",
    "save_statistics",
    "score_statistics",
]
