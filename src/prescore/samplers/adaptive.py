"""Adaptive steps for the reverse SDE: GGF ("gotta go fast").

In the time t and the coordinates x~ = s(t) x of a schedule, the reverse SDE and one step of length h from t to t - h,
with an increment w ~ N(0, h) of the Brownian motion, are

    dx~ = [f x~ - g^2 grad log p(x~)] dt + g dw
    K1 = -h [f x~ - g^2 grad log p](x~, t)          + g(t)     w        x'  = x~ + K1              Euler-Maruyama
    K2 = -h [f x~ - g^2 grad log p](x~ + K1, t - h) + g(t - h) w        x'' = x~ + (K1 + K2) / 2   improved Euler

Their difference measures the error of the step against a tolerance, element by element:

    delta = max(eps_abs, eps_rel max(|x'|, |x'_prev|)),    E = | (x' - x'') / delta |,    |v| = sqrt(mean of v^2)

where x'_prev is the x' of the last accepted step. E <= 1 accepts: the state becomes x'' (extrapolation) and t becomes
t - h. Either way the next length is h <- min(t - t_end, theta E^-r h), the factor rounded down to a power of 2^(1/8).
Every sample has its own t, h and E.

x'' has weak order 2 and strong order 1, x' order 1 in both senses.

Time. The default clock, `GeometricVE`, is log sigma up to a factor, in unscaled coordinates: that of the paper for VE
models, in which a step of given length always lowers sigma by the same factor, and the drift 2 (D - x) d log sigma
stays bounded at all levels. In sigma or sigma^2 the drift grows without bound as sigma -> 0. A VP model can be sampled
in the paper's own clock and coordinates with schedule=VP(...); its tolerance then is that of x~, whose size is about 1.

Rejected noise. Whether a step is accepted depends on its noise. Drawing anew after a rejection, as the authors' code
does, therefore prefers increments that agree with the drift, and this bias does not go away as the tolerances -> 0
but grows with the number of rejections: for N(0, 1) in one dimension the samples have variance 2.5, 3.1, 4.0 at the
tolerances 0.3, 0.1, 0.03; in 10 dimensions 0.99, 1.08, 1.14. In 100, where E hardly fluctuates, it is lost in the
error of the steps, so that images do not show it. Here no increment is forgotten (rejected="bridge"): a shorter step
is given its part of the increment already seen by the law of the Brownian bridge,

    w' | w ~ N(h'/h w, h' (h - h') / h),

and w - w' stays on a stack for the steps after it (rejection sampling with memory of Rackauckas and Nie). This costs
no draw, at times a shorter step (none crosses the end of what is known), and the memory of a few states.
rejected="redraw" is the authors' form.

Sources: Jolicoeur-Martineau et al., "Gotta go fast when generating data with score-based models", 2021,
https://arxiv.org/abs/2105.14080, Algorithm 1; Rackauckas and Nie, "Adaptive methods for stochastic differential
equations via natural embeddings and rejection sampling with memory", DCDS-B 2017,
https://doi.org/10.3934/dcdsb.2017133 (the memory).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise, expand
from prescore.errors import PrescoreError, SamplingError
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler
from prescore.schedule import GeometricVE, Schedule

REJECTED = ("bridge", "redraw")


@dataclass(frozen=True, eq=False)
class AdaptiveState:
    """What an adaptive sampler knows of each sample; a callback finds it in `Progress.state`.

    Attributes:
        calls: of the denoiser that the sample needed so far, (B,). Its batch made as many as its slowest sample.
        rejections: how many of its steps were rejected, (B,).
        h: length of its next step in the sampler's time, (B,); 0 if the sampler is to choose it anew.
    """

    calls: Tensor
    rejections: Tensor
    h: Tensor

    @classmethod
    def zero(cls, x: Tensor) -> "AdaptiveState":
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(count, count, count.double())


def quantised(factor: Tensor) -> Tensor:
    """The largest power of 2^(1/8) that is not above a factor by which a step changes.

    An error is rounded by the size of its batch. Steps that followed its last bits would take other paths with other
    batch-mates; so they only follow it in such coarse steps.
    """
    factor = factor.clamp(1e-30, 1e30)
    mantissa, _ = torch.frexp(factor)  # in [1/2, 1); factor / mantissa is a power of 2, exactly
    powers = torch.tensor([2 ** (k / 8 - 1) for k in range(8)], dtype=factor.dtype, device=factor.device)
    return powers[torch.searchsorted(powers, mantissa, right=True) - 1] * (factor / mantissa)


def at_most(h: Tensor, length: Tensor) -> Tensor:
    """The smaller one; all of the length where only a rounding of it would be left."""
    return torch.where(h < length * (1 - 1e-9), h, length)


def check_tolerance(name: str, value: float) -> None:
    """Raise PrescoreError if a tolerance is not a positive, finite number."""
    if not 0 < value < float("inf"):
        raise PrescoreError(f"{name}: {value!r} is not a positive number; 0.01 is a coarse and 1e-5 a fine tolerance")


def rows(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of samples, (B,), shaped to broadcast against x, (B, *event)."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def unreached(sigma: Tensor, calls: int, tolerance: str) -> SamplingError:
    """The error of an adaptive sampler that cannot go on; sigma are the levels of the samples that are not done."""
    return SamplingError(
        f"tolerance: {tolerance} not met for {len(sigma)} samples of the batch, which stopped at "
        f"sigma = {sigma.max().item():.4g} after {calls} calls each; raise the tolerance or max_calls"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class GGF(Sampler):
    """Reverse SDE with steps that adapt to each sample.

    Args:
        eps_abs: absolute tolerance, one step of the data's 8-bit values: 1/256 for data in [0, 1], 1/128 in [-1, 1].
        eps_rel: relative tolerance, of the paper's 0.01 (as good as many small steps) to 0.05 (fast).
        safety: theta.
        exponent: r, from 1/2 to 1.
        first_step: h of the first step, in the schedule's time.
        extrapolate: whether an accepted step ends in x'' or in x'.
        rejected: "bridge" keeps the noise of a rejected step, "redraw" forgets it as the authors' code (see the
            module).
        schedule: whose time and scale the steps are taken in.
        max_calls: network calls of a sample in one leg of the grid after which to give up.
        steps: legs of the grid, between which a callback is called and which no step crosses; the last one is the
            denoising step D(x, sigma_min). The usual 2 leave all the way between sigma_max and sigma_min free.

    Raises:
        PrescoreError: a tolerance, safety, exponent, first_step or max_calls out of its range, or an unknown choice.
    """

    eps_abs: float = 1 / 256
    eps_rel: float = 0.02
    safety: float = 0.9
    exponent: float = 0.9
    first_step: float = 0.01
    extrapolate: bool = True
    rejected: str = "bridge"
    schedule: Schedule = field(default_factory=GeometricVE)
    max_calls: int = 10000

    family: ClassVar[str] = "adaptive SDE"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"rejected": REJECTED}
    usual_steps: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tolerance("eps_abs", self.eps_abs)
        check_tolerance("eps_rel", self.eps_rel)
        if not 0 < self.safety < 1:
            raise PrescoreError(f"safety: {self.safety} is not between 0 and 1; the paper uses 0.9")
        if not 0.5 <= self.exponent <= 1:
            raise PrescoreError(f"exponent: {self.exponent} is not in [0.5, 1]; the paper uses 0.9")
        if not self.first_step > 0:
            raise PrescoreError(f"first_step: {self.first_step} is not positive; the paper uses 0.01")
        if self.max_calls < 2:
            raise PrescoreError(f"max_calls: {self.max_calls} is less than the 2 calls of one step")

    @property
    def order(self) -> int:
        return 2 if self.extrapolate else 1

    def total_calls(self, steps: int, final_zero: bool = True) -> None:
        """Not known before: 2 for each step tried, 1 for the denoising step."""

    def check(self, event_shape: tuple[int, ...], levels: Tensor) -> None:
        levels = levels[levels > 0]
        away = (self.schedule.sigma(self.schedule.t(levels)) / levels - 1).abs()
        if not (away < 1e-6).all():
            raise PrescoreError(
                f"schedule: {type(self.schedule).__name__} has no time for sigma = {levels[away.argmax()]:.4g}; "
                f"it knows {self.schedule.sigma_min:.4g} to {self.schedule.sigma_max:.4g}"
            )

    def step(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        state: AdaptiveState | None,
        noise: NoiseSource,
    ) -> tuple[Tensor, AdaptiveState]:
        state = state or AdaptiveState.zero(x)
        calls, rejections = state.calls, state.rejections
        if sigma_next == 0:
            return denoise(x, sigma), replace(state, calls=calls + 1)
        first_draw = noise.draw
        t, end = self.schedule.t(sigma).to(x.device).repeat(len(x)), self.schedule.t(sigma_next).to(x.device)
        x = expand(self.schedule.s(t), x) * x
        previous, path, tried = x, BrownianMemory(x), 0
        wish = torch.where(state.h > 0, state.h, self.first_step)
        h = at_most(wish, t - end)
        while (active := t > end).any():
            h, w = path.increment(h, noise().to(x))
            if tried + 2 > self.max_calls or (active & ~(t - h < t)).any():
                raise unreached(
                    self.schedule.sigma(t[active]), tried, f"eps_rel = {self.eps_rel:g}, eps_abs = {self.eps_abs:g}"
                )
            lower, better = improved_euler(self.schedule, denoise, x, t, h, w)
            size = torch.maximum(lower.abs(), previous.abs())
            delta = (self.eps_rel * size).clamp_min(self.eps_abs)
            E = ((lower - better) / delta).square().flatten(1).mean(1).sqrt()
            accept = E <= 1
            if self.rejected == "bridge":
                path.remember(h, w, active & ~accept)
            tried, calls, rejections = tried + 2, calls + 2 * active, rejections + (active & ~accept)
            move = active & accept
            x = torch.where(rows(move, x), better if self.extrapolate else lower, x)
            previous = torch.where(rows(move, x), lower, previous)
            t = torch.where(move, torch.where(h < t - end, t - h, end), t)
            # No error at all would allow any step; the power needs a number.
            factor = quantised(self.safety * E.double().clamp_min(1e-100) ** -self.exponent)
            wish = torch.where(active, h * factor, wish)
            h = at_most(wish, t - end)
        # The draws of the next leg start at an index that no sample of the batch has a say in.
        noise.draw = first_draw + self.max_calls
        return x / expand(self.schedule.s(t), x), AdaptiveState(calls, rejections, wish)


def improved_euler(
    schedule: Schedule, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, h: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """x' and x'' of one step from t to t - h, both (B,), in the coordinates of the schedule, with the increment w."""

    def K(x: Tensor, t: Tensor) -> Tensor:
        sigma, g = schedule.sigma(t), schedule.g(t)
        s, s_sigma = expand(schedule.s(t), x), expand(schedule.s(t) * sigma, x)
        score = (s * denoise(x / s, sigma) - x) / s_sigma**2
        drift = expand(schedule.f(t), x) * x - expand(g, x) ** 2 * score
        return expand(g, x) * w - expand(h, x) * drift

    K1 = K(x, t)
    return x + K1, x + (K1 + K(x + K1, t - h)) / 2


class BrownianMemory:
    """What is known of the Brownian motions of B samples beyond the present time of each.

    It is a stack for each sample: lengths of consecutive intervals, the nearest on top, and the increments over them.
    """

    def __init__(self, x: Tensor) -> None:
        self.sample = torch.arange(len(x), device=x.device)
        self.depth = torch.zeros_like(self.sample)
        # Level 0 stands below every stack, so that the top of an empty one can be read.
        self.lengths, self.increments = x.new_zeros(1, len(x), dtype=torch.float64), torch.zeros_like(x)[None]

    def increment(self, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """A step of at most h that ends within the nearest interval if one is known, and its increment.

        h is (B,), z standard normal, (B, *event); the increment is new, or the bridge's if an interval is known.
        """
        known = self.depth > 0
        length = self.lengths[self.depth, self.sample]
        h = torch.where(known, at_most(h, length), h)
        part = torch.where(known & (length > 0), h / length, 0)
        w = expand(part, z) * self.increments[self.depth, self.sample]
        return h, w + expand((h * (1 - part)).sqrt(), w) * z

    def remember(self, h: Tensor, w: Tensor, rejected: Tensor) -> None:
        """Cut the first h off the nearest interval, and put it back as an interval of its own where it was rejected."""
        known = self.depth > 0
        top = self.depth, self.sample
        rest = torch.where(known, self.lengths[top] - h, 0)
        self.lengths[top] = rest
        self.increments[top] = torch.where(rows(known, w), self.increments[top] - w, 0)
        self.depth = self.depth - (known & (rest <= 0)).long() + rejected.long()
        if self.depth.max() == len(self.lengths):
            self.lengths = torch.cat([self.lengths, torch.zeros_like(self.lengths[:1])])
            self.increments = torch.cat([self.increments, torch.zeros_like(self.increments[:1])])
        index = self.depth[rejected], self.sample[rejected]
        self.lengths[index], self.increments[index] = h[rejected], w[rejected]
