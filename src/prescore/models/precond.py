"""Preconditioned denoisers D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) around a raw network F.

The four columns of Table 1 of T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
2022, https://arxiv.org/abs/2206.00364 (eq. 7). Each is a denoiser in unscaled coordinates x = x0 + sigma n. Their
parameters are those of the raw network under the prefix `model.`, as in published checkpoints.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from prescore.denoiser import expand
from prescore.schedule import IDDPM, VP

Coefficients = tuple[Tensor | float, Tensor, Tensor | float, Tensor]


class Precond(nn.Module, ABC):
    """A raw network `model` with c_skip, c_out, c_in, c_noise of its training recipe.

    Shapes: x (B, C, R, R), sigma 0-d or (B,), positive -> (B, C, R, R) in the dtype of x. The network itself runs in
    the dtype of its weights. Labels as in `SongUNet`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """(c_skip, c_out, c_in, c_noise) at positive noise levels of any shape."""

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        c_skip, c_out, c_in, c_noise = self.coefficients(expand(sigma, x))
        dtype = next(self.model.parameters()).dtype
        F_x = self.model((c_in * x).to(dtype), c_noise.flatten().to(dtype), class_labels, augment_labels)
        # A network that also predicts a variance (iDDPM) has more output channels than x; D takes the first ones.
        return c_skip * x + c_out * F_x[:, : x.shape[1]].to(x.dtype)


class EDMPrecond(Precond):
    """c_skip = sd^2/(s^2 + sd^2), c_out = s sd/sqrt(s^2 + sd^2), c_in = 1/sqrt(s^2 + sd^2), c_noise = ln(s)/4.

    s = sigma; sd = `sigma_data`, the root mean square of the data in their own units.
    """

    def __init__(self, model: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__(model)
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return (self.sigma_data / total) ** 2, sigma * self.sigma_data / total, 1 / total, sigma.log() / 4


class VEPrecond(Precond):
    """c_skip = 1, c_out = sigma, c_in = 1, c_noise = ln(sigma/2): F is minus the predicted noise."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return 1.0, sigma, 1.0, (sigma / 2).log()


class VPPrecond(Precond):
    """c_skip = 1, c_out = -sigma, c_in = 1/sqrt(sigma^2 + 1), c_noise = (M - 1) t(sigma): F predicts the noise.

    t(sigma) is the inverse of the VP `schedule`; M is the number of training steps.
    """

    def __init__(self, model: nn.Module, schedule: VP | None = None, M: int = 1000) -> None:
        super().__init__(model)
        self.schedule = schedule or VP()
        self.M = M

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return 1.0, -sigma, (sigma**2 + 1).rsqrt(), (self.M - 1) * self.schedule.t(sigma)


class IDDPMPrecond(Precond):
    """c_skip = 1, c_out = -sigma, c_in = 1/sqrt(sigma^2 + 1), c_noise = M - 1 - argmin_j |u_j - sigma|.

    The levels u_0 > ... > u_M = 0 are a buffer, because those of published checkpoints were computed in float32 and
    differ from the exact ones of `prescore.schedule.IDDPM`, with which it begins, by up to 5e-4.
    """

    u: Tensor

    def __init__(self, model: nn.Module, schedule: IDDPM | None = None) -> None:
        super().__init__(model)
        self.register_buffer("u", (schedule or IDDPM()).u.float())

    def coefficients(self, sigma: Tensor) -> Coefficients:
        index = (sigma.flatten()[:, None] - self.u.to(sigma.dtype)).abs().argmin(1)
        return 1.0, -sigma, (sigma**2 + 1).rsqrt(), len(self.u) - 2 - index
