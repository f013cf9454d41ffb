"""Every option that a sampler does not call unused changes its samples, and none that it does would."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from itertools import combinations, product
from typing import Any

import pytest
import torch

import prescore
from prescore import calibrate
from prescore.denoiser import Denoiser, expand
from prescore.errors import PrescoreError
from prescore.options import Option, field_options
from prescore.precondition import frequency_preconditioner
from prescore.samplers import (
    DEIS,
    PNDM,
    SAMPLERS,
    AnnealedLangevin,
    EDMChurn,
    EDMFlow,
    Exponential,
    PredictorCorrector,
    ReverseSDE,
    Sampler,
    UniPC,
    make_sampler,
)
from prescore.samplers.table import options_of
from prescore.statistics import ModelStatistics
from prescore.statistics.score import score_statistics

LEVELS = torch.tensor([20.0, 8.0, 3.0, 1.5, 0.7, 0.2, 0.0])
GRIDS: list[dict[str, Any]] = [{"steps": 6}, {"grid": LEVELS}, {"grid": LEVELS[:-1]}]
# Other values than the default, of options that are neither switches nor lists of words, and of some of these.
OTHERS: dict[str, list[object]] = {
    "corrector_steps": [2],
    "snr": [0.2],
    "original_steps": [50],
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
    "last_noise": [1.0],
    "degree": [0, 1, 2],
    "p": [1, 2],
    "precondition_prior": [True, False],
}
# A limit acts on none but those that reach it; tolerances and lengths of adaptive steps are tried beside them.
FIXED = [name for name, entry in SAMPLERS.items() if not hasattr(entry.cls, "max_calls")]

# How many other options may stand beside the one in question: where it takes little time.
MOST: dict[type, int] = {UniPC: 2, AnnealedLangevin: 1, DEIS: 1, ReverseSDE: 1, Exponential: 1}
# What each class calls unused in some setting, and what has to be given for its rules to be met.
UNUSED: dict[type[Sampler], set[str]] = {
    PredictorCorrector: {"snr", "original_steps", "corrector_steps", "first", "norm", "form", "precondition_prior"},
    ReverseSDE: {"snr", "original_steps", "corrector_steps", "first", "norm", "form", "precondition_prior", "schedule"},
    AnnealedLangevin: {"denoise", "original_steps"},
    EDMFlow: {"alpha"},
    EDMChurn: {"alpha", "S_tmin", "S_tmax", "S_noise"},
    PNDM: {"schedule"},
    DEIS: {"warmup", "variable"},
    Exponential: {"warm_up"},
    UniPC: {"lower_order_final", "warmup", "B", "prediction"},
}
BESIDE: dict[type[Sampler], dict[str, Any]] = {
    Exponential: {"prediction": "data", "multistep": True, "k": 3, "l": 0.0},
}


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    sigma = expand(sigma, x)
    return 0.3 + (0.4 * x + 0.3 * torch.sin(2 * x)) / (1 + sigma) ** 2


MODEL = Denoiser(denoise, (1, 1, 4), 0.05, 20.0, dtype=torch.float64)
DATA = torch.rand(20, 1, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STATISTICS = replace(calibrate(DATA), model=ModelStatistics(score=score_statistics(MODEL, DATA)))
NEEDED = {
    "preconditioner": frequency_preconditioner(STATISTICS, 3),
    "reference": STATISTICS,
    "statistics": STATISTICS,
}


def others(option: Option) -> list[Any]:
    """Other values than the default."""
    if option.name in OTHERS:
        values = [value for value in OTHERS[option.name] if not option.choices or value in option.choices]
    else:
        values = [not option.default] if option.is_switch else [w for w in option.choices if w != option.default]
    assert values, f"OTHERS has no value for the option {option.name}"
    return values


def settings(options: dict[str, Option], most: int) -> Iterator[dict[str, Any]]:
    """Other values of at most so many options."""
    for count in range(most + 1):
        for names in combinations(options, count):
            yield from (dict(zip(names, v, strict=True)) for v in product(*(others(options[key]) for key in names)))


def draw(make: Callable[..., Sampler], given: dict[str, Any], beside: dict[str, Any]) -> torch.Tensor | None:
    """Samples, or None if something is refused."""
    try:
        sampler = make(**{**beside, **given})
        levels = sampler.levels(MODEL.sigma_min, MODEL.sigma_max)
        return None if sampler.unused(levels).keys() & given else sample(MODEL, sampler)
    except PrescoreError:
        return None


def sample(model: Denoiser, sampler: Sampler) -> torch.Tensor:
    return prescore.sample(model, sampler, seeds=[0, 1], progress=False)


def same_samples(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Equal but for the order in which sums are rounded."""
    return torch.allclose(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FIXED)
def test_what_is_not_unused_does_something(name: str) -> None:
    """Wherever an option of a sampler is taken, one of its values changes the samples; and each is taken somewhere."""
    entry, options, acts = SAMPLERS[name], options_of(SAMPLERS[name]), set()
    objects = [{need: NEEDED[need] for need in entry.needs}]
    if entry.takes("preconditioner") and not entry.needs:
        objects.append({"preconditioner": NEEDED["preconditioner"]})
    for beside, made in product(GRIDS, objects):
        for base in settings(options, MOST.get(entry.cls, 0)):
            x = draw(partial(make_sampler, name), base, beside | made)
            for option in (o for key, o in options.items() if key not in base and x is not None):
                drawn = [
                    draw(partial(make_sampler, name), {**base, option.name: value}, beside | made)
                    for value in others(option)
                ]
                taken = [y for y in drawn if y is not None]
                differs = [not same_samples(x, y) for y in taken]
                assert any(differs) or not taken, (base, beside, option.name)
                acts |= {option.name} if any(differs) else set()
    assert acts == options.keys()


@pytest.mark.parametrize("cls", UNUSED)
def test_what_is_unused_would_do_nothing(cls: type[Sampler]) -> None:
    names = {field.name for field in fields(cls)} - {"steps", "grid"}
    options = {name: o for name, o in field_options(cls, names, {}, {}).items() if name not in BESIDE.get(cls, {})}
    met = set()
    for grid, base in product(GRIDS, settings(options, 2 if cls in (UniPC, ReverseSDE) else 1)):
        beside = {**BESIDE.get(cls, {}), **grid, **base}
        try:
            sampler = cls(**beside)
            unused = sampler.unused(sampler.levels(MODEL.sigma_min, MODEL.sigma_max)).keys()
            x = sample(MODEL, sampler) if unused else None
        except PrescoreError:
            continue
        assert unused <= names
        for name in unused & options.keys() - base.keys():
            for value in others(options[name]):
                assert x is not None
                assert same_samples(sample(MODEL, cls(**{**beside, name: value})), x), (name, value, beside)
            met.add(name)
    assert met == UNUSED[cls]
