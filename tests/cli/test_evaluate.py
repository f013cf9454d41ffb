"""`prescore evaluate` prints what the library computes, and refuses bad input in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prescore.data import load_images
from prescore.images import save_png
from prescore.metrics import METRICS, evaluate, make_features, measure
from prescore.output.shards import Shards

GENERATOR = np.random.default_rng(0)
SAMPLES = GENERATOR.integers(0, 256, (12, 6, 8), dtype=np.uint8)
DATA = GENERATOR.integers(0, 250, (30, 6, 8), dtype=np.uint8)
PIXELS = ("--features", "pixels")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", images=SAMPLES, seeds=np.arange(12))
    return tmp_path / "samples.npz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "data.npy", DATA)
    return tmp_path / "data.npy"


def rows(out: str) -> dict[str, list[str]]:
    """The table that was printed, by the first word of each line."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}


def test_the_table_and_the_file_hold_what_the_library_computes(
    tmp_path: Path, samples: Path, data: Path, cli: Callable[..., Any]
) -> None:
    code, out, err = cli("evaluate", samples, "--reference", data, *PIXELS, "--json", tmp_path / "out.json")
    assert (code, err) == (0, "")
    features = make_features("pixels", (1, 6, 8))
    own, reference = (measure(load_images(path), features) for path in (samples, data))
    expected = evaluate(own, reference)
    result = json.loads((tmp_path / "out.json").read_bytes())
    assert result["metrics"] == pytest.approx(expected, rel=1e-9)
    assert (result["samples"]["n"], result["reference"]["n"], result["floor"]) == (12, 30, None)
    assert result["reference"]["digest"] == f"{reference.digest:064x}"
    assert result["features"] == json.loads(json.dumps(features.facts))
    table = rows(out)
    for name, value in expected.items():
        assert table[name][0] == f"{value:.4g}"
    assert "samples (n = 12)" in out
    assert table["precision"][-1] == "higher"
    assert table["frechet"][-1] == "lower"
    assert "note: frechet: 12 images for 48 features" in out
    assert "note: inception-score: left out, the samples were measured without the logits of a classifier" in out
    assert result["notes"] == [line[6:] for line in out.splitlines() if line.startswith("note: ")]


def test_the_floor_is_what_as_many_true_images_reach(
    tmp_path: Path, samples: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    arguments = ("evaluate", samples, "--reference", data, *PIXELS, "--metrics", "kernel,pixel-mean")
    code, out, err = cli(*arguments, "--floor", "--json", tmp_path / "out.json")
    assert (code, err) == (0, "")
    assert "12 of the true images beside the other 18" in out
    assert "floor (n = 12)" in out
    result = json.loads((tmp_path / "out.json").read_bytes())
    assert (result["floor"]["n"], result["floor"]["reference_n"]) == (12, 18)
    assert set(result["floor"]["metrics"]) == set(result["metrics"]) == {"kernel", "pixel-mean"}
    # With the reference itself as the samples, half of it is too few.
    code, out, err = cli("evaluate", data, "--reference", data, *PIXELS, "--floor", "--metrics", "kernel")
    assert "note: floor: left out, the reference has 30 images, and twice the 30 of the samples are needed (--n)" in out
    assert "note: samples: they are the images of the reference" in out
    # Without a floor, the values are the same.
    assert rows(cli(*arguments).out)["kernel"][0] == rows(cli(*arguments, "--floor").out)["kernel"][0]


def test_subsets_and_batches(samples: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    arguments = ("evaluate", samples, "--reference", data, *PIXELS, "--metrics", "pixel-mean,kernel")
    out = cli(*arguments, "--n", 7, "--reference-n", 11, "--seed", 4).out
    assert "7 images 1 x 6 x 8" in out
    assert "11 images, " in out
    features = make_features("pixels", (1, 6, 8))
    own, reference = (measure(load_images(p, n=n, seed=4), features) for p, n in ((samples, 7), (data, 11)))
    assert rows(out)["pixel-mean"][0] == f"{evaluate(own, reference)['pixel-mean']:.4g}"
    assert cli(*arguments, "--batch-size", 5).out == cli(*arguments).out
    assert "--batch-size: 0" in refused(*arguments, "--batch-size", 0)
    assert "n: 0 images" in refused(*arguments, "--n", 0)
    assert "device: 'warp'" in refused(*arguments, "--device", "warp")


def test_a_stored_reference_gives_the_same(
    tmp_path: Path, samples: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    stored = tmp_path / "reference.safetensors"
    code, out, err = cli("evaluate", samples, "--reference", data, *PIXELS, "--save-reference", stored)
    assert (code, err) == (0, "")
    assert f"written to {stored}" in out
    again = cli("evaluate", samples, "--reference", stored, *PIXELS)
    assert again.code == 0
    assert {k: v for k, v in rows(out).items() if k in METRICS} == {
        k: v for k, v in rows(again.out).items() if k in METRICS
    }
    floor = cli("evaluate", samples, "--reference", stored, *PIXELS, "--floor")
    assert "note: floor: left out, the reference is statistics, and true images are needed" in floor.out
    for option, value in {"--save-reference": "x", "--reference-n": 3, "--reference-key": "a"}.items():
        message = refused(
            "evaluate", samples, "--reference", stored, *PIXELS, option, tmp_path / "x" if value == "x" else value
        )
        assert f"{option}: {stored} holds statistics" in message


def test_a_stored_reference_of_other_features_is_refused(
    tmp_path: Path, samples: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    stored = tmp_path / "reference.safetensors"
    arguments = ("evaluate", samples, "--reference")
    cli(*arguments, data, *PIXELS, "--metrics", "frechet", "--save-reference", stored)
    message = refused(*arguments, stored, "--features", "means-2x2")
    assert f"{stored}: reference: its features have name = pixels, those of the samples means-2x2" in message
    message = refused(*arguments, stored, *PIXELS, "--metrics", "kernel")
    assert "kernel: the reference was measured without keeping the features; valid are frechet" in message
    np.save(tmp_path / "small.npy", SAMPLES[:, :4])
    message = refused("evaluate", tmp_path / "small.npy", "--reference", stored, *PIXELS)
    assert "images 1 x 4 x 8, those of the reference are 1 x 6 x 8" in message
    stored.write_bytes(stored.read_bytes()[:-7])
    assert "truncated" in refused(*arguments, stored, *PIXELS)


def test_a_stored_reference_with_other_preprocessing_is_refused(
    tmp_path: Path, samples: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    stored = tmp_path / "reference.safetensors"
    cli("evaluate", samples, "--reference", data, *PIXELS, "--save-reference", stored)
    with safe_open(stored, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {**file.metadata(), "extractor": file.metadata()["extractor"].replace("none", "pad")}
    save_file(tensors, stored, metadata)
    message = refused("evaluate", samples, "--reference", stored, *PIXELS)
    assert "its features have fit = pad, those of the samples none; both have to be measured alike" in message


def test_folders_and_two_names_in_archives(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "folder").mkdir()
    for k, image in enumerate(SAMPLES):
        Image.fromarray(image).save(tmp_path / "folder" / f"{k}.png")
    np.savez(tmp_path / "a.npz", a=SAMPLES, b=DATA)
    keys = ("--key", "a", "--reference-key", "b", "--metrics", "kernel")
    expected = cli("evaluate", tmp_path / "a.npz", "--reference", tmp_path / "a.npz", *PIXELS, *keys)
    found = cli("evaluate", tmp_path / "folder", "--reference", tmp_path / "a.npz", *PIXELS, *keys[2:])
    assert expected.code == found.code == 0
    assert rows(expected.out)["kernel"] == rows(found.out)["kernel"]


def test_ranges(tmp_path: Path, samples: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    np.save(tmp_path / "signed.npy", DATA / 127.5 - 1)
    np.save(tmp_path / "unit.npy", DATA / 255)
    signed = ("--reference", tmp_path / "signed.npy", *PIXELS, "--metrics", "frechet,pixel-mean")
    assert "signed.npy: values from -1 to 0.9" in refused("evaluate", samples, *signed)
    mapped = cli("evaluate", samples, *signed, "--range", -1, 1).out
    plain = cli("evaluate", samples, "--reference", tmp_path / "unit.npy", *signed[2:]).out
    assert rows(mapped)["frechet"] == rows(plain)["frechet"]
    # Floats in [0, 1] that are read as if they were in [-1, 1] fill half of the range only.
    assert "was one scaled otherwise?" in cli("evaluate", tmp_path / "unit.npy", *signed, "--range", -1, 1).out


def test_padding(samples: Path, data: Path, cli: Callable[..., Any]) -> None:
    out = cli("evaluate", samples, "--reference", data, *PIXELS, "--pad", 9, "--metrics", "kernel").out
    assert "12 images 1 x 9 x 9" in out


def test_bad_images(tmp_path: Path, samples: Path, data: Path, refused: Callable[..., str]) -> None:
    bad = tmp_path / "bad.npy"
    np.save(bad, np.full((5, 6, 8), np.nan))
    assert "bad.npy: 240 values are NaN" in refused("evaluate", bad, "--reference", data, *PIXELS)
    assert "bad.npy: 240 values are NaN" in refused("evaluate", samples, "--reference", bad, *PIXELS)
    np.save(bad, np.zeros((5, 8, 6), np.uint8))
    message = refused("evaluate", bad, "--reference", data, *PIXELS)
    assert "samples: images 1 x 8 x 6, those of the reference are 1 x 6 x 8; bring them to one size" in message
    assert "none.npz: no such file" in refused("evaluate", tmp_path / "none.npz", "--reference", data, *PIXELS)
    assert "none.npz: no such file" in refused("evaluate", samples, "--reference", tmp_path / "none.npz", *PIXELS)
    message = refused("evaluate", samples, "--reference", data, "--features", "mnist-clasifier")
    assert "unknown value 'mnist-clasifier'; did you mean mnist-classifier?" in message


def test_few_images(tmp_path: Path, data: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    few = tmp_path / "few.npy"
    np.save(few, SAMPLES[:3])
    code, out, err = cli("evaluate", few, "--reference", data, *PIXELS)
    assert (code, err) == (0, "")
    assert "note: precision, recall, density, coverage: left out, 3 images in the samples, 6 are needed" in out
    assert "note: frechet: 3 images for 48 features, fewer than a covariance needs" in out
    message = refused("evaluate", few, "--reference", data, *PIXELS, "--metrics", "frechet,recall")
    assert "recall: 3 images in the samples, 6 are needed; valid are frechet, kernel, sliced-wasserstein" in message


def test_metrics_that_are_none(samples: Path, data: Path, refused: Callable[..., str]) -> None:
    arguments = ("evaluate", samples, "--reference", data, *PIXELS, "--metrics")
    assert "--metrics: unknown value 'fid'; known: frechet, kernel" in refused(*arguments, "kernel,fid")
    assert "--metrics: none named; known: frechet" in refused(*arguments, ",")
    assert "inception-score: pixels gives no logits of a classifier" in refused(*arguments, "inception-score")


@pytest.mark.parametrize(
    ("name", "module"), [("inception", "torch_fidelity"), ("efficientnet-lite0", "efficientnet_lite_pytorch")]
)
def test_extractors_that_are_not_there(
    samples: Path, data: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = refused("evaluate", samples, "--reference", data, "--features", name)
    assert f"{name}: {module} is needed" in message
    assert "pip install" in message
    assert "other extractors: mnist-classifier, means-2x2, pixels" in message


def test_weights_that_were_not_downloaded(
    tmp_path: Path, samples: Path, data: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, module = (ModuleType(f"torch_fidelity{name}") for name in ("", ".feature_extractor_inceptionv3"))
    monkeypatch.setattr(module, "URL_INCEPTION_V3", "https://example.org/weights-00000000.pth", raising=False)
    for stand_in in (package, module):
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    message = refused("evaluate", samples, "--reference", data, "--features", "inception")
    assert f"weights are not there, {tmp_path / 'checkpoints' / 'weights-00000000.pth'}" in message
    assert "00000000.pth https://example.org/weights-00000000.pth`, or take" in message
    assert "or take efficientnet-lite0; other extractors: mnist-classifier" in message


def test_nothing_is_written_after_a_mistake(
    tmp_path: Path, samples: Path, data: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    files = ("--json", tmp_path / "out.json", "--save-reference", tmp_path / "out.safetensors")
    refused("evaluate", samples, "--reference", data, *PIXELS, *files, "--metrics", "inception-score")
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr("prescore.data.load_images", lambda *_, **__: pytest.fail("images were read"))
    for option in ("--json", "--save-reference"):
        message = refused("evaluate", samples, "--reference", data, *PIXELS, option, tmp_path / "none" / "x")
        assert "cannot be written" in message


def test_values_that_are_not_finite_are_null(tmp_path: Path, data: Path, cli: Callable[..., Any]) -> None:
    np.save(tmp_path / "black.npy", np.zeros((7, 6, 8), np.uint8))
    arguments = ("--metrics", "spectrum,pixel-mean", "--json", tmp_path / "out.json")
    code, out, _ = cli("evaluate", tmp_path / "black.npy", "--reference", data, *PIXELS, *arguments)
    assert code == 0
    assert rows(out)["spectrum"][0] == "inf"
    assert json.loads((tmp_path / "out.json").read_bytes())["metrics"]["spectrum"] is None


def test_files_are_read_in_batches_and_shared_by_processes(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Of shards, a folder of pictures and an array: as of all of them in one array, by one process and by two."""
    pytest.importorskip("accelerate")
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shards = Shards(tmp_path / "shards", range(20), {}, 8)
    for (batch,) in shards.units(8):
        shards.add(batch, images[batch])
    (tmp_path / "pictures").mkdir()
    for k in range(20, 40):
        save_png(tmp_path / "pictures" / f"{k}.png", images[k])
    np.save(tmp_path / "rest.npy", images[40:, 0].numpy())
    np.save(tmp_path / "all.npy", images[:, 0].numpy())
    parts = [tmp_path / name for name in ("shards", "pictures", "rest.npy")]
    how = ["--reference", tmp_path / "all.npy", "--features", "pixels", "--batch-size", 7, "--json"]
    assert cli("evaluate", tmp_path / "all.npy", *how, tmp_path / "whole.json").code == 0
    assert cli("evaluate", *parts, *how, tmp_path / "parts.json").code == 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "prescore"]
    command = [*many, "evaluate", *parts, *how, tmp_path / "pair.json"]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, *others = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "parts", "pair"))
    for found in others:
        assert found["samples"]["digest"] == whole["samples"]["digest"]
        assert found["samples"]["path"] == [str(part) for part in parts]
        assert found["metrics"] == pytest.approx(whole["metrics"], rel=1e-9, abs=1e-9)


def test_two_results_for_one_file_are_refused(tmp_path: Path, samples: Path, data: Path, refused: Any) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for other in ("a", "link"):
        given = ("--json", tmp_path / "a", "--save-reference", tmp_path / other)
        message = refused("evaluate", samples, "--reference", data, *given)
        assert "--json, --save-reference: both are" in message
    assert not (tmp_path / "a").exists()
