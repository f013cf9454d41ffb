"""`prescore info` shows what a file holds, and says in one line what it cannot read."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import prescore
from prescore.checkpoints.python import open_python
from prescore.cli.info import _deviation, describe_extras, describe_statistics
from prescore.cli.plots import _map
from prescore.gaussian import error_share
from prescore.statistics import ModelStatistics, Shrinkage


def value(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(name)).removeprefix(name).strip()


def test_statistics(cli: Callable[..., Any], statistics: Path) -> None:
    code, out, err = cli("info", statistics)
    assert (code, err) == (0, "")
    stats = prescore.load_statistics(statistics)
    assert value(out, "statistics of") == "50 samples"
    assert value(out, "event shape") == "1 x 8 x 8"
    assert value(out, "data range") == "0 to 1"
    assert value(out, "values found") == f"{stats.moments.minimum:.4g} to {stats.moments.maximum:.4g}"
    zero = f"{stats.moments.power[0, 0, 0].item():.4g}"
    assert value(out, "mean  ").startswith(f"{stats.moments.mean.mean().item():.4g}")
    assert any(line.split()[:3] == ["mean", "0", zero] for line in out.splitlines())
    weight = prescore.frequency_preconditioner(stats, 2).largest_gain((1, 8, 8))
    assert any(line.split()[:2] == ["2", f"{weight:.4g}"] for line in out.splitlines())


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 3), (1, 1, 1), (3, 1, 1), (1, 1, 2), (1, 2, 1)])
def test_events_of_few_numbers_have_few_frequencies(shape: tuple[int, ...]) -> None:
    """Each named once."""
    data = torch.rand(9, *shape, generator=torch.Generator().manual_seed(0))
    table = describe_statistics(prescore.calibrate(data)).split("\n\n")[1]
    names = [line.split()[0] for line in table.splitlines()[1:]]
    assert names == ["mean", "low", "mid", "high"][: 1 + max(shape[1:]) // 2]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_vectors_are_shown_number_by_number(cli: Callable[..., Any], tmp_path: Path, count: int) -> None:
    """Spectra say nothing about them; of many those of the largest and smallest deviation."""
    scales = torch.logspace(-3, 3, count) if count > 1 else torch.ones(1)
    data = scales * torch.randn(200, count, generator=torch.Generator().manual_seed(0))
    prescore.save_statistics(prescore.calibrate(data), tmp_path / "s.safetensors")
    code, out, err = cli("info", tmp_path / "s.safetensors")
    assert (code, err) == (0, "")
    assert value(out, "data range") == "not known"
    assert "frequency" not in out
    lines = out.partition("deviation\n")[2].partition("\n\n")[0].splitlines()
    shown = [int(line.split()[0]) for line in lines]
    assert shown == (list(range(count)) if count < 20 else [*range(10), *range(40, 50)])
    deviation = (data.double().var(0, correction=0)).sqrt()
    assert lines[-1].split()[2] == f"{deviation[-1].item():.4g}"


CODE = """
from prescore import Denoiser

def make():
    return Denoiser(lambda x, sigma: x / (1 + sigma**2), (2, 8), 0.01, 30.0, name="mine")

def wrong():
    return 5

def fails():
    raise RuntimeError("no network\\nhere")
"""


def test_python_code_of_the_user(
    cli: Callable[..., Any], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_code_of_a_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    name = "own_code_of_a_test:make"
    code, out, err = cli("info", name)
    assert (code, err) == (0, "")
    assert "Python code of your own" in value(out, "model")
    assert value(out, "event shape") == "2 x 8"
    assert value(out, "data range") == "not known"
    path = list(sys.path)
    assert cli("sample", name, "--sampler", "ddim", "--steps", 3, "--n", 4, "--out", "x.npz").code == 0
    assert cli("calibrate", "x.npz", "--model", name, "--trajectories", 0, "--out", "s.safetensors").code == 0
    assert cli("calibrate", "--from-model", name, "--n", 8, "--trajectories", 0, "--out", "t.safetensors").code == 0
    assert cli("evaluate", "x.npz", "--reference", "x.npz", "--features", "pixels").code == 0
    assert sys.path == path
    with np.load("x.npz") as stored:
        assert (stored["samples"].shape, str(stored["layout"])) == ((4, 2, 8), "NCL")
    assert "returned a int; a prescore.Denoiser is needed" in refused("info", "own_code_of_a_test:wrong")
    assert "cannot be had (RuntimeError: no network here)" in refused("info", "own_code_of_a_test:fails")
    assert "cannot be had (AttributeError" in refused("info", "own_code_of_a_test:nothing")
    assert "No module named 'nowhere_at_all'" in refused("info", "nowhere_at_all:make")
    assert "--dtype: own_code" in refused("sample", name, "--dtype", "float16", "--out", "y.npz")
    assert "--class: the model is Python code" in refused("sample", name, "--class", "1", "--out", "y.npz")
    assert "not grey or RGB pictures" in refused("sample", name, "--out", "y.png")
    Path(name).write_text("a file goes before")
    assert "starts with" in refused("info", name)
    assert "no such" in refused("info", "a path:with a colon").lower()


def test_a_model_without_a_name_is_called_so() -> None:
    data = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = prescore.Denoiser(lambda x, sigma: x / (1 + sigma**2), (1, 4, 4), 0.01, 50.0)
    texts = describe_extras(
        prescore.calibrate(data, model=model, trajectories=2, tries=1, levels=3, calls=[5], fitted=2)
    )
    titles = [text.splitlines()[0] for text in texts]
    assert (
        titles[-1]
        == "error of the state, weights fitted to 2 samples of a model without a name, p-fit on such as were held out"
    )
    assert titles[:2] == [
        "score of a model without a name on 9 samples",
        "steps of solvers on 2 samples of a model without a name, for --grid auto",
    ]


def test_components_and_the_score_are_shown_where_they_are(
    tmp_path: Path, cli: Callable[..., Any], statistics: Path
) -> None:
    stats, out = prescore.load_statistics(statistics), cli("info", statistics).out
    variances = stats.moments.component_variances
    assert value(out, "principal components") == "9"
    assert value(out, "their variances") == f"{variances[0]:.4g} to {variances[-1]:.4g}"
    total = (stats.moments.mean_square - stats.moments.mean**2).sum()
    assert value(out, "share of all variance") == f"{(variances.sum() / total).item():.1%}"
    assert "on 50 samples\n" in out
    table, _, doubt = out[out.index("deviation of x0") :].partition("warning: at no noise level")
    assert "the network know more than the Gaussian model of the data" in doubt
    rows = [line.split() for line in table.splitlines()[1:] if not line.startswith("by the score 0")]
    score = stats.model.score
    assert [row[0] for row in rows] == [f"{sigma:.4g}" for sigma in score.levels.tolist()]
    by_residual = (score.levels**2 * score.residual_square.clamp(max=1)).sqrt().tolist()
    assert [float(row[2]) for row in rows] == pytest.approx(by_residual, rel=1e-3)
    exact, chance = score.levels**2 * (1 - score.score_square), score.chance(64)
    shown = torch.tensor([float(row[1]) for row in rows], dtype=torch.float64)
    assert (shown == 0).tolist() == (exact <= chance).tolist()
    told = shown > 0
    # Half of the last place that is shown, which is at most the standard error, or that of three digits.
    near = 0.5 * torch.maximum(chance / (2 * exact.clamp(min=0).sqrt()), 0.01 * shown)
    assert ((shown - exact.clamp(min=0).sqrt()).abs() <= near)[told].all()
    assert ("\nby the score 0: no more than chance" in out) == (not told.all())
    shares = error_share(stats).shares.tolist()
    assert [float(row[3].removesuffix("%")) for row in rows] == pytest.approx([100 * s for s in shares], abs=0.051)
    guided = replace(stats, model=replace(stats.model, guidance=2.5))
    prescore.save_statistics(guided, tmp_path / "guided")
    assert "on 50 samples, with guidance 2.5\n" in cli("info", tmp_path / "guided").out
    prescore.save_statistics(
        replace(
            stats, moments=replace(stats.moments, components=None, component_variances=None), model=ModelStatistics()
        ),
        tmp_path / "s",
    )
    out = cli("info", tmp_path / "s").out
    assert "largest weight" in out
    assert "principal" not in out
    assert "noise level" not in out


def test_what_chance_leaves_of_a_deviation() -> None:
    assert [_deviation(0.1537**2, 2 * 0.1537 * error) for error in (0.004, 0.02, 0.0)] == [0.154, 0.15, 0.154]
    assert [_deviation(variance, 0.01) for variance in (0.009, -1.0, 1e-12)] == [0, 0, 0]


def test_a_model(cli: Callable[..., Any], model: Path) -> None:
    code, out, err = cli("info", model)
    assert (code, err) == (0, "")
    assert value(out, "network").startswith("SongUNet")
    with safe_open(model, "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a mapping
    assert value(out, "parameters").startswith(f"{parameters:,} ")
    assert value(out, "noise range") == "0.01 to 50"
    assert value(out, "event shape") == "1 x 8 x 8"
    assert value(out, "training steps") == "0"


def test_a_shipped_model_shows_its_statistics_too(cli: Callable[..., Any], shipped: str) -> None:
    out = cli("info", shipped).out
    assert "SongUNet" in out
    assert "50 samples" in out


def test_the_picture_shows_something(
    tmp_path: Path, cli: Callable[..., Any], statistics: Path, refused: Callable[..., str], model: Path
) -> None:
    assert cli("info", statistics, "--plot", tmp_path / "a.png").code == 0
    pixels = np.array(Image.open(tmp_path / "a.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert "only statistics have a picture" in refused("info", model, "--plot", tmp_path / "b.png")
    assert str(tmp_path / "no" / "b.png") in refused("info", statistics, "--plot", tmp_path / "no" / "b.png")


def test_spectra_over_one_axis_have_no_map(tmp_path: Path, refused: Callable[..., str]) -> None:
    signals = torch.rand(9, 1, 16, generator=torch.Generator().manual_seed(0))
    prescore.save_statistics(prescore.calibrate(signals), tmp_path / "s")
    assert "over 2 axes" in refused("info", tmp_path / "s", "--plot", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 5), (5, 6)])
def test_the_map_is_the_full_spectrum(shape: tuple[int, int]) -> None:
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half, full = torch.fft.rfft2(x).abs() ** 2, torch.fft.fft2(x).abs() ** 2
    torch.testing.assert_close(_map(half, shape[-1]), torch.fft.fftshift(full.mean(0)))


def test_files_that_are_neither(tmp_path: Path, refused: Callable[..., str], statistics: Path, model: Path) -> None:
    assert "mnist-vf: no such file, and no shipped model" in refused("info", "mnist-vf")
    for source in (statistics, model):
        whole = source.read_bytes()
        for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / "cut").write_bytes(whole[:length])
            assert str(tmp_path / "cut") in refused("info", tmp_path / "cut")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "not a statistics file" in refused("info", tmp_path / "other.safetensors")


def test_a_newer_version_is_named(tmp_path: Path, refused: Callable[..., str], statistics: Path) -> None:
    with safe_open(statistics, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = file.metadata() | {"format_version": "99"}
    save_file(tensors, tmp_path / "new", metadata)
    assert "format version 99" in refused("info", tmp_path / "new")


def test_what_a_file_calls_its_model_is_spelled(cli: Callable[..., Any], statistics: Path, tmp_path: Path) -> None:
    found = prescore.load_statistics(statistics)
    assert found.model.score is not None
    score = replace(found.model.score, model="\x1b[31mred")
    prescore.save_statistics(replace(found, model=replace(found.model, score=score)), tmp_path / "s")
    out = cli("info", tmp_path / "s").out
    assert "score of \\x1b[31mred on" in out
    assert "\x1b" not in out


def test_pictures_of_a_model_without_a_range_are_scaled_by_what_was_found(
    cli: Callable[..., Any], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from prescore import Denoiser\n\ndef make():\n"
    code += "    return Denoiser(lambda x, sigma: 7 + (x - 7) * 4 / (4 + sigma**2), (1, 4, 4), 0.01, 90.0)\n"
    (tmp_path / "own_pictures_of_a_test.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    name = "own_pictures_of_a_test:make"
    words = ("sample", name, "--sampler", "p-ode-2m", "--steps", 5, "--n", 4)
    assert cli("calibrate", "--from-model", name, "--n", 32, "--trajectories", 0, "--out", "s.safetensors").code == 0
    assert cli(*words, "--statistics", "s.safetensors", "--out", "x.png").code == 0
    moments = prescore.load_statistics("s.safetensors").moments
    x = prescore.draw(open_python(name), n=4, sampler="p-ode-2m", steps=5, statistics="s.safetensors", progress=False)
    sheet = np.asarray(Image.open("x.png"))
    unit = ((x[0, 0] - moments.minimum) / (moments.maximum - moments.minimum)).clamp(0, 1)
    assert np.abs(sheet[:4, :4] / 255 - unit.numpy()).max() < 0.003
    assert "knows no range of values" in refused("sample", name, "--sampler", "ddim", "--steps", 5, "--out", "y.png")
    assert cli("sample", name, "--sampler", "ddim", "--steps", 5, "--n", 2, "--out", "y.npz").code == 0
    with np.load("y.npz") as stored:
        assert (stored["images"].dtype, stored["images"].shape) == (np.float32, (2, 4, 4, 1))


def test_how_a_bad_network_is_shrunk() -> None:
    data = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    known = Shrinkage(
        levels=torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64),
        edges=torch.tensor([0.2], dtype=torch.float64),
        weights=torch.tensor([[0.25, 0.0], [1.0, 0.5], [1.0, 1.0]], dtype=torch.float64),
    )
    statistics = replace(prescore.calibrate(data), model=ModelStatistics(shrinkage=known))
    (text,) = (text for text in describe_extras(statistics) if "uses of the network" in text)
    assert text.startswith("what auto uses of the network, from noise 3 down")
    assert [line.split()[-2:] for line in text.splitlines()[-2:]] == [["0.25", "0"], ["1", "0.5"]]
