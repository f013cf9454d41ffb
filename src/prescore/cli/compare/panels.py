"""Small figures for an HTML page, as SVG that takes the colour of its lines and text from the page around it."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from prescore.cli.plots import new_figure

INK = "#010203"  # stands for the page's own text colour
# Of lines: apart from each other, and from a white and from a black page (contrast above 3), with their signs in text.
COLOURS = ("#1f7fc4", "#d2691e", "#2a9461", "#c4468f", "#8566cf", "#9c7a12", "#cf4444", "#4f8a99")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
DASHES = ("-", "--", ":")
TRUE: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3))}  # lines of true samples
FAR = 20.0  # times the power of the data, where the frame of a spectrum ends
STYLE: Any = {  # whose names matplotlib types one by one
    **{f"{name}color": INK for name in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.", "grid.")},
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "prescore",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Line:
    """A named series; `style` counts colours, signs and dashes, and `errors` are standard errors, None unknown."""

    name: str
    style: int
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float | None] = ()

    @property
    def look(self) -> dict[str, str]:
        return {"color": colour(self.style), "marker": marker(self.style), "linestyle": dash(self.style)}


def colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def marker(style: int) -> str:
    return list(MARKERS)[style % len(MARKERS)]


def dash(style: int) -> str:
    return DASHES[style // len(COLOURS) % len(DASHES)]


def sign(style: int) -> str:
    """The marker as a character."""
    return MARKERS[marker(style)]


def quality_panel(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    ticks: Sequence[int] | None,
    floor: float | None,
    linear: bool,
    floor_error: float | None = None,
) -> str:
    """One metric against calls or seconds, with standard errors as bars, as SVG.

    Args:
        ticks: of the horizontal axis, if it is one of whole numbers.
        floor, floor_error: the value of true samples, drawn as a line, and its standard error, a band.
        linear: whether the metric is; others are logarithmic, but for values beside 0 and below.
    """
    from matplotlib.ticker import SymmetricalLogLocator

    with _style():
        figure = new_figure(3.7, 2.7)
        axes = figure.subplots()
        axes.margins(y=0.08)
        for k, line in enumerate(lines):
            broad = max(0, len(lines) - 1 - k)  # what lies below shows at the sides where curves coincide
            axes.plot(line.x, line.y, markersize=4.5 + 1.5 * broad, linewidth=1.4 + 1.4 * broad, **line.look)
            bars = [(x, y, e) for x, y, e in zip(line.x, line.y, line.errors, strict=False) if e is not None]
            if bars:
                x, y, errors = zip(*bars, strict=True)
                axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=line.look["color"], elinewidth=1, capsize=2)
        values = [y for line in lines for y in line.y]
        if floor is not None:
            axes.axhline(floor, **TRUE)
            if floor_error is not None:
                axes.axhspan(floor - floor_error, floor + floor_error, color=INK, alpha=0.1, linewidth=0)
            values.append(floor)
        if not linear and min(values) > 0:
            axes.set_yscale("log", nonpositive="clip")
            _keep_in_frame(axes, values)
        elif not linear and max(values) > 0:
            threshold = 10.0 ** math.ceil(math.log10(-min(values) or min(y for y in values if y > 0)))
            axes.set_yscale("symlog", linthresh=threshold)
            axes.yaxis.set_major_locator(SymmetricalLogLocator(linthresh=threshold, base=10))
        axes.set_xscale("log")
        axes.set(title=title, xlabel=x_label)
        _finish(axes)
        if ticks is not None:
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
        return _svg(figure)


def _keep_in_frame(axes: Any, values: Sequence[float]) -> None:
    """Bars that reach below 0 end at the lower side of the frame, which is at most a factor of 3 below the values."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(values) / 3), high)


def spectrum_panel(title: str, lines: Sequence[Line], data: Sequence[float] | None) -> str:
    """Power against frequency, as SVG, with that of the data dashed. Samples far from these leave the frame."""
    with _style():
        figure = new_figure(3.7, 2.7)
        axes = figure.subplots()
        for line in lines:
            axes.loglog(line.x, line.y, linewidth=1.4, color=colour(line.style), linestyle=dash(line.style))
        if data is not None:
            axes.loglog(lines[0].x, data, **TRUE)
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, min(data) / FAR), min(high, max(data) * FAR))
        axes.set(title=title, xlabel="cycles a pixel")
        _finish(axes)
        return _svg(figure)


def _finish(axes: Any) -> None:
    """A faint grid, and few round numbers along logarithmic axes."""
    axes.grid(alpha=0.25, linewidth=0.6)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            ticks = round_numbers(low, high)
            axis.set_ticks(ticks, [_written(tick) for tick in ticks])
            axis.set_ticks([], minor=True)


def round_numbers(low: float, high: float) -> list[float]:
    """Some round numbers between two positive ones: powers of ten, or 1, 2, 5, ..., or else evenly spaced."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    found: list[float] = []
    for locator in (
        LogLocator(numticks=6),
        LogLocator(subs=(1.0, 2.0, 5.0), numticks=6),
        MaxNLocator(4, steps=[1, 2, 5, 10]),
    ):
        found = [value for value in map(float, locator.tick_values(low, high)) if low <= value <= high]
        if len(found) >= 3:
            break
    return found


def _written(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e5 else f"$10^{{{math.log10(value):g}}}$"


def _style() -> AbstractContextManager[Any]:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def _svg(figure: Any) -> str:
    """The figure as an element of a page: without a header and a fixed size, in the page's colour."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    return text.replace(INK, "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)


def legend(styles: Mapping[str, int]) -> list[dict[str, str]]:
    """Name, sign and colour of each series."""
    return [{"name": name, "sign": sign(k), "colour": colour(k)} for name, k in styles.items()]
