"""Measures of samples: power spectra and the conditioning of the coordinates."""

from prescore.metrics.conditioning import Conditioning, coordinate_range, coordinate_variation
from prescore.metrics.spectrum import power_spectrum_error, radial_power

__all__ = [
    "Conditioning",
    "coordinate_range",
    "coordinate_variation",
    "power_spectrum_error",
    "radial_power",
]
