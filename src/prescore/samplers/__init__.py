"""Samplers, the loop that drives them, and the table of their names."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from torch import Tensor

from prescore.errors import PrescoreError, suggest
from prescore.precondition import Preconditioner, Statistics
from prescore.precondition.gaussian import Gaussian, frequency_gaussian
from prescore.samplers.base import Preconditionable, Progress, Sampler, sample, score
from prescore.samplers.langevin import AnnealedLangevin
from prescore.samplers.predictor_corrector import PredictorCorrector
from prescore.samplers.recursion import GaussianTrajectory, gaussian_recursion, statistics_recursion

__all__ = [
    "SAMPLERS",
    "AnnealedLangevin",
    "Entry",
    "GaussianTrajectory",
    "Preconditionable",
    "PredictorCorrector",
    "Progress",
    "Sampler",
    "find_sampler",
    "gaussian_recursion",
    "make_sampler",
    "sample",
    "score",
    "statistics_recursion",
]


OBJECTS = ("preconditioner", "reference")  # fields that `make_sampler` names, with `steps` and `grid`
# What to give to a sampler that needs it.
NEEDED = {
    "preconditioner": "make one by prescore.frequency_preconditioner(statistics, alpha)",
    "reference": "give statistics of the data, prescore.load_statistics(file), or a Gaussian",
    "statistics": "give statistics of the data with the size of the model's score",
}


@dataclass(frozen=True)
class Entry:
    """A name in the table: a sampler class, the arguments that the name fixes, the options that then do nothing,
    and what it cannot run without."""

    cls: type[Sampler]
    about: str
    source: str
    fixed: Mapping[str, object] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the sampler has this argument, and the name leaves it free."""
        return name not in (*self.fixed, *self.idle) and any(f.name == name for f in fields(self.cls) if f.init)

    @property
    def options(self) -> tuple[str, ...]:
        """Options of `make_sampler` beside the arguments that it names."""
        names = (f.name for f in fields(self.cls) if f.name not in ("steps", "grid", *OBJECTS))
        return tuple(name for name in names if self.takes(name))


_SONG, _MA = "https://arxiv.org/abs/2011.13456", "https://arxiv.org/abs/2302.06504"


def _alone(predictor: str, about: str) -> Entry:
    fixed = {"predictor": predictor, "corrector": "none"}
    return Entry(PredictorCorrector, about, _SONG, fixed, idle=("snr", "corrector_steps", "first", "norm"))


SAMPLERS: Mapping[str, Entry] = MappingProxyType(
    {
        "pc": Entry(PredictorCorrector, "predictor-corrector", _SONG),
        "pds": Entry(PredictorCorrector, "predictor-corrector, preconditioned", _MA, needs=("preconditioner",)),
        "reverse-diffusion": _alone("reverse-diffusion", "predictor alone, reverse diffusion"),
        "ancestral": _alone("ancestral", "predictor alone, ancestral"),
        "euler-maruyama": _alone("euler-maruyama", "predictor alone, Euler-Maruyama"),
        "probability-flow": _alone("probability-flow", "probability-flow ODE, Euler in sigma^2"),
        "ald": Entry(AnnealedLangevin, "annealed Langevin dynamics", "https://arxiv.org/abs/2006.09011"),
    }
)


def find_sampler(name: str) -> Entry:
    """The entry of `SAMPLERS` called `name`.

    Raises:
        PrescoreError: there is none.
    """
    if name not in SAMPLERS:
        raise PrescoreError(f"sampler: unknown name {name!r}; {suggest(name, SAMPLERS)}")
    return SAMPLERS[name]


def make_sampler(
    name: str,
    *,
    steps: int | None = None,
    grid: Tensor | None = None,
    preconditioner: Preconditioner | None = None,
    reference: Gaussian | Statistics | None = None,
    **options: object,
) -> Sampler:
    """The sampler called `name` (see `SAMPLERS`).

    Args:
        steps: number T of steps, on the sampler's usual grid over the model's noise range.
        grid: or a decreasing tensor of noise levels, (T + 1,), that may end in 0.
        preconditioner: from `prescore.frequency_preconditioner` and its like.
        reference: the Gaussian that the sampler integrates exactly, or statistics of the data, of which it is then
            the one that is diagonal in frequency (`prescore.precondition.gaussian` has others).
        options: hyper-parameters of that sampler, as its class lists them.

    Raises:
        PrescoreError: an unknown name, an option that this sampler does not have, or a value out of range.

    >>> make_sampler("pc", steps=20, snr=0.2).total_calls(20)
    40
    """
    entry = find_sampler(name)
    for option in options:
        if option not in entry.options:
            own = ", ".join(entry.options) or "none"
            raise PrescoreError(f"{option}: sampler {name!r} has no such option; it has {own}")
    if isinstance(reference, Statistics):
        reference = frequency_gaussian(reference)
    given: dict[str, Any] = {"steps": steps, "grid": grid, "preconditioner": preconditioner, "reference": reference}
    given = {key: value for key, value in given.items() if value is not None} | options
    for need in entry.needs:
        if need not in given:
            raise PrescoreError(f"{need}: sampler {name!r} cannot run without one; {NEEDED[need]}")
    for argument in OBJECTS:
        if argument in given and not entry.takes(argument):
            raise PrescoreError(f"{argument}: sampler {name!r} cannot use one")
    return entry.cls(**entry.fixed, **given)  # type: ignore[arg-type]
