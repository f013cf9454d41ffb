"""The experiments with alpha: quick runs, the closed form behind them, and how a ratio of distances is judged."""

import math

import numpy as np
import pytest
import torch
from test_experiments import experiment, quick

from prescore.precondition import frequency_preconditioner
from prescore.samplers import AlphaRelation, PredictorCorrector, statistics_recursion


@pytest.fixture(scope="module")
def relation():
    return experiment("alpha_relation")


@pytest.fixture(scope="module")
def choice():
    return experiment("automatic_alpha")


@pytest.fixture(scope="module")
def surrogate(relation):
    return relation.Surrogate("power law", relation.STATISTICS, *relation.SIGMA)


def smooth(n, channels):
    """Images of bytes with neighbours alike."""
    x = np.random.default_rng(0).normal(size=(n, 32, 32, channels)).cumsum(1).cumsum(2)
    return (127.5 + 60 * np.tanh(x / 20)).astype(np.uint8)


def check_tables(section):
    """Every row has as many cells as the head."""
    for block in section.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block


def test_quick_relation(relation, tmp_path):
    rows = list(quick(relation, tmp_path)["runs"].values())
    check_tables((tmp_path / "alpha_relation.md").read_text())
    assert [row["T"] for row in rows] == [20, 50, 50]
    assert rows[2]["best"] < rows[1]["best"]  # by the step rule
    assert rows[2]["plain_noise"] > rows[1]["plain_noise"]
    for row in rows:
        others = [value for name, value in row.items() if name.endswith("distance")]
        assert row["best_distance"] == min(others)


def test_quick_choice(choice, tmp_path):
    np.savez(tmp_path / "photographs.npz", train=smooth(150, 3), test=smooth(100, 3))
    np.savez(tmp_path / "digits.npz", train=smooth(60, 1)[..., 0])
    flags = ["--data", str(tmp_path / "photographs.npz"), "--images", str(tmp_path / "digits.npz")]
    runs = quick(choice, tmp_path, *flags)["runs"].values()
    check_tables((tmp_path / "automatic_alpha.md").read_text())
    assert {row["denoiser"] for row in runs if "denoiser" in row} == {"photographs patches", "mnist-ve"}
    for T in (4, 8):
        kinds = [row["kind"] for row in runs if "kind" in row and row.get("T") == T]
        assert kinds == ["grid"] * len(choice.ALPHAS[0]) + ["automatic", "p-ode-2m"]


@pytest.mark.parametrize("alpha", [2.5, 8.0, math.inf])
def test_the_closed_form_is_that_of_the_recursion(relation, surrogate, alpha):
    M = None if math.isinf(alpha) else frequency_preconditioner(surrogate.statistics, alpha)
    run = statistics_recursion(PredictorCorrector(steps=20, preconditioner=M), surrogate.statistics, *relation.SIGMA)
    error = (run.variance[-1].sqrt() - run.target[-1].sqrt()).square() + run.bias[-1]
    found = surrogate.distances(20, torch.tensor([1 / alpha], dtype=torch.float64)).item()
    assert found == pytest.approx((error * run.multiplicity).sum().item(), rel=1e-10)


def test_the_best_alpha_is_the_best(surrogate):
    best = surrogate.best(20)
    around = torch.tensor([0.98, 1.0, 1.02], dtype=torch.float64) / best
    left, middle, right = surrogate.distances(20, around).tolist()
    assert middle < min(left, right)


def test_the_papers_r_squared(relation):
    for p, pairs, claimed in relation.PAPER.values():
        assert relation.printed(AlphaRelation.fit(pairs, p), len(pairs)) == pytest.approx(claimed, abs=5e-4)


def test_the_error_of_a_ratio_is_that_of_the_jackknife(choice):
    """Of the mean of ten numbers it is their deviation over sqrt(10)."""
    x = torch.rand(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = comparison(choice, x.mean().item(), ((x.sum() - x) / 9).tolist())
    assert known.error == pytest.approx((x.std() / math.sqrt(10)).item())
    assert known.ratio == pytest.approx(x.mean().item())


@pytest.mark.parametrize(
    ("distance", "scatter", "verdict"),
    [(1.04, 0.0, "yes"), (1.06, 0.0, "no"), (1.06, 0.01, "cannot be told"), (1.04, 0.01, "cannot be told")],
)
def test_within_5_percent(choice, distance, scatter, verdict):
    left_out = [distance + scatter * (-1) ** i for i in range(10)]
    assert comparison(choice, distance, left_out).verdict == verdict


def comparison(choice, distance, left_out):
    """An automatic alpha with this distance beside a best one with 1; others diverged or are far."""
    facts = {"denoiser": "a", "T": 50}
    ones = [1.0] * 10
    runs = [
        {"kind": "grid", "alpha": 2.0, "frechet": None, "left_out": None},
        {"kind": "grid", "alpha": 4.0, "frechet": 1.0, "left_out": ones},
        {"kind": "grid", "alpha": None, "frechet": 3.0, "left_out": ones},
        {"kind": "automatic", "alpha": 5.0, "frechet": distance, "left_out": left_out},
        {"kind": "p-ode-2m", "frechet": 0.5, "left_out": ones},
    ]
    known = choice.Comparison.of({str(i): facts | run for i, run in enumerate(runs)}, "a", 50)
    assert (known.best, known.plain, known.solver) == ((4.0, 1.0), 3.0, 0.5)
    return known
