"""What the steps of solvers do wrong on a model, from a few of its trajectories.

`measure_steps` follows trajectories of the probability flow over FINE levels by the preconditioned solver of order 3,
one network call a level, and keeps the states x_i and the denoised D_i. From these follows without further calls where
`dpmpp-2m` or `p-ode-2m` would arrive at t from exact values at r > s > t, for any three of the levels. The difference
to the x_t that was kept, carried to sigma = 0 by the flow of the Gaussian model of the data,

    e = sqrt(C / (C + t^2)) (x_t - x_t kept)      coordinate by coordinate,

is the error of that step. `prescore.statistics.steps` says how noise levels follow from these errors.

The solvers TRIED_SOLVERS look back further, or correct: what one step does wrong says too little of them. They are
run, from the start of some of the trajectories, on the levels chosen for either of the two, on geometric ones of four
lengths, and on three that are uniform in the time of a VP schedule; for each number of steps that is remembered which
came nearest to the known ends.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError
from prescore.gaussian import Gaussian, GaussianFlow
from prescore.grid import geometric
from prescore.noise import NoiseSource, check_seeds
from prescore.operators import Pixel
from prescore.samplers.base import Progress, Sampler, sample, steps_for_calls
from prescore.samplers.table import find_sampler, make_sampler
from prescore.statistics import Statistics, StepErrors, Tuning
from prescore.statistics.steps import PREDICTIONS, UNIFORM_T, Rule, SolverErrors
from prescore.tuned import TRIED_LENGTHS, TRIED_SCALES, TRIED_SOLVERS, TRIED_STEPS

FINE = 64
WIDTHS = (1, 2, 3, 4, 6, 9, 13, 18)  # of the steps that are measured, in steps of the fine grid
KEPT = 8192  # coordinates of a sample, spread evenly over all of them in the order of their variances
USUAL_TRAJECTORIES, USUAL_TRIES = 32, 16
FEWEST = 3  # steps in which the solvers that are tried can run
MEASURED = {"data": "dpmpp-2m", "gaussian": "p-ode-2m"}  # the solver for each prediction
UNIFORM: tuple[Rule, ...] = tuple(f"{UNIFORM_T}{scale:g}" for scale in TRIED_SCALES)
RULES: tuple[Rule, ...] = (*PREDICTIONS, *TRIED_LENGTHS, *UNIFORM)


@dataclass(frozen=True, eq=False)
class Trajectories:
    """States X, (L + 1, K, m), and denoised D, (L, K, m), at L noise levels and 0, in coordinates of variances C.

    `coordinates` takes states (K, *event) to them; they are those of the index `kept` among all.
    """

    levels: Tensor
    X: Tensor
    D: Tensor
    C: Tensor
    kept: Tensor
    coordinates: Callable[[Tensor], Tensor]

    def at(self, sigma: float) -> Tensor:
        """The states at a noise level, (K, m).

        Between two levels that were followed Z = X / sqrt(v), v = C + sigma^2, for which dZ / dlam = R / sqrt(v), is
        the cubic through values and slopes at both.
        """
        same = (self.levels == sigma).nonzero()
        if len(same):
            return self.X[same[0, 0]]
        i = int((self.levels[1:-1] > sigma).sum().clamp(max=len(self.levels) - 3))
        flow, h = GaussianFlow.of(self.C), (self.levels[i] / self.levels[i + 1]).log().item()
        r = math.log(self.levels[i].item() / sigma) / h
        Z, slope = [], []
        for j in (i, i + 1):
            s = self.levels[j].item()
            Z.append(self.X[j] / flow.v(s).sqrt())
            slope.append(h * (self.D[j] - flow.skip(s) * self.X[j]) / flow.v(s).sqrt())
        value = (1 + 2 * r) * (1 - r) ** 2 * Z[0] + r**2 * (3 - 2 * r) * Z[1]
        return (value + r * (1 - r) ** 2 * slope[0] - r**2 * (1 - r) * slope[1]) * flow.v(sigma).sqrt()

    def only(self, levels: Sequence[float]) -> "Trajectories":
        """The same at some levels alone, the last of them 0, without D."""
        X = torch.stack([self.at(sigma) for sigma in levels])
        return replace(self, levels=torch.tensor(levels, dtype=torch.float64), X=X, D=self.D[:0])


def measure_steps(
    denoiser: Denoiser,
    reference: Gaussian,
    *,
    trajectories: int = USUAL_TRAJECTORIES,
    tries: int = USUAL_TRIES,
    calls: Sequence[int] | None = None,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    model: str | None = None,
    progress: bool = False,
) -> tuple[StepErrors, Tuning]:
    """Measure what the steps of `dpmpp-2m` and `p-ode-2m` do wrong on a model, and try levels for `unipc`, `p-ode-3m`.

    Args:
        denoiser: a model that says its noise range and its events, such as what `prescore.load` returns.
        reference: the Gaussian model of its data.
        trajectories: their number.
        tries: on how many of them to try levels; 0 leaves this out.
        calls: numbers of network calls, of at least 3 steps each, for which to try levels; by default for TRIED_STEPS.
        condition: named tensors whose rows the trajectories take in turn, passed to the denoiser as keyword arguments.
        seed: of the first trajectory; the next ones count up.
        batch_size: trajectories in one network call.
        model: name to remember; by default the model's own.
        progress: show a bar that counts network calls, on a terminal.

    Raises:
        PrescoreError: numbers that are not positive, or a reference of other events or another data range.
        SamplingError: the model returned a wrong shape or values that are not finite.

    Cost: FINE network calls for each batch of trajectories, 18 for each of tries and one of `calls` (1602 for all the
    usual ones), and the memory of 2 FINE states of at most KEPT coordinates a trajectory.
    """
    for name, value in {"trajectories": trajectories, "batch_size": batch_size}.items():
        if not isinstance(value, int) or value < 1:
            raise PrescoreError(f"{name}: {value!r} is not a positive whole number")
    if not isinstance(tries, int) or tries < 0:
        raise PrescoreError(f"tries: {tries!r} is not a whole number; 0 leaves them out")
    levels = geometric(FINE, denoiser.sigma_min, denoiser.sigma_max, final_zero=True)
    runs = Runs(
        denoiser, reference, check_seeds(range(seed, seed + trajectories)), condition or {}, batch_size, progress
    )
    each = denoiser.network_calls
    steps = TRIED_STEPS if calls is None else sorted({steps_for_calls(make_sampler("unipc"), n // each) for n in calls})
    followed = follow(runs, levels)
    variances, shares = _alike(followed.C)
    own = Gaussian(torch.zeros(len(followed.C)), Pixel(followed.C), error_share=reference.error_share)

    def errors(prediction: str) -> SolverErrors:
        needed = own if prediction == "gaussian" else None
        return step_errors(lambda: make_sampler(MEASURED[prediction], reference=needed), followed)

    measured = StepErrors(
        levels=levels[:-1],
        widths=torch.tensor(WIDTHS) * (levels[0] / levels[1]).log(),
        variances=variances,
        shares=shares,
        solvers={prediction: errors(prediction) for prediction in PREDICTIONS},
        count=trajectories,
        model=denoiser.name if model is None else model,
    )
    return measured, Tuning(rules=try_rules(runs, measured, followed, tries, steps) if tries else {})


def auto_grid(sampler: str, statistics: Statistics, steps: int) -> Tensor:
    """Noise levels that the errors of steps in the statistics recommend, (steps + 1,), the last one 0.

    Args:
        sampler: a name in the table. `unipc` and `p-ode-3m` take those that served them best where levels were tried;
            others with a reference take the levels chosen for `p-ode-2m`, all others those for `dpmpp-2m`.
        statistics: with the errors of steps, in the data range of the model.
        steps: their number.

    Raises:
        PrescoreError: an unknown sampler, statistics without errors of steps, or `steps` not a positive whole number.
    """
    errors = errors_of(statistics)
    return errors.levels_by(statistics.tuning.rule(sampler, steps) or prediction_of(sampler), steps)


def prediction_of(sampler: str) -> str:
    """Which of the solvers that are measured stands for a sampler."""
    return "gaussian" if "reference" in find_sampler(sampler).needs else "data"


def levels_source(sampler: str, rule: Rule | None, model: str) -> str:
    """Where the levels of a sampler come from, in words.

    Args:
        rule: that was tuned for it, if one was; else they are those of the solver that stands for it.
    """
    stand_in = prediction_of(sampler)
    how = "the best of those tried" if rule else "measured"
    text = f"{rule_text(rule or stand_in)}, {how} on {model or 'the model'}"
    own = rule is not None or MEASURED[stand_in] == sampler
    return text if own else f"{text}; no levels were measured for {sampler} itself"


def rule_text(rule: Rule) -> str:
    """What a rule is, in words."""
    if isinstance(rule, str) and rule in MEASURED:
        return f"equal errors of the steps of {MEASURED[rule]}"
    if isinstance(rule, str):
        return f"uniform in VP time for data of {rule.removeprefix(UNIFORM_T)} times the deviation"
    return f"geometric, down to {rule:g}/T of the data's deviation"


def errors_of(statistics: Statistics) -> StepErrors:
    """The errors of steps in the statistics. Raises PrescoreError if there are none."""
    if statistics.model.steps is None:
        raise PrescoreError(
            "grid: auto needs what the steps of a solver do wrong, which these statistics lack; measure it by "
            "`prescore calibrate DATA --model MODEL --out FILE`"
        )
    return statistics.model.steps


@dataclass(frozen=True, eq=False)
class Runs:
    """How trajectories are run: `batch_size` of the seeds at a time, each with its own row of the condition."""

    denoiser: Denoiser
    reference: Gaussian
    seeds: Sequence[int]
    condition: Mapping[str, Tensor]
    batch_size: int
    progress: bool

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """The condition of the runs first to last - 1."""
        return {name: rows[torch.arange(first, last) % len(rows)] for name, rows in self.condition.items()}

    def start(self, first: int, last: int, level: Tensor) -> Tensor:
        """Where the runs first to last - 1 start: N(mu, C + level^2)."""
        noise = NoiseSource(self.seeds[first:last], self.denoiser.event_shape)
        return make_sampler("p-ode-1", reference=self.reference).initial(noise, level)

    def bar(self, total: int, unit: str) -> tqdm:
        return tqdm(total=total, unit=unit, disable=None if self.progress else True, leave=False)


def follow(runs: Runs, levels: Tensor, which: range | None = None) -> Trajectories:
    """The probability flow over all the levels, which end in 0, of some of the runs, or of all."""
    reference, which = runs.reference, range(len(runs.seeds)) if which is None else which
    solver = make_sampler("p-ode-3m", grid=levels, reference=reference, corrector=False, warm_up=False)
    X: list[list[Tensor]] = [[] for _ in levels]
    D: list[list[Tensor]] = [[] for _ in levels[:-1]]
    reference.check(runs.denoiser.event_shape)
    C = reference.variances.expand(reference.analyse(torch.zeros(1, *reference.event_shape)).shape).flatten()
    kept = C.argsort()[torch.linspace(0, len(C) - 1, min(KEPT, len(C))).round().long()]

    def coordinates(x: Tensor) -> Tensor:
        return reference.analyse(x).flatten(1).cpu()[:, kept]

    with runs.bar(len(D) * math.ceil(len(which) / runs.batch_size), "call") as bar:

        def record(done: Progress) -> None:
            D[done.step].append(coordinates(done.denoised))
            X[done.step + 1].append(coordinates(done.x))
            bar.update()

        for first in which[:: runs.batch_size]:
            last = min(first + runs.batch_size, which.stop)
            start = runs.start(first, last, levels[0])
            X[0].append(coordinates(start))
            sample(
                runs.denoiser,
                solver,
                seeds=runs.seeds[first:last],
                initial=start,
                condition=runs.rows(first, last),
                callback=record,
                progress=False,
            )
    states, denoised = (torch.stack([torch.cat(parts) for parts in rows]) for rows in (X, D))
    return Trajectories(levels, states, denoised, C[kept], kept, coordinates)


def try_rules(
    runs: Runs, errors: StepErrors, followed: Trajectories, tries: int, steps: Sequence[int]
) -> dict[str, dict[int, Rule]]:
    """For each of TRIED_SOLVERS and number of steps the rule whose levels lead nearest to the ends of the trajectories.

    Args:
        errors: what gives the levels by a rule.
        followed: the trajectories.
        tries: on how many of them to try.
        steps: the numbers of steps.
    """
    seeds = runs.seeds[:tries]
    end, start = followed.X[-1, :tries], runs.start(0, tries, followed.levels[0])
    plan = [trial for trial in product(TRIED_SOLVERS, steps, RULES) if trial[1] >= FEWEST]
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with runs.bar(len(plan), "run") as bar:
        bar.set_description("levels")
        for name, T, rule in plan:
            own = runs.reference if prediction_of(name) == "gaussian" else None
            solver = make_sampler(name, grid=errors.levels_by(rule, T), reference=own)
            try:
                x = sample(
                    runs.denoiser,
                    solver,
                    seeds=seeds,
                    batch_size=min(runs.batch_size, len(seeds)),
                    initial=start,
                    condition=runs.rows(0, len(seeds)),
                    progress=False,
                )
                # Not the mean square: one trajectory that parts from the known one would outweigh all others.
                error = (followed.coordinates(x) - end).square().mean(1).sqrt().mean().item()
            except SamplingError:  # few steps on a grid that does not fit may diverge
                error = math.inf
            found[name, T].append(error)
            bar.update()
    best = {key: RULES[values.index(min(values))] for key, values in found.items()}
    return {name: {T: rule for (solver, T), rule in best.items() if solver == name} for name in TRIED_SOLVERS}


def step_errors(make: Callable[[], Sampler], followed: Trajectories) -> SolverErrors:
    """What each step of a two-step solver does wrong from exact values.

    Args:
        make: the solver, for states in the coordinates of the trajectories.
        followed: the trajectories.
    """
    levels, X, D = followed.levels, followed.X, followed.D
    L, flow, noise = len(D), GaussianFlow.of(followed.C), NoiseSource([0], (1,))

    def take(solver: Sampler, s: int, t: int, before: object) -> tuple[Tensor, object]:
        return solver.step(lambda x, sigma: D[s], X[s], levels[s], levels[t], before, noise)

    def error(solver: Sampler, s: int, t: int, before: object) -> float:
        damping = flow.keep(levels[t].item(), 0.0, 0.0)
        return (damping * (take(solver, s, t, before)[0] - X[t])).square().mean().sqrt().item()

    solver = make()
    new = solver.start(levels)
    first = [0.0, *(error(solver, 0, t, new) for t in range(1, L))]
    last = [error(solver, s, L, new) for s in range(L)]
    after = [take(solver, r, r + 1, new)[1] for r in range(L)]
    inner = []
    for w in WIDTHS:
        solver = make()  # it remembers the weights of every step, which are not met again
        row = [error(solver, s, s + w, after[s - w]) for s in range(w, L - w)]
        inner.append([row[0]] * w + row + [row[-1]] * w)
    return SolverErrors(*(torch.tensor(values, dtype=torch.float64) for values in (first, inner, last)))


def _alike(C: Tensor) -> tuple[Tensor, Tensor]:
    """Mean variance of the coordinates whose variances are within 10 %, and their share of all."""
    groups, count = torch.unique((C.clamp(min=1e-300).log() * 10).round(), return_inverse=True, return_counts=True)[1:]
    sums = torch.zeros(len(count), dtype=torch.float64).index_add(0, groups, C)
    return sums / count, count.double() / len(C)
