"""Model folders of Hugging Face diffusers: a `UNet2DModel` and the scheduler that says what its output means.

A pipeline folder holds the network in `unet/` and the scheduler in `scheduler/`; older ones, among them the
google/ncsnpp and google/ddpm models, hold both files beside each other. What the network predicts, at which noise
levels and under which name of the level (time index, logarithm, the level itself) is written in the scheduler's
configuration alone. Every solver that shares a forward process says the same about it, so that they fall in five kinds:

    scheduler              network's x         its time        its prediction -> name in `models.precond`
    DDPM, DDIM, PNDM, ..   alpha x             j               epsilon -> noise, v_prediction -> velocity, sample
    EDMEuler, EDMDPM..     x/sqrt(u + sd^2)    ln(sigma) / 4   epsilon -> edm; v_prediction -> edm of -F
    ScoreSdeVe             x                   sigma           score
    KarrasVe               (x + 1) / 2         sigma / 2       score, in units of [0, 1]
    ScoreSdeVp             exp(-B(t) / 2) x    999 t           noise

with u = sigma^2, alpha = 1 / sqrt(1 + u), B the integral of beta, alpha_bar_j = prod (1 - beta_i) and the levels
sigma_j = sqrt(1 / alpha_bar_j - 1). Their table is computed here from the betas in float64; that of diffusers is in
float32, which moves sigma_0 by up to 3e-4 of itself. Between its entries j is a fraction, linear in ln sigma
(`Tabulated`); it is rounded for networks that look it up in a table of their own (`time_embedding_type` "learned").
With `rescale_betas_zero_snr` the last level is infinite: no x = x0 + sigma n has it, and the table ends one entry
earlier.

What a solver does with the prediction is no property of the model: D is not clipped, whatever `clip_sample` and
`thresholding` say (runs of diffusers with the usual `clip_sample` therefore differ), and the solver's choice of steps
is not used. Data lie in [-1, 1], except where the scheduler's own pipeline takes them as [0, 1] (ScoreSdeVe, KarrasVe).

A folder does not tell whether its weights are an average. Those of `unet_ema/`, which diffusers' training scripts
write, are; any others are called "raw", which here means as stored.

A folder is untrusted input: weights are safetensors, or pickles read with torch's weights-only reader; no code of a
folder is run and nothing is fetched. Links are followed, since the hub's cache consists of them, to regular files.

Sources: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0): the configuration and `step` of each
scheduler; `UNet2DModel`. Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2024,
https://arxiv.org/abs/2305.08891, Algorithm 1 (zero terminal SNR).
"""

import inspect
import json
import math
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prescore.checkpoints.arguments import is_of, shorten
from prescore.checkpoints.native import open_safetensors
from prescore.checkpoints.stored import (
    AUTOENCODER,
    MAX_TABLE,
    TABLE,
    WEIGHTS,
    ModelDescription,
    StoredModel,
    naming,
    network_class,
)
from prescore.checkpoints.torch_files import check_tensors, load_torch
from prescore.errors import PrescoreError, check_choice
from prescore.schedule import VP, Tabulated

NETWORK = "UNet2DModel"
CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
FILE = "diffusion_pytorch_model"
VARIANTS = ("", ".fp32", ".bf16", ".fp16")  # of the weights' file, the most precise first
MAX_JSON_BYTES = 10_000_000
# Default beta_start and beta_end of the schedulers over a table of betas; configurations may leave defaults out.
DDPM_BETAS, LATENT_BETAS = (1e-4, 0.02), (0.00085, 0.012)
TABULATED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "DDPMScheduler": DDPM_BETAS,
        "DDPMParallelScheduler": DDPM_BETAS,
        "DDIMScheduler": DDPM_BETAS,
        "DDIMParallelScheduler": DDPM_BETAS,
        "DDIMInverseScheduler": DDPM_BETAS,
        "PNDMScheduler": DDPM_BETAS,
        "RePaintScheduler": DDPM_BETAS,
        "DEISMultistepScheduler": DDPM_BETAS,
        "DPMSolverMultistepScheduler": DDPM_BETAS,
        "DPMSolverMultistepInverseScheduler": DDPM_BETAS,
        "DPMSolverSinglestepScheduler": DDPM_BETAS,
        "DPMSolverSDEScheduler": LATENT_BETAS,
        "UniPCMultistepScheduler": DDPM_BETAS,
        "SASolverScheduler": DDPM_BETAS,
        "EulerDiscreteScheduler": DDPM_BETAS,
        "EulerAncestralDiscreteScheduler": DDPM_BETAS,
        "LMSDiscreteScheduler": DDPM_BETAS,
        "HeunDiscreteScheduler": LATENT_BETAS,
        "KDPM2DiscreteScheduler": LATENT_BETAS,
        "KDPM2AncestralDiscreteScheduler": LATENT_BETAS,
    }
)
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "sample", "original_sample": "sample"}
# Names of the attention layers in files from before diffusers 0.15, which include those of the google models.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Config = dict[str, Any]


class Meaning(NamedTuple):
    """What a scheduler says about a network: the part of a `ModelDescription` that depends on it.

    `levels` is the table of noise levels, if there is one; `negated` says that the network predicts -F.
    """

    preconditioning: str
    arguments: dict[str, Any]
    sigma_min: float
    sigma_max: float
    levels: Tensor | None = None
    negated: bool = False
    data_range: tuple[float, float] = (-1.0, 1.0)


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
        weights: "ema" takes `unet_ema/` where there is one; "raw" takes `unet/`.

    Raises:
        PrescoreError: a file is missing, malformed or too large; the network is not a `UNet2DModel`; the scheduler is
            not one of the kinds above; diffusers is not installed.
    """
    _refuse_latents(path)
    folder, is_average = _network_folder(path, weights)
    arguments = _arguments(_read_json(folder / CONFIG))
    scheduler = _read_json(_scheduler_file(path, config))
    meaning = scheduler_meaning(scheduler, arguments)
    _check_embedding(arguments, meaning)
    state = _modern_names(_read_weights(folder))
    if meaning.negated:
        state = {name: -value if _is_output(name) else value for name, value in state.items()}
    if meaning.levels is not None:
        state["precond.levels"] = meaning.levels
    description = ModelDescription(
        network=NETWORK,
        arguments=arguments,
        preconditioning=meaning.preconditioning,
        preconditioning_arguments=meaning.arguments,
        sigma_min=meaning.sigma_min,
        sigma_max=meaning.sigma_max,
        event_shape=_event_shape(arguments),
        data_range=meaning.data_range,
        weights="ema" if is_average else "raw",
        name=path.resolve().name,
        training={
            "source": "diffusers folder",
            "scheduler": scheduler["_class_name"],
            "stored_weights": "unet_ema" if is_average else "as stored (whether they are an average is not known)",
        },
    )
    return StoredModel(description, state)


def _refuse_latents(path: Path) -> None:
    """A pipeline with an autoencoder has no images for its data."""
    if (index := path / "model_index.json").is_file():
        for part in ("vqvae", "vae"):
            if part in _read_json(index):
                raise PrescoreError(
                    f"model_index.json: the UNet works on the latents of a {part!r}, which is not read; open the "
                    "folder 'unet' with --config scheduler/ to sample latents"
                )


def _network_folder(path: Path, weights: str) -> tuple[Path, bool]:
    """The folder of the network, and whether its weights are known to be an average."""
    check_choice("weights", weights, WEIGHTS)
    if weights == "ema" and (path / "unet_ema" / CONFIG).is_file():
        return path / "unet_ema", True
    for folder in (path / "unet", path):
        if (folder / CONFIG).is_file():
            return folder, path.name == "unet_ema"
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


def _arguments(config: Config) -> dict[str, Any]:
    """All keyword arguments of the network: those of its configuration, defaults for the others.

    Further entries (of EMAModel, or of other versions of diffusers) are left out, as diffusers does.
    """
    name = config.get("_class_name")
    if name != NETWORK:
        raise PrescoreError(f"{CONFIG}: the network is a {shorten(name)}; of diffusers' networks {NETWORK} can be read")
    if re.search(r"'K(Down|Up)Block2D'", repr([config.get(f"{way}_block_types") for way in ("down", "up")])):
        raise PrescoreError(f"{CONFIG}: K blocks have filters that are not among the weights; they cannot be read")
    parameters = inspect.signature(network_class(NETWORK)).parameters
    return {name: config.get(name, parameter.default) for name, parameter in parameters.items()}


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


# What the schedulers mean


def scheduler_meaning(scheduler: Config, arguments: Mapping[str, Any]) -> Meaning:
    """What a scheduler's configuration says about a network with these arguments; raises as `read`."""
    name = scheduler.get("_class_name")
    if not isinstance(name, str):
        raise PrescoreError(f"{SCHEDULER}: it has no _class_name")
    if scheduler.get("use_flow_sigmas") or scheduler.get("prediction_type") == "flow_prediction":
        raise PrescoreError(f"{SCHEDULER}: {shorten(name)} is set to flow matching, which is not read")
    if name in TABULATED and not _is_continuous(scheduler):
        return _tabulated(scheduler, *TABULATED[name], is_learned=arguments["time_embedding_type"] == "learned")
    if name in EDM or name in TABULATED:
        return _edm(scheduler)
    if name == "ScoreSdeVeScheduler":
        low, high = _range(scheduler, 0.01, 1348.0)
        return Meaning("score", {}, low, high, data_range=(0.0, 1.0))
    if name == "KarrasVeScheduler":
        low, high = _range(scheduler, 0.02, 100.0)
        return Meaning("score", {}, low / 2, high / 2, data_range=(0.0, 1.0))
    if name == "ScoreSdeVpScheduler":
        return _score_sde_vp(scheduler)
    raise PrescoreError(
        f"{SCHEDULER}: what a network predicts under {shorten(name)} is not known here; known are the schedulers over "
        "a table of betas (DDPM, DDIM, Euler, DPMSolver, UniPC, ...), EDM, ScoreSdeVe, ScoreSdeVp and KarrasVe"
    )


def _is_continuous(scheduler: Config) -> bool:
    """The Euler solver's form of EDM: v-prediction at the time ln(sigma) / 4."""
    return scheduler.get("timestep_type") == "continuous" and scheduler.get("prediction_type") == "v_prediction"


def _tabulated(scheduler: Config, beta_start: float, beta_end: float, is_learned: bool) -> Meaning:
    prediction = _choice(scheduler, "prediction_type", "epsilon", PREDICTIONS)
    if scheduler.get("predict_epsilon") is False:  # the name of the choice before there were three
        prediction = "sample"
    levels = _levels(scheduler, beta_start, beta_end)
    arguments = {"schedule": {"kind": "tabulated"}, "time_scale": 1.0, "integer_time": is_learned}
    return Meaning(PREDICTIONS[prediction], arguments, levels[0].item(), levels[-1].item(), levels)


def _levels(scheduler: Config, beta_start: float, beta_end: float) -> Tensor:
    """sigma_j of the configuration's betas, float64, increasing."""
    betas = _betas(scheduler, beta_start, beta_end)
    if not ((betas > 0) & (betas < 1)).all():
        raise PrescoreError(f"{SCHEDULER}: its betas are not all between 0 and 1")
    levels = Tabulated.from_betas(betas).levels
    if not scheduler.get("rescale_betas_zero_snr"):
        return levels
    alpha = (1 + levels**2).rsqrt()
    rescaled = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return Tabulated.from_alphas_cumprod(rescaled[:-1] ** 2).levels


def _betas(scheduler: Config, beta_start: float, beta_end: float) -> Tensor:
    trained = scheduler.get("trained_betas")
    if trained is not None:
        if not is_of(trained, list[float], MAX_TABLE) or len(trained) < 2:
            raise PrescoreError(f"{SCHEDULER}: trained_betas is not a list of 2 to {MAX_TABLE} numbers")
        return torch.tensor(trained, dtype=torch.float64)
    steps = scheduler.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= MAX_TABLE:
        raise PrescoreError(
            f"{SCHEDULER}: num_train_timesteps = {shorten(steps)} is not a number from 2 to {MAX_TABLE}"
        )
    start, end = _number(scheduler, "beta_start", beta_start), _number(scheduler, "beta_end", beta_end)
    kinds: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: _ramp(start, end, steps),
        "scaled_linear": lambda: _ramp(start**0.5, end**0.5, steps) ** 2,
        "sigmoid": lambda: torch.sigmoid(_ramp(-6, 6, steps)) * (end - start) + start,
        "squaredcos_cap_v2": lambda: _betas_of(_cosine, steps),
        "laplace": lambda: _betas_of(_laplace, steps),
        "exp": lambda: _betas_of(lambda t: torch.exp(-12 * t), steps),
    }
    return kinds[_choice(scheduler, "beta_schedule", "linear", kinds)]()


def _ramp(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _betas_of(alpha_bar: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """beta_j = 1 - alpha_bar(t_{j+1}) / alpha_bar(t_j), at most 0.999, t_j = j / steps."""
    values = alpha_bar(_ramp(0, 1, steps + 1))
    return (1 - values[1:] / values[:-1]).clamp(max=0.999)


def _cosine(t: Tensor) -> Tensor:
    return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: Tensor) -> Tensor:
    """The square root of snr / (1 + snr): diffusers calls it alpha_bar, and so it is what the betas come from."""
    away = t - 0.5
    log_snr = 0.5 * away.sign() * torch.log(1 - 2 * away.abs() + 1e-6)
    return torch.sigmoid(log_snr).sqrt()


def _edm(scheduler: Config) -> Meaning:
    """EDM's own schedulers, and Euler's continuous v-prediction, which is that of sigma_data = 1."""
    is_euler = scheduler["_class_name"] not in EDM
    prediction = _choice(scheduler, "prediction_type", "epsilon", ("epsilon", "v_prediction"))
    sigma_data = 1.0 if is_euler else _number(scheduler, "sigma_data", 0.5)
    low, high = _range(scheduler, 0.002, 80.0)
    return Meaning("edm", {"sigma_data": sigma_data}, low, high, negated=prediction == "v_prediction")


def _score_sde_vp(scheduler: Config) -> Meaning:
    beta_min, beta_max = _number(scheduler, "beta_min", 0.1), _number(scheduler, "beta_max", 20.0)
    schedule = VP(beta_max - beta_min, beta_min, _number(scheduler, "sampling_eps", 1e-3))
    arguments = {
        "schedule": {"kind": "vp", "beta_d": schedule.beta_d, "beta_min": schedule.beta_min},
        "time_scale": 999.0,
        "integer_time": False,
    }
    return Meaning("noise", arguments, schedule.sigma_min, schedule.sigma_max)


def _range(scheduler: Config, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    return _number(scheduler, "sigma_min", sigma_min), _number(scheduler, "sigma_max", sigma_max)


def _choice(config: Config, name: str, default: str, choices: Collection[str]) -> str:
    """One of some words in a scheduler's configuration."""
    value = config.get(name, default)
    check_choice(f"{SCHEDULER}: {name}", value if is_of(value, str) else shorten(value), choices)
    return value


def _number(config: Config, name: str, default: float) -> float:
    """A positive number of a scheduler's configuration; null is the default."""
    value = config.get(name)
    value = default if value is None else value
    if not is_of(value, float) or value <= 0:
        raise PrescoreError(f"{SCHEDULER}: {name} = {shorten(value)} is not a positive number")
    return float(value)


# Files


def _size(file: Path) -> int:
    """Bytes of a regular file, or of that to which a link leads."""
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise PrescoreError(f"{file.name}: cannot be read ({getattr(error, 'strerror', error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise PrescoreError(f"{file.name}: not a regular file")
    return status.st_size


def _read_json(file: Path) -> Config:
    if _size(file) > MAX_JSON_BYTES:
        raise PrescoreError(f"{file.name}: larger than {MAX_JSON_BYTES} bytes; it should hold a configuration")
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise PrescoreError(f"{file.name}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise PrescoreError(f"{file.name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise PrescoreError(f"{file.name}: not a mapping of names to values")
    return content


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of the most precise variant, safetensors before pickles."""
    state: dict[str, Tensor] = {}
    for file, reader in _weights_files(folder):
        _size(file)
        state |= reader(file)
    for name in state:
        if name.startswith((TABLE, AUTOENCODER)):
            raise PrescoreError(f"the weight {shorten(name)} does not belong to this network")
    return state


def _weights_files(folder: Path) -> Iterator[tuple[Path, Callable[[Path], dict[str, Tensor]]]]:
    """The file of the weights, or its shards, each with the function that reads it."""
    for variant in VARIANTS:
        for suffix, reader in ((".safetensors", _read_safetensors), (".bin", _read_pickle)):
            if os.path.lexists(file := folder / f"{FILE}{variant}{suffix}"):
                return iter([(file, reader)])
            if os.path.lexists(index := folder / f"{FILE}{suffix}.index{variant}.json"):
                return ((shard, reader) for shard in _shards(index))
    raise PrescoreError(f"{folder.name}/ holds no {FILE}.safetensors and no {FILE}.bin")


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
        return open_safetensors(file)[1]


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
