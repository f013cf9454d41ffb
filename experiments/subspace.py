"""Subspace diffusion beside PDS, at equal iterations and at equal time: Table 9 and Figure 9 of the PDS paper.

    python experiments/subspace.py --data natural.npz

Subspace diffusion (Jing et al.; `prescore.subspace_sample`) runs the high noise levels at half the resolution with a
network of its own, and comes back to the full one at a switch. The subject is an exact mixture (subjects.py): patches
of 8x8 pixels, and their means of 2x2 pixels, 4x4 of them, have exact denoisers both, so that no network favours one
of the two. What is neglected at the switch is what makes subspace diffusion wrong: the detail is drawn from a
Gaussian with one variance v, independent of the rest. Two switches are tried, at SWITCHES times sqrt(v).

All run the predictor-corrector sampler on the same levels, plain but for PDS. The unit of time is a network call at the
full resolution; one at half the resolution counts a quarter, as for convolutions. "Equal time" gives subspace diffusion
more steps, so that its time is that of plain with T steps.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from drawing import LOOKS, ORANGE, PINK, label_ends, numbered, page, true_samples
from matplotlib.figure import Figure
from publish import Runs, add_options, cell, command, output_folder, publish, table
from subjects import Subject, halved, kept, patches, rows, values

import prescore
from prescore.errors import PrescoreError
from prescore.grid import geometric
from prescore.samplers import PredictorCorrector
from prescore.samplers.subspace import BlockMeans, Stage, orthonormal

TICKS = (10, 20, 50, 100, 200, 400)
STEPS = (10, 20, 50, 100, 200)
ALPHAS = (2.5, 5.0, 10.0, 20.0)
SWITCHES = {"early": 1.0, "late": 4.0}
VE_RANGE = (0.02, 100.0)
COARSE = 1 / 4  # of the time of a call
SOLVERS = ("p-ode-2m", "p-ode-3m")


def levels(T: int) -> torch.Tensor:
    return geometric(T, *VE_RANGE, final_zero=True)


def stages(subject: Subject, T: int, switch: float) -> list[Stage]:
    """Half the resolution above the switch, in units of the detail's standard deviation, and the full one below."""
    fine = subject.denoiser
    blocks = BlockMeans(fine.event_shape, (1, *(n // 2 for n in fine.event_shape[1:])))
    mean, variance = blocks.moments(subject.sets[0])
    means = prescore.Denoiser(
        halved(fine.function), blocks.coarse, fine.sigma_min / 2, VE_RANGE[1] / 2, dtype=torch.float64
    )
    sampler = PredictorCorrector(grid=levels(T))
    return [
        Stage(orthonormal(means, blocks), sampler),
        Stage(fine, sampler, switch * math.sqrt(variance), variance, mean),
    ]


def through_subspace(subject: Subject, T: int, switch: float) -> dict[str, Any]:
    """The distance of subspace diffusion, and its time."""
    result = prescore.subspace_sample(
        stages(subject, T, switch), seeds=range(subject.n), batch_size=subject.batch_size, progress=False
    )
    coarse, fine = result.calls.values()
    calls = {"calls": coarse + fine, "time": fine + COARSE * coarse}
    return subject.measures(result.x) | calls


def steps_of_equal_time(subject: Subject, T: int, switch: float) -> int:
    """The largest number of steps of subspace diffusion that take no more time than plain with T."""
    below = stages(subject, T, switch)[1].below

    def time(steps: int) -> float:
        fine = int((levels(steps)[:-1] <= below).sum())
        return 2 * (fine + COARSE * (steps - fine))

    return next(steps for steps in range(math.ceil(T / COARSE), 0, -1) if time(steps) <= 2 * T)


def pds(subject: Subject, T: int, alpha: float) -> dict[str, Any]:
    row = subject.run(subject.pds(alpha, grid=levels(T)))
    return row | {"time": row["calls"], "alpha": None if math.isinf(alpha) else alpha}


def best_pds(subject: Subject, T: int) -> dict[str, Any]:
    """The run of the alpha with the least distance."""
    found = [pds(subject, T, alpha) for alpha in ALPHAS]
    return min(found, key=lambda row: math.inf if row["frechet"] is None else row["frechet"])


def solver(subject: Subject, name: str, T: int) -> dict[str, Any]:
    """A preconditioned solver with as many network calls as plain has in T iterations."""
    row = subject.run(replace(subject, sigma_min=VE_RANGE[0], sigma_max=VE_RANGE[1]).sampler(name, 2 * T))
    return row | {"time": row["calls"]}


def plan(subject: Subject, T: int) -> dict[str, Callable[[], Mapping[str, Any]]]:
    """What is run at T, by method."""
    runs: dict[str, Callable[[], Mapping[str, Any]]] = {
        "plain": lambda: pds(subject, T, math.inf),
        "PDS, best alpha": lambda: best_pds(subject, T),
    }
    for name, switch in SWITCHES.items():
        runs[f"subspace, {name} switch"] = lambda switch=switch: through_subspace(subject, T, switch)
        runs[f"subspace, {name} switch, equal time"] = lambda switch=switch: through_subspace(
            subject, steps_of_equal_time(subject, T, switch), switch
        )
    return runs | {name: lambda name=name: solver(subject, name, T) for name in SOLVERS}


def finished(run: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """The numbers of a run; a distance of None if it overflows, or the switch leaves no step to one of the stages."""
    try:
        return run()
    except PrescoreError:
        return {"frechet": None, "calls": None, "time": None}


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Distance against network calls, and against time in units of a call at the full resolution."""
    runs = numbers["runs"]
    looks = {
        "plain": LOOKS["plain"],
        "PDS, best alpha": LOOKS["PDS"],
        "subspace, early switch": {"color": ORANGE, "marker": "<", "ls": "--"},
        "subspace, late switch": {"color": PINK, "marker": ">", "ls": "--"},
        **{name: LOOKS[name] for name in SOLVERS},
    }
    figure = page(4.2)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, key, label in zip(
        axes, ("calls", "time"), ("network calls", "time, in calls at full resolution"), strict=True
    ):
        ax.set(xscale="log", yscale="log", xlabel=label)
        ends = [true_samples(ax, **rows(runs, true=True)[0]["floor"]["frechet"])]
        for name, look in looks.items():
            points = [(row[key], row["frechet"]) for row in by_method(runs)[name] if row["frechet"] is not None]
            if points:
                ax.plot(*zip(*points, strict=True), **look)
                ends.append((points[-1][1], name, look["color"]))
        numbered(ax, TICKS)
    label_ends(axes[1], ends, gap=0.07)
    axes[0].set(ylabel="Frechet distance", title="Over network calls")
    axes[1].set_title("Over time: calls at half the resolution are cheap")
    return figure


def by_method(runs: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in runs.values():
        if "T" in row:
            found.setdefault(row["method"], []).append(row)
    return found


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, n = numbers["runs"], numbers["settings"]["n"]
    steps, floor = values(runs, "T"), rows(runs, true=True)[0]["floor"]["frechet"]
    found = {name: {row["T"]: row for row in own} for name, own in by_method(runs).items()}
    lines = [[name, *(own[T]["frechet"] for T in steps)] for name, own in found.items()]
    times = [[name, *(own[T]["time"] for T in steps)] for name, own in found.items() if name.startswith("subspace")]

    def wins(suffix: str) -> str:
        rivals = [f"subspace, {name} switch{suffix}" for name in SWITCHES]
        own = found["PDS, best alpha"]
        ahead = [
            str(T)
            for T in steps
            if all((v := found[r][T]["frechet"]) is None or (own[T]["frechet"] or math.inf) < v for r in rivals)
        ]
        return f"T = {', '.join(ahead)}" if ahead else "no T"

    early, late = (cell(value) for value in SWITCHES.values())
    return f"""## Subspace diffusion (Table 9, Figure 9)

In the paper PDS is ahead of subspace diffusion on CIFAR-10 at equal iterations (FID 4.90 beside 386.70 at T = 50,
2.90 beside 64.05 at 100, 1.99 beside 2.17 at 1000) and at equal time. Here both run on an exact mixture (patches of
photographs, 8x8 pixels, and their 4x4 block means, whose denoiser is exact too), n = {n}, with the
predictor-corrector sampler on the same levels; the switch comes where the noise is {early} (early) or {late} (late)
times the standard deviation of the detail. Frechet distance in pixels; {n} true samples have {cell(floor["mean"])} ±
{cell(floor["spread"])}. The solvers make as many network calls as plain, 2 T:

{table(["method", *(f"T = {T}" for T in steps)], lines)}

Time of the subspace runs, in network calls at the full resolution (plain has 2 T; a call at half the resolution
counts a quarter):

{table(["method", *(f"T = {T}" for T in steps)], times)}

![Frechet distance against calls and against time](figures/subspace.png)

PDS is ahead of both subspace runs at {wins("")} with equal iterations, and at {wins(", equal time")} with equal time.
Subspace diffusion does not touch the fault of plain sampling at few steps, and its own error is that of the switch,
which remains at any T.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Subspace diffusion beside PDS (Table 9 and Figure 9)")
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"), help="photographs of the mixture")
    parser.add_argument("--n", type=int, default=1000, help="samples of each run")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of iterations T")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.steps = 20, [6, 10]
    subject = patches(options.data, options.n, options.quick)
    runs = Runs.open(options, "subspace", {"n": options.n})
    kept(runs, {"true": True}, lambda: {"floor": subject.floor()})
    for T in options.steps:
        for name, run in plan(subject, T).items():
            kept(runs, {"T": T, "method": name}, lambda run=run: finished(run))
    publish(output_folder(options), "subspace", draw, text, runs.numbers)


if __name__ == "__main__":
    command(main)
