"""The strength alpha of PDS's preconditioner, chosen before the network is called.

A strong preconditioner (small alpha) pays when there are few steps and distorts the result when there are many. The
papers find alpha by a search over samples. Two ways spare that search:

*From the statistics.* On a model of the data whose samples differ in scale only, a Gaussian N(mu, g C) for each scale
g, mean and second moment of every frequency after every step follow in closed form, for any alpha
(`prescore.samplers.recursion`; `prescore.calibrate` measures the scales, without them there is one). Samples of scale g
end with variances v and a squared distance e of their mean from mu, and so an alpha has the

    error = mean over scales of sum (sqrt(v) - sqrt(g c))^2 + e, over sum c,    sums over real coordinates,

the Frechet distance of the samples of each scale. `choose_alpha` takes the alpha of the least, or none where none is
better. Looked at are those for which

    the predictor is stable: in a coordinate without data a step multiplies x by 1 - (a + b m^2) / sigma^2, which must
    not leave [-1, 1];
    the network is asked about nothing stranger than by the plain sampler: the mean over noise levels, scales and
    coordinates of ln((v + e) / (g c + sigma^2))^2 is at most FARTHEST times that without preconditioner.

Why scales. Steps that are too short leave too much noise at every level, and steps that a strong preconditioner makes
long leave too little. A Gaussian forgets either, and says little of alpha. Data of many scales take noise in excess for
texture, and keep it, which the model does as well.

*From measured pairs.* Where the best alpha is known at two numbers of steps or more, the papers' relation

    (1 + 1/alpha)^p - 1 = a/T + b,    p = 1 for the frequency part alone, 2 with the pixel part

is fitted and predicts others (`AlphaRelation`). Of Table 1 the fit gives the slopes that the paper states, 28.53 for
CIFAR-10 (p = 1) and 50.7 for CelebA (p = 2; 50.67 there), with R^2 = 0.979 and 0.988. The paper prints 0.895 and 0.940:
that is 1 - 5 (1 - R^2), the *sum* of the five squared residuals over the *mean* of the five squared deviations.

The same relation with a common right-hand side turns an alpha of the frequency part alone into one that both parts
share.

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
Table 1, Section 6.3 and eq. 39 (the relation); the automatic choice is left there as future work.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.precondition.masks import log_power
from prescore.samplers.predictor_corrector import PredictorCorrector
from prescore.samplers.recursion import GAUSSIAN, recursion_steps
from prescore.statistics import Statistics
from prescore.statistics.scales import CONSTANT
from prescore.tuned import FARTHEST

WEAKEST, STRONGEST = 1e-3, 0.95  # 1/alpha: below, there is next to no preconditioner; above, nothing is stable
TRIALS, ROUNDS = 16, 2  # values of 1/alpha looked at, and then of the interval that they leave
FLATTEST = 1e-4  # scale of samples that do not differ from the mean


@dataclass(frozen=True)
class AlphaChoice:
    """The chosen alpha and why.

    Attributes:
        alpha: infinity where no preconditioner is better than any.
        error, plain_error: the relative Frechet distance of the module's docstring with it, and without.
        least_stable: the smallest alpha for which the predictor is stable; infinity where it is with none.
    """

    alpha: float
    error: float
    plain_error: float
    least_stable: float

    @property
    def reason(self) -> str:
        """One line for the user."""
        if math.isinf(self.least_stable):
            return "in so few steps the predictor overshoots without preconditioner already"
        return (
            f"least relative Frechet distance, {self.error:.2g}, on a model of the data (without preconditioner "
            f"{self.plain_error:.2g})"
        )


def choose_alpha(
    sampler: PredictorCorrector, statistics: Statistics, sigma_min: float, sigma_max: float, *, pixel: bool = False
) -> AlphaChoice:
    """The alpha with the least error of the module's docstring.

    Args:
        sampler: with its number of steps; its preconditioner is not looked at.
        statistics: of the data, in the model's data range.
        sigma_min, sigma_max: noise range of the model.
        pixel: the same alpha is also that of a pixel part.

    Cost: two recursions over T steps, with 8 scales 2 to 4 s at T = 1000, 0.1 to 0.2 s at T = 50.
    """
    levels = sampler.levels(sigma_min, sigma_max)
    c, mean_square, R, count = _coordinates(statistics)
    least_stable = _least_stable(sampler, levels, R)
    varying = c > CONSTANT * c.max()
    c, mean_square, R, count = (column[varying] for column in (c, mean_square, R, count))
    scales = GAUSSIAN if statistics.moments.scales is None else statistics.moments.scales.clamp(min=FLATTEST)

    def errors(strengths: Tensor) -> tuple[Tensor, Tensor]:
        """The error, and how far the samples are from the marginals on the way, for each 1/alpha."""
        m, way = 1 / (1 - strengths[:, None] * (1 - R)), torch.zeros(())
        for (v, e), sigma in zip(
            recursion_steps(sampler, levels, c, mean_square, m, count, scales), levels, strict=True
        ):
            target = scales[:, None, None] * c + sigma**2
            if sigma > 0:
                way = way + (count * ((v + e) / target).log().square()).sum(-1).mean(0)
        distance = (count * ((v.sqrt() - target.sqrt()).square() + e)).sum(-1).mean(0) / (count * c).sum()
        return distance.nan_to_num(nan=math.inf), way.nan_to_num(nan=math.inf)

    (plain,), (way_of_plain,) = errors(torch.zeros(1, dtype=torch.float64))
    low, high = WEAKEST, min(STRONGEST, 1 / least_stable)
    if high <= low:  # no strength is stable in so few steps
        return AlphaChoice(math.inf, plain.item(), plain.item(), least_stable)
    for _ in range(ROUNDS):
        strengths = torch.logspace(math.log10(low), math.log10(high), TRIALS, dtype=torch.float64)
        values, way = errors(strengths)
        values = values.where(way <= FARTHEST * way_of_plain, math.inf)
        best = int(values.argmin())
        low, high = (strengths[min(max(i, 0), TRIALS - 1)].item() for i in (best - 1, best + 1))
    if plain <= values[best]:
        return AlphaChoice(math.inf, plain.item(), plain.item(), least_stable)
    alpha = 1 / strengths[best].item()
    if pixel:
        alpha = 1 / (math.sqrt(1 + 1 / alpha) - 1)
    return AlphaChoice(alpha, values[best].item(), plain.item(), least_stable)


def _coordinates(statistics: Statistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Variance, squared mean, mask and number of the real coordinates, those that are nearly alike taken as one."""
    moments = statistics.moments
    mean = torch.fft.rfftn(moments.mean, dim=moments.transformed_dims, norm="ortho")
    R = log_power(moments.in_range((0.0, 1.0)).power)
    columns = [moments.power_centred / moments.size_transformed, mean.abs() ** 2, R / R.max()]
    count = moments.multiplicity.to(torch.float64).expand(R.shape).flatten()
    values = torch.stack([column.flatten() for column in columns])
    # Within 5 % in variance and 1 % in the mask.
    key = torch.stack([(values[0].clamp_min(1e-300).log() * 20).round(), (values[2] * 100).round()])
    groups = torch.unique(key, dim=1, return_inverse=True)[1]
    number = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add(0, groups, count)
    sums = torch.zeros(3, len(number), dtype=torch.float64).index_add(1, groups, values * count)
    c, mean_square, R = sums / number
    return c, mean_square, R, number


def _least_stable(sampler: PredictorCorrector, levels: Tensor, R: Tensor) -> float:
    """The smallest alpha at which no step of the predictor overshoots: (a + b m^2) / sigma^2 <= 2."""
    gain = math.inf
    for s, t in pairwise(levels.tolist()):
        a, b, _ = sampler.predictor_weights(s, t)
        if b > 0:
            gain = min(gain, max(2 * s**2 - a, 0.0) / b)
    largest = math.sqrt(gain)  # m = 1 / (1 - (1 - R) / alpha) at the least R
    reach = 1 - R.min().item()
    return max(1.0, reach / (1 - 1 / largest)) if largest > 1 else math.inf


@dataclass(frozen=True)
class AlphaRelation:
    """(1 + 1/alpha)^p - 1 = a/T + b.

    Attributes:
        a, b: of the straight line in 1/T.
        p: 1 for the frequency part alone, 2 with the pixel part.
        r_squared: share of the variance of the left-hand side that the line explains.
    """

    a: float
    b: float
    p: int
    r_squared: float

    @classmethod
    def fit(cls, pairs: Mapping[int, float], p: int = 1, *, relative: bool = False) -> "AlphaRelation":
        """Least squares over measured pairs {T: alpha}.

        Args:
            pairs, p: see the class.
            relative: of the errors over the left-hand side, so that a weak alpha counts as much as a strong one. The
                papers' fit, which is not so, is below 0 at T = 1000 for both columns of Table 1.

        Raises:
            PrescoreError: fewer than two pairs, a T or an alpha that is not positive, or p not 1 or 2.

        >>> relation = AlphaRelation.fit({1000: 50, 400: 25, 200: 12, 100: 5, 50: 1.8})  # CIFAR-10, Table 1
        >>> round(relation.r_squared, 3)
        0.979
        """
        if len(pairs) < 2:
            raise PrescoreError(f"pairs: {len(pairs)} given; a line needs at least 2 pairs of T and alpha")
        if not all(T > 0 and alpha > 0 for T, alpha in pairs.items()):
            raise PrescoreError("pairs: T and alpha must be positive")
        if p not in (1, 2):
            raise PrescoreError(f"p: {p} given; it is 1 for the frequency part alone, 2 with the pixel part")
        x = torch.tensor([1 / T for T in pairs], dtype=torch.float64)
        y = torch.tensor([(1 + 1 / alpha) ** p - 1 for alpha in pairs.values()], dtype=torch.float64)
        weights = 1 / y if relative else torch.ones_like(y)
        a, b = torch.linalg.lstsq(torch.stack([x * weights, weights], 1), (y * weights).unsqueeze(1)).solution[:, 0]
        residual = (y - a * x - b).square().sum() / (y - y.mean()).square().sum()
        return cls(a.item(), b.item(), p, 1 - residual.item())

    def alpha(self, T: int) -> float:
        """The alpha for T steps; infinity (no preconditioner) where the line is not above 0."""
        value = self.a / T + self.b
        return 1 / ((1 + value) ** (1 / self.p) - 1) if value > 0 else math.inf
