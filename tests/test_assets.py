"""What ships is what its card and the README say."""

import os
from pathlib import Path

import pytest
import torch

import prescore
from prescore.assets import FOLDER, shipped_models
from prescore.cli.demo import MODEL
from prescore.errors import PrescoreError
from prescore.metrics import power_spectrum_error


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_is_complete(name):
    model, statistics = prescore.load(name), prescore.load_statistics(name)
    assert statistics.event_shape == model.event_shape
    assert statistics.data_range == model.data_range
    card = (FOLDER / f"{name}.md").read_text()
    for word in ("icence", "prescore train", "steps", "seconds", "loss", f"{name}.png"):
        assert word in card
    assert (FOLDER / f"{name}.png").is_file()


def test_what_ships_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 33_000_000


def test_mnist_ve_denoises():
    """At sigma = 0.3 its error on an upright stroke is a third of the noise at most."""
    model = prescore.load(MODEL)
    noise = torch.randn(8, *model.event_shape, generator=torch.Generator().manual_seed(0))
    x0 = torch.zeros_like(noise)
    x0[..., 6:26, 14:17] = 1.0  # an upright stroke: a one
    error = (model(x0 + 0.3 * noise, torch.tensor(0.3)) - x0).square().mean().sqrt()
    assert error < 0.1


def test_few_steps_are_better_preconditioned():
    """The point of the demo on 12 of its digits at T = 20: PDS at most half the spectrum error of the plain sampler."""
    model, statistics, error = prescore.load(MODEL), prescore.load_statistics(MODEL), {}
    for name in ("pc", "pds"):
        x = prescore.plan(model, sampler=name, steps=20).sample(range(12), progress=False)
        error[name] = power_spectrum_error(x, statistics)
    assert error["pds"] < error["pc"] / 2


def test_unknown_name():
    with pytest.raises(PrescoreError, match="mnist-vee: no such file, and no shipped model; did you mean mnist-ve or"):
        prescore.load("mnist-vee")
    with pytest.raises(PrescoreError, match="is a folder"):
        prescore.load(FOLDER)


def test_a_path_that_may_not_be_looked_at(monkeypatch):
    """On some versions of Python `is_dir` raises what the system says, on others it is False."""

    def refuse(path):
        if path == Path("secret/file"):
            raise PermissionError(13, "Permission denied")
        return os.path.isdir(path)

    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    for read in (prescore.load, prescore.load_statistics):
        with pytest.raises(PrescoreError, match=r"^secret/file: cannot be read \(Permission denied\)$"):
            read("secret/file")
