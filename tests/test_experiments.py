"""Every experiment and benchmark runs in a small setting, writes its numbers, and finds what its text says."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def experiment(name):
    if str(ROOT / "experiments") not in sys.path:  # where a script finds the modules beside it
        sys.path.append(str(ROOT / "experiments"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quick(module, folder, *arguments, name=None):
    """The numbers that a quick run writes; its figure must be a picture, its section must show it and have a table."""
    module.main(["--quick", "--folder", str(folder), *arguments])
    name = name or module.__name__
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    section = (folder / f"{name}.md").read_text()
    assert section.startswith("## ")
    assert f"]({name}.png)" in section
    assert "| --- |" in section
    assert '"]' not in section, "code in place of what it stands for"
    return json.loads((folder / f"{name}.json").read_text())


def run(module, folder, *arguments):
    """The numbers that the experiment writes; its figure must be a picture."""
    figure, numbers = folder / "figure.png", folder / "numbers.json"
    module.main([*arguments, "--figure", str(figure), "--json", str(numbers)])
    assert figure.read_bytes().startswith(b"\x89PNG")
    return json.loads(numbers.read_text())


@pytest.fixture(scope="module")
def toy():
    return experiment("toy_gaussian")


@pytest.fixture(scope="module")
def power_law():
    return experiment("power_law")


def test_toy_gaussian(toy, tmp_path):
    result = quick(toy, tmp_path)
    for rows in result["readings"].values():
        for row in rows.values():
            assert abs(row["sampled"] - row["energy"]) < 5 * row["standard_error"]
    full, half = result["readings"]["h = eps"], result["readings"]["h = eps²/2"]
    diverging = {name for name, row in full.items() if row["stationary_KL"] is None}
    assert diverging == {"plain, 1", "M = C+I", "MMᵀ = C+I"}
    assert {name for name, row in half.items() if row["stationary_KL"] is None} == {"M = C+I"}
    # With M M^T = C one step of size 1 reaches N(0, 2 C).
    assert full["MMᵀ = C"]["variance_ratio"] == pytest.approx([2, 2])
    ours = result["p-ode-2m"]
    assert abs(ours["sampled"] - 1) < 5 * ours["standard_error"]


@pytest.mark.parametrize("h", [0.05, 0.3, 0.6])
def test_toy_closed_form_is_the_recursion_of_the_matrices(toy, h):
    """F V F^T + 2 h M M^T, iterated three times (where it diverges the large variance soon swamps the small one)."""
    for m, _ in toy.READINGS.values():
        dynamics = toy.Dynamics(m, h)
        M = toy.Q * m @ toy.Q.mT
        F = torch.eye(2, dtype=torch.float64) - h * M @ M.mT @ torch.linalg.inv(toy.COVARIANCE)
        V = torch.eye(2, dtype=torch.float64)
        for _ in range(3):
            V = F @ V @ F.mT + 2 * h * M @ M.mT
        assert torch.allclose((toy.Q.mT @ V @ toy.Q).diagonal(), dynamics.variance(3), rtol=1e-6)
        assert dynamics.radius == pytest.approx(torch.linalg.eigvals(F).abs().max().item())
        assert (dynamics.radius < 1) == (h < dynamics.largest_step)


def test_power_law(power_law, tmp_path, monkeypatch):
    monkeypatch.setattr(power_law, "ALPHAS", power_law.ALPHAS[::5])
    monkeypatch.setattr(power_law, "GAINS", power_law.GAINS[::4])
    monkeypatch.setattr(power_law, "STEPS", (20, 50))
    result = quick(power_law, tmp_path)
    assert [row["T"] for row in result["by_steps"]] == [20, 50]
    few = result["by_steps"][0]
    assert few["pds"] < few["plain"] / 5
    assert few["unshaped"] < few["pds"]  # the gain is that of a longer step, not of the shape
    assert few["plain_euler_maruyama"] < few["pds"]
    for point in result["sampled"]:
        difference = point["square"] - point["predicted"] ** 2
        assert abs(difference) < 5 * point["spread"], point


def test_power_law_limits_are_where_the_closed_form_diverges(power_law):
    """The last step overshoots once m^2 > 2; the run grows without bound only where all steps do."""
    overshoot, unstable = power_law.limits(50)
    gain = power_law.sampler(overshoot, 50).preconditioner.largest_gain(power_law.SHAPE)
    assert gain**2 == pytest.approx(2, rel=1e-3)
    grown = power_law.predict(0.9 * unstable, 50).variance[-2].max().item()
    kept = power_law.predict(1.1 * unstable, 50).variance[-2].max().item()
    assert grown > 1e6 * kept
    assert math.isfinite(kept)


def test_pds_step_benchmark(tmp_path, monkeypatch):
    """A short run at the smallest size: both formulations agree (it stops otherwise), and ours needs less memory."""
    spec = importlib.util.spec_from_file_location("pds_step", ROOT / "benchmarks" / "pds_step.py")
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pds_step", benchmark)
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    spec.loader.exec_module(benchmark)
    threads = torch.get_num_threads()
    try:
        flags = ["--sizes", "32", "--seconds", "0", "--no-network", "--device", "cpu"]
        benchmark.main([*flags, "--json", str(tmp_path / "numbers.json")])
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "numbers.json").read_text())["cpu"]["rows"]
    assert [(r["preconditioner"], r["state"]) for r in rows] == [
        ("frequency", "float32"),
        ("frequency", "float64"),
        ("frequency + pixel", "float32"),
        ("frequency + pixel", "float64"),
    ]
    for row in rows:
        assert row["runs"] >= 5
        assert row["seconds"] > 0
        if row["state"] == "float32":
            assert 0 < row["memory"] < row["authors_memory"]
