"""The probability-flow ODE by an adaptive Runge-Kutta pair, and the likelihood of data by the same integration.

In unscaled coordinates and the clock l = log sigma,

    dx / dl = F(x, l) = x - D(x, e^l),

which stays bounded at all levels; every schedule's ODE is this one in other coordinates. It is integrated by the
Dormand-Prince pair of orders 5 and 4 with the usual controller (see `dormand_prince`), each sample with steps of its
own, all samples in one batch of the network: a sample does not depend on its batch-mates, which it would if a solver
for one state were given the whole batch as that state.

Likelihood. Along the flow d log p(x(l); l) / dl = -div F (instantaneous change of variables), so that

    log p(x; sigma_min) = log p(x(l_max); sigma_max) + integral over l from log sigma_min to log sigma_max of div F,

    div F = n - tr dD/dx,    tr J = E[e^T J e] for probes e of mean 0 and covariance I (Hutchinson), a few per sample,
                             or the sum of the n diagonal entries.

What is approximate: (a) the density is that of the data with noise of level sigma_min, taken at x; (b) the prior
log p(.; sigma_max) is that of N(mean, (sigma_max^2 + variance) I), by default N(0, sigma_max^2 I), from which samplers
start: the result is then the exact density of what the ODE sampler makes at sigma_min, and differs from that of the
data by about |x0| / sigma_max nats at one x, by E|x0|^2 / (2 sigma_max^2) on average; (c) the tolerance; (d) the
probe's variance, least for Rademacher probes among those with independent entries: 0 where dD/dx is diagonal.

Bits. A density in nats becomes bits per dimension as -log p / (n log 2). Data that are whole numbers 0 .. bins - 1,
spread over an interval of length w, get uniform noise of one bin's width (dequantisation), and log2(bins / w) is
added, since probability mass per bin is density times width: -log2 P(bin) is at most that in expectation.

Sources: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
https://arxiv.org/abs/2011.13456, section 4.3, appendices D.1 and D.2; Hutchinson, 1989,
https://doi.org/10.1080/03610918908812806; Dormand and Prince, "A family of embedded Runge-Kutta formulae", 1980,
https://doi.org/10.1016/0771-050X(80)90013-3; Hairer, Norsett and Wanner, "Solving ordinary differential equations
I", 1993, section II.4 (controller and first step); Theis et al., "A note on the evaluation of generative models",
ICLR 2016, https://arxiv.org/abs/1511.01844 (dequantisation).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from prescore.denoiser import Denoise, Evaluator, expand
from prescore.errors import PrescoreError, check_choice, is_whole
from prescore.noise import NoiseSource
from prescore.samplers.adaptive import AdaptiveState, check_tolerance, quantised, rows, unreached
from prescore.samplers.base import Sampler

TRACES = ("rademacher", "gaussian", "exact")
EXACT = 32  # numbers of an event up to which the trace is exact unless another is asked for
PROBES = 4

# The pair of Dormand and Prince: times and weights of stages 2 to 7, the last being the result of order 5 (so that
# its slope is the first of the next step), and weights of that result minus the one of order 4.
C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dormand_prince(
    f: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    start: Tensor,
    end: Tensor,
    *,
    rtol: float,
    atol: float,
    max_calls: int,
) -> tuple[Tensor, AdaptiveState]:
    """Solve dy/dt = f(t, y) from t = start to t = end (0-d), for each row of y with steps of its own.

    A step is accepted if E = sqrt(mean of (error / (atol + rtol max(|y|, |y_new|)))^2) < 1; the next length is h times
    0.9 E^(-1/5), limited to [0.2, 10], and to [0.2, 1] after a rejection, rounded down to a power of 2^(1/8)
    (`quantised`). The first length is chosen from f and one Euler step (Hairer, Norsett and Wanner), and rounded too.

    Args:
        f: (t, y) -> like y, t of shape (B,).  y: (B, *any), floating point.
        rtol, atol: relative and absolute tolerance.
        max_calls: calls of f after which to give up.

    Returns:
        y at the end, and the calls that each row needed.

    Raises:
        SamplingError: the end is not reached within max_calls, or a step fell below what t can resolve.
    """

    def norm(v: Tensor) -> Tensor:
        return v.flatten(1).double().square().mean(1).sqrt()

    sign, t = torch.sign(end - start), start.repeat(len(y))
    slope = f(t, y)
    wish, calls = _first_length(f, t, y, slope, end, norm, rtol, atol), 2
    needed = torch.full_like(t, calls, dtype=torch.int64)
    rejections, rejected = torch.zeros_like(needed), torch.zeros_like(t, dtype=torch.bool)
    while (active := t != end).any():
        rest = (end - t).abs()
        h = torch.minimum(wish, rest)
        resolved = h >= torch.minimum(10 * (torch.nextafter(t, end) - t).abs(), rest)
        if calls + len(C) > max_calls or (active & ~resolved).any():
            raise unreached(torch.exp(t[active]), calls, f"rtol = {rtol:g}, atol = {atol:g}")
        new, error, end_slope = pair(f, t, y, sign * h, slope)
        scale = atol + rtol * torch.maximum(y.abs(), new.abs())
        size = norm(error / scale)
        accept = active & (size < 1)
        # No error at all would allow any step; the power needs a number.
        factor = (0.9 * size.clamp_min(1e-100) ** -0.2).clamp(0.2, 10)
        factor = quantised(torch.where(~accept | rejected, factor.clamp_max(1), factor))
        wish = torch.where(active, h * factor, wish)
        rejected = active & ~accept
        calls, needed, rejections = calls + len(C), needed + len(C) * active, rejections + rejected
        y, slope = torch.where(rows(accept, y), new, y), torch.where(rows(accept, y), end_slope, slope)
        t = torch.where(accept, torch.where(h < rest, t + sign * h, end), t)
    return y, AdaptiveState(needed, rejections, wish)


def pair(
    f: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, h: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of signed length h, (B,), from y with the slope f(t, y): y_new of order 5, its difference from the
    result of order 4, and the slope at y_new."""
    K, dt, new = [slope], expand(h, y), y
    for c, weights in zip(C, A, strict=True):
        new = y + dt * sum(a * k for a, k in zip(weights, K, strict=True) if a)
        K.append(f(t + c * h, new))
    return new, dt * sum(e * k for e, k in zip(E, K, strict=True) if e), K[-1]


def _first_length(
    f: Callable[[Tensor, Tensor], Tensor],
    t: Tensor,
    y: Tensor,
    slope: Tensor,
    end: Tensor,
    norm: Callable[[Tensor], Tensor],
    rtol: float,
    atol: float,
) -> Tensor:
    """Length of the first step such that its error is about 1 % of the tolerance, (B,)."""
    scale, span = atol + rtol * y.abs(), (end - t).abs()
    d0, d1 = norm(y / scale), norm(slope / scale)
    h0 = torch.minimum(quantised(torch.where(torch.minimum(d0, d1) < 1e-5, 1e-6, 0.01 * d0 / d1)), span)
    step = torch.sign(end - t) * h0
    d2 = norm((f(t + step, y + expand(step, y) * slope) - slope) / scale) / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp_min(1e-6), (0.01 / steepest) ** 0.2)
    return torch.minimum(quantised(torch.minimum(100 * h0, h1)), span)


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveODE(Sampler):
    """The probability-flow ODE, solved to a tolerance.

    Args:
        rtol, atol: relative and absolute tolerance of each step, atol in units of the data; 1e-5 are those of Song
            et al. Below about 1e-6 a float32 network's rounding stops the steps.
        max_calls: network calls of a sample in one leg of the grid after which to give up.
        steps: legs of the grid, between which a callback is called and which no step crosses; the last one is the
            denoising step D(x, sigma_min). The usual 2 leave all the way between sigma_max and sigma_min free.

    Raises:
        PrescoreError: a tolerance or max_calls out of its range.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_calls: int = 10000

    family: ClassVar[str] = "probability-flow ODE"
    usual_steps: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_integration(self.rtol, self.atol, self.max_calls)

    @property
    def order(self) -> int:
        return 5

    @property
    def stochastic(self) -> bool:
        return False

    def total_calls(self, steps: int, final_zero: bool = True) -> None:
        """Not known before: 2 to start and 6 for each step tried in each leg, 1 for the denoising step."""

    def step(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        state: AdaptiveState | None,
        noise: NoiseSource,
    ) -> tuple[Tensor, AdaptiveState]:
        state = state or AdaptiveState.zero(x)
        if sigma_next == 0:
            return denoise(x, sigma), replace(state, calls=state.calls + 1)
        x, leg = dormand_prince(
            lambda log, x: x - denoise(x, log.exp()),
            x,
            sigma.log().to(x.device),
            sigma_next.log().to(x.device),
            rtol=self.rtol,
            atol=self.atol,
            max_calls=self.max_calls,
        )
        return x, AdaptiveState(state.calls + leg.calls, state.rejections + leg.rejections, leg.h)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What `log_likelihood` found.

    Attributes:
        log_prob: log density in nats, (B,), float64; with `bins`, of the dequantised data.
        bits_per_dim: (B,); with `bins`, an upper bound on the bits per whole number.
        error: standard error of log_prob by the spread of the probes, (B,): 0 with an exact trace, NaN with one probe.
        latent: where the flow takes each x at sigma_max, (B, *event).
        state: calls of the denoiser that each x needed.
    """

    log_prob: Tensor
    bits_per_dim: Tensor
    error: Tensor
    latent: Tensor
    state: AdaptiveState


def log_likelihood(
    denoiser: Denoise,
    x: Tensor,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    trace: str | None = None,
    probes: int = PROBES,
    seeds: Iterable[int] | None = None,
    bins: int | None = None,
    data_range: tuple[float, float] | None = None,
    prior_mean: Tensor | float = 0.0,
    prior_variance: Tensor | float = 0.0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_calls: int = 10000,
    condition: Mapping[str, Tensor] | None = None,
) -> Likelihood:
    """Log density of data under a model, and bits per dimension.

    Args:
        denoiser: as for `sample`; it must be differentiable by torch.
        x: data, (B, *event), as the model sees them.
        sigma_min, sigma_max: noise levels of the data and of the prior, by default the model's own.
        trace: of the Jacobian: "rademacher" or "gaussian" probes, or "exact", as many backward passes a call as an
            event has numbers. By default exact for events of up to 32 numbers, above "rademacher".
        probes: how many of them for each x: backward passes a call. From two on their spread gives the error.
        seeds: one for each x, of its probes and its dequantisation, by default 0 .. B - 1.
        bins: if x are whole numbers spread over the data range in so many values (256 for 8-bit images), they get
            uniform noise and the bits are those of the whole numbers. Without, the bits are of the density.
        data_range: of x with bins, by default the model's own.
        prior_mean, prior_variance: mean and variance of the data assumed at sigma_max (see the module), numbers or
            broadcastable to an event.
        rtol, atol, max_calls: of the integration, as for `AdaptiveODE`.
        condition: named tensors of B rows, passed to the denoiser as keyword arguments.

    Raises:
        PrescoreError: an argument does not fit the others, or the model cannot be differentiated.
        SamplingError: the tolerance is not reached, or the model's output is not finite.
    """
    _check_integration(rtol, atol, max_calls)
    if trace is not None:
        check_choice("trace", trace, TRACES)
    if not is_whole(probes) or probes < 1:
        raise PrescoreError(f"probes: {probes!r} is not a positive whole number")
    low = getattr(denoiser, "sigma_min", None) if sigma_min is None else sigma_min
    high = getattr(denoiser, "sigma_max", None) if sigma_max is None else sigma_max
    if low is None or high is None or not 0 < low < high:
        raise PrescoreError(f"sigma_min {low} and sigma_max {high}: 0 < sigma_min < sigma_max is needed")
    model = Evaluator(denoiser, condition)
    model.where = "during the integration of the likelihood"
    numbers = range(len(x)) if seeds is None else list(seeds)
    noise = NoiseSource(numbers, x.shape[1:], device=model.device)
    if len(noise.seeds) != len(x):
        raise PrescoreError(f"seeds: {len(noise.seeds)} of them for {len(x)} data; one for each is needed")
    x, offset, n = x.to(model.device, torch.float64), 0.0, x[0].numel()
    trace = trace or ("exact" if n <= EXACT else "rademacher")
    if bins is not None:
        interval = data_range or getattr(denoiser, "data_range", None)
        if interval is None or bins < 2 or not interval[0] < interval[1]:
            raise PrescoreError(f"bins: {bins} values in data_range {interval}; 256 in (0, 1) is an example")
        a, width = interval[0], interval[1] - interval[0]
        x = a + width * ((x - a) / width * (bins - 1) + noise.uniform()) / bins
        offset = math.log2(bins / width)
    directions = [
        noise() if trace == "gaussian" else torch.where(noise.uniform() < 0.5, -1.0, 1.0).double()
        for _ in range(0 if trace == "exact" else probes)
    ]
    event, count = x.shape[1:], max(len(directions), 1)

    def slope(log: Tensor, y: Tensor) -> Tensor:
        """F, and div F by each probe behind it, for x and the integrals so far, (B, n + count)."""
        with torch.enable_grad():
            x = y[:, :n].unflatten(1, event).detach().requires_grad_()
            D = model(x, log.exp())
            model.last = D.detach()  # or the graph of this call would live through the next
            if not D.requires_grad:
                raise PrescoreError("trace: the model's output has no gradient, so its divergence is not known")
            if trace == "exact":
                exact = torch.zeros_like(log)
                for i, D_i in enumerate(D.flatten(1).unbind(1)):
                    exact += torch.autograd.grad(D_i.sum(), x, retain_graph=True)[0].flatten(1)[:, i]
                traces = [exact]
            else:
                products = [torch.autograd.grad((e * D).sum(), x, retain_graph=True)[0] * e for e in directions]
                traces = [product.flatten(1).sum(1) for product in products]
        return torch.cat([(x - D).detach().flatten(1), n - torch.stack(traces, 1)], 1)

    ends = torch.tensor([low, high], dtype=torch.float64, device=model.device).log()
    start = torch.cat([x.flatten(1), x.new_zeros(len(x), count)], 1)
    with torch.no_grad():
        y, state = dormand_prince(slope, start, ends[0], ends[1], rtol=rtol, atol=atol, max_calls=max_calls)
    latent, integrals = y[:, :n].unflatten(1, event), y[:, n:]
    v = torch.as_tensor(high**2 + prior_variance, dtype=torch.float64, device=model.device).expand_as(latent)
    log_prior = -((latent - prior_mean).square() / v + (2 * math.pi * v).log()).flatten(1).sum(1) / 2
    log_prob = log_prior + integrals.mean(1)
    error = torch.full_like(log_prob, 0.0 if trace == "exact" else math.nan)
    if count > 1:
        error = integrals.std(1, correction=1) / count**0.5
    return Likelihood(log_prob, -log_prob / (n * math.log(2)) + offset, error, latent, state)


def _check_integration(rtol: float, atol: float, max_calls: int) -> None:
    check_tolerance("rtol", rtol)
    check_tolerance("atol", atol)
    if max_calls < 2 + len(C):
        raise PrescoreError(f"max_calls: {max_calls} is less than the {2 + len(C)} calls of one step")
