"""Measures of samples: Frechet distance, power spectra and the conditioning of the coordinates."""

from prescore.metrics.conditioning import Conditioning, coordinate_range, coordinate_variation
from prescore.metrics.frechet import Moments, feature_moments, frechet_distance
from prescore.metrics.spectrum import power_spectrum_error, radial_power

__all__ = [
    "Conditioning",
    "Moments",
    "coordinate_range",
    "coordinate_variation",
    "feature_moments",
    "frechet_distance",
    "power_spectrum_error",
    "radial_power",
]
