"""Networks that err more than the Gaussian model of their data, shrunk towards it."""

import pickle
import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch

from prescore import calibrate, in_range, plan
from prescore.denoiser import Denoiser, clipped, from_score, per_sample
from prescore.denoiser.calling import given_dtype
from prescore.errors import ModelWarning
from prescore.gaussian import Gaussian, Shrunk, gaussian, measure_shrinkage, shrunk
from prescore.grid import geometric
from prescore.operators import Pixel
from prescore.oracle import Full, MixtureOracle
from prescore.samplers import sample
from prescore.statistics import Shrinkage

LOW, HIGH, SHAPE = 0.01, 50.0, (1, 4, 4)
RANGE = (-9.0, 9.0)


@cache
def oracle() -> tuple[MixtureOracle, torch.Tensor]:
    """Two Gaussians, and 2000 of their samples."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    roots = torch.randn(2, 16, 16, generator=generator, dtype=torch.float64) / 3
    roots *= torch.logspace(0, -1, 16, dtype=torch.float64)
    exact = MixtureOracle(torch.ones(2), means, Full(roots @ roots.mT + 1e-3 * torch.eye(16)))
    return exact, exact.sample(2000, generator)


def model(error: float = 1.5, from_level: float = 1.0) -> Denoiser:
    """Exact up to a level; above it the coordinates in pixels have an error that depends on x as if by chance."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        s = per_sample(sigma, x).reshape(-1, 1, 1, 1)
        return oracle()[0](x, sigma) + error * torch.sin(1e4 * x / s) * (s > from_level)

    return Denoiser(denoise, SHAPE, LOW, HIGH, data_range=RANGE, dtype=torch.float64, name="toy")


@cache
def calibrated():
    with pytest.warns(ModelWarning, match="the network makes up to"):
        return calibrate(
            oracle()[1], data_range=RANGE, model=model(), trajectories=8, tries=0, calls=6, fitted=0, batch_size=500
        )


def test_the_weight_is_the_best_one_on_data() -> None:
    """Of D_G + w (D - D_G), in the one group of a white reference; against the errors of many weights."""
    _, data = oracle()
    white = Gaussian(data.mean(0), Pixel(torch.full(SHAPE, data.var().item(), dtype=torch.float64)))
    levels = torch.tensor([4.0, 2.0], dtype=torch.float64)
    found = measure_shrinkage(model(1.2), white, data, levels, seed=5, batch_size=300)
    assert found is not None
    assert found.weights.shape == (2, 1)
    noise = torch.randn(4000, *SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x0 = data.repeat(2, 1, 1, 1)
    for sigma, weight in zip(levels, found.weights[:, 0].tolist(), strict=True):
        x = x0 + sigma * noise
        D, D_G = model(1.2)(x, sigma), white(x, sigma)
        tried = torch.linspace(0, 1, 101, dtype=torch.float64)
        errors = torch.stack([(D_G + w * (D - D_G) - x0).square().mean() for w in tried])
        assert weight == pytest.approx(tried[errors.argmin()].item(), abs=0.03)
        assert 0.02 < weight < 0.98


def test_a_network_that_serves_is_used_as_it_is() -> None:
    exact, data = oracle()
    reference = gaussian(calibrate(data, data_range=RANGE))
    good = replace(model(), function=exact)
    found = measure_shrinkage(good, reference, data, torch.tensor([0.4, 0.2, 0.1], dtype=torch.float64))
    assert found is not None
    assert (found.weights == 1).all()
    x = data[:5] + 0.3 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(shrunk(good, reference, found)(x, sigma), exact(x, sigma))


def test_a_network_of_no_use_at_all_has_no_shrinkage() -> None:
    _, data = oracle()
    reference = gaussian(calibrate(data, data_range=RANGE))
    nothing = replace(model(), function=lambda x, sigma: 1e3 * torch.sin(1e4 * x / sigma))
    assert measure_shrinkage(nothing, reference, data[:200], torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)) is None


def test_it_is_the_mixture_that_it_says() -> None:
    """Group by group, for one level and for a level for each sample, in single precision too."""
    reference = gaussian(calibrate(oracle()[1], data_range=RANGE))
    edges = reference.variances.flatten().sort(descending=True).values[[3, 9]]
    levels = torch.tensor([5.0, 0.5], dtype=torch.float64)
    known = Shrinkage(levels=levels, edges=edges, weights=torch.tensor([[0.0, 0.2, 0.4], [1.0, 0.6, 0.8]]).double())
    mixed = shrunk(model(), reference, known)
    x = 2 * torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sigma = torch.tensor([5.0, 0.5, (5.0 * 0.5) ** 0.5], dtype=torch.float64)
    coordinates = [reference.analyse(D(x, sigma)).flatten(1) for D in (mixed, model(), reference)]
    C = reference.variances.expand(SHAPE).flatten()
    for k, weights in enumerate(([0.0, 0.2, 0.4], [1.0, 0.6, 0.8], [0.5, 0.4, 0.6])):
        w = torch.where(edges[0] < C, weights[0], torch.where(edges[1] < C, weights[1], weights[2]))
        mixture, D, D_G = (y[k] for y in coordinates)
        torch.testing.assert_close(mixture, D_G + w * (D - D_G))
        torch.testing.assert_close(mixed(x[k : k + 1], sigma[k]), mixed(x, sigma)[k : k + 1], rtol=1e-6, atol=1e-6)
    assert mixed(x.float(), sigma).dtype == torch.float64  # of the oracle
    assert (
        replace(mixed, function=replace(mixed.function, model=lambda x, sigma: x))(x.float(), sigma).dtype
        == torch.float32
    )


def test_auto_starts_higher_and_comes_nearer_than_from_where_the_network_serves_alone() -> None:
    """In the mean distance of samples from the exact flow of the exact model, from the same start."""
    statistics, exact = calibrated(), replace(model(), function=oracle()[0])
    decided = plan(model(), calls=6, statistics=statistics)
    assert statistics.model.shrinkage is not None
    assert isinstance(decided.denoiser.function, Shrunk)
    assert decided.levels[0] == pytest.approx(statistics.model.shrinkage.levels[0].item())
    assert decided.settings["shrinkage"] == "measured"
    assert "shrunk towards that model" in decided.reasons["sigma_max"]
    lower = plan(model(), calls=6, statistics=replace(statistics, model=replace(statistics.model, shrinkage=None)))
    assert lower.levels[0] < decided.levels[0]
    assert "shrinkage" not in lower.settings

    def distance(run) -> float:
        x = run.sample(range(400), batch_size=400, progress=False)
        data = oracle()[1]
        within = [torch.cdist(y.flatten(1), z.flatten(1)).mean() for y, z in ((x, data), (x, x), (data, data))]
        return (2 * within[0] - within[1] - within[2]).item()

    assert distance(decided) < distance(lower)
    assert sample(exact, decided.sampler, seeds=[1], progress=False).isfinite().all()
    assert pickle.loads(pickle.dumps(statistics.model.shrinkage)).edges.equal(statistics.model.shrinkage.edges)


def test_a_network_in_half_precision_is_given_as_much_as_it_asks_for() -> None:
    reference = gaussian(calibrate(oracle()[1], data_range=RANGE))
    known = Shrinkage(
        levels=torch.tensor([5.0, 0.5], dtype=torch.float64),
        edges=torch.zeros(0, dtype=torch.float64),
        weights=torch.ones(2, 1, dtype=torch.float64),
    )
    converted = from_score(lambda x, sigma: -x)
    for function, given in ((converted, torch.float32), (lambda x, sigma: x, torch.float16)):
        half = replace(model(), function=function, dtype=torch.float16)
        for changed in (half, shrunk(half, reference, known), clipped(half)):
            assert given_dtype(changed, torch.float16) == given


def test_a_range_that_was_asked_for_gets_the_network_as_it_is() -> None:
    for asked in ({"sigma_max": 20.0}, {"sampler": "dpmpp-2m"}, {"grid": [50.0, 1.0, 0.0]}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelWarning)
            decided = plan(model(), statistics=calibrated(), **({"steps": 6} if "grid" not in asked else {}), **asked)
        assert not isinstance(decided.denoiser.function, Shrunk), asked


def test_of_other_units_and_other_guidance() -> None:
    known = calibrated().model.shrinkage
    larger = in_range(calibrated(), (-27.0, 27.0)).model.shrinkage
    torch.testing.assert_close(larger.levels, 3 * known.levels)
    torch.testing.assert_close(larger.edges, 9 * known.edges)
    strong = replace(model(), guidance=3.0)
    with pytest.warns(ModelWarning):
        decided = plan(strong, calls=6, statistics=calibrated())
    assert not isinstance(decided.denoiser.function, Shrunk)


def test_a_good_network_is_measured_no_second_time() -> None:
    rows = []

    def counted(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return oracle()[0](x, sigma)

    good = replace(model(), function=counted)
    found = calibrate(oracle()[1][:300], data_range=RANGE, model=good, trajectories=0, levels=4, batch_size=100)
    assert found.model.shrinkage is None
    assert len(rows) == 12
    assert geometric(4, LOW, HIGH).equal(found.model.score.levels)
