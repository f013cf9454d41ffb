"""Measures of samples: features, Frechet distance, power spectra and the conditioning of the coordinates."""

from prescore.metrics.conditioning import Conditioning, coordinate_range, coordinate_variation
from prescore.metrics.features import EXTRACTORS, Features, Preprocessing, make_features, module_features
from prescore.metrics.frechet import Moments, feature_moments, frechet_distance
from prescore.metrics.spectrum import power_spectrum_error, radial_power

__all__ = [
    "EXTRACTORS",
    "Conditioning",
    "Features",
    "Moments",
    "Preprocessing",
    "coordinate_range",
    "coordinate_variation",
    "feature_moments",
    "frechet_distance",
    "make_features",
    "module_features",
    "power_spectrum_error",
    "radial_power",
]
