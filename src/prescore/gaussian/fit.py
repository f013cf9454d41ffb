"""The Gaussian model of data, from their statistics, and how far a network says that the data are from it.

Of the mean square error that the Gaussian model leaves at a noise level, E|x0 - D_G|^2 / d = mean of
C sigma^2 / (C + sigma^2), a network leaves a share,

    left(sigma) = sigma^2 R(sigma) / mean(C sigma^2 / (C + sigma^2)),

R measured by `calibrate --model` (`prescore.statistics.score`). It is 1 where nothing is known beside the model.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.gaussian.model import ErrorShare, Gaussian
from prescore.operators import PCA, Cosine, Frequency, LinearOperator, Pixel
from prescore.statistics import Statistics
from prescore.tuned import TRUSTED, WORSE

ROUNDING = 1e-9  # of a noise level that is meant to be an end of a range
NO_BETTER = 0.98  # share of the error that a network leaves which has learned nothing beside the model


def gaussian(statistics: Statistics) -> Gaussian:
    """The default: for vectors, of which all components were found, their full covariance; else in the cosine basis if
    the statistics have it, and per frequency if not."""
    if _is_vector(statistics):
        return covariance_gaussian(statistics)
    has_cosines = statistics.moments.cosine_variance is not None
    return cosine_gaussian(statistics) if has_cosines else frequency_gaussian(statistics)


def cosine_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each cosine and channel: for images and signals, whose opposite borders differ.

    Raises:
        PrescoreError: the statistics are of an earlier version, which did not measure it.
    """
    if statistics.moments.cosine_variance is None:
        raise PrescoreError(
            "statistics: of an earlier version, without the cosine basis; run `prescore calibrate` again"
        )
    return _of(statistics, Cosine(statistics.moments.cosine_variance, statistics.moments.axes), "cosine")


def frequency_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each frequency and channel: for periodic fields. Two real FFTs for each network call."""
    moments = statistics.moments
    C = Frequency(moments.power_centred / moments.size_transformed, moments.axes, moments.length)
    return _of(statistics, C, "frequency")


def pixel_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each entry of an event."""
    moments = statistics.moments
    return _of(statistics, Pixel((moments.mean_square - moments.mean**2).clamp(min=0)), "pixel")


def pca_gaussian(statistics: Statistics) -> Gaussian:
    """One variance for each principal component, and one for all that is left. Two matrix products for each call.

    Raises:
        PrescoreError: the statistics have no components.
    """
    moments = statistics.moments
    if moments.components is None or moments.component_variances is None:
        raise PrescoreError("statistics: they have no principal components; measure them with `--components K`")
    rest = moments.remainder_variance or 0.0
    Q = moments.components.flatten(1).mT.contiguous()
    return _of(statistics, PCA(Q, moments.component_variances, rest), "pca")


def covariance_gaussian(statistics: Statistics) -> Gaussian:
    """The full covariance, for vectors: entries of any scales, with any correlations.

    That of N samples of d entries is shrunk towards its diagonal, C <- (1 - w) C + w diag(C), w = min(1, (d / N)^2):
    hardly if the samples are many, and to the entries alone where they are fewer than the entries.

    Raises:
        PrescoreError: the statistics have not all components.
    """
    return _of(statistics, PCA(*_shrunk(statistics)), "covariance")


# By the name of the basis in which it is diagonal.
GAUSSIANS: Mapping[str, Callable[[Statistics], Gaussian]] = MappingProxyType(
    {
        "cosine": cosine_gaussian,
        "frequency": frequency_gaussian,
        "pixel": pixel_gaussian,
        "pca": pca_gaussian,
        "covariance": covariance_gaussian,
    }
)


def error_share(statistics: Statistics) -> ErrorShare:
    """What the network leaves of the error of the Gaussian model, which is that of `gaussian` for all bases.

    Raises:
        PrescoreError: the statistics are without the score of a model.
    """
    score, moments = statistics.model.score, statistics.moments
    if score is None:
        raise PrescoreError("statistics: without the score of a model; run `prescore calibrate DATA --model MODEL`")
    C, count = moments.cosine_variance, torch.ones(())
    if _is_vector(statistics):
        C = _shrunk(statistics)[1]
    if C is None:
        C, count = moments.power_centred / moments.size_transformed, moments.multiplicity
    C, count, u = C.flatten(), count.expand(C.shape).flatten(), score.levels.square()[:, None]
    error = (count * C * u / (C + u)).sum(1) / count.sum()
    # The floor is for data that are constant.
    return ErrorShare(score.levels, u[:, 0] * score.residual_square / error.clamp(min=1e-300))


def doubt_of(statistics: Statistics, sigma_max: float = math.inf) -> str | None:
    """What is doubtful about a network that errs more than the Gaussian model of its data, and what to do; or None.

    Args:
        sigma_max: noise levels above this one do not count.

    Raises:
        PrescoreError: the statistics are without the score of a model.
    """
    whole = error_share(statistics)
    is_used = whole.levels <= sigma_max * (1 + ROUNDING)
    if not is_used.any():
        return None
    share = ErrorShare(whole.levels[is_used], whole.shares[is_used])
    worse = share.levels[share.shares > WORSE]
    most, best = share.shares.max().item(), share.shares.min().item()
    if best > NO_BETTER:
        return (
            f"at no noise level does the network know more than the Gaussian model of the data (it makes {best:.2g} to "
            f"{most:.2g} times its error): check time_scale, schedule and data_range, or train it longer"
        )
    if not len(worse):
        return None
    where = f"sigma = {worse[-1]:.2g} to {worse[0]:.2g}" if len(worse) > 1 else f"sigma = {worse[0]:.2g}"
    advice = "check time_scale, schedule and data_range, or train it longer"
    if len(share.levels) == len(whole.levels) and (trusted := trusted_level(statistics)) is not None:
        advice += f", or start lower by sigma_max = {trusted:.2g}"
    return f"at {where} the network makes up to {most:.2g} times the error of the Gaussian model of the data: {advice}"


def trusted_level(statistics: Statistics) -> float | None:
    """From which noise level downwards to use a network that errs more than the Gaussian model at the highest ones.

    It is the highest one at which the network leaves less than TRUSTED of the model's error. Above it the model knows
    noisy data better, and costs no call. None if the network serves at the highest level, or nowhere.

    Raises:
        PrescoreError: the statistics are without the score of a model.
    """
    share = error_share(statistics)
    below = share.levels[share.shares < TRUSTED]
    return None if share.shares[0] <= WORSE or not len(below) else below[0].item()


def _shrunk(statistics: Statistics) -> tuple[Tensor, Tensor]:
    """Eigenvectors, as columns, and eigenvalues of `covariance_gaussian`."""
    moments = statistics.moments
    if moments.components is None or moments.component_variances is None:
        raise PrescoreError("statistics: they have no principal components; measure them with `--components K`")
    Q, variances = moments.components.flatten(1).mT, moments.component_variances
    C = (Q * variances) @ Q.mT
    w = min(1.0, (len(C) / moments.count) ** 2)
    spectrum, basis = torch.linalg.eigh((1 - w) * C + w * C.diag().diag())
    return basis, spectrum.clamp(min=0)


def _is_vector(statistics: Statistics) -> bool:
    """Whether the statistics are of events of one axis, with all components that their number allows."""
    moments = statistics.moments
    found = 0 if moments.component_variances is None else len(moments.component_variances)
    return len(moments.event_shape) == 1 and found >= min(moments.count - 1, moments.event_shape[0]) > 0


def _of(statistics: Statistics, covariance: LinearOperator, label: str) -> Gaussian:
    moments = statistics.moments
    share = None if statistics.model.score is None else error_share(statistics)
    return Gaussian(moments.mean, covariance, label, moments.event_shape, moments.data_range, share)
