"""The recipes of `prescore train`, and the configurations A to F of the EDM paper.

Configurations (Table 2 of Karras et al., each with what came before it) change the recipes `ve` and `vp`:

    A  the recipe itself
    B  its hyper-parameters: learning rate 0.001, batches of 512, no clipping, dropout 0.13
    C  capacity moved to the high resolutions: three levels of width 2, 2, 2 instead of 1, 2, 2, 2
    D  EDM's preconditioning
    E  EDM's distribution of noise levels and loss weight, P_mean -1.2 and P_std 1.2, with the data in [-1, 1]
    F  non-leaky augmentation with probability 0.12

Sources: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, Tables 1, 2 and 7, appendix F; Y. Song et al., "Score-Based Generative Modeling
through Stochastic Differential Equations", 2021, https://arxiv.org/abs/2011.13456, appendices G and H; and for NCSN and
NCSNv2 those of their rows. The optimizer, the weights and the noise levels are the papers'. The networks are smaller
than theirs (whose base width is 128, with 4 blocks a level) and the runs shorter, with a warm-up and a cool-down to
match; each is an option.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from prescore.errors import PrescoreError, check_choice, suggest
from prescore.training.config import TrainingConfig
from prescore.training.latent import LatentSettings
from prescore.training.score import ScoreSettings
from prescore.training.task import Settings
from prescore.training.vae import VAESettings


@dataclass(frozen=True)
class Recipe:
    """A row of the table: what is learned, how by default, and where that comes from."""

    about: str
    source: str
    settings: Settings
    training: TrainingConfig


_NCSN = ScoreSettings(
    network="ncsn",
    preconditioning="score-labels",
    noise="levels",
    weight="ncsn",
    sigma_min=0.01,
    sigma_max=1.0,
    levels=10,
    data_range=(0.0, 1.0),
)
_VE = ScoreSettings(
    network="ncsnpp",
    preconditioning="ve",
    embedding="fourier",
    noise="log-uniform",
    weight="inverse-square",
    sigma_min=0.01,
    sigma_max=50.0,
    data_range=(0.0, 1.0),
    channel_mult=(1, 2, 2, 2),
    channel_mult_emb=4,
    num_blocks=2,
    attn_resolutions=(16,),
    dropout=0.1,
)
_VP = replace(
    _VE,
    network="ddpmpp",
    preconditioning="vp",
    embedding="positional",
    noise="uniform-time",
    data_range=(-1.0, 1.0),
)
_FLOW = replace(
    _VP,
    preconditioning="flow",
    noise="uniform-flow",
    weight="flow",
)
_SONG = TrainingConfig(learning_rate=2e-4, beta2=0.999, batch_size=128)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "ncsn": Recipe(
            "NCSN: a RefineNet on 10 noise levels from 1 to 0.01",
            "https://arxiv.org/abs/1907.05600",
            _NCSN,
            TrainingConfig(beta2=0.999, batch_size=128, clip=0.0, ema_decay=0.0),
        ),
        "ncsnv2": Recipe(
            "NCSNv2: a RefineNet on noise levels chosen for the data, with averaged weights",
            "https://arxiv.org/abs/2006.09011",
            replace(_NCSN, network="ncsnv2", sigma_max=None, levels=None),
            TrainingConfig(learning_rate=1e-4, beta2=0.999, batch_size=128, clip=0.0),
        ),
        "ve": Recipe("NCSN++ on log-uniform noise levels", "https://arxiv.org/abs/2011.13456", _VE, _SONG),
        "vp": Recipe("DDPM++ on the VP schedule", "https://arxiv.org/abs/2011.13456", _VP, _SONG),
        "flow": Recipe("DDPM++ that learns n - x0 (flow matching)", "https://arxiv.org/abs/2209.03003", _FLOW, _SONG),
        "edm": Recipe(
            "DDPM++ with EDM's preconditioning, noise levels and weight",
            "https://arxiv.org/abs/2206.00364",
            ScoreSettings(),
            TrainingConfig(),
        ),
        "vae": Recipe(
            "A convolutional variational autoencoder, for the recipe latent",
            "https://arxiv.org/abs/1312.6114",
            VAESettings(),
            TrainingConfig(steps=5000, learning_rate=2e-3),
        ),
        "latent": Recipe(
            "A score network on the latents of an autoencoder",
            "https://arxiv.org/abs/2302.06504",
            LatentSettings(
                network="mlp", noise="log-uniform", sigma_min=0.01, sigma_max=None, model_channels=512, num_blocks=3
            ),
            TrainingConfig(batch_size=128),
        ),
    }
)
# What each configuration adds to the one before it: settings, and optimizer.
_STEPS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "A": ({}, {}),
    "B": ({"dropout": 0.13}, {"learning_rate": 1e-3, "batch_size": 512, "clip": 0.0}),
    "C": ({"channel_mult": (2, 2, 2)}, {}),
    "D": ({"preconditioning": "edm"}, {}),
    "E": (
        {"noise": "log-normal", "weight": "edm", "sigma_min": 0.002, "sigma_max": 80.0, "data_range": (-1.0, 1.0)},
        {},
    ),
    "F": ({"augment": 0.12}, {}),
}


def find_recipe(name: str) -> Recipe:
    """A recipe of the table.

    Raises:
        PrescoreError: there is none of that name.
    """
    check_choice("recipe", name, RECIPES)
    return RECIPES[name]


def configured(name: str, letter: str) -> Recipe:
    """Recipe ve or vp in configuration A to F.

    Raises:
        PrescoreError: another recipe, or an unknown letter.
    """
    check_choice("configuration", letter, _STEPS)
    if name not in ("ve", "vp"):
        raise PrescoreError(f"configuration: recipe {name!r} has none; ve and vp have")
    recipe = find_recipe(name)
    settings, training = recipe.settings, recipe.training
    for step in list(_STEPS)[: list(_STEPS).index(letter) + 1]:
        settings = replace(settings, **_STEPS[step][0])
        training = replace(training, **_STEPS[step][1])
    return replace(recipe, settings=settings, training=training)


def with_options(recipe: Recipe, given: Mapping[str, Any]) -> tuple[Settings, TrainingConfig]:
    """The recipe's settings and optimizer, with some of their fields replaced.

    Raises:
        PrescoreError: a field is not of this recipe, does nothing beside the others, or has a wrong value.
    """
    ours, theirs = ({f.name for f in fields(part)} for part in (recipe.settings, recipe.training))
    for name in sorted(given.keys() - ours - theirs):
        raise PrescoreError(f"{name}: this recipe has no such setting; {suggest(name, sorted(ours | theirs))}")
    settings = replace(recipe.settings, **{name: value for name, value in given.items() if name in ours})
    for name, owner in settings.unused().items():
        if name in given:
            raise PrescoreError(f"{name}: belongs to {owner}; it would do nothing here")
    return settings, replace(recipe.training, **{name: value for name, value in given.items() if name in theirs})
