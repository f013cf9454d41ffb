"""prescore: sample pretrained score-based and diffusion models in far fewer network calls, without retraining."""

from prescore.checkpoints import load
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.precondition import (
    Preconditioner,
    Statistics,
    calibrate,
    frequency_preconditioner,
    load_statistics,
    pixel_preconditioner,
    radial_preconditioner,
    save_statistics,
)
from prescore.samplers import SAMPLERS, Progress, Sampler, make_sampler, sample

__version__ = "0.1.0"

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "Preconditioner",
    "PrescoreError",
    "Progress",
    "Sampler",
    "SamplingError",
    "Statistics",
    "calibrate",
    "frequency_preconditioner",
    "load",
    "load_statistics",
    "make_sampler",
    "pixel_preconditioner",
    "radial_preconditioner",
    "sample",
    "save_statistics",
]
