"""A network that is worse than the Gaussian model of its data at high noise is used where it serves."""

import warnings
from functools import cache

import pytest
import torch

import prescore
from prescore.denoiser import Denoiser
from prescore.gaussian import trusted_level
from prescore.oracle import Full, MixtureOracle

SHAPE, LOW, HIGH = (1, 4, 4), 0.01, 100.0
BROKEN = 4.0  # noise above which the network answers nonsense


@cache
def mixture():
    """Two clouds far apart, which a Gaussian does not know."""
    generator = torch.Generator().manual_seed(0)
    means = torch.stack([torch.full(SHAPE, -0.5), torch.full(SHAPE, 0.5)]).double()
    roots = 0.01 * torch.randn(2, 16, 16, generator=generator, dtype=torch.float64) / 4
    return MixtureOracle(torch.ones(2), means, Full(roots @ roots.mT + 1e-6 * torch.eye(16)))


def broken(x, sigma):
    """Exact up to BROKEN, and off by a share of the noise above."""
    exact = mixture()(x, sigma)
    return exact if sigma <= BROKEN else exact + 0.2 * sigma


def network(function, **options):
    return Denoiser(function, SHAPE, LOW, HIGH, data_range=(-2.0, 2.0), dtype=torch.float64, **options)


@cache
def statistics(function=broken):
    data = mixture().sample(200, torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prescore.calibrate(data, data_range=(-2.0, 2.0), model=network(function), trajectories=0)


def planned(**asked):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prescore.plan(network(broken, statistics=statistics()), **asked)


def test_the_run_starts_where_the_network_serves():
    decided = planned(calls=8)
    level = decided.levels[0].item()
    assert level == trusted_level(statistics()) <= BROKEN
    assert decided.reasons["sigma_max"].startswith("from here on up the Gaussian model of the data")
    assert "sigma_max = " in repr(decided)
    assert decided.calls == 8
    assert decided.name == "unipc"
    assert (decided.settings["start"], decided.settings["statistics"]) == ("cosine", "200 samples")


def test_levels_and_weights_are_measured_where_the_network_serves():
    """And so the run that starts there takes them; by name they are taken from there too."""
    data = mixture().sample(200, torch.Generator().manual_seed(1))
    how = {"calls": 5, "trajectories": 8, "fitted": 8, "levels": 8, "tries": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = prescore.calibrate(data, data_range=(-2.0, 2.0), model=network(broken), **how)
        decided = prescore.plan(network(broken), calls=5, statistics=measured)
        named = prescore.plan(network(broken), sampler="p-fit", calls=5, statistics=measured)
    top = measured.model.steps.levels[0].item()
    assert top == trusted_level(measured) <= BROKEN
    assert decided.levels[0].item() == named.levels[0].item() == pytest.approx(top)
    assert decided.settings["grid"] == "auto" if decided.name != "p-fit" else decided.settings["weights"] == "fitted"
    assert named.reasons["sigma_max"].startswith("the model was measured from here on")


def test_an_exact_network_is_used_everywhere():
    assert trusted_level(statistics(mixture())) is None
    assert prescore.plan(network(mixture(), statistics=statistics(mixture())), calls=8).levels[0] == HIGH


@pytest.mark.parametrize("asked", [{"sampler": "unipc"}, {"sigma_max": 50.0}, {"grid": "karras"}])
def test_what_is_asked_for_is_done(asked):
    decided = planned(calls=8, **asked)
    assert decided.levels[0].item() == pytest.approx(asked.get("sigma_max", HIGH))
    assert decided.start is None


def test_samples_are_those_of_the_data():
    """Two clouds, half of the samples in each, which the broken part of the network would shift."""
    x = planned(calls=12).sample(range(400), progress=False).flatten(1).mean(1)
    assert abs((x > 0).double().mean() - 0.5) < 0.1
    assert (x.abs() - 0.5).abs().median() < 0.1
    whole = planned(sampler="unipc", calls=12).sample(range(400), progress=False).flatten(1).mean(1)
    assert (whole > 0).double().mean() > 0.9


def test_a_sample_depends_on_its_seed_alone():
    decided = planned(calls=6)
    both = decided.sample([3, 4], progress=False)
    torch.testing.assert_close(decided.sample([4], progress=False), both[1:], rtol=0, atol=1e-12)
    assert not torch.equal(both[0], both[1])
