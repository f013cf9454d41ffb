"""SEEDS beside other solvers at equal calls, and the effect of S_churn on it.

Gonzalez et al., "SEEDS: Exponential SDE solvers for fast high-quality sampling from diffusion models", NeurIPS 2023,
https://arxiv.org/abs/2305.14267:

    Table 1    the lowest FID of each method and the calls at which it was obtained; SEEDS-3 is lower than DDIM,
               DPM-Solver and other stochastic solvers, at 90 to 270 calls
    Figure 1   FID against calls; and (c) against S_churn, for SEEDS-3 and EDM on ImageNet-64, where noise is added
               before each step as in EDM's Algorithm 2

Here every solver is run on EDM's grid (rho = 7) from 80 to 0.002 and then 0, and those of order 2 and 3 from the papers
on DPM-Solver and SEEDS also on one uniform in log-SNR, of which the better counts; the preconditioned solvers have
their usual one. A network is run on the first grid alone.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from drawing import BLACK, GREEN, LOOKS, ORANGE, PALE, PINK, RED, few_decades, label_ends, numbered, page, true_samples
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Runs, add_options, cell, command, output_folder, publish, table
from subjects import Subject, add_network_options, floor_text, kept, network, patches, rows
from torch import Tensor

from prescore.grid import karras, log_snr
from prescore.noise import NoiseSource
from prescore.samplers import Sampler
from prescore.samplers.base import Denoise
from prescore.samplers.edm import EDMChurn

NAME = "seeds_tables"
BUDGETS = (10, 20, 40, 90)
NETWORK_BUDGETS = (20,)
GRIDS = {
    "EDM": lambda n, low, high: karras(n, low, high, final_zero=True),
    "log-SNR": lambda n, low, high: log_snr(n, low, high, final_zero=True),
}
BOTH, OURS = tuple(GRIDS), ("usual",)
IMAGENET = {"S_churn": 40.0, "S_tmin": 0.05, "S_tmax": 50.0, "S_noise": 1.003}  # of EDM's network, its Table 5


@dataclass(frozen=True)
class Solver:
    """A name of the table of samplers, with options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    grids: tuple[str, ...] = ("EDM",)

    @property
    def is_ours(self) -> bool:
        return self.grids == OURS

    def sampler(self, subject: Subject, budget: int, grid: str) -> Sampler:
        options = dict(self.options)
        for name in {"S_tmin", "S_tmax"} & set(options):
            options[name] *= subject.unit
        return subject.sampler(self.name, budget, GRIDS.get(grid), **options)


SOLVERS = {
    "DDIM": Solver("ddim"),
    "DPM-Solver-2": Solver("dpm-solver-2", grids=BOTH),
    "DPM-Solver-3": Solver("dpm-solver-3", grids=BOTH),
    "DPM-Solver++(2M)": Solver("dpmpp-2m", grids=BOTH),
    "EDM, Heun": Solver("edm-heun"),
    "EDM, stochastic": Solver("edm-stochastic", IMAGENET),
    "SEEDS-1": Solver("seeds-1"),
    "SEEDS-2": Solver("seeds-2"),
    "SEEDS-3": Solver("seeds-3", grids=BOTH),
    "SEEDS-3, data prediction": Solver("seeds-3", {"prediction": "data"}, BOTH),
    "SEEDS-3, EDM form": Solver("seeds-3", {"prediction": "edm"}, BOTH),
    "`p-seeds-3`": Solver("p-seeds-3", grids=OURS),
    "`p-sde-2m`": Solver("p-sde-2m", grids=OURS),
    "`p-ode-2m`": Solver("p-ode-2m", grids=OURS),
    "`p-ode-3m`": Solver("p-ode-3m", grids=OURS),
}
S_CHURN = (0.0, 1.0, 3.0, 8.0, 20.0)
COMPARED = ("DDIM", "DPM-Solver-3", "EDM, stochastic", "SEEDS-3", "SEEDS-3, EDM form", "`p-ode-2m`", "`p-ode-3m`")
ODE = ("DDIM", "DPM-Solver-2", "DPM-Solver-3", "DPM-Solver++(2M)", "EDM, Heun")
FORMS = {
    "SEEDS-3": "noise prediction",
    "SEEDS-3, data prediction": "data prediction",
    "SEEDS-3, EDM form": "EDM's form",
    "`p-seeds-3`": "around the spectrum of the data (`p-seeds-3`)",
}
PAPER_CALLS = 90  # the fewest of SEEDS in Table 1
CHURNED = {"SEEDS-3, EDM form": Solver("seeds-3", {"prediction": "edm"}), "EDM": Solver("edm-heun")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Churned(EDMChurn):
    """Noise added before each step, as in EDM's Algorithm 2, and then the step of another one-step solver.

    Args:
        solver: whose step is taken from the raised level.
    """

    solver: Sampler

    @property
    def stochastic(self) -> bool:
        return True

    def total_calls(self, steps: int, final_zero: bool = True) -> int | None:
        return self.solver.total_calls(steps, final_zero)

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: Any, noise: NoiseSource
    ) -> tuple[Tensor, Any]:
        raised = self.raised(sigma, state)
        if raised > sigma:
            x = x + self.S_noise * (raised**2 - sigma**2).sqrt() * noise()
        x, _ = self.solver.step(denoise, x, raised, sigma_next, self.solver.start(self.grid), noise)
        return x, state


def churned(subject: Subject, solver: Solver, budget: int, S_churn: float) -> Sampler:
    """The solver on EDM's grid with churn at all levels."""
    inner = solver.sampler(subject, budget, "EDM")
    return Churned(grid=inner.grid, solver=inner, S_churn=S_churn, S_tmax=math.inf) if S_churn else inner


def sweep(runs: Runs, label: str, subject: Subject, budgets: Sequence[int]) -> None:
    """All solvers at all numbers of calls."""
    kept(runs, {"denoiser": label, "samples": "true"}, lambda: {"n": subject.n, "true": subject.floor()})
    for budget in budgets:
        for name, solver in SOLVERS.items():
            for grid in solver.grids if subject.is_exact else solver.grids[:1]:
                facts = {"denoiser": label, "budget": budget, "solver": name, "grid": grid}
                kept(runs, facts, partial(subject.run, solver.sampler(subject, budget, grid)))


def churns(sampler: Sampler) -> list[float]:
    """S_churn up to the first value at which it adds no more noise: gamma is at most sqrt(2) - 1."""
    assert sampler.grid is not None
    bound = (math.sqrt(2) - 1) * (len(sampler.grid) - 1)
    return [S for i, S in enumerate(S_CHURN) if i == 0 or S_CHURN[i - 1] < bound]


def sweep_churn(runs: Runs, subject: Subject, budget: int) -> None:
    for name, solver in CHURNED.items():
        for S in churns(solver.sampler(subject, budget, "EDM")):
            facts = {"churned": name, "S_churn": S, "of": budget}
            kept(runs, facts, partial(subject.run, churned(subject, solver, budget, S)))


def best(runs: Mapping[str, Any], label: str, solver: str, budget: int) -> dict[str, Any]:
    """The row of the better grid."""
    found = rows(runs, denoiser=label, solver=solver, budget=budget)
    return min(found, key=lambda row: math.inf if row["frechet"] is None else row["frechet"])


def nearest(runs: Mapping[str, Any], budget: int) -> tuple[str, str]:
    """The SEEDS and the ODE solver of others with the least distance at so many calls."""

    def at(solver: str) -> float:
        return best(runs, "exact", solver, budget)["frechet"] or math.inf

    return min((solver for solver in SOLVERS if solver.startswith("SEEDS")), key=at), min(ODE, key=at)


def budgets_of(runs: Mapping[str, Any]) -> list[int]:
    """The numbers of calls of the exact denoiser."""
    return list(dict.fromkeys(row["budget"] for row in rows(runs, denoiser="exact", solver="DDIM")))


def table_of_solvers(runs: Mapping[str, Any]) -> str:
    """Distance by calls, the lowest of them and where, for the exact denoiser; then networks."""
    budgets = budgets_of(runs)
    networks = [(row["denoiser"], row["budget"]) for row in rows(runs, solver="DDIM") if row["denoiser"] != "exact"]
    lines = []
    for solver in SOLVERS:
        found = [best(runs, "exact", solver, budget) for budget in budgets]
        lowest = min(found, key=lambda row: row["frechet"])
        entries = [
            f"{cell(row['frechet'])} ({row['grid']})" if row["grid"] in GRIDS else row["frechet"] for row in found
        ]
        others = [best(runs, label, solver, budget)["frechet"] for label, budget in networks]
        lines.append([solver, *entries, f"{cell(lowest['frechet'])} at {lowest['calls']}", *others])
    head = ["solver", *(f"{budget} calls" for budget in budgets), "lowest", *(f"{n}, {b} calls" for n, b in networks)]
    return table(head, lines)


def churn_rows(runs: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a solver with churn, at the most calls that it was run at."""
    found = rows(runs, churned=name)
    return [row for row in found if row["of"] == max(other["of"] for other in found)]


def table_of_churn(runs: Mapping[str, Any]) -> str:
    lines = []
    for name in CHURNED:
        found = {row["S_churn"]: row for row in churn_rows(runs, name)}
        entries = [found[S]["frechet"] if S in found else "" for S in strengths(runs)]
        lines.append([f"{name}, {found[0.0]['calls']} calls", *entries])
    budget = budgets_of(runs)[-1]
    ours = best(runs, "exact", "`p-ode-3m`", budget)["frechet"]
    lines.append([f"`p-ode-3m`, {budget} calls", ours, *("" for _ in strengths(runs)[1:])])
    return table(["S_churn", *(f"{S:g}" for S in strengths(runs))], lines)


def strengths(runs: Mapping[str, Any]) -> list[float]:
    """All S_churn that were run."""
    return sorted({row["S_churn"] for name in CHURNED for row in churn_rows(runs, name)})


HIGHLIGHTED: Mapping[str, Mapping[str, Any]] = {  # in the figure; the others are pale
    "DDIM": {"color": ORANGE, "marker": "+"},
    "DPM-Solver++(2M)": {"color": BLACK, "marker": "s"},
    "SEEDS-1": {"color": PINK, "marker": "^"},
    "SEEDS-3": {"color": RED, "marker": "v"},
    "SEEDS-3, data prediction": {"color": RED, "marker": "v", "ls": "--"},
    "`p-seeds-3`": {"color": GREEN, "marker": "P"},
    "`p-ode-3m`": LOOKS["p-ode-3m"],
}


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Distance against calls, and against S_churn."""
    runs = numbers["runs"]
    figure = page(7.0)
    above, below = figure.subplots(2, 1, height_ratios=(1.7, 1))
    draw_distances(above, runs)
    below.set(xlabel="S_churn", ylabel="Frechet distance", yscale="log")
    ends = []
    for (name, colour), marker in zip({"SEEDS-3, EDM form": RED, "EDM": BLACK}.items(), "vs", strict=True):
        found = churn_rows(runs, name)
        below.plot([row["S_churn"] for row in found], [row["frechet"] for row in found], marker=marker, color=colour)
        ends.append((found[-1]["frechet"], f"{name}, {found[0]['calls']} calls", colour))
    few_decades(below)
    label_ends(below, ends, gap=0.12)
    below.set_title("What churn does where the denoiser leaves no error to repair")
    return figure


def draw_distances(ax: Axes, runs: Mapping[str, Any]) -> None:
    budgets, ends = budgets_of(runs), []
    ax.set(xscale="log", yscale="log", xlabel="network calls", ylabel="Frechet distance", ylim=(0.01, 100))
    ends.append(true_samples(ax, **rows(runs, denoiser="exact", samples="true")[0]["true"]["frechet"]))
    for name in SOLVERS:
        y = [best(runs, "exact", name, budget)["frechet"] for budget in budgets]
        look = HIGHLIGHTED.get(name)
        if look is None:
            ax.plot(budgets, y, color=PALE, lw=1, zorder=1)
        else:
            ax.plot(budgets, y, **look)
            ends.append((y[-1], name.strip("`"), look["color"]))
    numbered(ax, budgets)
    label_ends(ax, ends, gap=0.06)
    few, (seeds, ode) = budgets[0], nearest(runs, budgets[0])
    ratio = best(runs, "exact", seeds, few)["frechet"] / best(runs, "exact", ode, few)["frechet"]
    ax.set_title(f"With {few} calls the nearest SEEDS has {ratio:.2g} times the distance of the nearest ODE solver")


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs = numbers["runs"]
    n = rows(runs, denoiser="exact", samples="true")[0]["n"]
    return f"""## SEEDS

SEEDS' Table 1 gives the lowest FID of each method and the calls it took: SEEDS-3 is lower than DDIM, DPM-Solver and the
stochastic solvers of others, at 90 to 270 calls. Its Figure 1c shows the effect of S_churn on SEEDS-3 and on EDM on
ImageNet-64.

Here: 8x8 patches of photographs with an exact denoiser, Frechet distance of n = {n} samples; true samples have
{floor_text(runs)}. In brackets the grid, the better one where two were tried; the preconditioned solvers have their
usual one, and statistics of other photographs.

{table_of_solvers(runs)}

{table_of_churn(runs)}

![Distance against calls and S_churn](figures/{NAME}.png)

Pale lines are the solvers of the table that have no name in the figure.

{verdict(runs)}
"""


def verdict(runs: Mapping[str, Any]) -> str:
    few, many = budgets_of(runs)[0], budgets_of(runs)[-1]

    def at(solver: str, budget: int) -> float:
        return best(runs, "exact", solver, budget)["frechet"] or math.inf

    found = "; ".join(
        f"{solver} {cell(at(solver, few))} and {cell(at(solver, many))}" for solver in SOLVERS if solver in COMPARED
    )
    seeds, ode = nearest(runs, few)
    side = "behind" if at(seeds, few) > at(ode, few) else "ahead of"
    forms = sorted(FORMS, key=lambda solver: at(solver, few))
    churned = "; ".join(
        f"{cell(row[0]['frechet'])} ({name}) to {cell(row[-1]['frechet'])}"
        for name in CHURNED
        if (row := churn_rows(runs, name))
    )
    reach = (
        ""
        if many >= PAPER_CALLS
        else f" Table 1's SEEDS takes {PAPER_CALLS} calls and more: this table, up to {many}, is silent on these."
    )
    return (
        f"**With few calls SEEDS is {side} the ODE solvers**: with {few}, the best of each, {seeds} has "
        f"{cell(at(seeds, few))} and {ode} {cell(at(ode, few))}.{reach} At {few} and {many} calls: {found}. What the "
        f"reverse SDE costs depends on the form; of the third order, from the least distance with {few} calls to the "
        f"largest: {', '.join(FORMS[form] for form in forms)}. Churn, which makes steps longer, changes the distance "
        f"from {churned}: an exact denoiser leaves no other error that it could repair."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="SEEDS beside other solvers at equal calls, and with churn")
    add_options(parser)
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"), help="photographs of the exact denoiser")
    parser.add_argument("--images", type=Path, help="images of the networks' data; none runs no network")
    add_network_options(
        parser, action="append", help="network, may be repeated: a shipped one or any checkpoint [mnist-ve]"
    )
    parser.add_argument("--features", default="mnist-classifier", help="of the networks' distance")
    parser.add_argument("--n", type=int, default=2000, help="samples of a run")
    parser.add_argument("--network-n", type=int, default=200, help="samples of a run of a network")
    parser.add_argument("--calls", type=int, nargs="+", default=BUDGETS, help="of the exact denoiser")
    options = parser.parse_args(arguments)
    budgets, n = ((4, 10), 30) if options.quick else (options.calls, options.n)
    subject = patches(options.data, n, options.quick)
    runs = Runs.open(options, NAME, {"n": n, "network_n": options.network_n})
    sweep(runs, "exact", subject, budgets)
    sweep_churn(runs, subject, budgets[-1])
    for model in (options.model or ["mnist-ve"]) if options.images else []:
        sweep(
            runs,
            model,
            network(model, options.images, options.features, options.network_n, options.config),
            NETWORK_BUDGETS,
        )
    publish(output_folder(options), NAME, draw, text, runs.numbers)
    print(text(runs.numbers))


if __name__ == "__main__":
    command(main)
