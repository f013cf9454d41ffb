"""prescore's own model file: safetensors weights and one JSON description of how to call them.

The metadata entry "prescore" holds the description: format, version, network class and arguments, preconditioning,
noise range, event shape, data range, training facts. A file is untrusted input: every entry is checked, only
networks of the allow-list are built, their size is compared with the file's before any memory is taken, and the
weights must fit exactly. Nothing is ever unpickled.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, suggest
from prescore.files import write_atomically
from prescore.models.precond import EDMPrecond
from prescore.models.song_unet import SongUNet

FORMAT = "prescore-model"
VERSION = 1
MAX_HEADER_BYTES = 100_000_000
MAX_VALUE = 65_536  # of any width, resolution or label; with MAX_LENGTH it keeps a forged file from building for hours
MAX_LENGTH = 64
NETWORKS: dict[str, type[nn.Module]] = {"SongUNet": SongUNet}
# Arguments of the networks above: the type of a value, or of the elements of a list, and the least one.
NUMBERS: dict[str, tuple[type, int]] = {
    "img_resolution": (int, 1),
    "in_channels": (int, 1),
    "out_channels": (int, 1),
    "label_dim": (int, 0),
    "augment_dim": (int, 0),
    "model_channels": (int, 1),
    "channel_mult_emb": (int, 1),
    "channel_mult_noise": (int, 1),
    "num_blocks": (int, 0),
    "dropout": (float, 0),
    "label_dropout": (float, 0),
}
LISTS: dict[str, tuple[type, int]] = {
    "channel_mult": (int, 1),
    "attn_resolutions": (int, 1),
    "resample_filter": (float, 0),
}
CHOICES = ("embedding_type", "encoder_type", "decoder_type")


@dataclass(frozen=True)
class ModelDescription:
    """How to build and call a stored network.

    Attributes:
        network, arguments: class name and keyword arguments of the raw network F.
        sigma_data: root mean square of the data, in their own units, of the EDM preconditioning.
        sigma_min, sigma_max: range of noise levels that it was trained on.
        event_shape: (C, R, R).
        preconditioning: "edm", the only kind so far.
        data_range: smallest and largest value of the data as the model sees them.
        data_mean_removed: whether their mean was subtracted.
        weights: which weights these are, "ema" or "raw".
        name: of the model, for messages and tables.
        training: facts for the reader (steps, seconds, loss, ...), not interpreted.
    """

    network: str
    arguments: dict[str, Any]
    sigma_data: float
    sigma_min: float
    sigma_max: float
    event_shape: tuple[int, ...]
    preconditioning: str = "edm"
    data_range: tuple[float, float] = (0.0, 1.0)
    data_mean_removed: bool = False
    weights: str = "ema"
    name: str = "model"
    training: dict[str, Any] = field(default_factory=dict)


def save_model(
    path: str | Path,
    description: ModelDescription,
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes the state dict of a raw network with its description, atomically.

    Raises:
        PrescoreError: a weight is not finite in `dtype`, or the file cannot be written.
    """
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
    with _naming(path):
        _check_finite(tensors)
    header = {"format": FORMAT, "version": VERSION, **asdict(description)}
    write_atomically(Path(path), save(tensors, metadata={"prescore": json.dumps(header)}))


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, on the CPU.

    Raises:
        PrescoreError: the file is missing, truncated, not safetensors, or its header is larger than 100 MB.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise PrescoreError(f"{path}: cannot be read ({error.strerror})") from error
    header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if header_bytes > MAX_HEADER_BYTES:
        raise PrescoreError(f"{path}: not a safetensors file (it claims a header of {header_bytes} bytes)")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PrescoreError(f"{path}: not a safetensors file, or truncated ({error})") from error


def read_description(path: str | Path) -> ModelDescription:
    """Checked description of a model file. Raises as `load_model`, except that the weights may not fit."""
    with _naming(path):
        return _describe(read_safetensors(Path(path))[0])


def load_model(
    path: str | Path, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Denoiser:
    """Denoiser from a model file, in evaluation mode; `device` None is torch's default device.

    Raises:
        PrescoreError: the file is missing, truncated, of another format or a newer version, or describes a network
            that its weights do not fit.
    """
    device = torch.get_default_device() if device is None else torch.device(device)
    metadata, tensors = read_safetensors(Path(path))
    with _naming(path):
        description = _describe(metadata)
        network = _build(description, tensors, dtype)
        return Denoiser(
            EDMPrecond(network, description.sigma_data).eval().requires_grad_(False).to(device),
            description.event_shape,
            description.sigma_min,
            description.sigma_max,
            data_range=description.data_range,
            data_mean_removed=description.data_mean_removed,
            # Noise levels leave the range of half precision: only the network inside runs in it.
            dtype=torch.float64 if dtype == torch.float64 else torch.float32,
            device=device,
            name=description.name,
        )


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Puts the file's name in front of what is wrong with it."""
    try:
        yield
    except PrescoreError as error:
        raise PrescoreError(f"{path}: {error}") from error


def _build(description: ModelDescription, tensors: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):  # shapes only, until they are known to be the file's
        network = NETWORKS[description.network](**description.arguments)
    expected = network.state_dict()
    for name, value in expected.items():
        if name not in tensors:
            raise PrescoreError(f"the weight {name!r} is missing")
        found, needed = tuple(tensors[name].shape), tuple(value.shape)
        if found != needed:
            raise PrescoreError(f"the weight {name!r} has shape {found}, the network needs {needed}")
    for name in tensors.keys() - expected.keys():
        raise PrescoreError(f"the weight {name!r} does not belong to this network")
    _check_finite(tensors)
    network.load_state_dict({name: value.to(dtype) for name, value in tensors.items()}, assign=True)
    return network


def _describe(metadata: Mapping[str, str]) -> ModelDescription:
    if "prescore" not in metadata:
        raise PrescoreError("not a prescore model (its header has no entry 'prescore')")
    try:
        header = json.loads(metadata["prescore"])
    except (ValueError, RecursionError) as error:
        raise PrescoreError(f"its description is not JSON ({error})") from error
    if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
        raise PrescoreError(f"not a prescore model (its format is not {FORMAT!r})")
    version = header.pop("version", None)
    if version != VERSION:
        raise PrescoreError(f"written in version {version!r} of the format, this prescore reads version {VERSION}")
    known = {f.name for f in fields(ModelDescription)}
    for name in known ^ header.keys():
        raise PrescoreError(f"its description {'lacks' if name in known else 'has an unknown entry'} {name!r}")
    _check_description(header)
    lists = {"event_shape": tuple(header["event_shape"]), "data_range": tuple(map(float, header["data_range"]))}
    return ModelDescription(**header | lists)


def _check_description(header: dict[str, Any]) -> None:
    """Types of all entries, and the ranges that neither `Denoiser` nor the network checks."""
    if header["network"] not in list(NETWORKS):
        raise PrescoreError(f"unknown network {header['network']!r}, {suggest(str(header['network']), NETWORKS)}")
    arguments, data_range = header["arguments"], header["data_range"]
    _check_arguments(arguments)
    side = arguments["img_resolution"]
    checks = {
        "preconditioning": header["preconditioning"] == "edm",
        "sigma_data": _is_number(header["sigma_data"]) and header["sigma_data"] > 0,
        "sigma_min": _is_number(header["sigma_min"]),
        "sigma_max": _is_number(header["sigma_max"]),
        "event_shape": header["event_shape"] == [arguments["in_channels"], side, side],
        "data_range": isinstance(data_range, list) and len(data_range) == 2 and all(map(_is_number, data_range)),
        "data_mean_removed": isinstance(header["data_mean_removed"], bool),
        "weights": header["weights"] in ("ema", "raw"),
        "name": isinstance(header["name"], str),
        "training": isinstance(header["training"], dict),
    }
    for name, is_right in checks.items():
        if not is_right:
            raise PrescoreError(f"its description has {name} = {header[name]!r}, which is not valid")


def _check_arguments(arguments: Any) -> None:
    """Known names, right types, and sizes small enough to build."""
    if not isinstance(arguments, dict):
        raise PrescoreError("the network's arguments are not a mapping")
    for name in {"img_resolution", "in_channels", "out_channels"} - arguments.keys():
        raise PrescoreError(f"the network's arguments lack {name!r}")
    for name, value in arguments.items():
        if name in NUMBERS:
            is_right = _is_number(value, *NUMBERS[name]) and (name != "num_blocks" or value <= MAX_LENGTH)
        elif name in LISTS:
            is_right = isinstance(value, (list, tuple)) and len(value) <= MAX_LENGTH
            is_right = is_right and all(_is_number(element, *LISTS[name]) for element in value)
        elif name in CHOICES:
            is_right = isinstance(value, str)
        else:
            raise PrescoreError(f"the network's arguments have an unknown entry {name!r}")
        if not is_right:
            raise PrescoreError(f"the network's argument {name} = {value!r} is not valid")


def _is_number(value: Any, kind: type = float, least: float = -MAX_VALUE) -> bool:
    kinds = (int, float) if kind is float else int
    return isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= MAX_VALUE


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise PrescoreError(f"the weight {name!r} has values that are not finite")
