"""Checkpoints of score_sde_pytorch: NCSN++, DDPM++ and DDPM.

A checkpoint is a mapping: optimizer, model, ema, step. The EMA has no names: it lists the trained parameters in the
network's order, hence neither the Fourier frequencies, which are not trained, nor the table `sigmas`; those two come
from the model.

The file does not tell how the network was built and trained. The published configurations are listed here; most are
known by the names and shapes of their weights and the ends of `sigmas`, so that one has to be named only where several
share both:

    sde           network returns          x_t            preconditioning of `models.precond`
    VE            score, given sigma       x              score
    VE, discrete  score, given a label     x              score-labels, table `sigmas`
    VP, sub-VP    noise, given 999 t       s(t) x         noise
    VP, discrete  noise, given the index   s_j x          noise, levels of the betas linspace(0.1, 20, N) / N

VE networks see data in [0, 1], the others in [-1, 1]. The levels of a VE model are those of its file.

Sources: Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
https://arxiv.org/abs/2011.13456, appendices C, F and H; https://github.com/yang-song/score_sde_pytorch (layout, names
and configurations).
"""

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from prescore.checkpoints.arguments import check_arguments, is_number, shorten
from prescore.checkpoints.stored import TABLE, WEIGHTS, ModelDescription, StoredModel
from prescore.checkpoints.tensors import check_tensors, checked_levels
from prescore.checkpoints.torch_files import head, load_torch
from prescore.checkpoints.yml import NOTHING, entry, read_configuration, section
from prescore.defaults import SamplingDefaults
from prescore.errors import PrescoreError, check_choice, suggest
from prescore.models.ncsnpp import NCSNpp
from prescore.samplers.predictor_corrector import CHOICES
from prescore.schedule import VP, SubVP, Tabulated

MARK = b"all_modules."
BETA_MIN, BETA_MAX = 0.1, 20.0
TIME_SCALE = 999.0
SUPPORTED = {"nonlinearity": "swish", "normalization": "GroupNorm", "beta_min": BETA_MIN, "beta_max": BETA_MAX}
DDPM = {
    "resblock_type": "ddpm",
    "fir": False,
    "skip_rescale": False,
    "progressive_input": "none",
    "embedding_type": "positional",
}  # what the class DDPM has no choice of
UNNAMED = "score_sde"  # a model of a configuration that is not published
USUAL_SCALES = 1000  # noise levels of a table, which is the number of iterations too


@dataclass(frozen=True)
class Configuration:
    """What a checkpoint does not hold.

    Attributes:
        arguments: of `NCSNpp`.
        sde: "ve", "vp" or "subvp".
        continuous: whether it was trained at all noise levels, not at those of a table alone.
        sampling: how the authors sample it.
    """

    arguments: Mapping[str, Any]
    sde: str = "ve"
    continuous: bool = True
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    def network(self) -> NCSNpp:
        """The network without memory for its weights."""
        with torch.device("meta"):
            return NCSNpp(**self.arguments)


def _ve(
    image_size: int, sigma_max: float, snr: float = 0.16, *, continuous: bool = True, **arguments: Any
) -> Configuration:
    embedding = "fourier" if continuous else "positional"
    named = {"image_size": image_size, "sigma_max": float(sigma_max), "embedding_type": embedding}
    langevin: dict[str, Any] = {"corrector": "langevin", "corrector_steps": 1, "snr": snr}
    iterations = arguments.get("num_scales", USUAL_SCALES)
    sampling = SamplingDefaults(iterations=iterations, predictor="reverse-diffusion", **langevin)
    return Configuration(named | arguments, "ve", continuous, sampling)


def _ve_pyramids(image_size: int, sigma_max: float, snr: float, **arguments: Any) -> Configuration:
    pyramids: dict[str, Any] = {
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "num_scales": 2000,
        "dropout": 0.0,
    }
    return _ve(image_size, sigma_max, snr, **pyramids, **arguments)


def _ve_256(sigma_max: float, snr: float = 0.075) -> Configuration:
    return _ve_pyramids(256, sigma_max, snr, ch_mult=(1, 1, 2, 2, 2, 2, 2), num_res_blocks=2)


def _ddpmpp(sde: str, *, continuous: bool = True, **arguments: Any) -> Configuration:
    plain = {"fir": False, "progressive_input": "none", "embedding_type": "positional"}
    meaning = {"centered": True, "scale_by_sigma": False}
    predictor = "euler-maruyama" if continuous else "ancestral"
    sampling = SamplingDefaults(iterations=USUAL_SCALES, predictor=predictor, corrector="none")
    return Configuration({"image_size": 32} | plain | meaning | arguments, sde, continuous, sampling)


def _ddpm(sde: str, *, continuous: bool = True) -> Configuration:
    return _ddpmpp(sde, continuous=continuous, resblock_type="ddpm", skip_rescale=False, num_res_blocks=2)


PUBLISHED: Mapping[str, Configuration] = MappingProxyType(
    {
        "cifar10-ncsnpp-discrete-ve": _ve(32, 50, continuous=False),
        "cifar10-ncsnpp-continuous-ve": _ve(32, 50),
        "cifar10-ncsnpp-deep-continuous-ve": _ve(32, 50, num_res_blocks=8),
        "celeba64-ncsnpp-discrete-ve": _ve(64, 90, 0.17, continuous=False),
        # Trained by the authors of PDS, who publish neither weights nor configurations: that of CelebA, continuous.
        "celeba64-ncsnpp-continuous-ve": _ve(64, 90, 0.17),
        "imagenet64-ncsnpp-continuous-ve": _ve(64, 90, 0.17),
        "coco64-ncsnpp-continuous-ve": _ve(64, 90, 0.17),
        "celebahq256-ncsnpp-continuous-ve": _ve_256(348),
        "ffhq256-ncsnpp-continuous-ve": _ve_256(348),
        "bedroom256-ncsnpp-continuous-ve": _ve_256(378),
        "church256-ncsnpp-continuous-ve": _ve_256(380),
        "ffhq1024-ncsnpp-continuous-ve": _ve_pyramids(
            1024, 1348, 0.15, nf=16, ch_mult=(1, 2, 4, 8, 16, 32, 32, 32), num_res_blocks=1
        ),
        "cifar10-ddpm-discrete-vp": _ddpm("vp", continuous=False),
        "cifar10-ddpm-continuous-vp": _ddpm("vp"),
        "cifar10-ddpm-continuous-subvp": _ddpm("subvp"),
        "cifar10-ddpmpp-discrete-vp": _ddpmpp("vp", continuous=False),
        "cifar10-ddpmpp-continuous-vp": _ddpmpp("vp"),
        "cifar10-ddpmpp-continuous-subvp": _ddpmpp("subvp"),
        "cifar10-ddpmpp-deep-continuous-vp": _ddpmpp("vp", num_res_blocks=8),
        "cifar10-ddpmpp-deep-continuous-subvp": _ddpmpp("subvp", num_res_blocks=8),
    }
)


def matches(path: Path) -> bool:
    """Whether it is a file of `torch.save` that names a weight of these networks."""
    return MARK in head(path)


def read(path: Path, *, config: str | Configuration | None = None, weights: str = "ema") -> StoredModel:
    """The model of a checkpoint.

    Args:
        path: of the checkpoint.
        config: name in `PUBLISHED`, in full or short (`full_name`), the path of a yml or JSON file with the sections
            of the training code's configuration, or a configuration of one's own; None finds out.
        weights: "ema", the average over training, or "raw".

    Raises:
        PrescoreError: the checkpoint is damaged or not of these networks, or the configuration is not its own.
    """
    check_choice("weights", weights, WEIGHTS)
    content = load_torch(path)
    if not isinstance(content, dict) or "model" not in content:
        raise PrescoreError("not a checkpoint of score_sde_pytorch, which is a mapping with an entry 'model'")
    content.pop("optimizer", None)  # half of the file, and not needed
    model = check_tensors("its model", content["model"])
    if isinstance(config, str) and os.path.isfile(config):
        config = read_file(Path(config))
    name, configuration = _configuration(model, config)
    state = model if weights == "raw" else model | _average(content.get("ema"), configuration.network())
    # Copies, so that nothing else of the file stays in memory with them.
    state = {name: value.clone() for name, value in state.items()}
    step = {"step": content["step"]} if is_number(content.get("step")) else {}
    return _describe(name, configuration, state, weights, step)


def full_name(name: str) -> str:
    """The published configuration that is meant by a name, which may be a part of its own.

    Every word and number of what is given must begin one of the full name, in any order and with any signs between
    them. Of several such names, the one with the fewest words that are only begun, then with the fewest left out.

    Raises:
        PrescoreError: none is meant, or more than one.

    >>> full_name("cifar10-ncsnpp-deep-ve"), full_name("ve/ffhq_1024_ncsnpp_continuous")
    ('cifar10-ncsnpp-deep-continuous-ve', 'ffhq1024-ncsnpp-continuous-ve')
    """
    costs = {known: cost for known in PUBLISHED if (cost := _cost(_words(name), _words(known))) is not None}
    if not costs or not _words(name):
        raise PrescoreError(f"config: unknown {shorten(name)}, {suggest(name[:100].lower(), PUBLISHED)}")
    best = [known for known, cost in costs.items() if cost == min(costs.values())]
    if len(best) > 1:
        raise PrescoreError(f"config: {shorten(name)} may be {_listed(best, 'or')}; say which")
    return best[0]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", name.lower()[:100])


def _cost(given: Sequence[str], known: list[str]) -> tuple[int, int] | None:
    """How many given words only begin one that is known, and how many are left out; None if one begins none."""
    left, begun = list(known), 0
    for word in given:
        found = word if word in left else next((other for other in left if other.startswith(word)), None)
        if found is None:
            return None
        left.remove(found)
        begun += found != word
    return begun, len(left)


def _listed(names: Sequence[str], conjunction: str) -> str:
    return f" {conjunction} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def read_file(file: Path) -> Configuration:
    """The configuration in a yml or JSON file: sections data, model and training, and sampling if it is there.

    Raises:
        PrescoreError: it cannot be read, or is not of a network that can be built.
    """
    try:
        content = read_configuration(file)
        data, model, training = (section(content, name) for name in ("data", "model", "training"))
        sampling = section(content, "sampling", {})
        kind = entry(model, "name", str, "ncsnpp")
        check_choice("name", kind, ("ncsnpp", "ddpm"))
        for name, known in SUPPORTED.items():
            if model.get(name, known) != known:
                raise PrescoreError(f"{name}: {shorten(model[name])} is not supported, only {known} is")
        arguments = DDPM if kind == "ddpm" else {}
        given = {name: value for name, value in (model | data).items() if name in _complete({})}
        check_arguments("the network", NCSNpp, given)
        sde = entry(training, "sde", str).lower().removesuffix("sde")
        check_choice("sde", sde, ("ve", "vp", "subvp"))
        continuous = entry(training, "continuous", bool)
        defaults = SamplingDefaults(
            iterations=(given | arguments).get("num_scales", USUAL_SCALES),
            predictor=_word(sampling, "predictor"),
            corrector=_word(sampling, "corrector"),
            corrector_steps=entry(sampling, "n_steps_each", int, NOTHING),
            snr=entry(sampling, "snr", float, NOTHING),
        )
        if defaults.corrector == "none":
            defaults = replace(defaults, corrector_steps=None, snr=None)
        return Configuration(given | arguments, sde, continuous, defaults)
    except PrescoreError as error:
        raise PrescoreError(f"config: {file.name}: {error}") from None


def _word(sampling: Mapping[str, Any], name: str) -> str | None:
    """What a predictor or corrector of the training code is called here."""
    value = entry(sampling, name, str, NOTHING)
    if value is None:
        return None
    word = value.replace("_", "-").removesuffix("-sampling")
    check_choice(name, word, CHOICES[name])
    return word


# Which configuration a file was trained with


def _configuration(model: Mapping[str, Tensor], config: str | Configuration | None) -> tuple[str, Configuration]:
    """Name and configuration that are meant and fit; the noise levels are the file's."""
    if isinstance(config, Configuration):
        if misfit := _misfit(config, model):
            raise PrescoreError(f"config: it does not fit the file: {misfit}")
        return UNNAMED, _with_levels_of(model, config)
    if config is not None and not isinstance(config, str):
        raise PrescoreError(
            "config: this is a checkpoint of score_sde; a name, a file, or score_sde.Configuration is needed"
        )
    fitting = _fitting(model)
    if config is not None:
        name = full_name(config)
        if name not in fitting:
            misfit = _misfit(PUBLISHED[name], model) or _other_levels(PUBLISHED[name], model)
            other = _listed(fitting, "and") if fitting else "no published configuration"
            raise PrescoreError(f"config: {name} does not fit the file, which fits {other}: {misfit}")
        return name, _with_levels_of(model, PUBLISHED[name])
    if not fitting:
        raise PrescoreError(
            f"config: the weights fit no published configuration; the nearest is {_nearest(model)}; "
            "give a yml of your own"
        )
    found = [_with_levels_of(model, PUBLISHED[name]) for name in fitting]
    if any(configuration != found[0] for configuration in found):
        raise PrescoreError(f"config: the weights fit {_listed(fitting, 'and')}; name the one of this file")
    return _listed(fitting, "or"), found[0]


def _fitting(model: Mapping[str, Tensor]) -> list[str]:
    """Names of the published configurations with these weights; with their noise levels too, if there are any such."""
    names = [name for name, configuration in PUBLISHED.items() if not _misfit(configuration, model)]
    return [name for name in names if not _other_levels(PUBLISHED[name], model)] or names


def _nearest(model: Mapping[str, Tensor]) -> str:
    """The published configuration with the fewest weights that differ, and how they do, in words."""
    wrong: dict[str, list[str]] = {}
    for name, configuration in PUBLISHED.items():
        expected = configuration.network().state_dict()
        wrong[name] = [key for key in expected if key not in model or model[key].shape != expected[key].shape]
        wrong[name] += [key for key in model if key not in expected]
    name = min(wrong, key=lambda name: len(wrong[name]))
    return f"{name}, from which {len(wrong[name])} of {len(model)} weights differ: {_misfit(PUBLISHED[name], model)}"


def _misfit(configuration: Configuration, model: Mapping[str, Tensor]) -> str:
    """The first difference between the network's weights and the file's, in words; empty if there is none."""
    expected = configuration.network().state_dict()
    for name, value in expected.items():
        if name not in model:
            return f"the weight {name!r} is missing"
        if model[name].shape != value.shape:
            found, needed = tuple(model[name].shape), tuple(value.shape)
            return f"the weight {name!r} has shape {found}, the network needs {needed}"
    extra = next((name for name in model if name not in expected), None)
    return "" if extra is None else f"the weight {shorten(extra)} does not belong to the network"


def _other_levels(configuration: Configuration, model: Mapping[str, Tensor]) -> str:
    """In words, that a VE model has other noise levels than the configuration's; empty if not."""
    low, high = model["sigmas"].double()[[-1, 0]].tolist()
    needed = configuration.arguments["sigma_max"] if configuration.sde == "ve" else high
    is_near = abs(high - needed) <= 1e-3 * needed
    return "" if is_near else f"its noise levels are {low:.4g} to {high:.6g}, not up to {needed:g}"


def _with_levels_of(model: Mapping[str, Tensor], configuration: Configuration) -> Configuration:
    """The configuration with the ends of the file's noise levels where the model knows them, which is VE."""
    if configuration.sde != "ve":
        return configuration
    sigmas = checked_levels(model["sigmas"])
    # The logarithms, from which they were made, leave an error in the last places.
    low, high = (float(f"{sigma:.7g}") for sigma in sigmas[[-1, 0]].tolist())
    return replace(configuration, arguments={**configuration.arguments, "sigma_min": low, "sigma_max": high})


# What is in it


def _average(ema: Any, network: nn.Module) -> dict[str, Tensor]:
    """The averaged parameters by their names."""
    if not isinstance(ema, Mapping) or not isinstance(ema.get("shadow_params"), (list, tuple)):
        raise PrescoreError("weights: the file holds no EMA (no list 'shadow_params' in 'ema'); 'raw' takes the others")
    values = ema["shadow_params"]
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if len(values) != len(trained):
        raise PrescoreError(f"its EMA holds {len(values)} tensors, the network has {len(trained)} trained parameters")
    average = check_tensors("its EMA", dict(zip(trained, values, strict=True)))
    for name, value in average.items():
        if value.shape != trained[name].shape:
            found, needed = tuple(value.shape), tuple(trained[name].shape)
            raise PrescoreError(f"its EMA of {name!r} has shape {found}, the network needs {needed}")
    return average


def _describe(
    name: str, configuration: Configuration, state: dict[str, Tensor], weights: str, facts: dict[str, Any]
) -> StoredModel:
    arguments = _complete(configuration.arguments)
    kind, kind_arguments, tables, sigma_min, sigma_max = _meaning(configuration, arguments, state)
    channels, size = arguments["num_channels"], arguments["image_size"]
    description = ModelDescription(
        NCSNpp.__name__,
        arguments,
        kind,
        kind_arguments,
        sigma_min,
        sigma_max,
        (channels, size, size),
        data_range=(-1.0, 1.0) if arguments["centered"] else (0.0, 1.0),
        weights=weights,
        name=name,
        training={"format": "score_sde_pytorch checkpoint", "configuration": name, **facts},
        sampling=replace(configuration.sampling, configuration="" if name == UNNAMED else name),
    )
    return StoredModel(description, state | {TABLE + table: values for table, values in tables.items()})


def _complete(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the network, with the defaults of those that are not given, as a file holds them."""
    parameters = [p for p in inspect.signature(NCSNpp).parameters.values() if p.name != "generator"]
    values = {p.name: arguments.get(p.name, p.default) for p in parameters}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _meaning(
    configuration: Configuration, arguments: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[str, dict[str, Any], dict[str, Tensor], float, float]:
    """Preconditioning, its arguments and tables, and the range of noise levels."""
    if configuration.sde == "ve":
        ends = arguments["sigma_min"], arguments["sigma_max"]
        if configuration.continuous:
            return "score", {}, {}, *ends
        return "score-labels", {}, {"sigmas": state["sigmas"].double()}, *ends
    if not configuration.continuous:
        n = arguments["num_scales"]
        schedule = Tabulated.linear(n, BETA_MIN / n, BETA_MAX / n)
        native = {"schedule": {"kind": "tabulated"}, "time_scale": 1.0, "integer_time": False}
        return "noise", native, {"levels": schedule.levels}, schedule.sigma_min, schedule.sigma_max
    beta_d = BETA_MAX - BETA_MIN
    process = (SubVP if configuration.sde == "subvp" else VP)(beta_d, BETA_MIN)
    kind = {"kind": configuration.sde, "beta_d": beta_d, "beta_min": BETA_MIN}
    native = {"schedule": kind, "time_scale": TIME_SCALE, "integer_time": False}
    return "noise", native, {}, process.sigma_min, process.sigma_max
