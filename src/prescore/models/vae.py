"""A convolutional variational autoencoder: images to a small map of latent numbers, and back.

The encoder gives a Gaussian posterior q(z | x) = N(mean(x), diag(exp(log_variance(x)))) and the decoder the mean of
p(x | z); the prior is p(z) = N(0, I). Training maximises a lower bound of log p(x),

    ELBO = E_q[log p(x | z)] - KL(q(z | x) | p(z)),    KL = 1/2 sum(mean^2 + variance - 1 - log variance),

which falls short of log p(x) by exactly KL(q(z | x) | p(z | x)). The KL term also pulls the latents, all images
together, towards white noise of unit variance. A latent keeps the place of what it describes: it is a map
(C, H, W) of coarse pixels, on which filters over frequencies make sense as they do on images.

Sources: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, https://arxiv.org/abs/1312.6114, eq. 3 and
appendix B; for a score-based model on the latents, Ma et al., "Preconditioned score-based generative models", IJCV
2025, https://arxiv.org/abs/2302.06504, appendix B (MNIST to 384 numbers, 64 x 64 colour pictures to 512). Folding
pixels into channels and back: Shi et al., "Real-time single image and video super-resolution using an efficient
sub-pixel convolutional neural network", CVPR 2016, https://arxiv.org/abs/1609.05158.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError
from prescore.models.layers import Conv2d, group_norm, initialise

EPS = 1e-6
NEARLY_ZERO = 1e-5


class Posterior(NamedTuple):
    """q(z | x) = N(mean, diag(exp(log_variance))) for each image of a batch; both (B, C, H, W)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, n: Tensor) -> Tensor:
        """mean + std n for n ~ N(0, I) of the same shape: a draw through which gradients flow."""
        return self.mean + (self.log_variance / 2).exp() * n

    def kl(self) -> Tensor:
        """KL(q(z | x) | N(0, I)) of each image, in nats, (B,)."""
        excess = self.mean**2 + self.log_variance.exp() - 1 - self.log_variance
        return excess.flatten(1).sum(1) / 2


class Residual(nn.Module):
    """y = x + conv1(silu(norm1(conv0(silu(norm0 x))))): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm0 = group_norm(channels, EPS)
        self.conv0 = Conv2d(channels, channels, 3)
        self.norm1 = group_norm(channels, EPS)
        self.conv1 = Conv2d(channels, channels, 3, gain=NEARLY_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(nn.functional.silu(self.norm0(x)))
        return x + self.conv1(nn.functional.silu(self.norm1(h)))


class Down(nn.Module):
    """Each 2 x 2 pixels folded into one of four times the channels, then a convolution: H, W -> H / 2, W / 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(4 * in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pixel_unshuffle(x, 2))


class Up(nn.Module):
    """A convolution to four times the channels, which are then unfolded into 2 x 2 pixels: H, W -> 2 H, 2 W."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, 4 * out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), 2)


class VAE(nn.Module):
    """Encoder and decoder between images (B, in_channels, R, R) in [0, 1] and latents (B, latent_channels, r, r).

    r = R / 2^levels, one level for each entry of `channel_mult`. For MNIST, padded to R = 32, two levels and 6 latent
    channels are 6 x 8 x 8 = 384 numbers; for R = 64, three levels and 8 channels are 512.

    Args:
        img_resolution: side R of the images, a multiple of 2^levels.
        in_channels: of the images.
        latent_channels: of the latents.
        model_channels: base width; `channel_mult` multiplies it level by level, finest first.
        num_blocks: residual blocks a level, in the encoder and in the decoder.
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: a resolution that cannot be halved once a level, or a width that cannot be split into groups
            for normalisation.
    """

    at_once: ClassVar[int] = 256  # pictures of a batch, where there are many

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        latent_channels: int,
        *,
        model_channels: int = 32,
        channel_mult: Sequence[int] = (1, 2),
        num_blocks: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        factor = 2 ** len(channel_mult)
        if not channel_mult or img_resolution < 1 or img_resolution % factor:
            raise PrescoreError(
                f"img_resolution: {img_resolution} cannot be halved for each of the {len(channel_mult)} levels of "
                f"channel_mult; take a multiple of {factor} and at least one level"
            )
        r = img_resolution // factor
        self.event_shape, self.latent_shape = (in_channels, img_resolution, img_resolution), (latent_channels, r, r)
        widths = [model_channels * m for m in channel_mult]
        self.encoder = nn.Sequential()
        for c_in, c_out in zip([in_channels, *widths], widths, strict=False):
            self.encoder.extend([Down(c_in, c_out), *(Residual(c_out) for _ in range(num_blocks))])
        self.encoder.extend([group_norm(widths[-1], EPS), nn.SiLU(), Conv2d(widths[-1], 2 * latent_channels, 3)])
        self.decoder = nn.Sequential(Conv2d(latent_channels, widths[-1], 3))
        for c_in, c_out in zip(widths[::-1], [*widths[-2::-1], in_channels], strict=True):
            self.decoder.extend(Residual(c_in) for _ in range(num_blocks))
            self.decoder.extend([group_norm(c_in, EPS), nn.SiLU(), Up(c_in, c_out)])
        initialise(self, generator)

    def encode(self, x: Tensor) -> Posterior:
        """q(z | x) of images in [0, 1]."""
        return Posterior(*self.encoder(2 * x - 1).chunk(2, dim=1))

    def logits(self, z: Tensor) -> Tensor:
        """log(m / (1 - m)) of the decoder's mean m in (0, 1)."""
        return self.decoder(z)

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x | z), in (0, 1)."""
        return self.logits(z).sigmoid()

    def forward(self, x: Tensor, n: Tensor) -> tuple[Posterior, Tensor]:
        """The posterior of x, and the logits of what a draw from it, mean + std n, decodes to."""
        posterior = self.encode(x)
        return posterior, self.logits(posterior.sample(n))
