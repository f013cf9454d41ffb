"""What a model believes on the way: its prediction of the clean sample after each step, as a strip or a film."""

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.files import check_writable, write_atomically
from prescore.images import check_picture, grid, to_uint8
from prescore.limits import check_size
from prescore.noise import check_seeds
from prescore.plan import Plan
from prescore.samplers import Progress

SECONDS, LAST_SECONDS = 0.6, 2.5  # of each picture of a film, and of its last
SMALLEST = 96  # pixels of the side of a sample, to which smaller ones are enlarged by whole factors
KEPT = 2 * 4  # bytes for each number of a picture, kept and stacked
LINE = 12  # pixels of a line of text, before it is enlarged
KINDS = (".gif", ".png")


@dataclass(frozen=True, eq=False)
class Film:
    """Predictions of the clean samples, one after each step.

    Attributes:
        pictures: (T, N, *picture), in the units of the data; the last is the last prediction, not the sample where the
            last step adds noise.
        levels: the noise level at the beginning of each step, T of them.
        calls: network calls that were made when the step was finished, T of them.
        picture_range: lowest and highest value of the data.
    """

    pictures: Tensor
    levels: tuple[float, ...]
    calls: tuple[int, ...]
    picture_range: tuple[float, float]


def trace(plan: Plan, seeds: Iterable[int] = range(4), **how: Any) -> Film:
    """Draw samples and keep what the model predicts on the way.

    Args:
        plan: how.
        seeds: one for each sample, which is that of `plan.sample`.
        how: other arguments of `prescore.sample`.

    Raises:
        PrescoreError: as `prescore.sample`; or the model's samples are no pictures of a known range.
    """
    denoiser = plan.denoiser
    if "callback" in how:
        raise PrescoreError("callback: trace has one of its own; prescore.sample takes another")
    check_picture(denoiser.picture_shape)
    if plan.picture_range is None:
        raise PrescoreError("data_range: the model does not say it, and pictures need it; prescore.Denoiser takes it")
    numbers = check_seeds(seeds)
    check_size("calls", plan.steps * len(numbers), KEPT * math.prod(denoiser.picture_shape))
    frames: list[tuple[Tensor, float, int]] = []

    def keep(step: Progress) -> None:
        frames.append((denoiser.decode(step.denoised).float().cpu(), step.sigma, step.calls))

    plan.sample(numbers, callback=keep, **how)
    pictures, levels, calls = zip(*frames, strict=True)
    return Film(torch.stack(pictures), levels, calls, plan.picture_range)


def save_films(path: str | Path, films: Mapping[str, Film]) -> None:
    """Write films of the same seeds: .gif, beside each other over time, or .png, below each other, a column a step.

    Raises:
        PrescoreError: another kind of file, or it cannot be written; Pillow is missing.
    """
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise PrescoreError(f"{path}: {kind or 'no'} file; name a .gif, a film, or a .png, a strip")
    if not films:
        raise PrescoreError("films: none given")
    check_writable(path)
    frames = [_strip(films)] if kind == ".png" else [_frame(films, k) for k in range(_longest(films))]
    buffer = io.BytesIO()
    seconds = [*[SECONDS] * (len(frames) - 1), LAST_SECONDS]
    more: dict[str, Any] = {"append_images": frames[1:], "duration": [int(1000 * s) for s in seconds], "loop": 0}
    frames[0].save(buffer, format=kind[1:].upper(), save_all=kind == ".gif", **(more if kind == ".gif" else {}))
    write_atomically(path, buffer.getvalue())


def _longest(films: Mapping[str, Film]) -> int:
    return max(len(film.pictures) for film in films.values())


def _frame(films: Mapping[str, Film], k: int) -> Any:
    """Each sampler's prediction after its k-th step, or its last, with a line that says which."""
    tiles = []
    for name, film in films.items():
        at = min(k, len(film.pictures) - 1)
        sheet = grid(to_uint8(film.pictures[at], film.picture_range))
        tiles.append(_titled(_enlarged(sheet, film), [name, _place(film, at)]))
    return _beside(tiles)


def _strip(films: Mapping[str, Film]) -> Any:
    """Rows of samples, columns of steps, with a line above each sampler and each column."""
    rows = []
    for name, film in films.items():
        columns = []
        for at in range(len(film.pictures)):
            sheet = grid(to_uint8(film.pictures[at], film.picture_range), columns=1)
            columns.append(_titled(_enlarged(sheet, film), [name if at == 0 else "", *_place(film, at).split(", ")]))
        rows.append(_beside(columns))
    return _below(rows)


def _place(film: Film, at: int) -> str:
    calls = film.calls[at]
    return f"{calls} call{'s' * (calls > 1)}, sigma {film.levels[at]:.3g}"


def _enlarged(sheet: Tensor, film: Film) -> Any:
    from PIL import Image

    factor = max(1, math.ceil(SMALLEST / min(film.pictures.shape[-2:])))
    pixels = sheet.movedim(0, -1).numpy()
    image = Image.fromarray(pixels[..., 0] if len(sheet) == 1 else pixels).convert("RGB")
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _titled(image: Any, lines: list[str]) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=LINE)
    high = (LINE + 4) * len(lines)
    width = max(image.width, *(math.ceil(font.getlength(line)) + 4 for line in lines))
    titled = Image.new("RGB", (width, image.height + high), "white")
    titled.paste(image, (0, high))
    draw = ImageDraw.Draw(titled)
    for k, line in enumerate(lines):
        draw.text((2, k * (LINE + 4)), line, fill="black", font=font)
    return titled


def _beside(images: list[Any], gap: int = LINE) -> Any:
    from PIL import Image

    sheet = Image.new("RGB", (sum(i.width + gap for i in images) - gap, max(i.height for i in images)), "white")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet


def _below(images: list[Any], gap: int = LINE) -> Any:
    from PIL import Image

    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height + gap for i in images) - gap), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap
    return sheet
