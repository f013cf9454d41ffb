"""Pictures that commands write, and the style of all figures. matplotlib without its global state."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.files import write_atomically
from prescore.metrics import radial_power
from prescore.operators import Frequency
from prescore.precondition import frequency_preconditioner
from prescore.statistics import Statistics

ALPHAS = (2.0, 5.0)
PAGE = 8.3  # inches: the width of a figure whose text is to be read at the size that the style gives it
LARGE = 330_000  # bytes of a PNG file, from which on it has fewer colours
STYLE = Path(__file__).with_name("prescore.mplstyle")


@contextmanager
def style() -> Iterator[None]:
    """The style of all figures, to be entered while one is drawn and saved; also a decorator of what does both.

    Raises:
        PrescoreError: matplotlib is not installed.
    """
    with _matplotlib():
        import matplotlib.style
    with matplotlib.style.context(STYLE):
        yield


@contextmanager
def _matplotlib() -> Iterator[None]:
    """While it is imported: one line in place of an ImportError."""
    try:
        yield
    except ImportError:
        raise PrescoreError("pictures need matplotlib; pip install '.[cli]' in the clone") from None


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, sizes in inches.

    Raises:
        PrescoreError: matplotlib is not installed.
    """
    with _matplotlib():
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_atomically(path, png(figure))


def png(figure: Any) -> bytes:
    """A figure as PNG, in 256 colours if it is large."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", pil_kwargs={"optimize": True})
    if picture.tell() <= LARGE:
        return picture.getvalue()
    from PIL import Image

    reduced = io.BytesIO()
    with Image.open(picture) as full:
        full.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(reduced, format="PNG", optimize=True)
    return reduced.getvalue()


@style()
def plot_statistics(statistics: Statistics, path: str | Path) -> None:
    """Power against frequency, the power map, the frequency weights for some alpha, and the mean square of pixels.

    Raises:
        PrescoreError: the spectra are not over two axes, or the path cannot be written.
    """
    if statistics.moments.axes != 2:
        raise PrescoreError(f"--plot: draws spectra over 2 axes, these are over {statistics.moments.axes}")
    figure = new_figure(PAGE, 5.4)
    axes = figure.subplots(2, 3).flatten()
    count, shape = statistics.moments.count, " x ".join(map(str, statistics.event_shape))
    figure.suptitle(f"{count} samples of {shape}, mean over channels")
    _plot_radial(axes[0], statistics)
    _show(
        figure,
        axes[1],
        _map(statistics.moments.power, statistics.moments.length).log10(),
        "log10 power, zero in the middle",
    )
    _show(figure, axes[2], _flat(statistics.moments.mean_square), "mean square of each pixel")
    for place, alpha in zip(axes[3:], ALPHAS, strict=False):
        _show(
            figure,
            place,
            _map(_weights(statistics, alpha), statistics.moments.length),
            f"weight of a frequency, alpha {alpha:g}",
        )
    _plot_weights(axes[5], statistics)
    save_figure(figure, path)


def _plot_radial(axes: Any, statistics: Statistics) -> None:
    for power, label in ((statistics.moments.power, "raw"), (statistics.moments.power_centred, "about the mean")):
        frequencies, profile = radial_power(_flat(power), statistics.event_shape[-2:])
        axes.loglog(frequencies[1:], profile[1:], marker=".", label=label)
    axes.set(xlabel="cycles a pixel", ylabel="E|F x|²", title="power against frequency")
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.legend(loc="lower left")


def _plot_weights(axes: Any, statistics: Statistics) -> None:
    for alpha in ALPHAS:
        frequencies, profile = radial_power(_flat(_weights(statistics, alpha)), statistics.event_shape[-2:])
        axes.plot(frequencies, profile, marker=".", label=f"alpha {alpha:g}")
    axes.set(xlabel="cycles a pixel", ylabel="weight", title="weight against frequency")
    axes.legend()


def _show(figure: Any, axes: Any, picture: Tensor, title: str) -> None:
    image = axes.imshow(picture.numpy())
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.85)


def _weights(statistics: Statistics, alpha: float) -> Tensor:
    """What the preconditioner multiplies each frequency by, half spectrum."""
    M = frequency_preconditioner(statistics, alpha).M
    assert isinstance(M, Frequency)
    return M.weights


def _flat(x: Tensor) -> Tensor:
    """Mean over everything before the last two axes."""
    return x.reshape(-1, *x.shape[-2:]).mean(0)


def _map(half: Tensor, length: int) -> Tensor:
    """Full spectrum (H, W) of a half spectrum, mean over channels, zero frequency in the middle."""
    half = _flat(half)
    mirrored = half.flip(-2).roll(1, -2)  # row h holds -h; column w of the other half is length - w of this
    rest: Sequence[int] = range(length - half.shape[-1], 0, -1)
    return torch.fft.fftshift(torch.cat([half, mirrored[:, list(rest)]], dim=-1))
