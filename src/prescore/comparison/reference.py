"""What a comparison compares samples with: true images or other true samples, statistics of them, the power spectrum of
the data that a model brings, or nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prescore.data import load_images, subset
from prescore.data.sets import flag_of
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.images import is_picture, to_uint8
from prescore.jackknife import BLOCKS, Estimate, block_sizes, leave_out
from prescore.metrics import load_reference, make_features, radial_power
from prescore.metrics.evaluation import check_possible
from prescore.metrics.features import unit_images
from prescore.metrics.io import is_reference
from prescore.metrics.measuring import (
    Measuring,
    ReferenceSets,
    compare,
    finite,
    hexadecimal,
    measured_reference,
    stored_reference,
    usual_range,
)
from prescore.metrics.sets import WORD, MeanPower, SetStatistics, check_shapes, image_digest, image_power, spectrum_axes
from prescore.metrics.spectrum import power_error
from prescore.models.latent import LatentDenoiser
from prescore.precondition import is_mask
from prescore.statistics import Statistics, load_statistics

SHOWN = 16  # digits of a digest
BATCH = 256  # images that a digest is taken of at once
MOST_TRUE = 5000  # true images that are read unless more are asked for: some metrics look at all pairs, for each run


@dataclass(frozen=True)
class ReferenceFigures:
    """What is known of true images.

    Attributes:
        spectrum: their power on rings of equal frequency, mean over channels, in [0, 1], if there is one; vectors have
            none.
        floor: metrics of as many true images as there are samples, beside the others; None is not finite.
        floor_errors: their standard errors (`prescore.jackknife`); None is unknown.
    """

    spectrum: Sequence[float] | None = None
    floor: Mapping[str, float | None] | None = None
    floor_errors: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Measured:
    """What was found of the samples of a run.

    Attributes:
        estimates: metrics by name, with their errors.
        notes: what to know about them, one line each.
        power: their power spectrum, which vectors have not.
    """

    estimates: Mapping[str, Estimate]
    notes: Sequence[str]
    power: Tensor | None


class SampleMeasure:
    """What measures samples. This one has nothing to compare them with: they have spectra only."""

    figures = ReferenceFigures()

    def __call__(self, unit: Tensor) -> Measured:
        """Of samples (N, C, H, W), in [0, 1] before they are clipped, or of others in their own units; in the order of
        their seeds."""
        return Measured({}, (), image_power(unit))


class SpectrumMeasure(SampleMeasure):
    """The power spectrum of the data is known, and nothing else.

    Args:
        power: E|F x|^2 of images in [0, 1], (C, H, W // 2 + 1).
        shape: of an image.
    """

    def __init__(self, power: Tensor, shape: tuple[int, ...]) -> None:
        self.power, self.shape = power, shape
        self.figures = ReferenceFigures(spectrum=profile(power, shape))

    def __call__(self, unit: Tensor) -> Measured:
        parts = [MeanPower.of(part) for part in unit.split(block_sizes(len(unit)))]
        value, *without = (
            power_error(reduce(add, kept).power, self.power, self.shape[-1])
            for kept in leave_out(parts, BLOCKS if len(parts) >= BLOCKS else 0)
        )
        found = Estimate.of(value, without, len(unit))
        return Measured({"spectrum": found}, (), reduce(add, parts).power)


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
        floor = sets.floor(measuring.metrics)
        spectrum = profile(reference.power, tuple(reference.shape))
        known = None if floor is None else finite({name: estimate.value for name, estimate in floor.items()})
        errors = None if floor is None else {name: estimate.error for name, estimate in floor.items()}
        self.figures = ReferenceFigures(spectrum, known, errors)

    def __call__(self, unit: Tensor) -> Measured:
        has_range = self.measuring.data_range is not None
        images = to_uint8(unit) if self.as_bytes else unit.clamp(0, 1) if has_range else unit
        comparison = compare(self.measuring.blocks(images), self.sets, self.measuring.metrics)
        power = image_power(unit_images(images, self.measuring.data_range))
        return Measured(comparison.estimates, comparison.notes, power)


def profile(power: Tensor | None, shape: tuple[int, ...]) -> list[float] | None:
    """A half spectrum of samples of this shape averaged over rings of equal frequency, and channels; None if none."""
    if power is None:
        return None
    rings = radial_power(power, shape[-spectrum_axes(shape) :])[1]
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
        value_range: of the samples that will come, from which they are mapped to [0, 1]; None leaves them.
        lacking: what cannot be said of them so, why, and what would be needed, in one line; empty if nothing lacks.
    """

    text: str
    features: str
    settings: Mapping[str, object]
    measure: Callable[[], SampleMeasure]
    pictures: Tensor | None = None
    value_range: tuple[float, float] | None = None
    lacking: str = ""


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
                raise PrescoreError(f"{'--reference-key' if name == 'key' else flag_of(name)}: {why}")


def open_reference(
    given: Path | Tensor | SetStatistics | None,
    reading: Reading,
    denoiser: Denoiser,
    statistics: Statistics | str | None,
    n: int,
    seed: int,
) -> Reference:
    """What samples are compared with: true images, statistics of them, or what the model brings.

    Args:
        given: the reference or its path, if one was given.
        statistics: of the model's data, or their file, if given.
        n: samples of each run.
        seed: of the draw of true images.
    """
    shape = denoiser.picture_shape
    if given is None:
        reading.refuse("does nothing without --reference")
        return _of_model(denoiser, statistics)
    if isinstance(given, SetStatistics) or (isinstance(given, Path) and is_reference(given)):
        reading.refuse(f"{_named(given)} holds statistics, and no images", images_only=True)
        return _of_statistics(given, reading, denoiser, shape, n)
    return _of_images(given, reading, denoiser, shape, n, seed)


def value_range(denoiser: Denoiser, given: tuple[float, float] | None) -> tuple[float, float] | None:
    """Of samples of a model that are compared with data in a given range.

    Pictures are mapped to [0, 1] from the range that the model knows, or is known of the data. Other samples are
    compared in their own units, unless a range of the data is given.
    """
    if len(denoiser.picture_shape) != 3 and given is None:
        return None
    return denoiser.picture_range or given or usual_range(denoiser.picture_shape)


def _named(given: object) -> str:
    return str(given) if isinstance(given, Path) else "what is given"


def _of_model(denoiser: Denoiser, statistics: Statistics | str | None) -> Reference:
    """The power spectrum in the statistics of the data, where the model brings them or they are given."""
    shape, known = denoiser.picture_shape, statistics or denoiser.statistics
    if isinstance(known, str | Path) and is_mask(known):
        known = denoiser.statistics
    own = value_range(denoiser, None)
    found = load_statistics(known) if isinstance(known, str | Path) else known

    def none(why: str, instead: str = "") -> Reference:
        lacking = f"no column says how near to the data samples are: {why}; give true ones, --reference DATA{instead}"
        return Reference("none", "", {"reference": "none"}, SampleMeasure, value_range=own, lacking=lacking)

    if isinstance(denoiser, LatentDenoiser):
        return none("statistics are of the latents, and not of what they stand for")
    if denoiser.data_mean_removed:
        return none("statistics are of the data, whose mean the model's samples have not")
    if not isinstance(found, Statistics):
        instead = "" if len(shape) == 1 else ", or for their power spectrum alone --statistics FILE"
        return none("nothing says what the data are like", instead)
    measured = found.moments.in_range(None if own is None else (0.0, 1.0))
    name = found.source or "given"
    if measured.event_shape != shape or (len(shape) > 1 and measured.axes != spectrum_axes(shape)):
        sizes = [" x ".join(map(str, size)) for size in (measured.event_shape, shape)]
        raise PrescoreError(f"--statistics: {name} is of samples {sizes[0]}, the model's are {sizes[1]}")
    if len(shape) == 1:
        return none("statistics of vectors have no power spectrum")
    text = f"the power spectrum of the {measured.count} images in the statistics {name}"
    measure = partial(SpectrumMeasure, measured.power, shape)
    lacking = "of the data only the power spectrum is known: true samples, --reference DATA, add distances to them"
    return Reference(text, "", {"reference": found.digest}, measure, value_range=own, lacking=lacking)


def _of_statistics(
    given: Path | SetStatistics, reading: Reading, denoiser: Denoiser, shape: tuple[int, ...], n: int
) -> Reference:
    """Those of `prescore evaluate --save-reference`; by default with the features that they were measured with."""
    found = given if isinstance(given, SetStatistics) else load_reference(given)
    extractor = make_features(reading.features or str(found.extractor["name"]), shape, denoiser.device)
    own = value_range(denoiser, None)
    measuring = Measuring(extractor, reading.metrics, data_range=None if own is None else (0.0, 1.0))
    sets = stored_reference(given, shape, extractor, floor=True)
    text = f"{_named(given)}, statistics of {found.count} images, digest {hexadecimal(found.digest)[:SHOWN]}"
    measure = partial(SetMeasure, sets, measuring, n, as_bytes=own is not None)
    settings = _settings(measuring, found.digest, found.count)
    return Reference(text, _text(measuring), settings, measure, value_range=own)


def _of_images(
    given: Path | Tensor, reading: Reading, denoiser: Denoiser, shape: tuple[int, ...], n: int, seed: int
) -> Reference:
    """True images, or from a file or folder."""
    asked = reading.look.get("data_range")
    most, known = MOST_TRUE if reading.n is None else reading.n, asked or usual_range(shape)

    def check(found: tuple[int, ...]) -> None:
        try:
            check_shapes(shape, found[1:])
        except PrescoreError as error:
            raise PrescoreError(f"{_named(given)}: {error} (brought to one size by --pad, --crop or --fit)") from None

    if isinstance(given, Tensor):
        check(tuple(given.shape))
        data = given.cpu()[subset(len(given), most, seed)]
    else:
        data = load_images(given, n=most, seed=seed, check=check, **reading.look)
    as_bytes = data.dtype == torch.uint8
    own = (denoiser.picture_range or (0.0, 1.0)) if as_bytes else value_range(denoiser, asked)
    if not as_bytes and known is not None:
        data = unit_images(data, known)
    unit = None if own is None else (0.0, 1.0)
    extractor = make_features(reading.features or usual_features(shape), shape, denoiser.device)
    measuring = Measuring(extractor, reading.metrics, data_range=unit)
    digest = sum(image_digest(unit_images(part, unit)) for part in data.split(BATCH)) % WORD

    def measure() -> SetMeasure:
        sets = measured_reference(data, shape, n, measuring, True, seed, in_blocks=True)
        return SetMeasure(sets, measuring, n, as_bytes)

    text = f"{_named(given)}, {len(data)} images, digest {hexadecimal(digest)[:SHOWN]}"
    pictures = None
    if is_picture(shape):
        pictures = data if as_bytes else to_uint8(data[:n])
    return Reference(text, _text(measuring), _settings(measuring, digest, len(data)), measure, pictures, own)


def usual_features(shape: tuple[int, ...]) -> str:
    """Features that need no trained network: means of 2 x 2 pixels, or the pixels where a side is odd, or the numbers
    of what is no picture."""
    return "pixels" if len(shape) != 3 or shape[-1] % 2 or shape[-2] % 2 else "means-2x2"


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
