"""The denoiser contract, its equivalent parameterisations, and wrappers that turn native models into denoisers.

Everything that samples works with one kind of function,

    denoise(x, sigma, **condition) -> x0,    D(x, sigma) = E[x0 | x],    x = x0 + sigma n,    n ~ N(0, I),

where x has shape (B, *event), sigma is 0-d or (B,), and the result has the shape of x. x is *unscaled*: a model that
was trained on x_t = s(t) (x0 + sigma(t) n) is wrapped so that its scale s(t) and its time t stay inside. Conditions
(a class label, a text embedding) are keyword arguments whose names are the model's own.

Networks predict the score, the noise, the velocity or a preconditioned residual instead of x0. All of these are
affine in x0 at fixed x and sigma, so that each is one line away from every other (Tweedie's formula).

    contract     what a sampler has to know about a denoising function
    formulas     the parameterisations, and their sources
    conversions  denoisers made of networks that predict something else
    changes      denoisers made of denoisers: guided, or held in the range of the data
    condition    named tensors beside x and sigma
    calling      how a model is called: precision, device, checks, counting
"""

from prescore.denoiser.calling import Denoise, Evaluator, check_answer, failure_of, given_dtype
from prescore.denoiser.changes import clipped, guided
from prescore.denoiser.condition import check_condition, condition_rows
from prescore.denoiser.contract import Denoiser, check_shape
from prescore.denoiser.conversions import (
    Conversion,
    from_edm,
    from_flow,
    from_noise_prediction,
    from_score,
    from_table,
    from_ve,
    from_velocity,
    from_x0,
)
from prescore.denoiser.formulas import (
    Coefficients,
    denoised_from_edm,
    denoised_from_flow,
    denoised_from_noise,
    denoised_from_score,
    denoised_from_velocity,
    edm_coefficients,
    edm_from_denoised,
    expand,
    noise_from_denoised,
    per_sample,
    score_from_denoised,
    ve_coefficients,
    velocity_from_denoised,
)

__all__ = [
    "Coefficients",
    "Conversion",
    "Denoise",
    "Denoiser",
    "Evaluator",
    "check_answer",
    "check_condition",
    "check_shape",
    "clipped",
    "condition_rows",
    "denoised_from_edm",
    "denoised_from_flow",
    "denoised_from_noise",
    "denoised_from_score",
    "denoised_from_velocity",
    "edm_coefficients",
    "edm_from_denoised",
    "expand",
    "failure_of",
    "from_edm",
    "from_flow",
    "from_noise_prediction",
    "from_score",
    "from_table",
    "from_ve",
    "from_velocity",
    "from_x0",
    "given_dtype",
    "guided",
    "noise_from_denoised",
    "per_sample",
    "score_from_denoised",
    "ve_coefficients",
    "velocity_from_denoised",
]
