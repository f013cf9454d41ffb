"""Posteriors that sbi learned by score estimation (NPSE), drawn from in few network calls.

sbi trains a network on theta_t = m(t) theta + s(t) eps: variance exploding (m = 1), variance preserving
(m^2 + s^2 = 1) or sub-variance preserving (s = 1 - m^2), t from t_min to t_max, and its estimator returns the score of
theta_t given the observation x, in the units of theta. In unscaled coordinates, theta_t / m = theta + sigma eps with
sigma = s / m,

    D = theta_t / m + sigma^2 m score(theta_t, x, t).

sigma is known through the estimator's own `mean_t_fn` and `std_fn`, which are inverted by bisection, so that any
estimator with these two is understood. Its base distribution at t_max is that of the parameters it was trained on,
N(mean_0, std_0^2) entry by entry, with noise: the start of samples here too. A posterior is a few numbers of unlike
scales, which are not known beforehand, so that a pilot is drawn first: a few samples with the Gaussian model
N(mean_0, std_0^2), then the same again with the mean and the full covariance of the last ones until these stay, since
the start of most estimators, at their highest noise level, still shows in the end. With the last ones all are drawn.

An estimator that was made with sbi's `compose_standardization` works on z = (theta - shift) / scale, and so does its
denoiser; `decode` gives theta.

Source: https://github.com/sbi-dev/sbi (Apache-2.0), version 0.27.0: `score_estimator.py`, `vector_field_posterior.py`.
sbi itself is not imported; its objects are used as they are.
"""

from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from prescore.adapters.times import Times
from prescore.denoiser import Denoiser, expand, per_sample
from prescore.errors import PrescoreError, is_whole
from prescore.gaussian import Gaussian, gaussian
from prescore.limits import MOST_SAMPLES, check_count
from prescore.operators import Pixel
from prescore.plan import Plan, plan
from prescore.samplers import log_likelihood
from prescore.statistics import Statistics, measure_moments

PILOT = 256  # samples whose covariance the others are drawn with, or MANY for each parameter
MANY = 8
ROUNDS, STAYS = 5, 0.1  # of pilots, and of a deviation: a change of mean or log deviation that ends them
ATTEMPTS = 100  # draws for each sample that is to lie in the support of the prior
DRAWS = 2**20  # of noise that one of them may take
BATCH = 10_000


@dataclass(frozen=True, eq=False)
class PosteriorDenoiser(Denoiser):
    """p(theta | x) as a denoiser in the coordinates of its estimator.

    Args:
        mean_0, std_0: of the parameters that it was trained on, entry by entry, (*event_shape).
        shift, scale: theta = shift + scale z, where the estimator works on z; else 0 and 1.
        prior: whose support samples are to lie in, or None.

    All others are those of `Denoiser`.
    """

    mean_0: Tensor = field(kw_only=True)
    std_0: Tensor = field(kw_only=True)
    shift: Tensor = field(kw_only=True)
    scale: Tensor = field(kw_only=True)
    prior: Any = None

    def decode(self, x: Tensor) -> Tensor:
        """theta, (N, *event_shape), in the dtype of x."""
        return self.shift.to(x) + self.scale.to(x) * x

    def encode(self, theta: Tensor) -> Tensor:
        """What `decode` gives theta of."""
        return (theta - self.shift.to(theta)) / self.scale.to(theta)

    @property
    def trained_on(self) -> Gaussian:
        """N(mean_0, std_0^2), what is known of the parameters before a sample is drawn."""
        variances = Pixel(self.std_0.cpu().double().square())
        return Gaussian(self.mean_0.cpu().double(), variances, "parameters", self.event_shape)

    def accepts(self, theta: Tensor) -> Tensor:
        """Which of theta, (N, *event_shape), lie in the support of the prior, as sbi decides it, (N,)."""
        if self.prior is None:
            return torch.ones(len(theta), dtype=torch.bool, device=theta.device)
        theta = theta.float()
        try:
            inside = self.prior.support.check(theta)
        except (NotImplementedError, AttributeError):
            inside = torch.isfinite(self.prior.log_prob(theta))
        return inside.reshape(len(theta), -1).all(1)


def denoiser_of(posterior: Any, x: Any = None) -> PosteriorDenoiser:
    """The posterior given one observation, to be calibrated, planned, compared and drawn from like any other denoiser.

    Args:
        posterior: of `NPSE.build_posterior`, with a score estimator of any of sbi's kinds.
        x: the observation, one; by default that of `posterior.set_default_x`.

    Raises:
        PrescoreError: the posterior has no score, or the observation is none or more than one.
    """
    estimator = getattr(posterior, "vector_field_estimator", None)
    needed = ("score", "mean_t_fn", "std_fn", "mean_0", "std_0", "t_min", "t_max", "input_shape", "condition_shape")
    missing = [name for name in needed if not hasattr(estimator, name)]
    if missing or not getattr(estimator, "SCORE_DEFINED", True):
        raise PrescoreError(
            f"posterior: a {type(posterior).__name__} without the score of an NPSE given; one from "
            "NPSE(...).build_posterior() is needed (not of flow matching, nor an ensemble)"
        )
    assert estimator is not None
    if callable(stop := getattr(estimator, "eval", None)):
        stop()
    tensors = [*_all(estimator, "parameters"), *_all(estimator, "buffers")]
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    device, dtype, shape = like.device, like.dtype, tuple(estimator.input_shape)
    condition = _observation(posterior, x, tuple(estimator.condition_shape)).to(device, dtype)
    is_composed = bool(getattr(estimator, "compose_enabled", False))

    def levels(times: Tensor) -> tuple[Tensor, Tensor]:
        """m and s at these times, (B,), float64."""
        return tuple(f(times).double().reshape(len(times)) for f in (estimator.mean_t_fn, estimator.std_fn))

    time_of = Times(levels, float(estimator.t_min), float(estimator.t_max))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        time = time_of(per_sample(sigma, x).cpu())
        m = levels(time)[0].to(x)
        score = estimator.score(input=expand(m, x) * x, condition=condition, t=time.to(x))
        return x + expand(sigma, x) ** 2 * expand(m, x) * score

    def entries(name: str, usual: float) -> Tensor:
        value = torch.as_tensor(getattr(estimator, name, usual), dtype=torch.float64, device="cpu")
        return value.expand(1, *shape).reshape(shape) if value.numel() == 1 else value.reshape(shape)

    return PosteriorDenoiser(
        denoise,
        shape,
        *time_of.ends,
        dtype=dtype,
        device=device,
        name="posterior",
        mean_0=entries("mean_0", 0.0),
        std_0=entries("std_0", 1.0),
        shift=entries("_theta_shift", 0.0) if is_composed else torch.zeros(shape).double(),
        scale=entries("_theta_scale", 1.0) if is_composed else torch.ones(shape).double(),
        prior=getattr(posterior, "prior", None),
    )


def sample_posterior(
    posterior: Any,
    n: int,
    *,
    x: Any = None,
    calls: int = 10,
    seed: int = 0,
    sampler: str = "p-ode-3m",
    statistics: Statistics | None = None,
    reject: bool = True,
    batch_size: int = BATCH,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """Draw parameters from a posterior.

    Sample k depends on seed + k alone: where it lies outside the support of the prior, it is drawn again from further
    numbers of its own generator, which is the distribution that sbi's rejection gives.

    Args:
        posterior, x: as `denoiser_of` takes them.
        n, seed: number of samples, and the seed of the first; the next ones count up.
        calls: network calls of a sample.
        sampler: in `prescore.SAMPLERS`; one without statistics has no use for a pilot, and draws none, but to start
            from (start="gaussian").
        statistics: of the posterior in the coordinates of `denoiser_of(posterior, x)`, as `posterior_statistics` or
            `calibrate_model` measures them; by default the former, with as many calls.
        reject: draw those again that lie outside the support of the prior.
        batch_size: samples in one network call.
        progress: show a bar that counts network calls, on a terminal.
        options: everything else that `prescore.plan` takes.

    Returns:
        theta, (n, *event_shape), float32.

    Raises:
        PrescoreError: an argument is out of its range; or some samples lie outside the support of the prior however
            often they are drawn.

    Cost: `calls` network calls for each batch of samples, and as many for two to five of at least 256 samples before.
    """
    if not is_whole(n) or n < 1:
        raise PrescoreError(f"n: {n!r} samples asked for; at least 1 is needed")
    check_count("n", n, MOST_SAMPLES)
    denoiser = denoiser_of(posterior, x)
    decided = _planned(denoiser, sampler, calls, statistics, seed, batch_size, options)
    theta = torch.empty(n, *denoiser.event_shape, device=denoiser.device)
    left = torch.arange(n)
    for attempt in range(ATTEMPTS if reject else 1):
        seeds = (seed + left).tolist()
        drawn = decided.sample(seeds, batch_size=min(batch_size, len(seeds)), draw=attempt * DRAWS, progress=progress)
        drawn = denoiser.decode(drawn).float()
        kept = denoiser.accepts(drawn).cpu() if reject else torch.ones(len(drawn), dtype=torch.bool)
        theta[left[kept]] = drawn[kept]
        left = left[~kept]
        if not len(left):
            return theta
    raise PrescoreError(
        f"posterior: after {ATTEMPTS} draws {len(left)} of {n} samples still lie outside the support of the prior; "
        "give reject=False, or look at the posterior's fit"
    )


def posterior_statistics(
    denoiser: PosteriorDenoiser, *, n: int | None = None, calls: int = 10, seed: int = 0, batch_size: int = BATCH
) -> Statistics:
    """Mean and full covariance of the posterior, from samples of its own that are drawn without them, and again with
    them until they stay.

    Args:
        denoiser: of `denoiser_of`.
        n: number of samples, by default 256, or 8 for each parameter if that is more.
        calls: network calls of each, two to five times.
        seed, batch_size: as of `sample_posterior`.
    """
    n = max(PILOT, MANY * prod(denoiser.event_shape)) if n is None else n
    components = min(n - 1, prod(denoiser.event_shape))
    reference, spread = denoiser.trained_on, None
    for _ in range(ROUNDS):
        decided = plan(denoiser, sampler="p-ode-2m", calls=calls, reference=reference)
        drawn = decided.sample(range(seed, seed + n), batch_size=min(batch_size, n), progress=False)
        before, scale = reference.mean, drawn.std(0).cpu()
        moments = measure_moments(drawn, data_range=None, components=components)
        statistics = Statistics(moments=moments, samples_of="posterior")
        reference = gaussian(statistics)
        change = (reference.mean - before).abs() / scale.clamp(min=1e-12)
        if spread is not None and max(change.max(), (spread / scale).log().abs().max()) < STAYS:
            break
        spread = scale
    return statistics


def log_prob(posterior: Any, theta: Tensor, *, x: Any = None, **how: Any) -> Tensor:
    """Log density of parameters under the posterior, in nats, (N,), float64; -inf outside the support of the prior.

    As sbi has it: the density of the probability flow, not normalised over the support.

    Args:
        posterior, x: as `denoiser_of` takes them.
        theta: (N, *event_shape).
        how: as `prescore.log_likelihood` takes it; the trace is exact up to 32 parameters.

    Raises:
        PrescoreError: theta has another shape.
    """
    denoiser = denoiser_of(posterior, x)
    theta = torch.as_tensor(theta)
    if tuple(theta.shape[1:]) != denoiser.event_shape:
        raise PrescoreError(f"theta: shape {tuple(theta.shape)} given; (N, *{denoiser.event_shape}) is needed")
    found = log_likelihood(
        denoiser,
        denoiser.encode(theta.double()),
        prior_mean=denoiser.mean_0.to(denoiser.device),
        prior_variance=denoiser.std_0.to(denoiser.device).square(),
        **how,
    )
    inside = denoiser.accepts(theta.to(denoiser.device))
    return torch.where(inside, found.log_prob - denoiser.scale.log().sum().to(found.log_prob), -inf)


def _planned(
    denoiser: PosteriorDenoiser,
    sampler: str,
    calls: int,
    statistics: Statistics | None,
    seed: int,
    batch_size: int,
    options: dict[str, Any],
) -> Plan:
    """The run: with the full covariance of a pilot where the sampler has a use for it."""
    from prescore.samplers.table import find_sampler

    has_use = find_sampler(sampler).takes("reference") or options.get("start") == "gaussian"
    if statistics is None and has_use and "reference" not in options:
        statistics = posterior_statistics(denoiser, calls=calls, seed=seed, batch_size=batch_size)
    return plan(denoiser, sampler=sampler, calls=calls, statistics=statistics, **options)


def _observation(posterior: Any, x: Any, shape: tuple[int, ...]) -> Tensor:
    """One observation, (1, *shape)."""
    x = getattr(posterior, "default_x", None) if x is None else x
    if x is None:
        raise PrescoreError("x: no observation given, and the posterior has none (posterior.set_default_x)")
    x = torch.as_tensor(x)
    if x.numel() != prod(shape):
        raise PrescoreError(f"x: shape {tuple(x.shape)} given; one observation of shape {shape} is needed")
    return x.reshape(1, *shape)


def _all(estimator: Any, kind: str) -> list[Tensor]:
    return list(getattr(estimator, kind)()) if isinstance(estimator, torch.nn.Module) else []
