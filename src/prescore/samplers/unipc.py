"""UniPC: a multistep predictor and a corrector that reuses the predictor's last call.

In lam = -log sigma the probability-flow ODE is linear in x but for the model m, which is the predicted data D or the
predicted noise eps = (x - D) / sigma. With h = lam_t - lam_s, in unscaled coordinates,

    data    x_t = sigma_t/sigma_s x - expm1(-h) m_0          - B(-h) sum_k a_k D_k / r_k
    noise   x_t = x                 - sigma_t expm1(h) m_0   - sigma_t B(h) sum_k a_k D_k / r_k

where m_0 is the model at s, D_k = m_k - m_0 and r_k = (lam_k - lam_s) / h for the p - 1 levels before s (the
predictor UniP-p) and, in the corrector UniC-p, the level t itself (r = 1). The corrector runs when the model has been
called at the predicted x_t: it moves x_t and the next prediction starts there. So it costs no call, and the last
step, after which there is no call, has none.

The a_k solve R(h) a = b(h) / B(h) (eq. 5, 6 of the paper); B cancels, and the sum is the integral of the polynomial
in lam through the known values of m. Two points are enough with the approximate a_1 = 1/2 that the paper and its code
take there (p = 2 in the predictor, p = 1 in the corrector), and B is only felt in these: "bh1" has B(z) = z, "bh2"
B(z) = expm1(z). `B="exact"` takes the exact a_1 there too. So "bh1" and "bh2" of order 3 differ only in their first
two steps and in lowered last ones, and with `B="exact"` the predictor with noise prediction is
`DEIS(variable="log-rho")`.

Order. The corrector raises the order by one, but published UniPC starts with p = 1, 2, ..: the first step, corrected,
has an error of h^3. With `lower_order_final` (published for few steps) the last steps have the orders p, .., 2, 1, and
the very last, uncorrected, has an error of h^2. So the order of the whole, which tests confirm, is

                                              p = 1   2   3
    lower_order_final                             2   2   2
    no lower_order_final                          2   3   3
    no lower_order_final, Runge-Kutta warm-up     2   3   4
    predictor alone (corrector=False)             1   2   2    (3 with the Runge-Kutta warm-up)

`warmup="runge-kutta"` takes the first p - 1 steps by the classical Runge-Kutta method in sigma, 4 calls each. A step
to sigma = 0 is of order 1 (lam is infinite there): it ends at D(x, sigma).

Source: Zhao, Bai, Rao, Zhou and Lu, "UniPC: a unified predictor-corrector framework for fast sampling of diffusion
models", NeurIPS 2023, https://arxiv.org/abs/2302.04867, section 3 and Algorithms 1, 2, 5-8.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler
from prescore.samplers.deis import WARMUPS, check_steps, classical_step, combine, multistep_integrals
from prescore.schedule import GeometricVE

PREDICTIONS = ("data", "noise")
BS = ("bh1", "bh2", "exact")
LAM = GeometricVE()  # its time is linear in log sigma, and a polynomial does not see more


class Formula(NamedTuple):
    """x_t = keep x_s + sum_j weights_j m_j, the newest m first."""

    keep: float
    weights: Sequence[float]


class State(NamedTuple):
    """Predictors and correctors of every step, how many steps are done, the state that the last prediction started
    from (None after a Runge-Kutta step), and the last values of m, newest first."""

    predictors: Sequence[Formula]
    correctors: Sequence[Formula]
    done: int
    x: Tensor | None
    m: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class UniPC(Sampler):
    """UniPC-p: the predictor UniP-p and, at the next call, the corrector UniC-p.

    Args:
        p: order of the predictor, 1 to 3.
        B: "bh1", "bh2" or "exact".
        prediction: what m is, "data" or "noise".
        corrector: whether to correct; without it this is UniP.
        lower_order_final: lower the order in the last p - 1 steps, as published for few steps.
        warmup: the first p - 1 steps: "lower" orders, as published, or "runge-kutta", 4 calls each.

    The usual levels are uniform in log sigma.

    Raises:
        PrescoreError: p outside 1 to 3, or an unknown word.
    """

    p: int = 3
    B: str = "bh2"
    prediction: str = "data"
    corrector: bool = True
    lower_order_final: bool = True
    warmup: str = "lower"

    family: ClassVar[str] = "UniPC"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"B": BS, "prediction": PREDICTIONS, "warmup": WARMUPS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p not in (1, 2, 3):
            raise PrescoreError(f"p: {self.p!r} is not one of 1, 2, 3")

    @property
    def order(self) -> int:
        start = 4 if self.warmup == "runge-kutta" else 2 + self.corrector
        last = 2 if self.lower_order_final else self.p + 1
        return min(self.p + self.corrector, start if self.p > 1 else 4, last)

    @property
    def stochastic(self) -> bool:
        return False

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        return steps + (3 * (self.p - 1) if self.warmup == "runge-kutta" else 0)

    def unused(self, levels: Tensor) -> dict[str, str]:
        idle = dict[str, str]()
        if self.p == 1:
            idle |= dict.fromkeys(("lower_order_final", "warmup"), "p = 1")
        if self.p == 2 and levels[-1] == 0:
            idle["lower_order_final"] = "p = 2 and levels that end in 0, a step of order 1 in any case"
        if self.p == 1 and not self.corrector:
            idle |= dict.fromkeys(("B", "prediction"), "p = 1 and no corrector, which is DDIM")
        if self.p == 3 and self.warmup == "runge-kutta" and not self.lower_order_final:
            idle["B"] = "p = 3, warmup = runge-kutta and no lower final orders"
        return idle

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        check_steps(levels, self.p, f"order {self.p}")

    def start(self, levels: Tensor) -> State:
        levels, steps = levels.cpu(), len(levels) - 1
        left = [steps - i if self.lower_order_final else self.p for i in range(steps)]
        orders = [min(self.p, i + 1, left[i]) for i in range(steps)]
        if levels[-1] == 0:
            orders[-1] = 1
        positive = levels[levels > 0]
        correctors = self.formulas(positive, orders[: len(positive) - 1], ahead=True)
        return State(self.formulas(levels, orders, ahead=False), correctors, 0, None, ())

    def formulas(self, levels: Tensor, orders: Sequence[int], ahead: bool) -> list[Formula]:
        """The predictor of each step or, with `ahead`, the corrector, which knows m at the end of the step too."""
        data = self.prediction == "data"
        integrals = multistep_integrals(LAM, levels, orders, -2 if data else 0, ahead)
        formulas = []
        for i, (s, t) in enumerate(pairwise(levels.tolist())):
            # x_t = t/s x - t int m / sigma^2 dsigma    or    x_t = x + int m dsigma
            keep, scale, total = (t / s, -t, 1 - t / s) if data else (1.0, 1.0, t - s)
            weights = [scale * integral for integral in integrals[i]]
            if t == 0:
                weights = [total]
            elif len(weights) == 2 and self.B != "exact":
                h = math.log(s / t)
                z = -h if data else h
                B = z if self.B == "bh1" else math.expm1(z)
                r = 1 if ahead else math.log(s / levels[i - 1].item()) / h
                other = (-1 if data else -t) * B / (2 * r)
                weights = [other, total - other] if ahead else [total - other, other]
            formulas.append(Formula(keep, weights))
        return formulas

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: State, noise: NoiseSource
    ) -> tuple[Tensor, State]:
        predictors, correctors, i, before, m = state
        if self.warmup == "runge-kutta" and i < self.p - 1:
            x_next, eps = classical_step(denoise, x, [sigma, (sigma + sigma_next) / 2, sigma_next])
            new = x - sigma * eps if self.prediction == "data" else eps
            return x_next, State(predictors, correctors, i + 1, None, (new, *m))
        denoised = denoise(x, sigma)
        m = (denoised if self.prediction == "data" else (x - denoised).div_(sigma), *m)
        if self.corrector and before is not None:
            x = _apply(correctors[i - 1], before, m)
        return _apply(predictors[i], x, m), State(predictors, correctors, i + 1, x, m[: self.p])


def _apply(formula: Formula, x: Tensor, m: Sequence[Tensor]) -> Tensor:
    return combine(formula.keep * x, formula.weights, m[: len(formula.weights)])
