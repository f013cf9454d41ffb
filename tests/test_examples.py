"""The scripts of examples/ run where the package that each is for is installed."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples"
LONGEST = 60  # lines


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_it_is_short(script):
    assert len(script.read_text().splitlines()) < LONGEST


def test_diffusers(tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    pictures = example("diffusers_pipeline").main()
    assert pictures.shape == (2, 3, 8, 8)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pipeline.png",
        "preconditioned.png",
        "latents.statistics.safetensors",
    }


def test_k_diffusion():
    errors = example("k_diffusion_model").main()
    assert errors["p-ode-3m"] < 0.6 * errors["dpmpp-2m"] < 0.6 * errors["edm-euler"]


def test_flow_matching():
    module = example("flow_matching")
    x, data = module.main(steps=800), module.moons(2000, torch.Generator().manual_seed(1))
    assert (x.mean(0) - data.mean(0)).abs().max() < 0.15
    assert (x.std(0) / data.std(0) - 1).abs().max() < 0.15
