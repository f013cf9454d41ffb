"""DDPM's ancestral sampling and DDIM: draw the next state from the bridge between the prediction of x0 and x.

Given x0, a state x = x0 + s n and a lower level t < s, every variance v <= t^2 gives a bridge

    q(x_t | x, x0) = N(x0 + sqrt(t^2 - v) (x - x0) / s, v)

whose marginal is x0 + t n (Song et al., eq. 7; in unscaled coordinates it does not depend on the schedule). The
sampler puts the prediction D(x, s) in the place of x0. With

    v = eta^2 t^2 (1 - t^2 / s^2)

    x <- D + (t / s) sqrt(1 - eta^2 + eta^2 t^2 / s^2) (x - D) + sqrt(v) z

eta = 1 is the bridge of the forward diffusion itself: DDPM, the `ancestral` predictor. eta = 0 is deterministic: the
exponential integrator of noise prediction, x <- D + (t / s) (x - D), Euler in sigma for the probability-flow ODE.

What DDPM has two names for. Its posterior variance beta-tilde ("small") is v; its beta ("large") is, unscaled,
(s^2 - t^2) (1 + t^2) / (1 + s^2). Both are the case c = 0 and c = 1 of

    (s^2 - t^2) (c + t^2) / (c + s^2),

the exact variance of x_t given x for data N(0, c I) with D exact. c -> infinity is reverse diffusion. "Large" is thus
right for data of unit variance alone, which is why it depends on their units and small does not.

In public code: the DDIM sampler of azula 0.11 multiplies the variance by eta instead of eta^2, so that its eta = 0.25
is 0.5 here and in the paper (they agree at 0 and 1). The DDPM scheduler of diffusers 0.42 leaves out the last noise
only if the last time is 0; with `timestep_spacing="trailing"` and "fixed_large" it adds noise to its result.

Sources: Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020, https://arxiv.org/abs/2006.11239,
Algorithm 2 and section 3.2; Song et al., "Denoising diffusion implicit models", ICLR 2021,
https://arxiv.org/abs/2010.02502, eq. 7, 12 and 16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.grid import uniform_vp
from prescore.noise import NoiseSource
from prescore.samplers.base import Sampler

VARIANCES = ("small", "large")

# What is left of x - D, and the standard deviation of the noise, in each step to come.
Weights = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class DDIM(Sampler):
    """x <- D + kept (x - D) + std z, with the weights of the module's bridge. The step to 0 returns D.

    Its usual levels are uniform in the time of the VP schedule with linear betas, as those of DDPM's networks.

    Args:
        eta: share of the bridge's randomness, from 0 (deterministic) to 1 (DDPM).

    Raises:
        PrescoreError: eta is outside [0, 1].
    """

    eta: float = 0.0

    family: ClassVar[str] = "DDIM"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise PrescoreError(f"eta: {self.eta} is outside 0 (deterministic) to 1 (DDPM)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def usual_levels(self, sigma_min: float, sigma_max: float, steps: int) -> Tensor:
        """T levels uniform in the time of the VP schedule from sigma_max to sigma_min, then 0."""
        return uniform_vp(steps, sigma_min, sigma_max, final_zero=True)

    def bridge_variance(self, s: Tensor, t: Tensor) -> Tensor:
        """v = eta^2 t^2 (1 - t^2 / s^2)."""
        return self.eta**2 * t**2 * (1 - t**2 / s**2)

    def kept(self, s: Tensor, t: Tensor) -> Tensor:
        """sqrt(t^2 - v) / s, without subtracting nearly equal numbers."""
        return t / s * (1 - self.eta**2 + self.eta**2 * t**2 / s**2).sqrt()

    def noise_variance(self, s: Tensor, t: Tensor) -> Tensor:
        """Variance of the noise that each step adds, from the levels s to t, (T,); not used where t = 0."""
        return self.bridge_variance(s, t)

    def start(self, levels: Tensor) -> Weights:
        s, t = levels[:-1], levels[1:]
        std = torch.where(t > 0, self.noise_variance(s, t).sqrt(), 0.0)
        return tuple(zip(self.kept(s, t).tolist(), std.tolist(), strict=True))

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: Weights, noise: NoiseSource
    ) -> tuple[Tensor, Weights]:
        kept, std = state[0]
        x = torch.lerp(denoise(x, sigma), x, kept)
        if std > 0:
            x = x.add_(noise(), alpha=std)
        return x, state[1:]


@dataclass(frozen=True, kw_only=True, eq=False)
class DDPM(DDIM):
    """Ancestral sampling of DDPM: the bridge with eta = 1.

    Args:
        variance: "small", beta-tilde, the bridge's own, exact for data that are one point; or "large", beta, exact
            for data N(0, I) in the units in which x = x0 + sigma n.

    Raises:
        PrescoreError: an unknown variance, or another eta.
    """

    eta: float = 1.0
    variance: str = "small"

    choices: ClassVar[Mapping[str, Sequence[str]]] = {"variance": VARIANCES}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta != 1:
            raise PrescoreError(f"eta: {self.eta} given, but DDPM is eta = 1; sampler 'ddim' takes others")

    def noise_variance(self, s: Tensor, t: Tensor) -> Tensor:
        if self.variance == "small":
            return self.bridge_variance(s, t)
        return (s**2 - t**2) * (1 + t**2) / (1 + s**2)
