"""Benchmarks that are kept for other machines run here, small."""

import json
import math
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import frontier
import gpu
import literature
import numpy
import problems
import pytest
import scale
import torch

from prescore.grid import geometric
from prescore.noise import NoiseSource


def test_the_checks_for_a_gpu(tmp_path: Path) -> None:
    """On the CPU a model equals itself, and no scheduler of diffusers is faster than ours."""
    out, checks = tmp_path / "gpu.json", ["parity", "half", "batch", "copies"]
    assert gpu.main(["--device", "cpu", "--quick", "--checks", *checks, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["checks"]
    assert list(found) == checks
    assert found["parity"]["found"]["mnist-edm"]["largest"] == 0
    assert 0 < found["copies"]["found"]["share"] < 0.5


def test_a_check_that_fails_is_named_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.CHECKS, "half", lambda options: 1 / 0)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--checks", "half", "parity", "--out", str(out)]) == 1
    found = json.loads(out.read_text())["checks"]
    assert found["half"]["why"] == "ZeroDivisionError: division by zero"
    assert found["parity"]["passed"]


def test_memory_of_many_samples(tmp_path: Path) -> None:
    """More shards, and no more memory than the noise of a process."""
    scale.main(["memory", "--counts", "500", "3000", "--out", str(tmp_path / "scale.json")])
    rows = json.loads((tmp_path / "scale.json").read_text())["memory"]["rows"]
    assert [row["files"] for row in rows] == [3, 5]
    assert rows[1]["sample"] < 1.05 * rows[0]["sample"]


def diagonal(C: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The denoiser of N(1, C), coordinate by coordinate."""
    return lambda x, sigma: 1 + C / (C + sigma**2) * (x - 1)


def test_dpm_solver_v3_is_exact_on_independent_gaussians() -> None:
    """Its statistics are then l = sigma^2 / (C + sigma^2), and f a constant of the level, so that any step is exact."""
    C = torch.tensor([[0.01, 0.3, 4.0]], dtype=torch.float64)
    levels, denoise = geometric(97, 0.01, 20.0), diagonal(C)
    noise = NoiseSource(range(64), (1, 3))()
    states = torch.stack([1 + (C + sigma**2).sqrt() * noise for sigma in levels])
    known = literature.v3_coefficients(denoise, states, levels, torch.Generator().manual_seed(0))
    assert known.l[0] == pytest.approx(levels[0] ** 2 / (C + levels[0] ** 2))
    few = torch.cat([geometric(4, 0.01, 20.0)[:-1], torch.zeros(1)])
    for options in ({}, {"corrector": True}, {"pseudo": True, "corrector": True}):
        x = literature.dpm_solver_v3(denoise, few, states[0], known, **options)
        assert (x - states[-1]).abs().max() < 2e-3 * states[-1].std()


def test_er_sde_has_its_order() -> None:
    """Two: the first derivative of its expansion is a difference."""
    C = torch.tensor([[0.3, 4.0]], dtype=torch.float64)
    start = torch.tensor([[7.0, -3.0]], dtype=torch.float64)
    end = 1 + ((C + 0.1**2) / (C + 10.0**2)).sqrt() * (start - 1)
    errors = [
        (literature.er_sde(diagonal(C), geometric(n + 1, 0.1, 10.0), start, None, phi="ODE") - end).abs().max().item()
        for n in (64, 128)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_er_sde_draws_the_distribution() -> None:
    """With noise, many steps end in the data's own mean and deviation."""
    C, noise = torch.tensor([[0.25]], dtype=torch.float64), NoiseSource(range(20_000), (1,))
    x = literature.er_sde(diagonal(C), geometric(60, 0.005, 10.0), 1 + (C + 100).sqrt() * noise(), noise)
    assert x.mean().item() == pytest.approx(1, abs=5 * 0.5 / 20_000**0.5)
    assert x.std().item() == pytest.approx(0.5, rel=0.03)


def test_levels_of_gits_are_the_best_path() -> None:
    """Against all choices of three levels between the ends, on trajectories that are bent."""
    levels, K, n = geometric(8, 0.1, 10.0), 5, 4
    C = torch.tensor([[0.2, 3.0, 0.5]], dtype=torch.float64)
    noise = NoiseSource(range(K), (1, 3))()
    states = torch.stack([1 + (C + sigma**2).sqrt() * noise for sigma in levels])
    slopes = torch.stack([(x - diagonal(C)(x, s)) / s for x, s in zip(states, levels, strict=True)])[:-1]
    found = literature.gits_levels(states, slopes, levels, (n,))[n]
    assert found[-1] == 0

    def distance(x: torch.Tensor) -> torch.Tensor:
        line, way = (states[-1] - states[0]).flatten(1), (states[-1] - x).flatten(1)
        along = (way * line).sum(1, keepdim=True) / (line * line).sum(1, keepdim=True) * line
        return (way - along).norm(dim=1)

    def cost(i: int, j: int) -> float:
        own = distance(states[j]) if j < len(levels) - 1 else torch.zeros(K)
        return (distance(states[i] + (levels[j] - levels[i]) * slopes[i]) - own).mean().item()

    def total(path: tuple[int, ...]) -> float:
        return sum(1.15**k * cost(i, j) for k, (i, j) in enumerate(pairwise(path)))

    paths = [(0, *inner, len(levels) - 1) for inner in combinations(range(1, len(levels) - 1), n - 1)]
    best = min(paths, key=total)
    assert found[:-1].tolist() == [levels[i].item() for i in best[:-1]]


def test_a_frontier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small: what was measured is kept, and the table names what prescore is beside."""
    small = [method for method in frontier.PUBLISHED if method.label in ("iPNDM", "UniPC-3")]
    monkeypatch.setattr(frontier, "PUBLISHED", small)
    monkeypatch.setattr(frontier, "CALLS", (5,))
    monkeypatch.setattr(frontier, "ALL_GRIDS", ("usual", "uniform-t-open"))
    monkeypatch.setattr(problems, "NETWORK_ROWS", 2)
    monkeypatch.setattr(problems, "NETWORK_STEPS", 6)
    monkeypatch.setattr(frontier, "N", 20)
    digits = torch.randint(0, 255, (90, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    numpy.savez(tmp_path / "mnist.npz", train=digits.numpy())
    monkeypatch.setattr(frontier, "COMPONENTS", 8)
    flags = ["mnist-edm", "--data", str(tmp_path / "mnist.npz"), "--n", "20", "--out", str(tmp_path)]
    frontier.main(flags)
    kept = json.loads((tmp_path / "frontier-mnist-edm.json").read_text())
    assert set(kept["states"]) == {
        "prescore, 5, usual",
        *(f"{name}, 5, {grid}" for name in ("iPNDM", "UniPC-3") for grid in frontier.ALL_GRIDS),
    }
    for key, values in kept["samples"].items():
        assert len(values["frechet"]) == 1 + frontier.BLOCKS, key
    text = frontier.tables({"mnist-edm": kept})
    assert "| mnist-edm | **" in text
    assert "+-" in text
