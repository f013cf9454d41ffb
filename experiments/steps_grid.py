"""Pictures over the number of steps, plain above PDS: Figures 1 and 4 of the PDS paper, and 17 to 22 in form.

    python experiments/steps_grid.py --models mnist-ve natural-edm
    python experiments/steps_grid.py --models ffhq.pth --config ffhq1024-ncsnpp --preset pds-ffhq1024-t66 \
        --steps 33 66 --statistics ffhq.statistics.safetensors --folder out

One figure for each model: a column for each T, a row for each sampler, the same seeds everywhere. The preconditioned
solvers make as many network calls as the predictor-corrector sampler, two for each step. The table has the error of the
spectrum of the pictures shown.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from publish import add_options, command, output_folder, publish, table
from torch import Tensor
from trained import Trained, add_models_options, alpha_of

from prescore.errors import SamplingError
from prescore.metrics import power_spectrum_error

STEPS = (5, 10, 20, 50, 100)
DATA = {
    "mnist-ve": "digits",
    "natural-edm": "patches of photographs",
    "topography-edm": "the earth's relief",
    "emoji-ve": "emoji of 64x64 pixels",
}

Pictures = dict[tuple[str, int], Tensor | None]


def draw_all(model: Trained, steps: Sequence[int], n: int) -> tuple[Pictures, dict[str, Any]]:
    """Samples, None if a run overflows, by sampler and T, and their numbers."""
    pictures: Pictures = {}
    errors: dict[str, list[float | None]] = {}
    alphas = []
    for T in steps:
        for name, sampler in model.contenders(T).items():
            try:
                pictures[name, T] = model.draw(sampler, n)
            except SamplingError:
                pictures[name, T] = None
            x = pictures[name, T]
            errors.setdefault(name, []).append(None if x is None else power_spectrum_error(x, model.statistics))
            if name == "PDS":
                alphas.append(alpha_of(sampler))
    floor = power_spectrum_error(model.gaussian_draws(n), model.statistics)
    return pictures, {"n": n, "T": list(steps), "alpha": alphas, "spectrum_error": errors, "floor": floor}


def draw(model: Trained, pictures: Pictures, numbers: dict[str, Any], shown: int) -> Figure:
    """Rows of samplers, columns of T."""
    rows, columns = numbers["spectrum_error"], numbers["T"]
    figure = Figure(figsize=(1.55 * len(columns) + 0.3, 1.55 * len(rows) + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, name in zip(axes, rows, strict=True):
        for ax, T in zip(row, columns, strict=True):
            x = pictures[name, T]
            if x is None:
                ax.set(xticks=[], yticks=[])
                ax.text(0.5, 0.5, "diverges", ha="center", va="center", transform=ax.transAxes)
            else:
                model.show(ax, x[:shown], columns=max(1, round(shown**0.5)))
        row[0].set_ylabel(name, fontsize=9)
    for ax, T in zip(axes[0], columns, strict=True):
        ax.set_title(f"T = {T}, {2 * T} calls", fontsize=9)
    return figure


def text(model: Trained, numbers: dict[str, Any], figure: str) -> str:
    """The section of docs/results.md."""
    errors, T = numbers["spectrum_error"], numbers["T"]
    rows: list[list[Any]] = [[name, *values] for name, values in errors.items()]
    alphas = [f"{alpha:.3g}" if alpha else "none" for alpha in numbers["alpha"]]
    rows[1][0] = f"PDS (alpha {', '.join(alphas)})"
    plain, pds = errors["plain"], errors["PDS"]
    helps = [t for t, a, b in zip(T, plain, pds, strict=True) if b is not None and (a is None or b < 0.9 * a)]
    ours = [min(values) for values in zip(*(errors[name] for name in list(errors)[2:]), strict=True)]
    below = [t for t, a, b in zip(T, ours, pds, strict=True) if b is None or a < 0.9 * b]
    is_shipped = model.label == f"the shipped model `{model.name}`"
    what = DATA.get(model.name, "samples") if is_shipped else "samples"
    said = (
        f"**Agrees** at T = {', '.join(map(str, helps))}: PDS is more than a tenth below plain there."
        if helps
        else "**Does not agree:** PDS is at none of these T more than a tenth below plain."
    )
    return f"""## Pictures over T: `{model.name}` (Figures 1, 4)

The paper shows faces of 1024x1024 pixels (NCSN++ on FFHQ) and rooms and churches of 256x256 for ever fewer iterations
T: the plain sampler's fill with noise, those with PDS do not. Here are
{what}, {model.label}, the same seeds in every panel. The error of the spectrum of {numbers["n"]} samples (root mean
square over frequencies of log(power / power of the data)); as many draws from a Gaussian with the data's spectrum
have {numbers["floor"]:.2f}:

{table(["sampler", *(f"T = {t}, {2 * t} calls" for t in T)], rows)}

![{model.name}: samplers over T](figures/{figure}.png)

{said} The preconditioned solvers, at the same calls, are more than a tenth below PDS at
{"T = " + ", ".join(map(str, below)) if below else "none of these T"}.
"""


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
    for name in options.models:
        model = Trained.open(name, options.statistics, options.config, options.preset)
        pictures, numbers = draw_all(model, options.steps, options.n)
        figure = "steps_grid_" + re.sub(r"\W", "_", Path(name).stem)
        content = draw(model, pictures, numbers, min(options.shown, options.n))
        publish(output_folder(options), figure, content, numbers, text(model, numbers, figure))


if __name__ == "__main__":
    command(main)
