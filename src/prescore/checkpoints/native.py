"""prescore's own model file: safetensors weights and one JSON description of how to call them.

The metadata entry "prescore" holds the format, its version and the fields of `ModelDescription`. Version 1 knew the EDM
preconditioning alone and had its `sigma_data` among the fields. A file is untrusted input: nothing is ever unpickled,
the size of the header is checked before it is read, and `stored.build` checks the rest.
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prescore.checkpoints.arguments import parse_json, shorten
from prescore.checkpoints.stored import (
    AUTOENCODER,
    ModelDescription,
    StoredModel,
    build,
    build_parts,
    naming,
)
from prescore.checkpoints.tensors import check_finite, check_tensors, own_names
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, printable
from prescore.files import named_in_text, write_atomically

FORMAT, AUTOENCODER_FORMAT = "prescore-model", "prescore-autoencoder"
VERSION = 2
MAX_HEADER_BYTES = 100_000_000
LONGEST_REASON = 300  # characters of what the reader says, which quotes the file


def save_model(
    path: str | Path,
    description: ModelDescription,
    state: Mapping[str, Tensor],
    dtype: torch.dtype | None = torch.float16,
) -> None:
    """Writes a stored model, atomically: learned weights in `dtype`, or as they are if it is None; tables as they are.

    Raises:
        PrescoreError: a weight is not finite in `dtype` or does not belong to the network, or the file cannot be
            written.
    """
    with naming(path):
        state = own_names(state)
        precond, autoencoder = build_parts(StoredModel(description, state))
        learned = {name for name, parameter in precond.model.named_parameters() if parameter.requires_grad}
        if autoencoder is not None:
            learned |= {AUTOENCODER + name for name, _ in autoencoder.named_parameters()}
        tensors = {
            name: value.detach().to("cpu", dtype if name in learned else None).contiguous()
            for name, value in state.items()
        }
        pointers = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
        for name, value in tensors.items():
            if pointers[value.untyped_storage().data_ptr()] > 1:  # the format has no weights that share their numbers
                tensors[name] = value.clone()
        check_finite(tensors, "" if dtype is None else f" in {str(dtype).removeprefix('torch.')}")
    header = {"format": FORMAT, "version": VERSION, **asdict(description)}
    write_atomically(Path(path), save(tensors, metadata={"prescore": json.dumps(header)}))


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, on the CPU.

    Raises:
        PrescoreError: the file is missing, truncated, not safetensors, or its header is larger than 100 MB.
    """
    with naming(path):
        return open_safetensors(path)


def open_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """As `read_safetensors`, with errors that do not name the file."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror})") from error
    header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if header_bytes > MAX_HEADER_BYTES:
        raise PrescoreError(f"not a safetensors file (it claims a header of {header_bytes} bytes)")
    try:
        with named_in_text(path) as name, safe_open(name, "pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        reason = printable(str(error), LONGEST_REASON)
        raise PrescoreError(f"not a safetensors file, or truncated ({reason})") from error


def matches(path: Path) -> bool:
    """Whether the file begins as safetensors do: the length of a header, which is JSON."""
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def read(path: Path, *, config: str | None = None, weights: str = "ema") -> StoredModel:
    """Description and weights of a model file, which holds its own configuration and one kind of weights.

    Raises:
        PrescoreError: it is truncated, of another format or a newer version, or what is asked for is not in it.
    """
    metadata, tensors = open_safetensors(path)
    description, state = _describe(metadata), check_tensors("its content", tensors)
    if config is not None:
        raise PrescoreError("config: a prescore model holds its own configuration; leave this out")
    if weights == "raw" != description.weights:
        raise PrescoreError(f"weights: the file holds the {description.weights} weights only")
    return StoredModel(description, state)


def read_description(path: str | Path) -> ModelDescription:
    """Checked description of a model file. Raises as `load_model`, except that the weights may not fit."""
    with naming(path):
        return _describe(open_safetensors(Path(path))[0])


def load_model(
    path: str | Path, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Denoiser:
    """Denoiser from a model file, in evaluation mode; `device` None is torch's default device.

    Raises:
        PrescoreError: the file is missing, truncated, of another format or a newer version, or describes a network
            that its weights do not fit.
    """
    with naming(path):
        return build(read(Path(path)), device, dtype)


def _describe(metadata: Mapping[str, str]) -> ModelDescription:
    if "prescore" not in metadata:
        raise PrescoreError("not a prescore model (its header has no entry 'prescore')")
    with naming("its description"):
        header = parse_json(metadata["prescore"])
    if isinstance(header, dict) and header.get("format") == AUTOENCODER_FORMAT:
        raise PrescoreError(
            "an autoencoder, which draws no samples by itself; train a model of its latents with "
            "`prescore train DATA --recipe latent --autoencoder FILE`"
        )
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise PrescoreError(f"not a prescore model (its format is not {FORMAT!r})")
    version = header.pop("version", None)
    if version == 1:
        header = _upgraded(header)
    elif version != VERSION:
        raise PrescoreError(
            f"written in version {shorten(version)} of the format, this prescore reads versions up to {VERSION}"
        )
    header = {"autoencoder": None, "sampling": None} | header  # what not every model has
    known = [f.name for f in fields(ModelDescription)]
    for name in known:
        if name not in header:
            raise PrescoreError(f"its description lacks {name!r}")
    for name in header.keys() - set(known):
        raise PrescoreError(f"its description has an unknown entry {shorten(name)}")
    return ModelDescription(**header)


def _upgraded(header: dict[str, Any]) -> dict[str, Any]:
    """A description of version 1 as one of version 2."""
    if "sigma_data" not in header:
        raise PrescoreError("its description lacks 'sigma_data'")
    sigma_data = header.pop("sigma_data")
    return header | {"preconditioning_arguments": {"sigma_data": sigma_data}}
