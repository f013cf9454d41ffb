"""Learning the score of latents: the recipes of images, applied to what an autoencoder makes of the images.

The images are encoded once, to the means of their posteriors. What is stored is one model, a denoiser of latents and
a copy of the autoencoder (`prescore.models.latent`).

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
appendix B.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prescore.checkpoints import ModelDescription
from prescore.checkpoints.autoencoder import load_autoencoder
from prescore.checkpoints.stored import AUTOENCODER
from prescore.errors import PrescoreError
from prescore.models.latent import encode
from prescore.models.vae import VAE
from prescore.training.data import UNIT, TrainingData
from prescore.training.score import ScoreSettings, ScoreTask

MARGIN = 1.25  # of the range of the latents beyond those of the training images


@dataclass(frozen=True)
class LatentSettings(ScoreSettings):
    """Settings of the recipe latent.

    Args:
        autoencoder: the model.safetensors of a run of the recipe vae.

    The others are those of `ScoreSettings`, in the units of the latents.

    Raises:
        PrescoreError: as `ScoreSettings`.
    """

    autoencoder: str = ""

    def unused(self) -> dict[str, str]:
        of_images = dict.fromkeys(("data_range", "flip", "augment"), "recipes for images")
        return super().unused() | of_images

    def task(self, data: TrainingData) -> "LatentTask":
        if not self.autoencoder:
            raise PrescoreError("autoencoder: is missing; train one with --recipe vae and name its model.safetensors")
        return LatentTask(self, data, *load_autoencoder(self.autoencoder))


class LatentTask(ScoreTask):
    """A score network on the latents of images; see `LatentSettings`.

    Args:
        data: images.
        autoencoder, arguments: what makes latents of them, and what it was made from.
    """

    def __init__(
        self, settings: LatentSettings, data: TrainingData, autoencoder: VAE, arguments: Mapping[str, Any]
    ) -> None:
        latents = torch.cat([encode(autoencoder, data.scaled(part, UNIT)) for part in data.examples.split(1000)])
        bound = MARGIN * latents.abs().max().item()
        range_of_latents = (-bound, bound)
        # What is stored of the autoencoder is its copy; that it is the same, the latents tell, and no path would.
        settings = replace(settings, data_range=range_of_latents, autoencoder="")
        super().__init__(settings, TrainingData(latents, range_of_latents, data.labels))
        self.autoencoder, self.autoencoder_arguments = autoencoder, dict(arguments)

    def describe(self, name: str, training: dict[str, Any], kind: str = "ema") -> ModelDescription:
        return replace(super().describe(name, training, kind), autoencoder=self.autoencoder_arguments)

    def save(
        self, path: Path, weights: Mapping[str, Tensor], name: str, training: dict[str, Any], kind: str = "ema"
    ) -> None:
        copy = {AUTOENCODER + key: value for key, value in self.autoencoder.state_dict().items()}
        super().save(path, {**weights, **copy}, name, training, kind)

    def preview(self, network: nn.Module, count: int, seed: int) -> Tensor:
        """Decoded samples, brought from [0, 1] to the range that the loop draws, which is that of the latents."""
        z = super().preview(network, count, seed).cpu()
        low, high = self.data_range
        return low + (high - low) * self.autoencoder.decode(z.float())
