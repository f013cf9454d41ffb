"""Schedulers of diffusers, run on a denoiser, a grid and a noise of ours: the peers of the solvers here.

`run` drives a scheduler of the public package diffusers (https://github.com/huggingface/diffusers, 0.42.1) on any
decreasing noise levels. The scheduler's own levels are replaced by these, it steps by index, so that it never looks a
time up, and whatever it draws comes from the caller. Its arithmetic is done in float64: inside a step the name
torch.float32 of its module means torch.float64. Thus a difference to a solver of ours is one of method alone.

Coordinates are unscaled outside, x = x0 + sigma n. Inside, a scheduler has one of two forms:

    VP form   sample = x / sqrt(1 + sigma^2),    model output eps = (x - D) / sigma
    VE form   sample = x,    model output eps; or the network F of EDM, D = c_skip x + c_out F

Schedulers that know nothing but a table of alpha_bar (DDIM, DDPM, PNDM) get one whose entries are the levels
themselves, alpha_bar = 1 / (1 + sigma^2).

Names, and what reproduces a published method (a grid of n levels and a final 0 makes n steps):

    DDIM                  DDIM; eta=1 is ancestral sampling, with noise. Always with clip_sample=False.
    DDPM                  ancestral sampling; variance_type "fixed_small" (default) or "fixed_large". As DDIM.
    PNDM                  F-PNDM with `midpoints` (3 Runge-Kutta steps of 4 calls, then Adams-Bashforth 4);
                          skip_prk_steps=True is the usual PLMS (improved Euler, then orders 2, 3, 4; n + 1 calls).
    DPMSolverMultistep    DPM-Solver++(2M): solver_order=2, solver_type "midpoint"; (3M): solver_order=3;
                          algorithm_type="sde-dpmsolver++" is SDE-DPM-Solver++, order 1 or 2 (order 3 runs too);
                          "dpmsolver" is noise prediction, which cannot end in 0.
                          lower_order_final=True (default) lowers the order at the end if n < 15.
    DPMSolverSinglestep   DPM-Solver++(2S): solver_order=2; (3S): solver_order=3. The levels are the stages: a step of
                          order k uses k of them, whatever their ratios, so that (2S) as published has every second
                          level in the middle of its neighbours in log sigma.
    UniPCMultistep        UniPC: solver_order 1 to 3, solver_type "bh1" or "bh2"; predict_x0=False is noise prediction;
                          disable_corrector=range(n) is UniP.
    DEISMultistep         DEIS with polynomials in log sigma, solver_order 1 to 3.
    SASolver              SA-Solver; predictor_order, corrector_order; tau_func(index of the step) is its stochasticity,
                          by default 1 from step 200 to 800, hence 0 on short grids.
    HeunDiscrete          Heun's method in sigma, EDM's Algorithm 1: 2n - 1 calls.
    EulerDiscrete         Euler's method in sigma (DDIM); s_churn and its like go to its steps.
    EulerAncestralDiscrete  ancestral sampling in the form of k-diffusion, eta = 1.
    LMSDiscrete           Adams-Bashforth of order 4 in sigma with exact weights.
    EDMEuler              EulerDiscrete for EDM networks. Its churn is not Karras' Algorithm 2: the network is called
                          before the noise is added.
    EDMDPMSolverMultistep DPMSolverMultistep for EDM networks; no "sde-dpmsolver++" of order 3.

Facts about this version: algorithm_type="sde-dpmsolver" of order 3 raises UnboundLocalError; the SDE form of
EDMDPMSolverMultistep of order 3 fails on an assertion; on a grid that ends in 0, DEISMultistep, SASolver and
UniPCMultistep with "bh1" return nan (0 times infinity in their last step).
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TABLE = ("DDIM", "DDPM", "PNDM")
VP_FORM = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "SASolver")
VE_FORM = ("HeunDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete")
EDM_FORM = ("EDMEuler", "EDMDPMSolverMultistep")
NAMES = (*TABLE, *VP_FORM, *VE_FORM, *EDM_FORM)


def run(
    name_or_scheduler: Any,
    denoise: Callable[[Tensor, Tensor], Tensor],
    levels: Tensor | Sequence[float],
    x: Tensor,
    noise: Callable[[], Tensor] | None = None,
    *,
    midpoints: Tensor | Sequence[float] | None = None,
    **config: Any,
) -> Tensor:
    """The sample at levels[-1] that a scheduler of diffusers makes of the sample x at levels[0].

    Args:
        name_or_scheduler: one of `NAMES`, or a scheduler object of one of these classes (its levels are replaced).
        denoise: `(x, sigma) -> x0`, called with unscaled float64 x and a 0-d float64 sigma.
        levels: decreasing noise levels, n + 1 of them; the last may be 0.
        x: unscaled, (B, *event).
        noise: the next standard normal draw, (B, *event), each time a step draws.
        midpoints: PNDM alone: the levels at which its first three steps have their Runge-Kutta stages.
        config: arguments of the scheduler's class or of its `step`, such as solver_order or eta.

    Returns:
        Unscaled, float64.

    Raises:
        ValueError: an unknown name, a PNDM without midpoints, or a scheduler that draws without `noise`.
    """
    levels = torch.as_tensor(levels, dtype=torch.float64)
    name, scheduler, options = _make(name_or_scheduler, levels, midpoints, config)
    scale = _ones if name in VE_FORM + EDM_FORM else _vp_scale
    with _patched(scheduler, noise):
        times, nodes = _prepare(name, scheduler, levels, midpoints)
        sample = x.double() * scale(levels[0])
        for time, sigma in zip(times, nodes, strict=True):
            x = sample / scale(sigma)
            output = _model_output(name, scheduler, denoise(x, sigma), x, sigma)
            sample = scheduler.step(output, time, sample, return_dict=False, **options)[0]
    return sample / scale(levels[-1])


def _vp_scale(sigma: Tensor) -> Tensor:
    return (1 + sigma**2).rsqrt()


def _ones(sigma: Tensor) -> Tensor:
    return torch.ones_like(sigma)


def _make(
    name_or_scheduler: Any, levels: Tensor, midpoints: Any, config: dict[str, Any]
) -> tuple[str, Any, dict[str, Any]]:
    """Name, scheduler, and those of the arguments that are its step's."""
    import diffusers

    if not isinstance(name_or_scheduler, str):
        name = type(name_or_scheduler).__name__.removesuffix("Scheduler")
    else:
        name = name_or_scheduler
    if name not in NAMES:
        raise ValueError(f"{name}: not one of {', '.join(NAMES)}")
    cls = getattr(diffusers, name + "Scheduler")
    of_step = {key: config[key] for key in inspect.signature(cls.step).parameters if key in config}
    of_class = {key: value for key, value in config.items() if key not in of_step}
    fixed: dict[str, Any] = {}
    if name in ("DDIM", "DDPM"):
        fixed = {"clip_sample": False, "num_train_timesteps": len(_table(levels))}
    elif name == "PNDM":
        fixed = {"num_train_timesteps": 2 * (len(levels) - 1)}
        if midpoints is None and not config.get("skip_prk_steps"):
            raise ValueError("midpoints: PNDM needs three levels for its Runge-Kutta steps, or skip_prk_steps=True")
    elif "final_sigmas_type" in inspect.signature(cls).parameters:
        fixed = {"final_sigmas_type": "zero" if levels[-1] == 0 else "sigma_min"}
    if isinstance(name_or_scheduler, str):
        return name, cls(**fixed, **of_class), of_step
    scheduler = name_or_scheduler
    scheduler.register_to_config(**fixed, **of_class)
    return name, scheduler, of_step


def _prepare(name: str, scheduler: Any, levels: Tensor, midpoints: Any) -> tuple[list[Any], Tensor]:
    """Give the scheduler its levels. Returns the time and the level of each call of the model."""
    n = len(levels) - 1
    if name in TABLE:
        return _prepare_table(name, scheduler, levels, midpoints)
    scheduler.set_timesteps(n)
    scheduler.sigmas, calls = levels, n
    if name == "HeunDiscrete":
        scheduler.sigmas = levels.repeat_interleave(2)[1:]
        calls = 2 * n - 1 if levels[-1] == 0 else 2 * n
    scheduler.timesteps = torch.arange(calls, dtype=torch.float64)
    scheduler.set_begin_index(0)
    scheduler.is_scale_input_called = True
    return scheduler.timesteps.tolist(), scheduler.sigmas[:calls]


def _prepare_table(name: str, scheduler: Any, levels: Tensor, midpoints: Any) -> tuple[list[Any], Tensor]:
    n = len(levels) - 1
    if name == "PNDM":
        # Time 2 j is levels[n - 1 - j]; the odd time between two of them is the midpoint, where one is needed.
        table = levels[:-1].flip(0).repeat_interleave(2)
        for i, sigma in enumerate(() if midpoints is None else midpoints):
            table[2 * (n - i) - 3] = sigma
        scheduler.set_timesteps(n)
    else:
        table = _table(levels)
        scheduler.set_timesteps(len(table))
        scheduler.timesteps = scheduler.timesteps[:n]
    scheduler.alphas_cumprod = 1 / (1 + table**2)
    scheduler.final_alpha_cumprod = scheduler.one = 1 / (1 + levels[-1] ** 2)
    times = scheduler.timesteps.tolist()
    return times, table[times]


def _table(levels: Tensor) -> Tensor:
    """Increasing. It holds the last level only if that is positive: DDPM adds no noise in the step from time 0."""
    return (levels if levels[-1] > 0 else levels[:-1]).flip(0)


def _model_output(name: str, scheduler: Any, denoised: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """What the scheduler takes for the output of the network."""
    if name in EDM_FORM:
        data = scheduler.config.sigma_data
        total = sigma**2 + data**2
        return (denoised - data**2 / total * x) / (sigma * data / total.sqrt())
    return (x - denoised) / sigma


class _Double:
    """The module torch, except that its float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def _patched(scheduler: Any, noise: Callable[[], Tensor] | None) -> Iterator[None]:
    """The scheduler's module with our draws and in float64."""
    module = sys.modules[type(scheduler).__module__]
    saved = {key: vars(module)[key] for key in ("torch", "randn_tensor") if key in vars(module)}

    def draw(*args: Any, **kwargs: Any) -> Tensor:
        if noise is None:
            raise ValueError(f"noise: {type(scheduler).__name__} draws random numbers; say where they come from")
        return noise().double()

    try:
        for key, value in {"torch": _Double(), "randn_tensor": draw}.items():
            if key in saved:
                setattr(module, key, value)
        yield
    finally:
        for key, value in saved.items():
            setattr(module, key, value)
