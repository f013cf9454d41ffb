"""Annealed Langevin dynamics, plain and preconditioned.

At each noise level sigma, from the highest to the lowest sigma_L, n steps of Langevin dynamics

    x <- x + a (M M^T + omega S) score(x, sigma) + sqrt(2 a) M z,    a = step_size (sigma / sigma_L)^2

and at the end, if the grid ends in 0, the denoising step x <- x + sigma_L^2 score(x, sigma_L) = D(x, sigma_L).
As a -> 0 the dynamics keeps p(x; sigma) for every invertible M and skew-symmetric S (Theorem 2 of Ma et al.).

The papers' step rule, "expand the step size from eps_t to sqrt(c) eps_t" with T0/c instead of T0 steps (Section 7 of Ma
et al.), is of the size eps_t of the noise, and multiplies a = eps_t^2 / 2 by c (`original_steps`). NCSN's 1000 steps of
0.2 sigma^2 reach the limit of stability, 2 sigma^2, at T = 100.

Sources: Song & Ermon, "Generative modeling by estimating gradients of the data distribution", NeurIPS 2019,
https://arxiv.org/abs/1907.05600, Algorithm 1; Song & Ermon, "Improved techniques for training score-based
generative models", NeurIPS 2020, https://arxiv.org/abs/2006.09011, Technique 4; Ma et al., "Preconditioned
score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504, Eq. 20.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.samplers.base import Preconditionable, iterations_factor, score

PRIORS = ("uniform", "gaussian")


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnealedLangevin(Preconditionable):
    """Annealed Langevin dynamics of NCSN and NCSNv2.

    Args:
        level_steps: Langevin steps n at each noise level (NCSN 100; NCSNv2 3 to 5).
        step_size: epsilon, the step at the lowest level, in the units of the data squared (NCSN 2e-5, NCSNv2
            6.2e-6 for CIFAR-10). By default `usual_step_size`, from the grid and level_steps.
        original_steps: T0, the number of Langevin steps at all levels together that step_size is meant for (NCSN 1000,
            NCSNv2 1160 for CIFAR-10). With T of them step_size is then multiplied by T0 / T, the rule of the papers'
            text; by default it is what it is.
        denoise: take the last step of a grid that ends in 0 as a denoising step (NCSNv2). False leaves the noise
            of the lowest level in the samples, as NCSN does.
        prior: "uniform" on [0, 1), as in NCSN's code, or "gaussian", sigma_max M n.
        preconditioner: M, with or without a skew-symmetric term; none is the plain sampler. A uniform prior is
            not preconditioned.

    Raises:
        PrescoreError: an unknown prior, or a number that is not positive.
    """

    level_steps: int = 5
    step_size: float | None = None
    original_steps: int | None = None
    denoise: bool = True
    prior: str = "uniform"

    family: ClassVar[str] = "annealed Langevin"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"prior": PRIORS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level_steps < 1:
            raise PrescoreError(f"level_steps: {self.level_steps} is not positive")
        if self.step_size is not None and not self.step_size > 0:
            raise PrescoreError(f"step_size: {self.step_size} is not positive")
        iterations_factor(self.original_steps, 1)

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        return steps * self.level_steps + (1 if final_zero and self.denoise else 0)

    def initial(self, noise: NoiseSource, sigma: Tensor) -> Tensor:
        return noise.uniform() if self.prior == "uniform" else sigma * self.M.prior(noise())

    def start(self, levels: Tensor) -> float:
        """The step size over sigma^2, the same at each level."""
        positive = levels[levels > 0]
        lowest = positive[-1].item()
        if self.step_size is not None:
            c = iterations_factor(self.original_steps, (len(levels) - 1) * self.level_steps)
            return c * self.step_size / lowest**2
        return usual_step_size((positive[0] / positive[-1]).item() ** (1 / max(len(positive) - 1, 1)), self.level_steps)

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: float, noise: NoiseSource
    ) -> tuple[Tensor, Any]:
        a = state * sigma.item() ** 2
        for _ in range(self.level_steps):
            x = x + self.M.combine(a, score(denoise, x, sigma), (2 * a) ** 0.5, noise(), skew=True)
        if sigma_next == 0 and self.denoise:
            x = denoise(x, sigma)
        return x, state

    def unused(self, levels: Tensor) -> dict[str, str]:
        idle = {} if levels[-1] == 0 else {"denoise": "levels that do not end in 0"}
        return idle if self.step_size else idle | {"original_steps": "the usual step_size, which the levels decide"}

    def diagnosis(self, event_shape: tuple[int, ...], levels: Tensor) -> str:
        """In a coordinate with no data, a step multiplies x by 1 - a m^2 / sigma^2: beyond -1 it grows."""
        reach = self.start(levels) * self.M.largest_gain(event_shape) ** 2
        if reach <= 2:
            return ""
        return f"Langevin dynamics is unstable (step {reach:.3g}, the limit is 2); lower step_size or raise alpha"


def usual_step_size(ratio: float, level_steps: int) -> float:
    """Step size over sigma^2 by NCSNv2's Technique 4: the one that best carries the variance from level to level.

    With data concentrated on a point, n steps of step e sigma^2 turn the variance ratio^2 sigma^2 left by the level
    above into [(1 - e)^(2n) (ratio^2 - v) + v] sigma^2, v = 2 / (2 - e). This is at least sigma^2; the least is taken.

    Args:
        ratio: sigma_{i-1} / sigma_i >= 1 of neighbouring levels.  level_steps: n.
    """
    e = torch.logspace(-8, 0, 20001, dtype=torch.float64)
    v = 2 / (2 - e)
    return e[((1 - e) ** (2 * level_steps) * (ratio**2 - v) + v).argmin()].item()
