"""A small model in each format that can be opened, as the tests of its reader write it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

KINDS = ["native", "edm", "score-sde", "ncsn", "ncsnv2", "diffusers"]


def write(kind: str, folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """The file or folder of a model, and the options that it is to be opened with."""
    return WRITERS[kind](folder, patch)


def native(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    from checkpoints.test_native import DESCRIPTION, network

    from prescore.checkpoints import save_model

    save_model(folder / "dots.safetensors", DESCRIPTION, network().state_dict())
    return folder / "dots.safetensors", {}


def edm(folder: Path, patch: pytest.MonkeyPatch, label_dim: int = 0) -> tuple[Path, dict[str, Any]]:
    from checkpoints.test_edm import TINY, Writer

    from prescore.models.song_unet import SongUNet

    arguments = TINY | {"label_dim": label_dim}
    own = {key: value for key, value in arguments.items() if key not in ("img_channels", "model_type")}
    network = SongUNet(in_channels=1, out_channels=1, **own, generator=torch.Generator().manual_seed(0))
    for name, value in network.state_dict().items():  # as they are born, these hide what comes before them
        if name.endswith(("conv1.weight", "aux_conv.weight")):
            value.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    return Writer(folder, patch).network(arguments=arguments, state=state), {}


def score_sde(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    from checkpoints.test_score_sde import TINY, tiny

    from prescore.checkpoints import score_sde as reader

    configuration = reader.Configuration(TINY | {"sigma_min": 0.01, "sigma_max": 50.0})
    patch.setattr(reader, "PUBLISHED", {"tiny": configuration})
    torch.save(tiny(configuration, scale=2.0)[1], folder / "checkpoint_7.pth")
    return folder / "checkpoint_7.pth", {"config": "tiny"}


def ncsn(folder: Path, patch: pytest.MonkeyPatch, version: int = 1) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("yaml")
    from checkpoints.test_ncsn import checkpoint, configuration, small

    (folder / "config.yml").write_text(configuration())
    torch.save(checkpoint(small(version)), folder / "checkpoint.pth")
    return folder / "checkpoint.pth", {}


def ncsnv2(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    return ncsn(folder, patch, version=2)


def diffusers(folder: Path, patch: pytest.MonkeyPatch, classes: int | None = None) -> tuple[Path, dict[str, Any]]:
    library = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = library.UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=4,
            num_class_embeds=classes,
        )
    network.save_pretrained(folder / "dots" / "unet")
    library.DDPMScheduler().save_pretrained(folder / "dots" / "scheduler")
    return folder / "dots", {}


WRITERS = {
    "native": native,
    "edm": edm,
    "score-sde": score_sde,
    "ncsn": ncsn,
    "ncsnv2": ncsnv2,
    "diffusers": diffusers,
}


def files_of(path: Path) -> list[Path]:
    """Every file that a model is read from: of a checkpoint of NCSN its yml too."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path, *path.parent.glob("*.yml")]


def edit_weights(kind: str, path: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Give a model that `write` wrote other weights, its average too if it has one; not for EDM pickles.

    Those of a folder of diffusers are a file of torch.save afterwards, whose weights may share their numbers.
    """
    if kind == "native":
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata()
        save_file(edit(load_file(path)), path, metadata)
    elif kind == "diffusers":
        file = path / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(edit(load_file(file)), file.with_suffix(".bin"))
        file.unlink()
    else:
        content = torch.load(path, weights_only=True)
        if kind == "score-sde":
            content["model"] = edit(content["model"])
        else:
            content = [edit(content[0]), *content[1:4], *map(edit, content[4:])]
        torch.save(content, path)
