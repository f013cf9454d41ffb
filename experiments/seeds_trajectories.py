"""Paths of single pixels under ODE and SDE solvers, in few and in many steps.

Gonzalez et al., "SEEDS: Exponential SDE solvers for fast high-quality sampling from diffusion models", NeurIPS 2023,
https://arxiv.org/abs/2305.14267, Figure 2: paths of 10 pixels under SEEDS and stochastic EDM, in the coordinates of VP
models and of EDM, each with the levels of either.

VP coordinates are x / sqrt(1 + sigma^2), EDM's are x. In VP coordinates SEEDS has its noise-prediction form and EDM its
steps in a VP schedule; in EDM's SEEDS has the form of Proposition 3.2. What a picture leaves to the eye is measured by
the length of a pixel's path in VP coordinates, sum_i |y_{i+1} - y_i|, as a mean over samples: that of an ODE tends to a
limit as steps are added, that of an SDE grows with their root.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from drawing import SERIES, page
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Runs, add_options, cell, command, output_folder, publish, table
from subjects import Subject, kept, patches, rows, values
from torch import Tensor

import prescore
from prescore.grid import karras, uniform_t
from prescore.noise import NoiseSource
from prescore.samplers import Progress, Sampler
from prescore.schedule import VP

NAME = "seeds_trajectories"
STEPS = (8, 64)
PIXELS, SHOWN = 10, 5  # of which paths are stored, and of these in the figure
# Name, and options in VP and in EDM coordinates.
SOLVERS: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "EDM, deterministic": ("edm-heun", {"schedule": "vp"}, {}),
    "EDM, stochastic": ("edm-stochastic", {"schedule": "vp", "S_churn": 40.0}, {"S_churn": 40.0}),
    "SEEDS-3": ("seeds-3", {"prediction": "noise"}, {"prediction": "edm"}),
    "p-seeds-3": ("p-seeds-3", {}, {}),
    "p-ode-3m": ("p-ode-3m", {}, {}),
}


@dataclass(frozen=True)
class Setting:
    """Coordinates and levels, each those of VP models or EDM's."""

    coordinates: str
    levels: str

    @property
    def label(self) -> str:
        return f"{self.coordinates} coordinates, {self.levels} levels"

    def sampler(self, subject: Subject, solver: str, steps: int) -> Sampler:
        name, in_vp, in_edm = SOLVERS[solver]
        low, high = subject.sigma_min, subject.sigma_max
        vp = VP.between(low, high)
        grid = (uniform_t(vp, steps, True), karras(steps, low, high, final_zero=True))[self.levels == "EDM"]
        options = dict(in_vp if self.coordinates == "VP" else in_edm)
        options |= {"schedule": vp} if "schedule" in options else {}
        options |= {"reference": subject.statistics} if name.startswith("p-") else {}
        return prescore.make_sampler(name, grid=grid, **options)

    def scale(self, sigma: Tensor) -> Tensor:
        return vp_scale(sigma) if self.coordinates == "VP" else torch.ones_like(sigma)


SETTINGS = tuple(Setting(coordinates, levels) for coordinates, levels in product(("VP", "EDM"), repeat=2))


def vp_scale(sigma: Tensor) -> Tensor:
    return (1 + sigma**2).rsqrt()


def states(subject: Subject, sampler: Sampler) -> Tensor:
    """The states of all samples at all levels, (levels, n, pixels)."""
    assert sampler.grid is not None
    seeds = range(subject.n)
    found = [sampler.initial(NoiseSource(seeds, subject.denoiser.event_shape), sampler.grid[0])]

    def keep(progress: Progress) -> None:
        found.append(progress.x)

    prescore.sample(subject.denoiser, sampler, seeds=seeds, callback=keep, progress=False)
    return torch.stack(found).flatten(2)


def paths(subject: Subject, setting: Setting, solver: str, steps: int) -> dict[str, Any]:
    """Those of some pixels of the first sample in the setting's coordinates, and the length of all in VP's."""
    sampler = setting.sampler(subject, solver, steps)
    assert sampler.grid is not None
    x, sigma = states(subject, sampler), sampler.grid.reshape(-1, 1, 1)
    length = (x * vp_scale(sigma)).diff(dim=0).abs().sum(0).mean().item()
    chosen = torch.linspace(0, x.shape[2] - 1, PIXELS).long()
    shown = (x * setting.scale(sigma))[:, 0, chosen].T
    return {"length": length, "pixels": [[round(value, 4) for value in line] for line in shown.tolist()]}


def draw(numbers: Mapping[str, Any]) -> Figure:
    """A row for each solver, a column for each number of steps; in VP coordinates, on EDM's levels."""
    runs, setting = numbers["runs"], Setting("VP", "EDM")
    steps = values(runs, "steps")
    figure = page(0.5 + 1.45 * len(SOLVERS))
    axes = figure.subplots(len(SOLVERS), len(steps), sharex=True, sharey=True, squeeze=False)
    for line, solver in zip(axes, SOLVERS, strict=True):
        for ax, number in zip(line, steps, strict=True):
            row = rows(runs, solver=solver, setting=setting.label, steps=number)[0]
            draw_paths(ax, row["pixels"])
            ax.set_title(f"{solver}, {number} steps: a path is {row['length']:.3g} long")
    for ax in axes[-1]:
        ax.set_xlabel("share of the steps that are taken")
    for ax in axes[:, 0]:
        ax.set_ylabel("value of a pixel")
    return figure


def draw_paths(ax: Axes, pixels: Sequence[Sequence[float]]) -> None:
    """Some pixels, each in a colour; the frame is that where paths belong."""
    for pixel, colour in zip(pixels[:: PIXELS // SHOWN], SERIES, strict=False):
        ax.plot(torch.linspace(0, 1, len(pixel)).tolist(), pixel, lw=1, color=colour)
    ax.set_ylim(-4, 4)


def report(runs: Mapping[str, Any]) -> str:
    """The lengths."""
    columns = [{"setting": setting.label, "steps": n} for setting in SETTINGS for n in values(runs, "steps")]
    lines = [
        [f"`{s}`" if s.startswith("p-") else s, *(rows(runs, solver=s, **c)[0]["length"] for c in columns)]
        for s in SOLVERS
    ]
    return table(["solver", *(f"{c['setting']}, {c['steps']} steps" for c in columns)], lines)


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, n = numbers["runs"], numbers["settings"]["n"]
    return f"""## Paths of pixels

SEEDS' Figure 2 shows the paths of 10 pixels under SEEDS and stochastic EDM, in VP and in EDM coordinates, with the
levels of either.

Here: 10 pixels of one 8x8 patch of photographs, the denoiser exact, in few and in many steps, and the same for ODE
solvers. The table has the length of a pixel's path in VP coordinates, x / √(1 + σ²), a mean over n = {n} samples.

{report(runs)}

![Paths of pixels](figures/{NAME}.png)

The figure has {SHOWN} of the pixels, VP coordinates, and EDM's levels; paths that leave their frame overshoot.
{verdict(runs)}
"""


def verdict(runs: Mapping[str, Any]) -> str:
    """How the paths grow with the number of steps, and where they overshoot."""
    few, many = values(runs, "steps")

    def length(solver: str, setting: Setting, steps: int) -> float:
        return rows(runs, solver=solver, setting=setting.label, steps=steps)[0]["length"]

    def growth(solver: str) -> str:
        edm = SETTINGS[-1]
        return f"{solver} {length(solver, edm, many) / length(solver, edm, few):.2g}"

    noise, form = ([length("SEEDS-3", setting, few) for setting in half] for half in (SETTINGS[:2], SETTINGS[2:]))
    overshoots = min(noise) > max(form)
    verdict = "Agrees" if overshoots else "Does not agree"
    return (
        f"**{verdict}, and the length says more than the picture.** From {few} to {many} steps on EDM's levels and "
        f"coordinates a path gets longer by a factor of: {'; '.join(growth(solver) for solver in SOLVERS)}; a random "
        f"walk with as many more steps by {cell((many / few) ** 0.5)}. In {few} steps SEEDS-3 "
        f"{'overshoots' if overshoots else 'does not overshoot more'} in VP coordinates, with noise prediction "
        f"({' and '.join(cell(v) for v in noise)} long), {'not' if overshoots else 'than'} in EDM's form "
        f"({' and '.join(cell(v) for v in form)}); in {many} both are paths of the same SDE. Stochastic EDM, whose "
        "churn is not that of the reverse SDE, moves a pixel farther than SEEDS does."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Paths of single pixels under ODE and SDE solvers (SEEDS, Figure 2)")
    add_options(parser)
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"), help="photographs of the exact denoiser")
    parser.add_argument("--n", type=int, default=200, help="samples")
    options = parser.parse_args(arguments)
    steps, n = ((3, 5), 10) if options.quick else (STEPS, options.n)
    subject = patches(options.data, n, options.quick)
    runs = Runs.open(options, NAME, {"n": n})
    for number, setting, solver in product(steps, SETTINGS, SOLVERS):
        facts = {"solver": solver, "setting": setting.label, "steps": number}
        kept(runs, facts, partial(paths, subject, setting, solver, number))
    publish(output_folder(options), NAME, draw, text, runs.numbers)
    print(text(runs.numbers))


if __name__ == "__main__":
    command(main)
