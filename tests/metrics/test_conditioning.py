"""Coordinate variation and range."""

import math
from types import SimpleNamespace

import pytest
import torch

from prescore.metrics import Conditioning, coordinate_range, coordinate_variation
from prescore.samplers import make_sampler, sample


def test_by_hand():
    x = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert coordinate_variation(x).tolist() == [4 + 1 + 0 + 9, 0]
    assert coordinate_range(x).tolist() == [5, 0]


def test_averages_over_samples_and_steps():
    """Each state counts once, however the samples were batched."""
    states = torch.randn(3, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = Conditioning()
    for batch in (slice(0, 2), slice(2, 5)):
        for state in states:
            seen(SimpleNamespace(x=state[batch]))
    assert seen.count == 15
    flat = states.flatten(0, 1)
    assert seen.variation == pytest.approx(coordinate_variation(flat).mean().item(), rel=1e-12)
    assert seen.range == pytest.approx(coordinate_range(flat).mean().item(), rel=1e-12)


def test_nothing_seen_is_nan():
    assert math.isnan(Conditioning().variation)
    assert math.isnan(Conditioning().range)


def test_it_is_a_callback_of_sample():
    seen = Conditioning()
    sampler = make_sampler("pc", grid=torch.tensor([2.0, 1.0, 0.5]))
    sample(
        lambda x, sigma: 0 * x, sampler, seeds=range(3), event_shape=(2, 4), batch_size=2, callback=seen, progress=False
    )
    assert seen.count == 6
    assert seen.range > 0
