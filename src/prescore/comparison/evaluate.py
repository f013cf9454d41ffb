"""Samples beside true ones, in one call."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescore.data import ImageSet, open_images, subset
from prescore.data.guards import DataWarning, Notes
from prescore.data.sets import OVERSHOOT, bounded
from prescore.data.sizes import Look
from prescore.errors import PrescoreError, check_interval, is_whole
from prescore.metrics.extractors import make_features
from prescore.metrics.features import Features
from prescore.metrics.io import is_reference
from prescore.metrics.measuring import (
    Measuring,
    ReferenceSets,
    compare,
    measured_reference,
    stored_reference,
    usual_range,
)
from prescore.metrics.sets import SetStatistics
from prescore.processes import Processes

Samples = Tensor | np.ndarray | str | Path | Sequence[str | Path] | ImageSet


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What samples are beside true ones.

    Attributes:
        metrics: by name.
        floor: those of as many true samples beside the other true ones, if they were asked for and are enough.
        notes: what to know about the metrics, one line each.
        samples: what was measured of the samples.
        reference: what was measured of the true ones.
    """

    metrics: Mapping[str, float]
    floor: Mapping[str, float] | None
    notes: Sequence[str]
    samples: SetStatistics
    reference: ReferenceSets

    def __repr__(self) -> str:
        n, m = self.samples.count, self.reference.reference.count
        lines = [f"{n} samples beside {m} true ones, by {self.samples.extractor['name']}"]
        for name, value in self.metrics.items():
            beside = "" if self.floor is None or name not in self.floor else f"  (true samples {self.floor[name]:.4g})"
            lines.append(f"{name:<18} {value:.4g}{beside}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def evaluate(
    samples: Samples,
    reference: Samples | SetStatistics,
    *,
    features: str | Features = "pixels",
    metrics: Collection[str] | None = None,
    floor: bool = False,
    n: int | None = None,
    reference_n: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    data_range: tuple[float, float] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    processes: Processes | None = None,
) -> Evaluation:
    """Compare samples with true ones: distances, fidelity and diversity, spectra, the numbers themselves.

    Args:
        samples: (N, *event), bytes or floating point; or the path of a file or folder as `prescore.data.load_images`
            reads it, or several, which are read in batches.
        reference: true ones, likewise; or statistics of them, of `prescore.metrics.measure`, or their file.
        features: what sees the samples, a name in `prescore.metrics.EXTRACTORS`, or made by hand.
        metrics: names in `prescore.metrics.METRICS`; by default all that are possible.
        floor: hold as many true samples out, and measure them beside the others.
        n, reference_n: take at most so many of each, drawn at random.
        seed: of these draws, and of the floor's.
        batch_size: samples in one call of the extractor.
        data_range: (lowest, highest) value of floating-point samples; by default (0, 1) for pictures, events of three
            axes, and none for others, whose numbers are compared as they are. Samples beyond it are clipped.
        device: where the extractor works.
        progress: show bars on a terminal.
        processes: that share the work (`prescore.processes.processes_on`); each gets the result.

    Memory does not grow with the number of samples in files, if the metrics are sums: all but kernel, precision,
    recall, density, coverage and sliced-wasserstein, which need the features of all at once.

    Raises:
        PrescoreError: the two do not fit each other or the features, or do not allow what is asked for.
    """
    if data_range is not None:
        check_interval("data_range", data_range)
    if not is_whole(batch_size) or batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size!r} is not a positive whole number")
    x = as_samples("samples", samples, n, seed, data_range, clip=True)
    shape = tuple(x.shape[1:])
    value_range = data_range or usual_range(shape)
    if value_range is not None and isinstance(x, Tensor):
        x = in_range("samples", x, value_range, is_named=data_range is not None)
    extractor = make_features(features, shape, device) if isinstance(features, str) else features
    names = None if metrics is None else list(metrics)
    measuring = Measuring(extractor, names, batch_size, value_range, progress, processes)
    stored = Path(reference) if isinstance(reference, str | Path) and is_reference(reference) else reference
    if isinstance(stored, SetStatistics) or stored is not reference:
        if reference_n is not None:
            raise PrescoreError("reference_n: statistics given, and no samples")
        sets = stored_reference(stored, shape, extractor, floor)  # type: ignore[arg-type]
    else:
        true = as_samples("reference", reference, reference_n, seed, data_range)
        sets = measured_reference(true, shape, len(x), measuring, floor, seed)
    own = measuring(x)
    comparison = compare([own], sets, measuring.metrics, progress)
    floors = sets.floor(list(comparison.values), progress)
    true_values = None if floors is None else {name: estimate.value for name, estimate in floors.items()}
    return Evaluation(comparison.values, true_values, comparison.notes, own, sets)


def in_range(name: str, x: Tensor, bounds: tuple[float, float], *, is_named: bool) -> Tensor:
    """Samples clipped to a range, with a `DataWarning` if some lie outside.

    Raises:
        PrescoreError: they exceed it by more than half of its width, and it was not named; or one is not finite.
    """
    if not x.is_floating_point():
        return x
    notes = Notes()
    values = bounded(name, x.float().numpy(), Look(*bounds), math.inf if is_named else OVERSHOOT, notes)
    for line in notes.lines():
        warnings.warn(line, DataWarning, stacklevel=3)
    return torch.from_numpy(values)


def as_samples(
    name: str,
    given: Samples,
    n: int | None,
    seed: int,
    data_range: tuple[float, float] | None,
    clip: bool = False,
) -> Tensor | ImageSet:
    """At most n of the samples."""
    if isinstance(given, str | Path):
        given = [given]
    if isinstance(given, Sequence) and given and all(isinstance(path, str | Path) for path in given):
        return open_images(given, n=n, seed=seed, data_range=data_range, clip=clip)
    if isinstance(given, ImageSet):
        return given if n is None or n >= len(given) else given.take(subset(len(given), n, seed))
    x = torch.from_numpy(given) if isinstance(given, np.ndarray) else given
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
        found = tuple(x.shape) if isinstance(x, Tensor) else type(given).__name__
        raise PrescoreError(f"{name}: {found} given; a tensor or an array (N, *event), or a path, is needed")
    x = x.detach().cpu()
    if n is not None and (not is_whole(n) or n < 1):
        raise PrescoreError(f"n: {n!r} samples asked for; a whole number from 1 on is needed")
    return x if n is None or n >= len(x) else x[subset(len(x), n, seed)]
