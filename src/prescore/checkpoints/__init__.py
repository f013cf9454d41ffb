"""Opening trained models: shipped ones by name, others by path."""

from pathlib import Path

import torch

from prescore.assets import find
from prescore.checkpoints.native import load_model
from prescore.denoiser import Denoiser

__all__ = ["load", "load_model"]


def load(
    name_or_path: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Denoiser:
    """A trained model as a denoiser.

    Args:
        name_or_path: name of a shipped model, such as "mnist-ve", or the path of a model file.
        device, dtype: where and in which precision it runs; the CPU and float32 by default.

    Raises:
        PrescoreError: neither a shipped name nor a readable model file; says what is wrong with it.
    """
    return load_model(find(name_or_path), device=device, dtype=dtype or torch.float32)
