"""Pictures over the number of steps, plain above PDS: Figures 1 and 4 of the PDS paper, and 17 to 22 in form.

    python experiments/steps_grid.py --models mnist-ve natural-edm
    python experiments/steps_grid.py --models ffhq.pth --config ffhq1024-ncsnpp --preset pds-ffhq1024-t66 \
        --steps 33 66 --statistics ffhq.statistics.safetensors --folder out

One figure for each model: a column for each number of network calls, a row for each sampler, the same seeds everywhere.
A step of the predictor-corrector sampler makes two calls, one of the preconditioned solvers makes one, so that these
take twice as many steps. The error of the spectrum is that of --n samples, of which --shown are in the figure.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drawing import TERRAIN, height_bar, page, sheet
from matplotlib.figure import Figure
from publish import Pictures, Runs, add_options, cell, command, output_folder, publish, table
from subjects import rows, values
from torch import Tensor
from trained import Trained, add_models_options, alpha_of, is_relief

from prescore.errors import SamplingError
from prescore.metrics import power_spectrum_error
from prescore.samplers import Sampler

STEPS = (5, 10, 20, 50, 100)
DATA = {
    "mnist-ve": "digits",
    "natural-edm": "patches of photographs",
    "topography-edm": "the earth's relief",
    "emoji-ve": "emoji of 64x64 pixels",
}


def measure(model: Trained, sampler: Sampler, n: int) -> dict[str, Any]:
    """Network calls, alpha, and the error of the spectrum of n samples, None if the run overflows."""
    steps = sampler.steps if sampler.grid is None else len(sampler.grid) - 1
    row: dict[str, Any] = {"steps": steps, "calls": sampler.total_calls(steps), "alpha": alpha_of(sampler)}
    try:
        return row | {"spectrum_error": power_spectrum_error(model.draw(sampler, n), model.statistics)}
    except SamplingError:
        return row | {"spectrum_error": None}


def run_all(model: Trained, steps: Sequence[int], n: int, shown: int, runs: Runs, pictures: Pictures) -> None:
    """Each sampler at each T, kept as it finishes, and the pictures of the first samples."""
    for T in steps:
        for name, sampler in model.contenders(T).items():
            facts = {"sampler": name, "T": T}
            runs.get(key(name, T), lambda facts=facts, sampler=sampler: facts | measure(model, sampler, n))
            pictures.get(key(name, T), lambda sampler=sampler: model.pictures(sampler, shown))
    runs.get("true", lambda: {"floor": power_spectrum_error(model.gaussian_draws(n), model.statistics)})


def key(sampler: str, T: int) -> str:
    return f"{sampler}, T {T}"


def draw(numbers: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Figure:
    """Rows of samplers, columns of network calls."""
    runs, model = numbers["runs"], numbers["settings"]["model"]
    names, steps = values(runs, "sampler"), values(runs, "T")
    figure = page(0.5 + 1.78 * len(names))
    axes = figure.subplots(len(names), len(steps), squeeze=False)
    for line, name in zip(axes, names, strict=True):
        for ax, T in zip(line, steps, strict=True):
            x, row = pictures[key(name, T)], runs[key(name, T)]
            sheet(ax, x, columns=max(1, round(len(x) ** 0.5)), colours=TERRAIN if is_relief(model) else "gray")
            ax.set_xlabel(f"error {cell(row['spectrum_error'])}")
        each = runs[key(name, steps[0])]["calls"] // runs[key(name, steps[0])]["steps"]
        line[0].set_ylabel(f"{name}\n{each} call{'s' * (each > 1)} a step")
    for ax, T in zip(axes[0], steps, strict=True):
        ax.set_title(f"{runs[key(names[0], T)]['calls']} network calls", loc="center")
    if is_relief(model):
        height_bar(figure, axes)
    floor = cell(runs["true"]["floor"])
    figure.suptitle(f"{model}: the same seeds in each panel, and the error of the spectrum (true samples: {floor})")
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    settings, runs = numbers["settings"], numbers["runs"]
    steps, model = values(runs, "T"), settings["model"]
    errors = {
        name: [rows(runs, sampler=name, T=T)[0]["spectrum_error"] for T in steps] for name in values(runs, "sampler")
    }
    lines: list[list[Any]] = [[name, *found] for name, found in errors.items()]
    strengths = [rows(runs, sampler="PDS", T=T)[0]["alpha"] for T in steps]
    lines[1][0] = f"PDS (alpha {', '.join(f'{alpha:.3g}' if alpha else 'none' for alpha in strengths)})"
    plain, pds = errors["plain"], errors["PDS"]
    helps = [t for t, a, b in zip(steps, plain, pds, strict=True) if b is not None and (a is None or b < 0.9 * a)]
    ours = [min(found) for found in zip(*(errors[name] for name in list(errors)[2:]), strict=True)]
    below = [2 * t for t, a, b in zip(steps, ours, pds, strict=True) if b is None or a < 0.9 * b]
    is_shipped = settings["label"] == f"the shipped model `{model}`"
    what = DATA.get(model, "samples") if is_shipped else "samples"
    said = (
        f"**Agrees** at {listed([2 * T for T in helps])} calls (T = {', '.join(map(str, helps))}): PDS is more than a "
        "tenth below plain there."
        if helps
        else "**Does not agree:** PDS is at none of these T more than a tenth below plain."
    )
    figure = figure_name(model)
    return f"""## Pictures over T: `{model}` (Figures 1, 4)

The paper shows faces of 1024x1024 pixels (NCSN++ on FFHQ) and rooms and churches of 256x256 for ever fewer iterations
T: the plain sampler's fill with noise, those with PDS do not. Here are
{what}, {settings["label"]}, the same seeds in every panel. A step of plain and PDS makes two network calls, so that
T = {steps[0]} is {2 * steps[0]} calls; one of the preconditioned solvers makes one, and they take twice as many steps.
The error of the spectrum of {settings["n"]} samples (root mean square over frequencies of log(power / power of the
data)); as many draws from a Gaussian with the data's spectrum have {runs["true"]["floor"]:.2f}:

{table(["sampler", *(f"{2 * t} calls" for t in steps)], lines)}

![{model}: samplers over network calls](figures/{figure}.png)

{said} The preconditioned solvers are more than a tenth below PDS at
{listed(below) + " calls" if below else "none of these numbers of calls"}.
"""


def listed(calls: Sequence[int]) -> str:
    return ", ".join(map(str, calls))


def figure_name(model: str) -> str:
    return "steps_grid_" + re.sub(r"\W", "_", Path(model).stem)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pictures over the number of steps (PDS, Figures 1 and 4)")
    add_models_options(parser)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of steps T")
    parser.add_argument("--n", type=int, default=16, help="samples of each run")
    parser.add_argument("--shown", type=int, default=4, help="of them shown")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.steps, options.n = options.models[:1], [2, 4], 4
    for one in options.models:
        model = Trained.open(one, options.statistics, options.config, options.preset)
        name = figure_name(model.name)
        settings = {"model": model.name, "label": model.label, "n": options.n}
        settings |= {"preset": options.preset} if options.preset else {}
        runs, pictures = Runs.open(options, name, settings), Pictures.open(options, name)
        run_all(model, options.steps, options.n, min(options.shown, options.n), runs, pictures)
        publish(output_folder(options), name, draw, text, runs.numbers, pictures.pictures)


if __name__ == "__main__":
    command(main)
