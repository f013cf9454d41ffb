"""Exponential integrators around a Gaussian: DDIM, DPM-Solver, DPM-Solver++, SEEDS, and their preconditioned form.

The Gaussian model N(mu, C) of the data is solved exactly (`prescore.gaussian.flow` has the formula and its weights);
the remainder R of the network, R = c F, is approximated: F by the polynomial in lam through its values at the points
known, earlier steps (multistep, "2M", "3M") or stages inside the step (SEEDS-2 and 3, DPM-Solver-2 and 3). One
formula, whose C makes the published methods:

    prediction   C               order 1     order 2, 3, l = 0           l = 1
    noise        infinite        DDIM        DPM-Solver-2, -3            SEEDS, VP form
    data         0               DDIM        DPM-Solver++ 2S, 2M, 3M     DPM-Solver++ SDE-2M
    edm          sigma_data^2                                            SEEDS, EDM form (Prop. 3.2)
    gaussian     per coordinate  the preconditioned forms, from the statistics of the data

With k = 1 and data prediction, l is the lambda of gDDIM on an isotropic model (its Theorem 1), and l = 1 is DDPM.

For example DPM-Solver++(2M), `dpmpp-2m`: C = 0, so that R = D and c = 1, what is left of x is t / s, and the weights
of the constant and of the slope of D in lam are 1 - t / s and, as published, h / 2 of that. Written out:

    >>> def dpmpp_2m(denoise, x, levels):
    ...     before = None
    ...     for s, t in pairwise(levels.tolist()):
    ...         D, lam = denoise(x, torch.tensor(s)), -math.log(s)
    ...         ahead = D
    ...         if before is not None and t > 0:
    ...             ahead = D + math.log(s / t) / 2 * (D - before[0]) / (lam - before[1])
    ...         x, before = t / s * x + (1 - t / s) * ahead, (D, lam)
    ...     return x
    >>> from prescore.samplers import sample
    >>> levels, x = torch.tensor([9.0, 3.0, 1.0, 0.3, 0.0], dtype=torch.float64), torch.ones(1, 4)
    >>> solver = Exponential(prediction="data", k=2, multistep=True, l=0.0, weights="published", grid=levels)
    >>> D = lambda x, sigma: x / (1 + sigma**2)
    >>> same = sample(D, solver, seeds=[0], event_shape=(4,), initial=x, progress=False)
    >>> torch.allclose(dpmpp_2m(D, x, levels), same.float())
    True

Noise of the stages. It is the Brownian path of the step, seen at each stage: N_m = (v_m / v_q)^p N_q + new noise from
q to m, for any stages. Algorithm 4 of SEEDS prints exponents that agree with this only for r1 = 1/3, r2 = 2/3.

Orders. Three stages have order 3 for any 0 < r1 < r2 < 1 here, by the condition of Hochbruck & Ostermann (their
family with gamma); as published they have it only for r2 = 2/3, where the two agree. `weights="published"` is what the
papers print: at order 2 the polynomial's value at the middle of the step instead of its integral (still order 2, by
another constant), and at order 3 (3M) half of the second difference, a slip that leaves order 2. A multistep method
of order 3 has one order 1 step at its start as published, which alone limits it to order 2: `warm_up` spends one more
call there.

Corrector. Once F is known at the end of a step, the step is taken again with that point in the polynomial, and F is
not evaluated again (the UniC of UniPC): order k + 1 for k = 1 and 2, and an order 3 start for k = 3, at no call. It
brings the state closer to the exact flow, but not always the distribution of the samples closer to the data.

Both ends. With a reference the start is drawn from N(mu, C + sigma_max^2), exact for data like the reference, where
sigma_max n leaves out their mean. The step to sigma = 0 is a single evaluation without noise,

    X_0 = sqrt(C (C + left s^2)) / (C + s^2) X + R

left is the share of the Gaussian model's error that the network leaves (`prescore.gaussian.fit`). D itself,
left = 0, lacks the variance that is still unknown at s, left C s^2 / (C + s^2) in each coordinate; since a posterior
mean has covariance C with X, this weight of X restores exactly that variance. left = 1, where nothing was measured,
solves the reference exactly: sqrt(C / (C + s^2)) X + R. (F held through this step would weigh R by up to pi/2 where C
is small beside s^2, and a coordinate unlike the reference would overshoot.) With noise or data prediction and no
corrector it is D itself.

Sources: Gonzalez et al., "SEEDS: Exponential SDE solvers for fast high-quality sampling from diffusion models",
NeurIPS 2023, https://arxiv.org/abs/2305.14267, Prop. 3.1, 3.2, Algorithms 1-4; Lu et al., "DPM-Solver",
NeurIPS 2022, https://arxiv.org/abs/2206.00927, Algorithms 1, 2; Lu et al., "DPM-Solver++",
https://arxiv.org/abs/2211.01095, Algorithms 1, 2 and Appendix; Karras et al., https://arxiv.org/abs/2206.00364, Eq. 7;
Zhang et al., "gDDIM", ICLR 2023, https://arxiv.org/abs/2206.05564, Theorem 1;
Zhao et al., "UniPC", NeurIPS 2023, https://arxiv.org/abs/2302.04867, for the corrector; Hochbruck & Ostermann,
"Explicit exponential Runge-Kutta methods for semilinear parabolic problems", SIAM J. Numer. Anal. 2005,
https://doi.org/10.1137/040611434, Eq. 5.8.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian, GaussianFlow
from prescore.gaussian.flow import WeightCache
from prescore.grid import geometric, karras
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler
from prescore.tuned import LOWEST_LEVEL, LOWEST_OF_VECTORS, UNRESOLVED, WIDEST_RATIO

SIGMA_DATA = 0.5
USUAL_STEPS = 10


@dataclass(frozen=True, eq=False)
class History:
    """What a step leaves for the next: the state it returned, x and its coordinates X, and the remainders (sigma, R)
    that a multistep method still uses, newest first."""

    x: Tensor | None = None
    X: Tensor | None = None
    past: tuple[tuple[float, Tensor], ...] = ()
    last: "Move | None" = None


@dataclass(frozen=True, eq=False)
class Move:
    """A step as it was taken, to be corrected: from s and X, with the noise N and the remainders known then."""

    s: float
    X: Tensor
    N: Tensor | None
    points: tuple[tuple[float, Tensor], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Exponential(Sampler):
    """Exponential integrator of order k around the reference Gaussian (see the module).

    Args:
        prediction: the reference: noise (C infinite), data (C = 0), edm (C = sigma_data^2) or gaussian (`reference`).
        reference: the Gaussian model of the data, for prediction="gaussian" only.
        sigma_data: standard deviation of the data, for prediction="edm" only; by default 0.5, as EDM's networks.
        l: stochasticity, from 0 (probability-flow ODE) to 1 (reverse SDE).
        k: points in the polynomial, 1 to 3.
        multistep: take the points from earlier steps (one call a step) instead of stages (k calls).
        r1, r2: where the stages lie in the step, in lam, 0 < r1 < r2 < 1: 1/2 for k = 2, 1/3 and 2/3 for k = 3.
        weights: exact (the integral of the polynomial) or published (see the module).
        warm_up: start a multistep method with k = 3 by a two-stage step, one call more, so that it has order 3. A
            corrector does so without.
        corrector: correct each step by the value found at its end, which costs no call; not with stages.

    Raises:
        PrescoreError: an unknown choice, a number out of range, stages out of order, or a reference that is missing or
            not used.

    Cost of a step beside the network: a few passes over the state; with a reference, one transform to its basis and
    one back for each call, and one more for each draw of noise. Weights are computed in float64, once for each step,
    and kept in the precision of the state for later batches: k + 2 numbers a coordinate and step, k + 2 more with a
    corrector, 2 more with noise.
    """

    prediction: str = "noise"
    reference: Gaussian | None = None
    sigma_data: float | None = None
    l: float = 1.0  # noqa: E741
    k: int = 1
    multistep: bool = False
    r1: float | None = None
    r2: float | None = None
    weights: str = "exact"
    warm_up: bool = True
    corrector: bool = False

    family: ClassVar[str] = "exponential"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "prediction": ("noise", "data", "edm", "gaussian"),
        "weights": ("exact", "published"),
    }
    usual_steps: ClassVar[int] = 10
    _weights: WeightCache = field(default_factory=WeightCache, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k not in (1, 2, 3):
            raise PrescoreError(f"k: {self.k} points; there are solvers of 1, 2 and 3")
        if not 0 <= self.l <= 1:
            raise PrescoreError(f"l: {self.l} is not between 0 (no noise) and 1 (the reverse SDE)")
        if self.sigma_data is not None and self.prediction != "edm":
            raise PrescoreError(f"sigma_data: prediction={self.prediction!r} does not use it; use 'edm'")
        if self.sigma_data is not None and not 0 < self.sigma_data < math.inf:
            raise PrescoreError(f"sigma_data: {self.sigma_data} is not a positive number")
        if self.reference is None and self.prediction == "gaussian":
            raise PrescoreError("reference: prediction='gaussian' needs one; p-ode-1, p-seeds-1, ... take it")
        if self.reference is not None and self.prediction != "gaussian":
            raise PrescoreError(f"reference: prediction={self.prediction!r} does not use it; use 'gaussian'")
        if self.reference is not None and not isinstance(self.reference, Gaussian):
            raise PrescoreError(f"reference: {type(self.reference).__name__} given; a prescore.Gaussian is needed")
        given = [r for r in (self.r1, self.r2) if r is not None]
        if len(given) > (0 if self.multistep else self.k - 1):
            raise PrescoreError(f"r1, r2: {given} given, but this solver has {len(self.stages)} stages inside a step")
        if not all(r < q for r, q in pairwise((0, *self.stages, 1))):
            raise PrescoreError(f"r1, r2: {self.stages} given; 0 < r1 < r2 < 1 is needed")
        if self.corrector and self.stages:
            raise PrescoreError("corrector: it belongs to solvers without stages inside a step (multistep)")
        if self.k == 3 and not self.multistep and abs(self.stages[0] - 2 / 3) < 1e-3:
            raise PrescoreError("r1: with r1 = 2/3 no weights give order 3; the papers use 1/3")

    @property
    def stages(self) -> tuple[float, ...]:
        """The points inside a step, as fractions of it in lam."""
        if self.multistep or self.k == 1:
            return ()
        if self.k == 2:
            return (1 / 2 if self.r1 is None else self.r1,)
        return (1 / 3 if self.r1 is None else self.r1, 2 / 3 if self.r2 is None else self.r2)

    @property
    def order(self) -> int:
        slips = self.multistep and (self.weights == "published" or not self.warm_up)
        order = 2 if self.k == 3 and slips and not self.corrector else self.k
        # A corrector adds one, where the start allows it; with noise, points along one path give order 2 at most.
        return min(order + self.corrector, 2 if self.l > 0 else 3)

    @property
    def stochastic(self) -> bool:
        return self.l > 0

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        """T levels from sigma_max, then 0: the EDM's grid (rho = 7) down to sigma_min.

        With a reference, levels in geometric progression. The reference carries the last step the better the smaller
        the noise is beside the data, so that few steps need not go down to sigma_min: no ratio of neighbours above
        `WIDEST_RATIO`, no level below `LOWEST_LEVEL` / T of the data's deviation. Of vectors each number counts: no
        level is below `LOWEST_OF_VECTORS` of the smallest deviation in any direction, in more than ten steps less.
        """
        if self.reference is None:
            return karras(steps, sigma_min, sigma_max, final_zero=True)
        least = LOWEST_LEVEL / steps * self.reference.variances.mean().sqrt().item()
        if len(self.reference.event_shape) == 1:
            deviations = self.reference.variances.sqrt()
            resolved = deviations[deviations > UNRESOLVED * deviations.max()]
            least = (
                min(1.0, USUAL_STEPS / steps) * LOWEST_OF_VECTORS * resolved.min().item() if len(resolved) else least
            )
        lowest = max(sigma_min, sigma_max * WIDEST_RATIO ** (1 - steps), least)
        return geometric(steps, min(lowest, max(sigma_min, sigma_max / 2)), sigma_max, final_zero=True)

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        if self.multistep:
            return steps + (1 if self._warms_up and steps > 1 else 0)
        return self.k * (steps - 1) + 1 if final_zero else self.k * steps

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        steps = len(levels) - 1
        least = self.k if self.multistep else 1 + (self.k > 1 and levels[-1].item() == 0)
        if steps < least:
            last = "" if self.multistep else ", since the last one, to zero noise, is of order 1"
            raise PrescoreError(f"steps: {steps} given; this solver of order {self.k} needs at least {least}{last}")
        if self.reference is not None:
            self.reference.check(event_shape)

    def unused(self, levels: Tensor) -> dict[str, str]:
        return {"warm_up": "a corrector, which makes the same start"} if self.corrector else {}

    def initial(self, noise: NoiseSource, sigma: Tensor) -> Tensor:
        """sigma_max n; with a reference, N(mu, C + sigma_max^2), what noisy data are if they are like the reference."""
        if self.reference is None:
            return super().initial(noise, sigma)
        return self.reference.noisy(noise(), sigma)

    def start(self, levels: Tensor) -> History:
        return History()

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: History, noise: NoiseSource
    ) -> tuple[Tensor, History]:
        s, t = sigma.item(), sigma_next.item()
        l = self.l if t > 0 else 0.0  # noqa: E741
        X = state.X if state.X is not None and state.x is x else self._analyse(x)
        R = self._remainder(denoise(x, sigma), X, s)
        if state.last is not None and state.x is x:
            X = self._move(state.last, (*state.last.points, (s, R)), s, "exact")
        points = [(s, R), *self._earlier(state, t)]
        N, q = None, s  # the noise on the way from s to q, and how far it has come
        for m in (*self._inside(s, t, state), t):
            if l > 0:
                keep, std = self._noise_rule(q, m, l, X)
                fresh = std * self._transform(noise())
                N, q = fresh if N is None else _add(fresh, keep, N), m
            move = Move(s, X, N, tuple(points))
            U = self._move(move, move.points, m, self.weights)
            u = self._synthesise(U)
            if m > t:
                points.append((m, self._remainder(denoise(u, sigma.new_tensor(m)), U, m)))
        past = sorted(points, key=lambda point: point[0])[: self.k - 1] if self.multistep else []
        return u, History(u, U, tuple(past), move if self.corrector else None)

    def _earlier(self, state: History, t: float) -> tuple[tuple[float, Tensor], ...]:
        """The remainders of earlier steps that the step to t uses."""
        return state.past if t > 0 else ()

    def _move(self, move: Move, points: Sequence[tuple[float, Tensor]], t: float, kind: str) -> Tensor:
        """Coordinates at t, by the polynomial through the points."""
        l = self.l if t > 0 else 0.0  # noqa: E741
        keep, weights = self._rule(move.s, t, tuple(level for level, _ in points), l, kind, move.X)
        U = keep * move.X if move.N is None else _add(move.N, keep, move.X)
        for weight, (_, R) in zip(weights, points, strict=True):
            _add(U, weight, R, out=U)  # in place: a new state costs more than the sum
        return U

    @property
    def _warms_up(self) -> bool:
        return self.multistep and self.k == 3 and self.warm_up and not self.corrector

    def _inside(self, s: float, t: float, state: History) -> list[float]:
        """The levels of the stages inside this step."""
        if t == 0:
            return []
        first = self._warms_up and not state.past
        return [s * (t / s) ** r for r in ((1 / 2,) if first else self.stages)]

    @cached_property
    def _flow(self) -> GaussianFlow:
        if self.reference is not None:
            return GaussianFlow.of(self.reference.variances)
        C = {"noise": math.inf, "data": 0.0, "edm": (self.sigma_data or SIGMA_DATA) ** 2}
        return GaussianFlow.of(torch.tensor(C[self.prediction], dtype=torch.float64))

    def _left(self, sigma: float) -> float:
        known = None if self.reference is None else self.reference.error_share
        return 1.0 if known is None else known.at(sigma)

    def _analyse(self, x: Tensor) -> Tensor:
        return x if self.reference is None else self.reference.analyse(x)

    def _transform(self, z: Tensor) -> Tensor:
        return z if self.reference is None else self.reference.transform(z)

    def _synthesise(self, X: Tensor) -> Tensor:
        return X if self.reference is None else self.reference.synthesise(X)

    def _remainder(self, denoised: Tensor, X: Tensor, sigma: float) -> Tensor:
        """R = D - mu - C / (C + sigma^2) X."""
        (skip,) = self._weights(("skip", sigma), X, lambda: [-self._flow.skip(sigma)])
        return _add(self._analyse(denoised), skip, X)

    def _noise_rule(self, s: float, t: float, l: float, like: Tensor) -> list[Any]:  # noqa: E741
        flow = self._flow
        return self._weights(("noise", s, t), like, lambda: [flow.keep(s, t, l), flow.std(s, t, l)])

    def _rule(
        self,
        s: float,
        t: float,
        levels: tuple[float, ...],
        l: float,  # noqa: E741
        kind: str,
        like: Tensor,
    ) -> tuple[Any, list[Any]]:
        """Weights of X and of the remainders at `levels`, of which the first is s, in the step from s to t."""
        keep, *weights = self._weights(
            (kind, s, t, *levels), like, lambda: self._step_weights(s, t, levels, l, kind == "published")
        )
        return keep, weights

    def _step_weights(
        self,
        s: float,
        t: float,
        levels: tuple[float, ...],
        l: float,  # noqa: E741
        published: bool,
    ) -> list[Tensor]:
        """Those of `_rule`, in float64."""
        flow = self._flow
        if t == 0:
            return [flow.end(s, self._left(s)), torch.ones(())]
        if self.k == 3 and not self.multistep:
            r1, r2 = self.stages
            weights = flow.stage_integrals(s, t, l, levels, (r1, r2))
        else:
            weights = flow.integrals(s, t, l, levels, published)
        return [flow.keep(s, t, l), *(w / flow.out(level) for w, level in zip(weights, levels, strict=True))]


def _add(y: Tensor, weight: float | Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """y + weight * x in one pass."""
    if isinstance(weight, Tensor):
        return torch.addcmul(y, weight, x, out=out)
    return torch.add(y, x, alpha=weight, out=out)
