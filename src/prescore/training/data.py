"""The examples that a network is trained on, in the units that it sees."""

import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescore.data import open_regular, read_npy, reading, shown
from prescore.errors import PrescoreError, check_interval

MAX_CLASSES, MAX_EXAMPLES = 65_536, 2**24
UNIT = (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Examples, uint8 or floating point, with a class label each or without.

    Attributes:
        examples: (N, *event).
        data_range: smallest and largest value that floating-point examples may have.
        labels: (N,) classes, counted from 0, or None.

    Raises:
        PrescoreError: there are no examples, or they are of another type or range; labels are missing or negative.
    """

    examples: Tensor
    data_range: tuple[float, float] = UNIT
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        x, (low, high) = self.examples, self.data_range
        if x.ndim < 2 or not x.numel():
            raise PrescoreError(f"examples: shape {tuple(x.shape)}; (N, ...) with N at least 1 is needed")
        check_interval("data_range", self.data_range)
        if x.is_floating_point():
            least, most = float(x.min()), float(x.max())
            if not (low <= least and most <= high):
                raise PrescoreError(
                    f"examples: values from {least:g} to {most:g}; they must lie in [{low:g}, {high:g}]"
                )
        elif x.dtype != torch.uint8:
            raise PrescoreError(f"examples: dtype {x.dtype}; uint8, or floating point, is needed")
        if self.labels is not None:
            _check_labels(self.labels, len(x))

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.examples.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of all values and labels: other data, or another order of them, has another one."""
        code = zlib.crc32(self.examples.contiguous().numpy().data)
        return code if self.labels is None else zlib.crc32(self.labels.contiguous().numpy().data, code)

    def scaled(self, examples: Tensor, data_range: tuple[float, float]) -> Tensor:
        """Some of the examples as float32 in the units of a model whose data lie in `data_range`."""
        if examples.dtype == torch.uint8:
            unit = examples.float() / 255
        elif self.data_range == data_range:
            return examples.float()
        else:
            low, high = self.data_range
            unit = examples.float() if self.data_range == UNIT else (examples.float() - low) / (high - low)
        low, high = data_range
        return unit if data_range == UNIT else low + (high - low) * unit

    def root_mean_square(self, data_range: tuple[float, float]) -> float:
        """Root mean square of all values in the units of a model, in float64, a thousand examples at a time."""
        parts = (self.scaled(part, data_range) for part in self.examples.split(1000))
        return math.sqrt(sum(float(part.double().square().sum()) for part in parts) / self.examples.numel())

    def largest_distance(self, data_range: tuple[float, float], n: int = 2000) -> float:
        """Largest Euclidean distance between two of n examples, drawn with seed 0."""
        chosen = torch.randperm(len(self.examples), generator=torch.Generator().manual_seed(0))[:n]
        x = self.scaled(self.examples[chosen], data_range).flatten(1)
        return float(torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").max())


def load_labels(path: str | Path, key: str, count: int | None = None) -> Tensor:
    """Class labels of `count` examples, or of all that there are, from an array of an .npz file; nothing is unpickled.

    Raises:
        PrescoreError: there is no such array, or it does not hold one whole number, at least 0, for each example.
    """
    if Path(path).suffix.lower() != ".npz":
        raise PrescoreError(f"labels: {key!r} given, but {shown(path)} is not an .npz file")
    name = f"labels: {shown(path)}[{shown(key)}]"
    with reading(name), open_regular(Path(path)) as file, zipfile.ZipFile(file) as archive:
        names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        if key not in names:
            raise PrescoreError(f"labels: {shown(path)} has no array {key!r}; it has {shown(', '.join(names))}")
        size = archive.getinfo(f"{key}.npy").file_size
        most = MAX_EXAMPLES if count is None else count
        if size > 8 * most + 65_536:  # before memory is taken for it
            raise PrescoreError(f"{name} is larger than one number for each of {most} examples")
        with archive.open(f"{key}.npy") as member:
            array = read_npy(name, member, size, "fiu", "whole numbers are needed")
    if array.ndim == 2 and array.shape[1] > 1:
        raise PrescoreError(
            f"{name}: rows of {array.shape[1]} numbers, as of one-hot labels; one whole number for each is needed, "
            "labels.argmax(1)"
        )
    if array.dtype.kind == "f":
        raise PrescoreError(f"{name}: {array.dtype} values; whole numbers are needed, labels.astype(int)")
    labels = torch.from_numpy(array.reshape(-1).astype(np.int64) if array.ndim == 2 else array.astype(np.int64))
    _check_labels(labels, len(labels) if count is None else count)
    return labels


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise PrescoreError(f"labels: shape {tuple(labels.shape)}; one whole number for each of the {count} is needed")
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= MAX_CLASSES:
        raise PrescoreError(f"labels: values from {least} to {most}; classes count from 0 to at most {MAX_CLASSES - 1}")
