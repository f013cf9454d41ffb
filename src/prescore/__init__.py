"""prescore: sample pretrained score-based and diffusion models in far fewer network calls, without retraining."""

from prescore.checkpoints import load
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.precondition import (
    Gaussian,
    Preconditioner,
    Statistics,
    calibrate,
    cosine_gaussian,
    frequency_gaussian,
    frequency_preconditioner,
    in_range,
    load_statistics,
    pca_gaussian,
    pixel_gaussian,
    pixel_preconditioner,
    radial_preconditioner,
    save_statistics,
    score_statistics,
)
from prescore.samplers import (
    SAMPLERS,
    Progress,
    Sampler,
    auto_grid,
    choose_alpha,
    choose_sampler,
    log_likelihood,
    make_sampler,
    measure_steps,
    sample,
    subspace_sample,
)

__version__ = "0.1.0"

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "Gaussian",
    "Preconditioner",
    "PrescoreError",
    "Progress",
    "Sampler",
    "SamplingError",
    "Statistics",
    "auto_grid",
    "calibrate",
    "choose_alpha",
    "choose_sampler",
    "cosine_gaussian",
    "frequency_gaussian",
    "frequency_preconditioner",
    "in_range",
    "load",
    "load_statistics",
    "log_likelihood",
    "make_sampler",
    "measure_steps",
    "pca_gaussian",
    "pixel_gaussian",
    "pixel_preconditioner",
    "radial_preconditioner",
    "sample",
    "save_statistics",
    "score_statistics",
    "subspace_sample",
]
