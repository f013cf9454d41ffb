"""Predictor-corrector sampling of Gaussian data, in closed form.

For data N(mu, C) and a preconditioner M diagonal in the same orthonormal basis (the real FFT, or the pixels), every
step of the sampler is linear: a coordinate of variance c that M multiplies by m moves by

    x - mu <- f (x - mu) + b m z,    f = 1 - (a + b' m^2) / (c + sigma^2)

with the weights of the predictor, or of the corrector at its expected step size (its norms are sums over many
coordinates, so they hardly fluctuate). Mean and variance of each coordinate then follow a scalar recursion: what a
sampler with T steps and a preconditioner of strength alpha does to each frequency is known in milliseconds, before
the network is called at all. Where it diverges the variances grow without bound.

Samples of most data differ in scale: a textured patch has many times the power of a flat one, in every frequency. Such
data are a mixture over g of N(mu, g C), and their network finds out, from the noisy sample, which scale to denoise it
by. So for each scale there is a recursion of its own, with the variance g^ c in place of c, where g^ is what the sample
looks like: before each call of the network one step of Fisher scoring towards the most likely scale,

    g^ <- g^ + (sum c (v - t) / t^2 - 2 (g^ - g) / (V g^2)) / (sum c^2 / t^2 + 2 / (V g^2)),    t = g^ c + sigma^2,

sums over the coordinates, v their second moments about mu. V is the variance of ln g, so much is known beforehand; here
it is known of the scale that the sample will have, since which one that is, chance decides at high noise. The network
has only seen the scales of its data: g^ stays between the least and the greatest. A sampler that leaves too much noise
thus turns it into texture: the noise is taken for scale, and the variance that follows from it is kept. A Gaussian, of
one scale, forgets it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.operators import Frequency, Identity
from prescore.samplers.predictor_corrector import PredictorCorrector
from prescore.statistics import Statistics
from prescore.tuned import PRIOR

GAUSSIAN = torch.ones(1, dtype=torch.float64)  # the scale of the samples of a Gaussian


@dataclass(frozen=True, eq=False)
class GaussianTrajectory:
    """Moments of every coordinate along a trajectory of T steps.

    Attributes:
        sigma: noise levels, (T + 1,).
        variance: of the state in each coordinate after each step, (T + 1, *coordinates); row 0 is the prior.
        bias: squared distance of its mean from mu, same shape.
        target: c + sigma^2, what the network was trained on, same shape.
        multiplicity: how many real coordinates each entry stands for.
    """

    sigma: Tensor
    variance: Tensor
    bias: Tensor
    target: Tensor
    multiplicity: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """Root mean square over the coordinates of log(second moment about mu / target), after each step, (T + 1,)."""
        ratio = ((self.variance + self.bias) / self.target).log() ** 2 * self.multiplicity
        axes = tuple(range(1, ratio.ndim))
        return (ratio.sum(axes) / self.multiplicity.sum()).sqrt()


def gaussian_recursion(
    sampler: PredictorCorrector,
    levels: Tensor,
    variance: Tensor,
    *,
    mean_square: Tensor | float = 0.0,
    gain: Tensor | float = 1.0,
    multiplicity: Tensor | float = 1.0,
) -> GaussianTrajectory:
    """Moments of `sampler` on Gaussian data, coordinate by coordinate.

    Args:
        levels: decreasing noise levels, (T + 1,), such as `sampler.levels(sigma_min, sigma_max)`.
        variance: c > 0 of the data in each coordinate of an orthonormal basis, any shape.
        mean_square: |mu|^2 in each coordinate.
        gain: m of the preconditioner in each coordinate; the one that `sampler` carries is not looked at.
        multiplicity: real coordinates per entry (2 for the interior of a half spectrum).

    Returns:
        The moments after each step. `norm="batch"` and "sample" have the same expectation.
    """
    c, m = torch.as_tensor(variance, dtype=torch.float64), torch.as_tensor(gain, dtype=torch.float64)
    count = torch.as_tensor(multiplicity, dtype=torch.float64).expand(c.shape)
    e = torch.as_tensor(mean_square, dtype=torch.float64).expand(c.shape)
    moments = list(recursion_steps(sampler, levels, c, e, m.expand(c.shape), count))
    variances, biases = (torch.stack(rows)[:, 0] for rows in zip(*moments, strict=True))
    target = c + (levels**2).reshape(-1, *(1,) * c.ndim)
    return GaussianTrajectory(levels, variances, biases, target, count)


def recursion_steps(
    sampler: PredictorCorrector,
    levels: Tensor,
    c: Tensor,
    mean_square: Tensor,
    m: Tensor,
    count: Tensor,
    scales: Tensor = GAUSSIAN,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Variance and squared bias of every coordinate at the start and after each step, (K, *m.shape).

    Args:
        sampler, levels: as of `gaussian_recursion`.
        c, mean_square, count: variance, squared mean and number of the coordinates, all of one shape.
        m: gain of the preconditioner in them; it may have leading axes, one preconditioner each.
        scales: of the samples, equally frequent, (K,); one of 1 for Gaussian data.
    """
    axes = tuple(range(-c.ndim, 0))

    def total(values: Tensor) -> Tensor:
        """Sum over the coordinates; the leading axes stay."""
        return values.sum(axes, keepdim=True) if axes else values

    from_paper = sampler.form == "paper" if sampler.precondition_prior is None else sampler.precondition_prior
    v = (levels[0] * (m if from_paper else torch.ones_like(m))).square()
    e = mean_square.expand(m.shape)
    true = scales.reshape(-1, *(1,) * m.ndim)
    known = PRIOR / (true**2 * scales.log().var(correction=0).clamp(min=1e-9))
    v, e, scale = v.expand(len(scales), *m.shape), e.expand(len(scales), *m.shape), true

    def target(v: Tensor, e: Tensor, sigma: float) -> Tensor:
        """The variance that the network takes the noisy coordinates to have."""
        nonlocal scale
        t = scale * c + sigma**2
        slope = total(count * c * (v + e - t) / t**2) - known * (scale - true)
        scale = (scale + slope / (total(count * c**2 / t**2) + known)).clamp(scales.min(), scales.max())
        return scale * c + sigma**2

    def correct(v: Tensor, e: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        for _ in range(0 if sampler.corrector == "none" else sampler.corrector_steps):
            t = target(v, e, sigma)
            drift = total(count * m**4 * (v + e) / t**2).sqrt()
            if sampler.norm == "batch":
                drift = drift.mean(0, keepdim=True)
            eps = 2 * sampler.corrector_snr**2 * total(count * m**2) / drift**2
            f = 1 - eps * m**2 / t
            v, e = f**2 * v + 2 * eps * m**2, f**2 * e
        return v, e

    yield v, e
    for s, t in pairwise(levels.tolist()):
        if sampler.first == "corrector":
            v, e = correct(v, e, s)
        plain, langevin, std = sampler.predictor_weights(s, t)
        f = 1 - (plain + langevin * m**2) / target(v, e, s)
        v, e = f**2 * v + (std * m) ** 2, f**2 * e
        if sampler.first == "predictor" and t > 0:
            v, e = correct(v, e, t)
        yield v, e


def statistics_recursion(
    sampler: PredictorCorrector, statistics: Statistics, sigma_min: float, sigma_max: float
) -> GaussianTrajectory:
    """The recursion on the Gaussian that the statistics describe: one variance for each frequency.

    Args:
        sampler: with a frequency preconditioner, or none.
        statistics: from `prescore.calibrate`, in the model's data range.
        sigma_min, sigma_max: noise range of the model.

    Raises:
        PrescoreError: the preconditioner is not diagonal in frequency.
    """
    operator = sampler.M.M
    if not isinstance(operator, Identity | Frequency):
        raise PrescoreError("the recursion needs a preconditioner that is diagonal in frequency (no pixel part)")
    moments = statistics.moments
    mean = torch.fft.rfftn(moments.mean, dim=moments.transformed_dims, norm="ortho")
    return gaussian_recursion(
        sampler,
        sampler.levels(sigma_min, sigma_max),
        # A frequency that never varied (a constant border) has no scale of its own: rounding decides its variance.
        moments.power_centred / moments.size_transformed,
        mean_square=mean.abs() ** 2,
        gain=operator.weights if isinstance(operator, Frequency) else 1.0,
        multiplicity=moments.multiplicity,
    )
