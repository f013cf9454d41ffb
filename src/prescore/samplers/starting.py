"""Where samples start: from noise alone, or from noisy data of the Gaussian model.

Noisy data at sigma_max are N(mu, C + sigma_max^2) as far as the Gaussian model of the data goes; noise alone,
N(0, sigma_max^2), lacks their mean and their largest variances. That is what a perfect network has to start from. A
trained one errs most at the highest noise, in the mean above all, and what it makes of either start is measured:
`measure_start` draws samples from both with the same noise and takes, in the coordinates X of the Gaussian model, the
squared distance of their mean and deviations from those of the data,

    sum_k (mean X_k)^2 + (deviation X_k - sqrt C_k)^2.

Noise comes in pairs z and -z, so that what is linear in it is not in the mean. The standard error of the difference of
the two distances is that of a jackknife over blocks of pairs; `better_start` takes noise alone only where it is nearer
by more than TOLD of it.
"""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import SamplingError
from prescore.gaussian import Gaussian
from prescore.jackknife import BLOCKS, block_sizes, deviations, standard_error
from prescore.noise import NoiseSource
from prescore.operators import Pixel
from prescore.samplers.base import sample
from prescore.samplers.calibrated import Runs
from prescore.samplers.table import make_sampler

STARTS = ("gaussian", "noise")
TOLD = 2.0  # standard errors
START_STEPS = 6  # of the runs, one network call each
USUAL_STARTS = 512  # samples from either start


def from_noise(event_shape: tuple[int, ...]) -> Gaussian:
    """The start from noise alone, as that from the noisy data of a model that knows nothing: N(0, 0)."""
    nothing = torch.zeros(event_shape, dtype=torch.float64)
    return Gaussian(nothing, Pixel(nothing), label="noise")


def better_start(starts: Mapping[str, float]) -> str:
    """The start to take, by what `measure_start` returned."""
    gain = starts["gaussian"] - starts["noise"]
    return "noise" if gain > TOLD * starts["error"] else "gaussian"


def measure_start(
    denoiser: Denoiser,
    reference: Gaussian,
    levels: Tensor,
    *,
    samples: int = USUAL_STARTS,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, float]:
    """By start the squared distance of samples from the data, in the square of their units, and the standard "error" of
    the difference of the two. A start whose samples diverge is infinitely far.

    Args:
        denoiser, reference, condition, seed, batch_size, progress: as of `prescore.measure_steps`.
        levels: of the runs, from the highest to 0.
        samples: from either start, at least 2; pairs of them are drawn together.

    Raises:
        SamplingError: the model returned a wrong shape.

    Cost: one network call for each sample, start and step.
    """
    runs = Runs(denoiser, reference, range(seed, seed + (samples + 1) // 2), condition or {}, batch_size, progress)
    solver = make_sampler("p-ode-3m", grid=levels, reference=reference)
    C = reference.variances.expand(reference.analyse(torch.zeros(1, *reference.event_shape)).shape).flatten()
    pairs, half = len(runs.seeds), max(1, batch_size // 2)
    sizes, found, without = block_sizes(pairs), {}, {}
    block = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    with runs.bar(len(STARTS) * len(range(0, pairs, half)), "batch") as bar:
        bar.set_description("starts")
        for name, start in zip(STARTS, (reference, from_noise(reference.event_shape)), strict=True):
            sums = torch.zeros(len(sizes), 2, len(C), dtype=torch.float64)  # of X and of its square, by block
            try:
                for first in range(0, pairs, half):
                    last = min(first + half, pairs)
                    z = NoiseSource(runs.seeds[first:last], denoiser.event_shape)()
                    rows = runs.rows(first, last)
                    x = sample(
                        denoiser,
                        solver,
                        seeds=[*range(2 * (last - first))],
                        batch_size=2 * (last - first),
                        initial=start.noisy(torch.cat([z, -z]), levels[0]),
                        condition={key: torch.cat([row, row]) for key, row in rows.items()},
                        progress=False,
                    )
                    X = reference.analyse(x.cpu().double()).flatten(1)
                    sums.index_add_(0, block[first:last].repeat(2), torch.stack([X, X.square()], 1))
                    bar.update()
            except SamplingError:  # few steps of a network that does not fit may diverge
                found[name] = inf
                continue
            count = 2 * torch.tensor(sizes, dtype=torch.float64)

            def distance(kept: Tensor, counted: Tensor) -> float:
                mean, square = kept.sum(0) / counted.sum()
                deviation = (square - mean.square()).clamp(min=0).sqrt()
                return (mean.square() + (deviation - C.sqrt()).square()).sum().item()

            found[name] = distance(sums, count)
            others = [torch.arange(len(sizes)) != g for g in range(BLOCKS if len(sizes) >= BLOCKS else 0)]
            without[name] = [distance(sums[kept], count[kept]) for kept in others]
    error = inf
    if len(without) == len(STARTS) and without["noise"]:
        apart = [a - b for a, b in zip(*without.values(), strict=True)]
        error = standard_error(deviations(apart, pairs)) or 0.0
    return {**found, "error": 0.0 if inf in found.values() else error}
