"""Small figures for an HTML page, as SVG that takes the colour of its lines and text from the page around it."""

import io
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
STYLE = {
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
    """A named series; `style` counts colours, signs and dashes."""

    name: str
    style: int
    x: Sequence[float]
    y: Sequence[float]

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
    title: str, lines: Sequence[Line], x_label: str, ticks: Sequence[int] | None, floor: float | None
) -> str:
    """One metric against calls or seconds, as SVG; logarithmic where all values are positive.

    Args:
        ticks: of the horizontal axis, if it is one of whole numbers.
        floor: the value of true samples, drawn as a line.
    """
    with _style():
        figure = new_figure(3.7, 2.7)
        axes = figure.subplots()
        for line in lines:
            axes.plot(line.x, line.y, markersize=4.5, linewidth=1.4, **line.look)
        if floor is not None:
            axes.axhline(floor, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        values = [*(y for line in lines for y in line.y), *([] if floor is None else [floor])]
        if min(values) > 0:
            axes.set_yscale("log")
        axes.set_xscale("log")
        axes.set(title=title, xlabel=x_label)
        if ticks is not None:
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set_xticks([], minor=True)
        _finish(axes)
        return _svg(figure)


def spectrum_panel(title: str, lines: Sequence[Line], data: Sequence[float] | None, ratio: bool) -> str:
    """Power against frequency, of samples and of the data, as SVG; or the ratio of both."""
    with _style():
        figure = new_figure(3.7, 2.7)
        axes = figure.subplots()
        for line in lines:
            look = {**line.look, "marker": ""}
            if data is not None and ratio:
                axes.loglog(line.x, [own / true for own, true in zip(line.y, data, strict=True)], linewidth=1.4, **look)
            else:
                axes.loglog(line.x, line.y, linewidth=1.4, **look)
        if data is not None and lines:
            true = [1.0] * len(data) if ratio else data
            axes.loglog(lines[0].x, true, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set(title=title, xlabel="cycles a pixel")
        _finish(axes)
        return _svg(figure)


def _finish(axes: Any) -> None:
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    axes.grid(alpha=0.25, linewidth=0.6)
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        decades = high / low >= 10
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(_plain if high / low <= 100 else LogFormatterSciNotation())
        axes.yaxis.set_minor_formatter("" if decades else _plain)


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


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
