"""Subspace diffusion: high noise levels at a low resolution, each with a network of its own.

At a high noise level the fine detail of an image is all noise. There it suffices to run the diffusion in a subspace,
with a smaller network, and to come back to the full space when the detail begins to matter.

The subspace is that of images constant on blocks of b pixels. With the orthonormal projection

    y = U^T x = (sum over a block) / sqrt(b) = sqrt(b) (mean over a block),    x = U y + P x,    P = I - U U^T,

y = U^T x0 + sigma n has noise of the *same* level sigma in every coordinate, so that both spaces share one clock. A
network trained on plain block means m = y / sqrt(b) sees their noise at the level sigma / sqrt(b) (sigma / 2 for
2 x 2 blocks): `orthonormal` turns it into one for y, D(y, sigma) = sqrt(b) D_m(y / sqrt(b), sigma / sqrt(b)).

Coming back at sigma, the missing part is drawn. The data's detail P x0 is taken to be Gaussian, with mean P mu and
the same variance v in each of its coordinates, and independent of y:

    x = U y + P (mu + sqrt(v + sigma^2) z),    z ~ N(0, I).

Where this holds the samples are exact, up to the samplers' own error. Otherwise the higher the level of the switch the
better it holds: relative to the noise, what is neglected falls as the variance of the detail over sigma^2. v is the
mean square of P (x0 - mu) over its (1 - 1/b) n coordinates, not over the n pixels, by which it would come out too
small by 1 - 1/b (3/4 for 2 x 2). The authors' code takes P mu = 0 and jumps any number of halvings at once.

Two ways to run it, equal in distribution as the steps -> 0:

    `subspace_sample`    as published: stages, each with its own denoiser and sampler, and the detail drawn between
                         them. High levels cost nothing in the full space.
    `subspace_denoiser`  the same model as one denoiser in the full space: above the switch U D(U^T x) for the
                         subspace and the exact denoiser of N(P mu, v) for the detail. It goes wherever a denoiser
                         goes: any sampler, adaptive or multistep across the switch, preconditioned or not.

Source: Jing et al., "Subspace diffusion generative models", ECCV 2022, https://arxiv.org/abs/2205.01490, sections 3
and 4; code https://github.com/bjing2016/subspace-diffusion.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prescore.denoiser import Denoiser, expand, per_sample
from prescore.errors import PrescoreError
from prescore.gaussian import cosine_gaussian
from prescore.grid import check_grid
from prescore.noise import NoiseSource, check_seeds
from prescore.operators.cosine import cosine_transform
from prescore.samplers.base import Progress, Sampler, sample
from prescore.statistics import Statistics

# Draws of one stage are numbered from a multiple of this, so that no stage shares any with another.
DRAWS = 2**40


@dataclass(frozen=True)
class BlockMeans:
    """The subspace of events constant on blocks.

    Args:
        fine: shape of an event, such as (3, 32, 32).
        coarse: shape of its block means, such as (3, 16, 16); each number divides that of `fine`.

    Raises:
        PrescoreError: the shapes are not of this kind.
    """

    fine: tuple[int, ...]
    coarse: tuple[int, ...]

    def __post_init__(self) -> None:
        same = len(self.fine) == len(self.coarse) and self.fine != self.coarse
        if not same or any(n % m for n, m in zip(self.fine, self.coarse, strict=True)):
            raise PrescoreError(
                f"shapes: {self.coarse} are not block means of {self.fine}, as (3, 16, 16) are of (3, 32, 32)"
            )

    @property
    def size(self) -> int:
        """b, pixels in a block."""
        return math.prod(self.fine) // math.prod(self.coarse)

    def project(self, x: Tensor) -> Tensor:
        """U^T x: (..., *fine) to (..., *coarse)."""
        for axis, (n, m) in enumerate(zip(self.fine, self.coarse, strict=True), start=-len(self.fine)):
            x = x.unflatten(axis, (m, n // m)).sum(axis)
        return x / math.sqrt(self.size)

    def embed(self, y: Tensor) -> Tensor:
        """U y: (..., *coarse) to (..., *fine)."""
        for axis, (n, m) in enumerate(zip(self.fine, self.coarse, strict=True), start=-len(self.fine)):
            y = y.repeat_interleave(n // m, axis)
        return y / math.sqrt(self.size)

    def detail(self, x: Tensor) -> Tensor:
        """P x = x - U U^T x."""
        return x - self.embed(self.project(x))

    def moments(self, data: Tensor) -> tuple[Tensor, float]:
        """Mean P mu and variance v of the detail of data, (N, *fine), as `Stage` and `subspace_denoiser` take them."""
        detail = self.detail(data.double())
        mean = detail.mean(0)
        coordinates = len(data) * (math.prod(self.fine) - math.prod(self.coarse))
        return mean, (detail - mean).square().sum().item() / coordinates

    def moments_of(self, statistics: Statistics) -> tuple[Tensor, float]:
        """The same of statistics, exact if the data's cosine coefficients are uncorrelated.

        Raises:
            PrescoreError: the statistics are of other events, or blocks go over an axis that they do not transform.
        """
        reference = cosine_gaussian(statistics)
        reference.check(self.fine)
        axes = statistics.moments.axes
        if self.fine[:-axes] != self.coarse[:-axes]:
            raise PrescoreError(f"shapes: blocks of {self.fine} to {self.coarse} go beyond the last {axes} axes")
        kept = torch.ones(())  # the share of each cosine that block means keep: a product over the axes
        for n, m in zip(self.fine[-axes:], self.coarse[-axes:], strict=True):
            basis = cosine_transform(torch.eye(n, dtype=torch.float64), 1, inverse=True)  # a row for each cosine
            sums = basis.unflatten(1, (m, n // m)).sum(-1) / math.sqrt(n // m)
            kept = kept.unsqueeze(-1) * sums.square().sum(1)
        coordinates = math.prod(self.fine) - math.prod(self.coarse)
        missing = (reference.variances * (1 - kept)).expand(self.fine).sum().item()
        return self.detail(reference.mean.double()), missing / coordinates


def orthonormal(denoiser: Denoiser, blocks: BlockMeans) -> Denoiser:
    """Denoiser of y = sqrt(b) m from one that was trained on the block means m themselves."""
    scale = math.sqrt(blocks.size)
    return replace(
        denoiser,
        function=Scaled(denoiser, scale),
        sigma_min=scale * denoiser.sigma_min,
        sigma_max=scale * denoiser.sigma_max,
        data_range=denoiser.data_range and (scale * denoiser.data_range[0], scale * denoiser.data_range[1]),
    )


@dataclass(frozen=True, eq=False)
class Scaled:
    """The denoiser of `scale` times what `model` is one of."""

    model: Denoiser
    scale: float

    def __call__(self, y: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        return self.scale * self.model(y / self.scale, sigma / self.scale, **condition)


def subspace_denoiser(
    fine: Denoiser, coarse: Denoiser, switch: float, *, variance: float, mean: Tensor | float = 0.0
) -> Denoiser:
    """One denoiser in the full space that calls `coarse` above the noise level `switch` and `fine` at and below it.

    Args:
        fine: denoiser of the full space.
        coarse: of the block means in orthonormal coordinates (see `orthonormal`); it may itself be the result of this
            function, which makes a chain.
        switch: noise level, at which both are meant to be used.
        variance, mean: v and mu of the detail, such as from `BlockMeans.moments`.

    Returns:
        A denoiser with the noise range of both together.

    Raises:
        PrescoreError: coarse is not of block means of fine, the switch is out of their range, or variance < 0.
    """
    blocks = BlockMeans(tuple(fine.event_shape), tuple(coarse.event_shape))
    _check_switch(switch, variance, coarse, fine)
    return replace(fine, function=Joined(fine, coarse, blocks, switch, variance, mean), sigma_max=coarse.sigma_max)


@dataclass(frozen=True, eq=False)
class Joined:
    """The function of `subspace_denoiser`, whose arguments these are."""

    fine: Denoiser
    coarse: Denoiser
    blocks: BlockMeans
    switch: float
    variance: float
    mean: Tensor | float

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        above = per_sample(sigma, x) > self.switch
        if not above.any():
            return self.fine(x, sigma, **condition)
        if above.all():
            return self._embedded(x, sigma, **condition)
        out = torch.empty_like(x)
        for rows, function in ((above, self._embedded), (~above, self.fine)):
            out[rows] = function(x[rows], sigma[rows], **{name: value[rows] for name, value in condition.items()})
        return out

    def _embedded(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        y = self.blocks.project(x).to(self.coarse.device, self.coarse.dtype)
        y0 = self.blocks.embed(self.coarse(y, sigma.to(y), **condition).to(x))
        mu = torch.as_tensor(self.mean).to(x)
        return y0 + self.blocks.detail(mu + self.variance / (self.variance + expand(sigma, x) ** 2) * (x - mu))


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of `subspace_sample`.

    Args:
        denoiser: in the orthonormal coordinates of the part's space (see `orthonormal`).
        sampler: any; its own steps or grid are not used, except the last stage's.
        below: the part starts at the first noise level that is not above this; inf for the first part.
        variance, mean: v and mu of the detail that this space has and the one before has not (`BlockMeans.moments`);
            of no meaning for the first.
    """

    denoiser: Denoiser
    sampler: Sampler
    below: float = math.inf
    variance: float = 0.0
    mean: Tensor | float = 0.0


@dataclass(frozen=True, eq=False)
class SubspaceSamples:
    """Result of `subspace_sample`.

    Attributes:
        x: (N, *event) of the last stage.
        calls: network calls for a batch in each stage, the most that any batch needed, by the stage's event shape.
    """

    x: Tensor
    calls: dict[tuple[int, ...], int]


def subspace_sample(
    stages: Sequence[Stage],
    *,
    seeds: Iterable[int],
    batch_size: int | None = None,
    progress: bool = True,
    condition: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
) -> SubspaceSamples:
    """Draw one sample for each seed, from the coarsest space to the full one.

    The noise levels are one grid for all stages: that of the last sampler, if it has one, else its usual grid in its
    number of steps, from the first denoiser's sigma_max to the last one's sigma_min.

    Args:
        stages: from the coarsest space to the full one.
        seeds, batch_size, progress, condition, dtype: as for `sample`. Sample k is a function of seed k alone.

    Raises:
        PrescoreError: the stages do not fit each other, or one has no step to take.
    """
    numbers, calls = check_seeds(seeds), dict[tuple[int, ...], int]()
    if not stages or stages[0].below != math.inf:
        raise PrescoreError("stages: at least one is needed, and the first starts at the highest level (below=inf)")
    if any(getattr(stage.sampler, "original_steps", None) for stage in stages):
        raise PrescoreError(
            "original_steps: counts the steps of a whole run; give each stage the step size that is meant"
        )
    levels = stages[-1].sampler.levels(stages[-1].denoiser.sigma_min, stages[0].denoiser.sigma_max)
    starts = [int((levels > stage.below).sum()) for stage in stages]
    x: Tensor | None = None
    for i, (stage, first, last) in enumerate(zip(stages, starts, [*starts[1:], len(levels) - 1], strict=True)):
        if last <= first:
            raise PrescoreError(
                f"stages: no step is left for stage {i + 1} of {len(stages)}; take more, or move its levels"
            )
        grid, shape = check_grid(levels[first : last + 1]), tuple(stage.denoiser.event_shape)
        if x is not None:
            before = stages[i - 1].denoiser
            _check_switch(grid[0].item(), stage.variance, before, stage.denoiser)
            z = NoiseSource(numbers, shape, dtype=dtype, device=stage.denoiser.device, draw=i * DRAWS)()
            x = add_detail(BlockMeans(shape, tuple(before.event_shape)), x, grid[0], z, stage.variance, stage.mean)

        def count(now: Progress, shape: tuple[int, ...] = shape) -> None:
            calls[shape] = max(calls.get(shape, 0), now.calls)

        x = sample(
            stage.denoiser,
            replace(stage.sampler, steps=None, grid=grid),
            seeds=numbers,
            batch_size=batch_size,
            callback=count,
            progress=progress,
            condition=condition,
            dtype=dtype,
            initial=x,
            draw=i * DRAWS + 1,
        )
    assert x is not None
    return SubspaceSamples(x, calls)


def add_detail(
    blocks: BlockMeans, y: Tensor, sigma: Tensor, z: Tensor, variance: float, mean: Tensor | float = 0.0
) -> Tensor:
    """x = U y + P (mu + sqrt(v + sigma^2) z) from y (B, *coarse), z standard normal (B, *fine); x is like z."""
    mu = torch.as_tensor(mean).to(z)
    return blocks.embed(y.to(z)) + blocks.detail(mu + (variance + sigma.item() ** 2) ** 0.5 * z)


def _check_switch(switch: float, variance: float, coarse: Denoiser, fine: Denoiser) -> None:
    low, high = coarse.sigma_min, fine.sigma_max
    if not low <= switch <= high:
        raise PrescoreError(
            f"switch: sigma = {switch:.4g} is not where both models may be used, {low:.4g} to {high:.4g}"
        )
    if not 0 <= variance < math.inf:
        raise PrescoreError(f"variance: {variance} of the detail is not a number >= 0")
