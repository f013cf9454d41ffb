"""How large a model's score is on the data, level by level: what the optimal reverse variance is computed from.

With x = x0 + sigma n and the model's noise prediction eps = (x - D(x, sigma)) / sigma, d numbers in a sample,

    Gamma(sigma) = E|eps|^2 / d = sigma^2 E|score|^2 / d        (`score_square`)
    R(sigma)     = E|n - eps|^2 / d = E|x0 - D|^2 / (sigma^2 d)   (`residual_square`)

For the exact D both say the same: the posterior variance of an entry of x0 is sigma^2 (1 - Gamma) = sigma^2 R. For a
network, sigma^2 R is its own mean squared error.

Estimation. Where sigma is large, 1 - Gamma ~ c / sigma^2 is far below the statistical error of E|eps|^2. But eps is
almost n there, whose mean square is known to be 1: Gamma is estimated as the ratio of the sums of |eps|^2 and |n|^2,
in which the common error cancels (a ratio estimate, bias of order 1 / (N d)). What is left of the relative error of
the posterior variance is of order sigma / sqrt(c N d), beside sigma^2 / (c sqrt(N d)) without it; that of R does not
grow with sigma. With 200 samples of d = 3072, c = 1/16 and the exact D at sigma = 157, the posterior variance 0.0625
is found as -43 from the mean of |eps|^2, 0.155 from the ratio and 0.0624 from R.

Between the levels the logit of Gamma, or of 1 - R, is interpolated linearly in log sigma: exact for data N(mu, c I),
where logit Gamma = 2 log sigma - log c. Beyond the ends Gamma and R stay constant.

Sources: Bao et al., "Analytic-DPM", ICLR 2022, https://arxiv.org/abs/2201.06503, section 3; Bao et al., "Estimating the
optimal covariance with imperfect mean in diffusion probabilistic models", ICML 2022, https://arxiv.org/abs/2206.07309.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.denoiser import Evaluator
from prescore.errors import PrescoreError
from prescore.grid import check_grid, geometric, interpolate
from prescore.noise import NoiseSource
from prescore.statistics.batches import USUAL, Batch, batches, checked

ESTIMATES = ("score", "residual")
USUAL_LEVELS = 24


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreStatistics:
    """Mean squares of a model's noise prediction and of its error. Tensors are float64.

    Attributes:
        levels: noise levels at which they were measured, decreasing, positive, (L,).
        score_square: Gamma of the module, (L,).
        residual_square: R of the module, (L,).
        count: number of samples.
        model: name of the model.
    """

    levels: Tensor
    score_square: Tensor
    residual_square: Tensor
    count: int
    model: str = ""

    def posterior_variance(self, sigma: Tensor, estimate: str = "score") -> Tensor:
        """Mean variance of an entry of x0 given x at the levels sigma, between 0 and sigma^2, like sigma."""
        explained = self.score_square if estimate == "score" else 1 - self.residual_square
        logit = torch.logit(explained, eps=1e-12)
        return sigma**2 * torch.sigmoid(-interpolate(sigma.log(), self.levels.log().flip(0), logit.flip(0)))

    def chance(self, numbers: int) -> Tensor:
        """Standard error of the posterior variance by the score at the levels, of samples of so many numbers, (L,).

        With e = n - eps, 1 - Gamma is the mean of 2 n e - e^2, whose variance is 4 R where e is small beside n.
        """
        return 2 * self.levels.square() * (self.residual_square / (self.count * numbers)).sqrt()

    def scaled(self, a: float) -> "ScoreStatistics":
        """Those for data that are multiplied by a, and so their noise."""
        return replace(self, levels=a * self.levels)


def merge_scores(a: ScoreStatistics | None, b: ScoreStatistics | None) -> ScoreStatistics | None:
    """Means over the samples of both.

    Raises:
        PrescoreError: there is only one, or they are of different models or levels.
    """
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise PrescoreError("data: only one of two statistics has a score; both or none are needed")
    if a.model != b.model or not torch.equal(a.levels, b.levels):
        raise PrescoreError("data: the scores of two statistics are of different models or noise levels")
    count = a.count + b.count
    return replace(
        a,
        count=count,
        score_square=(a.count * a.score_square + b.count * b.score_square) / count,
        residual_square=(a.count * a.residual_square + b.count * b.residual_square) / count,
    )


def score_statistics(
    denoiser: Callable[..., Tensor],
    data: Tensor | Iterable[Batch],
    levels: Tensor | Sequence[float] | None = None,
    *,
    data_range: tuple[float, float] | str | None = USUAL,
    condition: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    model: str | None = None,
    progress: bool = False,
) -> ScoreStatistics:
    """Measure the score of a model on data.

    Args:
        denoiser: a function `(x, sigma) -> x0` such as what `prescore.load` returns; it is called in its own `dtype`
            and on its own `device` if it has these attributes, else in float32 on the CPU.
        data: samples as the model sees them, (N, *event), or an iterable of batches, as in `calibrate`.
        levels: decreasing positive noise levels; by default 24 in geometric progression over the model's range.
        data_range: (lowest, highest) value of the data; None where any is possible. By default, "usual", that of the
            model, if it has one.
        condition: named tensors with a row for each sample, or one for all, passed to the denoiser by keyword.
        seed: sample k at level i is noised by draw i of the generator of seed + k, whatever its batch.
        batch_size: samples in one network call.
        model: name to remember; by default the model's own.
        progress: show a bar that counts network calls, on a terminal.

    Raises:
        PrescoreError: no samples, samples that are not what `calibrate` or the model takes, or levels that are not
            decreasing and positive.
        SamplingError: the model returned a wrong shape or values that are not finite.

    Cost: one network call for each level and batch.
    """
    grid = _levels(denoiser, levels)
    limits = getattr(denoiser, "data_range", None) if isinstance(data_range, str) else data_range
    sums, count, numbers = torch.zeros(3, len(grid), dtype=torch.float64), 0, 0
    how: dict[str, Any] = {
        "limits": limits,
        "condition": condition,
        "seed": seed,
        "batch_size": batch_size,
        "progress": progress,
    }
    for i, sigma, x0, x, D in noised(denoiser, data, grid, **how):
        n, eps = (x - x0) / sigma, (x - D) / sigma
        sums[:, i] += torch.stack([y.square().sum() for y in (eps, (D - x0) / sigma, n)])
        if i == 0:
            count, numbers = count + len(x0), numbers + x0.numel()
    return ScoreStatistics(
        levels=grid,
        score_square=sums[0] / sums[2],
        residual_square=sums[1] / numbers,
        count=count,
        model=getattr(denoiser, "name", "") if model is None else model,
    )


def noised(
    denoiser: Callable[..., Tensor],
    data: Tensor | Iterable[Batch],
    grid: Tensor,
    *,
    limits: tuple[float, float] | None,
    condition: Mapping[str, Tensor] | None,
    seed: int,
    batch_size: int,
    progress: bool,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """What a model makes of noisy data: i, sigma_i, x0, x = x0 + sigma_i n and D(x, sigma_i), batch by batch.

    Arguments, errors and cost are those of `score_statistics`; `limits` are the ends of the data range.
    """
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not a positive whole number")
    count, shape = 0, getattr(denoiser, "event_shape", None)
    with tqdm(unit="call", disable=None if progress else True, leave=False) as bar, torch.no_grad():
        evaluator = Evaluator(denoiser, on_call=lambda calls: bar.update())
        for batch in batches(data):
            for piece in batch.split(batch_size):
                if len(piece) == 0:
                    continue
                shape = shape or tuple(piece.shape[1:])
                if tuple(piece.shape[1:]) != tuple(shape):
                    raise PrescoreError(f"data: samples of shape {tuple(piece.shape[1:])}, {tuple(shape)} are needed")
                x0 = checked(piece, limits)
                evaluator.condition = _rows(condition, count, len(x0), evaluator.device)
                noise = NoiseSource(range(seed + count, seed + count + len(x0)), tuple(shape))
                for i, sigma in enumerate(grid):
                    x = x0 + sigma * noise()
                    evaluator.where = f"at sigma = {sigma.item():.4g}"
                    yield i, sigma, x0, x, evaluator(x, sigma).cpu()
                count += len(x0)
    if count == 0:
        raise PrescoreError("data: no samples given")
    _rows(condition, 0, count, torch.device("cpu"), exactly=True)


def _rows(
    condition: Mapping[str, Tensor] | None, first: int, n: int, device: torch.device, exactly: bool = False
) -> dict[str, Tensor]:
    """The rows of n samples from the first on, of which there have to be enough, or exactly n in all."""
    rows = {}
    for name, values in (condition or {}).items():
        known = len(values)
        if known != 1 and (known < first + n or (exactly and known != n)):
            raise PrescoreError(f"condition {name!r} has {known} rows; one for each sample, or one for all, is needed")
        part = values.expand(n, *values.shape[1:]) if known == 1 else values[first : first + n]
        rows[name] = part.to(device)
    return rows


def _levels(denoiser: Callable[..., Tensor], levels: Tensor | Sequence[float] | None) -> Tensor:
    if levels is not None:
        grid = check_grid(levels).cpu()
        if grid[-1] <= 0:
            raise PrescoreError("levels: the last one is 0, where there is no score; leave it out")
        return grid
    low, high = getattr(denoiser, "sigma_min", None), getattr(denoiser, "sigma_max", None)
    if low is None or high is None:
        raise PrescoreError("levels: the model does not say its noise range; give decreasing noise levels")
    return geometric(USUAL_LEVELS, low, high)
