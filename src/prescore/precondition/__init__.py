"""Preconditioners, and the statistics of data that they are built from."""

from prescore.precondition.gaussian import (
    Gaussian,
    cosine_gaussian,
    frequency_gaussian,
    gaussian,
    pca_gaussian,
    pixel_gaussian,
)
from prescore.precondition.io import load_statistics, save_statistics
from prescore.precondition.masks import (
    frequency_preconditioner,
    log_power,
    normalise,
    pixel_preconditioner,
    radial_mask,
    radial_preconditioner,
)
from prescore.precondition.preconditioner import Preconditioner
from prescore.precondition.score import ScoreStatistics, score_statistics
from prescore.precondition.statistics import Statistics, calibrate, in_range, merge
from prescore.precondition.steps import StepErrors

__all__ = [
    "Gaussian",
    "Preconditioner",
    "ScoreStatistics",
    "Statistics",
    "StepErrors",
    "calibrate",
    "cosine_gaussian",
    "frequency_gaussian",
    "frequency_preconditioner",
    "gaussian",
    "in_range",
    "load_statistics",
    "log_power",
    "merge",
    "normalise",
    "pca_gaussian",
    "pixel_gaussian",
    "pixel_preconditioner",
    "radial_mask",
    "radial_preconditioner",
    "save_statistics",
    "score_statistics",
]
