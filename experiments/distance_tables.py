"""Frechet distance against the number of iterations T: Tables 2, 3, 5 and 7 of the PDS paper in form.

    python experiments/distance_tables.py --data natural.npz
    python experiments/distance_tables.py --data natural.npz --model mnist-ve --images mnist.npz --n-network 200

The main subject is an exact mixture (see subjects.py): patches of photographs whose denoiser is known. In unscaled
coordinates x = x0 + sigma n the same denoiser is a VE and a VP model of the data at once, for what sets VE and VP
apart in sampling is the grid of noise levels and the sampler. So both are compared on the same data and the same
network, which the paper, with weights of different trainings, could not do:

    VE    levels in geometric progression from 100 to 0.02 (50 to 0.01 for data in [0, 1], as published), then 0:
          the predictor-corrector sampler of Song et al., plain and PDS
    VP    levels uniform in the time of a schedule with linear betas (or cosine), then 0:
          DDPM, DDIM, Analytic-DDPM, Analytic-DDIM, PNDM

An iteration of the predictor-corrector sampler makes two network calls, one of the others makes one. The
preconditioned solvers are given T calls, so that they have never more than anything beside them, on their usual grid
over the VE and the VP range. F-PNDM takes nine calls more than steps: it has T calls too, and no row entry below 13.

PDS is run with the automatic alpha (`prescore.choose_alpha`) and with each of ALPHAS, of which the best is shown, as
the paper searched for its own by FID: best of several runs, where all others are single runs. The size of the score
that Analytic-DPM needs is measured on true samples. The readings of the paper's step rule are those of readings.py.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import readings
import torch
from drawing import LOOKS, ORANGE, PALE, PINK, label_ends, legend_below, numbered, page, true_samples
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Runs, add_options, cell, command, output_folder, publish, table
from subjects import Subject, add_network_options, kept, network, patches, rows, values
from torch import Tensor
from trained import alpha_of

import prescore
from prescore.errors import PrescoreError
from prescore.grid import geometric, uniform_t
from prescore.images import to_uint8
from prescore.metrics import inception_score, make_features
from prescore.samplers import Sampler
from prescore.schedule import VP, Cosine
from prescore.statistics import ModelStatistics

STEPS = (10, 20, 50, 100, 200, 400, 1000)
NETWORK_STEPS = (10, 20, 50)
RULE_STEPS = (20, 50, 100)
NETWORKS = {"natural-edm": (20, 50), "mnist-ve": (20,), "emoji-ve": (20,)}
NETWORKS_RUN = ["natural-edm", "mnist-ve"]
ALPHAS = (2.5, 5.0, 10.0, 20.0, 50.0)
SCORED = 500  # true samples that the size of the score is measured on
SOLVERS = ("p-ode-2m", "p-ode-3m", "p-sde-2m")
EXACT = "exact mixture"
AUTOMATIC, BEST = "PDS, automatic alpha", "PDS, best alpha"
Grid = Callable[[int, float, float], Tensor]
# In the figure; the others are pale.
HIGHLIGHTED: Mapping[str, Mapping[str, Any]] = {
    "plain": LOOKS["plain"],
    BEST: LOOKS["PDS"],
    "DDPM": {"color": PINK, "marker": "x"},
    "DDIM": {"color": ORANGE, "marker": "+"},
    "p-ode-3m": LOOKS["p-ode-3m"],
}
# name in the table: (name of the sampler, options). Two schedules where the paper has both.
VP_METHODS: Mapping[str, tuple[str, str]] = {
    "DDPM": ("ddpm", "linear"),
    "DDIM": ("ddim", "linear"),
    "Analytic-DDPM (linear)": ("analytic-ddpm", "linear"),
    "Analytic-DDPM (cosine)": ("analytic-ddpm", "cosine"),
    "Analytic-DDIM (linear)": ("analytic-ddim", "linear"),
    "Analytic-DDIM (cosine)": ("analytic-ddim", "cosine"),
    "PNDM (linear)": ("pndm", "linear"),
    "PNDM (cosine)": ("pndm", "cosine"),
}


def in_time_of(schedule: VP | Cosine) -> Grid:
    """Levels uniform in the time of a schedule, over a range, then 0."""

    def levels(steps: int, low: float, high: float) -> Tensor:
        own = replace(schedule, t_min=schedule.t(low).item(), t_max=schedule.t(high).item())
        return uniform_t(own, steps, final_zero=True)

    return levels


def ve_levels(steps: int, low: float, high: float) -> Tensor:
    return geometric(steps, low, high, final_zero=True)


GRIDS: Mapping[str, Grid] = {"linear": in_time_of(VP()), "cosine": in_time_of(Cosine())}


def with_range(subject: Subject, form: str) -> Subject:
    """The subject on the published range of a form; a network keeps its own."""
    if not subject.is_exact:
        return subject
    low, high = (0.02, 100.0) if form == "VE" else (VP().sigma_min, VP().sigma_max)
    return replace(subject, sigma_min=low, sigma_max=high)


def with_score(subject: Subject) -> Subject:
    """The subject with the size of its score, over both ranges, in the statistics."""
    ve, vp = with_range(subject, "VE"), with_range(subject, "VP")
    levels = geometric(24, min(ve.sigma_min, vp.sigma_min), max(ve.sigma_max, vp.sigma_max))
    low, high = subject.denoiser.data_range
    data = subject.sets[0][:SCORED]
    data = low + (high - low) * data.double() / 255 if data.dtype == torch.uint8 else data
    bound = max(data.abs().max().item(), 1.0)
    score = prescore.score_statistics(
        subject.denoiser, data, levels, data_range=(-bound, bound), batch_size=subject.batch_size
    )
    return replace(subject, statistics=replace(subject.statistics, model=ModelStatistics(score=score)))


def pds(subject: Subject, T: int, alpha: float | None) -> Sampler:
    """The predictor-corrector sampler on the VE grid; alpha = inf is plain, None automatic."""
    return subject.pds(alpha, grid=ve_levels(T, subject.sigma_min, subject.sigma_max))


def plan(subject: Subject, T: int) -> dict[str, Callable[[], Sampler]]:
    """What is run at T, by the name of the run."""
    ve, vp = with_range(subject, "VE"), with_range(subject, "VP")
    samplers: dict[str, Callable[[], Sampler]] = {
        "plain": lambda: pds(ve, T, math.inf),
        AUTOMATIC: lambda: pds(ve, T, None),
    }
    for alpha in ALPHAS:
        samplers[f"PDS, alpha {alpha:g}"] = lambda alpha=alpha: pds(ve, T, alpha)
    for label, (name, schedule) in VP_METHODS.items():
        options: dict[str, Any] = {"statistics": subject.statistics} if name.startswith("analytic") else {}
        options |= {"schedule": schedule} if name == "pndm" else {}
        samplers[label] = lambda n=name, s=schedule, o=options: vp.sampler(n, T, GRIDS[s], **o)
    for form, own in {"VE": ve, "VP": vp}.items() if subject.is_exact else {"own": subject}.items():
        for name in SOLVERS:
            samplers[f"{name}, {form} range"] = lambda name=name, own=own: own.sampler(name, T)
    return samplers


def run_all(subject: Subject, label: str, steps: Sequence[int], runs: Runs) -> None:
    """Each method at each T, kept as it finishes; a method that cannot be run at a T has no distance there."""
    scored = cache(lambda: with_score(subject))
    for T in steps:
        for name in plan(subject, T):

            def run(T: int = T, name: str = name) -> dict[str, Any]:
                try:
                    sampler = plan(scored(), T)[name]()
                    return subject.run(sampler) | {"alpha": alpha_of(sampler)}
                except PrescoreError:
                    return {"frechet": None}

            kept(runs, {"denoiser": label, "T": T, "method": name}, run)


def with_inception_score(subject: Subject, features: str) -> Subject:
    """The subject with the Inception score among its measures, if the features are those of a classifier."""
    extractor = make_features(features, subject.denoiser.event_shape)
    if extractor.logits is None:
        return subject
    logits, old = extractor.logits, subject.measures

    def measures(x: Tensor) -> dict[str, float]:
        pictures = x if x.dtype == torch.uint8 else to_uint8(x, subject.denoiser.data_range)
        return old(x) | {"inception": inception_score(torch.cat([logits(f) for f in extractor.batches(pictures)]))}

    return replace(subject, measures=measures)


@dataclass(frozen=True)
class Distances:
    """One measure of one subject.

    Args:
        label: of the subject.
        n: samples of a run.
        steps: numbers of iterations T.
        rows: values over T by method, None where it diverged or cannot be run.
        floor, spread: of n true samples.
    """

    label: str
    n: int
    steps: Sequence[int]
    rows: Mapping[str, Sequence[float | None]]
    floor: float
    spread: float

    @classmethod
    def of(
        cls, runs: Mapping[str, Any], label: str, n: int, steps: Sequence[int], measure: str = "frechet"
    ) -> Self | None:
        """From the runs; those of PDS with alphas of ALPHAS become one row, that of the least distance at each T.

        None if true samples were not measured so.
        """
        (true,) = (row["floor"] for row in rows(runs, denoiser=label) if "floor" in row)
        if measure not in true:
            return None
        found: dict[str, dict[int, Any]] = {}
        for row in rows(runs, denoiser=label):
            if "T" in row:
                found.setdefault(row["method"], {})[row["T"]] = row
        searched = [found.pop(f"PDS, alpha {alpha:g}") for alpha in ALPHAS]
        best = {T: min((row[T] for row in searched), key=lambda r: _or_inf(r["frechet"])) for T in steps}
        found = {name: found.pop(name) for name in ("plain", AUTOMATIC)} | {BEST: best} | found
        methods = {name: [row[T].get(measure) for T in steps] for name, row in found.items()}
        return cls(label, n, steps, methods, true[measure]["mean"], true[measure]["spread"])

    def best(self, chosen: Callable[[str], bool]) -> list[float | None]:
        """The least distance at each T of the methods that are chosen by name."""
        return [least(column) for column in zip(*(row for name, row in self.rows.items() if chosen(name)), strict=True)]

    def ahead(self, other: Sequence[float | None]) -> str:
        """The T at which PDS with its best alpha is below another row, in words."""
        pairs = zip(self.steps, self.rows[BEST], other, strict=True)
        found = [str(T) for T, own, its in pairs if own is not None and (its is None or own < its)]
        return f"T = {', '.join(found)}" if found else "no T"

    @property
    def table(self) -> str:
        lines = [[name, *row] for name, row in self.rows.items()]
        return table(["method", *(f"T = {T}" for T in self.steps)], lines)


def least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Distance against network calls, a panel for each subject; below, that of the readings of the step rule."""
    subjects, found = measured(numbers), readings.Found.all_of(numbers["runs"])
    figure = page(7.4)
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    axes = above.subplots(1, len(subjects), squeeze=False)[0]
    for ax, known in zip(axes, subjects, strict=True):
        draw_distances(ax, known)
    axes[0].set_ylabel("Frechet distance")
    axes = below.subplots(1, len(found), squeeze=False)[0]
    for ax, known in zip(axes, found, strict=True):
        readings.draw(ax, known)
    axes[0].set_ylabel("distance, or error of the spectrum")
    below.suptitle("The step rule: r kept, or made longer where steps are fewer")
    legend_below(below, axes[0], 5)
    return figure


def draw_distances(ax: Axes, known: Distances) -> None:
    """Distance against network calls: a few methods that speak for the others, which are pale."""
    ax.set(xscale="log", yscale="log", xlabel="network calls")
    ends = [true_samples(ax, known.floor, known.spread)]
    for name, row in known.rows.items():
        calls = [(2 if is_ve(name) else 1) * T for T in known.steps]
        points = [(n, v) for n, v in zip(calls, row, strict=True) if v is not None]
        shown = name.partition(", ")[0] if is_ours(name) else name
        look = HIGHLIGHTED.get(name if name in HIGHLIGHTED else shown)
        if look is None or name.endswith("VP range"):
            ax.plot(*zip(*points, strict=True), color=PALE, lw=1, zorder=1)
        elif points:
            ax.plot(*zip(*points, strict=True), **look)
            ends.append((points[-1][1], shown, look["color"]))
    numbered(ax, sorted({n for T in known.steps for n in (T, 2 * T)})[:: 2 if len(known.steps) > 3 else 1])
    worst = max(v for v in known.rows["plain"] if v is not None)
    ax.set_ylim(top=2 * worst)
    label_ends(ax, ends, gap=0.075)
    ax.set_title(f"{known.label}, n = {known.n}")


def is_ours(name: str) -> bool:
    return name.startswith(SOLVERS)


def is_ve(name: str) -> bool:
    return name == "plain" or name.startswith("PDS")


def measured(numbers: Mapping[str, Any], measure: str = "frechet") -> list[Distances]:
    """Of the mixture and of the network, if they have that measure."""
    runs, settings = numbers["runs"], numbers["settings"]
    found = []
    for label in values(runs, "denoiser"):
        n = settings["n"] if label == EXACT else settings["n_network"]
        steps = values({key: row for key, row in runs.items() if row.get("denoiser") == label}, "T")
        found.append(Distances.of(runs, label, n, steps, measure))
    return [distances for distances in found if distances is not None]


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    subjects, rule = measured(numbers), readings.text(readings.Found.all_of(numbers["runs"]))
    scores = next(iter(measured(numbers, "inception")), None)
    tables = "\n\n".join(
        f"{known.label}, n = {known.n}; true samples have {cell(known.floor)} ± {cell(known.spread)}:\n\n{known.table}"
        for known in subjects
    )
    exact = subjects[0]
    best = sorted(((name, least(row)) for name, row in exact.rows.items()), key=lambda pair: _or_inf(pair[1]))
    others = exact.best(lambda name: not is_ours(name) and not is_ve(name))
    ours = exact.best(is_ours)
    inception = ""
    if scores is not None:
        inception = f"""Inception score of the same samples (Table 4 in form) by the digit classifier, 10 at
most; true samples have {cell(scores.floor)}. In the paper PDS raises it from 1.54 to 9.53 at T = 50 on CIFAR-10:

{scores.table}
"""
    return f"""## Distance against T (Tables 2, 3, 5 and 7)

In the paper the FID on CIFAR-10 falls from 306.91 (T = 50) over 29.39 (100) to 2.23 (1000) for plain NCSN++, and from
4.90 over 2.90 to 1.99 with PDS, the best of its Table 7. At T = 50 PNDM (3.68), Analytic-DDIM (4.04) and Analytic-DDPM
with cosine betas (5.50) are near it, DDPM (66.28) is not. CelebA and ImageNet (Tables 3 and 5) look the same.

Here the first subject is exact, so that a sampler's error is all there is: patches of photographs of 8x8 pixels, a
mixture of 40 Gaussians, the same denoiser in VE and in VP form; Frechet distance in pixels. An iteration of plain and
PDS makes two network calls, one of the others makes one.

{tables}

![Frechet distance against network calls, and of the readings of the step rule](figures/distance_tables.png)

Above, distance against network calls: plain and PDS make two an iteration, so that they stand at 2 T, the others one.
Pale lines are the methods of the table that have no name in the figure. Below, against T, the readings of the step
rule (see there) with the corrector first.

{inception}
Best distance over T on the {exact.label} (Table 7 in form):

{table(["method", "Frechet distance"], best)}

What differs by less than the spread of true samples is equal. PDS with its best alpha is ahead of plain at
{exact.ahead(exact.rows["plain"])}, and ahead of the best of DDPM, DDIM, Analytic-DPM and PNDM at
{exact.ahead(others)}, where the paper has it so from T = 100 on. The best preconditioned solver has {cell(ours[0])}
with {exact.steps[0]} network calls, PDS {cell(exact.rows[BEST][0])} with {2 * exact.steps[0]}.

{rule}"""


def cases(options: argparse.Namespace, subject: Subject) -> list[readings.Case]:
    """What the readings of the step rule are run on: of large mixtures and networks as much as hours allow."""

    def exact(label: str, subject: Subject, steps: Sequence[int], **how: Any) -> readings.Case:
        return readings.Case.exact(label, with_range(subject, "VE"), steps, **how)

    def large(size: int, n: int) -> Subject:
        return replace(patches(options.data, n, options.quick, size), batch_size=100)

    if options.quick:
        return [exact("mixture of 8x8", subject, [3], searched=False)]
    once: dict[str, Any] = {"orders": {"corrector": math.inf}}
    found = [
        exact("mixture of 8x8", patches(options.data, options.n // 2, False), RULE_STEPS),
        exact("mixture of 16x16", large(16, options.n_large), (20, 50), **once),
    ]
    if options.n_whole:
        found.append(exact("mixture of 32x32", large(32, options.n_whole), (50,), searched=False, **once))
    few = {"searched": False, **once}
    return found + [readings.Case.network(name, options.n_pictures, NETWORKS[name], **few) for name in options.networks]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Frechet distance against T (PDS, Tables 2 to 5 and 7)")
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"), help="photographs of the mixture")
    add_network_options(parser, default="mnist-ve")
    parser.add_argument("--images", type=Path, help="its data; without them there is no second subject")
    parser.add_argument("--features", default="mnist-classifier", help="of the network's distance")
    parser.add_argument("--n", type=int, default=1000, help="samples of the mixture")
    parser.add_argument("--n-network", type=int, default=100, help="samples of the network")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--network-steps", type=int, nargs="+", default=list(NETWORK_STEPS))
    parser.add_argument("--n-large", type=int, default=300, help="samples of the mixture of 16x16, for the step rule")
    parser.add_argument("--n-whole", type=int, default=0, help="of that of 32x32; 0 leaves it out")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=NETWORKS_RUN, help="for the step rule")
    parser.add_argument("--n-pictures", type=int, default=16, help="samples of these")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.n_network, options.steps, options.network_steps = 20, 4, [4, 14], [3]
    settings = {"n": options.n, "n_network": options.n_network, "model": options.model, "features": options.features}
    runs = Runs.open(options, "distance_tables", settings)
    subjects = {EXACT: (patches(options.data, options.n, options.quick), options.steps)}
    if options.images is not None:
        own = network(options.model, options.images, options.features, options.n_network, options.config)
        subjects[options.model] = (with_inception_score(own, options.features), options.network_steps)
    for label, (subject, steps) in subjects.items():
        kept(runs, {"denoiser": label, "true": True}, lambda subject=subject: {"floor": subject.floor()})
        run_all(subject, label, steps, runs)
    for case in cases(options, subjects[EXACT][0]):
        case.run_all(runs)
    publish(output_folder(options), "distance_tables", draw, text, runs.numbers)


if __name__ == "__main__":
    command(main)
