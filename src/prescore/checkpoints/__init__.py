"""Opening trained models: shipped ones by name, others by path, in whatever published format they are."""

from pathlib import Path

import torch

from prescore.checkpoints.detect import Config, open_model
from prescore.checkpoints.native import load_model, save_model
from prescore.checkpoints.stored import ModelDescription, StoredModel, build
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError

__all__ = ["ModelDescription", "StoredModel", "build", "load", "load_model", "open_model", "save_model"]


def load(
    name_or_path: str | Path,
    *,
    config: Config | None = None,
    weights: str = "ema",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    compile: bool = False,
    guidance: float | None = None,
) -> Denoiser:
    """A trained model as a denoiser.

    Args:
        name_or_path: name of a shipped model, such as "mnist-ve", or the path of a checkpoint: prescore's own,
            score_sde_pytorch .pth, NCSN or NCSNv2 .pth, EDM .pkl, or a folder of diffusers. The format is found by
            the content. Nothing that a file holds is executed.
        config: for formats without a configuration of their own, the name of a published one
            ("cifar10-ncsnpp-deep-ve"), the path of a yml or JSON of one, or one made by hand:
            `prescore.checkpoints.score_sde.Configuration` or `prescore.checkpoints.ncsn.Configuration`.
        weights: "ema", the average over training where the file has one, or "raw".
        device, dtype: where and in which precision the network runs; torch's default device and float32 by default.
        channels_last: keep the weights of convolutions with the channels last, which is faster on some devices.
        compile: compile the network at its first call, which takes a minute and makes later ones faster.
        guidance: of a class-conditional model that has an answer without a class too, the weight w of classifier-free
            guidance, D_u + w (D_c - D_u): see `prescore.denoiser.guided`. The class is still a condition of each call.

    Raises:
        PrescoreError: neither a shipped name nor a model that can be read; says what is wrong with it. Or it cannot be
            guided.
    """
    if not isinstance(name_or_path, str | Path):
        kind = type(name_or_path).__name__
        raise PrescoreError(f"name_or_path: {kind} given; a name or a path is needed (a denoiser needs no loading)")
    return open_model(
        name_or_path,
        config=config,
        weights=weights,
        device=device,
        dtype=dtype,
        channels_last=channels_last,
        compile=compile,
        guidance=guidance,
    )[1]
