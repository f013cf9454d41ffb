"""Which format a file or folder is in, found by what is inside it; names and endings do not matter."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch

from prescore.assets import find, shipped_models
from prescore.checkpoints import diffusers, edm, native, ncsn, score_sde
from prescore.checkpoints.labels import check_guidance
from prescore.checkpoints.stored import WEIGHTS, ModelDescription, StoredModel, build, naming
from prescore.denoiser import Denoiser, guided
from prescore.errors import PrescoreError, check_choice

# The name of a published configuration, the path of a file, or one made by hand, of the format that is meant.
Config = str | ncsn.Configuration | score_sde.Configuration


class Format(Protocol):
    """A module that reads one format."""

    def matches(self, path: Path) -> bool:
        """Whether this is probably the format of a file or folder; executes nothing and never raises."""

    def read(self, path: Path, *, config: Any = None, weights: str = "ema") -> StoredModel:
        """The model. Raises PrescoreError, without the path."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "prescore's own safetensors": native,
        "score_sde_pytorch .pth": score_sde,
        "NCSN and NCSNv2 .pth": ncsn,
        "EDM .pkl": edm,
        "diffusers folders": diffusers,
    }
)
# What a file that is not a model begins with.
BEGINNINGS: Mapping[bytes, str] = MappingProxyType(
    {
        b"PK\x03\x04": "a zip file that is no checkpoint of a known layout (weights of a network of your own need its "
        "code, package.module:factory; docs/own-model.md)",
        b"\x80": "a pickle that is no checkpoint of a known layout",
        b"\x89HDF\r\n": "an HDF5 file",
        b"\x89PNG": "a PNG picture",
        b"\xff\xd8\xff": "a JPEG picture",
        b"\x1f\x8b": "a gzip archive",
        b"\x93NUMPY": "a NumPy array",
        b"GGUF": "a GGUF file",
        b"<": "a page of HTML or XML, as a download that failed leaves behind",
        b"version https://git-lfs": "a pointer of Git LFS instead of the file itself",
        b"{": "a text file that starts as JSON",
    }
)


def locate(name_or_path: str | Path) -> Path:
    """The folder or file of a model: a shipped one by name, others by path.

    Raises:
        PrescoreError: there is none.
    """
    path = Path(name_or_path)
    try:
        return path if path.is_dir() else find(name_or_path)
    except OSError as error:  # of a folder that may not be searched, or a name that is too long
        raise PrescoreError(f"{path}: cannot be read ({error.strerror})") from None


def open_model(
    name_or_path: str | Path,
    *,
    config: Config | None = None,
    weights: str = "ema",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    compile: bool = False,
    guidance: float | None = None,
) -> tuple[ModelDescription, Denoiser]:
    """A model with its description. Arguments and errors are those of `prescore.load`."""
    path = locate(name_or_path)
    with naming(path):
        stored = read(path, config=config, weights=weights)
        denoiser = build(stored, device, dtype or torch.float32, channels_last=channels_last, compile=compile)
    if guidance is not None:
        with naming("guidance"):
            check_guidance(stored.description)
            denoiser = guided(denoiser, guidance)
    brings = str(name_or_path) in shipped_models()
    return stored.description, replace(denoiser, statistics=str(name_or_path)) if brings else denoiser


def read(path: Path, *, config: Config | None = None, weights: str = "ema") -> StoredModel:
    """A stored model of any format, as it is in its file or folder.

    Raises:
        PrescoreError: it is of no known format, damaged, or not what was asked for; without the path.
    """
    check_choice("weights", weights, WEIGHTS)
    try:
        for reader in FORMATS.values():
            if reader.matches(path):
                if config is not None and not isinstance(config, str) and reader not in (score_sde, ncsn):
                    raise PrescoreError("config: the format of this model takes no Configuration; leave it out")
                return reader.read(path, config=config, weights=weights)
        raise PrescoreError(f"is {contents(path)}; what can be read: {', '.join(FORMATS)}")
    except OSError as error:  # of what lies beside or inside, and may not be read
        raise PrescoreError(f"cannot be read ({error.strerror})") from None


def contents(path: Path) -> str:
    """In a few words, what something that is no model is."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return f"a folder without the files of a model (it holds {listed or 'nothing'})"
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror})") from None
    if not start:
        return "an empty file"
    known = next((text for beginning, text in BEGINNINGS.items() if start.startswith(beginning)), None)
    return known or f"a file that starts with {start[:8]!r}"
