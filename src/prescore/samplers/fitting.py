"""Fitting the weights of `p-fit` to a model, and choosing the noise levels for them.

`fit_weights` follows some trajectories of the probability flow closely, so that their states X* are known at every
noise level, and fits the weights of the steps of a short run to them (`prescore.statistics.fit` has the regression).
Each step is fitted on the states that the fitted steps before it reach, not on X*, and so learns to undo their errors.
The trajectories are dealt into FOLDS, and those of a fold are moved by weights that were fitted to all others. So they
end where new samples would, and their distance from X* is an honest error, for no more than one run of the solver.

By that error the noise levels are chosen: first among those that the errors of steps recommend, those that are uniform
in the time of VP schedules, and those on which the errors of first-order steps from exact values have the least sum, by
dynamic programming (as GITS does for Euler's method); then one after the other is moved in lam, and stays where the
error fell. Weights are fitted anew each time, and at last to more trajectories, as many as the calls allow.

Source of the dynamic programming: Chen et al., "On the trajectory regularity of ODE-based diffusion sampling", ICML
2024, https://arxiv.org/abs/2405.11326. The solver is that of `prescore.samplers.fitted`.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, pairwise

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
from prescore.samplers.calibrated import FINE, UNIFORM, Runs, Trajectories, follow, prediction_of
from prescore.samplers.fitted import Fitted
from prescore.samplers.table import make_sampler
from prescore.statistics import FittedWeights, StepErrors, Tuning
from prescore.statistics.fit import POINTS, cross_fit, group_edges, groups_of

GROUPS, FOLDS = 24, 6
USUAL_POWER = 2.0  # of the errors of trajectories: the few that part from the known ones tell good levels from bad
NUMBERS = 64  # coordinates of all trajectories in a group, on average, for at most POINTS + 1 weights
USUAL_FITTED = 48  # trajectories on which levels are searched
ENOUGH = 192  # to which the weights are fitted, if the calls suffice
MOST_NUMBERS = 2**26  # coordinates of all trajectories, for which the latter are more than the former
MOST_CALLS = 150  # of the network, for each of the former and number of calls, with a share of those that follow it
RIVALS = ("p-ode-3m", "unipc")  # textbook solvers, with which the fit is compared
FEWEST = 3  # steps
SHIFT, TURN = 0.3, -0.6  # of the distance to its neighbour, by which a level is moved; and by what, if this was no gain


@dataclass(frozen=True, eq=False)
class Fit:
    """A run with cross-fitted weights: the weights from all trajectories, the ends X, and their error, by which levels
    are compared: a power mean over trajectories of the root mean square over coordinates."""

    levels: Tensor
    weights: Tensor
    X: Tensor
    error: float


@dataclass(frozen=True, eq=False)
class Fitting:
    """Fits weights on trajectories that are known.

    Args:
        runs: how the model is run on them.
        followed: their states.
        power: of the mean by which levels are compared.
    """

    runs: Runs
    followed: Trajectories
    power: float = USUAL_POWER

    @cached_property
    def C(self) -> Tensor:
        """Variances of all coordinates, (M,)."""
        reference = self.runs.reference
        shape = reference.analyse(torch.zeros(1, *reference.event_shape)).shape
        return reference.variances.expand(shape).flatten()

    @cached_property
    def edges(self) -> Tensor:
        return group_edges(self.C, max(1, min(GROUPS, len(self.runs.seeds) * len(self.C) // NUMBERS)))

    @cached_property
    def groups(self) -> Tensor:
        return groups_of(self.C, self.edges)

    @cached_property
    def folds(self) -> list[Tensor]:
        K = len(self.runs.seeds)
        return [torch.arange(first, K, FOLDS) for first in range(min(FOLDS, K))]

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
    def run(self, levels: Tensor) -> Fit:
        """Cross-fitted weights of the steps between the levels, which end in 0."""
        own = Gaussian(torch.zeros(len(self.C)), Pixel(self.C), error_share=self.runs.reference.error_share)
        solver = Fitted(
            prediction="gaussian", k=POINTS, l=0.0, multistep=True, warm_up=False, reference=own, grid=levels
        )
        start = self.runs.start(0, len(self.runs.seeds), levels[0])
        X = self.runs.reference.analyse(start).flatten(1).double()
        groups, kept, weights = self.groups[self.followed.kept], self.followed.kept, []
        past: list[tuple[float, Tensor]] = []
        for sigma, sigma_next in pairwise(levels):
            s, t = sigma.item(), sigma_next.item()
            past = [(s, solver._remainder(self.denoised(X, sigma), X, s)), *past][:POINTS]
            keep, textbook = solver._rule(s, t, tuple(level for level, _ in past), 0.0, "exact", X)
            U = keep * X
            for w, (_, R) in zip(textbook, past, strict=False):  # the last step's textbook takes the newest alone
                U = U + w * R
            columns = torch.stack([*(R for _, R in past), X], -1)
            left = self.followed.at(t) - U[:, kept]
            full, parts = cross_fit(columns[:, kept], left, groups, len(self.edges) + 1, self.folds)
            for fold, w in zip(self.folds, parts, strict=True):
                U[fold] += (columns[fold] * w[self.groups]).sum(-1)
            padded = torch.zeros(len(full), POINTS + 1, dtype=torch.float64)
            padded[:, : len(past)], padded[:, -1] = full[:, :-1], full[:, -1]
            weights.append(padded)
            X = U
        return Fit(levels, torch.stack(weights), X[:, kept], self._compared(X[:, kept]))

    def error(self, X: Tensor) -> float:
        """Of ends (K, m): the mean over trajectories of the root mean square over coordinates."""
        # Not the mean square: one trajectory that parts from the known one would outweigh all others.
        return self._distances(X).mean().item()

    def _compared(self, X: Tensor) -> float:
        return self._distances(X).pow(self.power).mean().pow(1 / self.power).item()

    def _distances(self, X: Tensor) -> Tensor:
        return (X - self.followed.X[-1]).square().mean(1).sqrt()

    def gains(self, X: Tensor) -> Tensor:
        """By which the ends (K, m) have to be multiplied to have the energy of the known ones, group by group, (G,)."""
        groups, count = self.groups[self.followed.kept], len(self.edges) + 1
        energies = [
            torch.zeros(count, dtype=torch.float64).index_add(0, groups, x.square().sum(0))
            for x in (self.followed.X[-1], X)
        ]
        return torch.where(energies[1] > 0, energies[0] / energies[1].clamp(min=1e-300), 1.0).sqrt()

    def search(self, starts: Sequence[Tensor], runs: int, bar: tqdm) -> Fit:
        """The best of at most so many runs: on all the starts, and from the best of them by moving levels."""

        def fit(levels: Tensor) -> Fit:
            bar.update()
            try:
                return self.run(levels)
            except SamplingError:  # few steps on levels that do not fit may diverge
                return Fit(levels, torch.zeros(0), torch.zeros(0), math.inf)

        best = min((fit(levels) for levels in starts[:runs]), key=lambda run: run.error)
        highest, shift = -self.followed.levels[-2].log(), torch.full((len(best.levels) - 1,), SHIFT)
        places = cycle(range(len(shift) - 1, 0, -1))
        for _ in range(runs - len(starts)):
            i, lam = next(places), -best.levels[:-1].log()
            ends = torch.cat([lam, highest[None]])
            room = min(ends[i + 1] - lam[i], lam[i] - lam[i - 1]) if shift[i] > 0 else lam[i] - lam[i - 1]
            lam[i] += shift[i] * room
            trial = fit(append_zero(torch.exp(-lam)))
            if trial.error < best.error:
                best = trial
            else:
                shift[i] *= TURN
        return best


def shortest_levels(followed: Trajectories, steps: int) -> Tensor:
    """Levels among every second of those that were followed, on which the errors of first-order steps from exact values
    have the least sum, each carried to sigma = 0 by the flow of the Gaussian model; (steps + 1,), the last one 0.

    There have to be twice as many levels as steps, at least.
    """
    flow, places = GaussianFlow.of(followed.C), [*range(0, len(followed.levels) - 1, 2), -1]
    levels, L = followed.levels[places].tolist(), len(places) - 1
    cost = torch.full((L + 1, L + 1), math.inf, dtype=torch.float64)
    for i, s in enumerate(levels[:-1]):
        X = followed.X[places[i]]
        F = (followed.D[places[i]] - flow.skip(s) * X) / flow.out(s)
        for j in range(i + 1, L + 1):
            t = levels[j]
            missed = flow.keep(s, t, 0.0) * X + flow.integrals(s, t, 0.0, (s,))[0] * F - followed.X[places[j]]
            at_end = missed if t == 0 else flow.keep(t, 0.0, 0.0) * missed
            cost[i, j] = at_end.square().mean().sqrt()
    least, ways = cost[:, L], [torch.full((L + 1,), L)]  # to 0 in one step, and where the next one leads
    for _ in range(steps - 1):
        least, way = (cost + least).min(1)
        ways.insert(0, way)
    path = [0]
    for way in ways:
        path.append(int(way[path[-1]]))
    return torch.tensor([levels[k] for k in path], dtype=torch.float64)


def fit_weights(
    denoiser: Denoiser,
    reference: Gaussian,
    errors: StepErrors,
    tuning: Tuning,
    calls: Sequence[int],
    *,
    trajectories: int = USUAL_FITTED,
    power: float = USUAL_POWER,
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
        trajectories: number of those on which levels are searched, at least 2. If they are fewer than ENOUGH, half of
            the calls that are left by what has to be done goes to further ones, so that weights are fitted to as many.
        power: levels are compared by the power mean of the errors of trajectories: by 2 those few decide that part from
            the known ones, by 1 all count alike.

    Returns:
        By number of steps what was fitted; numbers of calls that allow fewer than 3, for which MOST_CALLS
        allow no run, or for which all levels that were tried diverge, are left out. The errors are those of the
        trajectories on which levels were searched.

    Raises:
        SamplingError: the model returned a wrong shape or values that are not finite.

    Cost: at most MOST_CALLS network calls for each of `trajectories` and number of calls.
    """
    fine = geometric(FINE, denoiser.sigma_min, denoiser.sigma_max, final_zero=True)
    numbers = sorted({steps_for_calls(make_sampler("unipc"), n // denoiser.network_calls) for n in calls})
    more = further(trajectories, numbers, math.prod(denoiser.event_shape), batch_size)
    seeds = check_seeds(range(seed, seed + trajectories + more))
    every = Runs(denoiser, reference, seeds, condition or {}, batch_size, progress)
    searched = replace(every, seeds=seeds[:trajectories])
    fitting, best = Fitting(searched, follow(searched, fine), power), dict[int, Fit]()
    share = max(more / trajectories, math.ceil(more / batch_size) / math.ceil(trajectories / batch_size))
    for T in (T for T in numbers if T >= FEWEST):
        rules = dict.fromkeys((tuning.rule("p-ode-3m", T) or "gaussian", *UNIFORM))
        starts = [*(errors.levels_by(rule, T) for rule in rules), shortest_levels(fitting.followed, T)]
        taken = FINE + share * (FINE + len(numbers) * T)
        most = (MOST_CALLS - math.ceil(taken / len(numbers))) // T - len(RIVALS) - bool(more)
        if most < 1:
            continue
        with every.bar(most, "run") as bar:
            bar.set_description(f"weights for {T} steps")
            found = fitting.search(starts, most, bar)
        if math.isfinite(found.error):
            best[T] = found
    whole = known_at(every, fitting.followed, fine, [fit.levels for fit in best.values()]) if more and best else None
    fits = {}
    for T, fit in best.items():
        own = fitting
        if whole is not None:
            with suppress(SamplingError):  # one of the further ones may diverge
                fit, own = whole.run(fit.levels), whole
        gains = own.gains(fit.X)
        ends = (fit.X * gains[own.groups[own.followed.kept]])[:trajectories]
        rivals = {name: rival_error(fitting, errors, tuning, name, T) for name in RIVALS}
        fits[T] = FittedWeights(
            levels=fit.levels,
            edges=own.edges,
            weights=fit.weights,
            gains=gains,
            errors={"p-fit": fitting.error(ends)} | rivals,
            count=len(own.runs.seeds),
            model=errors.model,
        )
    return fits


def further(trajectories: int, numbers: Sequence[int], size: int, batch_size: int) -> int:
    """How many trajectories to fit weights to beside those on which levels are searched, for these numbers of steps and
    events of this size: half of the calls that are left goes to them, of samples and of batches, until they are ENOUGH.
    """
    left = (MOST_CALLS * len(numbers) - FINE - (len(RIVALS) + 1) * sum(numbers)) / 2 / (FINE + sum(numbers))
    batches = int(left * math.ceil(trajectories / batch_size))
    enough = min(ENOUGH, MOST_NUMBERS // size) - trajectories
    return max(0, min(enough, int(left * trajectories), batches * batch_size))


def known_at(runs: Runs, first: Trajectories, fine: Tensor, grids: Sequence[Tensor]) -> Fitting:
    """All of the runs, the first of which are known, followed over the fine levels, and known at those of the grids."""
    levels = sorted({*first.levels[:1].tolist(), *(sigma for grid in grids for sigma in grid.tolist())}, reverse=True)
    K, n = first.X.shape[1], len(runs.seeds)
    parts = [range(i, min(i + runs.batch_size, n)) for i in range(K, n, runs.batch_size)]
    known = [first.only(levels), *(follow(runs, fine, part).only(levels) for part in parts)]
    return Fitting(runs, replace(known[0], X=torch.cat([part.X for part in known], 1)))


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
