"""How near the automatic alpha comes to the best alpha of a search over samples.

    python experiments/automatic_alpha.py --data natural.npz topography.npz fashion-mnist.npz
    python experiments/automatic_alpha.py --data natural.npz topography.npz --model mnist-ve --images mnist.npz

The paper leaves the choice of alpha to a search by FID; `prescore.choose_alpha` takes it from the statistics. Beside
each other stand here, for PDS on its usual grid, the automatic alpha and all of a grid of alphas, on

    patches    8x8 means of a mixture fitted to photographs, to a map of heights, or to any other images, with an exact
               denoiser (see subjects.py); the statistics are of other photographs and other parts of the map
    networks   any model with images of its data

The distance of samples from n of them has a bias and a spread. All alphas have the same seeds, so that most of both is
common; the spread of a ratio of two distances is that of the jackknife over `SETS` sets of seeds, of which one is left
out at a time. For Gaussian data with the spectra of the shipped models see alpha_relation.py.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from alpha_relation import SHIPPED, shown
from drawing import BLACK, SERIES, numbered, page
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from publish import Runs, add_options, command, output_folder, publish, table
from subjects import Subject, add_network_options, floor_text, kept, network, patches, rows, values

import prescore
from prescore.errors import SamplingError
from prescore.plan import WEAKEST_ALPHA
from prescore.samplers import PredictorCorrector, Sampler
from prescore.statistics import in_range

STEPS = (20, 50, 100, 200)
# The grid from a T on.
ALPHAS = {
    0: (2.5, 2.7, 3.0, 3.3, 3.6, 4.3, 5.2, 6.2, 7.5, 10.0, math.inf),
    50: (2.5, 3.0, 3.6, 4.3, 5.2, 6.2, 7.5, 10.0, math.inf),
    100: (3.6, 5.2, 7.5, 10.0, 13.0, 17.0, 22.0, 37.0, math.inf),
    200: (7.5, 10.0, 13.0, 17.0, 22.0, 29.0, 37.0, 60.0, math.inf),
}
NETWORK_ALPHAS = (2.3, 3.0, 4.0, 5.3, 7.0, 10.0, 20.0, math.inf)
# What the rule was chosen on, T included: all else it had not seen.
SEEN = {"natural patches": STEPS, "topography patches": STEPS, "mnist-ve": (20, 50)}
TICKS = (3, 5, 10, 20, 50)
SETS = 10
SOLVER = "p-ode-2m"
VERDICTS = ("yes", "no", "cannot be told")
AUTOMATIC = "automatic"


def pds(subject: Subject, T: int, alpha: float) -> Sampler:
    """The predictor-corrector sampler; alpha = inf is plain."""
    return subject.pds(alpha, steps=T)


def automatic(subject: Subject, T: int) -> float:
    """The alpha that is chosen; infinity where the plain sampler is as good."""
    preconditioner = subject.pds(None, steps=T).preconditioner
    return math.inf if preconditioner.alpha == WEAKEST_ALPHA else preconditioner.alpha


def measured(subject: Subject, sampler: Sampler) -> dict[str, Any]:
    """The distance of all samples, and of all but those of one of the sets of seeds, for each; None if it overflows."""
    try:
        x = subject.draw(sampler)
    except SamplingError:
        return {"frechet": None, "left_out": None}
    number = torch.arange(subject.n) % SETS
    parts = [subject.measures(x[number != i])["frechet"] for i in range(SETS)]
    return {"frechet": subject.measures(x)["frechet"], "left_out": parts}


def run_all(subject: Subject, label: str, steps: Sequence[int], runs: Runs) -> None:
    """All alphas at all T, kept as they finish."""
    kept(runs, {"denoiser": label, "kind": "true"}, lambda: {"n": subject.n, "true": subject.floor()})
    for T in steps:
        grid = ALPHAS[max(first for first in ALPHAS if first <= T)] if subject.is_exact else NETWORK_ALPHAS
        for kind, alpha in [("grid", alpha) for alpha in grid] + [(AUTOMATIC, automatic(subject, T))]:
            facts = {"denoiser": label, "T": T, "kind": kind, "alpha": alpha}
            kept(runs, facts, lambda T=T, alpha=alpha: measured(subject, pds(subject, T, alpha)))
        facts = {"denoiser": label, "T": T, "kind": SOLVER}
        kept(runs, facts, lambda T=T: measured(subject, subject.sampler(SOLVER, 2 * T)))


@dataclass(frozen=True)
class Comparison:
    """The automatic alpha beside the best of the grid, at one T of one subject.

    Attributes:
        ratio, error: of its distance over that of the best, and the standard error of this.
        searched: (alpha, distance) of the grid.
    """

    label: str
    T: int
    plain: float
    best: tuple[float, float]
    automatic: tuple[float, float]
    ratio: float
    error: float
    solver: float
    searched: Sequence[tuple[float, float]]

    @classmethod
    def of(cls, runs: Mapping[str, Any], label: str, T: int) -> "Comparison":
        def found(kind: str) -> list[dict[str, Any]]:
            chosen = rows(runs, denoiser=label, T=T, kind=kind)
            return [row | {"alpha": row.get("alpha") or math.inf} for row in chosen if row["frechet"] is not None]

        grid, own, (solver,) = found("grid"), found(AUTOMATIC)[-1], found(SOLVER)
        best = min(grid, key=lambda row: row["frechet"])
        ratios = torch.tensor(own["left_out"]) / torch.tensor(best["left_out"])
        error = math.sqrt((SETS - 1) * ratios.var(correction=0).item())
        (plain,) = (row["frechet"] for row in grid if math.isinf(row["alpha"]))
        pairs = [(row["alpha"], row["frechet"]) for row in grid]
        a, b = ((row["alpha"], row["frechet"]) for row in (best, own))
        return cls(label, T, plain, a, b, b[1] / a[1], error, solver["frechet"], pairs)

    @property
    def verdict(self) -> str:
        """Whether the automatic alpha is within 5 % of the best, as far as two standard errors tell."""
        if self.ratio + 2 * self.error <= 1.05:
            return "yes"
        return "no" if self.ratio - 2 * self.error > 1.05 else "cannot be told"

    @property
    def cells(self) -> list[Any]:
        chosen = [f"{distance:.3g} ({shown(alpha)})" for alpha, distance in (self.best, self.automatic)]
        return [
            self.label,
            self.T,
            self.plain,
            *chosen,
            f"{self.ratio:.3f} ± {self.error:.3f}",
            self.verdict,
            self.solver,
        ]


def compared(runs: Mapping[str, Any]) -> list[list[Comparison]]:
    """For each subject its comparisons, one for each T."""
    found = []
    for label in values(runs, "denoiser"):
        steps = values({name: row for name, row in runs.items() if row["denoiser"] == label}, "T")
        found.append([Comparison.of(runs, label, T) for T in steps])
    return found


def draw_panel(ax: Axes, comparisons: Sequence[Comparison], colours: Mapping[int, str]) -> None:
    """Distance over alpha with the plain sampler's as a dashed line, a colour for each T; the ring is the choice."""
    ax.set(xscale="log", yscale="log", xlabel="alpha", title=comparisons[0].label)
    for known in comparisons:
        pairs = [pair for pair in known.searched if not math.isinf(pair[0])]
        colour = colours[known.T]
        ax.plot(*zip(*sorted(pairs), strict=True), ".-", color=colour)
        ax.axhline(known.plain, ls="--", lw=0.8, color=colour)
        if not math.isinf(known.automatic[0]):
            ax.plot(*known.automatic, "o", ms=10, mfc="none", mew=1.5, color=colour)
    ax.set_ylim(top=4 * max(known.plain for known in comparisons))
    numbered(ax, TICKS)


def draw(numbers: Mapping[str, Any]) -> Figure:
    """A panel for each subject."""
    panels = compared(numbers["runs"])
    figure = page(0.6 + 2.9 * math.ceil(len(panels) / 2))
    axes = figure.subplots(math.ceil(len(panels) / 2), 2, squeeze=False)
    colours = dict(zip(sorted({known.T for panel in panels for known in panel}), SERIES, strict=False))
    for ax, comparisons in zip(axes.flatten(), panels, strict=False):
        draw_panel(ax, comparisons, colours)
    for ax in axes.flatten()[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("Frechet distance")
    handles = [Line2D([], [], marker=".", color=colour, label=f"T = {T}") for T, colour in colours.items()]
    handles.append(Line2D([], [], marker="o", ls="", ms=10, mfc="none", color=BLACK, label="automatic alpha"))
    handles.append(Line2D([], [], ls="--", lw=0.8, color=BLACK, label="plain"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    count = {verdict: sum(known.verdict == verdict for panel in panels for known in panel) for verdict in VERDICTS}
    of_all = f"within 5 % of a search's best in {count['yes']} of {sum(count.values())} cases, worse in {count['no']}"
    figure.suptitle(f"The automatic alpha (ring): {of_all}")
    return figure


def choices() -> list[list[Any]]:
    """The automatic alpha of the shipped models over T, with the scales of their samples and without."""
    lines = []
    for name in SHIPPED:
        model = prescore.load(name)
        known = in_range(prescore.load_statistics(name), model.data_range)
        gaussian = replace(known, moments=replace(known.moments, scales=None))
        for label, statistics in ((name, known), (f"{name}, as a Gaussian", gaussian)):
            plain = [PredictorCorrector(steps=T) for T in STEPS]
            alphas = [prescore.choose_alpha(p, statistics, model.sigma_min, model.sigma_max).alpha for p in plain]
            lines.append([label, *map(shown, alphas)])
    return lines


def ratio_text(known: Comparison) -> str:
    return f"{known.label}, T = {known.T} ({known.ratio:.3f} ± {known.error:.3f})"


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, chosen = numbers["runs"], numbers["choices"]
    comparisons = [known for panel in compared(runs) for known in panel]
    count = {row["denoiser"]: row["n"] for row in runs.values() if "true" in row}
    sizes = "; ".join(
        f"n = {n} for {', '.join(k for k in count if count[k] == n)}" for n in dict.fromkeys(count.values())
    )
    verdicts = {verdict: [known for known in comparisons if known.verdict == verdict] for verdict in VERDICTS}
    missed = "; ".join(map(ratio_text, verdicts["no"]))
    unseen = "; ".join(ratio_text(known) for known in comparisons if known.T not in SEEN.get(known.label, ()))
    names = ["", "T", "plain", "best of the grid (alpha)", "automatic (alpha)", "automatic / best", "within 5 %"]
    return f"""## The automatic alpha

The paper finds alpha by a search and leaves its choice to future work. `--alpha auto` chooses it from the statistics
of the data before the network is called (src/prescore/samplers/alpha.py): the one with the least Frechet distance on
a model whose samples differ in scale as those of the data do, in closed form. Here it is beside a search: Frechet
distance of PDS, the same seeds for every alpha, {sizes}; true samples: {floor_text(runs)}.
Patches are of 8x8 pixels, a mixture of 40 Gaussians with an exact denoiser, the distance in pixels. The error of a
ratio is that of the jackknife; "within 5 %" is judged at two of them. `{SOLVER}` has the same number of network calls.

{table([*names, f"`{SOLVER}`"], [known.cells for known in comparisons])}

![Frechet distance over alpha](figures/automatic_alpha.png)

Within 5 % of the best of the grid: {len(verdicts["yes"])} of {len(comparisons)}, and {len(verdicts["cannot be told"])}
where the samples do not suffice to tell. Not: {missed or "none"}.

Which distance on the model the rule takes, of eleven, and how much of a scale is known beforehand, of four strengths,
were chosen with the results on photographs, relief and digits (T = 20, 50) at hand, and the limit on the way with those
on the digits. Searches that were made after that, and say how it does on what it had not seen: {unseen or "none"}.

What it chooses for the shipped models, and would choose for Gaussian data with their spectra:

{table(["", *(f"T = {T}" for T in STEPS)], chosen)}

A Gaussian forgets the noise that is left over on the way; patches keep part of it as texture and want a stronger
preconditioner at medium T. `{SOLVER}` is exact on Gaussian data.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The automatic alpha beside the best alpha of a search")
    where = Path("data/natural.npz")
    parser.add_argument("--data", type=Path, nargs="+", action="extend", help=f"images of the mixtures [{where}]")
    add_network_options(parser, default="mnist-ve")
    parser.add_argument("--images", type=Path, help="its data; without them there is no network")
    parser.add_argument("--features", default="mnist-classifier", help="of the network's distance")
    parser.add_argument("--n", type=int, default=5000, help="samples of a mixture")
    parser.add_argument("--n-network", type=int, default=400, help="samples of the network")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--network-steps", type=int, nargs="+", default=[20, 50])
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.n_network, options.steps, options.network_steps = 40, 4, [4, 8], [2]
    settings = {"n": options.n, "n_network": options.n_network, "features": options.features}
    runs = Runs.open(options, "automatic_alpha", settings)
    subjects = {
        f"{data.stem} patches": (patches(data, options.n, options.quick), options.steps)
        for data in options.data or [where]
    }
    if options.images is not None:
        own = network(options.model, options.images, options.features, options.n_network, options.config)
        subjects[options.model] = own, options.network_steps
    for label, (subject, steps) in subjects.items():
        run_all(subject, label, steps, runs)
    numbers = runs.numbers | {"choices": [] if options.quick else choices()}
    publish(output_folder(options), "automatic_alpha", draw, text, numbers)


if __name__ == "__main__":
    command(main)
