"""`--guidance` of every command that calls a model: what Python does with `prescore.load(..., guidance=W)`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.conftest import ARGUMENTS, SIDE, Cli

import prescore
from prescore.checkpoints.native import ModelDescription, save_model
from prescore.models.song_unet import SongUNet

CLASSES = torch.eye(3)


@pytest.fixture
def classes(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny model of three classes, with an answer without a class or not, and data."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (9, SIDE, SIDE), dtype=np.uint8), labels=[0, 1, 2] * 3)

    def write(**more: Any) -> Path:
        arguments = {**ARGUMENTS, "label_dim": 3, **more}
        generator = torch.Generator().manual_seed(0)
        weights = SongUNet(**arguments, generator=generator).state_dict()
        weights |= {n: w + 0.1 * torch.randn(w.shape, generator=generator) for n, w in weights.items()}
        description = ModelDescription("SongUNet", arguments, "edm", {}, 0.01, 50.0, (1, SIDE, SIDE), name="three")
        path = tmp_path / "three.safetensors"
        save_model(path, description, weights, None)
        return path

    return write


def test_samples_are_those_of_python(cli: Cli, classes: Callable[..., Path], tmp_path: Path) -> None:
    model = classes(label_dropout=0.1)
    words = ("--class", "2,0", "--guidance", 3, "--sampler", "dpmpp-2m", "--calls", 8, "--n", 3, "--float")
    code, out, _ = cli("sample", model, *words, "--out", tmp_path / "a.npz")
    assert code == 0
    assert "8 network calls" in out
    guided = prescore.load(model, guidance=3)
    rows = {"class_labels": CLASSES[[2, 0, 2]]}
    x = prescore.draw(guided, n=3, sampler="dpmpp-2m", calls=8, condition=rows, progress=False)
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(file["images"], x.float().movedim(1, -1).numpy())
        assert '"guidance": 3.0' in str(file["settings"])
    plain = prescore.draw(prescore.load(model), n=3, sampler="dpmpp-2m", steps=4, condition=rows, progress=False)
    assert (x - plain).abs().max() > 0.01


@pytest.mark.parametrize("command", ["compare", "calibrate"])
def test_measured_as_in_python(cli: Cli, classes: Callable[..., Path], tmp_path: Path, command: str) -> None:
    model = classes(label_dropout=0.1)
    guided, words = prescore.load(model, guidance=2), ("--class", 1, "--guidance", 2, "--out", tmp_path / "out")
    rows = {"class_labels": CLASSES[[1]]}
    if command == "compare":
        assert cli("compare", model, "--samplers", "ddim", "--calls", "5", "--n", 2, *words).code == 0
        expected = prescore.draw(
            guided, n=2, sampler="ddim", calls=5, condition={"class_labels": CLASSES[[1, 1]]}, progress=False
        )
        with np.load(tmp_path / "out" / "runs" / "ddim-2.npz") as file:
            assert np.array_equal(file["images"], expected.float().movedim(1, -1).numpy())
        return
    quick = ("--levels", 3, "--trajectories", 0, "--model", model)
    assert cli("calibrate", tmp_path / "data.npz", *quick, *words).code == 0
    data = prescore.data.load_images(tmp_path / "data.npz", key="images")
    found = prescore.load_statistics(tmp_path / "out").model.score
    measured = prescore.calibrate(data, model=guided, condition=rows, levels=3, trajectories=0).model.score
    assert found is not None
    assert measured is not None
    assert torch.equal(found.residual_square, measured.residual_square)


def test_what_cannot_be_guided(
    refused: Callable[..., str], classes: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    needed = classes()
    commands = {
        "sample": (),
        "compare": ("--samplers", "ddim", "--calls", 3),
        "calibrate": ("--model",),
    }
    for command, words in commands.items():

        def said(model: Path, *more: object, command: str = command, words: tuple[object, ...] = words) -> str:
            first = (tmp_path / "data.npz",) if command == "calibrate" else ()
            given = (*words, model) if command == "calibrate" else (model, *words)
            return refused(command, *first, *given, "--out", tmp_path / "out", *more)

        guided = ("--guidance", 2, "--class", 0)
        assert "--guidance: the model three has no answer without a class, which guidance" in said(needed, *guided)
        assert "--guidance: the model tiny has no classes to be guided by" in said(model, *guided)
        assert "--guidance: does nothing without --class" in said(classes(label_dropout=0.1), "--guidance", 2)
        assert "nan is not a finite number" in said(classes(label_dropout=0.1), "--guidance", "nan", "--class", 0)
        classes()
    with pytest.raises(prescore.PrescoreError, match=r"^guidance: the model tiny has no classes"):
        prescore.load(model, guidance=2)


def test_without_data_a_guided_model_draws_all_classes_in_turn(
    cli: Cli, classes: Callable[..., Path], tmp_path: Path
) -> None:
    model = classes(label_dropout=0.1)
    quick = ("--n", 4, "--levels", 3, "--trajectories", 0, "--sample-calls", 16, "--out", tmp_path / "s")
    how = {"n": 4, "levels": 3, "trajectories": 0, "sample_calls": 16}
    guided = {"guidance": 2.0}, {"condition": {"class_labels": CLASSES}}
    for words, (opened, given) in {("--guidance", 2): guided, (): ({}, {})}.items():
        assert cli("calibrate", "--from-model", model, *quick, *words).code == 0
        expected = prescore.calibrate_model(prescore.load(model, **opened), **given, **how)
        assert torch.equal(prescore.load_statistics(tmp_path / "s").moments.power, expected.moments.power)
