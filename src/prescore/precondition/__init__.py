"""The preconditioners of PDS."""

from prescore.precondition.masks import (
    PIXEL_MASKS,
    frequency_preconditioner,
    log_power,
    mean_preconditioner,
    normalise,
    pixel_preconditioner,
    radial_mask,
    radial_preconditioner,
)
from prescore.precondition.preconditioner import Preconditioner

__all__ = [
    "PIXEL_MASKS",
    "Preconditioner",
    "frequency_preconditioner",
    "log_power",
    "mean_preconditioner",
    "normalise",
    "pixel_preconditioner",
    "radial_mask",
    "radial_preconditioner",
]
