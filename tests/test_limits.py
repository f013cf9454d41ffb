"""Numbers that nobody means are refused before memory is taken for them, by name."""

import time

import pytest
import torch

import prescore
from prescore.errors import PrescoreError
from prescore.grid import GRIDS, check_grid
from prescore.limits import MOST_LEVELS, check_count, check_size
from prescore.samplers import make_sampler, steps_for_calls

HUGE = (10**9, 10**12, 10**30, 10**5000)


def model():
    return prescore.Denoiser(lambda x, sigma: x / (1 + sigma**2), (1, 8, 8), 0.01, 50.0)


def data():
    return torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))


CASES = {
    "steps": lambda n: prescore.plan(model(), sampler="dpmpp-2m", steps=n),
    "calls": lambda n: prescore.plan(model(), sampler="dpmpp-2m", calls=n),
    "calls ": lambda n: steps_for_calls(make_sampler("edm-heun"), n),
    "n": lambda n: prescore.draw(model(), n, sampler="dpmpp-2m", calls=5, progress=False),
    "batch_size": lambda n: prescore.draw(model(), 1, sampler="dpmpp-2m", calls=5, batch_size=n, progress=False),
    "levels": lambda n: prescore.calibrate(data(), model=model(), levels=n, trajectories=0),
    "trajectories": lambda n: prescore.calibrate(data(), model=model(), trajectories=n),
}


@pytest.mark.parametrize("number", HUGE, ids=["1e9", "1e12", "1e30", "1e5000"])
@pytest.mark.parametrize("name", CASES)
def test_huge_numbers_are_refused_at_once(name, number):
    start = time.perf_counter()
    with pytest.raises(PrescoreError, match=rf"^{name.strip()}: "):
        CASES[name](number)
    assert time.perf_counter() - start < 5


def test_as_many_seeds_as_no_memory_holds():
    with pytest.raises(PrescoreError, match="seeds: 1000000000 given"):
        prescore.sample(model(), make_sampler("dpmpp-2m"), seeds=range(10**9), progress=False)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_grids_of_a_million_levels_at_most(name):
    with pytest.raises(PrescoreError, match="levels: 1000001 given; at most 1000000 are possible"):
        GRIDS[name](MOST_LEVELS + 1, 0.01, 50.0)
    with pytest.raises(PrescoreError, match="grid: 1000001 given"):
        check_grid(torch.arange(MOST_LEVELS + 2, 0, -1))


def test_what_fits_is_taken():
    check_count("n", 5, 5)
    check_size("n", 1000, 1000)
    with pytest.raises(PrescoreError, match=r"n: 1000 take 9\.31e\+08 GiB of memory, this machine has .* take fewer"):
        check_size("n", 1000, 10**15)
