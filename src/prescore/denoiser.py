"""The denoiser contract, its equivalent parameterisations, and wrappers that turn native models into denoisers.

Everything that samples works with one kind of function,

    denoise(x, sigma, **condition) -> x0,    D(x, sigma) = E[x0 | x],    x = x0 + sigma n,    n ~ N(0, I),

where x has shape (B, *event), sigma is 0-d or (B,), and the result has the shape of x. x is *unscaled*: a model that
was trained on x_t = s(t) (x0 + sigma(t) n) is wrapped so that its scale s(t) and its time t stay inside. Conditions
(a class label, a text embedding) are keyword arguments whose names are the model's own.

Networks predict the score, the noise, the velocity or a preconditioned residual instead of x0. All of these are
affine in x0 at fixed x and sigma, so that each is one line away from every other (Tweedie's formula):

    score     grad log p(x; sigma) = (D - x) / sigma^2
    noise     eps = (x - D) / sigma
    velocity  v = alpha eps - sigma_vp x0, with alpha = 1 / sqrt(1 + sigma^2), sigma_vp = sigma alpha
    EDM       F = (D - c_skip x) / c_out

Sources: Efron, "Tweedie's formula and selection bias", JASA 2011, https://doi.org/10.1198/jasa.2011.tm11181;
Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, eq. 3, 7 and Table 1; Salimans and Ho, "Progressive distillation for fast sampling
of diffusion models", ICLR 2022, https://arxiv.org/abs/2202.00512, section 4 (velocity).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prescore.errors import PrescoreError

Denoise = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A denoising function together with what a sampler has to know about it.

    Attributes:
        function: `(x, sigma, **condition) -> x0`, x of shape (B, *event_shape), sigma 0-d or (B,).
        event_shape: shape of one sample, channels first.
        sigma_min, sigma_max: noise levels between which the model is meant to be used, 0 <= sigma_min < sigma_max.
        data_range: interval of the clean data as the model sees it.
        data_mean_removed: whether the mean of the training data was subtracted from it.
        dtype, device: what the function wants its arguments to be.
        name: for messages and tables.

    Raises:
        PrescoreError: an attribute is out of its range.
    """

    function: Denoise
    event_shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    data_range: tuple[float, float] = (0.0, 1.0)
    data_mean_removed: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise PrescoreError(f"function: {type(self.function).__name__} cannot be called as function(x, sigma)")
        if not self.event_shape or not all(isinstance(n, int) and n > 0 for n in self.event_shape):
            raise PrescoreError(f"event_shape: {self.event_shape} is not a shape such as (3, 32, 32)")
        if not (0 <= self.sigma_min < self.sigma_max < math.inf):
            raise PrescoreError(
                f"sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: 0 <= sigma_min < sigma_max < inf is needed"
            )
        if len(self.data_range) != 2 or not (self.data_range[0] < self.data_range[1]):
            raise PrescoreError(f"data_range: {self.data_range} is not an interval (low, high)")

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        """E[x0 | x] at noise level sigma; the condition goes to the model as it is."""
        return self.function(x, sigma, **condition)


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma, 0-d or (B,), in the dtype and on the device of x (B, *event), shaped to broadcast against it.

    Raises:
        PrescoreError: sigma has another shape.

    >>> expand(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if sigma.shape not in ((), x.shape[:1]):
        raise PrescoreError(f"sigma of shape {tuple(sigma.shape)}: () or ({len(x)},), one for each sample, is needed")
    return sigma.reshape(-1, *(1,) * (x.ndim - 1)) if sigma.ndim else sigma
