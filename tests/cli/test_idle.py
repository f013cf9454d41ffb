"""Every option that is not refused changes the samples, and none that is refused would."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product, takewhile
from typing import Any

import pytest
import torch

import prescore
from prescore.cli.options import Option, options_of
from prescore.cli.plan import IDLE, refuse_idle
from prescore.denoiser import Denoiser, expand
from prescore.errors import PrescoreError
from prescore.precondition import calibrate, frequency_preconditioner
from prescore.precondition.score import score_statistics
from prescore.samplers import DEIS, SAMPLERS, Exponential, UniPC, make_sampler

LEVELS = torch.tensor([20.0, 8.0, 3.0, 1.5, 0.7, 0.2, 0.0])
GRIDS: list[dict[str, Any]] = [{"steps": 6}, {"grid": LEVELS}, {"grid": LEVELS[:-1]}]
# Other values than the default, of options that are neither switches nor lists of words, and of some of these.
OTHERS: dict[str, list[object]] = {
    "corrector_steps": [2],
    "snr": [0.2],
    "level_steps": [2],
    "step_size": [1e-5],
    "schedule": ["cosine", "edm"],
    "S_tmin": [1.0],
    "S_tmax": [5.0],
    "S_churn": [1.0, 0.0],
    "S_noise": [1.01],
    "sigma_data": [0.7],
    "r1": [0.4],
    "r2": [0.8],
    "l": [0.5, 0.0],
    "order": [1],
    "alpha": [0.6],
    "eta": [0.5, 0.0],
    "clip": [1.0],
    "degree": [0, 1, 2],
    "p": [1, 2],
    "precondition_prior": [True, False],
}
# A limit acts on none but those that reach it; tolerances and lengths of adaptive steps are tried beside them.
FIXED = [name for name, entry in SAMPLERS.items() if not hasattr(entry.cls, "max_calls")]

# How many other options may stand beside the one in question: where it takes little time.
MOST: dict[type, int] = {UniPC: 2, DEIS: 1}


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    sigma = expand(sigma, x)
    return 0.3 + (0.4 * x + 0.3 * torch.sin(2 * x)) / (1 + sigma) ** 2


MODEL = Denoiser(denoise, (1, 1, 4), 0.05, 20.0, dtype=torch.float64)
DATA = torch.rand(20, 1, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STATISTICS = replace(calibrate(DATA), score=score_statistics(MODEL, DATA))
NEEDED = {
    "preconditioner": frequency_preconditioner(STATISTICS, 3),
    "reference": STATISTICS,
    "statistics": STATISTICS,
}


def others(option: Option) -> list[Any]:
    if option.name in OTHERS:
        return [value for value in OTHERS[option.name] if not option.choices or value in option.choices]
    return [not option.default] if option.is_switch else [word for word in option.choices if word != option.default]


def settings(name: str, most: int) -> Iterator[dict[str, Any]]:
    """Other values of at most so many options."""
    options = options_of(SAMPLERS[name])
    for count in range(most + 1):
        for names in combinations(options, count):
            yield from (dict(zip(names, v, strict=True)) for v in product(*(others(options[key]) for key in names)))


def draw(name: str, given: dict[str, Any], beside: dict[str, Any]) -> torch.Tensor | None:
    """Samples, or None if something is refused."""
    try:
        sampler = make_sampler(name, **given, **beside)
        refuse_idle(name, sampler, sampler.levels(MODEL.sigma_min, MODEL.sigma_max), given)
        return prescore.sample(MODEL, sampler, seeds=[0, 1], progress=False)
    except PrescoreError:
        return None


def same_samples(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Equal but for the order in which sums are rounded."""
    return torch.allclose(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FIXED)
def test_what_is_not_refused_does_something(name: str) -> None:
    entry, tried = SAMPLERS[name], 0
    objects = [{need: NEEDED[need] for need in entry.needs}]
    if entry.takes("preconditioner") and not entry.needs:
        objects.append({"preconditioner": NEEDED["preconditioner"]})
    for beside, made in product(GRIDS, objects):
        for base in settings(name, MOST.get(entry.cls, 0)):
            x = draw(name, base, beside | made)
            free = [option for key, option in options_of(entry).items() if key not in base]
            for option in free if x is not None else []:
                drawn = (draw(name, {**base, option.name: value}, beside | made) for value in others(option))
                same = list(takewhile(lambda y, x=x: y is None or same_samples(x, y), drawn))
                if len(same) < len(others(option)):
                    tried += 1
                else:
                    assert same == [None] * len(same), (base, beside, option.name)


@pytest.mark.parametrize("cls", IDLE)
def test_what_is_refused_would_do_nothing(cls: type) -> None:
    """Each rule, in a sampler that it is for."""
    for idle, values in IDLE[cls]:
        of_grid = {"usual_grid": values.get("usual_grid", True), "final_zero": values.get("final_zero", True)}
        beside = GRIDS[0] if of_grid["usual_grid"] and of_grid["final_zero"] else GRIDS[1 + (not of_grid["final_zero"])]
        fields = {key: value for key, value in values.items() if key not in of_grid}
        if fields.get("predictor") == "none":  # then a corrector has to move the state
            fields["corrector"] = "langevin"
        if cls is Exponential:  # a corrector is for multistep methods
            fields |= {"multistep": True, "k": 3, "l": 0.0}
        assert {*idle, *fields} <= {field.name for field in cls.__dataclass_fields__.values()}  # type: ignore[attr-defined]
        reference = prescore.sample(MODEL, cls(**fields, **beside), seeds=[0, 1], progress=False)
        assert isinstance(reference, torch.Tensor)
        options = {o.name: o for e in SAMPLERS.values() if e.cls is cls for o in options_of(e).values()}
        for name in idle:
            for value in others(options[name]):
                made = cls(**fields, **beside, **{name: value})
                x = prescore.sample(MODEL, made, seeds=[0, 1], progress=False)
                assert same_samples(x, reference), (name, value)
