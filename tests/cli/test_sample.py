"""`prescore sample` draws what the library draws, uses or refuses every option, and leaves nothing half done."""

import inspect
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from support import with_function

import prescore
from prescore.checkpoints.native import read as read_model
from prescore.checkpoints.native import save_model
from prescore.cli.sample import sample
from prescore.denoiser import Denoiser
from prescore.gaussian import GAUSSIANS, Gaussian
from prescore.grid import geometric, iddpm, karras, uniform_t
from prescore.images import grid, to_uint8
from prescore.metrics import CONDITIONING, Conditioning
from prescore.samplers import SAMPLERS, Entry, Progress
from prescore.samplers.table import options_of
from prescore.schedule import VP

Cli = Callable[..., Any]
Refused = Callable[..., str]

PC = ("--sampler", "pc")


def draw(model: Path | str, sampler: prescore.Sampler, seeds: range) -> torch.Tensor:
    """What the library draws, as uint8."""
    return to_uint8(prescore.sample(prescore.load(model), sampler, seeds=seeds, progress=False))


def images_of(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return file["images"][..., 0]


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def facts_of(out: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split(maxsplit=1)) == 2)


def test_a_grid_of_what_the_library_draws(tmp_path: Path, cli: Cli, model: Path) -> None:
    code, _, err = cli("sample", model, *PC, "--steps", 3, "--n", 5, "--seed", 7, "--out", tmp_path / "a.png")
    assert (code, err) == (0, "")
    expected = grid(draw(model, prescore.make_sampler("pc", steps=3), range(7, 12)))
    assert np.array_equal(read(tmp_path / "a.png"), expected[0].numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_arrays_come_with_seeds_and_settings(tmp_path: Path, cli: Cli, model: Path) -> None:
    assert cli("sample", model, *PC, "--steps", 3, "--n", 4, "--snr", 0.2, "--out", tmp_path / "a.npz").code == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        images, seeds, settings = file["images"], file["seeds"], json.loads(file["settings"].item())
    assert images.dtype == np.uint8
    assert images.shape == (4, 8, 8, 1)
    assert np.array_equal(images[..., 0], draw(model, prescore.make_sampler("pc", steps=3, snr=0.2), range(4))[:, 0])
    assert seeds.tolist() == [0, 1, 2, 3]
    expected = {"model": str(model), "sampler": "pc", "steps": 3, "snr": 0.2, "sigma_max": 50.0, "dtype": "float32"}
    assert expected.items() <= settings.items()


def test_the_step_rule_is_that_of_python(tmp_path: Path, cli: Cli, model: Path) -> None:
    flags = ("--steps", 4, "--n", 2, "--snr", 0.1, "--original-steps", 16, "--out", tmp_path / "a.npz")
    assert cli("sample", model, *PC, *flags).code == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        images, settings = file["images"], json.loads(file["settings"].item())
    assert np.array_equal(images[..., 0], draw(model, prescore.make_sampler("pc", steps=4, snr=0.2), range(2))[:, 0])
    assert settings["original_steps"] == 16


def test_samples_do_not_depend_on_the_batch_size(tmp_path: Path, cli: Cli, model: Path) -> None:
    for size in (1, 3, 5):
        path = tmp_path / f"{size}.npz"
        assert cli("sample", model, *PC, "--steps", 3, "--n", 5, "--batch-size", size, "--out", path).code == 0
        # A network rounds differently in batches of different sizes, by much less than one of 255 levels.
        assert np.abs(images_of(path).astype(int) - images_of(tmp_path / "1.npz")).max() <= 1


def test_the_settings_and_the_calls_are_printed(tmp_path: Path, cli: Cli, model: Path) -> None:
    out = cli("sample", model, *PC, "--steps", 3, "--n", 5, "--batch-size", 2, "--out", tmp_path / "a.png").out
    facts = facts_of(out)
    expected = {"sampler": "pc", "steps": "3", "snr": "0.16", "seeds": "0-4", "batch_size": "2", "device": "cpu"}
    assert expected.items() <= facts.items()
    assert facts["calls"] == "18"  # 3 batches of 3 steps of 2 calls
    assert out.splitlines()[-1].startswith("18 network calls in ")


def test_a_folder_holds_one_picture_a_seed(tmp_path: Path, cli: Cli, model: Path) -> None:
    arguments = ("sample", model, *PC, "--steps", 3, "--n", 5, "--seed", 98, "--batch-size", 2)
    assert cli(*arguments, "--out", tmp_path / "new" / "f").code == 0
    assert cli(*arguments, "--out", tmp_path / "a.npz").code == 0
    names = [f"{seed:06d}.png" for seed in range(98, 103)]
    assert sorted(os.listdir(tmp_path / "new" / "f")) == [*names, "settings.json"]
    pictures = np.stack([read(tmp_path / "new" / "f" / name) for name in names])
    assert np.array_equal(pictures, images_of(tmp_path / "a.npz"))


def test_a_folder_is_completed_with_the_samples_it_misses(tmp_path: Path, cli: Cli, model: Path) -> None:
    arguments = ("sample", model, *PC, "--steps", 3, "--out", tmp_path / "f")
    cli(*arguments, "--n", 4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    kept = (tmp_path / "f" / "000000.png").stat().st_mtime_ns
    (tmp_path / "f" / "000002.png").unlink()
    out = cli(*arguments, "--n", 6, "--batch-size", 2).out
    assert out.splitlines()[-1].startswith("12 network calls")  # seeds 2, 3 | 4, 5
    after = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    assert after.keys() - before.keys() == {"000004.png", "000005.png"}
    difference = read(tmp_path / "f" / "000002.png").astype(int) - draw_one(model, 2)
    assert np.abs(difference).max() <= 1
    assert (tmp_path / "f" / "000000.png").stat().st_mtime_ns == kept
    assert cli(*arguments, "--n", 6).out.splitlines()[-1].startswith("nothing is left to draw, all samples are in ")


def test_a_folder_is_completed_bit_for_bit(tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is missing: the calls of the network are those of the run that nothing interrupted."""
    inputs: list[bytes] = []

    def record(model: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        inputs.append(x.numpy().tobytes())
        return model(x, sigma)

    with_function(monkeypatch, record)
    arguments = ("sample", model, *PC, "--steps", 3, "--sampler", "edm-stochastic")
    for own in (("--n", 6), ("--n", 6, "--batch-size", 4), ("--n", 3, "--batch-size", 8)):
        folder = tmp_path / "".join(map(str, own))
        inputs.clear()
        assert cli(*arguments, *own, "--out", folder).code == 0
        before, whole = {path.name: path.read_bytes() for path in folder.iterdir()}, set(inputs)
        for names in (["000002.png"], ["000000.png", "000002.png"]):
            for name in names:
                (folder / name).unlink()
            inputs.clear()
            assert cli(*arguments, *own, "--out", folder).code == 0
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
            assert inputs
            assert set(inputs) <= whole


def test_a_sample_has_the_same_bits_in_runs_of_other_lengths(tmp_path: Path, cli: Cli, model: Path) -> None:
    """With the same batch size, as far as it has the same place in its batch."""
    runs = []
    for n in (9, 16, 5):
        arguments = ("--steps", 4, "--n", n, "--batch-size", 8, "--float", "--out", tmp_path / "a.npz")
        assert cli("sample", model, "--sampler", "edm-stochastic", *arguments).code == 0
        runs.append(images_of(tmp_path / "a.npz"))
    assert np.array_equal(runs[0], runs[1][:9])
    assert np.array_equal(runs[2], runs[1][:5])


def draw_one(model: Path, seed: int) -> np.ndarray:
    return draw(model, prescore.make_sampler("pc", steps=3), range(seed, seed + 1))[0, 0].numpy()


def test_a_folder_of_other_settings_is_refused(tmp_path: Path, cli: Cli, refused: Refused, model: Path) -> None:
    mine = shutil.copy(model, tmp_path / "m.safetensors")
    arguments = ("sample", mine, *PC, "--n", 2, "--out", tmp_path / "f")
    cli(*arguments, "--steps", 3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    assert "steps = 3, now it is 4" in refused(*arguments, "--steps", 4)
    assert "snr = 0.16, now it is 0.2" in refused(*arguments, "--steps", 3, "--snr", 0.2)
    with safe_open(mine, "pt") as file:
        tensors = {name: 2 * file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        save_file(tensors, mine, file.metadata())
    assert "model_sha256" in refused(*arguments, "--steps", 3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()} == before
    (tmp_path / "f" / "settings.json").write_text('{"steps": 3')
    assert "settings.json: cannot be read" in refused(*arguments, "--steps", 3)
    (tmp_path / "f" / "settings.json").unlink()
    assert "no settings.json" in refused(*arguments, "--steps", 3)


def test_batch_norms_draw_a_sample_with_its_batch_mates_again(tmp_path: Path, cli: Cli, refused: Refused, model: Path):
    arguments = (
        "sample",
        model,
        *PC,
        "--steps",
        3,
        "--n",
        5,
        "--batch-size",
        2,
        "--norm",
        "batch",
        "--out",
        tmp_path / "f",
    )
    cli(*arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    (tmp_path / "f" / "000002.png").unlink()
    assert cli(*arguments).out.splitlines()[-1].startswith("6 network calls")
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()} == before
    assert "batch_size = 2, now it is 3" in refused(*arguments, "--batch-size", 3)


def test_pds_uses_the_statistics_that_a_model_ships_with(
    tmp_path: Path, cli: Cli, shipped: str, statistics: Path
) -> None:
    def run(*options: object) -> np.ndarray:
        code, _, err = cli("sample", shipped, *PC, "--steps", 3, "--n", 2, "--out", tmp_path / "a.npz", *options)
        assert (code, err) == (0, "")
        return images_of(tmp_path / "a.npz")

    stats = prescore.load_statistics(statistics)
    Mf, Mp = prescore.frequency_preconditioner(stats, 4), prescore.pixel_preconditioner(stats, 4)
    plain, pds, both = (
        draw(shipped, prescore.make_sampler("pc", steps=3, preconditioner=M), range(2))[:, 0].numpy()
        for M in (None, Mf, Mf @ Mp)
    )
    assert not np.array_equal(plain, pds)
    assert not np.array_equal(pds, both)
    assert np.array_equal(run(), plain)
    assert np.array_equal(run("--alpha", 4), pds)
    assert np.array_equal(run("--sampler", "pds", "--alpha", 4, "--no-pixel"), pds)
    assert np.array_equal(run("--alpha", 4, "--statistics", statistics), pds)
    assert np.array_equal(run("--alpha", 4, "--statistics", shipped), pds)
    assert np.array_equal(run("--alpha", 4, "--pixel"), both)
    chosen = prescore.choose_alpha(prescore.make_sampler("pc", steps=3), stats, 0.01, 50).alpha
    automatic = run("--alpha", "auto")
    assert np.array_equal(automatic, run("--alpha", f"{min(chosen, 1e4):.3g}"))
    assert np.array_equal(automatic, run("--sampler", "pds"))
    assert not np.array_equal(automatic, run("--alpha", "auto", "--snr", 0.3))


def test_numbers_as_they_are(tmp_path: Path, cli: Cli, refused: Refused, model: Path) -> None:
    """--float writes what the library draws, not clipped."""
    arguments = ("sample", model, *PC, "--steps", 3, "--n", 3, "--float", "--out")
    assert cli(*arguments, tmp_path / "a.npz").code == 0
    x = prescore.sample(prescore.load(model), prescore.make_sampler("pc", steps=3), seeds=range(3), progress=False)
    assert np.array_equal(images_of(tmp_path / "a.npz"), x[:, 0].float().numpy())
    assert x.min() < 0
    for out in ("a.png", "folder"):
        assert "holds bytes; name an .npz file" in refused(*arguments, tmp_path / out)


def test_the_noise_range_may_be_narrowed(tmp_path: Path, cli: Cli, refused: Refused, model: Path) -> None:
    arguments = ("sample", model, *PC, "--steps", 3, "--n", 1, "--out", tmp_path / "a.npz")
    assert cli(*arguments, "--sigma-min", 0.1, "--sigma-max", 5).code == 0
    denoiser = replace(prescore.load(model), sigma_min=0.1, sigma_max=5.0)
    x = prescore.sample(denoiser, prescore.make_sampler("pc", steps=3), seeds=[0], progress=False)
    assert np.array_equal(images_of(tmp_path / "a.npz"), to_uint8(x)[:, 0].numpy())
    assert "0.01 to 60 asked for, the model knows noise from 0.01 to 50" in refused(*arguments, "--sigma-max", 60)
    assert "--sigma-min" in refused(*arguments, "--sigma-min", 0.001)
    assert "sigma_min < sigma_max" in refused(*arguments, "--sigma-min", 5, "--sigma-max", 5)


def test_an_option_of_a_sampler_hides_none_of_the_command_that_would_do_something() -> None:
    own = {name.rstrip("_").replace("_", "-") for name in inspect.signature(sample).parameters}
    for entry in SAMPLERS.values():
        flags = [option.flag.removeprefix("--") for option in options_of(entry).values()]
        assert len(set(flags)) == len(flags)
        idle = set() if entry.takes("preconditioner") else {"alpha", "pixel"}
        assert (own - idle).isdisjoint(flags)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference(prescore.Sampler):
    """A sampler that ends at the mean of its reference, as if that had no variance.

    Args:
        reference: the Gaussian.
    """

    reference: Gaussian | None = None
    family: ClassVar[str] = "reference"

    def step(self, denoise: Any, x: Any, sigma: Any, sigma_next: Any, state: Any, noise: Any) -> tuple[Any, Any]:
        assert self.reference is not None
        return 0 * denoise(x, sigma) + self.reference.mean + self.reference.variances.mean(), state


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a sampler that needs a reference Gaussian."""
    entry = Entry(Reference, "a toy", "https://example.org", needs=("reference",))
    monkeypatch.setattr("prescore.samplers.table.SAMPLERS", {**SAMPLERS, "toy": entry})
    return "toy"


@pytest.mark.parametrize("basis", GAUSSIANS)
def test_the_reference_gaussian_is_made_from_statistics(
    tmp_path: Path, cli: Cli, shipped: str, model: Path, statistics: Path, reference: str, basis: str
) -> None:
    G = GAUSSIANS[basis](prescore.load_statistics(statistics))
    expected = to_uint8(G.mean + G.variances.mean())[0].numpy()
    usual = [] if basis == "cosine" else ["--basis", basis]
    arguments = ("--sampler", reference, "--steps", 2, "--n", 1, "--out", tmp_path / "a.npz")
    for options in ([shipped, *usual], [shipped, "--basis", basis], [model, "--statistics", statistics, *usual]):
        assert cli("sample", *options, *arguments).err == ""
        with np.load(tmp_path / "a.npz") as file:
            assert np.array_equal(file["images"][0, ..., 0], expected)
            settings = json.loads(file["settings"].item())
        assert settings["basis"] == basis
        assert settings["statistics"] == (shipped if shipped in options else str(statistics))


def test_a_reference_that_cannot_be_made(
    tmp_path: Path, refused: Refused, model: Path, statistics: Path, reference: str
) -> None:
    arguments = ("sample", model, "--sampler", reference, "--out", tmp_path / "a.png")
    message = refused(*arguments)
    assert "--sampler: tiny comes without statistics of its data" in message
    assert "--basis: tiny comes without statistics" in refused(*arguments, "--basis", "pixel")
    assert "--alpha: sampler 'toy' cannot use a preconditioner" in refused(*arguments, "--alpha", 3)
    message = refused(*arguments, "--statistics", statistics, "--basis", "pixels")
    assert "basis: unknown value 'pixels'; did you mean pixel?" in message
    assert not list(tmp_path.iterdir())


def test_statistics_that_a_sampler_does_not_use_are_said_to_be_unused(tmp_path: Path, cli: Cli, model: Path) -> None:
    prescore.save_statistics(prescore.calibrate(torch.rand(9, 1, 8, 8)), tmp_path / "s")
    arguments = ("sample", model, "--sampler", "ddim", "--steps", 2, "--n", 1, "--out", tmp_path / "a.png")
    code, out, _ = cli(*arguments, "--statistics", tmp_path / "s")
    assert code == 0
    assert "given, but ddim has no use for them" in out


def test_what_a_sampler_cannot_use_is_refused(
    tmp_path: Path, refused: Refused, shipped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Entry(Reference, "a toy", "https://example.org", {"reference": None})
    monkeypatch.setattr("prescore.samplers.table.SAMPLERS", {**SAMPLERS, "plain": plain})
    arguments = ("sample", shipped, "--sampler", "plain", "--out", tmp_path / "a.png")
    for option, value in {"--alpha": [3], "--pixel": [], "--basis": ["pixel"]}.items():
        assert f"{option}: sampler 'plain' cannot use a" in refused(*arguments, option, *value).replace(
            ", --no-pixel", ""
        )
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptive(Reference):
    """A sampler whose step calls the model once for each sample of the batch."""

    def total_calls(self, steps: int, final_zero: bool = True) -> None:
        """Not known before."""

    def step(self, denoise: Any, x: Any, sigma: Any, sigma_next: Any, state: Any, noise: Any) -> tuple[Any, Any]:
        for _ in x:
            denoised = denoise(x, sigma)
        return denoised, state


def test_the_calls_of_an_adaptive_sampler_are_counted(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(Adaptive, "a toy", "https://example.org")
    monkeypatch.setattr("prescore.samplers.table.SAMPLERS", {**SAMPLERS, "toy": entry})
    arguments = ("sample", model, "--sampler", "toy", "--steps", 2, "--n", 5, "--batch-size", 2)
    out = cli(*arguments, "--out", tmp_path / "a.npz").out
    assert facts_of(out)["calls"] == "as many as the tolerance needs"
    assert out.splitlines()[-1].startswith("12 network calls in ")  # 2 steps of 3 batches of 2


# Values of options whose default is None or would be refused, and of some others another one than the default.
VALUES: dict[str, object] = {
    "predictor": "ancestral",
    "corrector_steps": 2,
    "snr": 0.2,
    "original_steps": 1000,
    "first": "predictor",
    "level_steps": 2,
    "step_size": 1e-5,
    "S_tmax": 10.0,
    "sigma_data": 0.3,
    "r1": 0.4,
    "r2": 0.8,
}
# Options beside the one in question: those without which it would do nothing, or take long.
BESIDE: dict[str, list[object]] = {
    "form": ["--alpha", 5],
    "precondition_prior": ["--alpha", 5],
    "sigma_data": ["--prediction", "edm"],
    "warm_up": ["--no-corrector"],
}
LOOSE = {"eps_abs": 0.5, "eps_rel": 0.5, "rtol": 0.1, "atol": 0.1}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_option_is_used(tmp_path: Path, cli: Cli, shipped: str, name: str) -> None:
    options = options_of(SAMPLERS[name])
    loose = [part for key, value in LOOSE.items() if key in options for part in (options[key].flag, value)]
    for option in options.values():
        value = (VALUES | LOOSE).get(option.name, not option.default if option.is_switch else option.default)
        assert value is not None, option.name
        flag = [option.flags[not value]] if option.is_switch else [option.flag, word(value)]
        path = tmp_path / f"{option.name}.npz"
        beside = BESIDE.get(option.name, [])
        if "snr" in options and option.name != "corrector":
            beside = [*beside, "--corrector", "langevin"]
        if "step_size" in options and option.name == "original_steps":
            beside = ["--step-size", 1e-5]
        arguments = ("sample", shipped, "--sampler", name, "--steps", 4, "--n", 1, *beside)
        assert cli(*arguments, *loose, *flag, "--out", path).err == ""
        with np.load(path) as file:
            settings = json.loads(file["settings"].item())
        assert settings[option.name] == (list(value) if isinstance(value, tuple) else value)


def word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_option_of_another_sampler_is_refused(tmp_path: Path, refused: Refused, shipped: str, name: str) -> None:
    own = options_of(SAMPLERS[name])
    others = (option for entry in SAMPLERS.values() for option in options_of(entry).values())
    option = next(option for option in others if option.name not in own)
    message = refused("sample", shipped, "--sampler", name, option.flag, 1, "--out", tmp_path / "a.npz")
    assert f"{option.flag}: sampler {name!r} has no such option; name a sampler that has, such as" in message
    assert not list(tmp_path.iterdir())


def test_the_options_of_a_sampler_stand_anywhere(tmp_path: Path, cli: Cli, model: Path) -> None:
    out = ("--out", tmp_path / "a.npz", "--n", 1, "--steps", 2)
    for arguments in (
        ["--snr=0.3", "--corrector-steps", 2, model, *out],
        [model, *out, "--corrector-steps=2", "--sampler=pc", "--snr", 0.1, "--snr", 0.3],
        ["--snr", 0.3, *out, "--corrector-steps", 2, "--", model],
    ):
        assert cli("sample", *PC, *arguments).code == 0
        with np.load(tmp_path / "a.npz") as file:
            settings = json.loads(file["settings"].item())
        assert (settings["snr"], settings["corrector_steps"]) == (0.3, 2)


def levels_of(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The noise levels at which the model will have been called."""
    seen: list[float] = []

    def spy(model: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(sigma.item())
        return model(x, sigma)

    with_function(monkeypatch, spy)
    return seen


@pytest.mark.parametrize(
    ("grid", "rho", "expected"),
    [
        (["karras", "--rho", 5], 5.0, karras(4, 0.01, 50, 5.0)),
        (["karras"], 7.0, karras(4, 0.01, 50, 7.0)),
        (["geometric"], None, geometric(4, 0.01, 50)),
        (["iddpm"], None, iddpm(4, 0.01, 50)),
        (["uniform-t"], None, uniform_t(VP(t_min=VP().t(0.01).item(), t_max=VP().t(50).item()), 4)),
        (["geometric", "--sigma-max", 5], None, geometric(4, 0.01, 5)),
    ],
)
def test_the_noise_levels_may_be_spread_otherwise(
    tmp_path: Path,
    cli: Cli,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    grid: list[object],
    rho: float | None,
    expected: torch.Tensor,
) -> None:
    seen = levels_of(monkeypatch)
    arguments = ("sample", model, "--sampler", "ancestral", "--n", 1, "--out", tmp_path / "a.npz")
    assert cli(*arguments, "--steps", 4, "--grid", *grid).err == ""
    assert seen == pytest.approx(expected.tolist(), rel=1e-6)
    with np.load(tmp_path / "a.npz") as file:
        settings = json.loads(file["settings"].item())
    assert (settings["grid"], settings.get("rho"), settings["steps"]) == (grid[0], rho, 4)


def test_the_noise_levels_may_be_listed(tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = levels_of(monkeypatch)
    arguments = ("sample", model, "--sampler", "ancestral", "--n", 1, "--out", tmp_path / "f")
    assert cli(*arguments, "--grid", "50,10,2,0.5,0").err == ""
    assert seen == [50, 10, 2, 0.5]
    settings = json.loads((tmp_path / "f" / "settings.json").read_text())
    assert (settings["grid"], settings["steps"]) == ([50, 10, 2, 0.5, 0], 4)
    assert (
        cli(*arguments, "--grid", "50,10,2,0.5,0")
        .out.splitlines()[-1]
        .startswith("nothing is left to draw, all samples are in ")
    )


USELESS: dict[str, list[object]] = {
    "--snr: does nothing in sampler 'pc' with corrector = none": ["--corrector", "none", "--snr", 0.2],
    "--form: does nothing in sampler 'pc' with preconditioner = none": ["--form", "paper"],
    "--pixel: there is no preconditioner": ["--pixel"],
    "--pixel: there is": ["--no-pixel"],
    "--warmup: does nothing in sampler 'unipc' with p = 1": ["--sampler", "unipc", "--p", 1, "--warmup", "runge-kutta"],
    "--b: does nothing in sampler 'unipc' with p = 1 and no corrector, which is DDIM": [
        *("--sampler", "unipc", "--p", 1, "--no-corrector", "--b", "bh1")
    ],
    "--schedule: does nothing in sampler 'plms' with variant = plms and levels that are given": [
        *("--sampler", "plms", "--grid", "karras", "--schedule", "cosine")
    ],
    "--denoise: does nothing in sampler 'ald' with levels that do not end in 0": [
        *("--sampler", "ald", "--grid", "20,5,1", "--no-denoise")
    ],
}


@pytest.mark.parametrize("expected", USELESS)
def test_options_that_would_do_nothing_are_refused(
    tmp_path: Path, refused: Refused, model: Path, expected: str
) -> None:
    assert expected in refused("sample", model, *PC, "--out", tmp_path / "a.png", *USELESS[expected])
    assert not list(tmp_path.iterdir())


BAD: dict[str, list[object]] = {
    "--n: 0 samples asked for": ["--n", 0],
    "--n: -2 samples asked for": ["--n", -2],
    "steps: 0 is not a positive": ["--steps", 0],
    "steps: -1 is not a positive": ["--steps", -1],
    "--batch-size: 0 is not a positive": ["--batch-size", 0],
    "seeds: -1 is not": ["--seed", -1],
    "alpha: 0.5 given; it must be at least 1": ["--alpha", 0.5],
    "alpha: nan given": ["--alpha", "nan"],
    "alpha: 'strong' given; a number, at least 1, or auto is needed": ["--alpha", "strong"],
    "--alpha: is chosen for predictor-corrector samplers only": ["--alpha", "auto", "--sampler", "ald"],
    "snr: -1.0 is not positive": ["--snr", -1],
    "'pcc'; did you mean pc": ["--sampler", "pcc"],
    "'ancestrl'; did you mean ancestral?": ["--predictor", "ancestrl"],
    "dtype: unknown value 'float31'; did you mean float32": ["--dtype", "float31"],
    "--snr: 'many' given; a number is needed": ["--snr", "many"],
    "--corrector-steps: '1.5' given; a whole number is needed": ["--corrector-steps", "1.5"],
    "--snr: its value is missing; a number is needed": ["--snr"],
    "--no-precondition-prior: takes no value": ["--no-precondition-prior=1"],
    "--snrr: sampler 'pc' has no such option; did you mean --snr": ["--snrr", 0.1],
    "--stepz: sampler 'pc' has no such option; did you mean --steps": ["--stepz=3"],
    "--level-steps: sampler 'pc' has no such option": ["--level-steps", 3],
    "grid: 'karas' given; it may be karras, geometric": ["--grid", "karas"],
    "grid: '5,x' given": ["--grid", "5,x"],
    "must decrease, but level 0 is 5 and level 1 is 5": ["--grid", "5,5,0"],
    "must decrease, but level 1 is 1 and level 2 is 2": ["--grid", "5,1,2"],
    "grid: level 2 is negative": ["--grid", "5,1,-1"],
    "grid: level 1 is not a finite number": ["--grid", "5,nan"],
    "a row of at least two noise levels": ["--grid", "5"],
    "grid: level 60 asked for, the model knows noise from 0.01 to 50": ["--grid", "60,1,0"],
    "grid: level 0.001 asked for, the model": ["--grid", "5,0.001,0"],
    "steps and grid: give one of them": ["--grid", "5,1,0", "--steps", 2],
    "--sigma-min, --sigma-max: do nothing beside a list": ["--grid", "5,1,0", "--sigma-max", 20],
    "--rho: belongs to grid karras": ["--rho", 5],
    "--basis: sampler 'pc' cannot use a reference": ["--basis", "pixel"],
    "rho: -1.0 is not a positive number": ["--grid", "karras", "--rho", -1],
    "levels asked for, but only": ["--grid", "iddpm", "--steps", 5000],
    "device: 'gpu9' cannot be used": ["--device", "gpu9"],
    "nothing.safetensors: no such file, and no shipped": ["--statistics", "nothing.safetensors"],
    "'dpm-solver-4'; did you mean dpm-solver-3": ["--sampler", "dpm-solver-4"],
    "order: 5 is neither 1 (Euler) nor 2": ["--sampler", "edm-stochastic", "--order", 5],
    "p: 4 is not one of 1, 2, 3": ["--sampler", "unipc", "--p", 4],
    "degree: -1 is not one of 0, 1, 2, 3": ["--sampler", "deis-tab", "--degree", -1],
    "(0.7, 0.3) given; 0 < r1 < r2 < 1 is needed": ["--sampler", "seeds-3", "--r1", 0.7, "--r2", 0.3],
    "(0.5, 1.0) given; 0 < r1 < r2 < 1 is needed": ["--sampler", "p-seeds-3", "--r1", 0.5, "--r2", 1],
    "(0.0,) given; 0 < r1 < r2 < 1 is needed": ["--sampler", "dpm-solver-2", "--r1", 0],
    "--r2: sampler 'seeds-2' has no such option; name a sampler that has": ["--sampler", "seeds-2", "--r2", 0.5],
    "l: 2.0 is not between 0": ["--sampler", "seeds-2", "--l", 2],
    "steps: 2 given, but order 3 needs at least 3": ["--sampler", "unipc", "--steps", 2],
    "steps: 3 given, but f-pndm needs at least 4": ["--sampler", "pndm", "--steps", 3],
    "steps: 3 given, but degree 3 needs at least 4": ["--sampler", "deis-tab", "--grid", "20,5,1,0"],
    "steps: 2 given; this solver of order 3 needs at least 3": ["--sampler", "p-ode-3m", "--steps", 2],
    "steps: 1 given; this solver of order 2 needs at least 2, since the last one, to zero noise, is of order 1": [
        "--sampler",
        "dpm-solver-2",
        "--steps",
        1,
    ],
    "prediction='gaussian' needs one; p-ode-1": ["--sampler", "seeds-1", "--prediction", "gaussian"],
    "--sigma-data: prediction='noise' does not use it": ["--sampler", "seeds-1", "--sigma-data", 0.3],
    "rtol: 0.0 is not a positive number": ["--sampler", "ode-rk45", "--rtol", 0],
    "tolerance: rtol = 1e-12, atol = 1e-12 not met for 16 samples": [
        *("--sampler", "ode-rk45", "--rtol", 1e-12, "--atol", 1e-12, "--max-calls", 20)
    ],
    "tolerance: eps_rel = 1e-09, eps_abs = 1e-09 not met for 16 samples": [
        *("--sampler", "ggf", "--eps-rel", 1e-9, "--eps-abs", 1e-9, "--max-calls", 20)
    ],
}


@pytest.mark.parametrize(("k", "expected"), enumerate(BAD))
def test_bad_options(tmp_path: Path, refused: Refused, shipped: str, k: int, expected: str) -> None:
    out = ("a.png", "a.npz", "folder")[k % 3]
    assert expected in refused("sample", shipped, *PC, "--out", tmp_path / out, *BAD[expected])
    assert not list(tmp_path.iterdir())


def test_unknown_models_name_the_near_ones(tmp_path: Path, refused: Refused, shipped: str) -> None:
    message = refused("sample", "mnist-v", "--out", tmp_path / "a.png")
    assert "mnist-v: no such file, and no shipped model; did you mean mnist-ve?" in message


def test_alpha_needs_statistics(tmp_path: Path, refused: Refused, model: Path) -> None:
    for options in (["--alpha", 3, *PC], ["--sampler", "pds"]):
        message = refused("sample", model, "--out", tmp_path / "a.png", *options)
        assert message.startswith(f"prescore: error: {options[0]}: tiny comes without statistics")


def test_statistics_of_another_shape(tmp_path: Path, refused: Refused, model: Path) -> None:
    data = torch.rand(9, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    prescore.save_statistics(prescore.calibrate(data), tmp_path / "s")
    message = refused("sample", model, *PC, "--statistics", tmp_path / "s", "--alpha", 3, "--out", tmp_path / "f")
    assert "events of shape (1, 8, 12), the model's have (1, 8, 8)" in message
    assert "(1, 8, 12)" in message
    assert "(1, 8, 8)" in message
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_damaged_and_newer_statistics(tmp_path: Path, refused: Refused, model: Path, statistics: Path) -> None:
    (tmp_path / "cut").write_bytes(statistics.read_bytes()[:-20])
    with safe_open(statistics, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        save_file(tensors, tmp_path / "new", file.metadata() | {"format_version": "99"})
    for name, expected in (("cut", "not a whole safetensors file"), ("new", "format version 99")):
        message = refused("sample", model, *PC, "--statistics", tmp_path / name, "--out", tmp_path / "a.png")
        assert expected in message
        assert name in message
    assert {p.name for p in tmp_path.iterdir()} == {"cut", "new"}


def test_unwritable_paths_are_refused_before_sampling(
    tmp_path: Path, refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prescore, "sample", lambda *_, **__: pytest.fail("it sampled"))
    (tmp_path / "file").write_text("")
    for out in ("none/a.png", "none/a.npz", "file/a.png", "file/a.npz", "file/f", "a.jpg", "a.pt"):
        assert str(tmp_path / out) in refused("sample", model, "--out", tmp_path / out)
    assert str(tmp_path / "file") in refused("sample", model, "--out", tmp_path / "file" / "f" / "g")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", ["a.png", "a.npz", "folder"])
def test_a_model_that_returns_nan_or_a_wrong_shape(
    tmp_path: Path, refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    arguments = ("sample", model, "--sampler", "reverse-diffusion", "--steps", 3, "--n", 2, "--out", tmp_path / out)
    with_function(monkeypatch, lambda model, x, sigma: model(x, sigma) / (sigma > 1))
    message = refused(*arguments)
    assert "not finite at step 2 of 3 (sigma = 0.7071)" in message
    with_function(monkeypatch, lambda model, x, sigma: model(x, sigma)[..., 1:])
    assert "returned (2, 1, 8, 7) instead of shape (2, 1, 8, 8) at step 1 of 3 (sigma = 50)" in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "p-fit"])  # no weights for so many steps
def test_no_sampler_writes_what_a_model_of_nan_makes(
    tmp_path: Path, refused: Refused, shipped: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with_function(monkeypatch, lambda model, x, sigma: model(x, sigma) * float("nan"))
    message = refused("sample", shipped, "--sampler", name, "--n", 2, "--out", tmp_path / "folder")
    assert re.search(r"the output of the model is not finite at step 1 of \d+ \(sigma = 50\)", message)
    assert not list(tmp_path.iterdir())


def test_too_little_memory_names_the_batch_size(
    tmp_path: Path, refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    with_function(monkeypatch, exhaust)
    assert "--batch-size: 16 samples do not fit" in refused("sample", model, "--out", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_what_a_network_raises_is_one_line(
    tmp_path: Path, refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if sigma < 1:
            raise error
        return model(x, sigma)

    with_function(monkeypatch, fail)
    for error in (RuntimeError("sizes\ndo not match"), TypeError("forward() misses y"), AssertionError(), KeyError(3)):
        message = refused("sample", model, *PC, "--steps", 3, "--out", tmp_path / "f")
        assert "the model failed at step 2 of 3 (sigma = 0.7071): " + type(error).__name__ in message
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")
    assert "--batch-size: 16 samples do not fit" in refused("sample", model, *PC, "--steps", 3, "--out", tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_samples_that_are_no_pictures_go_into_arrays_only(
    tmp_path: Path, cli: Cli, refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_function(monkeypatch, lambda model, x, sigma: x / (1 + sigma**2), event_shape=(2, 5, 8))
    for out in ("a.png", "folder"):
        assert "samples of shape (2, 5, 8)" in refused("sample", model, "--n", 3, "--out", tmp_path / out)
    assert cli("sample", model, "--n", 3, "--out", tmp_path / "a.npz").code == 0
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (3, 5, 8, 2)


def interrupted_at(call: int) -> Callable[..., torch.Tensor]:
    """A model that receives Ctrl-C in this call."""
    calls = 0

    def function(model: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return model(x, sigma)

    return function


@pytest.mark.parametrize("out", ["a.png", "a.npz"])
def test_ctrl_c_writes_no_file(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    with_function(monkeypatch, interrupted_at(5))
    code, _, err = cli("sample", model, *PC, "--steps", 3, "--n", 5, "--batch-size", 2, "--out", tmp_path / out)
    assert (code, err) == (130, f"prescore: error: interrupted: nothing is written to {tmp_path / out}\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_finished_samples_and_the_same_command_goes_on(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("sample", model, *PC, "--steps", 3, "--n", 5, "--batch-size", 2)
    assert cli(*arguments, "--out", tmp_path / "whole").code == 0
    with_function(monkeypatch, interrupted_at(8))  # in the second batch
    code, _, err = cli(*arguments, "--out", tmp_path / "f")
    assert code == 130
    assert err == (
        f"prescore: error: interrupted: 2 of 5 samples are in {tmp_path / 'f'}, the same command draws the others\n"
    )
    assert sorted(os.listdir(tmp_path / "f")) == ["000000.png", "000001.png", "settings.json"]
    assert cli(*arguments, "--out", tmp_path / "f").out.splitlines()[-1].startswith("12 network calls")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "f" / path.name).read_bytes() == path.read_bytes()


def test_ctrl_c_while_a_picture_is_written_leaves_no_half_of_it(
    tmp_path: Path, cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, fsync = 0, os.fsync

    def interrupt(handle: int) -> None:
        nonlocal writes
        writes += 1
        if writes == 4:  # settings, two samples, and this one
            signal.raise_signal(signal.SIGINT)
        fsync(handle)

    monkeypatch.setattr("prescore.files.os.fsync", interrupt)
    assert cli("sample", model, *PC, "--steps", 2, "--n", 5, "--out", tmp_path / "f").code == 130
    assert sorted(os.listdir(tmp_path / "f")) == ["000000.png", "000001.png", "settings.json"]
    assert all(read(tmp_path / "f" / name).shape == (8, 8) for name in ("000000.png", "000001.png"))


def test_a_model_without_its_mean_is_drawn_as_in_python(
    tmp_path: Path, cli: Cli, model: Path, statistics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With statistics of data that have it."""
    stored = read_model(model)
    description = replace(stored.description, data_mean_removed=True, name="centred")
    save_model(tmp_path / "m.safetensors", description, stored.state)
    for name in ("p-ode-2m", "pds"):
        arguments = ("--sampler", name, "--steps", 3, "--statistics", statistics, "--n", 2, "--float")
        assert cli("sample", tmp_path / "m.safetensors", *arguments, "--out", tmp_path / "a.npz").code == 0
        own = prescore.load(tmp_path / "m.safetensors")
        images = prescore.draw(own, 2, sampler=name, steps=3, statistics=statistics, progress=False)
        with np.load(tmp_path / "a.npz") as file:
            assert np.array_equal(file["images"], images.float().numpy().transpose(0, 2, 3, 1))


def test_a_network_that_cannot_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, model: Path
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def fail(*_: object, **__: object) -> None:
        raise TorchDynamoException("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(prescore.Plan, "sample", fail)
    message = refused("sample", model, *PC, "--steps", 2, "--out", tmp_path / "a.npz", "--compile")
    assert "--compile: the network cannot be compiled here (No working C++ compiler found); leave it out" in message


def test_the_states_along_the_trajectory(tmp_path: Path, cli: Cli, refused: Refused, model: Path) -> None:
    file, folder = tmp_path / "states.npy", tmp_path / "out"
    words = ("sample", model, *PC, "--steps", 3, "--n", 5, "--seed", 2, "--batch-size", 2, "--trajectory", file)
    assert cli(*words, "--out", folder).code == 0
    conditioning, states = Conditioning(), []

    def keep(progress: Progress) -> None:
        conditioning(progress)
        states.append(progress.x.float())

    sampler = prescore.make_sampler("pc", steps=3)
    prescore.sample(prescore.load(model), sampler, seeds=range(2, 7), callback=keep, progress=False)
    assert np.allclose(np.load(file), torch.stack(states).numpy(), rtol=1e-4, atol=1e-4)
    np.save(tmp_path / "data.npy", np.zeros((9, 8, 8), np.uint8))
    given: tuple[object, ...] = ("evaluate", folder, "--reference", tmp_path / "data.npy", "--features", "pixels")
    given += ("--metrics", "pixel-mean")
    code, out, _ = cli(*given, "--trajectory", file, "--floor", "--json", tmp_path / "result.json")
    assert code == 0
    found = json.loads((tmp_path / "result.json").read_text())["trajectory"]
    assert {name: found[name] for name in CONDITIONING} == pytest.approx(conditioning.values, rel=1e-5)
    assert (found["steps"], found["n"], found["path"]) == (3, 5, str(file))
    assert re.search(rf"^V_coo +{re.escape(format(found['V_coo'], '.4g'))} +lower$", out, re.MULTILINE)
    assert f"--trajectory: {folder} holds samples, which are not drawn again" in refused(*words, "--out", folder)
    assert "an .npy file is written" in refused(*words[:-1], tmp_path / "a.npz", "--out", tmp_path / "b")
    for name, values, message in (
        ("flat", np.zeros((3, 4)), "holds float64 values of shape (3, 4); floating point (T, n, ...) is needed"),
        ("bytes", np.zeros((3, 4, 5), np.uint8), "holds uint8 values"),
        ("nan", np.full((3, 4, 5), np.nan), "has values that are not finite"),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        assert message in refused(*given, "--trajectory", tmp_path / f"{name}.npy")


def test_a_share_without_samples_writes_nothing(cli: Cli, model: Path, tmp_path: Path) -> None:
    done = cli("sample", model, "--sampler", "ddim", "--steps", 2, "--n", 2, "--shard", "3/3", "--out", tmp_path / "q")
    assert done.code == 0
    last = "nothing is left to draw of share 3/3, nothing is written, other shares are still to be drawn"
    assert done.out.splitlines()[-1] == last
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_settings_that_are_no_file_are_refused(refused: Refused, model: Path, tmp_path: Path, kind: str) -> None:
    """A named pipe would be waited for for ever."""
    place = tmp_path / "q" / "settings.json"
    (tmp_path / "q").mkdir()
    os.mkfifo(place) if kind == "pipe" else place.mkdir()
    for command in (["sample", model, "--sampler", "ddim", "--steps", 2], ["compare", model, "--samplers", "ddim"]):
        more = ["--calls", 2] if command[0] == "compare" else []
        message = refused(*command, *more, "--n", 2, "--out", tmp_path / "q")
        assert f"{place}: cannot be read; choose another folder" in message
