"""A plan goes to another process, whatever its model is made of."""

import pickle

import pytest
import torch

import prescore
from prescore.denoiser import (
    Denoiser,
    from_edm,
    from_flow,
    from_noise_prediction,
    from_score,
    from_table,
    from_ve,
    from_velocity,
    from_x0,
    guided,
)
from prescore.schedule import VP, Tabulated


def network(x, time, shift=None):
    return torch.tanh(x) + 0.1 * time.reshape(-1, 1) / 1000 + (0.0 if shift is None else shift.reshape(-1, 1))


MADE = {
    "score": lambda: from_score(network),
    "noise": lambda: from_noise_prediction(network, Tabulated.linear(), integer_time=True),
    "velocity": lambda: from_velocity(network, VP(), time_scale=999),
    "x0": lambda: from_x0(network, VP()),
    "flow": lambda: from_flow(network),
    "flow, data first": lambda: from_flow(network, time_scale=1, data_first=True),
    "table": lambda: from_table(network, torch.logspace(1, -2, 20)),
    "edm": lambda: from_edm(network, 0.3),
    "ve": lambda: from_ve(network),
    "guided": lambda: guided(from_edm(network), 2.0, {"shift": torch.tensor([1.0])}),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("clip", [None, "range", "dynamic"])
def test_a_plan_can_be_pickled(name, clip):
    model = Denoiser(MADE[name](), (3,), 0.05, 5.0, data_range=(-1.0, 1.0))
    decided = prescore.plan(model, sampler="dpmpp-2m", calls=8, clip=clip, start="noise")
    again = pickle.loads(pickle.dumps(decided))
    assert repr(again) == repr(decided)
    assert torch.equal(again.sample(range(4), progress=False), decided.sample(range(4), progress=False))
