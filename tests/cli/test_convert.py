"""`prescore convert` writes any format as prescore's own, the same model, and refuses what would not be it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from formats import KINDS, edm, write
from safetensors.torch import load_file
from support import relative

import prescore
from prescore.checkpoints import ModelDescription, open_model, save_model
from prescore.checkpoints.native import load_model, read
from prescore.models.song_unet import SongUNet

Cli = Callable[..., Any]
Refused = Callable[..., str]


def words(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def answer(denoise: prescore.Denoiser, sigma: float = 0.5) -> torch.Tensor:
    x = torch.linspace(-1, 1, 64).sin().reshape(1, 1, 8, 8)
    channels, height, width = denoise.event_shape
    with torch.no_grad():
        return denoise(x.repeat(1, channels, 1, 1)[:, :, :height, :width], torch.tensor(sigma))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_model_is_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    path, options = write(kind, tmp_path, monkeypatch)
    out = tmp_path / "out.safetensors"
    code, text, err = cli("convert", path, "--out", out, *words(options))
    assert (code, err) == (0, "")
    description, original = open_model(path, **options)
    assert torch.equal(answer(load_model(out)), answer(original))
    assert read(out).description.preconditioning == description.preconditioning
    count = sum(p.numel() for p in original.function.parameters())
    assert f"{count:,} ({description.weights})" in text
    assert f"MB written to {out}" in text
    for line in ("noise range", "data range", "event shape", "network"):
        assert f"\n{line}" in text
    assert text[: text.index("\n\n")] == cli("info", out).out.strip()


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 2e-3), ("bfloat16", 2e-2), ("float32", 1e-7)])
def test_precision(dtype: str, limit: float, tmp_path: Path, cli: Cli, model: Path) -> None:
    save_model(tmp_path / "full.safetensors", read(model).description, read(model).state, torch.float32)
    out = tmp_path / "out.safetensors"
    assert cli("convert", tmp_path / "full.safetensors", "--out", out, "--dtype", dtype).code == 0
    learned = {name for name, _ in load_model(out).function.model.named_parameters()}
    kinds = {value.dtype for name, value in load_file(out).items() if name in learned}
    assert kinds == {getattr(torch, dtype)}
    assert relative(answer(load_model(out)), answer(load_model(model))) < limit
    assert load_model(out).dtype == torch.float32


def test_raw_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    path, options = write("score-sde", tmp_path, monkeypatch)
    found = {}
    for flag in ([], ["--raw"]):
        out = tmp_path / "out.safetensors"
        assert cli("convert", path, "--out", out, *words(options), *flag).code == 0
        found[read(out).description.weights] = answer(load_model(out))
    assert found.keys() == {"ema", "raw"}
    assert not torch.equal(found["ema"], found["raw"])


def test_weights_beyond_the_range_of_half_precision_are_refused(tmp_path: Path, cli: Cli, refused: Refused) -> None:
    arguments = {"img_resolution": 8, "in_channels": 1, "out_channels": 1, "model_channels": 8, "channel_mult": [1]}
    arguments |= {"num_blocks": 1, "attn_resolutions": []}
    state = SongUNet(**arguments, generator=torch.Generator().manual_seed(0)).state_dict()
    state["map_layer0.weight"] = state["map_layer0.weight"] + 1e6
    description = ModelDescription("SongUNet", arguments, "edm", {}, 0.01, 50.0, (1, 8, 8))
    save_model(tmp_path / "a.safetensors", description, state, torch.float32)
    message = refused("convert", tmp_path / "a.safetensors", "--out", tmp_path / "b.safetensors", "--dtype", "float16")
    assert "the weight 'map_layer0.weight' has values that are not finite in float16" in message
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert cli("convert", tmp_path / "a.safetensors", "--out", tmp_path / "b", "--dtype", "bfloat16").code == 0


def test_outputs_that_are_wrong(tmp_path: Path, refused: Refused, model: Path) -> None:
    assert "is the model itself; name another file" in refused("convert", model, "--out", model)
    assert "/dev/null: is no file, and what is written is read back" in refused("convert", model, "--out", "/dev/null")
    assert "there is no folder" in refused("convert", model, "--out", tmp_path / "no" / "a.safetensors")
    assert "is a folder; name a file" in refused("convert", model, "--out", tmp_path)
    assert "dtype: unknown value 'float8'" in refused("convert", model, "--out", tmp_path / "a", "--dtype", "float8")
    assert "weights: the file holds the ema weights only" in refused("convert", model, "--out", tmp_path / "a", "--raw")
    assert "config: a prescore model holds its own" in refused("convert", model, "--out", tmp_path / "a", "--config", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_leaves_the_old_file(tmp_path: Path, refused: Refused, model: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "cut").write_bytes(model.read_bytes()[:-1])
    assert "truncated" in refused("convert", tmp_path / "cut", "--out", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "cut"]


def test_what_was_written_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, model: Path
) -> None:
    def save_wrongly(path: Path, description: Any, state: dict[str, torch.Tensor], dtype: Any) -> None:
        save_model(path, description, {name: 2 * value for name, value in state.items()}, dtype)

    monkeypatch.setattr("prescore.checkpoints.native.save_model", save_wrongly)
    assert "was not written as it is" in refused("convert", model, "--out", tmp_path / "a")


def test_a_converted_model_draws_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, refused: Refused
) -> None:
    """A class-conditional one: each class gives its own samples, by seed."""
    path, _ = edm(tmp_path, monkeypatch, label_dim=3)
    assert cli("convert", path, "--out", tmp_path / "model").code == 0
    assert re.search(r"^classes +3$", cli("info", tmp_path / "model").out, re.MULTILINE)
    draw = ("--sampler", "ddim", "--steps", 2, "--n", 3)
    images = {}
    for name in (path, tmp_path / "model"):
        assert cli("sample", name, *draw, "--class", "0,1", "--out", tmp_path / f"of-{name.stem}").code == 0
        images[name] = [file.read_bytes() for file in sorted((tmp_path / f"of-{name.stem}").glob("*.png"))]
    assert images[path] == images[tmp_path / "model"]
    assert cli("sample", path, *draw, "--class", "0", "--out", tmp_path / "zero").code == 0
    zero = [file.read_bytes() for file in sorted((tmp_path / "zero").glob("*.png"))]
    assert [a == b for a, b in zip(zero, images[path], strict=True)] == [True, False, True]
    other = ("sample", path, *draw, "--out", tmp_path / "zero")
    assert "holds samples drawn with class = [0], now it is [1]" in refused(*other, "--class", "1")
    assert "--class: is missing; the model draws one of its classes 0 to 2" in refused(*other)
    assert "class: 3 given; the model has the classes 0 to 2" in refused(*other, "--class", "0,3")
    assert "--class: 'cat' given" in refused(*other, "--class", "cat")


def test_classes_of_a_model_that_has_none(tmp_path: Path, refused: Refused, model: Path) -> None:
    message = refused("sample", model, "--steps", 2, "--out", tmp_path / "a.npz", "--class", 0)
    assert "--class: the model tiny has no classes" in message
