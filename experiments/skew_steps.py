"""The skew-symmetric term S1 over the number of steps T: Figures 12 and 13 of the PDS paper, which have one T.

    python experiments/skew_steps.py

skew.py has all seven operators at T = 66, four of which are zero on images. Here S1, which is not, over T and omega: is
the spectrum of the pictures better or worse than that of the same seeds without a term? Where the term is strong, the
corrector stands still (skew.py says why), and the control is the same sampler without a corrector.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean, stdev
from typing import Any

from drawing import BLACK, BLUE, GREY, ORANGE, SKY, legend_below, page
from matplotlib.figure import Figure
from publish import Runs, add_options, cell, command, output_folder, publish, table
from subjects import kept, rows, values
from trained import Trained, add_model_options

import prescore
from prescore.errors import SamplingError
from prescore.metrics import power_spectrum_error
from prescore.operators import RollSkew
from prescore.precondition import Preconditioner
from prescore.samplers import Sampler

NAME = "skew_steps"
STEPS = (10, 20, 66, 200)
OMEGAS = (1.0, 10.0, 1000.0)
NONE, CONTROL = "none", "no corrector"
SEEDS = 3  # sets of seeds
HUES = (SKY, BLUE, ORANGE)


def samplers(model: Trained, T: int, omegas: Sequence[float]) -> dict[str, Sampler]:
    """PDS without a term, with S1 of each weight, and without a corrector."""
    base = model.pds(T)
    found: dict[str, Sampler] = {NONE: base}
    for omega in omegas:
        M = Preconditioner(base.M.M, skew=RollSkew((1, 1)), omega=omega, label=base.M.label, alpha=base.M.alpha)
        found[f"{omega:g}"] = replace(base, preconditioner=M)
    return found | {CONTROL: replace(base, corrector="none")}


def measure(model: Trained, sampler: Sampler, n: int, first: int) -> dict[str, Any]:
    """The error of the spectrum of n samples from the seed `first` on; None if the run overflows."""
    seeds = range(first, first + n)
    try:
        x = prescore.sample(model.denoiser, sampler, seeds=seeds, batch_size=n, progress=False)
    except SamplingError:
        return {"spectrum": None}
    return {"spectrum": power_spectrum_error(x, model.statistics)}


def figures(runs: Mapping[str, Any], T: int, omega: str) -> list[float]:
    return [row["spectrum"] for row in rows(runs, T=T, omega=omega) if row["spectrum"] is not None]


def shown(numbers: Sequence[float]) -> str:
    if not numbers:
        return "–"
    return cell(mean(numbers)) + (f" ± {cell(stdev(numbers))}" if len(numbers) > 1 else "")


def gain(runs: Mapping[str, Any], T: int, omega: str) -> tuple[float, float]:
    """By how much S1 raises the error, with the same seeds: mean, and the standard error of it over the sets."""
    own, bare = (
        {row["set"]: row["spectrum"] for row in rows(runs, T=T, omega=name) if row["spectrum"] is not None}
        for name in (omega, NONE)
    )
    found = [own[k] - bare[k] for k in own.keys() & bare.keys()]
    return mean(found), stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0


def moved(runs: Mapping[str, Any]) -> dict[bool, list[str]]:
    """Where S1 lowers the error (True), and where it raises it, by more than two standard errors."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for T in values(runs, "T"):
        for omega in (omega for omega in values(runs, "omega") if omega not in (NONE, CONTROL)):
            if figures(runs, T, omega) and figures(runs, T, NONE):
                change, error = gain(runs, T, omega)
                if abs(change) > 2 * error:
                    found[change < 0].append(f"T = {T}, ω = {omega}")
    return found


def draw(numbers: Mapping[str, Any]) -> Figure:
    """The error of the spectrum, a group of bars for each T."""
    runs = numbers["runs"]
    steps, omegas = values(runs, "T"), values(runs, "omega")
    colours = {NONE: BLACK, CONTROL: GREY} | dict(
        zip((o for o in omegas if o not in (NONE, CONTROL)), HUES, strict=False)
    )
    figure = page(3.8)
    ax, width = figure.subplots(), 0.8 / len(omegas)
    for i, omega in enumerate(omegas):
        label = {NONE: "no term", CONTROL: CONTROL}.get(omega, f"S1, ω = {omega}")
        for place, T in enumerate(steps):
            own, x = figures(runs, T, omega), place + (i - (len(omegas) - 1) / 2) * width
            if own:
                spread = stdev(own) if len(own) > 1 else 0
                ax.bar(x, mean(own), 0.9 * width, yerr=spread, color=colours[omega], label=None if place else label)
    ax.set_xticks(range(len(steps)), [f"T = {T}" for T in steps])
    ax.grid(visible=False, axis="x")
    ax.set(ylabel="error of the spectrum")
    said = "A term S1 lowers the error somewhere" if moved(runs)[True] else "No term S1 lowers the error"
    ax.set_title(f"{said}; bars: standard deviation over sets of seeds")
    legend_below(figure, ax, len(omegas))
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, settings = numbers["runs"], numbers["settings"]
    steps, omegas = values(runs, "T"), values(runs, "omega")
    lines = [[T, *(shown(figures(runs, T, omega)) for omega in omegas)] for T in steps]
    head = ["T", *(o if o in (NONE, CONTROL) else f"ω = {o}" for o in omegas)]
    lowered, raised = ("; ".join(moved(runs)[is_lower]) or "no T" for is_lower in (True, False))
    said = "**Agrees that S1 is of no use.**" if not moved(runs)[True] else "**S1 lowers the error somewhere.**"
    verdict = (
        f"{said} By more than twice its standard error it lowers the error at {lowered}, and raises it at {raised}."
    )
    return f"""## S1 over T (Figures 12, 13)

The paper shows skew-symmetric terms at T = 66 alone. Here S1, which is not zero on images, over T:
{settings["label"]}, the error of the spectrum of {settings["n"]} samples, mean and standard deviation over
{len(values(runs, "set"))} sets of seeds, the same in each column:

{table(head, lines)}

![Error of the spectrum over T](figures/{NAME}.png)

{verdict} "{CONTROL}" is PDS without one, which a strong term brings to a stand. A dash is a run that overflows.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The skew term S1 over T (PDS, Figures 12 and 13)")
    add_model_options(parser, "--model", default="mnist-ve")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of steps T")
    parser.add_argument("--n", type=int, default=16, help="samples of each run")
    parser.add_argument("--sets", type=int, default=SEEDS, help="sets of seeds")
    parser.add_argument("--omegas", type=float, nargs="+", default=list(OMEGAS))
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.n, options.omegas, options.sets = [3, 4], 2, [1.0, 1000.0], 2
    model = Trained.open(options.model, options.statistics, options.config, options.preset)
    settings = {"n": options.n, "model": model.name, "label": model.label} | (
        {"preset": options.preset} if options.preset else {}
    )
    runs = Runs.open(options, NAME, settings)
    for T in options.steps:
        for omega, sampler in samplers(model, T, options.omegas).items():
            for k in range(options.sets):
                run = partial(measure, model, sampler, options.n, k * options.n)
                kept(runs, {"T": T, "omega": omega, "set": k}, run)
    publish(output_folder(options), NAME, draw, text, runs.numbers)


if __name__ == "__main__":
    command(main)
