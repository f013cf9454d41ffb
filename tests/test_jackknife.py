"""Errors of metrics: those of the mean are exact, of Gaussian features they are the spread over other seeds."""

import math

import pytest
import torch

from prescore.jackknife import (
    BLOCKS,
    Estimate,
    block_sizes,
    deviations,
    indistinguishable,
    leave_out,
    standard_error,
    with_error,
)
from prescore.metrics import METRICS, Features, evaluate, make_features, measure
from prescore.metrics.evaluation import estimates
from prescore.metrics.measuring import Measuring

D = 3
TRUE = torch.randn(4000, D, generator=torch.Generator().manual_seed(1)) @ torch.diag(torch.tensor([1.0, 2.0, 0.5]))


def vectors() -> Features:
    return make_features("pixels", (D,))


def error_of_the_mean(x: torch.Tensor) -> float:
    parts = list(x.split(block_sizes(len(x))))
    _, *without = (torch.cat(list(kept)).mean().item() for kept in leave_out(parts, BLOCKS))
    found = standard_error(deviations(without, len(x)))
    assert found is not None
    return found


@pytest.mark.parametrize("n", [10, 64, 109])
def test_the_error_of_a_mean_is_its_standard_deviation(n: int) -> None:
    """SE^2 is without bias, whatever n leaves beside ten equal blocks."""
    x = torch.randn(2000, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    mean = sum(error_of_the_mean(row) ** 2 for row in x) / len(x)
    assert mean * n == pytest.approx(1, abs=5 * math.sqrt(2 / 9 / len(x)))


@pytest.mark.parametrize("n", [64, 103])
def test_what_is_left_out_is_what_is_not_measured(n: int) -> None:
    """Each metric without a block is that of the other images, and the whole is that of all of them."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 6, 6)
    features = make_features("pixels", shape)
    classes = torch.randn(36, 5, generator=generator)
    features = Features(**{**vars(features), "logits": lambda x: x.flatten(1).float() @ classes})
    own, true = torch.rand(n, *shape, generator=generator), torch.rand(90, *shape, generator=generator)
    measuring = Measuring(features, None, progress=False)
    reference = measure(true, features)
    found = estimates(measuring.blocks(own), reference)
    assert list(found) == list(METRICS)
    whole = evaluate(measure(own, features), reference)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(whole, rel=1e-6)
    b = n // BLOCKS
    without = [
        evaluate(measure(torch.cat([own[: g * b], own[(g + 1) * b :]]), features), reference) for g in range(BLOCKS)
    ]
    for name, estimate in found.items():
        expected = deviations([values[name] for values in without], n)
        assert estimate.deviations == pytest.approx(expected, rel=1e-4, abs=1e-7), name
        assert estimate.error is not None
        assert estimate.error > 0 or name in ("precision", "recall", "coverage")


def spread(of: str, make, sets: int, n: int) -> tuple[float, float]:
    """The deviation of a metric over independent sets of samples, and the root mean square of its error."""
    reference = measure(TRUE if of == "frechet" else TRUE[:400], vectors(), [of], data_range=None)
    measuring = Measuring(vectors(), [of], data_range=None, progress=False)
    found = [estimates(measuring.blocks(make(seed, n)), reference, [of])[of] for seed in range(sets)]
    values = torch.tensor([estimate.value for estimate in found], dtype=torch.float64)
    squares = [estimate.error**2 for estimate in found if estimate.error is not None]
    return values.std().item(), math.sqrt(sum(squares) / len(squares))


def wrong(seed: int, n: int) -> torch.Tensor:
    """Samples of another Gaussian than the true ones."""
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(1000 + seed))
    return x * torch.tensor([1.3, 1.5, 0.5]) + torch.tensor([0.0, 0.5, 0.2])


@pytest.mark.parametrize("of", ["frechet", "kernel", "pixel-mean", "density"])
def test_the_error_is_the_spread_over_other_seeds(of: str) -> None:
    sets = 60 if of == "density" else 200
    deviation, error = spread(of, wrong, sets, 150)
    own = 1 / math.sqrt(2 * sets)  # of the deviation of Gaussian values, and of errors of nine degrees of freedom
    assert error / deviation == pytest.approx(1, abs=4 * math.hypot(own, own / math.sqrt(9)))


def test_of_true_samples_the_error_is_rather_too_large() -> None:
    """There the Frechet distance is of second order in what is random, and its jackknife variance up to twice too
    large."""
    scale = torch.tensor([1.0, 2.0, 0.5])
    deviation, error = spread(
        "frechet", lambda seed, n: torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * scale, 200, 150
    )
    assert 1 <= error / deviation <= 1.7


def test_the_error_of_a_difference_is_its_spread_and_far_smaller() -> None:
    """Two samplers of the same seeds, of which one adds a little noise."""
    sets, n = 200, 150
    reference = measure(TRUE, vectors(), ["frechet"], data_range=None)
    measuring = Measuring(vectors(), ["frechet"], data_range=None, progress=False)
    differences, errors, singles = [], [], []
    for seed in range(sets):
        x = wrong(seed, n)
        noise = 0.1 * torch.randn(n, D, generator=torch.Generator().manual_seed(9000 + seed))
        a, b = (estimates(measuring.blocks(y), reference, ["frechet"])["frechet"] for y in (x, x + noise))
        assert a.deviations is not None
        assert b.deviations is not None
        apart = standard_error([p - q for p, q in zip(a.deviations, b.deviations, strict=True)])
        assert apart is not None
        assert a.error is not None
        differences.append(a.value - b.value)
        errors.append(apart**2)
        singles.append(a.error)
    deviation = torch.tensor(differences, dtype=torch.float64).std().item()
    error = math.sqrt(sum(errors) / sets)
    assert error / deviation == pytest.approx(1, abs=4 * 1.06 / math.sqrt(2 * sets))
    assert error < 0.5 * sum(singles) / sets


def test_what_cannot_be_told_from_the_best() -> None:
    noise = [0.1 * (-1) ** g for g in range(BLOCKS)]  # SE 0.32
    near = [0.1 * (-1) ** g + 0.01 * (g == 0) for g in range(BLOCKS)]  # of the difference 0.01
    found = {"a": Estimate(1.0, noise), "b": Estimate(1.02, near), "c": Estimate(1.03, near), "d": Estimate(1.5, noise)}
    assert indistinguishable(found, higher=False) == ["a", "b"]
    assert indistinguishable(found, higher=True) == ["d"]
    unlike = {"a": Estimate(1.0, noise), "b": Estimate(1.5, [-d for d in noise])}
    assert indistinguishable(unlike, higher=False) == ["a", "b"]
    assert indistinguishable({"a": Estimate(1.0, None), "b": Estimate(2.0, None)}, higher=False) == []
    below = {"a": Estimate(-1.0, noise), "b": Estimate(-0.5, noise), "c": Estimate(0.5, noise)}
    assert indistinguishable(below, higher=False) == ["a", "b"]
    assert indistinguishable({}, higher=False) == []


def test_few_samples_have_no_error() -> None:
    reference = measure(TRUE, vectors(), ["frechet"], data_range=None)
    measuring = Measuring(vectors(), ["frechet"], data_range=None, progress=False)
    assert estimates(measuring.blocks(wrong(0, 9)), reference, ["frechet"])["frechet"].error is None
    assert estimates(measuring.blocks(wrong(0, 10)), reference, ["frechet"])["frechet"].error is not None


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.123456, 0.0123, "0.123 ± 0.012"),
        (1234.5, 51.0, "1234 ± 51"),
        (0.5, None, "0.5"),
        (1.0, 0.0, "1 ± 0"),
        (1e-9, 3e-10, "1e-09 ± 3e-10"),
        (-0.002, 0.0031, "-0.0020 ± 0.0031"),
    ],
)
def test_values_beside_their_errors(value: float, error: float | None, text: str) -> None:
    assert with_error(value, error) == text
