"""What the schedulers of Hugging Face diffusers say about a network: what it predicts, of what, and at which time.

Every solver that shares a forward process says the same about it, so that they fall in six kinds:

    scheduler              network's x         its time        its prediction -> name in `models.precond`
    DDPM, DDIM, PNDM, ..   alpha x             j               epsilon -> noise, v_prediction -> velocity, sample
    EDMEuler, EDMDPM..     x/sqrt(u + sd^2)    ln(sigma) / 4   epsilon -> edm; v_prediction -> edm of -F
    ScoreSdeVe             x                   sigma           score
    KarrasVe               (x + 1) / 2         sigma / 2       score, in units of [0, 1]
    ScoreSdeVp             exp(-B(t) / 2) x    999 t           noise
    FlowMatch..            x / (1 + sigma)     1000 t          flow, t = sigma / (1 + sigma)

with u = sigma^2, alpha = 1 / sqrt(1 + u), B the integral of beta, alpha_bar_j = prod (1 - beta_i) and the levels
sigma_j = sqrt(1 / alpha_bar_j - 1). Their table is computed here from the betas in float64; that of diffusers is in
float32, which moves sigma_0 by up to 3e-4 of itself. Between its entries j is a fraction, linear in ln sigma
(`Tabulated`); it is rounded for networks that look it up in a table of their own (`time_embedding_type` "learned").
With `rescale_betas_zero_snr` the last level is infinite: no x = x0 + sigma n has it, and the table ends one entry
earlier.

What a solver does with the prediction is no property of the model: D is not clipped, whatever `clip_sample` and
`thresholding` say (runs of diffusers with the usual `clip_sample` therefore differ), and the solver's choice of steps
is not used. Data lie in [-1, 1], except where the scheduler's own pipeline takes them as [0, 1] (ScoreSdeVe, KarrasVe).

Sources: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0): the configuration and `step` of each
scheduler. Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2024,
https://arxiv.org/abs/2305.08891, Algorithm 1 (zero terminal SNR).
"""

import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prescore.checkpoints.arguments import is_of, shorten
from prescore.checkpoints.stored import MAX_TABLE
from prescore.errors import PrescoreError, check_choice
from prescore.schedule import VP, RectifiedFlow, Schedule, Tabulated

SCHEDULER = "scheduler_config.json"
# Default beta_start and beta_end of the schedulers over a table of betas; configurations may leave defaults out.
DDPM_BETAS, LATENT_BETAS = (1e-4, 0.02), (0.00085, 0.012)
TABULATED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "DDPMScheduler": DDPM_BETAS,
        "DDPMParallelScheduler": DDPM_BETAS,
        "DDIMScheduler": DDPM_BETAS,
        "DDIMParallelScheduler": DDPM_BETAS,
        "DDIMInverseScheduler": DDPM_BETAS,
        "PNDMScheduler": DDPM_BETAS,
        "RePaintScheduler": DDPM_BETAS,
        "DEISMultistepScheduler": DDPM_BETAS,
        "DPMSolverMultistepScheduler": DDPM_BETAS,
        "DPMSolverMultistepInverseScheduler": DDPM_BETAS,
        "DPMSolverSinglestepScheduler": DDPM_BETAS,
        "DPMSolverSDEScheduler": LATENT_BETAS,
        "UniPCMultistepScheduler": DDPM_BETAS,
        "SASolverScheduler": DDPM_BETAS,
        "EulerDiscreteScheduler": DDPM_BETAS,
        "EulerAncestralDiscreteScheduler": DDPM_BETAS,
        "LMSDiscreteScheduler": DDPM_BETAS,
        "HeunDiscreteScheduler": LATENT_BETAS,
        "KDPM2DiscreteScheduler": LATENT_BETAS,
        "KDPM2AncestralDiscreteScheduler": LATENT_BETAS,
    }
)
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "sample", "original_sample": "sample"}

Config = dict[str, Any]


class Meaning(NamedTuple):
    """What a scheduler says about a network: the part of a `ModelDescription` that depends on it.

    `levels` is the table of noise levels, if there is one; `negated` says that the network predicts -F.
    """

    preconditioning: str
    arguments: dict[str, Any]
    sigma_min: float
    sigma_max: float
    levels: Tensor | None = None
    negated: bool = False
    data_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def schedule(self) -> Schedule | None:
        """That of the network's x and time, where it is given these."""
        if self.levels is not None:
            return Tabulated(self.levels)
        if self.preconditioning == "flow":
            return RectifiedFlow()
        named = {name: value for name, value in self.arguments.get("schedule", {}).items() if name != "kind"}
        return VP(**named) if named else None


def scheduler_meaning(scheduler: Config, arguments: Mapping[str, Any]) -> Meaning:
    """What a scheduler's configuration says about a network with these arguments.

    Raises:
        PrescoreError: it is not one of the kinds above, or an entry is not valid.
    """
    name = scheduler.get("_class_name")
    if not isinstance(name, str):
        raise PrescoreError(f"{SCHEDULER}: it has no _class_name")
    is_flow = scheduler.get("use_flow_sigmas") or scheduler.get("prediction_type") == "flow_prediction"
    if name in FLOW or is_flow:
        return _flow(scheduler)
    if name in TABULATED and not _is_continuous(scheduler):
        return _tabulated(scheduler, *TABULATED[name], is_learned=arguments["time_embedding_type"] == "learned")
    if name in EDM or name in TABULATED:
        return _edm(scheduler)
    if name == "ScoreSdeVeScheduler":
        low, high = _range(scheduler, 0.01, 1348.0)
        return Meaning("score", {}, low, high, data_range=(0.0, 1.0))
    if name == "KarrasVeScheduler":
        low, high = _range(scheduler, 0.02, 100.0)
        return Meaning("score", {}, low / 2, high / 2, data_range=(0.0, 1.0))
    if name == "ScoreSdeVpScheduler":
        return _score_sde_vp(scheduler)
    raise PrescoreError(
        f"{SCHEDULER}: what a network predicts under {shorten(name)} is not known here; known are the schedulers over "
        "a table of betas (DDPM, DDIM, Euler, DPMSolver, UniPC, ...), FlowMatch, EDM, ScoreSdeVe, ScoreSdeVp, KarrasVe"
    )


def _is_continuous(scheduler: Config) -> bool:
    """The Euler solver's form of EDM: v-prediction at the time ln(sigma) / 4."""
    return scheduler.get("timestep_type") == "continuous" and scheduler.get("prediction_type") == "v_prediction"


def _tabulated(scheduler: Config, beta_start: float, beta_end: float, is_learned: bool) -> Meaning:
    prediction = _choice(scheduler, "prediction_type", "epsilon", PREDICTIONS)
    if scheduler.get("predict_epsilon") is False:  # the name of the choice before there were three
        prediction = "sample"
    levels = _levels(scheduler, beta_start, beta_end)
    arguments = {"schedule": {"kind": "tabulated"}, "time_scale": 1.0, "integer_time": is_learned}
    return Meaning(PREDICTIONS[prediction], arguments, levels[0].item(), levels[-1].item(), levels)


def _levels(scheduler: Config, beta_start: float, beta_end: float) -> Tensor:
    """sigma_j of the configuration's betas, float64, increasing."""
    betas = _betas(scheduler, beta_start, beta_end)
    if not ((betas > 0) & (betas < 1)).all():
        raise PrescoreError(f"{SCHEDULER}: its betas are not all between 0 and 1")
    levels = Tabulated.from_betas(betas).levels
    if not scheduler.get("rescale_betas_zero_snr"):
        return levels
    alpha = (1 + levels**2).rsqrt()
    rescaled = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return Tabulated.from_alphas_cumprod(rescaled[:-1] ** 2).levels


def _betas(scheduler: Config, beta_start: float, beta_end: float) -> Tensor:
    trained = scheduler.get("trained_betas")
    if trained is not None:
        if not is_of(trained, list[float], MAX_TABLE) or len(trained) < 2:
            raise PrescoreError(f"{SCHEDULER}: trained_betas is not a list of 2 to {MAX_TABLE} numbers")
        return torch.tensor(trained, dtype=torch.float64)
    steps = scheduler.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= MAX_TABLE:
        raise PrescoreError(
            f"{SCHEDULER}: num_train_timesteps = {shorten(steps)} is not a number from 2 to {MAX_TABLE}"
        )
    start, end = _number(scheduler, "beta_start", beta_start), _number(scheduler, "beta_end", beta_end)
    kinds: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: _ramp(start, end, steps),
        "scaled_linear": lambda: _ramp(start**0.5, end**0.5, steps) ** 2,
        "sigmoid": lambda: torch.sigmoid(_ramp(-6, 6, steps)) * (end - start) + start,
        "squaredcos_cap_v2": lambda: _betas_of(_cosine, steps),
        "laplace": lambda: _betas_of(_laplace, steps),
        "exp": lambda: _betas_of(lambda t: torch.exp(-12 * t), steps),
    }
    return kinds[_choice(scheduler, "beta_schedule", "linear", kinds)]()


def _ramp(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _betas_of(alpha_bar: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """beta_j = 1 - alpha_bar(t_{j+1}) / alpha_bar(t_j), at most 0.999, t_j = j / steps."""
    values = alpha_bar(_ramp(0, 1, steps + 1))
    return (1 - values[1:] / values[:-1]).clamp(max=0.999)


def _cosine(t: Tensor) -> Tensor:
    return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: Tensor) -> Tensor:
    """The square root of snr / (1 + snr): diffusers calls it alpha_bar, and so it is what the betas come from."""
    away = t - 0.5
    log_snr = 0.5 * away.sign() * torch.log(1 - 2 * away.abs() + 1e-6)
    return torch.sigmoid(log_snr).sqrt()


def _edm(scheduler: Config) -> Meaning:
    """EDM's own schedulers, and Euler's continuous v-prediction, which is that of sigma_data = 1."""
    is_euler = scheduler["_class_name"] not in EDM
    prediction = _choice(scheduler, "prediction_type", "epsilon", ("epsilon", "v_prediction"))
    sigma_data = 1.0 if is_euler else _number(scheduler, "sigma_data", 0.5)
    low, high = _range(scheduler, 0.002, 80.0)
    return Meaning("edm", {"sigma_data": sigma_data}, low, high, negated=prediction == "v_prediction")


def _flow(scheduler: Config) -> Meaning:
    """The shift spreads the levels of a solver, and says how far down they go; the network's time is t itself."""
    steps = _number(scheduler, "num_train_timesteps", 1000.0)
    shift = _number(scheduler, "shift", _number(scheduler, "flow_shift", 1.0))
    schedule = RectifiedFlow(shift, t_min=1 / steps)
    return Meaning("flow", {"time_scale": steps}, schedule.sigma_min, schedule.sigma_max)


def _score_sde_vp(scheduler: Config) -> Meaning:
    beta_min, beta_max = _number(scheduler, "beta_min", 0.1), _number(scheduler, "beta_max", 20.0)
    schedule = VP(beta_max - beta_min, beta_min, _number(scheduler, "sampling_eps", 1e-3))
    arguments = {
        "schedule": {"kind": "vp", "beta_d": schedule.beta_d, "beta_min": schedule.beta_min},
        "time_scale": 999.0,
        "integer_time": False,
    }
    return Meaning("noise", arguments, schedule.sigma_min, schedule.sigma_max)


def _range(scheduler: Config, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    return _number(scheduler, "sigma_min", sigma_min), _number(scheduler, "sigma_max", sigma_max)


def _choice(config: Config, name: str, default: str, choices: Collection[str]) -> str:
    """One of some words in a scheduler's configuration."""
    value = config.get(name, default)
    check_choice(f"{SCHEDULER}: {name}", value if is_of(value, str) else shorten(value), choices)
    return value


def _number(config: Config, name: str, default: float) -> float:
    """A positive number of a scheduler's configuration; null is the default."""
    value = config.get(name)
    value = default if value is None else value
    if not is_of(value, float) or value <= 0:
        raise PrescoreError(f"{SCHEDULER}: {name} = {shorten(value)} is not a positive number")
    return float(value)
