"""How unequal the coordinates of the state are along the trajectory, plain, PDS and preconditioned: Figure 10.

    python experiments/conditioning.py --models mnist-ve

V_coo = sum_i (x_i - mean x)^2 and R_coo = max x - min x are the paper's measures of ill-conditioning (Section 8.1),
and it averages both over samples and steps. In unscaled coordinates x = x0 + sigma n most of either is the noise: at
the level sigma V_coo is at least (d - 1) sigma^2, whatever the sampler does, so that the curves along the trajectory
and the values at its end say more than the averages.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from drawing import GREY, LOOKS, legend_below, page
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Runs, add_options, command, output_folder, publish, table
from subjects import described
from trained import SHIPPED, Trained, add_models_options, alpha_of, steps_of

from prescore.errors import SamplingError
from prescore.metrics import Conditioning, coordinate_range, coordinate_variation
from prescore.samplers import Progress, Sampler

STEPS = 100  # of the paper
POINTS = 40  # of a curve that are kept


class Recorder:
    """A callback that keeps V_coo and R_coo of each step, and their averages."""

    def __init__(self) -> None:
        self.average = Conditioning()
        self.rows: list[tuple[float, float, float]] = []  # level, V_coo, R_coo

    def __call__(self, progress: Progress) -> None:
        self.average(progress)
        values = coordinate_variation(progress.x).mean(), coordinate_range(progress.x).mean()
        self.rows.append((progress.sigma_next, *(value.item() for value in values)))


def measure(model: Trained, sampler: Sampler, n: int) -> dict[str, Any] | None:
    """Averages, and some of the values along the trajectory; None if the run overflows."""
    recorder = Recorder()
    try:
        model.draw(sampler, n, recorder, batch_size=n)
    except SamplingError:
        return None
    rows = torch.tensor(recorder.rows, dtype=torch.float64)
    kept = rows[torch.linspace(0, len(rows) - 1, min(POINTS, len(rows))).round().long()]
    return {
        "V_coo": recorder.average.variation,
        "R_coo": recorder.average.range,
        "V_coo_end": rows[-1, 1].item(),
        "R_coo_end": rows[-1, 2].item(),
        "alpha": alpha_of(sampler),
        "sigma": kept[:, 0].tolist(),
        "V_along": kept[:, 1].tolist(),
        "R_along": kept[:, 2].tolist(),
    }


def over_plain(runs: Mapping[str, Any], name: str, key: str) -> tuple[list[float], list[float]]:
    """Noise levels, and a measure there over that of plain, which is interpolated along log sigma."""

    def curve(run: Mapping[str, Any]) -> tuple[list[float], list[float]]:
        pairs = sorted((math.log(s), math.log(v)) for s, v in zip(run["sigma"], run[key], strict=True) if s > 0)
        levels, values = zip(*pairs, strict=True)
        return list(levels), list(values)

    (levels, values), (of_plain, plain) = curve(runs[name]), curve(runs["plain"])
    inside = [(s, v) for s, v in zip(levels, values, strict=True) if of_plain[0] <= s <= of_plain[-1]]
    ratios = [math.exp(v - float(np.interp(s, of_plain, plain))) for s, v in inside]
    return [math.exp(s) for s, _ in inside], ratios


def draw_ratios(ax: Axes, runs: Mapping[str, Any], key: str) -> None:
    for name in runs:
        if name != "plain" and "plain" in runs:
            # Two solvers that agree are told apart by their signs, which alternate.
            first = list(runs).index(name) % 3
            ax.plot(*over_plain(runs, name, key), markevery=(first, 4), label=name, **LOOKS[name])
    ax.axhline(1, color=GREY, lw=1.2, ls="--", label="plain")
    ax.set_xscale("log")
    ax.invert_xaxis()


def draw(numbers: Mapping[str, Any]) -> Figure:
    """A column for each model, V_coo above R_coo."""
    results = by_model(numbers)
    figure = page(4.8)
    columns = figure.subplots(2, len(results), squeeze=False, sharex="col").T
    for (above, below), (model, runs) in zip(columns, results.items(), strict=True):
        draw_ratios(above, runs, "V_along")
        draw_ratios(below, runs, "R_along")
        above.set_title(model)
        below.set_xlabel("noise level σ, falling")
    columns[0][0].set_ylabel("V_coo / V_coo of plain")
    columns[0][1].set_ylabel("R_coo / R_coo of plain")
    figure.suptitle("Below 1 the coordinates of the state differ less than under the plain sampler")
    legend_below(figure, columns[0][0], len(LOOKS))
    return figure


def by_model(numbers: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The runs that did not overflow, by model and sampler."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, run in numbers["runs"].items():
        model, _, sampler = name.rpartition(", ")
        own = found.setdefault(model, {})
        if run is not None:
            own[sampler] = run
    return found


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    results, T, n = by_model(numbers), numbers["settings"]["T"], numbers["settings"]["n"]
    rows = [
        [model, name, *(run[key] for key in ("V_coo", "R_coo", "V_coo_end", "R_coo_end"))]
        for model, runs in results.items()
        for name, run in runs.items()
    ]
    head = ["model", "sampler", "V_coo", "R_coo", "V_coo at the end", "R_coo at the end"]
    names = f"{'is' if len(results) == 1 else 'are'} {numbers['models']}"
    complete = {model: runs for model, runs in results.items() if {"plain", "PDS"} <= runs.keys()}
    both = [m for m, runs in complete.items() if all(runs["PDS"][k] < runs["plain"][k] for k in ("V_coo", "R_coo"))]
    changes = [runs["PDS"][k] / runs["plain"][k] - 1 for runs in complete.values() for k in ("V_coo", "R_coo")]
    moved = f", changes of {min(changes):+.1%} to {max(changes):+.1%}" if changes else "; the others' runs overflow"
    alphas = {model: runs["PDS"]["alpha"] for model, runs in complete.items()}
    strengths = ", ".join(f"{model} {alpha:.3g}" if alpha else f"{model} none" for model, alpha in alphas.items())
    return f"""## Conditioning along the trajectory (Figure 10)

The paper averages the variation V_coo and the range R_coo of the coordinates over samples and iterations, T = 100,
for CIFAR-10, ImageNet and CelebA, and reports that PDS lowers both. Here {names}, T = {T} ({2 * T}
network calls, the solvers as many), {n} samples, alpha {strengths}:

{table(head, rows)}

![V_coo and R_coo along the trajectory, over those of plain](figures/conditioning.png)

The curves themselves fall by six orders of magnitude and lie on each other, so that the figure has what differs: V_coo
(above) and R_coo (below) over those of plain at the same noise level.

**{"Agrees in sign" if len(both) == len(results) else "Does not agree" if not both else "Agrees in part"}:** PDS
lowers both averages for {len(both)} of {len(results)} models{moved}.
The averages are mostly noise, at the level σ V_coo is at least (d-1)σ², and cannot fall by much. At the end, where it
is small, a state of smaller V_coo is no better conditioned but has less contrast: {n} samples are too few to say
whether less than the data's.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="V_coo and R_coo along the trajectory (PDS, Figure 10)")
    add_models_options(parser)
    parser.add_argument("--steps", type=int, help=f"T [{STEPS}, or the preset's]")
    parser.add_argument("--n", type=int, default=16, help="samples")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.steps, options.n = options.models[:1], 4, 2
    options.steps = steps_of(options, STEPS)
    settings = {"T": options.steps, "n": options.n} | ({"preset": options.preset} if options.preset else {})
    kept = Runs.open(options, "conditioning", settings)
    for name in options.models:
        model = Trained.open(name, options.statistics, options.config, options.preset)
        for label, sampler in model.contenders(options.steps).items():
            kept.get(f"{model.name}, {label}", partial(measure, model, sampler, options.n))
    names = "the shipped models" if tuple(options.models) == SHIPPED else described(options.models)
    publish(output_folder(options), "conditioning", draw, text, kept.numbers | {"models": names})


if __name__ == "__main__":
    command(main)
