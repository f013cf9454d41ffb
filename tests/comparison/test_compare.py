"""Samplers beside each other, in Python, as the command line has it."""

import json

import numpy as np
import pytest
import torch

import prescore
from prescore import Denoiser, PrescoreError
from prescore.cli import main

CODE = """
import torch
from prescore import Denoiser

VARIANCE = torch.tensor([1.0, 4.0, 0.25])


def vectors():
    return Denoiser(lambda x, sigma: x * VARIANCE / (VARIANCE + sigma**2), (3,), 0.01, 30.0)


def signals():
    return Denoiser(lambda x, sigma: x / (1 + sigma**2), (2, 8), 0.01, 30.0)


def pictures():
    return Denoiser(lambda x, sigma: 0.5 + (x - 0.5) / (1 + 25 * sigma**2), (3, 4, 4), 0.01, 30.0, data_range=(0, 1))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module `own_models_of_a_test` in the current folder, and what it makes."""
    (tmp_path / "own_models_of_a_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(CODE, names)
    return names


@pytest.mark.parametrize("kind", ["vectors", "signals", "pictures"])
def test_python_and_the_command_line_agree(own, tmp_path, kind):
    model = own[kind]()
    true = torch.rand(60, *model.event_shape, generator=torch.Generator().manual_seed(0))
    np.save("true.npy", true.numpy())
    layout = {"vectors": "NC", "signals": "NCL", "pictures": "NCHW"}[kind]
    words = [
        "compare",
        f"own_models_of_a_test:{kind}",
        "--samplers",
        "ddim,dpmpp-2m@karras",
        "--calls",
        "4,6",
        "--n",
        "20",
    ]
    words += ["--reference", "true.npy", "--layout", layout, "--out", "out", "--metrics", "frechet,pixel-mean"]
    assert main(words) == 0
    command = json.loads((tmp_path / "out" / "results.json").read_text())
    found = prescore.compare(
        model, "ddim,dpmpp-2m@karras", [4, 6], n=20, reference=true, metrics=["frechet", "pixel-mean"]
    )
    assert [run.sampler for run in found.runs] == ["ddim", "dpmpp-2m@karras"] * 2
    for run, other in zip(found.runs, command["runs"], strict=True):
        assert (run.calls, run.steps) == (other["calls"], other["steps"])
        assert dict(run.metrics) == pytest.approx(other["metrics"], rel=1e-5)
        assert dict(run.errors) == pytest.approx(other["errors"], rel=1e-3)
        assert all(error > 0 for error in run.errors.values())
        assert run.samples.shape == (20, *model.event_shape)
    assert dict(found.floor) == pytest.approx(command["reference"]["floor"], rel=1e-5)
    assert dict(found.floor_errors) == pytest.approx(command["reference"]["floor_errors"], rel=1e-3)
    assert "true samples" in repr(found)
    assert " ± " in repr(found)
    best = found.best("frechet", 4)
    assert min(found.runs[:2], key=lambda run: run.metrics["frechet"]) in best
    with pytest.raises(PrescoreError, match="metric: unknown value 'frchet'; did you mean frechet"):
        found.best("frchet", 4)
    page = (tmp_path / "out" / "report.html").read_text()
    assert ('id="pictures"' in page) == (kind == "pictures")
    with np.load(tmp_path / "out" / "runs" / "ddim-4.npz") as stored:
        assert str(stored["layout"]) == {"vectors": "NC", "signals": "NCL", "pictures": "NHWC"}[kind]


def test_a_condition_of_one_row_is_for_all(own):
    def function(x, sigma, shift):
        return shift.reshape(-1, 1) + (x - shift.reshape(-1, 1)) / (1 + sigma**2)

    model = Denoiser(function, (3,), 0.01, 30.0)
    found = prescore.compare(model, ["ddim"], 8, n=12, batch_size=5, condition={"shift": [4.0]})
    each = prescore.compare(model, ["ddim"], 8, n=12, batch_size=5, condition={"shift": np.full(12, 4.0)})
    assert torch.equal(found.runs[0].samples, each.runs[0].samples)
    assert found.runs[0].samples.mean().item() == pytest.approx(4, abs=0.5)
    assert found.floor is None
    assert found.runs[0].metrics == {}


def test_a_start_is_that_of_all_that_do_not_say_their_own():
    model = Denoiser(lambda x, sigma: x / (1 + sigma**2), (3,), 0.01, 3.0)
    known = prescore.calibrate(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 5)
    names = ["ddim", "ddim[start=gaussian]"]
    plain, moved = prescore.compare(model, names, 4, n=4, statistics=known, start="noise").runs
    expected = prescore.draw(model, 4, sampler="ddim", calls=4, statistics=known, start="gaussian", progress=False)
    torch.testing.assert_close(moved.samples.double(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(plain.samples, moved.samples)


def test_what_fails_is_said():
    model = Denoiser(lambda x, sigma: x * float("nan"), (3,), 0.01, 30.0)
    (run,) = prescore.compare(model, "ddim", 5, n=4).runs
    assert "not finite" in run.failure
    assert run.samples is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "ddim", 5), "model: str given"),
        ((None, "nosuch", 5), "nosuch"),
        ((None, [], 5), "at least one of each"),
        ((None, "ddim", 0), "at least one of each"),
    ],
)
def test_bad_input(own, arguments, message):
    model, *rest = arguments
    with pytest.raises(PrescoreError, match=message):
        prescore.compare(own["vectors"]() if model is None else model, *rest)
