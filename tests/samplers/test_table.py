import pytest
import torch

from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.operators import Identity, RollSkew
from prescore.precondition import Preconditioner
from prescore.samplers import SAMPLERS, make_sampler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pcs"}, "unknown name 'pcs'; did you mean pc"),
        ({"name": "zzz"}, "unknown name 'zzz'; known: pc, pds"),
        ({"name": "pds"}, "preconditioner: sampler 'pds' cannot run without one"),
        ({"name": "ald", "snr": 0.1}, "snr: sampler 'ald' has no such option; it has level_steps"),
        ({"name": "ancestral", "predictor": "none"}, "predictor: sampler 'ancestral' has no such option"),
        ({"name": "ancestral", "snr": 0.1}, "snr: sampler 'ancestral' has no such option; it has form"),
        (
            {"name": "probability-flow", "form": "marginal", "preconditioner": Preconditioner(Identity())},
            "form: 'marginal' leaves predictor 'probability-flow' nothing to precondition",
        ),
        (
            {"name": "ancestral", "preconditioner": Preconditioner(Identity(), skew=RollSkew((1,)), omega=1.0)},
            "skew: only Langevin dynamics can use it",
        ),
        ({"name": "pc", "steps": 0}, "steps: 0 is not a positive whole number"),
        ({"name": "pc", "steps": 2.5}, "steps: 2.5 is not a positive whole number"),
        ({"name": "pc", "snr": 0.0}, "snr: 0.0 is not positive"),
        ({"name": "pc", "predictor": "ancestor"}, "unknown value 'ancestor'; did you mean ancestral"),
        ({"name": "pc", "corrector_steps": 0}, "corrector_steps: 0 is not positive; use corrector='none'"),
        ({"name": "pc", "predictor": "none", "corrector": "none"}, "nothing would move the state"),
        ({"name": "ald", "prior": "zero"}, "prior: unknown value 'zero'"),
        ({"name": "ald", "level_steps": 0}, "level_steps: 0 is not positive"),
        ({"name": "ald", "step_size": -1.0}, "step_size: -1.0 is not positive"),
        ({"name": "pc", "steps": 3, "grid": torch.tensor([1.0, 0.0])}, "steps and grid: give one"),
        ({"name": "pc", "grid": torch.tensor([1.0, 2.0])}, "grid"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        make_sampler(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_entry_declares_itself(name):
    entry = SAMPLERS[name]
    assert entry.cls(**entry.fixed).order >= 1
    assert entry.cls.family
    assert entry.source.startswith("https://")
    assert entry.options


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].needs])
def test_a_sampler_says_whether_its_steps_are_random(name):
    """One step from the same state with two different sources of noise."""
    s = make_sampler(name, grid=torch.tensor([1.0, 0.5]))
    ends = []
    for seed in (0, 1):
        noise = NoiseSource([seed], (4,))
        x = torch.ones(1, 4, dtype=torch.float64)
        sigma, sigma_next = s.grid
        ends.append(s.step(lambda x, sigma: x / (1 + sigma**2), x, sigma, sigma_next, s.start(s.grid), noise)[0])
    assert torch.equal(*ends) != s.stochastic
