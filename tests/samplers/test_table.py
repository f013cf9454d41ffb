from dataclasses import dataclass, fields
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from prescore import calibrate
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian, cosine_gaussian
from prescore.noise import NoiseSource
from prescore.operators import Identity, Pixel, RollSkew
from prescore.precondition import Preconditioner
from prescore.samplers import SAMPLERS, Entry, Sampler, make_sampler

GAUSSIAN = Gaussian(torch.zeros(4), Pixel(torch.ones(4)))
STATISTICS = calibrate(torch.rand(9, 1, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pcs"}, "unknown name 'pcs'; did you mean pc"),
        ({"name": "zzz"}, "unknown name 'zzz'; known: pc, pds"),
        ({"name": "pds"}, "preconditioner: sampler 'pds' needs it; make one by prescore.frequency_preconditioner"),
        ({"name": "pc", "reference": GAUSSIAN}, "reference: sampler 'pc' has no use for it"),
        ({"name": "pc", "statistics": STATISTICS}, "statistics: sampler 'pc' has no use for it"),
        (
            {"name": "p-ode-2m"},
            r"reference: .*give statistics of the data, prescore.load_statistics\(file\), or",
        ),
        ({"name": "p-ode-2m", "statistics": STATISTICS}, "reference: sampler 'p-ode-2m' needs it"),
        ({"name": "seeds-1", "reference": GAUSSIAN}, "reference: sampler 'seeds-1' has no use for it"),
        (
            {"name": "analytic-ddim"},
            "statistics: .*; give those of the data with the model's score: `prescore calibrate",
        ),
        ({"name": "seeds-1", "prediction": "gaussian"}, "prediction='gaussian' needs one; p-ode-1, p-seeds-1, ... tak"),
        ({"name": "seeds-1", "statistic": 3}, "statistic: sampler 'seeds-1' has no such option; known: prediction, si"),
        ({"name": "ald", "snr": 0.1}, "snr: sampler 'ald' has no such option; known: level_steps"),
        ({"name": "ancestral", "predictor": "none"}, "predictor: sampler 'ancestral' has no such option"),
        ({"name": "ancestral", "snr": 0.1}, "snr: sampler 'ancestral' has no such option; (did you mean|known: form)"),
        (
            {"name": "probability-flow", "form": "marginal", "preconditioner": Preconditioner(Identity())},
            "form: sampler 'probability-flow' has no such option",
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


NEEDED = {"preconditioner": Preconditioner(Identity()), "reference": STATISTICS, "statistics": STATISTICS}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_entry_declares_itself(name):
    entry = SAMPLERS[name]
    assert make_sampler(name, **{need: NEEDED[need] for need in entry.needs}).order >= 1
    assert entry.cls.family
    assert entry.about
    assert entry.source.startswith("https://")
    free = {f.name for f in fields(entry.cls)}
    assert free >= {*entry.fixed, *entry.idle, *entry.needs, *entry.defaults, *entry.choices}
    assert not set(entry.fixed) & {*entry.idle, *entry.needs}
    assert set(entry.options) >= {*entry.defaults, *entry.choices}
    assert all(set(words) < set(entry.cls.choices[option]) for option, words in entry.choices.items())


@pytest.mark.parametrize("name", SAMPLERS)
def test_names_fix_and_default_what_they_say(name):
    entry = SAMPLERS[name]
    objects = {need: NEEDED[need] for need in entry.needs}
    made = make_sampler(name, **objects)
    usual = entry.defaults | entry.fixed
    assert {option: getattr(made, option) for option in usual} == usual
    for option, default in entry.defaults.items():
        values = (True, False) if isinstance(default, bool) else entry.cls.choices[option]
        other = next(value for value in values if value != default)
        assert getattr(make_sampler(name, **objects, **{option: other}), option) == other


def test_names_are_distinct_samplers():
    """No two are the same class with the same arguments."""
    what = [(entry.cls, *sorted((entry.defaults | entry.fixed).items())) for entry in SAMPLERS.values()]
    what = [w for name, w in zip(SAMPLERS, what, strict=True) if name != "pds"]  # pc with what pc may have
    assert len(set(what)) == len(what)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].needs])
def test_a_sampler_says_whether_its_steps_are_random(name):
    """Steps from the same state with two different sources of noise."""
    s = make_sampler(name, grid=torch.tensor([4.0, 3.0, 2.0, 1.5, 1.0, 0.5]))
    ends = []
    for seed in (0, 1):
        noise = NoiseSource([seed], (4,))
        x, state = torch.ones(1, 4, dtype=torch.float64), s.start(s.grid)
        for sigma, sigma_next in pairwise(s.grid):
            x, state = s.step(lambda x, sigma: x / (1 + sigma**2), x, sigma, sigma_next, state, noise)
        ends.append(x)
    assert torch.equal(*ends) != s.stochastic


def test_a_reference_may_be_given_as_statistics(monkeypatch):
    """Then it is the Gaussian that is diagonal in cosines."""
    entry = Entry(Reference, "a toy", "https://example.org", needs=("reference",))
    monkeypatch.setattr("prescore.samplers.table.SAMPLERS", {"toy": entry})
    assert make_sampler("toy", reference=GAUSSIAN).reference is GAUSSIAN
    made = make_sampler("toy", reference=STATISTICS).reference
    assert torch.equal(made.variances, cosine_gaussian(STATISTICS).variances)
    with pytest.raises(PrescoreError, match="reference: sampler 'toy' needs it; give statistics"):
        make_sampler("toy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference(Sampler):
    """A sampler that has a reference."""

    reference: Gaussian | None = None
    family: ClassVar[str] = "toy"
