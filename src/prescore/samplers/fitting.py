"""Fitting the weights of `p-fit` to a model, and choosing the noise levels for them.

`fit_weights` follows some trajectories of the probability flow closely, so that their states X* are known at every
noise level, and fits the weights of the steps of a short run to them (`prescore.statistics.fit` has the regression).
Each step is fitted on the states that the fitted steps before it reach, not on X*, and so learns to undo their errors.
The trajectories are dealt into FOLDS, and those of a fold are moved by weights that were fitted to all others. So they
end where new samples would, and their distance from X* is an honest error, for no more than one run of the solver.

By that error are chosen

- what the textbook step solves exactly: the Gaussian model of the data, or C = 0 (data prediction);
- where the levels start: those that the errors of steps recommend, or those on which the errors of first-order steps
  from exact values have the least sum, by dynamic programming (as GITS does for Euler's method);
- the levels themselves, one after the other: each is moved in lam, and stays where the error fell.

Between the levels that were followed, Z = X / sqrt(v), v = C + sigma^2, for which dZ / dlam = R / sqrt(v), is the cubic
through values and slopes at both ends.

Source of the dynamic programming: Chen et al., "On the trajectory regularity of ODE-based diffusion sampling", ICML
2024, https://arxiv.org/abs/2405.11326. The solver is that of `prescore.samplers.fitted`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.denoiser import Denoiser, Evaluator
from prescore.errors import SamplingError
from prescore.gaussian import Gaussian, GaussianFlow
from prescore.grid import append_zero, geometric
from prescore.noise import check_seeds
from prescore.operators import Pixel
from prescore.samplers.base import sample, steps_for_calls
from prescore.samplers.calibrated import FINE, Runs, Trajectories, follow, prediction_of
from prescore.samplers.fitted import Fitted
from prescore.samplers.table import make_sampler
from prescore.statistics import FittedWeights, StepErrors, Tuning
from prescore.statistics.fit import cross_fit, group_edges, groups_of
from prescore.statistics.steps import PREDICTIONS

GROUPS, FOLDS, POINTS = 12, 6, 3
USUAL_FITTED = 48  # trajectories
MOST_CALLS = 150  # of the network, for each trajectory and number of calls, with a share of those that follow it
RIVALS = ("p-ode-3m", "unipc")  # textbook solvers, with which the fit is compared
FEWEST = 3  # steps
SHIFT = 0.3  # of the distance to its neighbour, by which a level is moved at first


@dataclass(frozen=True, eq=False)
class Fit:
    """A run with cross-fitted weights: the weights from all trajectories, the ends X, and their error."""

    levels: Tensor
    prediction: str
    weights: Tensor
    X: Tensor
    error: float


@dataclass(frozen=True, eq=False)
class Fitting:
    """Fits weights on trajectories that are known.

    Args:
        runs: how the model is run on them.
        followed: their states.
    """

    runs: Runs
    followed: Trajectories

    @cached_property
    def C(self) -> Tensor:
        """Variances of all coordinates, (M,)."""
        reference = self.runs.reference
        shape = reference.analyse(torch.zeros(1, *reference.event_shape)).shape
        return reference.variances.expand(shape).flatten()

    @cached_property
    def edges(self) -> Tensor:
        return group_edges(self.C, GROUPS)

    @cached_property
    def groups(self) -> Tensor:
        return groups_of(self.C, self.edges)

    @cached_property
    def folds(self) -> list[Tensor]:
        K = len(self.runs.seeds)
        return [torch.arange(first, K, FOLDS) for first in range(min(FOLDS, K))]

    def known(self, sigma: float) -> Tensor:
        """The states at a noise level, (K, m)."""
        levels, C = self.followed.levels, self.followed.C
        if sigma == 0:
            return self.followed.X[-1]
        i = int((levels[1:-1] > sigma).sum().clamp(max=len(levels) - 3))
        flow, h = GaussianFlow.of(C), (levels[i] / levels[i + 1]).log().item()
        r = math.log(levels[i].item() / sigma) / h
        Z, slope = [], []
        for j in (i, i + 1):
            s = levels[j].item()
            Z.append(self.followed.X[j] / flow.v(s).sqrt())
            slope.append(h * (self.followed.D[j] - flow.skip(s) * self.followed.X[j]) / flow.v(s).sqrt())
        value = (1 + 2 * r) * (1 - r) ** 2 * Z[0] + r**2 * (3 - 2 * r) * Z[1]
        return (value + r * (1 - r) ** 2 * slope[0] - r**2 * (1 - r) * slope[1]) * flow.v(sigma).sqrt()

    def denoised(self, X: Tensor, sigma: Tensor) -> Tensor:
        """Coordinates of D at states of coordinates X, (K, M)."""
        reference, runs = self.runs.reference, self.runs
        shape = reference.analyse(torch.zeros(1, *reference.event_shape)).shape[1:]
        parts = []
        for first in range(0, len(X), runs.batch_size):
            x = reference.synthesise(X[first : first + runs.batch_size].reshape(-1, *shape))
            evaluator = Evaluator(runs.denoiser, runs.rows(first, first + len(x)), torch.float64)
            evaluator.where = f"at sigma = {sigma.item():.4g}"
            parts.append(reference.analyse(evaluator(x.to(evaluator.device), sigma).cpu().double()).flatten(1))
        return torch.cat(parts)

    @torch.no_grad()
    def run(self, levels: Tensor, prediction: str) -> Fit:
        """Cross-fitted weights of the steps between the levels, which end in 0."""
        C = self.C if prediction == "gaussian" else torch.zeros_like(self.C)
        own = Gaussian(torch.zeros(len(C)), Pixel(C), error_share=self.runs.reference.error_share)
        solver = Fitted(prediction="gaussian", k=3, l=0.0, multistep=True, warm_up=False, reference=own, grid=levels)
        start = self.runs.start(0, len(self.runs.seeds), levels[0])
        X = self.runs.reference.analyse(start).flatten(1).double()
        groups, kept, weights = self.groups[self.followed.kept], self.followed.kept, []
        past: list[tuple[float, Tensor]] = []
        for sigma, sigma_next in pairwise(levels):
            s, t = sigma.item(), sigma_next.item()
            past = [(s, solver._remainder(self.denoised(X, sigma), X, s)), *past][:POINTS]
            keep, textbook = solver._rule(s, t, tuple(level for level, _ in past), 0.0, "exact", X)
            columns = [R for _, R in past]
            U = keep * X + sum(w * R for w, R in zip(textbook, columns, strict=True))
            columns = torch.stack([*columns, X], -1)
            left = self.known(t) - U[:, kept]
            full, parts = cross_fit(columns[:, kept], left, groups, len(self.edges) + 1, self.folds)
            for fold, w in zip(self.folds, parts, strict=True):
                U[fold] += (columns[fold] * w[self.groups]).sum(-1)
            padded = torch.zeros(len(full), POINTS + 1, dtype=torch.float64)
            padded[:, : len(past)], padded[:, -1] = full[:, :-1], full[:, -1]
            weights.append(padded)
            X = U
        return Fit(levels, prediction, torch.stack(weights), X[:, kept], self.error(X[:, kept]))

    def error(self, X: Tensor) -> float:
        """Of ends (K, m): the mean over trajectories of the root mean square over coordinates."""
        # Not the mean square: one trajectory that parts from the known one would outweigh all others.
        return (X - self.followed.X[-1]).square().mean(1).sqrt().mean().item()

    def gains(self, X: Tensor) -> Tensor:
        """By which the ends (K, m) have to be multiplied to have the energy of the known ones, group by group, (G,)."""
        groups, count = self.groups[self.followed.kept], len(self.edges) + 1
        energies = [torch.zeros(count, dtype=torch.float64).index_add(0, groups, x.square().sum(0)) for x in (self.followed.X[-1], X)]
        return torch.where(energies[1] > 0, energies[0] / energies[1].clamp(min=1e-300), 1.0).sqrt()

    def search(self, starts: Sequence[Tensor], runs: int, bar: tqdm) -> Fit:
        """The best of so many runs: on all the starts with either prediction, then from the best by moving levels."""

        def fit(levels: Tensor, prediction: str) -> Fit:
            bar.update()
            return self.run(levels, prediction)

        first = [(levels, prediction) for prediction in PREDICTIONS[::-1] for levels in starts][:runs]
        best = min((fit(*trial) for trial in first), key=lambda f: f.error)
        lam = -best.levels[:-1].log()
        lowest = -self.followed.levels[-2].log().item()
        shift = torch.full((len(lam),), SHIFT)
        done = len(first)
        for i in cycle(range(len(lam) - 1, 0, -1)):
            if done >= runs or shift[1:].abs().max() < 0.02:
                break
            above = lam[i + 1].item() if i + 1 < len(lam) else lowest
            room = above - lam[i].item() if shift[i] > 0 else lam[i].item() - lam[i - 1].item()
            moved = lam.clone()
            moved[i] += shift[i] * min(room, (lam[i] - lam[i - 1]).item())
            trial = fit(append_zero(torch.exp(-moved)), best.prediction)
            done += 1
            if trial.error < best.error:
                best, lam = trial, moved
            else:
                shift[i] *= -0.6
        return best


def shortest_levels(followed: Trajectories, steps: int) -> Tensor:
    """Levels among those that were followed, on which the errors of first-order steps from exact values have the least
    sum, each carried to sigma = 0 by the flow of the Gaussian model; (steps + 1,), the last one 0."""
    levels, flow = followed.levels, GaussianFlow.of(followed.C)
    L = len(levels) - 1
    cost = torch.full((L + 1, L + 1), math.inf, dtype=torch.float64)
    for i in range(L):
        s, X = levels[i].item(), followed.X[i]
        F = (followed.D[i] - flow.skip(s) * X) / flow.out(s)
        for j in range(i + 1, L + 1):
            t = levels[j].item()
            ahead = flow.keep(s, t, 0.0) * X + flow.integrals(s, t, 0.0, (s,))[0] * F
            cost[i, j] = (flow.keep(t, 0.0, 0.0) * (ahead - followed.X[j])).square().mean().sqrt()
    least, steps_to = cost[:, L].clone(), [torch.full((L + 1,), L)]
    for _ in range(steps - 1):
        total = cost + least[None]
        least, place = total.min(1)
        steps_to.insert(0, place)
    path = [0]
    for place in steps_to:
        path.append(int(place[path[-1]]))
    return levels[path]


def fit_weights(
    denoiser: Denoiser,
    reference: Gaussian,
    errors: StepErrors,
    tuning: Tuning,
    calls: Sequence[int],
    *,
    trajectories: int = USUAL_FITTED,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[int, FittedWeights]:
    """Fit the weights of `p-fit` for numbers of network calls.

    Args:
        denoiser, reference, condition, seed, batch_size, progress: as of `prescore.measure_steps`.
        errors, tuning: what it found.
        calls: numbers of network calls, of at least 3 steps each.
        trajectories: their number, at least 2.

    Returns:
        By number of steps what was fitted.

    Cost: at most MOST_CALLS network calls for each trajectory and number of calls.
    """
    runs = Runs(denoiser, reference, check_seeds(range(seed, seed + trajectories)), condition or {}, batch_size, progress)
    followed = follow(runs, geometric(FINE, denoiser.sigma_min, denoiser.sigma_max, final_zero=True))
    fitting, fits = Fitting(runs, followed), {}
    numbers = sorted({steps_for_calls(make_sampler("unipc"), n // denoiser.network_calls) for n in calls})
    for T in (T for T in numbers if T >= FEWEST):
        starts = [errors.levels_by(tuning.rule("p-ode-3m", T) or "gaussian", T), shortest_levels(followed, T)]
        most = (MOST_CALLS - math.ceil(FINE / len(numbers))) // T - len(RIVALS)
        with runs.bar(most, "run") as bar:
            bar.set_description(f"weights for {T} steps")
            best = fitting.search(starts, most, bar)
        gains = fitting.gains(best.X)
        found = {"p-fit": best.error} | {name: rival_error(fitting, errors, tuning, name, T) for name in RIVALS}
        fits[T] = FittedWeights(
            levels=best.levels,
            prediction=best.prediction,
            edges=fitting.edges,
            weights=best.weights,
            gains=gains,
            errors=found,
            count=trajectories,
            model=errors.model,
        )
    return fits


def rival_error(fitting: Fitting, errors: StepErrors, tuning: Tuning, name: str, steps: int) -> float:
    """The error of a textbook solver on the same trajectories, on the levels that serve it."""
    runs, levels = fitting.runs, errors.levels_by(tuning.rule(name, steps) or prediction_of(name), steps)
    own = runs.reference if prediction_of(name) == "gaussian" else None
    n = len(runs.seeds)
    try:
        x = sample(
            runs.denoiser,
            make_sampler(name, grid=levels, reference=own),
            seeds=runs.seeds,
            batch_size=min(runs.batch_size, n),
            initial=runs.start(0, n, levels[0]),
            condition=runs.rows(0, n),
            progress=False,
        )
    except SamplingError:
        return math.inf
    return fitting.error(fitting.followed.coordinates(x))
