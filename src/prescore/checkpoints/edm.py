"""NVlabs EDM pickles: the networks of the EDM paper as its training script stores them.

The file is one pickle of a mapping `ema, loss_fn, augment_pipe, dataset_kwargs`; only the network `ema`, the averaged
weights, is used. Its classes are stored together with their source code, which the publisher's loader executes:

    object     _reconstruct_persistent_obj({type, version, module_src, class_name, state}),  state = attributes
    module     attributes _parameters, _buffers, _modules; `torch.nn.ModuleDict` alone is stored as a class of torch's
    tensor     _rebuild_tensor_v2(storage, offset, size, stride, ...), a parameter by _rebuild_parameter around it
    storage    _load_from_bytes(file in torch's older layout: four pickles, the list of keys, count, numbers)

Here the source code is text that nobody reads, no part of the file is unpickled (see `prescore.checkpoints.pickles`),
and the numbers are copied out of it. The outer object is one of the preconditionings VPPrecond, VEPrecond,
iDDPMPrecond, EDMPrecond; the arguments it was made with, `_init_kwargs`, are its own and those of the network inside,
`model`.

Range of noise levels: that of the preconditioning, except that the EDM one admits 0 to infinity. There it is the
paper's sampling range 0.002 to 80, which holds all but 2e-5 of the levels that such a network was trained at,
ln sigma ~ N(-1.2, 1.2^2). Data are pixels in [-1, 1].

Sources: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, Table 1; https://github.com/NVlabs/edm (layout of the files).
"""

import io
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor

from prescore.checkpoints.arguments import MAX_LENGTH, MAX_TEXT, is_number, shorten
from prescore.checkpoints.pickles import Call, Name, PersistentId, Record, parse
from prescore.checkpoints.stored import TABLE, ModelDescription, StoredModel, name_of
from prescore.checkpoints.tensors import check_tensors
from prescore.defaults import SamplingDefaults
from prescore.errors import PrescoreError
from prescore.schedule import VP

RECONSTRUCT = "torch_utils.persistence _reconstruct_persistent_obj"
PERSISTENCE_VERSION = 6
CONTAINER = "torch.nn.modules.container ModuleDict"
# Beside its own kind of object, what the attributes of modules, losses and data sets may hold. None of it is looked at.
INERT = (
    *("builtins set", "torch device", "torch Size", "torch float16", "torch float32", "torch float64", "numpy dtype"),
    *("numpy.core.multiarray scalar", "numpy._core.multiarray scalar"),
)
STORAGES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "torch HalfStorage": torch.float16,
        "torch BFloat16Storage": torch.bfloat16,
        "torch FloatStorage": torch.float32,
        "torch DoubleStorage": torch.float64,
    }
)
STORAGE_MAGIC, STORAGE_VERSION = 0x1950A86A20F9469CFC6C, 1001
HEAD_BYTES = 4096  # within which the first object of the file is named
MAX_FILE_BYTES = 8 * 2**30
MAX_STEPS, MAX_STORAGE_STEPS = 500_000, 1000  # the ImageNet-64 network takes 54,000, and 40 for each weight
MAX_DIMENSIONS = 8
MAX_DEPTH = 16  # of modules in modules
TRAINED_RANGE = (0.002, 80.0)


class Recipe(NamedTuple):
    """A preconditioning as published: its name here, the network where none is named, outputs for each channel."""

    name: str
    network: str
    outputs: int = 1


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "VPPrecond": Recipe("vp", "SongUNet"),
        "VEPrecond": Recipe("ve", "SongUNet"),
        "iDDPMPrecond": Recipe("iddpm", "DhariwalUNet", outputs=2),
        "EDMPrecond": Recipe("edm", "DhariwalUNet"),
    }
)


def matches(path: Path) -> bool:
    """Whether a file begins like a pickle of persistent objects. Nothing of it is followed."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return is_pickle and b"_reconstruct_persistent_obj" in head


def read(path: Path, *, config: str | None = None, weights: str = "ema") -> StoredModel:
    """The network `ema` of an EDM pickle.

    Args:
        path: of the file.
        config: None; the file holds its own configuration.
        weights: "ema", the only ones in the file.

    Raises:
        PrescoreError: not such a file, damaged, too large, or it asks for what a network does not need.
    """
    if config is not None:
        raise PrescoreError("config: an EDM pickle holds its own configuration; leave the option out")
    if weights != "ema":
        raise PrescoreError(f"weights: an EDM pickle holds no {weights!r} ones, only the averaged; take 'ema'")
    content = _parse(path)
    if not isinstance(content, dict) or "ema" not in content:
        raise PrescoreError("a pickle without a network 'ema'; EDM's training script writes one")
    class_name, attributes = _persistent(content["ema"])
    if class_name not in RECIPES:
        raise PrescoreError(f"its network is of the class {shorten(class_name)}; known: {', '.join(RECIPES)}")
    return _describe(name_of(path.stem), class_name, attributes, check_tensors("its network", _flatten(attributes)))


def _parse(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_FILE_BYTES:
            raise PrescoreError(f"{size} bytes long; an EDM pickle is not empty and has at most {MAX_FILE_BYTES} bytes")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            value = parse(cast(IO[bytes], content), _calls(size), MAX_STEPS)
            if content.tell() != size:
                raise PrescoreError(f"{size - content.tell()} bytes follow the end of its pickle")
            return value
    except OSError as error:
        raise PrescoreError(f"cannot be read ({error.strerror})") from None


def _calls(file_bytes: int) -> Mapping[str, Call | None]:
    """What stands for each function and class that an EDM pickle names."""
    return {
        RECONSTRUCT: None,
        CONTAINER: None,
        "collections OrderedDict": _mapping,
        "dnnlib.util EasyDict": _mapping,
        "torch._utils _rebuild_parameter": _parameter,
        "torch._utils _rebuild_tensor_v2": _tensor,
        "torch.storage _load_from_bytes": _Storages(file_bytes),
        **dict.fromkeys(INERT),
    }


def _mapping(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise PrescoreError("its pickle fills a mapping in an unknown way")
    return {}


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Tensor() as value, bool(), dict()):
            return value
    raise PrescoreError("a parameter is not stored as torch stores it")


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """A view of a storage, no larger than it is and inside it."""
    match arguments:
        case (Tensor() as storage, int(offset), tuple(size), tuple(stride), bool(), dict()) if _is_view(
            storage.numel(), offset, size, stride
        ):
            return storage.as_strided(size, stride, offset)
    raise PrescoreError("a tensor does not fit the numbers that it is made of")


def _is_view(count: int, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> bool:
    numbers = (offset, *size, *stride)
    if not len(size) == len(stride) <= MAX_DIMENSIONS or not all(isinstance(n, int) for n in numbers):
        return False
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    is_inside = last < count and all(0 <= n <= count for n in numbers)
    return is_inside and 0 < math.prod(size) <= count


class _Storages:
    """Stored numbers, no more of them in all than the file has bytes: a file can hold one and name it many times."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, arguments: tuple[Any, ...]) -> Tensor:
        match arguments:
            case (bytes(content),) if len(content) <= self.most:
                self.most -= len(content)
                return _storage(content)
        raise PrescoreError("its weights are not bytes of the file")


def _storage(content: bytes) -> Tensor:
    """Numbers in torch's older file layout."""
    stream = io.BytesIO(content)

    def part(persistent: bool = False) -> Any:
        return parse(stream, dict.fromkeys(STORAGES), MAX_STORAGE_STEPS, persistent=persistent)

    if content[:1] != b"\x80" or part() != STORAGE_MAGIC or part() != STORAGE_VERSION:
        raise PrescoreError("a weight is not in the layout that EDM's pickles have inside; refused")
    match part(), part(persistent=True), part():
        case (
            {"little_endian": True},
            PersistentId(("storage", Name(key), str(name), str(), int(count), None)),
            [str(listed)],
        ) if name == listed:
            dtype, start = STORAGES[key], stream.tell() + 8
            numbers = memoryview(content)[start:]
            stored = int.from_bytes(content[start - 8 : start], "little", signed=True)
            if 0 < stored == count and len(numbers) == count * dtype.itemsize:
                return torch.frombuffer(bytearray(numbers), dtype=dtype)
    raise PrescoreError("a weight does not have the size that it claims")


def _persistent(value: object) -> tuple[str, dict[str, Any]]:
    """Class name and attributes of a persistent object."""
    match value:
        case Record(
            key, ({"type": str(), "version": int(version), "class_name": str(name), "state": dict(state)},)
        ) if key == RECONSTRUCT:
            if version != PERSISTENCE_VERSION:
                raise PrescoreError(f"its objects are stored in version {version}; version 6 can be read")
            return name, state
    raise PrescoreError("its network is not made of objects as EDM stores them")


def _flatten(attributes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and buffers of a module by their full names, in torch's order."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(attributes: Mapping[str, Any], prefix: str, depth: int) -> None:
        for name, value in (*_part(attributes, "_parameters").items(), *_part(attributes, "_buffers").items()):
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif value is not None:
                raise PrescoreError(f"the weight {shorten(f'{prefix}{name}')} is not a tensor")
        for name, module in _part(attributes, "_modules").items():
            if module is None:
                continue
            if id(module) in seen or depth == MAX_DEPTH:
                raise PrescoreError(f"the part {shorten(f'{prefix}{name}')} is there twice, or inside too many others")
            seen.add(id(module))
            is_container = isinstance(module, Record) and module.key == CONTAINER
            inner = module.state if is_container else _persistent(module)[1]
            visit(inner, f"{prefix}{name}.", depth + 1)

    visit(attributes, "", 0)
    return found


def _part(attributes: object, name: str) -> dict[str, Any]:
    part = attributes.get(name) if isinstance(attributes, dict) else None
    if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
        raise PrescoreError(f"a part of its network has no {name}")
    return part


def _describe(name: str, class_name: str, attributes: Mapping[str, Any], state: Mapping[str, Tensor]) -> StoredModel:
    recipe, arguments = RECIPES[class_name], _arguments(attributes)
    network = arguments.pop("model_type", recipe.network)
    half = arguments.pop("use_fp16", False)
    resolution, channels = (arguments.pop(key, None) for key in ("img_resolution", "img_channels"))
    if not isinstance(resolution, int) or not isinstance(channels, int):
        raise PrescoreError("its network lacks the arguments img_resolution and img_channels")
    own, (sigma_min, sigma_max) = _own_arguments(recipe.name, arguments, state)
    weights = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    tables = {TABLE + key: value for key, value in state.items() if not key.startswith("model.")}
    return StoredModel(
        ModelDescription(
            network,
            {"img_resolution": resolution, "in_channels": channels, "out_channels": channels * recipe.outputs}
            | arguments,
            recipe.name,
            own,
            sigma_min,
            sigma_max,
            (channels, resolution, resolution),
            data_range=(-1.0, 1.0),
            name=name,
            training={"format": "NVlabs EDM pickle", "class": class_name, "use_fp16": half is True},
            sampling=SamplingDefaults(configuration="edm" if recipe.name == "edm" else "edm-baseline"),
        ),
        weights | tables,
    )


def _arguments(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the object was made with: plain values and short lists of them, since anything else may not end."""

    def is_plain(value: object) -> bool:
        return value is None or isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= MAX_TEXT)

    match attributes:
        case {"_init_args": (), "_init_kwargs": dict(given)}:
            arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        case _:
            raise PrescoreError("its network was not made from named arguments")
    for key, value in arguments.items():
        is_list = isinstance(value, list) and len(value) <= MAX_LENGTH and all(map(is_plain, value))
        if not (isinstance(key, str) and (is_plain(value) or is_list)):
            raise PrescoreError(f"the argument {shorten(key)} of its network is not a number, a text or a list of them")
    return arguments


def _own_arguments(
    name: str, arguments: dict[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Any], tuple[float, float]]:
    """Takes the preconditioning's arguments out of those of the object; returns them and the range of noise levels."""

    def take(argument: str, default: float) -> float:
        value = arguments.pop(argument, default)
        if not is_number(value) and value != math.inf:
            raise PrescoreError(f"the argument {argument} = {shorten(value)} of its preconditioning is not a number")
        return float(value)

    if name == "vp":
        beta_d, beta_min, M = take("beta_d", 19.9), take("beta_min", 0.1), arguments.pop("M", 1000)
        sigma = VP(beta_d, beta_min).sigma(torch.tensor([take("epsilon_t", 1e-5), 1.0], dtype=torch.float64))
        return {"beta_d": beta_d, "beta_min": beta_min, "M": M}, (sigma[0].item(), sigma[1].item())
    if name == "ve":
        return {}, (take("sigma_min", 0.02), take("sigma_max", 100))
    if name == "iddpm":
        for argument in ("C_1", "C_2", "M"):  # made the levels, which are stored
            arguments.pop(argument, None)
        levels = state.get("u")
        if levels is None or levels.ndim != 1 or len(levels) < 3:
            raise PrescoreError("the table 'u' of its noise levels is missing")
        return {}, (levels[-2].item(), levels[0].item())
    low, high = take("sigma_min", 0), take("sigma_max", math.inf)
    sigma_range = low or TRAINED_RANGE[0], high if high < math.inf else TRAINED_RANGE[1]
    return {"sigma_data": take("sigma_data", 0.5)}, sigma_range
