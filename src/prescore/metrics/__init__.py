"""Measures of samples: features, their statistics, metrics made of them, and the conditioning of the coordinates."""

from prescore.metrics.conditioning import CONDITIONING, Conditioning, coordinate_range, coordinate_variation
from prescore.metrics.evaluation import METRICS, cautions, evaluate, hold_out, measure, obstacles
from prescore.metrics.extractors import EXTRACTORS, make_features
from prescore.metrics.features import Features, Preprocessing, module_features
from prescore.metrics.frechet import Moments, feature_moments, frechet_distance
from prescore.metrics.inception_score import inception_score
from prescore.metrics.io import load_reference, save_reference
from prescore.metrics.kernel import kernel_distance
from prescore.metrics.neighbours import Neighbours, neighbour_metrics
from prescore.metrics.pixels import PixelMoments, pixel_errors
from prescore.metrics.sets import SetStatistics
from prescore.metrics.sliced import sliced_wasserstein
from prescore.metrics.spectrum import power_spectrum_error, radial_power

__all__ = [
    "CONDITIONING",
    "EXTRACTORS",
    "METRICS",
    "Conditioning",
    "Features",
    "Moments",
    "Neighbours",
    "PixelMoments",
    "Preprocessing",
    "SetStatistics",
    "cautions",
    "coordinate_range",
    "coordinate_variation",
    "evaluate",
    "feature_moments",
    "frechet_distance",
    "hold_out",
    "inception_score",
    "kernel_distance",
    "load_reference",
    "make_features",
    "measure",
    "module_features",
    "neighbour_metrics",
    "obstacles",
    "pixel_errors",
    "power_spectrum_error",
    "radial_power",
    "save_reference",
    "sliced_wasserstein",
]
