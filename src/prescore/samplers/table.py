"""The samplers by name: each is a class and the arguments that the name fixes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from torch import Tensor

from prescore.errors import PrescoreError, suggest
from prescore.gaussian import Gaussian, gaussian
from prescore.options import Option, check_types, field_options
from prescore.precondition import Preconditioner
from prescore.samplers.adaptive import GGF
from prescore.samplers.analytic import AnalyticDDIM
from prescore.samplers.base import Sampler
from prescore.samplers.ddim import DDIM, DDPM
from prescore.samplers.deis import DEIS, RungeKuttaDEIS
from prescore.samplers.edm import EDMChurn, EDMFlow
from prescore.samplers.exponential import Exponential
from prescore.samplers.fitted import Fitted
from prescore.samplers.langevin import AnnealedLangevin
from prescore.samplers.ode import AdaptiveODE
from prescore.samplers.pndm import PNDM
from prescore.samplers.predictor_corrector import PredictorCorrector
from prescore.samplers.sde import ReverseSDE
from prescore.samplers.unipc import UniPC
from prescore.statistics import Statistics
from prescore.statistics.fit import POINTS

OBJECTS = ("preconditioner", "reference", "statistics")  # fields that `make_sampler` names, with `steps` and `grid`
# What to give to a sampler that needs it.
NEEDED = {
    "preconditioner": "make one by prescore.frequency_preconditioner(statistics, alpha)",
    "reference": "give statistics of the data, prescore.load_statistics(file), or a Gaussian",
    "statistics": "give those of the data with the model's score: `prescore calibrate DATA --model MODEL --out FILE`",
}


@dataclass(frozen=True)
class Entry:
    """A name in the table: a sampler class, the arguments that the name fixes, the options that then do nothing,
    what it cannot run without, and defaults and choices of its options that differ from the class's."""

    cls: type[Sampler]
    about: str
    source: str
    fixed: Mapping[str, object] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def takes(self, name: str) -> bool:
        """Whether the sampler has this argument, and the name leaves it free."""
        return name not in (*self.fixed, *self.idle) and any(f.name == name for f in fields(self.cls) if f.init)

    @property
    def options(self) -> tuple[str, ...]:
        """Options of `make_sampler` beside the arguments that it names."""
        names = (f.name for f in fields(self.cls) if f.name not in ("steps", "grid", *OBJECTS))
        return tuple(name for name in names if self.takes(name))


_SONG, _MA = "https://arxiv.org/abs/2011.13456", "https://arxiv.org/abs/2302.06504"
_EDM, _DDIM, _ANALYTIC = (
    "https://arxiv.org/abs/2206.00364",
    "https://arxiv.org/abs/2010.02502",
    "https://arxiv.org/abs/2201.06503",
)
_DPM, _DPMPP = "https://arxiv.org/abs/2206.00927", "https://arxiv.org/abs/2211.01095"
_SEEDS, _DEIS = "https://arxiv.org/abs/2305.14267", "https://arxiv.org/abs/2204.13902"
_S4S = "https://arxiv.org/abs/2502.17423"
_PNDM = "https://arxiv.org/abs/2202.09778"


def _alone(predictor: str, about: str) -> Entry:
    fixed, idle = (
        {"predictor": predictor, "corrector": "none"},
        ("snr", "original_steps", "corrector_steps", "first", "norm"),
    )
    # The probability flow has no Langevin part for form="marginal" to precondition.
    return Entry(PredictorCorrector, about, _SONG, fixed, (*idle, "form") if "flow" in predictor else idle)


def _exponential(about: str, source: str, **fixed: object) -> Entry:
    """A member of the exponential family: k points, stages or earlier steps, around one reference or any of them."""
    k, multistep = fixed["k"], fixed.setdefault("multistep", False)
    idle = {"r1": multistep or k == 1, "r2": multistep or k != 3}
    idle |= {
        "weights": k == 1 or (k == 3 and not multistep),
        "warm_up": not (multistep and k == 3) or "corrector" in fixed,
    }
    idle |= {"corrector": not multistep and k != 1}
    idle |= {"sigma_data": "prediction" in fixed, "reference": fixed.get("prediction") != "gaussian"}
    needs = () if idle["reference"] else ("reference",)
    # Methods of two points are best known in the form that their papers print. The corrector is the 3M's start.
    defaults: dict[str, object] = {"weights": "published"} if k == 2 and needs == () else {}
    defaults |= {"corrector": True} if needs and multistep and k == 3 else {}
    choices = {} if "prediction" in fixed else {"prediction": ("noise", "data", "edm")}
    return Entry(
        Exponential, about, source, fixed, tuple(name for name in idle if idle[name]), needs, defaults, choices
    )


SAMPLERS: Mapping[str, Entry] = MappingProxyType(
    {
        "pc": Entry(PredictorCorrector, "predictor-corrector", _SONG),
        "pds": Entry(PredictorCorrector, "predictor-corrector, preconditioned", _MA, needs=("preconditioner",)),
        "reverse-diffusion": _alone("reverse-diffusion", "predictor alone, reverse diffusion"),
        "ancestral": _alone("ancestral", "predictor alone, ancestral"),
        "euler-maruyama": _alone("euler-maruyama", "predictor alone, Euler-Maruyama"),
        "probability-flow": _alone("probability-flow", "probability-flow ODE, Euler in sigma^2"),
        "reverse-sde": Entry(ReverseSDE, "predictor-corrector in (sub-)VP coordinates", _SONG),
        "ald": Entry(AnnealedLangevin, "annealed Langevin dynamics", "https://arxiv.org/abs/2006.09011"),
        "edm-euler": Entry(EDMFlow, "EDM design space, Euler", _EDM, {"order": 1}, idle=("alpha",)),
        "edm-heun": Entry(EDMFlow, "EDM design space, Heun and its kin", _EDM, {"order": 2}),
        "edm-stochastic": Entry(EDMChurn, "EDM with churn", _EDM),
        "ddpm": Entry(DDPM, "ancestral sampling of DDPM", "https://arxiv.org/abs/2006.11239", {"eta": 1.0}),
        "ddim": Entry(DDIM, "DDIM, from the ODE (eta 0) to DDPM (1)", _DDIM),
        "analytic-ddpm": Entry(
            AnalyticDDIM, "DDPM with the optimal variance", _ANALYTIC, {"eta": 1.0}, needs=("statistics",)
        ),
        "analytic-ddim": Entry(AnalyticDDIM, "DDIM with the optimal variance", _ANALYTIC, needs=("statistics",)),
        "pndm": Entry(PNDM, "pseudo linear multistep, Runge-Kutta start", _PNDM, {"variant": "f-pndm"}),
        "s-pndm": Entry(PNDM, "pseudo linear multistep of two values", _PNDM, {"variant": "s-pndm"}),
        "plms": Entry(PNDM, "pseudo linear multistep, start of lower order", _PNDM, {"variant": "plms"}),
        "ipndm": Entry(PNDM, "linear multistep of up to four values", _DEIS, {"variant": "ipndm"}, idle=("schedule",)),
        "deis-tab": Entry(DEIS, "Adams-Bashforth in t", _DEIS, defaults={"variable": "linear"}),
        "deis-rhoab": Entry(DEIS, "Adams-Bashforth in rho = sigma", _DEIS, {"variable": "rho"}),
        "deis-rho3kutta": Entry(RungeKuttaDEIS, "Kutta's third-order method in rho", _DEIS, {"method": "3kutta"}),
        "unipc": Entry(UniPC, "unified predictor-corrector", "https://arxiv.org/abs/2302.04867"),
        "ggf": Entry(GGF, "adaptive step for the reverse SDE", "https://arxiv.org/abs/2105.14080"),
        "ode-rk45": Entry(AdaptiveODE, "adaptive Runge-Kutta for the probability flow", _SONG),
        "dpm-solver-1": _exponential("DDIM as an exponential integrator", _DPM, prediction="noise", k=1, l=0.0),
        "dpm-solver-2": _exponential("DPM-Solver-2", _DPM, prediction="noise", k=2, l=0.0),
        "dpm-solver-3": _exponential("DPM-Solver-3", _DPM, prediction="noise", k=3, l=0.0),
        "dpmpp-2s": _exponential("DPM-Solver++(2S)", _DPMPP, prediction="data", k=2, l=0.0),
        "dpmpp-2m": _exponential("DPM-Solver++(2M)", _DPMPP, prediction="data", k=2, l=0.0, multistep=True),
        "dpmpp-3m": _exponential("DPM-Solver++(3M), of order 3", _DPMPP, prediction="data", k=3, l=0.0, multistep=True),
        "dpmpp-sde-2m": _exponential("SDE-DPM-Solver++(2M)", _DPMPP, prediction="data", k=2, multistep=True),
        "sa-solver": _exponential(
            "SA-Solver of orders 3 and 4; l is its tau",
            "https://arxiv.org/abs/2309.05019",
            prediction="data",
            k=3,
            multistep=True,
            corrector=True,
        ),
        "seeds-1": _exponential("SEEDS-1", _SEEDS, k=1),
        "seeds-2": _exponential("SEEDS-2", _SEEDS, k=2),
        "seeds-3": _exponential("SEEDS-3", _SEEDS, k=3),
        "p-ode-1": _exponential("preconditioned ODE", _SEEDS, prediction="gaussian", k=1, l=0.0),
        "p-ode-2m": _exponential("preconditioned ODE, 2M", _SEEDS, prediction="gaussian", k=2, l=0.0, multistep=True),
        "p-ode-3m": _exponential("preconditioned ODE, 3M", _SEEDS, prediction="gaussian", k=3, l=0.0, multistep=True),
        "p-fit": Entry(
            Fitted,
            "preconditioned ODE, fitted weights",
            _S4S,
            {"prediction": "gaussian", "k": POINTS, "l": 0.0, "multistep": True, "warm_up": False, "corrector": False},
            idle=("sigma_data", "r1", "r2", "weights"),
            needs=("reference", "statistics"),
        ),
        "p-seeds-1": _exponential("preconditioned SEEDS-1", _SEEDS, prediction="gaussian", k=1),
        "p-seeds-2": _exponential("preconditioned SEEDS-2", _SEEDS, prediction="gaussian", k=2),
        "p-seeds-3": _exponential("preconditioned SEEDS-3", _SEEDS, prediction="gaussian", k=3),
        "p-sde-2m": _exponential("preconditioned SDE, 2M", _SEEDS, prediction="gaussian", k=2, multistep=True),
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


def options_of(entry: Entry) -> dict[str, Option]:
    """The options of a sampler in the table that words can give, by name."""
    return field_options(entry.cls, entry.options, entry.defaults, entry.choices)


def which_take(argument: str) -> list[str]:
    """The samplers that an option or an object of this name does something for, first those that need it."""
    return sorted(
        (name for name, entry in SAMPLERS.items() if entry.takes(argument)),
        key=lambda name: argument not in SAMPLERS[name].needs,
    )


def make_sampler(
    name: str,
    *,
    steps: int | None = None,
    grid: Tensor | None = None,
    preconditioner: Preconditioner | None = None,
    reference: Gaussian | Statistics | None = None,
    statistics: Statistics | None = None,
    **options: object,
) -> Sampler:
    """The sampler called `name` (see `SAMPLERS`).

    Args:
        steps: number T of steps, on the sampler's usual grid over the model's noise range.
        grid: or a decreasing tensor of noise levels, (T + 1,), that may end in 0.
        preconditioner: from `prescore.frequency_preconditioner` and its like.
        reference: the Gaussian that the sampler integrates exactly, or statistics of the data in the range of the
            model's, of which it is then the one in the cosine basis (`prescore.gaussian.model` has others).
        statistics: of the data, with the size of the model's score where the sampler needs it.
        options: hyper-parameters of that sampler, as its class lists them.

    Raises:
        PrescoreError: an unknown name, an option that this sampler does not have, or a value out of range.

    >>> make_sampler("pc", steps=20, snr=0.2).total_calls(20)
    40
    """
    entry = find_sampler(name)
    for option in options:
        if option not in entry.options:
            right = suggest(option, entry.options) if entry.options else "it has none"
            raise PrescoreError(f"{option}: sampler {name!r} has no such option; {right}")
    check_types(entry.cls, options)
    if isinstance(reference, Statistics):
        reference = gaussian(reference)
    objects = {"preconditioner": preconditioner, "reference": reference, "statistics": statistics}
    given = {key: value for key, value in objects.items() if value is not None}
    for need in entry.needs:
        if need not in given:
            raise PrescoreError(f"{need}: sampler {name!r} needs it; {NEEDED[need]}")
    for argument in given:
        if not entry.takes(argument):
            raise PrescoreError(f"{argument}: sampler {name!r} has no use for it")
    arguments: dict[str, Any] = {**entry.defaults, **entry.fixed, **given, **options}
    return entry.cls(steps=steps, grid=grid, **arguments)
