"""Statistics of a reference set as files, so that its features are computed once: safetensors, with what is not a
tensor as JSON in the metadata.

Tensors, float64 but for the features, each group there or not: `feature_mean` and `feature_scatter`; `features`;
`answer_probabilities` and `answer_information`; `pixel_mean` and `pixel_scatter`; `power`. Metadata, each value JSON
but the first: format = prescore-reference, format_version, library_version, count, shape, extractor (name, dimension,
weights and pre-processing), digest (hexadecimal), lowest, highest.
"""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save
from torch import Tensor

from prescore.checkpoints.native import matches, read_safetensors
from prescore.errors import PrescoreError
from prescore.files import write_atomically
from prescore.metrics.frechet import Moments
from prescore.metrics.inception_score import Answers
from prescore.metrics.pixels import PixelMoments
from prescore.metrics.sets import WORD, SetStatistics
from prescore.version import __version__

FORMAT, FORMAT_VERSION = "prescore-reference", 1
AGAIN = "write them with `prescore evaluate --save-reference`"
Shapes = dict[str, tuple[int | None, ...]]


def save_reference(statistics: SetStatistics, path: str | Path) -> None:
    """Write statistics of a set to a file, whole or not at all.

    Raises:
        PrescoreError: the path cannot be written.
    """
    values = {name: getattr(statistics, name) for name in ("count", "shape", "lowest", "highest")}
    values |= {"extractor": dict(statistics.extractor), "digest": f"{statistics.digest:064x}"}
    values |= {"format_version": FORMAT_VERSION, "library_version": __version__}
    metadata = {"format": FORMAT, **{name: json.dumps(value) for name, value in values.items()}}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors(statistics).items()}
    write_atomically(path, save(tensors, metadata))


def load_reference(path: str | Path) -> SetStatistics:
    """Read what `save_reference` wrote.

    Raises:
        PrescoreError: the file is not there, not whole, of another format or a newer version, or inconsistent.
    """
    path = Path(path)
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise PrescoreError(f"{path}: no statistics of a reference set; {AGAIN}")
    try:
        values = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
        if values["format_version"] > FORMAT_VERSION:
            raise PrescoreError(f"{path}: format version {values['format_version']} is newer than this library")
        facts = _facts(values)
    except PrescoreError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _refuse(path, f"its metadata cannot be read ({error!r})")
    _check_tensors(path, tensors, facts["count"], facts["shape"], facts["extractor"]["dimension"])
    return SetStatistics(**facts, **_parts(facts["count"], tensors))


def is_reference(path: str | Path) -> bool:
    """Whether a path is a safetensors file, such as `save_reference` writes, and not images."""
    return Path(path).is_file() and matches(Path(path))


def _tensors(statistics: SetStatistics) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    if (moments := statistics.moments) is not None:
        tensors |= {"feature_mean": moments.mean, "feature_scatter": moments.scatter}
    if (features := statistics.features) is not None:
        tensors["features"] = features
    if (answers := statistics.answers) is not None:
        tensors |= {"answer_probabilities": answers.probabilities, "answer_information": answers.information}
    if (pixels := statistics.pixels) is not None:
        tensors |= {"pixel_mean": pixels.mean, "pixel_scatter": pixels.scatter}
    if statistics.power is not None:
        tensors["power"] = statistics.power
    return tensors


def _parts(n: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The entries of SetStatistics that are made of tensors."""
    parts: dict[str, Any] = {"power": tensors.get("power")}
    if "feature_mean" in tensors:
        parts["moments"] = Moments(n, tensors["feature_mean"], tensors["feature_scatter"])
    if "features" in tensors:
        parts["rows"] = (tensors["features"],)
    if "answer_probabilities" in tensors:
        parts["answers"] = Answers(n, tensors["answer_probabilities"], tensors["answer_information"])
    if "pixel_mean" in tensors:
        parts["pixels"] = PixelMoments(n, tensors["pixel_mean"], tensors["pixel_scatter"])
    return parts


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of SetStatistics that are not tensors. Raises ValueError and others if one is wrong."""
    extractor = values["extractor"]
    facts: dict[str, Any] = {
        "count": int(values["count"]),
        "shape": tuple(int(n) for n in values["shape"]),
        "extractor": {**extractor, "dimension": int(extractor["dimension"])},
        "digest": int(values["digest"], 16),
        "lowest": float(values["lowest"]),
        "highest": float(values["highest"]),
    }
    ordered = isfinite(facts["lowest"]) and facts["lowest"] <= facts["highest"] < float("inf")
    sizes = (facts["count"], *facts["shape"], facts["extractor"]["dimension"])
    if not ordered or not facts["shape"] or min(sizes) < 1 or not 0 <= facts["digest"] < WORD:
        raise ValueError("contradictory values")
    return facts


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], n: int, shape: tuple[int, ...], d: int) -> None:
    half = (*shape[:-1], shape[-1] // 2 + 1)
    groups: tuple[Shapes, ...] = (
        {"feature_mean": (d,), "feature_scatter": (d, d)},
        {"features": (n, d)},
        {"answer_probabilities": (None,), "answer_information": ()},
        {"pixel_mean": shape, "pixel_scatter": shape},
        {"power": half},
    )
    for group in groups:
        for name, expected in group.items() if group.keys() & tensors.keys() else ():
            if name not in tensors:
                _refuse(path, f"tensor {name} is missing")
            found = tensors[name]
            fits = len(found.shape) == len(expected) and all(
                want in (None, have) for have, want in zip(found.shape, expected, strict=True)
            )
            if not fits or found.dtype != (torch.float32 if name == "features" else torch.float64):
                _refuse(path, f"tensor {name} is {found.dtype} {tuple(found.shape)}")
            if not found.isfinite().all():
                _refuse(path, f"tensor {name} has values that are not finite")


def _refuse(path: Path, why: str) -> NoReturn:
    raise PrescoreError(f"{path}: damaged statistics of a reference set, {why}; {AGAIN}")
