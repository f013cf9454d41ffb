"""The step rule of the PDS paper's Section 7 in its readings: what `distance_tables.py` runs for it.

Where T0 = 1000 iterations are reduced to T the paper expands "the step size eps_t" by sqrt(c), c = T0/T. Of the
corrector that is its signal-to-noise ratio, r sqrt(c) (`original_steps`); the authors' published script keeps r.
Algorithm 2 predicts first and then corrects; the script does it the other way round. Plain and PDS run in each of the
four readings, PDS with the automatic alpha and with each of ALPHAS, Table 1's among them. Measured are

    an exact mixture    the Frechet distance in pixels to its exact moments
    a network           the error of the spectrum, `prescore.metrics.power_spectrum_error`

of n samples of the same seeds. Their spread is the standard error of the jackknife over SETS sets of seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, pstdev
from typing import Any

import torch
from alpha_relation import PAPER, shown
from drawing import BLUE, ORANGE, few_decades, numbered, true_samples
from matplotlib.axes import Axes
from publish import Runs, cell, table
from subjects import Subject, kept, rows
from torch import Tensor
from trained import Trained, alpha_of

import prescore
from prescore.errors import SamplingError
from prescore.metrics import power_spectrum_error
from prescore.plan import WEAKEST_ALPHA

T0 = 1000
RULES: Mapping[str, int | None] = {"r kept": None, "r √(T0/T)": T0}
ORDERS = {"corrector": math.inf, "predictor": 50}
_, TABLE_1, _ = PAPER["CIFAR-10"]
# Tried from a T on, beside the automatic one.
ALPHAS: Mapping[int, Sequence[float]] = {
    0: (1.8, 2.5, 3.5),
    50: (1.8, 2.5, 3.5, 5.0),
    100: (5.0, 8.0),
    200: (8.0, 12.0),
    400: (15.0, 25.0),
    1000: (50.0,),
}
PLAIN, AUTOMATIC = "plain", "automatic"
FID = {50: (306.91, 4.90), 100: (29.39, 2.90), 200: (4.35, 2.53), 400: (2.40, 2.19), 1000: (2.23, 1.99)}
SETS = 5
EQUAL = 2.0  # standard errors that two distances differ by at most to be called equal


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """What the readings are run on.

    Args:
        label: in tables.
        denoiser: with the statistics of its data.
        limits: sigma_min and sigma_max of the grids.
        measure: of samples (n, *event), the less the better.
        floor: mean and spread of the measure of n true samples, or None.
        n, batch_size: samples of a run, and of a call.
        steps: numbers of iterations T.
        orders: what acts first in a step, and up to which T that is tried.
        searched: whether alphas are searched, or the automatic one and that of Table 1 are all.
    """

    label: str
    denoiser: prescore.Denoiser
    limits: Mapping[str, float]
    measure: Callable[[Tensor], float]
    floor: Callable[[], tuple[float, float]]
    n: int
    batch_size: int
    steps: Sequence[int]
    orders: Mapping[str, float] = field(default_factory=lambda: ORDERS)
    searched: bool = True

    @classmethod
    def exact(cls, label: str, subject: Subject, steps: Sequence[int], **options: Any) -> "Case":
        """A subject with an exact denoiser, on its own range."""
        distance = lambda x: subject.measures(x)["frechet"]  # noqa: E731

        def floor() -> tuple[float, float]:
            found = subject.floor()["frechet"]
            return found["mean"], found["spread"]

        return cls(
            label=label,
            denoiser=replace(subject.denoiser, statistics=subject.statistics),
            limits={"sigma_min": subject.sigma_min, "sigma_max": subject.sigma_max},
            measure=distance,
            floor=floor,
            n=subject.n,
            batch_size=subject.batch_size,
            steps=steps,
            **options,
        )

    @classmethod
    def network(cls, model: str, n: int, steps: Sequence[int], **options: Any) -> "Case":
        """A model on its own range; true samples are draws from a Gaussian with the spectrum of its data."""
        known = Trained.open(model, None)

        def error(x: Tensor) -> float:
            return power_spectrum_error(x, known.statistics)

        def floor() -> tuple[float, float]:
            errors = [error(x) for x in known.gaussian_draws(8 * n).split(n)]
            return mean(errors), pstdev(errors)

        denoiser = replace(known.denoiser, statistics=known.statistics)
        return cls(
            label=known.name,
            denoiser=denoiser,
            limits={},
            measure=error,
            floor=floor,
            n=n,
            batch_size=50,
            steps=steps,
            **options,
        )

    def alphas(self, T: int) -> list[float]:
        """Those that are searched at T."""
        if not self.searched:
            return [TABLE_1[T]] if T in TABLE_1 else []
        return list(ALPHAS[max(first for first in ALPHAS if first <= T)])

    def run(self, T: int, rule: int | None, first: str, kind: str) -> dict[str, Any]:
        """The measure of n samples with its spread, and the alpha; None if the run overflows.

        Args:
            kind: plain, automatic or an alpha.
        """
        asked: dict[str, Any] = {"steps": T, "first": first, "original_steps": rule, **self.limits}
        if kind != PLAIN:
            asked["alpha"] = "auto" if kind == AUTOMATIC else float(kind)
        decided = prescore.plan(self.denoiser, sampler="pc" if kind == PLAIN else "pds", **asked)
        row: dict[str, Any] = {"alpha": alpha_of(decided.sampler)}
        try:
            x = decided.sample(range(self.n), batch_size=min(self.batch_size, self.n), progress=False)
        except SamplingError:
            return row | {"distance": None, "error": None}
        number = torch.arange(self.n) % SETS
        parts = torch.tensor([self.measure(x[number != i]) for i in range(SETS)])
        error = math.sqrt((SETS - 1) * parts.var(correction=0).item())
        return row | {"distance": self.measure(x), "error": error}

    def run_all(self, runs: Runs) -> None:
        """All readings at all T, kept as they finish; at T0 both rules are one."""
        facts = {"readings": self.label, "n": self.n}
        kept(runs, facts, lambda: {"floor_of_readings": self.floor()})
        for T in self.steps:
            for rule in RULES.values() if T < T0 else (None,):
                for first in (first for first, most in self.orders.items() if most >= T):
                    for kind in (PLAIN, AUTOMATIC, *(f"{alpha:g}" for alpha in self.alphas(T))):
                        one = facts | {"T": T, "original_steps": rule, "first": first, "kind": kind}
                        kept(runs, one, lambda a=(T, rule, first, kind): self.run(*a))


@dataclass(frozen=True)
class Found:
    """The runs of one case.

    Attributes:
        label, n: of the case.
        steps: numbers of iterations T.
        floor: mean and spread of true samples.
        rows: of the runs, (rule, first, kind, T) -> row; kind "best" is that of the least distance of PDS.
    """

    label: str
    n: int
    steps: Sequence[int]
    floor: tuple[float, float]
    rows: Mapping[tuple[str, str, str, int], Mapping[str, Any]]

    @classmethod
    def all_of(cls, runs: Mapping[str, Any]) -> list["Found"]:
        """Those of all cases of which there are runs, those with the most samples first."""
        cases = dict.fromkeys((row["readings"], row["n"]) for row in runs.values() if "readings" in row)
        return [cls.of(runs, *case) for case in sorted(cases, key=lambda case: -case[1])]

    @classmethod
    def of(cls, runs: Mapping[str, Any], label: str, n: int) -> "Found":
        """Those of the case of that label and number of samples."""
        found: dict[tuple[str, str, str, int], dict[str, Any]] = {}
        own = rows(runs, readings=label, n=n)
        for name, rule in RULES.items():
            for row in own:
                if "T" in row and row["original_steps"] == (rule if row["T"] < T0 else None):
                    found[name, row["first"], row["kind"], row["T"]] = row
                    best = (name, row["first"], "best", row["T"])
                    if row["kind"] != PLAIN and row["distance"] is not None:
                        found[best] = min(found.get(best, row), row, key=lambda row: row["distance"])
        (floor,) = (tuple(row["floor_of_readings"]) for row in own if "floor_of_readings" in row)
        return cls(label, n, sorted({row["T"] for row in own if "T" in row}), floor, found)

    def distance(self, rule: str, first: str, kind: str, T: int) -> float | None:
        return self.rows.get((rule, first, kind, T), {}).get("distance")

    @property
    def readings(self) -> list[tuple[str, str]]:
        """(rule, first) that were run."""
        return list(dict.fromkeys((rule, first) for rule, first, _, _ in self.rows))

    def cell(self, rule: str, first: str, kind: str, T: int) -> str:
        """Distance and spread, with the alpha of PDS."""
        row = self.rows.get((rule, first, kind, T))
        if row is None:
            return ""
        if row["distance"] is None:
            return "–"
        own = "" if kind == PLAIN else f" ({shown(math.inf if row['alpha'] == WEAKEST_ALPHA else row['alpha'])})"
        return f"{cell(row['distance'])} ± {row['error']:.1g}{own}"

    @property
    def table(self) -> str:
        lines = []
        for rule, first in self.readings:
            for kind, name in ((PLAIN, "plain"), ("best", "PDS, best alpha"), (AUTOMATIC, "PDS, automatic")):
                lines.append([f"{rule}, {first} first", name, *(self.cell(rule, first, kind, T) for T in self.steps)])
        return table(["reading", "", *(f"T = {T}" for T in self.steps)], lines)

    def gain(self, rule: str, first: str, T: int) -> float | None:
        """The distance of plain over that of PDS with its best alpha."""
        plain, pds = (self.distance(rule, first, kind, T) for kind in (PLAIN, "best"))
        return None if plain is None or pds is None else plain / pds

    def nearer(self, kind: str) -> tuple[list[int], list[int], list[int]]:
        """The T at which a method is nearer with r kept, nearer by the rule, or equal; corrector first."""
        sides: tuple[list[int], list[int], list[int]] = ([], [], [])
        for T in self.steps:
            pair = [self.rows.get((rule, "corrector", kind, T)) for rule in RULES]
            if T < T0 and None not in pair:
                a, b = ((math.inf, 0.0) if row["distance"] is None else (row["distance"], row["error"]) for row in pair)
                sides[2 if abs(a[0] - b[0]) <= EQUAL * math.hypot(a[1], b[1]) else int(b[0] < a[0])].append(T)
        return sides


RULE_COLOURS = dict(zip(RULES, (BLUE, ORANGE), strict=True))


def draw(ax: Axes, found: Found) -> None:
    """Distance over T, corrector first, a colour for each rule: dashed plain, solid PDS with the best alpha."""
    ax.set(xscale="log", yscale="log", xlabel="T")
    true_samples(ax, *found.floor)
    for rule, colour in RULE_COLOURS.items():
        for kind, name, style, marker in ((PLAIN, "plain", "--", "s"), ("best", "PDS", "-", "^")):
            values = [found.distance(rule, "corrector", kind, T) for T in found.steps]
            finite = [math.nan if v is None else v for v in values]
            ax.plot(found.steps, finite, style, marker=marker, color=colour, label=f"{name}, {rule}")
    numbered(ax, found.steps)
    few_decades(ax)
    ax.margins(x=0.2)
    ax.set_title(found.label)


def listed(steps: Sequence[int]) -> str:
    return f"T = {', '.join(map(str, steps))}" if steps else "no T"


def text(all_found: Sequence[Found]) -> str:
    """The part of the section of docs/results.md."""
    parts = []
    for found in all_found:
        floor = f"{cell(found.floor[0])} ± {found.floor[1]:.1g}"
        parts.append(f"{found.label}, n = {found.n}; true samples have {floor}:\n\n{found.table}")
    tables = "\n\n".join(parts)
    steps = sorted({T for found in all_found for T in found.steps if T < T0})
    gains = [
        [found.label, f"{rule}, {first} first", *(found.gain(rule, first, T) or "" for T in steps)]
        for found in all_found
        for rule, first in found.readings
    ]
    gains.append(["CIFAR-10, FID", "the paper", *(FID[T][0] / FID[T][1] if T in FID else "" for T in steps)])
    sides = {kind: [found.nearer(kind) for found in all_found] for kind in (PLAIN, "best")}
    told = [
        f"{name}: "
        + "; ".join(
            f"{found.label} r kept at {listed(a)}, the rule at {listed(b)}"
            for found, (a, b, _) in zip(all_found, sides[kind], strict=True)
        )
        for kind, name in ((PLAIN, "plain"), ("best", "PDS with its best alpha"))
    ]
    pairs = [
        (found.gain(kept_r, "corrector", T) or math.nan, found.gain(by_rule, "corrector", T) or math.nan)
        for kept_r, by_rule in [tuple(RULES)]
        for found in all_found
        for T in found.steps
        if T < T0
    ]
    pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
    more = sum(a > b for a, b in pairs)
    paper = "; ".join(f"{plain:g} and {pds:g} at T = {T}" for T, (plain, pds) in FID.items())
    strengths = ", ".join(f"{TABLE_1[T]:g}" for T in FID)
    return f"""### The step rule of Section 7

Whenever T0 iterations are reduced to T0/c the paper expands "the step size eps_t to sqrt(c) eps_t". For the corrector
this is r sqrt(T0/T) in place of its signal-to-noise ratio r = 0.16 (`--original-steps {T0}`); the authors' script keeps
r, and corrects before it predicts, where Algorithm 2 predicts first. On CIFAR-10 the paper's FID, plain and PDS, is
{paper}, with alpha {strengths}. Here are the readings: on mixtures
(grey photographs, exact denoisers, levels from 100 to 0.02) the Frechet distance, on networks the error of the
spectrum. PDS has the best of a few alphas, which stand in brackets, Table 1's and the automatic one among them, or
this one; ± is the standard error of the jackknife over {SETS} sets of seeds.

{tables}

What PDS gains, the distance of plain over that of PDS with its best alpha:

{table(["", "reading", *(f"T = {T}" for T in steps)], gains)}

With the corrector first PDS gains more with r kept in {more} of {len(pairs)} cases. What is nearer, by more than
{EQUAL:g} standard errors: {". ".join(told)}.

By the rule corrections are longer and leave noise of their own, about r² T0/T of the level's, which no alpha takes
away: {0.16**2 * T0 / 20:.2f} at T = 20, {0.16**2 * T0 / 50:.2f} at 50. Where steps are fewest that is less than what
they repair. The papers' pattern, plain ruined at T = 50 and PDS near, is to be seen on the mixtures, clearest with r
kept, where PDS comes to true samples within its spread; at its size it is to be seen in no reading. "alpha against T"
has the rules without samples and for more T, and there PDS is nearer with r kept from T = 50 on, but for one case.
**So r is kept by default.** In some 20 steps the rule is worth trying. Which of corrector and predictor comes first
matters less.
"""
