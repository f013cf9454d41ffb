"""Statistics of a reference set go through a file unchanged, and files that are none are refused in one line."""

import json

import pytest
import torch
from metrics.test_evaluation import images, linear
from safetensors import safe_open
from safetensors.torch import save_file

from prescore.errors import PrescoreError
from prescore.metrics import evaluate, load_reference, measure, save_reference


@pytest.fixture
def path(tmp_path):
    save_reference(measure(images(), linear()), tmp_path / "reference.safetensors")
    return tmp_path / "reference.safetensors"


def test_what_was_saved_is_loaded(path):
    kept, loaded, y = measure(images(), linear()), load_reference(path), measure(images(40, seed=1), linear())
    for name in ("count", "shape", "digest", "lowest", "highest"):
        assert getattr(loaded, name) == getattr(kept, name)
    assert evaluate(y, loaded) == evaluate(y, kept)
    assert evaluate(loaded, y) == evaluate(kept, y)


def test_parts_may_be_missing(path):
    kept = measure(images(), linear(), ["frechet", "spectrum"])
    save_reference(kept, path)
    loaded = load_reference(path)
    assert (loaded.rows, loaded.answers, loaded.pixels) == ((), None, None)
    assert evaluate(loaded, kept) == evaluate(kept, kept)


def rewrite(path, metadata=(), tensors=(), drop=()):
    """The file with some entries changed."""
    with safe_open(path, "pt") as file:
        old = file.metadata()
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    values |= dict(tensors)
    save_file({k: v for k, v in values.items() if k not in drop}, path, {**old, **dict(metadata)})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "prescore-statistics"}, "no statistics of a reference set; write them with `prescore evaluate"),
        ({"format_version": "2"}, "format version 2 is newer"),
        ({"count": "0"}, "its metadata cannot be read"),
        ({"count": "31"}, r"tensor features is torch.float32 \(30, 6\)"),
        ({"shape": "[]"}, "its metadata cannot be read"),
        ({"shape": "{"}, "its metadata cannot be read"),
        ({"extractor": "[]"}, "its metadata cannot be read"),
        ({"extractor": json.dumps({"name": "x"})}, "its metadata cannot be read"),
        ({"digest": '"xyz"'}, "its metadata cannot be read"),
        ({"lowest": "NaN"}, "its metadata cannot be read"),
    ],
)
def test_metadata_that_is_wrong(path, metadata, message):
    rewrite(path, metadata)
    with pytest.raises(PrescoreError, match=message) as caught:
        load_reference(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "drop", "message"),
    [
        ({}, ["feature_scatter"], "tensor feature_scatter is missing"),
        ({"feature_mean": torch.zeros(6)}, [], r"tensor feature_mean is torch.float32 \(6,\)"),
        ({"power": torch.zeros(2, 3, 5).double()}, [], r"tensor power is torch.float64 \(2, 3, 5\)"),
        ({"pixel_mean": torch.full((2, 3, 5), torch.nan).double()}, [], "tensor pixel_mean has values that are not"),
        ({"answer_probabilities": torch.ones(2, 2).double()}, [], "tensor answer_probabilities is"),
    ],
)
def test_tensors_that_are_wrong(path, tensors, drop, message):
    rewrite(path, tensors=tensors, drop=drop)
    with pytest.raises(PrescoreError, match=message):
        load_reference(path)


def test_files_that_are_none(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(PrescoreError, match="truncated"):
        load_reference(path)
    with pytest.raises(PrescoreError, match="No such file"):
        load_reference(tmp_path / "none.safetensors")
    with pytest.raises(PrescoreError, match="cannot be written"):
        save_reference(measure(images(), linear()), tmp_path / "none" / "reference.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
