"""Exponential integrators around a Gaussian: DDIM, DPM-Solver, DPM-Solver++, SEEDS, and their preconditioned form.

A Gaussian model N(mu, C) of the data is solved exactly; only what the network adds to it is approximated. In the
basis where C is diagonal, coordinate by coordinate, with X = x - mu, the denoiser is split into

    D(x, sigma) - mu = C / (C + sigma^2) X + R,      R = c F,    c = sigma / sqrt(C + sigma^2)

(c is the EDM's c_out up to a constant). For stochasticity l, p = (1 + l^2) / 2 and lam = -log sigma, the reverse
diffusion from s to t < s then reads exactly

    X_t = (v_t / v_s)^p X_s + int_s^t 2p (v_t / v)^p c F dlam + noise,        v = C + sigma^2
    noise variance = v_t (1 - (v_t / v_s)^(l^2))

with l = 0 the probability-flow ODE and l = 1 the reverse SDE. F, which varies slowly, is replaced by the polynomial
in lam through its values at the points known: earlier steps (multistep, "2M", "3M") or stages inside the step
(SEEDS-2 and 3, DPM-Solver-2 and 3). One formula, whose C makes the published methods:

    prediction   C               order 1     order 2, 3, l = 0           l = 1
    noise        infinite        DDIM        DPM-Solver-2, -3            SEEDS, VP form
    data         0               DDIM        DPM-Solver++ 2S, 2M, 3M     DPM-Solver++ SDE-2M
    edm          sigma_data^2                                            SEEDS, EDM form (Prop. 3.2)
    gaussian     per coordinate  the preconditioned forms, from the statistics of the data

With k = 1 and data prediction, l is the lambda of gDDIM on an isotropic model (its Theorem 1), and l = 1 is DDPM.

Nothing here divides by C: a = C / (1 + C) and b = 1 / (1 + C) take its place, and both ends are ordinary numbers.

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
brings the state closer to the exact flow, but not always the distribution of the samples closer to the data: at 5 to 10
calls of an exact model of photographs the preconditioned 3M with it has the least error of the state, and the
preconditioned 2M without it the least Frechet distance (benchmarks/solvers.py). So these are their defaults.

Both ends. With a reference the start is drawn from N(mu, C + sigma_max^2), exact for data like the reference, where
sigma_max n leaves out their mean. The step to sigma = 0 is a single evaluation without noise,

    X_0 = sqrt(C (C + left s^2)) / (C + s^2) X + R

left is the share of the Gaussian model's error that the network leaves (prescore/precondition/gaussian.py). D itself,
left = 0, lacks the variance that is still unknown at s, left C s^2 / (C + s^2) in each coordinate; since a posterior
mean has covariance C with X, this weight of X restores exactly that variance. left = 1, where nothing was measured,
solves the reference exactly: sqrt(C / (C + s^2)) X + R. (F held through this step would weigh R by up to pi/2 where C
is small beside s^2, and a coordinate unlike the reference would overshoot.) On an exact model of photographs its
state error is within 2 % of that of the better of these two at 5 to 14 calls (benchmarks/README.md): left = 1 is better
at 5, D from 6 on.
With noise or data prediction and no corrector it is D itself.

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

import numpy as np
import torch
from torch import Tensor

from prescore.errors import PrescoreError, check_choice
from prescore.grid import geometric, karras
from prescore.noise import NoiseSource
from prescore.precondition.gaussian import Gaussian
from prescore.samplers.base import Denoise, Sampler
from prescore.samplers.phi import phi

SIGMA_DATA = 0.5
NODES, GAUSS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))


@dataclass(frozen=True)
class Linear:
    """The part that is solved exactly, one variance C = a / b for each coordinate, in multiples of 1 + C.

    a, b: real, float64, a + b = 1. b = 0 is C infinite, a = 0 is C = 0.
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, C: Tensor) -> "Linear":
        b = 1 / (1 + C)
        return cls(torch.where(C.isinf(), 1.0, C * b), b)

    def v(self, sigma: float | Tensor) -> Tensor:
        """C + sigma^2."""
        return self.a + self.b * sigma**2

    def skip(self, sigma: float) -> Tensor:
        """C / (C + sigma^2)."""
        return self.a / self.v(sigma)

    def out(self, sigma: float | Tensor) -> Tensor:
        """c = sigma / sqrt(C + sigma^2)."""
        return sigma / self.v(sigma).sqrt()

    def keep(self, s: float, t: float, l: float) -> Tensor:  # noqa: E741
        """(v_t / v_s)^p: what is left of X."""
        return (self.v(t) / self.v(s)) ** ((1 + l**2) / 2)

    def end(self, s: float, left: float) -> Tensor:
        """sqrt(C (C + left s^2)) / (C + s^2): what is kept of X in the step from s to 0."""
        skip = self.skip(s)
        return (skip * (skip + left * (1 - skip))).sqrt()

    def std(self, s: float, t: float, l: float) -> Tensor:  # noqa: E741
        """Deviation of the noise from s to t."""
        reach = (s**2 - t**2) / self.v(s)  # 1 - v_t / v_s over b
        log = torch.where(self.b == 0, -1.0, torch.log1p(-self.b * reach) / (self.b * reach).clamp(min=1e-300))
        return (self.v(t) * l**2 * reach * -log * phi(1, l**2 * self.b * reach * log)).sqrt()

    def moments(self, s: float, t: float, l: float, n: int) -> list[Tensor]:  # noqa: E741
        """The weights of 1, r, .., r^(n-1), r = (lam - lam_s) / (lam_t - lam_s), under the integral from s to t."""
        p = (1 + l**2) / 2
        first = self._first(s, t, l) if t == 0 or l in (0, 1) else None
        if n == 1 and first is not None:
            return [first]
        nodes, gauss = (v.to(self.a.device).reshape(-1, *(1,) * self.a.ndim) for v in (NODES, GAUSS))
        h, r = math.log(s / t), (1 + nodes) / 2
        sigma = s * torch.exp(-r * h)
        kernel = gauss / 2 * h * 2 * p * (self.v(t) / self.v(sigma)) ** p * self.out(sigma)
        moments = [(kernel * r**k).sum(0) for k in range(n)]
        return moments if first is None else [first, *moments[1:]]

    def _first(self, s: float, t: float, l: float) -> Tensor:  # noqa: E741
        """int_s^t 2p (v_t / v)^p c dlam in closed form, for l = 0 and l = 1."""
        root_t = self.v(t).sqrt()
        # sigma / sqrt(v) at t, which at t = 0 has the limit 1/sqrt(b) for C = 0.
        out_t = torch.where((self.a == 0), self.b.rsqrt(), t / root_t)
        if l == 1:
            root_s = self.v(s).sqrt()
            return 2 * (s**2 - t**2) / (root_s * (s + root_s * out_t))
        # arctan(x) - arctan(y) = arctan((x - y) / (1 + x y)), x = s / sqrt C, y = t / sqrt C.
        z = (s - t) * torch.where(self.a == 0, 0.0, (self.a * self.b).sqrt() / (self.a + self.b * s * t))
        arctan = torch.where(z == 0, 1.0, z.atan() / torch.where(z == 0, 1.0, z))
        return (s - t) / (torch.where(self.a == 0, 0.0, self.a / root_t) + self.b * s * out_t) * arctan


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
    _rules: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in self.choices.items():
            check_choice(name, getattr(self, name), choices)
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
        4.5, no level below 0.5 / T of the data's deviation.
        """
        if self.reference is None:
            return karras(steps, sigma_min, sigma_max, final_zero=True)
        deviation = self.reference.variances.mean().sqrt().item()
        lowest = max(sigma_min, sigma_max * 4.5 ** (1 - steps), 0.5 * deviation / steps)
        return geometric(steps, min(lowest, sigma_max / 2), sigma_max, final_zero=True)

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        if self.multistep:
            return steps + (1 if self._warms_up and steps > 1 else 0)
        return self.k * (steps - 1) + 1 if final_zero else self.k * steps

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        steps = len(levels) - 1
        least = self.k if self.multistep else 1 + (self.k > 1 and levels[-1].item() == 0)
        if steps < least:
            raise PrescoreError(f"steps: {steps} are too few for this solver of order {self.k}, it needs {least}")
        if self.reference is not None:
            self.reference.check(event_shape)

    def initial(self, noise: NoiseSource, sigma: Tensor) -> Tensor:
        """sigma_max n; with a reference, N(mu, C + sigma_max^2), what noisy data are if they are like the reference."""
        if self.reference is None:
            return super().initial(noise, sigma)
        Z = self.reference.transform(noise())
        std = (self.reference.variances + sigma.cpu() ** 2).sqrt().to(Z)
        return self.reference.synthesise(std * Z, noise.event_shape)

    def start(self, levels: Tensor) -> History:
        return History()

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: History, noise: NoiseSource
    ) -> tuple[Tensor, History]:
        s, t = sigma.item(), sigma_next.item()
        l = self.l if t > 0 else 0.0  # noqa: E741
        X = state.X if state.X is not None and state.x is x else self._analyse(x)
        R = self._remainder(denoise(x, sigma), X, s)
        if state.last is not None:
            X = self._move(state.last, (*state.last.points, (s, R)), s, "exact")
        points = [(s, R), *(state.past if t > 0 else ())]
        N, q = None, s  # the noise on the way from s to q, and how far it has come
        for m in (*self._inside(s, t, state), t):
            if l > 0:
                keep, std = self._noise_rule(q, m, l, X)
                fresh = std * self._transform(noise())
                N, q = fresh if N is None else _add(fresh, keep, N), m
            move = Move(s, X, N, tuple(points))
            U = self._move(move, move.points, m, self.weights)
            u = self._synthesise(U, x.shape[1:])
            if m > t:
                points.append((m, self._remainder(denoise(u, sigma.new_tensor(m)), U, m)))
        past = sorted(points, key=lambda point: point[0])[: self.k - 1] if self.multistep else []
        return u, History(u, U, tuple(past), move if self.corrector else None)

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
    def _linear(self) -> Linear:
        if self.reference is not None:
            return Linear.of(self.reference.variances)
        C = {"noise": math.inf, "data": 0.0, "edm": (self.sigma_data or SIGMA_DATA) ** 2}
        return Linear.of(torch.tensor(C[self.prediction], dtype=torch.float64))

    def _left(self, sigma: float) -> float:
        known = None if self.reference is None else self.reference.left
        return 1.0 if known is None else known.at(sigma)

    def _analyse(self, x: Tensor) -> Tensor:
        return x if self.reference is None else self.reference.analyse(x)

    def _transform(self, z: Tensor) -> Tensor:
        return z if self.reference is None else self.reference.transform(z)

    def _synthesise(self, X: Tensor, event_shape: Sequence[int]) -> Tensor:
        return X if self.reference is None else self.reference.synthesise(X, event_shape)

    def _remainder(self, denoised: Tensor, X: Tensor, sigma: float) -> Tensor:
        """R = D - mu - C / (C + sigma^2) X."""
        (skip,) = self._remember(("skip", sigma), X, lambda: [-self._linear.skip(sigma)])
        return _add(self._analyse(denoised), skip, X)

    def _noise_rule(self, s: float, t: float, l: float, like: Tensor) -> list[Any]:  # noqa: E741
        linear = self._linear
        return self._remember(("noise", s, t), like, lambda: [linear.keep(s, t, l), linear.std(s, t, l)])

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

        def compute() -> list[Tensor]:
            if t == 0:
                return [self._linear.end(s, self._left(s)), torch.ones(())]
            weights = self._polynomial(s, t, levels, l, kind)
            out = [self._linear.out(level) for level in levels]
            return [self._linear.keep(s, t, l), *(w / c for w, c in zip(weights, out, strict=True))]

        keep, *weights = self._remember((kind, s, t, *levels), like, compute)
        return keep, weights

    def _polynomial(self, s: float, t: float, levels: tuple[float, ...], l: float, kind: str) -> list[Tensor]:  # noqa: E741
        """Weights of F at `levels` in the integral from s to t."""
        n = len(levels)
        M = self._linear.moments(s, t, l, n)
        if n == 1:
            return M
        d = [math.log(s / level) / math.log(s / t) for level in levels]  # positions, in units of the step
        if self.k == 3 and not self.multistep:
            # Hochbruck & Ostermann: the errors of the two stages cancel in the last line, whatever r1 and r2.
            r1, r2 = self.stages
            gamma = (3 * r2**2 - 2 * r2) / (2 * r1 - 3 * r1**2)
            if n == 2:
                slope = M[1] / d[1] + gamma * self._linear.moments(s, levels[1], l, 2)[1]
                return [M[0] - slope, slope]
            slope = M[1] / (gamma * r1 + r2)
            return [M[0] - (1 + gamma) * slope, gamma * slope, slope]
        if kind == "published":
            M = [M[0], M[0] / 2] if n == 2 else [M[0], M[1], M[2] / 2]
        inverse = np.linalg.inv(np.vander(d, increasing=True)).tolist()
        return [sum((M[i] * inverse[i][j] for i in range(n)), torch.zeros(())) for j in range(n)]

    def _remember(self, key: tuple[Any, ...], like: Tensor, compute: Any) -> list[Any]:
        """Weights in the precision and on the device of `like`; plain numbers where all coordinates share them."""
        key = (*key, like.dtype, like.device)
        if key not in self._rules:
            self._rules[key] = [w.item() if w.ndim == 0 else w.to(like.device, like.dtype) for w in compute()]
        return self._rules[key]


def _add(y: Tensor, weight: float | Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """y + weight * x in one pass."""
    if isinstance(weight, Tensor):
        return torch.addcmul(y, weight, x, out=out)
    return torch.add(y, x, alpha=weight, out=out)
