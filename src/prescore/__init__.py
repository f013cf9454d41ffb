"""prescore: sample pretrained score-based and diffusion models in far fewer network calls, without retraining."""

# ruff: noqa: E402 - first of all this: what follows takes seconds
from prescore.interrupts import quiet_start

quiet_start()

from prescore.calibration import calibrate, calibrate_model
from prescore.checkpoints import load
from prescore.comparison import compare, evaluate
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.film import Film, save_films, trace
from prescore.gaussian import Gaussian, cosine_gaussian, frequency_gaussian, pca_gaussian, pixel_gaussian
from prescore.output.drawing import Written, fitting_batch, write_samples
from prescore.plan import Plan, draw, plan
from prescore.precondition import (
    Preconditioner,
    frequency_preconditioner,
    load_mask,
    pixel_preconditioner,
    radial_preconditioner,
)
from prescore.presets import PRESETS
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
from prescore.statistics import Statistics, in_range, load_statistics, save_statistics, score_statistics
from prescore.version import __version__

__all__ = [
    "PRESETS",
    "SAMPLERS",
    "Denoiser",
    "Film",
    "Gaussian",
    "Plan",
    "Preconditioner",
    "PrescoreError",
    "Progress",
    "Sampler",
    "SamplingError",
    "Statistics",
    "Written",
    "__version__",
    "auto_grid",
    "calibrate",
    "calibrate_model",
    "choose_alpha",
    "choose_sampler",
    "compare",
    "cosine_gaussian",
    "draw",
    "evaluate",
    "fitting_batch",
    "frequency_gaussian",
    "frequency_preconditioner",
    "in_range",
    "load",
    "load_mask",
    "load_statistics",
    "log_likelihood",
    "make_sampler",
    "measure_steps",
    "pca_gaussian",
    "pixel_gaussian",
    "pixel_preconditioner",
    "plan",
    "radial_preconditioner",
    "sample",
    "save_films",
    "save_statistics",
    "score_statistics",
    "subspace_sample",
    "trace",
    "write_samples",
]
