"""Which sampler to take for a number of network calls: a rule, from how Gaussian the data are.

The preconditioned solvers solve the Gaussian model of the data exactly. That helps as far as the data are like it. Of
the error of that model the network leaves a share, `left` (`prescore.gaussian.fit`). Where it is smallest it
says how far from Gaussian the data are. The rule:

    calls                  left < NEAR_GAUSSIAN or not known   else
    1                      ddim                                p-ode-1
    2                      dpmpp-2m                            p-ode-2m
    3, 4                   unipc                               p-ode-2m
    more                   unipc                               p-ode-3m
    2 to MANY_CALLS, noise dpmpp-sde-2m                        p-sde-2m
    others, noise          edm-stochastic                      edm-stochastic

Vectors of unlike scale, UNLIKE between the largest and the smallest deviation in any direction, count as nearly
Gaussian whatever they are: solvers err by the scale of each direction most, which the full covariance has.

Where weights were fitted for the number of calls (`prescore.samplers.fitting`), nothing has to be guessed: of the
fitted solver and of the textbook ones that were run beside it, on samples that the weights were not fitted to, the one
of the least error of the state is taken.
"""

from dataclasses import dataclass

from prescore.errors import PrescoreError
from prescore.gaussian import error_share, gaussian
from prescore.statistics import FittedWeights, Statistics
from prescore.tuned import FEW_CALLS, FITTED_TRUST, MANY_CALLS, NEAR_GAUSSIAN, UNLIKE, UNRESOLVED, WORSE


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
    left = None if statistics is None or statistics.model.score is None else least_error_share(statistics)
    unlike = 1.0 if statistics is None else unlikeness(statistics)
    is_gaussian = unlike >= UNLIKE or (left is not None and left >= NEAR_GAUSSIAN)
    name = _name(calls, is_gaussian, noise)
    if unlike >= UNLIKE:
        return SamplerChoice(name, f"the data are vectors whose directions differ by a factor of {unlike:.3g} in scale")
    if left is None:
        return SamplerChoice(name, "how Gaussian the data are is not known (`prescore calibrate --model` measures it)")
    if left > WORSE:
        return SamplerChoice(name, f"the network makes at least {left:.2g} times the Gaussian model's error")
    limit = f"{NEAR_GAUSSIAN:.0%}"
    near = f"nearly Gaussian (from {limit} on)" if is_gaussian else f"far from Gaussian (under {limit})"
    return SamplerChoice(
        name, f"where the network knows most, it leaves {left:.1%} of the Gaussian model's error: the data are {near}"
    )


def choose_measured(fit: FittedWeights) -> SamplerChoice:
    """The solver of the least error of the state where weights were fitted.

    The errors of fitted weights are somewhat too small, as their levels were chosen by them: they count FITTED_TRUST
    more.
    """
    errors = {name: error * (FITTED_TRUST if name == "p-fit" else 1) for name, error in fit.errors.items()}
    return SamplerChoice(min(errors, key=lambda name: errors[name]), describe_errors(fit))


def describe_errors(fit: FittedWeights) -> str:
    """The errors of the state of a fit and of the solvers beside it, in words."""
    errors = sorted(fit.errors.items(), key=lambda item: item[1])
    text = ", ".join(f"{error:.3g} ({name})" for name, error in errors)
    return (
        f"weights were fitted to {fit.count} samples of {fit.model or 'the model'}; on such as were held out of the "
        f"fit, the error of the state is {text}"
    )


def unlikeness(statistics: Statistics) -> float:
    """The largest over the smallest deviation of vectors in any direction that is not constant; 1 of other data."""
    reference = gaussian(statistics) if len(statistics.event_shape) == 1 else None
    if reference is None or reference.label != "covariance":
        return 1.0
    deviations = reference.variances.sqrt()
    resolved = deviations[deviations > UNRESOLVED * deviations.max()]
    return (resolved.max() / resolved.min()).item() if len(resolved) else 1.0


def least_error_share(statistics: Statistics) -> float:
    """The smallest share, over the noise levels, of the Gaussian model's error that the network leaves.

    Raises:
        PrescoreError: the statistics are without the score of a model.
    """
    return error_share(statistics).shares.min().item()


def _name(calls: int, is_gaussian: bool, noise: bool) -> str:
    if noise:
        few = "p-sde-2m" if is_gaussian else "dpmpp-sde-2m"
        return few if 1 < calls <= MANY_CALLS else "edm-stochastic"
    if calls <= 2:
        return ("p-ode-1", "p-ode-2m")[calls - 1] if is_gaussian else ("ddim", "dpmpp-2m")[calls - 1]
    if not is_gaussian:
        return "unipc"
    return "p-ode-2m" if calls <= FEW_CALLS else "p-ode-3m"
