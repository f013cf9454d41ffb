"""The preconditioners of PDS."""

from prescore.precondition.masks import (
    frequency_preconditioner,
    log_power,
    normalise,
    pixel_preconditioner,
    radial_mask,
    radial_preconditioner,
)
from prescore.precondition.preconditioner import Preconditioner

__all__ = [
    "Preconditioner",
    "frequency_preconditioner",
    "log_power",
    "normalise",
    "pixel_preconditioner",
    "radial_mask",
    "radial_preconditioner",
]
