"""Published methods that are neither samplers of prescore nor schedulers of diffusers, each from its paper.

    dpm_solver_v3   Zheng, Lu, Chen and Zhu, "DPM-Solver-v3: Improved diffusion ODE solver with empirical model
                    statistics", NeurIPS 2023, https://arxiv.org/abs/2310.13268
    er_sde          Cui et al., "Elucidating the solution space of extended reverse-time SDE for diffusion models",
                    https://arxiv.org/abs/2309.06169
    gits_levels     Chen et al., "On the trajectory regularity of ODE-based diffusion sampling", ICML 2024,
                    https://arxiv.org/abs/2405.11326

Coordinates are unscaled, x = x0 + sigma n, and lam = -log sigma; so the probability flow is dx / dlam = D - x. A run
goes over decreasing noise levels to 0 and calls the network at each of them but 0.

DPM-Solver-v3 writes the flow as dx / dlam = -(l x + f) with a number l for each coordinate and level, for which f
depends on x as little as can be, and then solves f' = s f + b exactly as well. From K states of the model's own flow at
each of N levels, uniform in lam, the recipe of the paper takes (element by element, J the Jacobian matrix of D, ' along
the flow)

    l = 1 - mean diag J,    s = cov(f', f) / var f,    b = mean f' - s mean f.

Here diag J is estimated by v (D(x + h v) - D(x)) / h with random signs v, and f' by central differences in lam. What is
left of f' - s f - b is taken for a polynomial in lam through the last values.

ER-SDE-Solvers are stochastic with any function phi of sigma that is 0 at 0 for the noise; phi = sigma is the flow
itself. ER-SDE-3 has a Taylor expansion of D up to the second derivative. Since its first derivative is a difference to
the last value, the error of a step is of the third power, and the order 2 (in the authors' code too). The integrals
that the authors sum over a hundred points are Gauss-Legendre sums here.

GITS chooses T + 1 of some levels of a run in many steps, so that what Euler steps from the states of that run do wrong
has the least sum. The error of a step is how much farther its end lies from the straight line between both ends of the
trajectory than the state of the trajectory does. Errors that are made later count `coefficient` times more, step by
step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]

FINER = 4  # points of the integrals between two levels of the statistics
NUDGE = 0.02  # of the noise, by which the states are moved for the Jacobian
NODES = 64  # of Gauss-Legendre sums


@dataclass(frozen=True, eq=False)
class Coefficients:
    """DPM-Solver-v3's statistics of a model.

    Args:
        lam: increasing and equally spaced, (N,).
        l, s, b: (N, *event).
    """

    lam: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor

    @cached_property
    def fine(self) -> "Coefficients":
        """The same at FINER times as many levels, by linear interpolation."""
        n = len(self.lam)
        place = torch.linspace(0, n - 1, FINER * (n - 1) + 1, dtype=torch.float64)
        i = place.long().clamp(max=n - 2)
        return Coefficients(*(torch.lerp(y[i], y[i + 1], _column(place - i, y)) for y in (self.lam, *self._values)))

    @property
    def _values(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.l, self.s, self.b

    @cached_property
    def integrals(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """L = int l, S = int s, E = int e^(L+S), B = int e^-S b, C = int e^(L+S) B, at the fine levels."""
        lam, l, s, b = self.fine.lam, *self.fine._values  # noqa: E741
        L, S = _cumulated(lam, l), _cumulated(lam, s)
        B = _cumulated(lam, torch.exp(-S) * b)
        return L, S, _cumulated(lam, torch.exp(L + S)), B, _cumulated(lam, torch.exp(L + S) * B)

    def place(self, sigma: float) -> int:
        """Of the fine level that is nearest."""
        return int((self.fine.lam + math.log(sigma)).abs().argmin())


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _cumulated(lam: Tensor, y: Tensor) -> Tensor:
    """The integral of y from the first level to each, by the trapezoid rule."""
    parts = _column(lam.diff(), y) * (y[1:] + y[:-1]) / 2
    return torch.cat([torch.zeros_like(y[:1]), parts.cumsum(0)])


def v3_coefficients(denoise: Denoise, states: Tensor, levels: Tensor, signs: torch.Generator) -> Coefficients:
    """The statistics of states (N, K, *event) of the flow at N levels in geometric progression.

    Cost: 2 network calls for each state.
    """
    F, ls = [], []
    for x, sigma in zip(states, levels, strict=True):
        h = NUDGE * sigma
        v = torch.randint(0, 2, x.shape, generator=signs).to(x) * 2 - 1
        D = denoise(x, sigma)
        l = 1 - (v * (denoise(x + h * v, sigma) - D) / h).mean(0)  # noqa: E741
        F.append(x - D - l * x)
        ls.append(l)
    f, lam = torch.stack(F), -levels.log()
    (slope,) = torch.gradient(f, spacing=(lam,), dim=0)
    mean, change = f.mean(1), slope.mean(1)
    deviation = f - mean[:, None]
    variance = deviation.square().mean(1)
    # What is constant but for rounding says nothing of its change.
    varies = variance > 1e-20 * states.to(f).square().mean(1)
    s = torch.where(varies, (deviation * slope).mean(1) / variance.clamp(min=1e-300), 0.0)
    return Coefficients(lam, torch.stack(ls), s, change - s * mean)


def dpm_solver_v3(
    denoise: Denoise,
    levels: Tensor,
    x: Tensor,
    known: Coefficients,
    *,
    order: int = 3,
    pseudo: bool = False,
    corrector: bool = False,
) -> Tensor:
    """DPM-Solver-v3 of up to order 3 on levels that are moved to the nearest of the statistics, down to their lowest.

    Args:
        pseudo: divided differences, of lower order, in the predictor, which the authors take for five calls and less.
        corrector: which they take for six calls and less.
    """
    lam, (L, S, E, B, C) = known.fine.lam, known.integrals
    places = [known.place(s.item()) if s > 0 else len(lam) - 1 for s in levels]

    def move(x: Tensor, points: list[tuple[int, Tensor]], s: int, t: int, pseudo: bool = False) -> Tensor:
        g = [torch.exp(S[s] - S[i]) * f - torch.exp(S[s]) * (B[i] - B[s]) for i, f in points]
        new = torch.exp(L[s] - L[t]) * x - torch.exp(-L[t] - S[s]) * (E[t] - E[s]) * g[0]
        new = new - torch.exp(-L[t]) * (C[t] - C[s] - B[s] * (E[t] - E[s]))
        for n, derivative in enumerate(_derivatives([lam[i].item() for i, _ in points], g, pseudo), 1):
            way = slice(s, t + 1)
            within = _column((lam[way] - lam[s]) ** n / math.factorial(n), L[way])
            power = torch.trapezoid(torch.exp(L[way] + S[way] - L[s] - S[s]) * within, lam[way], dim=0)
            new = new - torch.exp(L[s] - L[t]) * power * derivative
        return new

    T, before, past = len(places) - 1, x, list[tuple[int, Tensor]]()
    for k, (s, t) in enumerate(pairwise(places)):
        sigma = torch.exp(-lam[s])
        f = x - denoise(x, sigma) - known.fine.l[s] * x
        if corrector and past:
            p = min(k, order, T - k + 1)  # of the step that led here
            x = move(before, [past[0], (s, f), *past[1:]][:p], past[0][0], s) if p > 1 else x
        before, past = x, [(s, f), *past][:order]
        x = move(x, past[: min(order, k + 1, T - k)], s, t, pseudo)
    return x


def _derivatives(lam: list[float], g: list[Tensor], pseudo: bool) -> list[Tensor]:
    """At the first point, of the polynomial through all of them."""
    n = len(g) - 1
    if pseudo:
        row, found = g, []
        for i in range(1, n + 1):
            row = [(row[j] - row[j + 1]) / (lam[j] - lam[i + j]) for j in range(n - i + 1)]
            found.append(math.factorial(i) * row[0])
        return found
    powers = torch.tensor([[(p - lam[0]) ** i for i in range(1, n + 1)] for p in lam[1:]], dtype=torch.float64)
    inverse = torch.linalg.inv(powers) if n else powers
    return [
        math.factorial(i + 1) * sum(inverse[i, j].item() * (g[j + 1] - g[0]) for j in range(n))  # type: ignore[misc]
        for i in range(n)
    ]


NOISES: dict[str, Callable[[float], float]] = {
    "ODE": lambda sigma: sigma,
    "SDE 5": lambda sigma: sigma * (math.exp(sigma**0.3) + 10),
}


def er_sde(
    denoise: Denoise, levels: Tensor, x: Tensor, noise: Callable[[], Tensor] | None, *, phi: str = "SDE 5"
) -> Tensor:
    """ER-SDE-Solver-3 with the noise of NOISES[phi]."""
    f, past = NOISES[phi], list[tuple[float, Tensor]]()
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    slope: Tensor | None = None
    for s, t in pairwise(levels.tolist()):
        D = denoise(x, torch.tensor(s, dtype=torch.float64))
        r = f(t) / f(s)
        new = r * x + (1 - r) * D
        if past and t > 0:
            points = [(s + t) / 2 + (s - t) / 2 * node for node in nodes]
            inverse = [w * (s - t) / 2 / f(p) for p, w in zip(points, weights, strict=True)]
            first = (D - past[0][1]) / (s - past[0][0])
            new = new + (t - s + f(t) * sum(inverse)) * first
            if slope is not None:
                second = 2 * (first - slope) / (s - past[1][0])
                moment = sum(w * (p - s) for p, w in zip(points, inverse, strict=True))
                new = new + ((t - s) ** 2 / 2 + f(t) * moment) * second
            slope = first
        std = math.sqrt(max(t**2 - s**2 * r**2, 0.0))
        if phi != "ODE" and t > 0:
            assert noise is not None
            new = new + std * noise()
        x, past = new, [(s, D), *past][:2]
    return x


def gits_levels(
    states: Tensor, slopes: Tensor, levels: Tensor, steps: tuple[int, ...], coefficient: float = 1.15
) -> dict[int, Tensor]:
    """Levels for numbers of steps, of which the last, the lowest of all, is set to 0.

    Args:
        states: of trajectories at the levels, (N, K, *event).
        slopes: (x - D) / sigma there but for the last, (N - 1, K, *event).
        levels: decreasing, (N,).
    """
    X, E, sigma, N = states.flatten(2), slopes.flatten(2), levels.tolist(), len(levels)
    line = X[-1] - X[0]
    unit = line / line.norm(dim=-1, keepdim=True)

    def apart(x: Tensor) -> Tensor:
        """Distance to the straight line between both ends, (K,)."""
        way = X[-1] - x
        return (way - (way * unit).sum(-1, keepdim=True) * unit).norm(dim=-1)

    own = [apart(x) if 0 < i < N - 1 else torch.zeros(X.shape[1]) for i, x in enumerate(X)]
    cost = np.full((N, N), np.inf)
    for i in range(N - 1):
        for j in range(i + 1, N):
            cost[i, j] = (apart(X[i] + (sigma[j] - sigma[i]) * E[i]) - own[j]).mean().item()
    found, value, ways = {}, cost[:, -1].copy(), list[np.ndarray]()
    for T in range(1, max(steps) + 1):
        if T > 1:
            # No path may be at the last level before its last step.
            ahead = np.where(np.arange(N) < N - 1, value, np.inf)
            total = cost + coefficient * ahead[None]
            ways.insert(0, total.argmin(1))
            value = total.min(1)
        if T in steps:
            path = [0]
            for way in ways:
                path.append(int(way[path[-1]]))
            found[T] = torch.tensor([*(sigma[i] for i in path), 0.0], dtype=torch.float64)
    return found
