"""Learning a variational autoencoder: reconstruction and KL divergence, in nats (see `prescore.models.vae`).

    loss = -log p(x | z) + beta KL(q(z | x) | N(0, I)),    z ~ q(z | x)

With beta = 1 this is minus the evidence lower bound. Smaller values keep more of the image and leave the latents
further from white noise, which is what models of the latents usually ask for; larger ones do the opposite.

Sources: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, https://arxiv.org/abs/1312.6114, eq. 10;
Higgins et al., "beta-VAE", ICLR 2017, https://openreview.net/forum?id=Sy2fzU9gl, eq. 4.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from prescore.checkpoints.autoencoder import load_autoencoder, save_autoencoder
from prescore.checkpoints.stored import naming
from prescore.errors import PrescoreError, check_choice
from prescore.models.vae import VAE
from prescore.training.config import check_least, check_positive
from prescore.training.data import UNIT, TrainingData
from prescore.training.initial import check_same_arguments
from prescore.training.task import Draw, Task, check_images, check_size, stored_dtype

LIKELIHOODS = ("bernoulli", "gaussian")


class Terms(NamedTuple):
    """What the loss is made of, for each image, in nats, (B,)."""

    reconstruction: Tensor
    kl: Tensor


def reconstruction_loss(logits: Tensor, x: Tensor, likelihood: str = "bernoulli", pixel_std: float = 0.1) -> Tensor:
    """-log p(x | z) of each image, (B,), in nats.

    Args:
        logits: of the decoder's mean m, (B, C, H, W).
        x: images in [0, 1], of the same shape.
        likelihood: "bernoulli", -sum(x log m + (1 - x) log(1 - m)), exact for black and white pixels; or "gaussian",
            |x - m|^2 / (2 s^2) + C H W log(s sqrt(2 pi)).
        pixel_std: s of the Gaussian.

    Raises:
        PrescoreError: unknown likelihood.
    """
    check_choice("likelihood", likelihood, LIKELIHOODS)
    if likelihood == "bernoulli":
        each = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    else:
        each = ((x - logits.sigmoid()) / pixel_std) ** 2 / 2 + math.log(pixel_std * math.sqrt(2 * math.pi))
    return each.flatten(1).sum(1)


def elbo_terms(vae: VAE, x: Tensor, n: Tensor, likelihood: str = "bernoulli", pixel_std: float = 0.1) -> Terms:
    """Both terms of minus the evidence lower bound, with one draw z = mean + std n; n ~ N(0, I), (B, *latent_shape)."""
    posterior, logits = vae(x, n)
    return Terms(reconstruction_loss(logits, x, likelihood, pixel_std), posterior.kl())


def vae_loss(
    vae: VAE, x: Tensor, n: Tensor, *, beta: float = 1.0, likelihood: str = "bernoulli", pixel_std: float = 0.1
) -> Tensor:
    """Mean over the batch of reconstruction + beta KL, in nats a pixel value; a 0-d tensor.

    Divided by the number of pixel values, it is of the same size for images of any size.
    """
    terms = elbo_terms(vae, x, n, likelihood, pixel_std)
    return (terms.reconstruction + beta * terms.kl).mean() / x[0].numel()


@dataclass(frozen=True)
class VAESettings:
    """Settings of the recipe vae.

    Args:
        latent_channels: of the latents; each has R / 2^levels pixels a side, one level for each entry of channel_mult.
        beta: weight of the KL divergence; 1 for the evidence lower bound.
        likelihood: of the pixels, bernoulli or gaussian.
        pixel_std: standard deviation of the gaussian.
        flip: mirror each image, left to right, with probability 1/2.
        model_channels: base width of the network.
        channel_mult: width of each level, in base widths, finest first.
        num_blocks: residual blocks a level.

    Raises:
        PrescoreError: a value is out of its range or unknown.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {"likelihood": LIKELIHOODS}

    latent_channels: int = 6
    beta: float = 1.0
    likelihood: str = "bernoulli"
    pixel_std: float = 0.1
    flip: bool = False
    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2)
    num_blocks: int = 1

    def __post_init__(self) -> None:
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        check_least(self, 1, "latent_channels", "model_channels")
        check_least(self, 0, "num_blocks")
        check_positive(self, "beta", "pixel_std")

    def unused(self) -> dict[str, str]:
        """Fields that do nothing beside the others, and what they would belong to."""
        return {} if self.likelihood == "gaussian" else {"pixel_std": "likelihood gaussian"}

    def task(self, data: TrainingData) -> "VAETask":
        return VAETask(self, data)


class VAETask(Task):
    """An autoencoder of images, which it sees in [0, 1]; see `VAESettings`."""

    settings: VAESettings

    def __init__(self, settings: VAESettings, data: TrainingData) -> None:
        check_images(data, "the autoencoder")
        if data.labels is not None:
            raise PrescoreError("labels: the autoencoder takes no classes; leave them out")
        self.settings, self.data, self.data_range, self.measured = settings, data, UNIT, {}
        channels, side, _ = data.event_shape
        names = ("latent_channels", "model_channels", "channel_mult", "num_blocks")
        self.arguments: dict[str, Any] = {"img_resolution": side, "in_channels": channels}
        self.arguments |= {name: getattr(settings, name) for name in names}
        with torch.device("meta"):
            self.latent_shape = VAE(**self.arguments).latent_shape

    def build(self, generator: torch.Generator) -> VAE:
        check_size(lambda: VAE(**self.arguments))
        return VAE(**self.arguments, generator=generator)

    def objective(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, VAE)
        return VAEObjective(network, self.settings)

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        numbers = {"index": torch.randint(len(self.data.examples), (count,), generator=generator)}
        numbers["n"] = torch.randn(count, *self.latent_shape, generator=generator)
        if self.settings.flip:
            numbers["is_flipped"] = torch.rand(count, generator=generator) < 0.5
        return Draw(numbers)

    def batch(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = self.data.scaled(self.data.examples[numbers["index"]], UNIT)
        if "is_flipped" in numbers:
            x = torch.where(numbers["is_flipped"][:, None, None, None], x.flip(3), x)
        return {"x": x, "n": numbers["n"]}

    def preview(self, network: nn.Module, count: int, seed: int) -> Tensor:
        """Examples, and below them what the means of their posteriors decode to."""
        assert isinstance(network, VAE)
        chosen = torch.randint(len(self.data.examples), (count // 2,), generator=torch.Generator().manual_seed(seed))
        x = self.data.scaled(self.data.examples[chosen], UNIT).to(next(network.parameters()).device)
        return torch.cat([x, network.decode(network.encode(x).mean)])

    def load(self, path: str | Path) -> dict[str, Tensor]:
        autoencoder, arguments = load_autoencoder(path)
        with naming(path):
            check_same_arguments(VAE, arguments, self.arguments)
        return dict(autoencoder.state_dict())

    def save(
        self, path: Path, weights: Mapping[str, Tensor], name: str, training: dict[str, Any], kind: str = "ema"
    ) -> None:
        dtype = stored_dtype(weights)
        save_autoencoder(path, self.arguments, weights, name=name, training=training, dtype=dtype)


class VAEObjective(nn.Module):
    """The loss of images x (B, C, R, R) in [0, 1] with noise n (B, *latent_shape)."""

    def __init__(self, network: VAE, settings: VAESettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    def forward(self, step: int, *, x: Tensor, n: Tensor) -> Tensor:
        s = self.settings
        return vae_loss(self.network, x, n, beta=s.beta, likelihood=s.likelihood, pixel_std=s.pixel_std)
