"""Predictor-corrector sampling, plain and preconditioned (PDS).

A predictor moves from sigma to sigma_next along the reverse diffusion; a corrector is Langevin dynamics at a fixed
level, pulling the distribution back to p(x; sigma). With G^2 = sigma^2 - sigma_next^2 and an invertible M,

    predictor   x <- x + G^2 M M^T score(x, sigma) + G M z
    corrector   x <- x + eps M M^T score(x, sigma) + sqrt(2 eps) M z,    eps = 2 (r |M z| / |M M^T score|)^2

The step to sigma_next = 0 is the predictor's mean, x + sigma^2 M M^T score, without noise: D(x, sigma) if M = I.

What preconditioning keeps. The corrector keeps p(x; sigma) for any invertible M as eps -> 0 (Theorem 2 of the
paper). The predictor does not (its Theorem 3 would need a network trained on noise of covariance M M^T): on
Gaussian data of variance c in a coordinate that M multiplies by m, small steps of the predictor alone end at the
variance m^2 / (2 m^2 - 1) c. That is `form="paper"`, the algorithm as published: fast, and held in place by its
corrector. `form="marginal"` preconditions only the part of the predictor that is Langevin dynamics,

    x <- x + (G^2 - G^2/2) score + (G^2/2) M M^T score + G M z,

and keeps every marginal p(x; sigma) for any invertible M as the steps -> 0. With M = I the two are the same.

The step rule. Where T0 iterations are reduced to T0/c, Section 7 of the paper says, "we simultaneously expand the step
size from the original one eps_t to sqrt(c) eps_t". Its eps_t multiplies the noise: eps = eps_t^2 / 2 grows by c, and
r by sqrt(c), which `original_steps` = T0 does, r sqrt(T0/T) with T steps. The predictor's G does so by itself, as it
follows from the levels. The authors' code keeps r, and so does a sampler without `original_steps`. What the rule
changes is the noise that the corrector leaves: of many coordinates without data, which make up its norms, one
correction by M = I turns the variance w sigma^2 into

    w <- w - 4 r^2 + 4 r^2 (1 + r^2) / w,    at rest w = 1 + r^2,

1.03 for r = 0.16, and 1.51 and 2.28 by the rule with 50 and 20 steps of 1000.

Sources: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
https://arxiv.org/abs/2011.13456, Algorithms 1-5; Ma et al., "Preconditioned score-based generative models",
IJCV 2025, https://arxiv.org/abs/2302.06504, Algorithm 2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.precondition import Preconditioner
from prescore.samplers.base import Preconditionable, iterations_factor, score


def reverse_diffusion(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Reverse diffusion: x + G^2 score + G z. Weak and strong order 1."""
    variance = sigma**2 - sigma_next**2
    return variance, math.sqrt(variance)


def ancestral(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Ancestral: the exact p(x_next | x, x0 = D), x + G^2 score + (sigma_next / sigma) G z. Order 1."""
    variance = sigma**2 - sigma_next**2
    return variance, sigma_next / sigma * math.sqrt(variance)


def euler_maruyama(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Euler-Maruyama in h = log(sigma / sigma_next): x + 2 h sigma^2 score + sqrt(2 h) sigma z. Order 1."""
    h = math.log(sigma / sigma_next)
    return 2 * h * sigma**2, sigma * math.sqrt(2 * h)


def probability_flow(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Euler in sigma^2 for the probability-flow ODE: x + (G^2/2) score. Order 1, deterministic."""
    return (sigma**2 - sigma_next**2) / 2, 0.0


def no_predictor(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Only the corrector moves the state, until the last step denoises it."""
    return 0.0, 0.0


# Each predictor is its two weights: x <- x + drift * score + noise * z.
PREDICTORS = {
    "reverse-diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "euler-maruyama": euler_maruyama,
    "probability-flow": probability_flow,
    "none": no_predictor,
}
CHOICES = {
    "predictor": tuple(PREDICTORS),
    "corrector": ("langevin", "none"),
    "first": ("corrector", "predictor"),
    "form": ("paper", "marginal"),
    "norm": ("sample", "batch"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictorCorrector(Preconditionable):
    """Predictor-corrector sampler of Song et al., preconditioned as in Ma et al. if M is given.

    Args:
        predictor: reverse-diffusion, ancestral, euler-maruyama, probability-flow or none.
        corrector: langevin or none.
        corrector_steps: Langevin steps at each level.
        snr: r in the corrector's step size (0.16 for CIFAR-10, 0.17 for CelebA, 0.15 for FFHQ at 1024 pixels, 0.075 for
            LSUN and at 256 pixels). Models of a published configuration bring their own.
        original_steps: T0, the number of steps that snr is meant for (1000 for CIFAR-10, 2000 for FFHQ in the papers).
            With T steps snr is then multiplied by sqrt(T0 / T), the rule of the papers' text. By default it is what it
            is for any T, as in the authors' code, which leaves less noise behind at few steps.
        first: what acts first in a step. "corrector": correct at sigma, then predict (the authors' code);
            "predictor": predict, then correct at sigma_next (the papers' Algorithm 2).
        form: "paper" preconditions the whole predictor, "marginal" only its Langevin part (see the module).
        norm: "sample" takes the norms in eps for each sample; "batch" averages them over the batch as the authors'
            code does, which makes a sample depend on its batch-mates.
        precondition_prior: start from sigma_max M n, as the authors' code, instead of sigma_max n.
            By default with form="paper" and not with form="marginal".
        preconditioner: M; none is the plain sampler.

    Raises:
        PrescoreError: an unknown choice, a snr or number of steps that is not positive, or a
            preconditioner or skew operator that no part of the sampler would use.
    """

    predictor: str = "reverse-diffusion"
    corrector: str = "langevin"
    corrector_steps: int = 1
    snr: float = 0.16
    original_steps: int | None = None
    first: str = "corrector"
    form: str = "paper"
    norm: str = "sample"
    precondition_prior: bool | None = None

    family: ClassVar[str] = "predictor-corrector"
    choices: ClassVar[Mapping[str, Sequence[str]]] = CHOICES

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.snr > 0:
            raise PrescoreError(f"snr: {self.snr} is not positive; published models have 0.075 (LSUN) to 0.17 (CelebA)")
        iterations_factor(self.original_steps, 1)
        if self.corrector_steps < 1:
            raise PrescoreError(f"corrector_steps: {self.corrector_steps} is not positive; use corrector='none'")
        if self.predictor == self.corrector == "none":
            raise PrescoreError("predictor and corrector are both 'none': nothing would move the state")
        if self.preconditioner is not None and self.corrector == "none":
            self._check_use(self.preconditioner)

    def _check_use(self, preconditioner: Preconditioner) -> None:
        """Refuse what a predictor alone would not use."""
        langevin_part = self.form == "marginal" and self.stochastic_predictor
        if self.form == "marginal" and not langevin_part:
            raise PrescoreError(f"form: 'marginal' leaves predictor {self.predictor!r} nothing to precondition")
        if preconditioner.skew is not None and not langevin_part:
            raise PrescoreError("skew: only Langevin dynamics can use it; add a corrector or form='marginal'")

    def unused(self, levels: Tensor) -> dict[str, str]:
        idle = super().unused(levels)
        if self.corrector == "none":
            idle |= dict.fromkeys(("snr", "original_steps", "corrector_steps", "first", "norm"), "corrector = none")
        if self.preconditioner is None:
            idle |= dict.fromkeys(("form", "precondition_prior"), "preconditioner = none")
        return idle

    @property
    def corrector_snr(self) -> float:
        """r of each correction: snr, or snr sqrt(T0 / T)."""
        steps = (self.steps or self.usual_steps) if self.grid is None else len(self.grid) - 1
        return self.snr * math.sqrt(iterations_factor(self.original_steps, steps))

    @property
    def stochastic_predictor(self) -> bool:
        return self.predictor not in ("probability-flow", "none")

    @property
    def stochastic(self) -> bool:
        return self.stochastic_predictor or self.corrector != "none"

    def total_calls(self, steps: int, final_zero: bool = True) -> int:
        corrections = 0 if self.corrector == "none" else self.corrector_steps
        idle = 1 if final_zero and self.first == "predictor" else 0
        predictions = (1 if final_zero else 0) if self.predictor == "none" else steps
        return predictions + corrections * (steps - idle)

    def initial(self, noise: NoiseSource, sigma: Tensor) -> Tensor:
        use = self.form == "paper" if self.precondition_prior is None else self.precondition_prior
        n = noise()
        return sigma * (self.M.prior(n) if use else n)

    def step(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: Any, noise: NoiseSource
    ) -> tuple[Tensor, Any]:
        if self.first == "corrector":
            x = self.correct(denoise, x, sigma, noise)
        x = self.predict(denoise, x, sigma, sigma_next, noise)
        if self.first == "predictor" and sigma_next > 0:
            x = self.correct(denoise, x, sigma_next, noise)
        return x, state

    def predictor_weights(self, sigma: float, sigma_next: float) -> tuple[float, float, float]:
        """Weights (a, b, c) of x + a score + b M M^T score + c M z."""
        if sigma_next == 0:
            drift, std = sigma**2, 0.0
        else:
            drift, std = PREDICTORS[self.predictor](sigma, sigma_next)
        # form="marginal": std^2/2 is the weight of the score in Langevin dynamics with noise std.
        langevin = drift if self.form == "paper" else std**2 / 2
        return drift - langevin, langevin, std

    def predict(self, denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: NoiseSource) -> Tensor:
        a, b, c = self.predictor_weights(sigma.item(), sigma_next.item())
        if a == b == 0:
            return x
        g = score(denoise, x, sigma)
        if a:
            x = x + a * g
        if c:
            return x + self.M.combine(b, g, c, noise(), skew=self.form == "marginal")
        return x + self.M.drift(b * g, skew=False) if b else x

    def correct(self, denoise: Denoise, x: Tensor, sigma: Tensor, noise: NoiseSource) -> Tensor:
        for _ in range(0 if self.corrector == "none" else self.corrector_steps):
            G, Z = self.M.analyse(score(denoise, x, sigma), noise())
            noise_norm, drift_norm = self.M.norm(Z), self.M.norm(G)
            if self.norm == "batch":
                noise_norm, drift_norm = noise_norm.mean(), drift_norm.mean()
            eps = 2 * (self.corrector_snr * noise_norm / drift_norm) ** 2
            eps = eps.reshape(eps.shape + (1,) * (x.ndim - eps.ndim))
            # eps G + sqrt(2 eps) Z, factored into two fused passes.
            x = torch.addcmul(x, (2 * eps).sqrt(), self.M.synthesise(torch.addcmul(Z, (eps / 2).sqrt(), G)))
        return x

    def diagnosis(self, event_shape: tuple[int, ...], levels: Tensor) -> str:
        """In a coordinate with no data a step multiplies x by 1 - (a + b m^2) / sigma^2: beyond -1 it grows."""
        gain = self.M.largest_gain(event_shape)
        pairs = pairwise(levels.tolist())
        reach = max((a + b * gain**2) / s**2 for s, t in pairs for a, b, _ in [self.predictor_weights(s, t)])
        if reach <= 2:
            return ""
        return (
            f"the predictor is unstable, its largest step is {reach:.3g} where 2 is the limit (the preconditioner "
            f"multiplies a coordinate by up to {gain:.3g}); raise alpha or take more steps"
        )
