"""Every preset of the papers, from the command line, on a small checkpoint in the layout of its published model."""

import json

import numpy as np
import pytest
import torch
from published import WIDTH, kind, side, small_score_sde, write

from prescore import calibrate, save_statistics
from prescore.checkpoints import ncsn, score_sde
from prescore.presets import PRESETS

FEW = {"ald": 3, "pds": 2}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("published")


def statistics(folder, shape):
    """A file of statistics of smooth images of a shape."""
    path = folder / f"{shape[-1]}.statistics.safetensors"
    if not path.exists():
        x = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)).cumsum(-1).cumsum(-2)
        save_statistics(calibrate(x / x.amax()), path)
    return path


def settings(path):
    with np.load(path) as file:
        return json.loads(str(file["settings"])), file["images"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_on_its_published_layout(name, cli, folder, tmp_path, monkeypatch):
    preset, out = PRESETS[name], tmp_path / "a.npz"
    path, opened = write(name, folder, monkeypatch)
    shape = (preset.shape[0], side(preset), side(preset))
    words = ["--preset", name, "--steps", FEW.get(preset.options["sampler"], 2), *opened]
    if preset.options["sampler"] == "pds":
        words += ["--statistics", statistics(folder, shape)]
    code, _, err = cli("sample", path, *words, "--n", 1, "--float", "--out", out)
    assert code == 0, err
    assert (f"preset {name} is for" in err) == (shape != preset.shape), err
    own, images = settings(out)
    assert images.shape == (1, *shape[1:], shape[0])
    assert np.isfinite(images).all()
    for option, value in preset.options.items():
        if option not in ("steps", "calls") and value != "auto":
            assert own[option] == (list(value) if isinstance(value, tuple) else value), option
    if opened[:1] == ["--config"]:
        assert own["config"] == kind(name)


def as_sections(name, pixels):
    """The yml of the training code for a small checkpoint of a published configuration."""
    if name in score_sde.PUBLISHED:
        small = small_score_sde(name, pixels)
        arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in small.arguments.items()}
        training = {"sde": f"{small.sde}sde", "continuous": small.continuous, "n_iters": 7}
        return {"data": {"image_size": pixels}, "model": {"name": "ncsnpp", **arguments}, "training": training}
    small = ncsn.PUBLISHED[name]
    ends = {"sigma_begin": small.sigma_begin, "sigma_end": small.sigma_end}
    return {
        "data": {"dataset": small.dataset, "image_size": pixels, "channels": small.channels},
        "model": {"ngf": WIDTH, "num_classes": small.num_classes, **ends},
    }


@pytest.mark.parametrize("name", ["pds-celeba64-t50", "pds-tower128-t65"])
def test_presets_on_a_model_that_only_a_yml_describes(name, cli, folder, tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    preset, out = PRESETS[name], tmp_path / "a.npz"
    pixels = side(preset)
    with monkeypatch.context() as patch:
        path, _ = write(name, folder, patch)
    (tmp_path / "own.yml").write_text(yaml.dump(as_sections(kind(name), pixels)))
    words = ["--config", tmp_path / "own.yml", "--preset", name, "--steps", 2, "--n", 1, "--out", out]
    if preset.options["sampler"] == "pds":
        words += ["--statistics", statistics(folder, (3, pixels, pixels))]
    code, _, err = cli("sample", path, *words)
    assert code == 0, err
    assert settings(out)[0]["config"] == str(tmp_path / "own.yml")
