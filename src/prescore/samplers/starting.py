"""Where samples start: from noise alone, or from noisy data of the Gaussian model.

Noisy data at sigma_max are N(mu, C + sigma_max^2) as far as the Gaussian model of the data goes; noise alone,
N(0, sigma_max^2), lacks their mean and their largest variances. That is what a perfect network has to start from. A
trained one errs most at the highest noise, in the mean above all, and what it makes of either start is measured:
`measure_start` draws samples from both with the same noise and takes, in the coordinates X of the Gaussian model, the
squared distance of their mean and deviations from those of the data,

    sum_k (mean X_k)^2 + (deviation X_k - sqrt C_k)^2.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import SamplingError
from prescore.gaussian import Gaussian
from prescore.noise import NoiseSource
from prescore.operators import Pixel
from prescore.samplers.base import sample
from prescore.samplers.calibrated import Runs
from prescore.samplers.table import make_sampler

STARTS = ("gaussian", "noise")
START_STEPS = 6  # of the runs, one network call each
USUAL_STARTS = 512  # samples from either start


def from_noise(reference: Gaussian) -> Gaussian:
    """The start from noise alone, as that from the noisy data of a model that knows nothing: N(0, 0)."""
    nothing = torch.zeros_like(reference.mean, dtype=torch.float64).expand(reference.event_shape)
    return Gaussian(nothing, Pixel(nothing), label="noise")


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
    """By start the squared distance of samples from the data, in the square of their units; infinite if they diverge.

    Args:
        denoiser, reference, condition, seed, batch_size, progress: as of `prescore.measure_steps`.
        levels: of the runs, from the highest to 0.
        samples: from either start, at least 2.

    Raises:
        SamplingError: the model returned a wrong shape.

    Cost: one network call for each sample, start and step.
    """
    runs = Runs(denoiser, reference, range(seed, seed + samples), condition or {}, batch_size, progress)
    solver = make_sampler("p-ode-3m", grid=levels, reference=reference)
    C = reference.variances.expand(reference.analyse(torch.zeros(1, *reference.event_shape)).shape).flatten()
    found = {}
    firsts = range(0, samples, batch_size)
    with runs.bar(len(STARTS) * len(firsts), "batch") as bar:
        bar.set_description("starts")
        for name, start in zip(STARTS, (reference, from_noise(reference)), strict=True):
            count, total, squares = 0, torch.zeros_like(C), torch.zeros_like(C)
            try:
                for first in firsts:
                    seeds = runs.seeds[first : first + batch_size]
                    noise = NoiseSource(seeds, denoiser.event_shape)
                    x = sample(
                        denoiser,
                        solver,
                        seeds=seeds,
                        initial=start.noisy(noise(), levels[0]),
                        condition=runs.rows(first, first + len(seeds)),
                        progress=False,
                    )
                    X = reference.analyse(x.cpu().double()).flatten(1)
                    count, total, squares = count + len(X), total + X.sum(0), squares + X.square().sum(0)
                    bar.update()
            except SamplingError:  # few steps of a network that does not fit may diverge
                found[name] = float("inf")
                continue
            mean = total / count
            deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
            found[name] = (mean.square() + (deviation - C.sqrt()).square()).sum().item()
    return found
