"""Noise schedules: how a forward diffusion scales its data and adds noise to it.

A schedule is a pair of functions of time, the scale s(t) and the noise level sigma(t):

    x_t = s(t) (x0 + sigma(t) n),    n ~ N(0, I)

which is the solution of the linear SDE dx = f(t) x dt + g(t) dw with

    f = s' / s,    g = s sqrt(2 sigma' sigma),    s = exp(int f),    sigma^2 = int g^2 / s^2.

Everything that samples works with unscaled coordinates x = x_t / s(t) = x0 + sigma n, in which schedules differ only
by the name that they give to a noise level. A schedule is thus needed where a network wants its own time, s(t) x, or
both, and where noise levels are to be spread the way its authors did.

Times and levels may be tensors of any shape, or numbers; they are converted to float64, and results are float64.
Nothing is clamped to the domain [t_min, t_max] unless a class says so.

Accuracy: no sigma(t) and no t(sigma) subtracts nearly equal numbers, so that both keep their digits down to the
smallest times. sigma(t(sigma)) = sigma within 1e-13 over every domain (`RectifiedFlow`:
2e-16 sigma, since 1 - t is what is left of t near 1). t(sigma(t)) = t can be only as good as the
problem is conditioned: one unit in the last place of sigma moves t by eps sigma / sigma'(t). Where sigma has a
positive limit at t = 0 (`GeometricVE`, `Tabulated`) that is an absolute error of about 2e-16 t_max whatever t, hence
a relative one above 1e-12 for t < 1e-4 t_max; elsewhere it is below 1e-15 t.

Notation and f, g: Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM),
NeurIPS 2022, https://arxiv.org/abs/2206.00364, appendix B and Table 1.
"""

from collections.abc import Mapping
from types import MappingProxyType

from prescore.errors import PrescoreError, suggest
from prescore.schedule.base import Schedule, Times, VariancePreserving, float64
from prescore.schedule.flow import FunctionSchedule, RectifiedFlow
from prescore.schedule.scaled import VP, Cosine, LinearBeta, SubVP
from prescore.schedule.table import Tabulated, TabulatedVE
from prescore.schedule.unscaled import EDM, IDDPM, VE, GeometricVE

__all__ = [
    "EDM",
    "IDDPM",
    "SCHEDULES",
    "VE",
    "VP",
    "Cosine",
    "FunctionSchedule",
    "GeometricVE",
    "LinearBeta",
    "RectifiedFlow",
    "Schedule",
    "SubVP",
    "Tabulated",
    "TabulatedVE",
    "Times",
    "VariancePreserving",
    "as_schedule",
    "float64",
]

# Those that need no arguments, by the names of EDM's Table 1 and of Song et al.
SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {"edm": EDM(), "ve": VE(), "vp": VP(), "iddpm": IDDPM(), "cosine": Cosine(), "subvp": SubVP()}
)


def as_schedule(schedule: Schedule | str) -> Schedule:
    """The schedule itself, or the one that `SCHEDULES` has under this name.

    Raises:
        PrescoreError: there is none of this name.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise PrescoreError(f"schedule: unknown name {schedule!r}; {suggest(str(schedule), SCHEDULES)}")
    return SCHEDULES[schedule]
