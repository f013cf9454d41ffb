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
from prescore.precondition.published import PublishedMask, is_mask, load_mask

__all__ = [
    "PIXEL_MASKS",
    "Preconditioner",
    "PublishedMask",
    "frequency_preconditioner",
    "is_mask",
    "load_mask",
    "log_power",
    "mean_preconditioner",
    "normalise",
    "pixel_preconditioner",
    "radial_mask",
    "radial_preconditioner",
]
