"""Score matching losses, their weights, and the noise levels they are averaged over.

At a noise level sigma the score of the noisy data is s(x) = (D(x; sigma) - x) / sigma^2, and all losses below, with
w = w(sigma) and d the number of coordinates, have the exact score as their only minimiser:

    dsm     w |D(x0 + sigma n; sigma) - x0|^2 / d                  denoising score matching, n ~ N(0, I)
    ism     2 w sigma^4 (|s(x)|^2 / 2 + tr ds/dx) / d               implicit score matching
    ssm-vr  2 w sigma^4 (|s(x)|^2 / 2 + v^T ds/dx v) / d            sliced score matching, variance reduced
    ssm     2 w sigma^4 ((v^T s(x))^2 / 2 + v^T ds/dx v) / d        sliced score matching

with x = x0 + sigma n in all of them and random directions v, E[v v^T] = I, here of signs. Since
|D - x0|^2 = sigma^4 |s + n / sigma|^2 and, by Stein's lemma, E[s . n / sigma] = E[tr ds/dx], the expectations of the
last three are equal to each other and fall short of that of `dsm` by w sigma^2, whatever s is. So any of them can
replace `dsm`; they do not compare with the noise that was added, and pay with second derivatives: one more backward
pass for sliced score matching, d for the trace. The loss sigma^2 / 2 |s + n / sigma|^2 of NCSN is `dsm` with
w = 1 / (2 sigma^2), a configuration of EDM's Table 1 is `dsm` with the weight of its column, and flow matching, whose
network F predicts n - x0 from x_t = (1 - t) x0 + t n, is `dsm` with w = 1 / t^2.

Means, not sums, are taken over coordinates, so that gradients are of the same size for images of any size.

Sources: A. Hyvarinen, "Estimation of Non-Normalized Statistical Models by Score Matching", JMLR 2005,
https://jmlr.org/papers/v6/hyvarinen05a.html, eq. 4 (ism); P. Vincent, "A Connection Between Score Matching and
Denoising Autoencoders", 2011, https://doi.org/10.1162/NECO_a_00142, eq. 17 (dsm); Y. Song et al., "Sliced Score
Matching", 2019, https://arxiv.org/abs/1905.07088, eq. 7 and 8 (ssm, ssm-vr); Y. Song and S. Ermon, "Generative
Modeling by Estimating Gradients of the Data Distribution", 2019, https://arxiv.org/abs/1907.05600, eq. 5 and 6;
T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, Table 1 ("Training") and eq. 2; X. Liu et al., "Flow Straight and Fast", 2023,
https://arxiv.org/abs/2209.03003, eq. 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prescore.errors import PrescoreError
from prescore.schedule import VP, RectifiedFlow

MAX_TRACE = 256  # coordinates, each of which costs a backward pass in `ism`
Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LogUniform:
    """VE recipe: ln sigma ~ U(ln sigma_min, ln sigma_max)."""

    sigma_min: float
    sigma_max: float

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in [0, 1] of the training lies."""
        return self.sigma_min * (u * math.log(self.sigma_max / self.sigma_min)).exp()


@dataclass(frozen=True)
class LogNormal:
    """EDM recipe: ln sigma ~ N(P_mean, P_std^2)."""

    P_mean: float = -1.2
    P_std: float = 1.2

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in (0, 1) of the training lies."""
        return (self.P_mean + self.P_std * torch.special.ndtri(u)).exp()


@dataclass(frozen=True)
class UniformTime:
    """VP recipe: t ~ U(eps_t, 1), sigma = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    eps_t: float = 1e-5

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in [0, 1] of the training lies."""
        return VP(self.beta_d, self.beta_min).sigma(self.eps_t + u * (1 - self.eps_t))

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level."""
        low, high = self.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        return low, high


@dataclass(frozen=True)
class UniformFlow:
    """Flow matching: t ~ U(t_min, 1), sigma = t / (1 - t). Below t_min rounding is all that is left of the loss."""

    schedule: RectifiedFlow = field(default_factory=RectifiedFlow)

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in [0, 1] of the training lies."""
        return self.schedule.sigma(self.schedule.t_min + u * (1 - self.schedule.t_min))

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level."""
        return self.schedule.sigma_min, self.schedule.sigma_max


@dataclass(frozen=True)
class Levels:
    """NCSN and NCSNv2 recipes: each of a decreasing list of noise levels is as likely as the others."""

    sigmas: tuple[float, ...]

    def quantile(self, u: Tensor) -> Tensor:
        """Noise level below which a share u in [0, 1] of the training lies."""
        index = (u * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)
        return torch.tensor(self.sigmas[::-1], dtype=torch.float64)[index]


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """One uniform number in each of `count` equal parts of (0, 1), in order: (count,), float64.

    Each, taken from a random place, is uniform; together they cover every noise level in every batch, which takes
    most of the noise out of the loss (D. Kingma et al., "Variational Diffusion Models", 2021,
    https://arxiv.org/abs/2107.00630, appendix I.1).
    """
    u = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((torch.arange(count) + u) / count).clamp(1e-12, 1 - 1e-12)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """(sigma^2 + sd^2) / (sigma sd)^2: the loss of the raw network's output then has unit weight at every sigma."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def inverse_square_weight(sigma: Tensor) -> Tensor:
    """1 / sigma^2, of the VP and VE recipes."""
    return 1 / sigma**2


def flow_weight(sigma: Tensor) -> Tensor:
    """1 / t^2, t = sigma / (1 + sigma): since D - x0 = t (n - x0 - F), the loss is then |F - (n - x0)|^2."""
    return ((1 + sigma) / sigma) ** 2


def ncsn_weight(sigma: Tensor) -> Tensor:
    """1 / (2 sigma^2): the loss is then sigma^2 / 2 |s + n / sigma|^2, as NCSN's."""
    return 1 / (2 * sigma**2)


def denoising_loss(denoise: Denoise, x0: Tensor, sigma: Tensor, n: Tensor, weight: Tensor) -> Tensor:
    """`dsm`: mean over samples and coordinates of weight (D(x0 + sigma n; sigma) - x0)^2; a 0-d tensor.

    Shapes: x0, n (B, *event); sigma, weight (B,).
    """
    shape = (-1, *[1] * (x0.ndim - 1))
    error = denoise(x0 + sigma.reshape(shape) * n, sigma) - x0
    return (weight.reshape(shape) * error**2).mean()


def implicit_loss(denoise: Denoise, x0: Tensor, sigma: Tensor, n: Tensor, weight: Tensor) -> Tensor:
    """`ism`; arguments and result as those of `denoising_loss`.

    Raises:
        PrescoreError: more coordinates than `MAX_TRACE`.
    """
    check_trace(x0[0].numel())
    with _twice_differentiable():
        x, s = _score(denoise, x0, sigma, n)
        flat = s.flatten(1)
        rows = [torch.autograd.grad(flat[:, i].sum(), x, create_graph=True)[0].flatten(1) for i in range(flat.shape[1])]
        trace = torch.stack([row[:, i] for i, row in enumerate(rows)]).sum(0)
        return _weighted(flat.square().sum(1) / 2 + trace, sigma, weight, flat.shape[1])


def sliced_loss(denoise: Denoise, x0: Tensor, sigma: Tensor, n: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    """`ssm`; arguments and result as those of `denoising_loss`, and directions v (B, *event)."""
    with _twice_differentiable():
        slope, s = _slope(denoise, x0, sigma, n, v)
        along = (v * s).flatten(1).sum(1)
        return _weighted(along**2 / 2 + slope, sigma, weight, s[0].numel())


def sliced_loss_vr(denoise: Denoise, x0: Tensor, sigma: Tensor, n: Tensor, weight: Tensor, v: Tensor) -> Tensor:
    """`ssm-vr`, in which E[(v^T s)^2] = |s|^2 is taken exactly; arguments and result as those of `sliced_loss`."""
    with _twice_differentiable():
        slope, s = _slope(denoise, x0, sigma, n, v)
        return _weighted(s.flatten(1).square().sum(1) / 2 + slope, sigma, weight, s[0].numel())


# By name; those that take directions v as well are listed apart.
LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"dsm": denoising_loss, "ssm": sliced_loss, "ssm-vr": sliced_loss_vr, "ism": implicit_loss}
)
SLICED = ("ssm", "ssm-vr")


def check_trace(coordinates: int) -> None:
    """Raise PrescoreError if the trace of so many coordinates costs too much."""
    if coordinates > MAX_TRACE:
        raise PrescoreError(
            f"loss: ism needs one backward pass for each of {coordinates} coordinates, which is meant for at most "
            f"{MAX_TRACE}; take ssm-vr"
        )


def _score(denoise: Denoise, x0: Tensor, sigma: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """(x, s(x)) with x = x0 + sigma n."""
    level = sigma.reshape(-1, *[1] * (x0.ndim - 1))
    x = (x0 + level * n).requires_grad_()
    return x, (denoise(x, sigma) - x) / level**2


def _slope(denoise: Denoise, x0: Tensor, sigma: Tensor, n: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """(v^T ds/dx v of each sample, s)."""
    x, s = _score(denoise, x0, sigma, n)
    (gradient,) = torch.autograd.grad((v * s).sum(), x, create_graph=True)
    return (v * gradient).flatten(1).sum(1), s


def _weighted(each: Tensor, sigma: Tensor, weight: Tensor, coordinates: int) -> Tensor:
    return (2 * weight * sigma**4 * each).mean() / coordinates


def _twice_differentiable():  # type: ignore[no-untyped-def]
    # The other kernels of attention have no second derivative.
    return sdpa_kernel(SDPBackend.MATH)
