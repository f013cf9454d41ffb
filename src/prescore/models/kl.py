"""The autoencoder of diffusers' latent models, `AutoencoderKL`, with the interface of `VAE`.

Latents are scaled and shifted as its configuration says, so that they are what a model of them works on.

Source: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0), `AutoencoderKL`.
"""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError
from prescore.models.vae import Posterior

LATENT_RANGE = (-4.0, 4.0)  # of latents that are scaled to deviation 1


class KLAutoencoder(nn.Module):
    """Encoder and decoder between images (B, C, R, R) in [0, 1] and scaled latents (B, latent_channels, r, r).

    Args:
        img_resolution: side R of the images.
        config: keyword arguments of diffusers' `AutoencoderKL`; others, of its other versions, are left out.

    Raises:
        PrescoreError: the resolution cannot be halved so often, or diffusers is not installed.
    """

    at_once: ClassVar[int] = 4  # pictures of a batch, where there are many

    def __init__(self, img_resolution: int, config: dict[str, Any]) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise PrescoreError("the autoencoder needs diffusers; pip install '.[diffusers]' in the clone") from None
        known = inspect.signature(AutoencoderKL).parameters
        vae: Any = AutoencoderKL(**{name: value for name, value in config.items() if name in known})
        self.vae, self.config = vae, vae.config
        for name in ("scaling_factor", "shift_factor"):
            if not isinstance(value := self.config[name], int | float | None) or isinstance(value, bool):
                raise PrescoreError(f"{name}: {value!r} is not a number")
        factor = 2 ** (len(self.config.block_out_channels) - 1)
        if img_resolution < 1 or img_resolution % factor:
            raise PrescoreError(f"img_resolution: {img_resolution} is not a multiple of {factor}")
        r = img_resolution // factor
        self.event_shape = (self.config.out_channels, img_resolution, img_resolution)
        self.latent_shape = (self.config.latent_channels, r, r)

    def encode(self, x: Tensor) -> Posterior:
        """q(z | x) of images in [0, 1]."""
        found, (scale, shift) = self.vae.encode(2 * x - 1).latent_dist, scale_and_shift(self.config, x)
        return Posterior((found.mean - shift) / scale, found.logvar - 2 * torch.as_tensor(scale).log())

    def decode(self, z: Tensor) -> Tensor:
        """Images in [0, 1]."""
        scale, shift = scale_and_shift(self.config, z)
        return (self.vae.decode(z * scale + shift).sample / 2 + 0.5).clamp(0, 1)


def scale_and_shift(config: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What a model's latents are multiplied by, and what is then added, for the autoencoder of this configuration."""
    scale, mean, deviation = (config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std"))
    if mean is not None and deviation is not None:
        mean, deviation = (like.new_tensor(values).reshape(1, -1, 1, 1) for values in (mean, deviation))
        return deviation / (scale or 1.0), mean
    return 1 / (scale or 1.0), config.get("shift_factor") or 0.0
