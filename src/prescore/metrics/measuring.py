"""Sets of samples and of true ones, measured alike and compared: what `evaluate` and `compare` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prescore.data import ImageSet, reading
from prescore.data.arrays import open_array
from prescore.errors import PrescoreError, check_choice
from prescore.jackknife import Estimate, block_sizes
from prescore.limits import check_size
from prescore.metrics.conditioning import Conditioning
from prescore.metrics.evaluation import METRICS, cautions, estimates, hold_out, measure
from prescore.metrics.evaluation import obstacles as obstacles_of
from prescore.metrics.features import Features
from prescore.metrics.io import load_reference
from prescore.metrics.sets import SetStatistics, check_shapes
from prescore.processes import Processes


@dataclass(frozen=True)
class Measuring:
    """How sets of images are measured: both alike.

    Attributes:
        features: what is made of them.
        metrics: which will be asked for; None is all that there can be.
        batch_size: images in one call of the extractor.
        data_range: of images that are not bytes; None takes samples in their own units.
        progress: whether bars are shown on a terminal.
        processes: that share the images; each measures its part, and all get the whole.
    """

    features: Features
    metrics: Sequence[str] | None
    batch_size: int = 256
    data_range: tuple[float, float] | None = (0.0, 1.0)
    progress: bool = True
    processes: Processes | None = None

    def __call__(self, images: Tensor | ImageSet) -> SetStatistics:
        if self.processes is None or self.processes.count == 1:
            return self._of(images)
        rank, count, n = self.processes.rank, self.processes.count, len(images)
        rows = range(rank * n // count, (rank + 1) * n // count)  # which follow each other, so that the order is kept
        part = images.take(rows) if isinstance(images, ImageSet) else images[rows.start : rows.stop]
        return reduce(add, self.processes.gathered([self._of(part)] if len(rows) else [])).joined()

    def blocks(self, images: Tensor | ImageSet) -> list[SetStatistics]:
        """Of the parts that the errors of metrics are made of, in one pass; not shared among processes."""
        parts = torch.arange(len(images)).split(block_sizes(len(images)))
        return [self._of(images.take(p.tolist()) if isinstance(images, ImageSet) else images[p]) for p in parts]

    def _of(self, images: Tensor | ImageSet) -> SetStatistics:
        return measure(
            images,
            self.features,
            self.metrics,
            batch_size=self.batch_size,
            data_range=self.data_range,
            progress=self.progress,
        )


@dataclass(frozen=True)
class ReferenceSets:
    """What samples are compared with.

    Attributes:
        reference: all true images.
        held: as many of them as there are samples, for the floor.
        others: the rest, which these are compared with.
        why_none: why a floor that was asked for is not there.
        held_blocks: the parts of `held` that the errors of the floor are made of, where these are asked for.
    """

    reference: SetStatistics
    held: SetStatistics | None = None
    others: SetStatistics | None = None
    why_none: str | None = None
    held_blocks: Sequence[SetStatistics] = ()

    def floor(self, names: Sequence[str] | None, progress: bool = True) -> dict[str, Estimate] | None:
        """Metrics of the held-out images beside the others, if there are any: all, or those asked for."""
        if self.held is None or self.others is None:
            return None
        return estimates(self.held_blocks or [self.held], self.others, names, progress=progress)


@dataclass(frozen=True)
class Comparison:
    """Metrics of samples, and what to know about them, one line each."""

    estimates: Mapping[str, Estimate]
    notes: Sequence[str]

    @property
    def values(self) -> dict[str, float]:
        return {name: estimate.value for name, estimate in self.estimates.items()}


def stored_reference(
    path: Path | SetStatistics, shape: tuple[int, ...], features: Features, floor: bool
) -> ReferenceSets:
    """Statistics, or from a file, which have to be of images of that shape, measured with these features."""
    statistics = path if isinstance(path, SetStatistics) else load_reference(path)
    try:
        statistics.check_comparable(shape, features.facts)
    except PrescoreError as error:
        where = "" if isinstance(path, SetStatistics) else f"{path}: "
        raise PrescoreError(f"{where}{error}") from None
    return ReferenceSets(
        statistics, why_none="the reference is statistics, and true images are needed" if floor else None
    )


def measured_reference(
    data: Tensor | ImageSet,
    shape: tuple[int, ...],
    n: int,
    measuring: Measuring,
    floor: bool,
    seed: int,
    in_blocks: bool = False,
) -> ReferenceSets:
    """Statistics of true images, in two parts where a floor is asked for and there are enough.

    Args:
        data: the images.
        shape, n: of one sample, and how many there are.
        seed: of the draw of the images that are held out.
        in_blocks: whether the floor will have errors.
    """
    check_shapes(shape, tuple(data.shape[1:]))
    parts = hold_out(data, n, seed) if floor else None
    if parts is None:
        why = f"the reference has {len(data)} images, and twice the {n} of the samples are needed (--n)"
        return ReferenceSets(measuring(data), why_none=why if floor else None)
    blocks = measuring.blocks(parts[0]) if in_blocks else [measuring(parts[0])]
    held, others = reduce(add, blocks).joined(), measuring(parts[1])
    return ReferenceSets(held + others, held, others, held_blocks=blocks)


def compare(
    parts: Sequence[SetStatistics], sets: ReferenceSets, names: Sequence[str] | None, progress: bool = True
) -> Comparison:
    """All metrics that are asked for, or that there can be, of parts of the samples, with errors if they are blocks."""
    found, own = estimates(parts, sets.reference, names, progress=progress), reduce(add, parts)
    notes = cautions(own, sets.reference, list(found))
    left_out: dict[str, list[str]] = {}
    for name, reason in obstacles_of(own, sets.reference).items() if names is None else ():
        left_out.setdefault(reason, []).append(name)
    notes += [f"{', '.join(without)}: left out, {reason}" for reason, without in left_out.items()]
    if sets.why_none is not None:
        notes.append(f"floor: left out, {sets.why_none}")
    return Comparison(found, notes)


def metric_names(metrics: str | None) -> list[str] | None:
    """The metrics that a list with commas names."""
    if metrics is None:
        return None
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in names:
        check_choice("--metrics", name, METRICS)
    if not names:
        raise PrescoreError(f"--metrics: none named; known: {', '.join(METRICS)}")
    return names


def conditioning_of(path: Path) -> dict[str, Any]:
    """V_coo and R_coo of the states in an .npy or .npz file, (T, n, *event), with the path, T and n, JSON values.

    Raises:
        PrescoreError: the file cannot be read, or does not hold such states, finite.
    """
    conditioning = Conditioning()
    with reading(path), open_array(path, None) as array:
        if len(array.shape) < 3 or 0 in array.shape or array.dtype.kind != "f":
            what = f"{array.dtype} values of shape {array.shape}"
            raise PrescoreError(f"--trajectory: {path} holds {what}; floating point (T, n, ...) is needed")
        check_size("--trajectory", 1, array.size)
        for states in array.read():
            conditioning.add(torch.from_numpy(states.astype(np.float64)))
    if not all(map(isfinite, conditioning.values.values())):
        raise PrescoreError(f"--trajectory: {path} has values that are not finite")
    T, n = array.shape[:2]
    return {"path": str(path), "steps": T, "n": n, **conditioning.values}


def usual_range(shape: Sequence[int]) -> tuple[float, float] | None:
    """Of samples of this shape that are not bytes, where nothing is said: [0, 1] for pictures, none for others."""
    return (0.0, 1.0) if len(shape) == 3 else None


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values as JSON has them: one that is not finite, such as the spectrum error of black images, is null."""
    return {name: value if isfinite(value) else None for name, value in values.items()}


def hexadecimal(digest: int) -> str:
    """The digest of a set of images, in 64 digits."""
    return f"{digest:064x}"
