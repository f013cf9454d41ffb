"""Model folders of Hugging Face diffusers: a `UNet2DModel`, or a DiT with its autoencoder, and the scheduler that says
what its output means.

A pipeline folder holds the network in `unet/` or `transformer/`, the autoencoder of latents in `vae/`, and the
scheduler in `scheduler/`; older ones, among them the google/ncsnpp and google/ddpm models, hold both files beside each
other. What the network predicts, at which noise levels and under which name of the level is written in the scheduler's
configuration alone (`diffusers_schedulers`).

A folder does not tell whether its weights are an average. Those of `unet_ema/`, which diffusers' training scripts
write, are, and so are those beside a variant `non_ema`, which has the others; else they are called "raw", which here
means as stored.

A folder is untrusted input: weights are safetensors, or pickles read with torch's weights-only reader; no code of a
folder is run and nothing is fetched. Links are followed, since the hub's cache consists of them, to regular files.

Source: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0), `UNet2DModel`.
"""

import inspect
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.checkpoints.arguments import MAX_JSON_BYTES, is_of, parse_json, shorten
from prescore.checkpoints.diffusers_schedulers import SCHEDULER, Config, Meaning, scheduler_meaning
from prescore.checkpoints.native import open_safetensors
from prescore.checkpoints.stored import (
    AUTOENCODER,
    TABLE,
    WEIGHTS,
    ModelDescription,
    StoredModel,
    name_of,
    naming,
    network_class,
)
from prescore.checkpoints.tensors import check_tensors
from prescore.checkpoints.torch_files import load_torch
from prescore.errors import PrescoreError, check_choice
from prescore.models.kl import LATENT_RANGE

NETWORK, TRANSFORMER = "UNet2DModel", "DiTTransformer2DModel"
# Networks of pipelines that `prescore.adapters.diffusers.denoiser_of` takes, and what it is to be told.
IN_PYTHON = {
    NETWORK: "",
    "UNet2DConditionModel": ", prompt='a photograph of a cat'",
    "SD3Transformer2DModel": ", prompt='a photograph of a cat'",
    TRANSFORMER: ", class_label=0",
}
CONFIG = "config.json"
FILE = "diffusion_pytorch_model"
VARIANTS = ("", ".fp32", ".bf16", ".fp16")  # of the weights' file, the most precise first
NOT_AVERAGED = ".non_ema"
# Names of the attention layers in files from before diffusers 0.15, which include those of the google models.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Stored = tuple[Path, Callable[[Path], dict[str, Tensor]]]  # a file of weights and what reads it


def matches(path: Path) -> bool:
    """Whether this is a folder with a network's or a pipeline's configuration in the places of diffusers."""
    names = ("model_index.json", CONFIG, f"unet/{CONFIG}", f"unet_ema/{CONFIG}")
    try:
        return path.is_dir() and any((path / name).is_file() for name in names)
    except OSError:
        return False


def read(path: Path, *, config: str | None = None, weights: str = "ema") -> StoredModel:
    """The network of a folder with its meaning.

    Args:
        path: a pipeline's folder, one of the older layout without subfolders, or that of the network alone.
        config: the scheduler's folder, or its configuration file, where `path` has none or another is meant.
        weights: "ema" takes `unet_ema/` where there is one; "raw" takes `unet/`, and there the variant `non_ema`.

    Raises:
        PrescoreError: a file is missing, malformed or too large; the network is not a `UNet2DModel`; the scheduler is
            not one of the kinds above; diffusers is not installed.
    """
    is_dit = _is_dit(path)
    folder = path / "transformer" if is_dit else _network_folder(path, weights)
    network = TRANSFORMER if is_dit else NETWORK
    arguments = _arguments(_read_json(folder / CONFIG), network)
    scheduler = _read_json(_scheduler_file(path, config))
    meaning = scheduler_meaning(scheduler, {"time_embedding_type": "positional"} | arguments)
    if not is_dit:
        _check_embedding(arguments, meaning)
    elif meaning.negated:
        raise PrescoreError(f"{SCHEDULER}: v_prediction with EDM's preconditioning is not known of a {TRANSFORMER}")
    variant, files = _weights_files(folder, weights)
    average = _average_of(folder, variant)
    state = _modern_names(_read_weights(files))
    if meaning.negated:
        state = {name: -value if _is_output(name) else value for name, value in state.items()}
    if meaning.levels is not None:
        state["precond.levels"] = meaning.levels
    if is_dit and arguments["out_channels"] is None:
        arguments["out_channels"] = arguments["in_channels"]
    event_shape, autoencoder = _event_shape(arguments), None
    if is_dit:
        autoencoder = _autoencoder(path / "vae", event_shape[-1])
        _, parts = _weights_files(path / "vae", weights)
        own = _modern_names(_read_weights(parts))
        state |= {f"{AUTOENCODER}vae.{name}": value for name, value in own.items()}
    description = ModelDescription(
        network=network,
        arguments=arguments,
        preconditioning=meaning.preconditioning,
        preconditioning_arguments=meaning.arguments,
        sigma_min=meaning.sigma_min,
        sigma_max=meaning.sigma_max,
        event_shape=event_shape,
        data_range=LATENT_RANGE if is_dit else meaning.data_range,
        autoencoder=autoencoder,
        weights="ema" if average else "raw",
        name=name_of(path.resolve().name),
        training={
            "source": "diffusers folder",
            "scheduler": scheduler["_class_name"],
            "stored_weights": average or "as stored (whether they are an average is not known)",
        },
    )
    return StoredModel(description, state)


def _is_dit(path: Path) -> bool:
    """Whether this is a pipeline of a DiT.

    Raises:
        PrescoreError: it has to be opened in Python: it is one of other latents, of text, or with another network.
    """
    if not (index := path / "model_index.json").is_file():
        return False
    parts = {name: part[1] for name, part in _read_json(index).items() if is_of(part, list[str]) and len(part) == 2}
    network = parts.get("transformer", parts.get("unet"))
    is_of_latents = "vae" in parts or "vqvae" in parts
    if network == TRANSFORMER and "vae" in parts:
        return True
    if network is None or (network == NETWORK and not is_of_latents):
        return False
    start = f"{index.name}: the network of this pipeline, a {shorten(network)},"
    opened = f"from diffusers import DiffusionPipeline; pipe = DiffusionPipeline.from_pretrained({str(path)!r})"
    if network not in IN_PYTHON:
        raise PrescoreError(
            f"{start} is not read; in Python its scheduler can be one of prescore: {opened}; "
            "from prescore.adapters.diffusers import scheduler; pipe.scheduler = scheduler(pipe.scheduler, 'dpmpp-2m')"
        )
    raise PrescoreError(
        f"{start} needs the other parts; this opens it in Python: {opened}; "
        f"from prescore.adapters.diffusers import denoiser_of; model = denoiser_of(pipe{IN_PYTHON[network]})"
    )


def _network_folder(path: Path, weights: str) -> Path:
    check_choice("weights", weights, WEIGHTS)
    for folder in (*([path / "unet_ema"] if weights == "ema" else []), path / "unet", path):
        if (folder / CONFIG).is_file():
            return folder
    other = " with weights 'raw' (unet_ema/ holds an average)" if (path / "unet_ema").is_dir() else ""
    raise PrescoreError(f"holds no unet/{CONFIG} and no {CONFIG}{other}; a folder with a {NETWORK} is needed")


def _scheduler_file(path: Path, config: str | None) -> Path:
    if config is None:
        places, message = [path], f"holds no scheduler/{SCHEDULER}; name the folder of its scheduler with --config"
    else:
        places, message = [Path(config)], f"--config {config}: neither a {SCHEDULER} nor a folder with one"
    for place in places:
        for file in (place / "scheduler" / SCHEDULER, place / SCHEDULER, place):
            if file.is_file():
                return file
    raise PrescoreError(message)


def _arguments(config: Config, network: str = NETWORK) -> dict[str, Any]:
    """All keyword arguments of the network: those of its configuration, defaults for the others.

    Further entries (of EMAModel, or of other versions of diffusers) are left out, as diffusers does.
    """
    name = config.get("_class_name")
    if name != network:
        raise PrescoreError(f"{CONFIG}: the network is a {shorten(name)}; of diffusers' networks {network} can be read")
    if re.search(r"'K(Down|Up)Block2D'", repr([config.get(f"{way}_block_types") for way in ("down", "up")])):
        raise PrescoreError(f"{CONFIG}: K blocks have filters that are not among the weights; they cannot be read")
    parameters = inspect.signature(network_class(network)).parameters
    return {name: config.get(name, parameter.default) for name, parameter in parameters.items()}


def _autoencoder(folder: Path, side: int) -> dict[str, Any]:
    """The arguments of the `KLAutoencoder` in a folder, for latents of this side."""
    config = _read_json(folder / CONFIG)
    widths: Any = config.get("block_out_channels")
    if config.get("_class_name") != "AutoencoderKL" or not is_of(widths, list[int]):
        raise PrescoreError(f"{folder.name}/{CONFIG}: an AutoencoderKL is needed, with its block_out_channels")
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    return {"img_resolution": side * 2 ** (len(widths) - 1), "config": own}


def _event_shape(arguments: dict[str, Any]) -> tuple[int, int, int]:
    size, channels, outputs = (arguments[name] for name in ("sample_size", "in_channels", "out_channels"))
    if size is None:
        raise PrescoreError(f"{CONFIG}: sample_size is null; set it to the side of the images")
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    if len(sides) != 2 or not all(type(n) is int and n > 0 for n in [*sides, channels]):
        raise PrescoreError(
            f"{CONFIG}: in_channels {shorten(channels)} and sample_size {shorten(size)} are no shape of an image"
        )
    if outputs not in (channels, 2 * channels):
        raise PrescoreError(
            f"{CONFIG}: in_channels {channels} and out_channels {shorten(outputs)}; a network that takes the noisy "
            "image and nothing else has as many outputs, or twice as many where it predicts a variance too"
        )
    return channels, sides[0], sides[1]


def _check_embedding(arguments: dict[str, Any], meaning: Meaning) -> None:
    """Refuses an embedding of the time that cannot take the times that this scheduler gives."""
    embedding = arguments["time_embedding_type"]
    if embedding == "fourier" and meaning.preconditioning != "score":
        raise PrescoreError(
            f"{CONFIG}: time_embedding_type 'fourier' takes the logarithm of a noise level, but this scheduler gives "
            "other times; it goes with a ScoreSdeVeScheduler"
        )
    if embedding == "learned":
        size = arguments["num_train_timesteps"]
        if meaning.levels is None or type(size) is not int or size < len(meaning.levels):
            raise PrescoreError(
                f"{CONFIG}: time_embedding_type 'learned' with num_train_timesteps {shorten(size)} has no entry for "
                "each time of this scheduler"
            )


def _check_regular(file: Path) -> None:
    """Raise PrescoreError unless it is a regular file, or a link that leads to one."""
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise PrescoreError(f"{file.name}: cannot be read ({getattr(error, 'strerror', error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise PrescoreError(f"{file.name}: not a regular file")


def _read_json(file: Path) -> Config:
    _check_regular(file)
    with naming(file.name):
        try:
            with open(file, "rb") as stream:
                content = parse_json(stream.read(MAX_JSON_BYTES + 1))
        except OSError as error:
            raise PrescoreError(f"cannot be read ({error.strerror})") from None
    if not isinstance(content, dict):
        raise PrescoreError(f"{file.name}: not a mapping of names to values")
    return content


def _read_weights(files: list[Stored]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file, reader in files:
        _check_regular(file)
        part = reader(file)
        if twice := state.keys() & part.keys():
            raise PrescoreError(f"{file.name}: the weight {shorten(min(twice))} is in another file as well")
        state |= part
    for name in state:
        if name.startswith((TABLE, AUTOENCODER)):
            raise PrescoreError(f"the weight {shorten(name)} does not belong to this network")
    return state


def _weights_files(folder: Path, weights: str) -> tuple[str, list[Stored]]:
    """The most precise variant of the weights, and its files, each with the function that reads it."""
    for variant in (*([NOT_AVERAGED] if weights == "raw" else []), *VARIANTS):
        if files := _files_of(folder, variant):
            return variant, files
    names = sorted(name for name in os.listdir(folder) if name.startswith(FILE))
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    held = f"; it holds {', '.join(names[:2])}{more}" if names else ""
    advice = ", the weights before they were averaged; take weights 'raw' (--raw)" if NOT_AVERAGED in held else ""
    raise PrescoreError(f"{folder.name}/ holds no {FILE}.safetensors and no {FILE}.bin{held}{advice}")


def _files_of(folder: Path, variant: str) -> list[Stored]:
    """The file of the weights, or its shards; safetensors before pickles."""
    for suffix, reader in ((".safetensors", _read_safetensors), (".bin", _read_pickle)):
        if os.path.lexists(file := folder / f"{FILE}{variant}{suffix}"):
            return [(file, reader)]
        if os.path.lexists(index := folder / f"{FILE}{suffix}.index{variant}.json"):
            return [(shard, reader) for shard in _shards(index)]
    return []


def _average_of(folder: Path, variant: str) -> str:
    """What tells that the weights are an average; nothing if they may be none."""
    if folder.name == "unet_ema":
        return "unet_ema"
    has_others = variant != NOT_AVERAGED and any(folder.glob(f"{FILE}*{NOT_AVERAGED}*"))
    return "beside non_ema" if has_others else ""


def _shards(index: Path) -> Iterator[Path]:
    """Files that an index lists, each once; they lie beside it."""
    files = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise PrescoreError(f"{index.name}: it has no weight_map")
    for name in dict.fromkeys(map(str, files.values())):
        if not re.fullmatch(r"[\w-][\w.-]{0,200}", name, re.ASCII):
            raise PrescoreError(f"{index.name}: {shorten(name)} is not the plain name of a file beside it")
        yield index.parent / name


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    with naming(file.name):
        return check_tensors("its content", open_safetensors(file)[1])


def _read_pickle(file: Path) -> dict[str, Tensor]:
    with naming(file.name):
        return check_tensors("its content", load_torch(file))


def _modern_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old names of the attention layers replaced; of the Fourier frequencies, which had two names, one kept."""
    renamed = {}
    for name, value in state.items():
        old = re.fullmatch(r"(.*\battentions\.\d+\.)(\w+)(\.weight|\.bias)", name)
        if old and old[2] in OLD_ATTENTION:
            name = old[1] + OLD_ATTENTION[old[2]] + old[3]
        renamed["time_proj.weight" if name == "time_proj.W" else name] = value
    return renamed


def _is_output(name: str) -> bool:
    """Whether the network's output is linear and odd in this weight together with the others of which it is true."""
    return re.fullmatch(r"(conv_out|up_blocks\.\d+\.skip_conv)\.(weight|bias)", name) is not None
