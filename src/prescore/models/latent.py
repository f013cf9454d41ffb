"""A denoiser that works on latents, and the autoencoder that turns pictures into latents and back: one model.

Whatever is done with a denoiser is done with the latents: samplers draw them, statistics and preconditioners are
theirs, noise levels are in their units. Only at the end does `decode` make pictures of them,

    z = prescore.sample(model, sampler, seeds=seeds)
    images = model.decode(z)

and at the beginning `encode` makes latents of pictures: the means of their posteriors.

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
appendix B.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.models.kl import KLAutoencoder
from prescore.models.vae import VAE


@dataclass(frozen=True, eq=False)
class LatentDenoiser(Denoiser):
    """A denoiser of the latents of an autoencoder.

    Args:
        autoencoder: its latents have the shape `event_shape`. It may be in another precision than the denoiser, but
            is on the same device.

    All others are those of `Denoiser`, and speak of latents: `event_shape`, `data_range`, the noise levels.

    Raises:
        PrescoreError: as `Denoiser`, or the autoencoder's latents have another shape.
    """

    autoencoder: VAE | KLAutoencoder = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.autoencoder.latent_shape != self.event_shape:
            raise PrescoreError(
                f"autoencoder: its latents are {self.autoencoder.latent_shape}, the model's are {self.event_shape}"
            )

    @property
    def picture_shape(self) -> tuple[int, ...]:
        return self.autoencoder.event_shape

    @property
    def picture_range(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, *event_shape), float32 or better, of pictures (N, *picture_shape); see `encode`."""
        return encode(self.autoencoder, x)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Pictures in [0, 1], (N, *picture_shape), of latents (N, *event_shape)."""
        weight = next(self.autoencoder.parameters())
        parts = [self.autoencoder.decode(part.to(weight)) for part in x.split(self.autoencoder.at_once)]
        return torch.cat(parts).to(x.dtype)


@torch.no_grad()
def encode(autoencoder: VAE | KLAutoencoder, images: Tensor) -> Tensor:
    """The means of the posteriors of images, (N, *latent_shape), float32 or better.

    Args:
        images: (N, C, R, R), uint8, or floating point in [0, 1].

    Raises:
        PrescoreError: the images are not of the autoencoder's shape.
    """
    if images.shape[1:] != autoencoder.event_shape:
        raise PrescoreError(f"images: {tuple(images.shape[1:])}; the autoencoder is for {autoencoder.event_shape}")
    weight = next(autoencoder.parameters())
    scale = 255 if images.dtype == torch.uint8 else 1
    parts = [autoencoder.encode(part.to(weight) / scale).mean for part in images.split(autoencoder.at_once)]
    return torch.cat(parts).to(torch.promote_types(weight.dtype, torch.float32))
