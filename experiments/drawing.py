"""What the figures of the experiments share: looks of samplers, labels at the ends of lines, sheets of samples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from prescore.cli.plots import PAGE, new_figure
from prescore.images import grid

BLACK, GREY, PALE = "#000000", "#777777", "#c8c8c8"
BLUE, RED, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
# The same sampler has the same colour and sign in every figure.
LOOKS: Mapping[str, dict[str, Any]] = {
    "plain": {"color": BLACK, "marker": "s"},
    "PDS": {"color": RED, "marker": "^"},
    "p-ode-2m": {"color": SKY, "marker": "D"},
    "p-ode-3m": {"color": BLUE, "marker": "o"},
    "p-sde-2m": {"color": GREEN, "marker": "v"},
}
TERRAIN, RELIEF = "terrain", (-2.0, 2.0)  # colours of heights, and between which of them, in standard deviations
SERIES = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK)


def page(height: float) -> Figure:
    """An empty figure of the width of a page, the height in inches."""
    return new_figure(PAGE, height)


def numbered(ax: Axes, ticks: Sequence[float]) -> None:
    """Exactly these ticks on a logarithmic x axis, written out."""
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def few_decades(ax: Axes) -> None:
    """Round numbers, written out, along a logarithmic y axis that has one or two decades."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def label_ends(ax: Axes, labels: Sequence[tuple[float, str, str]], gap: float = 0.06) -> None:
    """Names to the right of a panel beside the ends of its lines, moved apart where these are close.

    Args:
        ax: with its final scale and limits in y.
        labels: (y, name, colour) of each line; one beyond the limits stands at the edge.
        gap: between two names, in heights of the panel.
    """
    scale = math.log if ax.get_yscale() == "log" else float
    low, high = map(scale, ax.get_ylim())
    places = sorted((min(max((scale(y) - low) / (high - low), 0.0), 1.0), name, colour) for y, name, colour in labels)
    heights = [place for place, _, _ in places]
    for _ in range(100 * len(heights)):
        for i in range(len(heights) - 1):
            overlap = max(gap - (heights[i + 1] - heights[i]), 0.0)
            heights[i], heights[i + 1] = heights[i] - overlap / 2, heights[i + 1] + overlap / 2
        heights[0], heights[-1] = max(heights[0], 0.0), min(heights[-1], 1.0)
    for height, (_, name, colour) in zip(heights, places, strict=True):
        ax.annotate(name, (1.015, height), xycoords="axes fraction", va="center", color=colour, annotation_clip=False)


def true_samples(ax: Axes, mean: float, spread: float) -> tuple[float, str, str]:
    """The band of mean and spread of a measure of true samples; its entry for `label_ends`."""
    ax.axhspan(mean - spread, mean + spread, color=GREEN, alpha=0.25, lw=0, label="true samples")
    return mean, "true samples", GREEN


def legend_below(figure: Any, ax: Axes, columns: int) -> None:
    """The legend of one panel below all of them."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def sheet(ax: Axes, x: Tensor, columns: int, colours: str = "gray") -> None:
    """Pictures, uint8 (n, C, H, W), beside each other; "diverges" if there are none.

    Args:
        colours: the name of a map of colours, for pictures of one channel.
    """
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if not len(x):
        ax.text(0.5, 0.5, "diverges", ha="center", va="center", transform=ax.transAxes)
        return
    if x.shape[1] == 1:
        x = torch.from_numpy(colormaps[colours](x[:, 0].numpy(), bytes=True)[..., :3]).movedim(-1, 1)
    ax.imshow(grid(x, columns=columns).movedim(0, -1).numpy())


def height_bar(figure: Figure, axes: Any) -> None:
    """What the colours of relief say."""
    heights = ScalarMappable(Normalize(*RELIEF), TERRAIN)
    how = {"location": "bottom", "shrink": 0.6, "aspect": 50, "ticks": [-2, -1, 0, 1, 2]}
    figure.colorbar(heights, ax=axes, label="height, standard deviations of the data", **how)
