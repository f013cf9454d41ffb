"""The file of an autoencoder by itself: safetensors weights and one JSON description, as `native` has them for models.

It draws no samples. A model of its latents, which does, is trained from it and holds a copy of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from prescore.checkpoints.arguments import parse_json
from prescore.checkpoints.native import AUTOENCODER_FORMAT, read_safetensors
from prescore.checkpoints.stored import construct_autoencoder, fill, naming
from prescore.checkpoints.tensors import check_finite, check_tensors
from prescore.errors import PrescoreError
from prescore.files import write_atomically
from prescore.models.vae import VAE

VERSION = 1


def save_autoencoder(
    path: str | Path,
    arguments: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    name: str = "autoencoder",
    training: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes an autoencoder, atomically.

    Args:
        arguments: keyword arguments of the `VAE`.
        weights: its state dict.
        name: for messages.
        training: facts for the reader, not interpreted.
        dtype: of the weights in the file.

    Raises:
        PrescoreError: the weights do not fit the arguments, one is not finite in `dtype`, or the file cannot be
            written.
    """
    with naming(path):
        construct_autoencoder(arguments, weights)
        tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}
        check_finite(tensors)
    header = {"format": AUTOENCODER_FORMAT, "version": VERSION, "name": name, "arguments": dict(arguments)}
    text = json.dumps(header | {"training": dict(training or {})})
    write_atomically(Path(path), save(tensors, metadata={"prescore": text}))


def load_autoencoder(
    path: str | Path, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[VAE, dict[str, Any]]:
    """The autoencoder of a file, in evaluation mode, and the arguments that it was made from.

    Raises:
        PrescoreError: the file is missing, truncated, no autoencoder, or its weights do not fit.
    """
    metadata, tensors = read_safetensors(Path(path))
    with naming(path):
        weights = check_tensors("the autoencoder", tensors)
        arguments = _described(metadata).get("arguments", {})
        autoencoder = construct_autoencoder(arguments, weights)
        fill(autoencoder, weights, dtype)
    device = torch.get_default_device() if device is None else torch.device(device)
    return autoencoder.eval().requires_grad_(False).to(device), arguments


def _described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The description of an autoencoder, of which the arguments are still to be checked."""
    with naming("its description"):
        header = parse_json(metadata.get("prescore", "null"))
    if not isinstance(header, dict) or header.get("format") != AUTOENCODER_FORMAT:
        raise PrescoreError("not an autoencoder; train one with `prescore train DATA --recipe vae`")
    if header.get("version") != VERSION:
        raise PrescoreError(f"written in a newer version of the format than {VERSION}, which this prescore reads")
    return header
