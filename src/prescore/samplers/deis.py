"""DEIS: exponential integrators with a polynomial for the predicted noise.

In unscaled coordinates the probability-flow ODE is dx / dsigma = eps(x, sigma) = (x - D(x, sigma)) / sigma: it is
solved exactly but for the integral of eps. With rho = sigma (the paper's rescaled time) this is the paper's eq. 11.

`DEIS` is its Adams-Bashforth form. eps is replaced by the polynomial of degree q through its last q + 1 values, in a
variable v that is a function of sigma, and integrated exactly:

    x_t = x_s + sum_j C_j eps_j,    C_j = integral from sigma_s to sigma_t of L_j(v(sigma)) dsigma,

L_j the Lagrange polynomials in v on the last q + 1 levels. q = 0 is DDIM, whatever v.

    v = t, the time of a schedule    tAB-DEIS
    v = rho = sigma                  rhoAB-DEIS
    v = log sigma                    what diffusers calls DEIS

The first steps have fewer values behind them. As published, they use a lower degree; the error of the first of them,
h^2, then limits the order of the whole to 2 for every q >= 1 (fitted: 2.0 for q = 1, 2 and 3 on all grids tried).
With `warmup="runge-kutta"` the first q steps are those of the classical Runge-Kutta method in rho, at 4 calls each,
and the order is q + 1.

`RungeKuttaDEIS` integrates the same ODE by a Runge-Kutta method in rho: rho2Heun, rho3Kutta, rho4RK. rho2Heun is the
second-order method of EDM without churn.

A step to sigma = 0 keeps the polynomial where v is finite (t and rho); in log sigma, and where a stage of a
Runge-Kutta method would lie at 0, it is the step of DDIM, which ends at D(x, sigma).

The integrals are Gauss-Legendre sums of 64 points in log sigma (in sigma for a step to 0), in float64.

Source: Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", ICLR 2023,
https://arxiv.org/abs/2204.13902: eq. 13-15 (tAB), section 4 and Table 2 (rhoRK, rhoAB), H.3 (time steps).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.grid import append_zero, karras
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler
from prescore.schedule import EDM, VP, Cosine, GeometricVE, Schedule, VariancePreserving

CLOCKS = ("linear", "cosine", "rho", "log-rho")
WARMUPS = ("lower", "runge-kutta")


def clock(variable: Schedule | str, levels: Tensor) -> Schedule:
    """The schedule whose time is meant by a word in `CLOCKS`, over the range of the positive levels.

    "linear" is `VP.between` the lowest and the highest of them.
    """
    if isinstance(variable, Schedule):
        return variable
    if variable == "linear":
        low, high = levels[levels > 0].aminmax()
        return VP.between(low.item(), high.item())
    return {"cosine": Cosine(), "rho": EDM(), "log-rho": GeometricVE()}[variable]


def check_steps(levels: Tensor, least: int, what: str) -> None:
    """Raise PrescoreError if the levels make fewer than `least` steps."""
    if len(levels) - 1 < least:
        raise PrescoreError(f"steps: {len(levels) - 1} given, but {what} needs at least {least}")


def power_levels(schedule: Schedule, steps: int, sigma_min: float, sigma_max: float, power: float) -> Tensor:
    """sigma(t) at `steps` times from t(sigma_max) to t(sigma_min), uniform in t^(1/power), and then 0."""
    high, low = schedule.t(sigma_max) ** (1 / power), schedule.t(sigma_min) ** (1 / power)
    return append_zero(schedule.sigma((high + torch.linspace(0, 1, steps, dtype=high.dtype) * (low - high)) ** power))


@cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """64 points and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(64)
    return torch.from_numpy((1 + points) / 2), torch.from_numpy(weights / 2)


def lagrange_integrals(time: Schedule, nodes: Tensor, s: Tensor, t: Tensor, power: int = 0) -> Tensor:
    """Integrals from s to t of sigma^power L_j(time(sigma)) dsigma, j = 0..k-1, for n intervals at once, (n, k).

    Args:
        time: v(sigma) is its time.
        nodes: (n, k) levels at which the polynomials L_j are 1 or 0.
        s, t: levels, (n,), s > t; t = 0 is allowed if power >= 0.
    """
    points, weights = _gauss_legendre()
    s, ratio = s[:, None], (t / s)[:, None].log()
    sigma = torch.where(ratio.isinf(), s * (1 - points), s * torch.exp(points * ratio))
    weights = torch.where(ratio.isinf(), -weights * s, weights * ratio * sigma)
    v, v_nodes = time.t(sigma)[:, None, None], time.t(nodes)[..., None]
    itself = torch.eye(nodes.shape[1], dtype=torch.bool)[..., None]
    factors = (v - v_nodes[:, :, None]) / (v_nodes[:, None] - v_nodes[:, :, None])
    L = torch.where(itself, 1.0, factors).prod(1)
    return ((weights * sigma**power)[:, None] * L).sum(-1)


def multistep_integrals(
    time: Schedule, levels: Tensor, counts: Sequence[int], power: int = 0, ahead: bool = False
) -> list[list[float]]:
    """`lagrange_integrals` over every step, with the counts[i] newest levels known in step i as its nodes.

    The newest node is the level at which the step starts or, with `ahead`, one more: that at which it ends.
    """
    integrals: list[list[float]] = [[] for _ in counts]
    for count in set(counts):
        i = torch.tensor([i for i, other in enumerate(counts) if other == count])
        nodes = levels[i[:, None] + ahead - torch.arange(count + ahead)]
        rows = lagrange_integrals(time, nodes, levels[i], levels[i + 1], power).tolist()
        for step, row in zip(i.tolist(), rows, strict=True):
            integrals[step] = row
    return integrals


class Tableau(NamedTuple):
    """A Runge-Kutta method: the places c of its stages in a step, and one row of weights, of sum 1, for each stage
    after the first and for the end: x_i = x + (sigma_i - sigma_1) sum_j a_ij eps_j."""

    order: int
    c: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]


TABLEAUX: Mapping[str, Tableau] = {
    "midpoint": Tableau(2, (0, 1 / 2), ((1,), (0, 1))),
    "2heun": Tableau(2, (0, 1), ((1,), (1 / 2, 1 / 2))),
    "3kutta": Tableau(3, (0, 1 / 2, 1), ((1,), (-1, 2), (1 / 6, 2 / 3, 1 / 6))),
    "4rk": Tableau(4, (0, 1 / 2, 1 / 2, 1), ((1,), (0, 1), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}


def predicted_noise(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """eps = (x - D(x, sigma)) / sigma."""
    return (x - denoise(x, sigma)).div_(sigma)


def combine(x: Tensor, weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """x + sum_j weights_j values_j."""
    for weight, value in zip(weights, values, strict=True):
        if weight:
            x = torch.add(x, value, alpha=weight)
    return x


def runge_kutta(denoise: Denoise, x: Tensor, rows: Sequence[Sequence[float]], sigmas: Sequence[Tensor]) -> list[Tensor]:
    """A Runge-Kutta step with its stages at sigmas[:-1], to sigmas[-1]: the state there, and eps of the first stage."""
    eps: list[Tensor] = []
    y = x
    for row, here, there in zip(rows, sigmas[:-1], sigmas[1:], strict=True):
        eps.append(predicted_noise(denoise, y, here))
        y = combine(x, [(there - sigmas[0]).item() * a for a in row], eps)
    return [y, eps[0]]


def classical_step(denoise: Denoise, x: Tensor, sigmas: Sequence[Tensor]) -> list[Tensor]:
    """The classical Runge-Kutta step from sigmas[0] by sigmas[1], its midpoint, to sigmas[2]; see `runge_kutta`."""
    s, middle, t = sigmas
    return runge_kutta(denoise, x, TABLEAUX["4rk"].rows, [s, middle, middle, t, t])


class History(NamedTuple):
    """Weights of every step, how many steps are done, and the last values of eps, newest first."""

    weights: Sequence[Sequence[float]]
    done: int
    eps: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class DEIS(Sampler):
    """x_t = x_s + sum_j C_j eps_j: Adams-Bashforth of degree q in the variable v.

    Args:
        degree: q, 0 to 3 in the paper; the order is q + 1.
        variable: v: "linear" or "cosine", the time t of the schedule of linear betas (fitted to the range of the
            levels) or of the cosine schedule, which make tAB; "rho", which makes rhoAB; "log-rho"; or a Schedule,
            whose time is taken.
        warmup: the first q steps: "lower" degrees, as published, or "runge-kutta", 4 calls each.

    The usual levels are uniform in sqrt(t) for t of a variance-preserving schedule, else uniform in sigma^(1/7).

    Raises:
        PrescoreError: a degree outside 0 to 3, or an unknown word.
    """

    degree: int = 3
    variable: Schedule | str = "linear"
    warmup: str = "lower"

    family: ClassVar[str] = "DEIS"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"variable": CLOCKS, "warmup": WARMUPS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degree not in range(4):
            raise PrescoreError(f"degree: {self.degree!r} is not one of 0, 1, 2, 3; the order is degree + 1")

    @property
    def order(self) -> int:
        return self.degree + 1 if self.warmup == "runge-kutta" else min(self.degree + 1, 2)

    @property
    def stochastic(self) -> bool:
        return False

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        return steps + (3 * self.degree if self.warmup == "runge-kutta" else 0)

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        time = clock(self.variable, torch.tensor([sigma_max, sigma_min], dtype=torch.float64))
        if isinstance(time, VariancePreserving):
            return power_levels(time, steps, sigma_min, sigma_max, 2)
        return karras(steps, sigma_min, sigma_max, final_zero=True)

    def unused(self, levels: Tensor) -> dict[str, str]:
        idle = {"warmup": "degree = 0"} if self.degree == 0 else {}
        return idle | ({"variable": "degree = 0 and levels that are given"} if idle and self.grid is not None else {})

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        check_steps(levels, self.degree + 1, f"degree {self.degree}")

    def start(self, levels: Tensor) -> History:
        levels = levels.cpu()
        counts = [min(i, self.degree) + 1 for i in range(len(levels) - 1)]
        time = clock(self.variable, levels) if self.degree else EDM()
        if levels[-1] == 0 and time.t(0.0).isneginf():
            counts[-1] = 1
        return History(multistep_integrals(time, levels, counts), 0, ())

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: History, noise: NoiseSource
    ) -> tuple[Tensor, History]:
        weights, done, past = state
        if self.warmup == "runge-kutta" and done < self.degree:
            x, eps = classical_step(denoise, x, [sigma, (sigma + sigma_next) / 2, sigma_next])
            past = (eps, *past)
        else:
            past = (predicted_noise(denoise, x, sigma), *past)
            x = combine(x, weights[done], past[: len(weights[done])])
        return x, History(weights, done + 1, past[: self.degree])


@dataclass(frozen=True, kw_only=True, eq=False)
class RungeKuttaDEIS(Sampler):
    """dx / dsigma = eps by a Runge-Kutta method in rho = sigma.

    Args:
        method: "midpoint", "2heun", "3kutta" (Kutta's third-order method) or "4rk" (the classical one).

    Raises:
        PrescoreError: an unknown method.
    """

    method: str = "3kutta"

    family: ClassVar[str] = "DEIS"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"method": tuple(TABLEAUX)}

    @property
    def tableau(self) -> Tableau:
        return TABLEAUX[self.method]

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def stochastic(self) -> bool:
        return False

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        stages = len(self.tableau.c)
        return stages * steps - (stages - 1 if final_zero and 1 in self.tableau.c else 0)

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        return karras(steps, sigma_min, sigma_max, final_zero=True)

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: None, noise: NoiseSource
    ) -> tuple[Tensor, None]:
        _, c, rows = self.tableau
        if sigma_next == 0 and 1 in c:
            return denoise(x, sigma), state
        stages = [torch.lerp(sigma, sigma_next, place) for place in c]
        return runge_kutta(denoise, x, rows, [*stages, sigma_next])[0], state
