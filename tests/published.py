"""Checkpoints in the layout of published ones, of the models that the papers' presets are for: as many parts, narrower.

A network keeps the real configuration's classes, names and noise levels. Its widths are reduced and, where there are
more than 64 pixels, its resolution; `write` tells the readers of the published sizes that these are the published ones.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.test_edm import Writer
from checkpoints.test_ncsn import checkpoint as ncsn_checkpoint
from checkpoints.test_score_sde import checkpoint

from prescore.checkpoints import ncsn, score_sde
from prescore.models import DhariwalUNet, SongUNet
from prescore.models.ncsn import NCSN, NCSNv2
from prescore.models.ncsnpp import NCSNpp
from prescore.presets import PRESETS, Preset

MOST_PIXELS = 64
WIDTH = 8
SONG = {
    "model_type": "SongUNet",
    "model_channels": WIDTH,
    "channel_mult": [2, 2, 2],
    "num_blocks": 1,
    "attn_resolutions": [16],
    "augment_dim": 9,
}
DDPMPP = SONG | {
    "embedding_type": "positional",
    "encoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
}
ADM = {"model_type": "DhariwalUNet", "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "label_dim": 5}
EDM: dict[str, tuple[str, dict[str, Any]]] = {  # by preset, where the layout of EDM's own files is needed
    "edm-imagenet64": ("EDMPrecond", ADM),
    "edm-imagenet64-stochastic": ("EDMPrecond", ADM),
    "edm-imagenet64-adm-stochastic": ("iDDPMPrecond", ADM),
    "seeds-imagenet64": ("EDMPrecond", ADM),
    "seeds-cifar10-cond": ("VPPrecond", DDPMPP | {"label_dim": 10}),
}
NETWORKS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


def side(preset: Preset) -> int:
    """Pixels of a preset's model here: its own, or a few where it has many."""
    return preset.shape[-1] if preset.shape[-1] <= MOST_PIXELS else 32


def kind(name: str) -> str:
    """What is written for a preset: a published configuration, or "edm-" with what its file holds, or "diffusers"."""
    preset = PRESETS[name]
    known = [each for each in preset.configurations if each in {**score_sde.PUBLISHED, **ncsn.PUBLISHED}]
    if known:
        return known[0]
    precond, arguments = EDM.get(name, ("EDMPrecond", DDPMPP))
    return f"edm-{precond}-{arguments['model_type']}-{side(preset)}" if preset.configurations else "diffusers"


def write(name: str, folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """The checkpoint for a preset, written unless it is there, and the options of the command line that open it."""
    preset, of = PRESETS[name], kind(name)
    folder = folder / of
    folder.mkdir(exist_ok=True)
    if of in score_sde.PUBLISHED:
        return _score_sde(of, side(preset), folder, patch), ["--config", of]
    if of in ncsn.PUBLISHED:
        return _ncsn(of, side(preset), folder, patch), ["--config", of]
    if of == "diffusers":
        return _diffusers(side(preset), folder), []
    precond, arguments = EDM.get(name, ("EDMPrecond", DDPMPP))
    return _edm(precond, arguments, side(preset), folder, patch), ["--class", "3"] if "label_dim" in arguments else []


def small_score_sde(name: str, side: int) -> score_sde.Configuration:
    """A published configuration, narrower."""
    known = score_sde.PUBLISHED[name]
    narrow = {"nf": WIDTH, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (side // 2,), "image_size": side}
    return replace(known, arguments={**known.arguments, **narrow})


def _score_sde(name: str, side: int, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    small, path = small_score_sde(name, side), folder / "checkpoint_8.pth"
    patch.setattr(score_sde, "PUBLISHED", {name: small})
    if not path.exists():
        network = NCSNpp(**small.arguments, generator=torch.Generator().manual_seed(0))
        torch.save(checkpoint(network.state_dict(), network), path)
    return path


def _ncsn(name: str, side: int, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    small, path = replace(ncsn.PUBLISHED[name], ngf=WIDTH, image_size=side), folder / "checkpoint_300000.pth"
    patch.setattr(ncsn, "PUBLISHED", {name: small})
    if not path.exists():
        own = {"ngf": WIDTH, "num_classes": small.num_classes, "generator": torch.Generator().manual_seed(0)}
        if name.endswith("v2"):
            ends = {"sigma_begin": small.sigma_begin, "sigma_end": small.sigma_end}
            network = NCSNv2(small.channels, variant=ncsn.TOWER_OF[small.dataset], **own, **ends)
        else:
            network = NCSN(small.channels, **own)
        torch.save(ncsn_checkpoint(network), path)
    return path


def _edm(precond: str, arguments: dict[str, Any], side: int, folder: Path, patch: pytest.MonkeyPatch) -> Path:
    path = folder / "network.pkl"
    if path.exists():
        return path
    own = {key: value for key, value in arguments.items() if key != "model_type"}
    outputs = 6 if precond == "iDDPMPrecond" else 3
    network = NETWORKS[arguments["model_type"]](
        img_resolution=side, in_channels=3, out_channels=outputs, **own, generator=torch.Generator().manual_seed(0)
    )
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    state |= {"u": torch.linspace(157, 0, 1001)} if precond == "iDDPMPrecond" else {}
    init = arguments | {"img_resolution": side, "img_channels": 3}
    return Writer(folder, patch).network(precond, init, state)


def _diffusers(side: int, folder: Path) -> Path:
    library = pytest.importorskip("diffusers")
    path = folder / "ddpm"
    if not path.exists():
        network = library.UNet2DModel(
            sample_size=side,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(WIDTH, WIDTH),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=WIDTH,
        )
        network.save_pretrained(path / "unet")
        library.DDPMScheduler().save_pretrained(path / "scheduler")
    return path
