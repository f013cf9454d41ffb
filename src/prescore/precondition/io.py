"""Statistics as files: safetensors, with what is not a tensor as JSON in the metadata.

Tensors `mean`, `mean_square`, `power`, `power_centred`, all float64. Metadata, each value JSON except the first:
format = prescore-statistics, format_version, library_version, count, event_shape, axes, data_range, minimum, maximum.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prescore.assets import STATISTICS_SUFFIX, find
from prescore.errors import PrescoreError
from prescore.files import write_atomically
from prescore.precondition.statistics import Statistics

FORMAT, FORMAT_VERSION = "prescore-statistics", 1
TENSORS = ("mean", "mean_square", "power", "power_centred")


def save_statistics(statistics: Statistics, path: str | Path) -> None:
    """Write statistics to a file, whole or not at all.

    Raises:
        PrescoreError: the path cannot be written.
    """
    tensors = {name: getattr(statistics, name).cpu().contiguous() for name in TENSORS}
    metadata = {"format": FORMAT, "format_version": json.dumps(FORMAT_VERSION)}
    metadata["library_version"] = json.dumps(statistics.version)
    for name in ("count", "event_shape", "axes", "data_range", "minimum", "maximum"):
        metadata[name] = json.dumps(getattr(statistics, name))
    write_atomically(path, save(tensors, metadata))


def load_statistics(path: str | Path) -> Statistics:
    """Read what `save_statistics` wrote: the statistics of a shipped model by its name, others by path.

    Raises:
        PrescoreError: the file is not there, not whole, of another format or a newer version, or inconsistent.
    """
    path = find(path, STATISTICS_SUFFIX)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise PrescoreError(f"{path}: not a whole safetensors file ({error}); write it again") from None
    fields = _fields(path, _values(path, metadata))
    _check_tensors(path, tensors, fields["event_shape"])
    return Statistics(**fields, **{name: tensors[name] for name in TENSORS})


def _values(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The metadata parsed, of a file in this format and of a version that this library reads."""
    if metadata.get("format") != FORMAT:
        raise PrescoreError(f"{path}: not a statistics file; `prescore calibrate` writes one")
    try:
        values = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
        newer = values["format_version"] > FORMAT_VERSION
    except (KeyError, TypeError, ValueError) as error:
        _refuse(path, f"its metadata cannot be read ({error!r})")
    if newer:
        version = values["format_version"]
        raise PrescoreError(f"{path}: format version {version}, this library reads up to {FORMAT_VERSION}; upgrade it")
    return values


def _fields(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of Statistics that are not tensors."""
    try:
        low, high = (float(end) for end in values["data_range"])
        fields: dict[str, Any] = {
            "count": int(values["count"]),
            "event_shape": tuple(int(n) for n in values["event_shape"]),
            "axes": int(values["axes"]),
            "data_range": (low, high),
            "minimum": float(values["minimum"]),
            "maximum": float(values["maximum"]),
            "version": str(values["library_version"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        _refuse(path, f"its metadata cannot be read ({error!r})")
    shape: tuple[int, ...] = fields["event_shape"]
    if fields["count"] < 1 or not 1 <= fields["axes"] <= min(3, len(shape)) or min(shape) < 1 or not low < high:
        _refuse(path, "its metadata contradict each other")
    return fields


def _check_tensors(path: Path, tensors: dict[str, Tensor], event_shape: tuple[int, ...]) -> None:
    half = (*event_shape[:-1], event_shape[-1] // 2 + 1)
    for name, shape in zip(TENSORS, (event_shape, event_shape, half, half), strict=True):
        if name not in tensors:
            _refuse(path, f"tensor {name} is missing")
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != torch.float64:
            _refuse(path, f"tensor {name} is {tensors[name].dtype} {tuple(tensors[name].shape)}, not float64 {shape}")
        if not torch.isfinite(tensors[name]).all():
            _refuse(path, f"tensor {name} has values that are not finite")


def _refuse(path: Path, why: str) -> NoReturn:
    raise PrescoreError(f"{path}: damaged statistics file, {why}; write it again with `prescore calibrate`")
