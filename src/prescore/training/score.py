"""Learning the score of images at every noise level: the recipes of NCSN, NCSNv2, VE, VP, EDM and flow matching.

A recipe is a choice in each of these rows (equations of the losses: `prescore.training.losses`):

    network            ddpmpp, ncsnpp (both `SongUNet`), ncsn, ncsnv2; mlp for latents (`ScoreMLP`)
    preconditioning    edm, ve, vp, flow; score-labels for ncsn and ncsnv2 (`prescore.models.precond`)
    noise              log-uniform, log-normal, uniform-time, uniform-flow, levels
    weight             edm, inverse-square, flow, ncsn
    loss               dsm, ssm, ssm-vr, ism
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prescore.checkpoints import ModelDescription, save_model
from prescore.checkpoints.stored import network_class
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, check_choice, check_interval
from prescore.models.ncsn import NCSN
from prescore.models.precond import PRECONDITIONINGS, Precond
from prescore.plan import plan
from prescore.training.augment import LABELS, augmentation_labels, augmented, draw_augmentation
from prescore.training.config import check_least, check_positive, check_share
from prescore.training.data import TrainingData
from prescore.training.initial import model_weights
from prescore.training.levels import count_levels, geometric_levels
from prescore.training.losses import (
    LOSSES,
    SLICED,
    Levels,
    LogNormal,
    LogUniform,
    UniformFlow,
    UniformTime,
    check_trace,
    edm_weight,
    flow_weight,
    inverse_square_weight,
    ncsn_weight,
    stratified,
)
from prescore.training.task import Draw, Task, check_images, check_size, stored_dtype

SONG, REFINE, MLP = ("ddpmpp", "ncsnpp"), ("ncsn", "ncsnv2"), ("mlp",)
NETWORKS = (*SONG, *REFINE, *MLP)
NCSNPP = {"encoder_type": "residual", "resample_filter": (1, 3, 3, 1)}
FOURIER = {"embedding_type": "fourier", "channel_mult_noise": 2}
EMBEDDINGS = ("positional", "fourier")
SONG_PRECONDITIONINGS, REFINE_PRECONDITIONINGS = ("edm", "ve", "vp", "flow"), ("score-labels",)
NOISES = ("log-uniform", "log-normal", "uniform-time", "uniform-flow", "levels")
WEIGHTS = ("edm", "inverse-square", "flow", "ncsn")
FIXED = ("uniform-time", "uniform-flow")  # noise whose range is that of a schedule
SONG_ONLY = (
    "embedding",
    "channel_mult",
    "channel_mult_emb",
    "num_blocks",
    "attn_resolutions",
    "dropout",
    "augment",
    "patch_size",
)
PREVIEW_STEPS = 18


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of the score recipes.

    Args:
        network: ddpmpp or ncsnpp (U-Nets of the EDM paper), ncsn or ncsnv2 (RefineNets), or mlp (no convolutions).
        preconditioning: edm, ve, vp or flow for the U-Nets and the mlp; score-labels for the RefineNets.
        embedding: of the noise level in the U-Nets, positional or fourier (random frequencies).
        noise: distribution of the noise levels, log-uniform, log-normal, uniform-time (of the VP schedule),
            uniform-flow (sigma = t / (1 - t), t uniform) or levels (a geometric list).
        weight: of the loss at each noise level, edm, inverse-square, flow (1 / t^2) or ncsn (half of inverse-square).
        loss: dsm (denoising), ssm or ssm-vr (sliced), ism (implicit, small data only).
        sigma_min: lowest noise level, in the units of the model.
        sigma_max: highest noise level; none measures the largest distance in the data.
        levels: how many noise levels the list has; none takes as many as NCSNv2's technique 2 asks for.
        P_mean: mean of ln sigma.
        P_std: standard deviation of ln sigma.
        sigma_data: root mean square of the data; none measures it.
        data_range: smallest and largest value of the data as the model sees them.
        flip: mirror each image, left to right, with probability 1/2.
        augment: probability of each non-leaky augmentation, 0 for none; mirrors as well.
        label_dropout: share of the class labels left out, for guidance.
        model_channels: base width of the network.
        channel_mult: width of each level, in base widths, finest first.
        channel_mult_emb: width of the embedding, in base widths.
        num_blocks: residual blocks a level.
        attn_resolutions: resolutions with attention, in pixels.
        dropout: probability of dropout.
        patch_size: side of the squares of pixels that the U-Nets fold into channels; resolutions count squares.

    Raises:
        PrescoreError: a value is out of its range or unknown, or does not fit the others.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "network": NETWORKS,
        "preconditioning": (*SONG_PRECONDITIONINGS, *REFINE_PRECONDITIONINGS),
        "embedding": EMBEDDINGS,
        "noise": NOISES,
        "weight": WEIGHTS,
        "loss": tuple(LOSSES),
    }

    network: str = "ddpmpp"
    preconditioning: str = "edm"
    embedding: str = "positional"
    noise: str = "log-normal"
    weight: str = "edm"
    loss: str = "dsm"
    sigma_min: float = 0.002
    sigma_max: float | None = 80.0
    levels: int | None = None
    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float | None = None
    data_range: tuple[float, float] = (-1.0, 1.0)
    flip: bool = False
    augment: float = 0.0
    label_dropout: float = 0.0
    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 1, 2, 3)
    channel_mult_emb: int = 2
    num_blocks: int = 1
    attn_resolutions: tuple[int, ...] = (8,)
    dropout: float = 0.0
    patch_size: int = 1

    def __post_init__(self) -> None:
        for name, known in self.choices.items():
            check_choice(name, getattr(self, name), known)
        known = REFINE_PRECONDITIONINGS if self.network in REFINE else SONG_PRECONDITIONINGS
        if self.preconditioning not in known:
            raise PrescoreError(
                f"preconditioning: {self.preconditioning} does not go with the network {self.network}; "
                f"give {' or '.join(known)}"
            )
        check_least(self, 1, "model_channels", "channel_mult_emb", "num_blocks", "patch_size")
        check_share(self, "dropout", "label_dropout")
        given = [name for name in ("sigma_data", "sigma_max") if getattr(self, name) is not None]
        check_positive(self, "P_std", "sigma_min", *given)
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise PrescoreError(f"channel_mult: {self.channel_mult} given; a whole number for each level is needed")
        if not 0 <= self.augment <= 1:
            raise PrescoreError(f"augment: {self.augment} is not a probability")
        if self.sigma_max is not None and not self.sigma_min < self.sigma_max:
            raise PrescoreError(f"sigma_min {self.sigma_min}, sigma_max {self.sigma_max}: min < max is needed")
        check_interval("data_range", self.data_range)
        if self.flip and self.augment:
            raise PrescoreError(
                "flip: non-leaky augmentation mirrors already, and tells the network; take one of the two"
            )
        if self.network in REFINE and self.noise != "levels":
            raise PrescoreError(
                f"noise: {self.noise} does not go with the network {self.network}, which knows noise levels by number; "
                "give levels"
            )

    def unused(self) -> dict[str, str]:
        """Fields that do nothing beside the others, and what they would belong to."""
        idle: dict[str, str] = {}
        if self.noise != "log-normal":
            idle |= dict.fromkeys(("P_mean", "P_std"), "noise log-normal")
        if self.noise in FIXED:
            idle |= dict.fromkeys(("sigma_min", "sigma_max"), f"another noise than {self.noise}, whose range is fixed")
        if self.noise != "levels":
            idle["levels"] = "noise levels"
        if "edm" not in (self.preconditioning, self.weight):
            idle["sigma_data"] = "preconditioning or weight edm"
        if self.network not in SONG:
            others = (name for name in SONG_ONLY if not (self.network in MLP and name == "num_blocks"))
            idle |= dict.fromkeys(others, "the networks ddpmpp and ncsnpp")
        return idle

    def task(self, data: TrainingData) -> "ScoreTask":
        return ScoreTask(self, data)


class ScoreTask(Task):
    """A score network on images, and the objective that teaches it; see `ScoreSettings`."""

    settings: ScoreSettings

    def __init__(self, settings: ScoreSettings, data: TrainingData) -> None:
        check_images(data, settings.network, squares=settings.network not in REFINE)
        if settings.loss == "ism":
            check_trace(data.examples[0].numel())
        self.settings, self.data, self.data_range = settings, data, settings.data_range
        self._check_labels()
        needs_sigma_data = "sigma_data" not in settings.unused()
        self.sigma_data = settings.sigma_data or 1.0
        if needs_sigma_data and settings.sigma_data is None:
            self.sigma_data = data.root_mean_square(self.data_range)
        if not self.sigma_data:
            raise PrescoreError("sigma_data: the data are all 0; give it")
        self.sigma_min = settings.sigma_min
        self.sigma_max = settings.sigma_max or data.largest_distance(self.data_range)
        if not self.sigma_min < self.sigma_max:
            raise PrescoreError(f"sigma_max: no two examples are further apart than {self.sigma_max:g}; give it")
        self.levels = self._levels()
        if isinstance(self.levels, UniformTime | UniformFlow):
            self.sigma_min, self.sigma_max = self.levels.sigma_range
        self.measured = {"sigma_data": self.sigma_data, "sigma_max": self.sigma_max}

    def build(self, generator: torch.Generator) -> nn.Module:
        name, arguments = self._network()
        check_size(lambda: network_class(name)(**arguments))
        network = network_class(name)(**arguments, generator=generator)
        if isinstance(network, NCSN) and isinstance(self.levels, Levels):
            network.divide_scores(self.levels.sigmas)
        return network

    def objective(self, network: nn.Module) -> nn.Module:
        return ScoreObjective(self._preconditioned(network), self.settings.loss, self.settings.weight, self.sigma_data)

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        settings, event = self.settings, self.data.event_shape
        numbers = {"index": torch.randint(len(self.data.examples), (count,), generator=generator)}
        numbers["n"] = torch.randn(count, *event, generator=generator)
        numbers["sigma"] = self.levels.quantile(stratified(count, generator)).float()
        if settings.flip:
            numbers["is_flipped"] = torch.rand(count, generator=generator) < 0.5
        seed = int(torch.randint(2**62, (), generator=generator)) if settings.dropout else None
        if settings.label_dropout:
            numbers["has_label"] = torch.rand(count, generator=generator) >= settings.label_dropout
        if settings.augment:
            numbers["augmentation"] = draw_augmentation(count, settings.augment, generator)
        if settings.loss in SLICED:
            numbers["v"] = 2.0 * torch.randint(2, (count, *event), generator=generator) - 1
        return Draw(numbers, seed)

    def batch(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        index = numbers["index"]
        x0 = self.data.scaled(self.data.examples[index], self.data_range)
        batch = {name: numbers[name] for name in ("n", "sigma", "v") if name in numbers}
        if "is_flipped" in numbers:
            x0 = torch.where(numbers["is_flipped"][:, None, None, None], x0.flip(3), x0)
        if self.data.labels is not None:
            has_label = numbers.get("has_label", torch.ones(len(index)))
            batch["class_labels"] = self._one_hot(self.data.labels[index]) * has_label[:, None]
        if "augmentation" in numbers:
            x0 = augmented(x0, numbers["augmentation"])
            batch["augment_labels"] = augmentation_labels(numbers["augmentation"])
        return {"x0": x0, **batch}

    def describe(self, name: str, training: dict[str, Any], kind: str = "ema") -> ModelDescription:
        """Description of the model; `training` holds facts about the run, `kind` of weights is ema or raw."""
        network, arguments = self._network()
        # What the network would drop by itself was left out by `draw`; its reader has to know that it was.
        dropout = {"label_dropout": self.settings.label_dropout} if self.settings.label_dropout else {}
        return ModelDescription(
            network,
            arguments | dropout,
            self.settings.preconditioning,
            self._preconditioning_arguments(),
            self.sigma_min,
            self.sigma_max,
            self.data.event_shape,
            data_range=self.data_range,
            weights=kind,
            name=name,
            training=training,
        )

    def load(self, path: str | Path) -> dict[str, Tensor]:
        return model_weights(path, self.describe("", {}))

    def save(
        self, path: Path, weights: Mapping[str, Tensor], name: str, training: dict[str, Any], kind: str = "ema"
    ) -> None:
        save_model(path, self.describe(name, training, kind), weights, stored_dtype(weights))

    def preview(self, network: nn.Module, count: int, seed: int) -> Tensor:
        denoiser = Denoiser(
            self._preconditioned(network).eval(),
            self.data.event_shape,
            self.sigma_min,
            self.sigma_max,
            data_range=self.data_range,
            device=next(network.parameters()).device,
        )
        condition = {}
        if self.data.labels is not None:
            condition["class_labels"] = self._one_hot(torch.arange(count) % self.data.classes).to(denoiser.device)
        seeds = range(seed, seed + count)
        return plan(denoiser, sampler="edm-heun", steps=PREVIEW_STEPS).sample(
            seeds, progress=False, condition=condition
        )

    def _check_labels(self) -> None:
        has_labels = self.data.labels is not None
        if has_labels and self.settings.network not in SONG:
            raise PrescoreError(f"labels: the network {self.settings.network} takes no classes; ddpmpp and ncsnpp do")
        if self.settings.label_dropout and not has_labels:
            raise PrescoreError("label_dropout: does nothing without labels")
        if self.data.labels is not None:
            found = self.data.labels.unique().tolist()
            if absent := set(range(self.data.classes)) - set(found):
                raise PrescoreError(
                    f"labels: no example is of the class {min(absent)}, which would stay untrained; number the "
                    f"{len(found)} classes from 0 to {len(found) - 1}"
                )

    def _levels(self) -> LogUniform | LogNormal | UniformTime | UniformFlow | Levels:
        settings = self.settings
        if settings.noise == "log-normal":
            return LogNormal(settings.P_mean, settings.P_std)
        if settings.noise == "uniform-time":
            return UniformTime()
        if settings.noise == "uniform-flow":
            return UniformFlow()
        if settings.noise == "log-uniform":
            return LogUniform(self.sigma_min, self.sigma_max)
        count = settings.levels
        if count is None:
            count = count_levels(self.sigma_min, self.sigma_max, self.data.examples[0].numel())
        return Levels(geometric_levels(self.sigma_min, self.sigma_max, count))

    def _network(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments of the network."""
        settings, channels = self.settings, self.data.event_shape[0]
        if settings.network in REFINE:
            assert isinstance(self.levels, Levels)
            sigmas = self.levels.sigmas
            arguments: dict[str, Any] = {"channels": channels, "ngf": settings.model_channels}
            arguments |= {"num_classes": len(sigmas), "rescaled": self.data_range != (0.0, 1.0)}
            if settings.network == "ncsn":
                return "NCSN", arguments
            return "NCSNv2", arguments | {"sigma_begin": sigmas[0], "sigma_end": sigmas[-1]}
        if settings.network in MLP:
            arguments = {"img_resolution": self.data.event_shape[-1], "in_channels": channels}
            return "ScoreMLP", arguments | {"width": settings.model_channels, "num_blocks": settings.num_blocks}
        names = ("model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions", "dropout")
        arguments = {"img_resolution": self.data.event_shape[-1], "in_channels": channels, "out_channels": channels}
        arguments |= {name: getattr(settings, name) for name in names}
        labels = {"label_dim": self.data.classes, "augment_dim": LABELS if settings.augment else 0}
        arguments |= {name: size for name, size in labels.items() if size}
        arguments |= {"patch_size": settings.patch_size} if settings.patch_size > 1 else {}
        arguments |= FOURIER if settings.embedding == "fourier" else {}
        return "SongUNet", arguments | (NCSNPP if settings.network == "ncsnpp" else {})

    def _preconditioning_arguments(self) -> dict[str, Any]:
        if isinstance(self.levels, Levels) and self.settings.preconditioning == "score-labels":
            return {"sigmas": list(self.levels.sigmas)}
        return {"sigma_data": self.sigma_data} if self.settings.preconditioning == "edm" else {}

    def _preconditioned(self, network: nn.Module) -> Precond:
        precond = PRECONDITIONINGS[self.settings.preconditioning](network, **self._preconditioning_arguments())
        return precond.to(next(network.parameters()).device)

    def _one_hot(self, labels: Tensor) -> Tensor:
        return nn.functional.one_hot(labels, self.data.classes).float()


class ScoreObjective(nn.Module):
    """The loss of a denoiser on examples x0 (B, *event) with noise n at levels sigma (B,)."""

    def __init__(self, denoiser: Precond, loss: str, weight: str, sigma_data: float) -> None:
        super().__init__()
        self.denoiser, self.loss, self.weight = denoiser, LOSSES[loss], weights_of(sigma_data)[weight]

    def forward(
        self, step: int, *, x0: Tensor, n: Tensor, sigma: Tensor, v: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        directions = () if v is None else (v,)
        return self.loss(partial(self.denoiser, **condition), x0, sigma, n, self.weight(sigma), *directions)


def weights_of(sigma_data: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """The functions of the noise level by which a loss can be weighted, by name."""
    return {
        "edm": partial(edm_weight, sigma_data=sigma_data),
        "inverse-square": inverse_square_weight,
        "flow": flow_weight,
        "ncsn": ncsn_weight,
    }
