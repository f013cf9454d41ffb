"""A model as every format stores it: a description, named weights, and the denoiser that is built from both.

Both are untrusted. Only networks of the allow-list are built, from arguments that their constructors declare; they are
built without memory, and no larger than the weights that are there; then every weight must have the network's name and
shape, and finite values.

A network that cannot run on samples of its own shape is refused as well. Those of this package find that out when they
are built, but for the least size of images of the RefineNets. Those of other packages may not (a `UNet2DModel` halves
28 pixels four times and fails on the way back), and are called once on the device "meta", where a call computes shapes
and no numbers: a second for a network of 256 x 256 pixels, half of one or less for most.
"""

import copy
import importlib
import inspect
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from prescore.checkpoints.arguments import MAX_TEXT, check_arguments, is_number, is_of, shorten
from prescore.checkpoints.labels import ARGUMENT, classes_of, condition_of
from prescore.checkpoints.tensors import FLOATS, check_finite
from prescore.defaults import SamplingDefaults
from prescore.denoiser import Denoiser
from prescore.device import open_device
from prescore.errors import PrescoreError, printable, suggest
from prescore.models.kl import KLAutoencoder
from prescore.models.latent import LatentDenoiser
from prescore.models.precond import PRECONDITIONINGS, Precond, ScoreLabelsPrecond
from prescore.models.vae import VAE

if TYPE_CHECKING:
    from prescore.models.ncsn import RefineNet

Network = TypeVar("Network", bound=nn.Module)

# The networks that a file may ask for, and where they are; a file can name nothing else.
NETWORKS: Mapping[str, str] = {
    "SongUNet": "prescore.models.song_unet",
    "DhariwalUNet": "prescore.models.dhariwal_unet",
    "NCSNpp": "prescore.models.ncsnpp",
    "NCSN": "prescore.models.ncsn",
    "NCSNv2": "prescore.models.ncsn",
    "ScoreMLP": "prescore.models.mlp",
    "UNet2DModel": "diffusers",
    "DiTTransformer2DModel": "diffusers",
}
# Prefixes of the preconditioning's and of the autoencoder's tensors among the weights.
TABLE, AUTOENCODER = "precond.", "autoencoder."
WEIGHTS = ("ema", "raw")
MAX_TENSORS = 20_000
MAX_EVENT = 2**27  # numbers in one sample
MAX_TABLE = 10_000  # noise levels in a table
# What networks call the sizes of their input, which must be those of the event.
CHANNELS = ("in_channels", "num_channels", "channels")
SIDES = ("img_resolution", "image_size", "sample_size")
COUNTS = ("num_classes", "num_scales")  # and the number of noise levels that they know by a label
REFINE_NETS = ("NCSN", "NCSNv2")  # which know noise levels by a label alone


@dataclass(frozen=True)
class ModelDescription:
    """How to build and call a stored network.

    Attributes:
        network, arguments: class name, in `NETWORKS`, and keyword arguments of the raw network.
        preconditioning, preconditioning_arguments: name in `PRECONDITIONINGS` and its arguments; tables may stand among
            the weights instead.
        sigma_min, sigma_max: range of noise levels that it was trained on, in unscaled coordinates.
        event_shape: of one sample, (C, H, W) for images.
        data_range: smallest and largest value of the data as the model sees them.
        data_mean_removed: whether their mean was subtracted.
        weights: which weights these are, "ema" or "raw".
        name: of the model, for messages and tables.
        training: facts for the reader (source format, steps, loss, ...), not interpreted.
        autoencoder: of a model of latents, keyword arguments of the `VAE` that makes them, or of the `KLAutoencoder`,
            which are those with a `config`.
        sampling: how its authors sample it, if that is known; a mapping of its attributes becomes one.

    Raises:
        PrescoreError: an attribute has another type or is out of its range.
    """

    network: str
    arguments: dict[str, Any]
    preconditioning: str
    preconditioning_arguments: dict[str, Any]
    sigma_min: float
    sigma_max: float
    event_shape: tuple[int, ...]
    data_range: tuple[float, float] = (0.0, 1.0)
    data_mean_removed: bool = False
    weights: str = "ema"
    name: str = "model"
    training: dict[str, Any] = field(default_factory=dict)
    autoencoder: dict[str, Any] | None = None
    sampling: SamplingDefaults | None = None

    def __post_init__(self) -> None:
        shape = self.event_shape
        checks = {
            "arguments": isinstance(self.arguments, dict),
            "preconditioning_arguments": isinstance(self.preconditioning_arguments, dict),
            "sigma_min": is_number(self.sigma_min),
            "sigma_max": is_number(self.sigma_max),
            "event_shape": is_of(shape, list[int], 4) and min(shape, default=0) > 0 and math.prod(shape) <= MAX_EVENT,
            "data_range": is_of(self.data_range, tuple[float, float]),
            "data_mean_removed": isinstance(self.data_mean_removed, bool),
            "weights": self.weights in WEIGHTS,
            "name": _is_name(self.name),
            "training": isinstance(self.training, dict) and _has_names(self.training),
            "autoencoder": isinstance(self.autoencoder, dict | None),
            "sampling": isinstance(self.sampling, SamplingDefaults | dict | None),
        }
        for name, is_right in checks.items():
            if not is_right:
                raise PrescoreError(f"its description has {name} = {shorten(getattr(self, name))}, which is not valid")
        for entry, known in {"network": NETWORKS, "preconditioning": PRECONDITIONINGS}.items():
            if (value := getattr(self, entry)) not in list(known):
                raise PrescoreError(f"unknown {entry} {shorten(value)}, {suggest(shorten(value), known)}")
        if isinstance(self.sampling, dict):
            check_arguments("the sampling defaults", SamplingDefaults, self.sampling)
            object.__setattr__(self, "sampling", SamplingDefaults(**self.sampling))
        object.__setattr__(self, "event_shape", tuple(shape))
        object.__setattr__(self, "data_range", tuple(map(float, self.data_range)))


def _is_name(value: object) -> bool:
    """Whether it is text that can be printed, of moderate length."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _has_names(value: object) -> bool:
    """Whether the names of a mapping, and of those inside it, can be printed; what they stand for may be anything."""
    return not isinstance(value, Mapping) or all(_is_name(name) and _has_names(value[name]) for name in value)


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A description and the weights of its network by name.

    Tables of the preconditioning are under `precond.NAME`, weights of the autoencoder under `autoencoder.NAME`.
    """

    description: ModelDescription
    state: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those of the network."""
        return {name: value for name, value in self.state.items() if not name.startswith((TABLE, AUTOENCODER))}

    @property
    def tables(self) -> dict[str, Tensor]:
        """Those of the preconditioning, under its arguments' names."""
        return self._under(TABLE)

    @property
    def autoencoder_weights(self) -> dict[str, Tensor]:
        """Those of the autoencoder."""
        return self._under(AUTOENCODER)

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.state.items() if name.startswith(prefix)}


def build(
    stored: StoredModel,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    compile: bool = False,
) -> Denoiser:
    """The denoiser of a stored model, in evaluation mode; `device` None is torch's default device.

    The other arguments are those of `prescore.load`. Weights are in `dtype`. What is not learned (frequencies, filters,
    tables of noise levels) stays in float32 at least, because a network's time would be lost in less.

    Raises:
        PrescoreError: the network cannot be built, or its weights are not those of the file.
    """
    description = stored.description
    device = torch.get_default_device() if device is None else open_device(device)
    function, autoencoder = build_parts(stored)
    network = function.model
    fill(network, stored.weights, dtype)
    function.eval().requires_grad_(False).to(device)
    function.register_forward_pre_hook(condition_of(description, network).hook, with_kwargs=True)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        network.compile()
    denoiser = Denoiser(
        function,
        description.event_shape,
        description.sigma_min,
        description.sigma_max,
        data_range=description.data_range,
        data_mean_removed=description.data_mean_removed,
        # Noise levels leave the range of half precision: only the network inside runs in it.
        dtype=torch.promote_types(dtype, torch.float32),
        device=device,
        name=description.name,
        sampling=description.sampling,
    )
    if autoencoder is None:
        return denoiser
    fill(autoencoder, stored.autoencoder_weights, dtype)
    return LatentDenoiser(**vars(denoiser), autoencoder=autoencoder.eval().requires_grad_(False).to(device))


def fill(network: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Gives a network that was built without memory its weights: learned ones in `dtype`, others in no less than
    float32."""
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    exact = torch.promote_types(dtype, torch.float32)
    state = {
        name: value.to(dtype if name in learned else exact) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    # Copies, since what a reader returns may lie in a file that is mapped into memory, at any address and in any order.
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    network.load_state_dict(state, assign=True)


def build_parts(stored: StoredModel) -> tuple[Precond, VAE | KLAutoencoder | None]:
    """The preconditioned network of a stored model, and its autoencoder if it is one of latents, without their weights,
    which are known to fit.

    Raises:
        PrescoreError: as `build`.
    """
    network, autoencoder = build_network(stored), build_autoencoder(stored)
    return _precondition(network, stored), autoencoder


def build_network(stored: StoredModel) -> nn.Module:
    """The raw network of a stored model without its weights, which are known to fit.

    Raises:
        PrescoreError: as `build`.
    """
    description = stored.description
    cls = network_class(description.network)
    check_arguments(f"the network {description.network}", cls, description.arguments)
    _check_sizes(description)
    network = _construct(f"the network {description.network}", cls, description.arguments, stored.weights)
    _check_runs(network, description)
    return network


def build_autoencoder(stored: StoredModel) -> VAE | KLAutoencoder | None:
    """The autoencoder of a model of latents without its weights, which are known to fit; None of other models.

    Raises:
        PrescoreError: it cannot be built, makes latents of another shape than the model's, or its weights do not fit.
    """
    arguments, weights = stored.description.autoencoder, stored.autoencoder_weights
    if arguments is None:
        if weights:
            raise PrescoreError(f"the weight {shorten(AUTOENCODER + next(iter(weights)))} belongs to no autoencoder")
        return None
    autoencoder: VAE | KLAutoencoder
    if "config" in arguments:
        check_arguments("the autoencoder", KLAutoencoder, arguments)
        autoencoder = _construct("the autoencoder", KLAutoencoder, arguments, weights)
    else:
        autoencoder = construct_autoencoder(arguments, weights)
    if autoencoder.latent_shape != stored.description.event_shape:
        made, needed = autoencoder.latent_shape, stored.description.event_shape
        raise PrescoreError(f"the autoencoder makes latents of shape {made}, the model needs {needed}")
    return autoencoder


def construct_autoencoder(arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> VAE:
    """An autoencoder without its weights, which are known to fit. Raises PrescoreError if it cannot be built."""
    check_arguments("the autoencoder", VAE, arguments)
    return _construct("the autoencoder", VAE, arguments, weights)


def _construct(what: str, cls: type[Network], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Network:
    # Shapes only, until they are known to be the file's.
    with _constructing(what), torch.device("meta"), _no_more_than(weights):
        network = cls(**arguments)
    state = network.state_dict()
    _check_weights(state, weights)
    if cls.__name__ in CONSTANTS:
        CONSTANTS[cls.__name__](network)
    for name, buffer in network.named_buffers():
        if buffer.is_meta and name not in state:
            raise PrescoreError(f"{what} needs the constant {name!r}, which no file holds; take blocks without it")
    return network


def _positions(network: Any) -> None:
    """Gives a DiT the numbers that tell its patches apart, which its file does not hold."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    side, patch, width = network.config.sample_size, network.config.patch_size, network.inner_dim
    if (side // patch) ** 2 * width > MAX_EVENT:
        raise PrescoreError(f"sample_size = {side}: its patches of {patch} are too many")
    count = side // patch
    numbers = get_2d_sincos_pos_embed(width, count, base_size=count, output_type="pt")
    network.pos_embed.pos_embed = numbers.float().unsqueeze(0)


# What networks compute when they are built, and files do not hold.
CONSTANTS: Mapping[str, Callable[[Any], None]] = {"DiTTransformer2DModel": _positions}


@contextmanager
def _constructing(what: str) -> Iterator[None]:
    """Whatever a constructor does with arguments of the right types that do not fit together is said in one line."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except PrescoreError:
        raise
    except Exception as error:
        raise PrescoreError(f"{what} cannot be built from its arguments ({_kind_and_text(error)})") from None


def _kind_and_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Puts a file's name in front of what is wrong with it."""
    try:
        yield
    except PrescoreError as error:
        raise PrescoreError(f"{path}: {error}") from error


def name_of(text: str) -> str:
    """The name of a model, made from that of its file, which may have characters that do not print."""
    return printable(text, MAX_TEXT)


def network_class(name: str) -> type[nn.Module]:
    """A class of the allow-list.

    Raises:
        PrescoreError: it belongs to a package that is not installed, or that cannot be imported.
    """
    package = NETWORKS[name].partition(".")[0]
    try:
        return getattr(importlib.import_module(NETWORKS[name]), name)
    except (ImportError, RuntimeError, AttributeError) as error:  # RuntimeError: of packages that import when asked
        if package == "prescore":
            raise
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = "" if is_missing else f", whose installation is broken ({_kind_and_text(error)})"
        raise PrescoreError(
            f"the network {name} needs {package}{reason}; pip install '.[{package}]' in the clone"
        ) from None


def _check_sizes(description: ModelDescription) -> None:
    """Raise PrescoreError if the network's arguments belong to events of another shape."""
    shape, arguments = description.event_shape, description.arguments
    channels = {name: arguments[name] for name in CHANNELS if name in arguments}
    sides = {name: arguments[name] for name in SIDES if arguments.get(name) is not None}
    right = {name: value == shape[0] for name, value in channels.items()}
    right |= {
        name: list(shape[1:]) == (list(value) if isinstance(value, (list, tuple)) else [value] * 2)
        for name, value in sides.items()
    }
    right["out_channels"] = (arguments.get("out_channels", shape[0]) or 0) >= shape[0]
    for name, is_right in right.items():
        if not is_right:
            raise PrescoreError(f"{name} = {arguments[name]} does not fit samples of the shape {shape}")


def _check_runs(network: nn.Module, description: ModelDescription) -> None:
    """Raise PrescoreError if the network would fail on samples of their own shape."""
    name, shape = description.network, description.event_shape
    if name in REFINE_NETS:
        least = 2 ** (1 + sum(stage.down for stage in cast("RefineNet", network).tower))
        if len(shape) != 3 or min(shape[1:]) < least:
            raise PrescoreError(f"samples of the shape {shape}: the network {name} needs {least} x {least} pixels")
        if description.preconditioning != "score-labels":
            raise PrescoreError(f"the network {name} knows noise levels by number; it goes with 'score-labels' alone")
    if NETWORKS[name].startswith("prescore."):
        return
    if any(not buffer.is_meta for buffer in network.buffers()):  # made of numbers: the position of each patch
        network = copy.deepcopy(network).to("meta")
    with torch.device("meta"), torch.no_grad():
        try:
            out = network(torch.empty(1, *shape), _a_time(description), **_a_class(description))
        except NotImplementedError:  # of an operation on this device, which says nothing about others
            return
        except Exception as error:
            reason = _kind_and_text(error)
            raise PrescoreError(f"the network {name} cannot run on samples of the shape {shape} ({reason})") from None
    if (made := getattr(out, "sample", out)[:, : shape[0]].shape[1:]) != shape:
        raise PrescoreError(f"the network {name} makes {tuple(made)} of samples of the shape {shape}")


def _a_time(description: ModelDescription) -> Tensor:
    """A noise level as the preconditioning gives it to the network, whole where it counts."""
    is_whole = description.preconditioning_arguments.get("integer_time", description.preconditioning == "score-labels")
    return torch.zeros(1, dtype=torch.int64 if is_whole else torch.float32)


def _a_class(description: ModelDescription) -> dict[str, Tensor]:
    """A condition that the network can be called with."""
    arguments = description.arguments
    match arguments.get("class_embed_type"):
        case "identity":
            return {ARGUMENT: torch.zeros(1, 4 * arguments["block_out_channels"][0])}
        case None if not classes_of(description):
            return {}
    return {ARGUMENT: torch.zeros(1, dtype=torch.int64)}


def _precondition(network: nn.Module, stored: StoredModel) -> Precond:
    description = stored.description
    name, arguments, tables = description.preconditioning, description.preconditioning_arguments, stored.tables
    cls = PRECONDITIONINGS[name]
    for table, values in tables.items():
        if table not in inspect.signature(cls).parameters or table == "model":
            raise PrescoreError(f"the preconditioning {name!r} has no table {shorten(table)}")
        if values.ndim != 1 or not 2 <= len(values) <= MAX_TABLE or values.dtype not in FLOATS:
            raise PrescoreError(f"the table {TABLE + table!r} is not one row of 2 to {MAX_TABLE} noise levels")
    given = ("model", *tables)
    check_arguments(f"the preconditioning {name!r}", cls, arguments, max_length=MAX_TABLE, given=given)
    with _constructing(f"the preconditioning {name!r}"):
        precond = cls(network, **arguments, **tables)
    for argument in COUNTS:
        if isinstance(precond, ScoreLabelsPrecond) and argument in description.arguments:
            known = description.arguments[argument]
            if known != len(precond.sigmas):
                raise PrescoreError(f"{argument} = {known}, but there is a table of {len(precond.sigmas)} noise levels")
    return precond


def _no_more_than(weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Stops the building of a network as soon as it has far more parts than the file has weights."""
    if len(weights) > MAX_TENSORS:
        raise PrescoreError(f"{len(weights)} weights; at most {MAX_TENSORS} can be read")
    most = 100 + 10 * len(weights)
    return at_most_parts(most, f"the network is much larger than the {len(weights)} weights that are there")


@contextmanager
def at_most_parts(most: int, otherwise: str) -> Iterator[None]:
    """Raises a PrescoreError of this text as soon as more modules, parameters and buffers than these are built here."""
    thread, parts = threading.get_ident(), 0

    def count(*_: object) -> None:
        nonlocal parts
        parts += threading.get_ident() == thread
        if parts > most:
            raise PrescoreError(otherwise)

    with ExitStack() as stack:
        for kind in ("parameter", "buffer", "module"):
            hook = getattr(registration, f"register_module_{kind}_registration_hook")
            stack.callback(hook(count).remove)
        yield


def _check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        if name not in found:
            raise PrescoreError(f"the weight {name!r} is missing")
        shape, needed = tuple(found[name].shape), tuple(value.shape)
        if shape != needed:
            raise PrescoreError(f"the weight {name!r} has shape {shape}, the network needs {needed}")
        if value.is_floating_point() and found[name].dtype not in FLOATS:
            raise PrescoreError(f"the weight {name!r} has the type {found[name].dtype}, which is not valid")
    for name in found.keys() - expected.keys():
        raise PrescoreError(f"the weight {shorten(name)} does not belong to this network")
    check_finite(found)
