"""A command line to call, and a tiny trained model with statistics of its data."""

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from prescore import calibrate
from prescore.assets import STATISTICS_SUFFIX
from prescore.checkpoints.native import ModelDescription, load_model, save_model
from prescore.cli import main
from prescore.models.song_unet import SongUNet
from prescore.statistics import ModelStatistics, save_statistics, score_statistics

SIDE = 8
ARGUMENTS = {"img_resolution": SIDE, "in_channels": 1, "out_channels": 1, "model_channels": 16, "channel_mult": [1]}
ARGUMENTS |= {"num_blocks": 1, "attn_resolutions": []}


class Result(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]
# The networks of these tests know nothing, and their data are few, and the library says so, of them and of their
# samples. That is tested in tests/plan/test_decide.py, tests/test_examine.py and tests/test_calibration.py.
DOUBT = re.compile(
    r"^prescore: note: (at .* Gaussian model of the data|[\d.]+% of the samples' values are far|the samples have |"
    r"\d+ samples are few: ).*\n",
    re.MULTILINE,
)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background of a script, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("sample", path, "--steps", 5)` as a shell would run it."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, DOUBT.sub("", err))

    return run


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """The one line on stderr of a command that has to end with exit code 2."""

    def run(*arguments: object) -> str:
        code, _, err = cli(*arguments)
        assert code == 2
        assert err.startswith("prescore: error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `mnist-ve` and its statistics, both tiny; these with components and a score."""
    folder = tmp_path_factory.mktemp("assets")
    generator = torch.Generator().manual_seed(0)
    network = SongUNet(**ARGUMENTS, generator=generator)
    description = ModelDescription(
        "SongUNet",
        ARGUMENTS,
        "edm",
        {"sigma_data": 0.5},
        0.01,
        50.0,
        (1, SIDE, SIDE),
        name="tiny",
        training={"steps": 0},
    )
    save_model(folder / "mnist-ve.safetensors", description, network.state_dict())
    data = torch.rand(50, 1, SIDE, SIDE, generator=generator).cumsum(-1).cumsum(-2) / SIDE**2
    score = score_statistics(load_model(folder / "mnist-ve.safetensors"), data)
    statistics = replace(calibrate(data, components=9), model=ModelStatistics(score=score))
    save_statistics(statistics, folder / "mnist-ve.statistics.safetensors")
    return folder


@pytest.fixture
def shipped(assets: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a shipped model that is tiny."""
    monkeypatch.setattr("prescore.assets.FOLDER", assets)
    return "mnist-ve"


@pytest.fixture
def model(assets: Path) -> Path:
    """A model file that is not shipped, and so comes without statistics."""
    return assets / "mnist-ve.safetensors"


@pytest.fixture
def statistics(assets: Path) -> Path:
    return assets / "mnist-ve.statistics.safetensors"


@pytest.fixture(scope="session")
def calibrated(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics with the errors of steps on the tiny model."""
    folder = tmp_path_factory.mktemp("calibrated")
    np.savez(folder / "data.npz", images=np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8))
    out, model = folder / f"own{STATISTICS_SUFFIX}", assets / "mnist-ve.safetensors"
    arguments = ("calibrate", folder / "data.npz", "--out", out, "--model", model, "--trajectories", 2)
    assert main([str(a) for a in arguments]) == 0
    return out
