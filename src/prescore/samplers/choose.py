"""Which sampler to take for a number of network calls: a rule, from how Gaussian the data are.

The preconditioned solvers solve the Gaussian model of the data exactly. That helps as far as the data are like it. Of
the error of that model the network leaves a share, `left` (prescore/precondition/gaussian.py). Where it is smallest it
says how far from Gaussian the data are: 0.11 for digits, 0.27 for photographs, 0.31 for emoji, 0.45 for the earth's
relief (the shipped models), 0.57 for clothes (an exact mixture, looked at after the rule was made). On photographs,
relief, emoji and clothes the preconditioned form is better at few calls; on digits data prediction is as near to the
exact flow, and needs no reference. On levels that were tried `p-ode-3m` is nearer to the exact flow than `p-ode-2m`
on all of these but digits from 5 calls on; its samples are about as near to the data, on clothes nearer, on the relief
farther at few calls (benchmarks/README.md). The rule:

    calls                  left < NOT_GAUSSIAN or not known    else
    1                      ddim                                p-ode-1
    2                      dpmpp-2m                            p-ode-2m
    3, 4                   unipc                               p-ode-2m
    more                   unipc                               p-ode-3m
    2 to MANY, noise       dpmpp-sde-2m                        p-sde-2m
    others, noise          edm-stochastic                      edm-stochastic
"""

from dataclasses import dataclass

from prescore.errors import PrescoreError
from prescore.precondition.gaussian import error_left
from prescore.precondition.statistics import Statistics

NOT_GAUSSIAN = 0.2  # between digits and photographs
FEW = 4  # calls, one of which p-ode-3m takes to start
MANY = 40


@dataclass(frozen=True)
class SamplerChoice:
    """A name in the table of samplers, and why."""

    name: str
    reason: str


def choose_sampler(calls: int, statistics: Statistics | None = None, *, noise: bool = False) -> SamplerChoice:
    """The sampler to take for a number of network calls, by the rule of the module.

    Args:
        calls: of the network, for one sample.
        statistics: of the model's data, with the size of its score where they are to tell how Gaussian the data are.
        noise: whether every step is to draw noise.

    Raises:
        PrescoreError: `calls` is not a positive whole number.

    >>> choose_sampler(10).name
    'unipc'
    """
    if not isinstance(calls, int) or calls < 1:
        raise PrescoreError(f"calls: {calls!r} is not a positive whole number")
    left = None if statistics is None or statistics.score is None else least_left(statistics)
    is_gaussian = left is not None and left >= NOT_GAUSSIAN
    name = _name(calls, is_gaussian, noise)
    if left is None:
        return SamplerChoice(name, "how Gaussian the data are is not known (`prescore calibrate --model` measures it)")
    side = "are" if is_gaussian else "are not"
    return SamplerChoice(
        name,
        f"the network leaves {left:.2g} of the error of the Gaussian model, so the data {side} near it "
        f"(from {NOT_GAUSSIAN:g} on)",
    )


def least_left(statistics: Statistics) -> float:
    """The smallest share, over the noise levels, of the Gaussian model's error that the network leaves.

    Raises:
        PrescoreError: the statistics are without the score of a model.
    """
    return error_left(statistics).shares.min().item()


def _name(calls: int, is_gaussian: bool, noise: bool) -> str:
    if noise:
        few = "p-sde-2m" if is_gaussian else "dpmpp-sde-2m"
        return few if 1 < calls <= MANY else "edm-stochastic"
    if calls <= 2:
        return ("p-ode-1", "p-ode-2m")[calls - 1] if is_gaussian else ("ddim", "dpmpp-2m")[calls - 1]
    if not is_gaussian:
        return "unipc"
    return "p-ode-2m" if calls <= FEW else "p-ode-3m"
