"""Statistics files."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prescore.errors import PrescoreError
from prescore.precondition import calibrate, load_statistics, save_statistics


@pytest.fixture
def statistics():
    x = torch.rand(5, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return calibrate(2 * x - 1, data_range=(-1, 1))


@pytest.fixture
def path(statistics, tmp_path):
    save_statistics(statistics, tmp_path / "s.safetensors")
    return tmp_path / "s.safetensors"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewrite(path, tensors=None, **metadata):
    """The file with some of its tensors or metadata replaced; None removes one."""
    kept = {**load_file(path), **(tensors or {})}
    kept = {name: value for name, value in kept.items() if value is not None}
    texts = {name: text for name, text in {**metadata_of(path), **metadata}.items() if text is not None}
    save_file(kept, path, texts)


def test_round_trip_is_exact(statistics, path):
    loaded = load_statistics(path)
    for name in ("mean", "mean_square", "power", "power_centred"):
        assert torch.equal(getattr(loaded, name), getattr(statistics, name))
    for name in ("count", "event_shape", "axes", "data_range", "minimum", "maximum", "version"):
        assert getattr(loaded, name) == getattr(statistics, name)
        assert type(getattr(loaded, name)) is type(getattr(statistics, name))


def test_what_the_file_says_of_itself(path):
    metadata = metadata_of(path)
    assert metadata["format"] == "prescore-statistics"
    values = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
    assert values["format_version"] == 1
    assert (values["count"], values["event_shape"], values["axes"]) == (5, [2, 4, 5], 2)
    assert values["data_range"] == [-1, 1]
    assert values["library_version"]


def test_writing_leaves_nothing_else_behind(statistics, path):
    save_statistics(statistics, path)
    assert [p.name for p in path.parent.iterdir()] == ["s.safetensors"]


def test_a_path_that_cannot_be_written(statistics, tmp_path):
    for path in (tmp_path / "no" / "s.safetensors", tmp_path):
        with pytest.raises(PrescoreError, match=f"{path.name}.*cannot be written|{path.name}.*folder"):
            save_statistics(statistics, path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(PrescoreError, match=path.name) as error:
            load_statistics(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 800, -1])
def test_a_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PrescoreError, match=r"s\.safetensors: not a whole safetensors file") as error:
        load_statistics(path)
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind(path):
    path.write_bytes(b"not safetensors at all, but long enough to be read as a header")
    with pytest.raises(PrescoreError, match="not a whole safetensors file"):
        load_statistics(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(PrescoreError, match="not a statistics file; `prescore calibrate` writes one"):
        load_statistics(path)
    save_file({"weight": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(PrescoreError, match="not a statistics file"):
        load_statistics(path)


def test_a_newer_version(path):
    rewrite(path, format_version="2", count=None)
    with pytest.raises(PrescoreError, match="format version 2, this library reads up to 1; upgrade it"):
        load_statistics(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"count": None},
        {"count": "many"},
        {"count": "[]"},
        {"event_shape": "3"},
        {"event_shape": '["x"]'},
        {"data_range": "[0]"},
        {"data_range": "[0, 1, 2]"},
        {"format_version": None},
        {"format_version": '"new"'},
        {"minimum": "null"},
    ],
)
def test_unreadable_metadata(path, metadata):
    rewrite(path, **metadata)
    with pytest.raises(PrescoreError, match="damaged statistics file, its metadata cannot be read"):
        load_statistics(path)


@pytest.mark.parametrize(
    "metadata",
    [{"count": "0"}, {"axes": "0"}, {"axes": "4"}, {"data_range": "[1, 0]"}, {"event_shape": "[2, 0, 5]"}],
)
def test_contradictory_metadata(path, metadata):
    rewrite(path, **metadata)
    with pytest.raises(PrescoreError, match="its metadata contradict each other"):
        load_statistics(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("power", None, "tensor power is missing"),
        (
            "mean",
            torch.ones(2, 4, 4, dtype=torch.float64),
            r"tensor mean is torch\.float64 \(2, 4, 4\), not float64 \(2, 4, 5\)",
        ),
        ("power_centred", torch.ones(2, 4, 5, dtype=torch.float64), r"not float64 \(2, 4, 3\)"),
        ("mean_square", torch.ones(2, 4, 5), r"tensor mean_square is torch\.float32"),
        ("power", torch.full((2, 4, 3), torch.nan, dtype=torch.float64), "tensor power has values that are not finite"),
    ],
)
def test_unusable_tensors(path, name, value, message):
    rewrite(path, {name: value})
    with pytest.raises(PrescoreError, match=message):
        load_statistics(path)
