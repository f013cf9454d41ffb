import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from prescore.checkpoints.native import read_description
from prescore.cli.train import train
from prescore.data import load_images
from prescore.errors import PrescoreError
from prescore.training import loop
from prescore.training.loop import TrainingConfig

TINY = "--steps 3 --batch-size 2 --cooldown 1 --model-channels 8 --channel-mult 1,2 --attn-resolutions 4 --no-progress"
TINY_CONFIG = TrainingConfig(
    steps=3, batch_size=2, cooldown=1, model_channels=8, channel_mult=(1, 2), attn_resolutions=(4,)
)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "digits.npz"
    np.savez(path, train=np.random.default_rng(0).integers(0, 256, (7, 6, 6, 1), dtype=np.uint8))
    return path


def command(*arguments):
    app = typer.Typer()
    app.command()(train)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_trains_and_resumes(data, tmp_path):
    result = command(data, "--out", tmp_path / "run", "--pad", 8, *TINY.split())
    assert result.exit_code == 0, result.output
    assert "step 3 of 3" in result.output
    assert "stopped" not in result.output
    description = read_description(tmp_path / "run" / "model.safetensors")
    assert (description.name, description.event_shape) == ("run", (1, 8, 8))
    again = command(data, "--out", tmp_path / "run", "--pad", 8, *TINY.split())
    assert again.exit_code == 0
    assert "step 3 of 3" in again.output


def test_is_the_function_with_the_same_settings(data, tmp_path):
    command(data, "--out", tmp_path / "a", "--pad", 8, *TINY.split())
    loop.train(load_images(data, pad=8), TINY_CONFIG, tmp_path / "b", name="a", progress=False)
    a, b = (load_file(tmp_path / folder / "model.safetensors") for folder in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_defaults_are_those_of_the_configuration(data, tmp_path, monkeypatch):
    seen = []

    def remember(images, config, out, **options):
        seen.append(config)
        return loop.TrainingResult(out, config.steps, 0.0, 0.0, True)

    monkeypatch.setattr("prescore.cli.train.run", remember)
    assert command(data, "--out", tmp_path / "run").exit_code == 0
    assert command(data, "--out", tmp_path / "run", "--noise", "log-normal", "--p-mean", -2).exit_code == 0
    assert seen == [TrainingConfig(), TrainingConfig(noise="log-normal", P_mean=-2.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--p-mean -1", "--p-mean, --p-std: belong to --noise log-normal"),
        ("--channel-mult 1,x", "--channel-mult: '1,x' is not a list of integers"),
        ("--noise uniform", "noise: unknown 'uniform'"),
        ("--device nowhere", "device: 'nowhere'"),
        ("--checkpoint-every 0", "checkpoint_every: 0"),
    ],
)
def test_wrong_options(data, tmp_path, options, message):
    result = command(data, "--out", tmp_path / "run", *options.split())
    assert isinstance(result.exception, PrescoreError)
    assert message in str(result.exception)
