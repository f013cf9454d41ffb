"""Deterministic against stochastic sampling over S_churn, with an exact denoiser, a faulty one, and networks.

Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, Figures 4, 5b and 15: churn (Algorithm 2) makes up for errors of sampling and of the
network, needs S_tmin, S_tmax and S_noise > 1 to be at its best, and stops to pay, or does harm, where the network is
good. S_noise > 1 is explained there by networks that remove too much noise.

Here that explanation is put to the test where everything is known. Patches of photographs have an exact denoiser
(subjects.py); a faulty one takes the noise for `FAULT` times stronger than it is and so removes too much,

    D'(x; sigma) = D(x; FAULT sigma).

On Gaussian data N(0, c), c small beside sigma_max^2, its probability flow ends at the variance c / FAULT^2, and so does
Langevin dynamics at any level, unless its noise is made S_noise times larger: at S_noise^2 (c + FAULT^2 sigma^2) /
FAULT^2. Churn alone thus cannot repair this fault, and S_noise can.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from drawing import BLACK, BLUE, LOOKS, ORANGE, PINK, RED, legend_below, page, true_samples
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Runs, add_options, cell, command, output_folder, publish, table
from subjects import Subject, add_network_options, floor_text, kept, network, patches, rows, values
from torch import Tensor

NAME = "edm_stochasticity"
FAULT = 1.03
S_CHURN = (3.0, 8.0, 20.0, 50.0, 120.0)
STEPS = (18, 40)
CIFAR_VE = {"S_tmin": 0.05, "S_tmax": 1.0, "S_noise": 1.007}  # Table 5 of the paper, with S_churn = 80
EVERYWHERE = {"S_tmin": 0.0, "S_tmax": math.inf}
VARIANTS: Mapping[str, Mapping[str, float]] = {
    "S_tmin, S_tmax, S_noise": CIFAR_VE,
    "S_noise = 1": CIFAR_VE | {"S_noise": 1.0},
    "S_tmin, S_tmax = 0, ∞": CIFAR_VE | EVERYWHERE,
    "churn alone": CIFAR_VE | EVERYWHERE | {"S_noise": 1.0},
}
# Not EDM's: the stochastic samplers of Song et al. that the paper compares with, and ours.
DETERMINISTIC = "deterministic"
OTHERS = ("euler-maruyama", "pc", "p-ode-2m", "p-ode-3m")


def faulty(subject: Subject) -> Subject:
    """The subject with a denoiser that takes the noise for stronger than it is."""
    exact = subject.denoiser

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return exact.function(x, FAULT * sigma)

    return replace(subject, denoiser=replace(exact, function=denoise))


def churns(steps: int) -> list[float]:
    """S_churn up to the first value at which gamma has reached its bound, sqrt(2) - 1."""
    bound = steps * (math.sqrt(2) - 1)
    return [S for i, S in enumerate(S_CHURN) if i == 0 or S_CHURN[i - 1] < bound]


def sweep(runs: Runs, label: str, subject: Subject, steps: Sequence[int]) -> None:
    """All runs of one denoiser; of a network, whose calls are dear, only those with the most churn."""
    kept(runs, {"denoiser": label, "samples": "true"}, lambda: {"n": subject.n, "true": subject.floor()})
    for N in steps:
        budget = 2 * N - 1
        samplers = [(DETERMINISTIC, 0.0, subject.sampler("edm-heun", budget))]
        for variant, settings in VARIANTS.items():
            for S in churns(N) if subject.is_exact else churns(N)[-1:]:
                sampler = subject.sampler("edm-stochastic", budget, S_churn=S, **bounded(subject, settings))
                samplers.append((variant, S, sampler))
        samplers += [(name, 0.0, subject.sampler(name, budget)) for name in OTHERS]
        for name, S, sampler in samplers:
            facts = {"denoiser": label, "budget": budget, "sampler": name, "S_churn": S}
            kept(runs, facts, partial(subject.run, sampler))


def bounded(subject: Subject, settings: Mapping[str, float]) -> dict[str, float | None]:
    """Settings in the units of the subject; no upper bound is the highest level that the model knows."""
    S_tmax: float | None = subject.unit * settings["S_tmax"]
    if settings["S_tmax"] == math.inf and not subject.is_exact:
        S_tmax = None
    return {"S_tmin": subject.unit * settings["S_tmin"], "S_tmax": S_tmax, "S_noise": settings["S_noise"]}


def best(runs: Mapping[str, Any], label: str, budget: int, sampler: str) -> dict[str, Any]:
    """The row with the lowest distance."""
    return min(rows(runs, denoiser=label, budget=budget, sampler=sampler), key=lambda row: row["frechet"] or math.inf)


def budgets(runs: Mapping[str, Any], label: str) -> list[int]:
    return [row["budget"] for row in rows(runs, denoiser=label, sampler=DETERMINISTIC)]


def report(runs: Mapping[str, Any], label: str) -> str:
    """The table of one denoiser."""
    lines = []
    for sampler in (DETERMINISTIC, *VARIANTS, *OTHERS):
        found = [best(runs, label, budget, sampler) for budget in budgets(runs, label)]
        entries = [cell(row["frechet"]) + (f" ({row['S_churn']:g})" if row["S_churn"] else "") for row in found]
        lines.append([f"`{sampler}`" if sampler in OTHERS else sampler, *entries])
    return table([label, *(f"{budget} calls" for budget in budgets(runs, label))], lines)


LINES = {  # of the figure: colour, marker and dash of each variant
    "S_tmin, S_tmax, S_noise": (PINK, "o", "-"),
    "S_noise = 1": (BLUE, "s", "-"),
    "S_tmin, S_tmax = 0, ∞": (ORANGE, "^", "--"),
    "churn alone": (RED, "v", "--"),
}


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Distance, and excess of detail where it is known, against S_churn; a row for each denoiser and budget."""
    runs = numbers["runs"]
    panels = [(label, budget) for label in values(runs, "denoiser") for budget in budgets(runs, label)]
    figure = page(0.6 + 1.75 * len(panels))
    axes = figure.subplots(len(panels), 2, squeeze=False)
    for line, panel in zip(axes, panels, strict=True):
        draw_panel(line[0], runs, *panel, "frechet")
        if "detail" in best(runs, *panel, DETERMINISTIC):
            draw_panel(line[1], runs, *panel, "detail")
        else:
            line[1].set_axis_off()
        line[0].set_title("{}, {} calls: Frechet distance".format(*panel))
    for ax in [axes[-1][0], [ax for ax in axes[:, 1] if ax.axison][-1]]:
        ax.set_xlabel("S_churn")
    legend_below(figure, axes[0][0], 4)
    return figure


def draw_panel(ax: Axes, runs: Mapping[str, Any], label: str, budget: int, measure: str) -> None:
    true_samples(ax, **rows(runs, denoiser=label, samples="true")[0]["true"][measure])
    still = best(runs, label, budget, DETERMINISTIC)[measure]
    ax.axhline(still, color=BLACK, label="deterministic")
    for variant, (colour, marker, dash) in LINES.items():
        found = {row["S_churn"]: row[measure] for row in rows(runs, denoiser=label, budget=budget, sampler=variant)}
        ax.plot([0, *found], [still, *found.values()], dash, marker=marker, ms=4, color=colour, label=variant)
    ax.axhline(
        best(runs, label, budget, "p-ode-3m")[measure], color=LOOKS["p-ode-3m"]["color"], ls=":", label="p-ode-3m"
    )
    if measure == "detail":
        ax.set_title(f"{label}, {budget} calls: excess of detail")


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, settings = numbers["runs"], numbers["settings"]
    tables = "\n\n".join(report(runs, label) for label in values(runs, "denoiser"))
    n = {row["denoiser"]: row["n"] for row in rows(runs, samples="true")}
    return f"""## Deterministic and stochastic sampling

EDM's Figures 4, 5b and 15 show FID against S_churn: with networks of earlier work churn is better than the
deterministic sampler, and best with bounds S_tmin, S_tmax and S_noise above 1; with networks trained as EDM does it is
unnecessary on CIFAR-10, or harmful.

Here: 8x8 patches of photographs with an exact denoiser, and with a faulty one that takes the noise for
{settings["fault"]:g} times stronger than it is and so removes too much. Heun steps; S_tmin 0.05, S_tmax 1 and S_noise
1.007 are the paper's for CIFAR-10 VE. Frechet distance, in brackets the best S_churn;
n = {", ".join(f"{count} ({label})" for label, count in n.items())}; true samples have {floor_text(runs)}.

{tables}

![Distance against S_churn](figures/{NAME}.png)

A row for each denoiser and number of calls; green is the band of true samples. Excess of detail is the mean of
ln(variance / true variance) over principal components.

{verdict(runs)}
"""


def verdict(runs: Mapping[str, Any]) -> str:
    """What the runs of the exact and the faulty denoiser with the most calls say about the paper's claims."""
    budget = max(budgets(runs, "exact"))

    def most(label: str, sampler: str) -> dict[str, Any]:
        """The row with the most churn."""
        return rows(runs, denoiser=label, budget=budget, sampler=sampler)[-1]

    def details(label: str) -> list[float]:
        return [most(label, name)["detail"] for name in (DETERMINISTIC, "S_noise = 1", "S_tmin, S_tmax, S_noise")]

    def written(label: str) -> str:
        names = DETERMINISTIC, "churn", "with S_noise 1.007"
        return ", ".join(f"{name} {detail:+.2f}" for name, detail in zip(names, details(label), strict=True))

    still, alone, ours = (most("exact", name)["frechet"] for name in (DETERMINISTIC, "churn alone", "p-ode-3m"))
    (lost, churned, restored), (_, exact, biased) = details("faulty"), details("exact")
    agrees = lost < 0 and abs(churned - lost) < abs(restored - churned) and restored > churned and biased > exact
    moved = [
        abs(most(label, "S_tmin, S_tmax, S_noise")["frechet"] - most(label, DETERMINISTIC)["frechet"])
        for label in ("faulty", "exact")
    ]
    spread = rows(runs, denoiser="exact", samples="true")[0]["true"]["frechet"]["spread"]
    sentences = (
        "Churn by itself does not restore the detail that the fault takes away; S_noise above 1 restores some, and is "
        "a bias where there is no fault. "
        if agrees
        else "These are not what follows from it: churn alone is to leave the detail that the fault takes away, "
        "S_noise above 1 to add some with either denoiser. "
    )
    return (
        f"**{'Agrees' if agrees else 'Does not agree'} with the explanation of S_noise.** Excess of detail at {budget} "
        f"calls with the most churn between S_tmin and S_tmax: {written('faulty')} for the faulty denoiser, "
        f"{written('exact')} for the exact one. {sentences}The distance moves by {cell(moved[0])} and "
        f"{cell(moved[1])}, beside a spread of {cell(spread)} of true samples. Churn at all levels has {cell(alone)} "
        f"beside {cell(still)} of the deterministic sampler with the exact denoiser, which leaves no error to repair "
        f"but that of the steps; `p-ode-3m` has {cell(ours)}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Deterministic and stochastic sampling over S_churn (EDM)")
    add_options(parser)
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"), help="photographs of the exact denoiser")
    parser.add_argument("--images", type=Path, help="images of the networks' data; none runs no network")
    add_network_options(
        parser, action="append", help="network, may be repeated: a shipped one or any checkpoint [mnist-ve]"
    )
    parser.add_argument("--features", default="mnist-classifier", help="of the networks' distance")
    parser.add_argument("--n", type=int, default=1000, help="samples of a run")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="N; a network is run with the first")
    parser.add_argument("--network-n", type=int, default=200, help="samples of a run of a network")
    options = parser.parse_args(arguments)
    steps, network_steps = ((4,), (2,)) if options.quick else (options.steps, options.steps[:1])
    n, network_n = (50, 8) if options.quick else (options.n, options.network_n)

    exact = patches(options.data, n, options.quick)
    runs = Runs.open(options, NAME, {"n": n, "network_n": network_n, "fault": FAULT, "S_churn": S_CHURN})
    for label, subject in {"exact": exact, "faulty": faulty(exact)}.items():
        sweep(runs, label, subject, steps)
    for model in (options.model or ["mnist-ve"]) if options.images else []:
        sweep(runs, model, network(model, options.images, options.features, network_n, options.config), network_steps)
    publish(output_folder(options), NAME, draw, text, runs.numbers)
    print(text(runs.numbers))


if __name__ == "__main__":
    command(main)
