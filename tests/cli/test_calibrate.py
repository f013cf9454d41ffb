"""`prescore calibrate` measures what the library measures, and refuses bad data in one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import prescore
from prescore.calibration import calls_to_calibrate
from prescore.checkpoints.native import ModelDescription, save_model
from prescore.data import load_images, subset
from prescore.grid import geometric
from prescore.models.song_unet import SongUNet
from prescore.statistics.score import score_statistics

SIDE = 8
ARGUMENTS = {"img_resolution": SIDE, "in_channels": 1, "out_channels": 1, "model_channels": 16, "channel_mult": [1]}
ARGUMENTS |= {"num_blocks": 1, "attn_resolutions": []}
GREY = np.random.default_rng(0).integers(0, 256, (20, 9, 8), dtype=np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", images=GREY, labels=np.arange(20))
    return tmp_path / "a.npz"


def test_the_file_holds_the_statistics_of_the_subset(tmp_path: Path, data: Path, cli: Callable[..., Any]) -> None:
    code, out, err = cli("calibrate", data, "--out", tmp_path / "s.safetensors", "--n", 5, "--seed", 3, "--pad", 12)
    assert (code, err) == (0, "")
    assert "5 samples" in out
    assert str(tmp_path / "s.safetensors") in out
    written = prescore.load_statistics(tmp_path / "s.safetensors")
    expected = prescore.calibrate(load_images(data, n=5, seed=3, pad=12))
    assert written.event_shape == (1, 12, 12)
    for name in ("mean", "mean_square", "power", "power_centred"):
        assert torch.equal(getattr(written.moments, name), getattr(expected.moments, name))


def test_by_default_200_are_enough(tmp_path: Path, cli: Callable[..., Any]) -> None:
    np.save(tmp_path / "a.npy", np.tile(GREY, (11, 1, 1)))
    assert "200 samples" in cli("calibrate", tmp_path / "a.npy", "--out", tmp_path / "s").out


def test_fields_with_a_range(tmp_path: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    np.save(tmp_path / "a.npy", GREY.astype(np.float32) - 100)
    arguments = ("calibrate", tmp_path / "a.npy", "--out", tmp_path / "s")
    assert "from -100 to 155, outside [0, 1]" in refused(*arguments)
    assert not (tmp_path / "s").exists()
    assert cli(*arguments, "--range", "-100", 155).code == 0
    assert prescore.load_statistics(tmp_path / "s").data_range == (-100, 155)


def write_bad_data(kind: str, path: Path) -> None:
    path.mkdir()
    for k in range(3):
        Image.fromarray(GREY[k]).save(path / f"{k}.png")
    if kind == "no images":
        for k in range(3):
            (path / f"{k}.png").rename(path / f"{k}.txt")
    elif kind == "mixed sizes":
        Image.fromarray(GREY[0].T.copy()).save(path / "2.png")
    elif kind == "truncated":
        (path / "1.png").write_bytes((path / "1.png").read_bytes()[:60])
    elif kind == "missing":
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


BAD_FOLDERS = {
    "no images": "no images in it",
    "mixed sizes": "0.png is 9 x 8 and 2.png is 8 x 9",
    "truncated": "1.png: cannot be read",
    "missing": "no such file or folder",
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_bad_folders(tmp_path: Path, refused: Callable[..., str], kind: str) -> None:
    write_bad_data(kind, tmp_path / "data")
    message = refused("calibrate", tmp_path / "data", "--out", tmp_path / "s")
    assert BAD_FOLDERS[kind] in message
    assert str(tmp_path / "data") in message
    assert {p.name for p in tmp_path.iterdir()} <= {"data"}


BAD_ARRAYS = {
    "int64 values; uint8, or floating point in [0, 1], is needed": GREY.astype(np.int64),
    "from -1 to 0.5, outside [0, 1]": np.linspace(-1, 0.5, 640).reshape(10, 8, 8),
    "from 0 to 300, outside [0, 1]": np.linspace(0, 300, 640).reshape(10, 8, 8),
    "640 values are NaN or infinite": np.full((10, 8, 8), np.nan),
    "shape (20,)": np.zeros(20, np.uint8),
}


@pytest.mark.parametrize("expected", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, refused: Callable[..., str], expected: str) -> None:
    np.savez(tmp_path / "a.npz", images=BAD_ARRAYS[expected])
    message = refused("calibrate", tmp_path / "a.npz", "--out", tmp_path / "s")
    assert expected in message
    assert "a.npz" in message
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_bad_arguments(tmp_path: Path, data: Path, refused: Callable[..., str]) -> None:
    arguments = ("calibrate", data, "--out", tmp_path / "s")
    assert "no array 'train'; it has images, labels" in refused(*arguments, "--key", "train")
    assert "n: 0 " in refused(*arguments, "--n", 0)
    assert "n: -3 " in refused(*arguments, "--n", -3)
    assert "--range: (1.0, 0.0)" in refused(*arguments, "--range", 1, 0)
    assert "pad: 4" in refused(*arguments, "--pad", 4)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_an_unwritable_path_is_refused_before_the_data_are_read(
    tmp_path: Path, data: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prescore.data.load_images", lambda *_, **__: pytest.fail("the data were read"))
    for out in (tmp_path / "none" / "s", data / "s", tmp_path):
        assert str(out) in refused("calibrate", data, "--out", out)


def test_data_without_scale_leave_no_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    np.savez(tmp_path / "zero.npz", images=np.zeros((20, 9, 8), np.uint8))
    assert "zero everywhere" in refused("calibrate", tmp_path / "zero.npz", "--out", tmp_path / "s.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["zero.npz"]


def test_components(tmp_path: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    arguments = ("calibrate", data, "--out", tmp_path / "s")
    assert "components: 20 asked of 20 samples of 72 numbers" in refused(*arguments, "--components", 20)
    assert "components: 0 " in refused(*arguments, "--components", 0)
    assert not (tmp_path / "s").exists()
    code, out, err = cli(*arguments, "--components", 4)
    assert (code, err) == (0, "")
    assert "principal components" in out
    assert "share of all variance" in out
    expected = prescore.calibrate(load_images(data), components=4)
    assert torch.equal(
        prescore.load_statistics(tmp_path / "s").moments.component_variances, expected.moments.component_variances
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Data of the shape that the tiny model makes."""
    np.savez(tmp_path / "small.npz", images=GREY[:, :8])
    return tmp_path / "small.npz"


def test_the_score_of_a_model(tmp_path: Path, small: Path, model: Path, cli: Callable[..., Any]) -> None:
    arguments = ("--model", model, "--levels", 5, "--batch-size", 3, "--n", 7, "--trajectories", 0)
    code, out, err = cli("calibrate", small, "--out", tmp_path / "s", *arguments)
    assert (code, err) == (0, "")
    assert "on 7 samples" in out
    statistics, denoiser = prescore.load_statistics(tmp_path / "s"), prescore.load(model)
    assert statistics.data_range == denoiser.data_range
    expected = score_statistics(denoiser, load_images(small, n=7), geometric(5, 0.01, 50.0))
    for name in ("levels", "score_square", "residual_square"):
        torch.testing.assert_close(getattr(statistics.model.score, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert (statistics.model.score.count, statistics.model.score.model) == (7, denoiser.name)


def test_floats_are_mapped_onto_the_range_of_the_model(
    tmp_path: Path, small: Path, model: Path, cli: Callable[..., Any]
) -> None:
    np.save(tmp_path / "floats.npy", GREY[:, :8].astype(np.float64) / 255 * 200 - 100)
    arguments = ("--model", model, "--levels", 3, "--n", 7, "--trajectories", 0)
    assert cli("calibrate", small, "--out", tmp_path / "a", *arguments).code == 0
    assert (
        cli("calibrate", tmp_path / "floats.npy", "--range", -100, 100, "--out", tmp_path / "b", *arguments).code == 0
    )
    a, b = (prescore.load_statistics(tmp_path / name) for name in "ab")
    assert a.data_range == b.data_range == (0.0, 1.0)
    torch.testing.assert_close(b.model.score.residual_square, a.model.score.residual_square, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(b.moments.mean, a.moments.mean)


def test_what_a_model_cannot_be_measured_on(
    tmp_path: Path, data: Path, small: Path, model: Path, refused: Callable[..., str]
) -> None:
    out = ("--out", tmp_path / "s")
    said = refused("calibrate", data, *out, "--model", model)
    assert "makes samples (1, 8, 8), the data are (1, 9, 8); --fit 8 scales them, --crop 8 or --pad 8 do not" in said
    np.savez(tmp_path / "colour.npz", images=np.zeros((20, 8, 8, 3), np.uint8))
    said = refused("calibrate", tmp_path / "colour.npz", *out, "--model", model)
    assert said.endswith("makes samples (1, 8, 8), the data are (3, 8, 8)\n")
    assert "no such file" in refused("calibrate", small, *out, "--model", tmp_path / "none")
    for option in ("--levels", "--batch-size"):
        assert f"{option}: does nothing without --model" in refused("calibrate", small, *out, option, 3)
    for given in (["--device", "cpu"], ["--raw"], ["--config", "x.yml"]):
        assert f"{given[0]}: does nothing without --model or --encode" in refused("calibrate", small, *out, *given)
    for option, least in {"--levels": 2, "--batch-size": 1}.items():
        said = f"{option}: {least - 1} is not a whole number, at least {least}"
        assert said in refused("calibrate", small, *out, "--model", model, option, least - 1)
        assert said in refused("calibrate", "--from-model", model, *out, option, least - 1)
        assert f"{option}: {10**30} given; at most 1" in refused(
            "calibrate", "--from-model", model, *out, option, 10**40
        )
    assert "--seed: -1 given; a whole number from 0" in refused("calibrate", "--from-model", model, *out, "--seed", -1)
    assert not (tmp_path / "s").exists()


@pytest.fixture
def conditional(tmp_path: Path) -> Path:
    """A tiny model of three classes, and in small.npz the class of each image."""
    arguments = {**ARGUMENTS, "label_dim": 3}
    network = SongUNet(**arguments, generator=torch.Generator().manual_seed(0))
    description = ModelDescription(
        "SongUNet", arguments, "edm", {"sigma_data": 0.5}, 0.01, 50.0, (1, SIDE, SIDE), name="three"
    )
    save_model(tmp_path / "three.safetensors", description, network.state_dict())
    np.savez(tmp_path / "small.npz", images=GREY[:, :SIDE], labels=np.arange(len(GREY)) % 3)
    return tmp_path / "three.safetensors"


def test_a_model_of_classes_is_measured_with_those_of_the_data(
    tmp_path: Path, conditional: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    data = tmp_path / "small.npz"
    quick = ("--model", conditional, "--levels", 3, "--trajectories", 2, "--tries", 1, "--calls", "4", "--fitted", 0)
    arguments = ("calibrate", data, "--out", tmp_path / "s", "--n", 5, "--seed", 2, *quick)
    labels = np.arange(len(GREY)) % 3
    for option, rows in {"--labels": labels[subset(len(GREY), 5, 2)], "--class": np.full(5, 1)}.items():
        assert cli(*arguments, option, 1 if option == "--class" else "labels").code == 0
        found = prescore.load_statistics(tmp_path / "s")
        expected = prescore.calibrate(
            load_images(data, n=5, seed=2),
            model=prescore.load(conditional),
            condition={"class_labels": torch.eye(3)[rows]},
            levels=3,
            trajectories=2,
            tries=1,
            calls=(4,),
            fitted=0,
        )
        assert torch.equal(found.model.score.residual_square, expected.model.score.residual_square)
        assert torch.equal(found.model.steps.solvers["data"].inner, expected.model.steps.solvers["data"].inner)
        assert found.tuning.rules == expected.tuning.rules
    assert "--class: is missing; the model draws one of its classes 0 to 2" in refused(*arguments)
    assert "error: --class: 3 given; the model has the classes 0 to 2" in refused(*arguments, "--class", 3)
    np.savez(data, images=GREY[:, :SIDE], labels=np.arange(len(GREY)) % 3 + 1)
    assert "error: --labels: class: 3 given" in refused(*arguments, "--labels", "labels")
    assert "--class: does nothing beside --labels" in refused(*arguments, "--class", 0, "--labels", "labels")
    assert "has no array 'kinds'" in refused(*arguments, "--labels", "kinds")
    assert "--class: does nothing without --model" in refused("calibrate", data, "--out", tmp_path / "s", "--class", 0)


def test_fewer_images_than_asked_for_are_counted(tmp_path: Path, small: Path, cli: Callable[..., Any]) -> None:
    code, _, err = cli("calibrate", small, "--n", 5000, "--out", tmp_path / "s")
    assert code == 0
    assert re.search(r"^prescore: note: .* images, fewer than --n 5000$", err.strip())
    assert cli("calibrate", small, "--out", tmp_path / "s").err == ""


@pytest.mark.parametrize("suffix", [".npz", ".png", ".pth"])
def test_statistics_take_no_name_of_another_format(
    tmp_path: Path, small: Path, refused: Callable[..., str], suffix: str
) -> None:
    message = refused("calibrate", small, "--out", tmp_path / f"a{suffix}")
    assert message.endswith("statistics are a safetensors file; call it a.statistics.safetensors\n")
    assert not list(tmp_path.glob("a*"))


FROM_MODEL = ("--levels", 3, "--trajectories", 2, "--tries", 1, "--calls", "4", "--fitted", 0, "--sample-calls", 8)
AS_PYTHON = {"levels": 3, "trajectories": 2, "tries": 1, "calls": (4,), "fitted": 0, "sample_calls": 8}


def test_without_data_as_in_python(tmp_path: Path, model: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "s"
    code, text, err = cli("calibrate", "--from-model", model, "--n", 6, "--seed", 3, "--out", out, *FROM_MODEL)
    assert (code, err) == (0, "")
    denoiser, found = prescore.load(model), prescore.load_statistics(out)
    expected = prescore.calibrate_model(denoiser, n=6, seed=3, **AS_PYTHON)
    assert torch.equal(found.moments.power, expected.moments.power)
    assert torch.equal(found.model.score.residual_square, expected.model.score.residual_square)
    assert found.tuning.rules == expected.tuning.rules
    most = calls_to_calibrate(denoiser, n=6, **AS_PYTHON)
    assert text.startswith(f"samples of {model} stand for data: at most {most} network calls of at most 64 samples")
    assert f"6 samples of {denoiser.name}" in text
    assert "on 6 samples of its own" in text


def test_without_data_the_classes_come_in_turn(
    tmp_path: Path, conditional: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    quick = ("--levels", 3, "--trajectories", 0, "--sample-calls", 8)
    arguments = ("calibrate", "--from-model", conditional, "--n", 5, "--out", tmp_path / "s", *quick)
    for words, rows in {(): [0, 1, 2], ("--class", "2,0"): [2, 0]}.items():
        assert cli(*arguments, *words).code == 0
        condition = {"class_labels": torch.eye(3)[rows]}
        how = {"levels": 3, "trajectories": 0, "sample_calls": 8}
        expected = prescore.calibrate_model(prescore.load(conditional), n=5, condition=condition, **how)
        assert torch.equal(prescore.load_statistics(tmp_path / "s").moments.power, expected.moments.power)
    assert "--class: 3 given; the model has the classes 0 to 2" in refused(*arguments, "--class", 3)


def test_what_does_nothing_without_data_is_refused(
    tmp_path: Path, small: Path, model: Path, refused: Callable[..., str]
) -> None:
    out = ("--out", tmp_path / "s")
    own = ("calibrate", "--from-model", model, *out)
    assert "DATA: does nothing beside --from-model" in refused("calibrate", small, "--from-model", model, *out)
    for option in ("--model", "--labels", "--key", "--pad", "--encode"):
        assert f"{option}: does nothing beside --from-model" in refused(*own, option, 8)
    assert "--range: does nothing beside --from-model" in refused(*own, "--range", 0, 1)
    assert "--n: 2 samples asked for; at least 4" in refused(*own, "--n", 2)
    assert "--sample-calls: 3 given; at least 8" in refused(*own, "--sample-calls", 3)
    assert "DATA: is missing; images to measure, or --from-model MODEL, are needed" in refused("calibrate", *out)
    assert "--sample-calls: does nothing without --from-model" in refused("calibrate", small, *out, *FROM_MODEL[-2:])
    assert not (tmp_path / "s").exists()
