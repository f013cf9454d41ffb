"""What `prescore compare` compares samples with: true images, statistics of them, the power spectrum of the data that a
model brings, or nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prescore.metrics.measuring import (
    Measuring,
    ReferenceSets,
    compare,
    finite,
    hexadecimal,
    measured_reference,
    stored_reference,
)
from prescore.data import load_images
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.images import check_picture, to_uint8
from prescore.metrics import load_reference, make_features, radial_power
from prescore.metrics.evaluation import check_possible
from prescore.metrics.features import unit_images
from prescore.metrics.io import is_reference
from prescore.metrics.sets import WORD, check_shapes, image_digest, image_power
from prescore.metrics.spectrum import power_error
from prescore.models.latent import LatentDenoiser
from prescore.statistics import load_statistics

SHOWN = 16  # digits of a digest
BATCH = 256  # images that a digest is taken of at once
MOST_TRUE = 5000  # true images that are read unless more are asked for: some metrics look at all pairs, for each run
FLAGS = {"key": "--reference-key", "data_range": "--range"}  # of options that are not called as their argument


@dataclass(frozen=True)
class ReferenceFigures:
    """What is known of true images.

    Attributes:
        spectrum: their power on rings of equal frequency, mean over channels, in [0, 1], if there is one.
        floor: metrics of as many true images as there are samples, beside the others; None is not finite.
    """

    spectrum: Sequence[float] | None = None
    floor: Mapping[str, float | None] | None = None


class SampleMeasure:
    """What measures samples. This one has nothing to compare them with: they have spectra only."""

    figures = ReferenceFigures()

    def __call__(self, unit: Tensor) -> tuple[Mapping[str, float], Sequence[str], Tensor]:
        """Metrics of samples (N, C, H, W), in [0, 1] before they are clipped; notes; their power spectrum."""
        return {}, (), image_power(unit)


class SpectrumMeasure(SampleMeasure):
    """The power spectrum of the data is known, and nothing else.

    Args:
        power: E|F x|^2 of images in [0, 1], (C, H, W // 2 + 1).
        width: W.
    """

    def __init__(self, power: Tensor, width: int) -> None:
        self.power, self.width = power, width
        self.figures = ReferenceFigures(spectrum=profile(power, width))

    def __call__(self, unit: Tensor) -> tuple[Mapping[str, float], Sequence[str], Tensor]:
        own = image_power(unit)
        return {"spectrum": power_error(own, self.power, self.width)}, (), own


class SetMeasure(SampleMeasure):
    """True images, or statistics of them.

    Args:
        sets: these, measured.
        measuring: how.
        n: samples that there will be in each set.
        as_bytes: round samples to 8 bits before they are measured.

    Raises:
        PrescoreError: a metric that is asked for needs more samples, or other features.
    """

    def __init__(self, sets: ReferenceSets, measuring: Measuring, n: int, as_bytes: bool) -> None:
        reference = sets.reference
        check_possible(replace(reference, count=n), reference, measuring.metrics)
        self.sets, self.measuring, self.as_bytes = sets, measuring, as_bytes
        floor, power = sets.floor(measuring.metrics), reference.power
        self.figures = ReferenceFigures(
            None if power is None else profile(power, reference.shape[-1]), None if floor is None else finite(floor)
        )

    def __call__(self, unit: Tensor) -> tuple[Mapping[str, float], Sequence[str], Tensor]:
        images = to_uint8(unit) if self.as_bytes else unit.clamp(0, 1)
        comparison = compare(self.measuring(images), self.sets, self.measuring.metrics)
        return comparison.values, comparison.notes, image_power(unit_images(images))


def profile(power: Tensor, width: int) -> list[float]:
    """A half spectrum (C, H, width // 2 + 1) averaged over rings of equal frequency, and channels."""
    rings = radial_power(power, (power.shape[-2], width))[1]
    return rings.reshape(-1, rings.shape[-1]).mean(0).tolist()


@dataclass(frozen=True)
class Reference:
    """What samples will be compared with.

    Attributes:
        text: what it is, for a reader.
        features: what sees the images, likewise; empty if nothing does.
        settings: what must be the same of runs that are compared, JSON values.
        measure: measures it, which may take long.
        pictures: true images, uint8, if they are there.
    """

    text: str
    features: str
    settings: Mapping[str, object]
    measure: Callable[[], SampleMeasure]
    pictures: Tensor | None = None


@dataclass(frozen=True)
class Reading:
    """Options that say how a reference is looked at, and how it is read: arguments of `load_images`."""

    features: str | None
    metrics: Sequence[str] | None
    n: int | None
    look: Mapping[str, Any]

    def refuse(self, why: str, images_only: bool = False) -> None:
        """Raise PrescoreError if one of the options is given; of those alone that images are read by, if so."""
        given: dict[str, object] = {} if images_only else {"features": self.features, "metrics": self.metrics}
        for name, value in {**given, "reference-n": self.n, **self.look}.items():
            if value is not None:
                raise PrescoreError(f"{FLAGS.get(name, f'--{name}')}: {why}")


def open_reference(
    path: Path | None, reading: Reading, denoiser: Denoiser, statistics: str | None, n: int, seed: int
) -> Reference:
    """What samples are compared with: true images, statistics of them, or what the model brings.

    Args:
        path: of the reference, if one was given.
        statistics: of the model's data, if a file was given.
        n: samples of each run.
        seed: of the draw of true images.
    """
    shape = denoiser.picture_shape
    try:
        check_picture(shape)
    except PrescoreError:
        raise PrescoreError(
            f"{denoiser.name}: samples of shape {shape} are not grey or RGB pictures, and are not compared"
        ) from None
    if path is None:
        reading.refuse("does nothing without --reference")
        return _of_model(denoiser, statistics)
    if is_reference(path):
        reading.refuse(f"{path} holds statistics, and no images", images_only=True)
        return _of_statistics(path, reading, shape, n, denoiser.device)
    return _of_images(path, reading, shape, n, denoiser.device, seed)


def _of_model(denoiser: Denoiser, statistics: str | None) -> Reference:
    """The power spectrum in the statistics of the data, where the model brings them or they are given."""
    shape, name = denoiser.picture_shape, statistics or denoiser.statistics
    if not isinstance(name, str) or isinstance(denoiser, LatentDenoiser) or denoiser.data_mean_removed:
        return Reference("none", "", {"reference": "none"}, SampleMeasure)
    found = load_statistics(name)
    measured = found.moments.in_range((0.0, 1.0))
    if measured.axes != 2 or measured.event_shape != shape:
        sizes = [" x ".join(map(str, size)) for size in (measured.event_shape, shape)]
        raise PrescoreError(f"--statistics: {name} is of samples {sizes[0]}, the model's are {sizes[1]}")
    text = f"the power spectrum of the {measured.count} images in the statistics {name}"
    return Reference(text, "", {"reference": found.digest}, lambda: SpectrumMeasure(measured.power, shape[-1]))


def _of_statistics(path: Path, reading: Reading, shape: tuple[int, ...], n: int, device: torch.device) -> Reference:
    """A file from `prescore evaluate --save-reference`; by default with the features that it was measured with."""
    found = load_reference(path)
    extractor = make_features(reading.features or str(found.extractor["name"]), shape, device)
    measuring = Measuring(extractor, reading.metrics)
    sets = stored_reference(path, shape, extractor, floor=True)
    text = f"{path}, statistics of {found.count} images, digest {hexadecimal(found.digest)[:SHOWN]}"
    measure = partial(SetMeasure, sets, measuring, n, as_bytes=True)
    return Reference(text, _text(measuring), _settings(measuring, found.digest, found.count), measure)


def _of_images(
    path: Path, reading: Reading, shape: tuple[int, ...], n: int, device: torch.device, seed: int
) -> Reference:
    """True images from a file or folder."""
    most, (low, high) = MOST_TRUE if reading.n is None else reading.n, reading.look["data_range"] or (0.0, 1.0)

    def check(found: tuple[int, ...]) -> None:
        try:
            check_shapes(shape, found[1:])
        except PrescoreError as error:
            raise PrescoreError(f"{path}: {error} (brought to one size by --pad, --crop or --fit)") from None

    data = load_images(path, n=most, seed=seed, check=check, **reading.look)
    if not (as_bytes := data.dtype == torch.uint8):
        data = (data - low) / (high - low)
    measuring = Measuring(make_features(reading.features or usual_features(shape), shape, device), reading.metrics)
    digest = sum(image_digest(unit_images(part)) for part in data.split(BATCH)) % WORD

    def measure() -> SetMeasure:
        return SetMeasure(measured_reference(data, shape, n, measuring, True, seed), measuring, n, as_bytes)

    text = f"{path}, {len(data)} images, digest {hexadecimal(digest)[:SHOWN]}"
    pictures = data if as_bytes else to_uint8(data[:n])
    return Reference(text, _text(measuring), _settings(measuring, digest, len(data)), measure, pictures)


def usual_features(shape: tuple[int, ...]) -> str:
    """Features that need no trained network: means of 2 x 2 pixels, or the pixels where a side is odd."""
    return "pixels" if shape[-1] % 2 or shape[-2] % 2 else "means-2x2"


def _settings(measuring: Measuring, digest: int, n: int) -> dict[str, object]:
    features = measuring.features
    weights = f", weights {features.weights[:SHOWN]}" if features.weights else ""
    return {
        "reference": hexadecimal(digest)[:SHOWN],
        "reference_n": n,
        "features": features.name + weights,
        "metrics": "all" if measuring.metrics is None else list(measuring.metrics),
    }


def _text(measuring: Measuring) -> str:
    return f"{measuring.features.name}, {measuring.features.dimension} an image"
