"""Checkpoints of NCSN and NCSNv2, and the yml that each was trained with.

A checkpoint is a list: NCSN's is [model, optimiser], NCSNv2's [model, optimiser, epoch, step, EMA], without the last
where no average was kept. The EMA holds parameters alone.

The sizes of the network are those of its weights, and the tower (NCSNv2, Deeper, Deepest) is known by their names.
What a checkpoint lacks are the size of the images, their range, and the noise levels of NCSN. These are in the yml. The
training code leaves it beside the checkpoint too, there with marks of Python objects: `argparse.Namespace` and
`torch.device`. These two are read as plain data; any other is refused. Where a yml and the weights say different
things, the yml is that of another checkpoint.

Both networks return the score at the levels of a table, for data in [0, 1] unless the yml says `rescaled`.

Sources: Y. Song and S. Ermon, https://arxiv.org/abs/1907.05600 and https://arxiv.org/abs/2006.09011, table 1 and
appendix B; https://github.com/ermongroup/ncsn and https://github.com/ermongroup/ncsnv2 (layout, configurations).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from prescore.checkpoints.arguments import is_number, shorten
from prescore.checkpoints.stored import ModelDescription, StoredModel, name_of
from prescore.checkpoints.tensors import check_tensors, checked_levels
from prescore.checkpoints.torch_files import head, load_torch
from prescore.checkpoints.yml import NOTHING, entry, parse_yml, section
from prescore.defaults import SamplingDefaults
from prescore.errors import PrescoreError, suggest
from prescore.grid import geometric

MARK = b"crp.convs.0.weight"  # a name that all of these networks have and no other
ORIGINAL: Mapping[str, Any] = MappingProxyType({"level_steps": 100, "step_size": 2e-5, "denoise": False})  # of NCSN
SUPPORTED: Mapping[str, str] = MappingProxyType(
    {"sigma_dist": "geometric", "nonlinearity": "elu", "normalization": "InstanceNorm++"}
)
TOWER_OF: Mapping[str, str] = MappingProxyType(
    {"CIFAR10": "ncsnv2", "CELEBA": "ncsnv2", "LSUN": "deeper", "FFHQ": "deepest"}
)


@dataclass(frozen=True)
class Configuration:
    """The entries of a yml that tell how to build and call a network; those of CIFAR-10 NCSN by default."""

    dataset: str = "CIFAR10"
    image_size: int = 32
    channels: int = 3
    ngf: int = 128
    num_classes: int = 10
    sigma_begin: float = 1.0
    sigma_end: float = 0.01
    rescaled: bool = False
    level_steps: int | None = None
    step_size: float | None = None
    denoise: bool | None = None

    @property
    def sampling(self) -> SamplingDefaults:
        """How its authors sample it."""
        iterations = self.level_steps and self.level_steps * self.num_classes
        return SamplingDefaults(
            configuration=" or ".join(name for name, known in PUBLISHED.items() if known == self),
            iterations=iterations,
            level_steps=self.level_steps,
            step_size=self.step_size,
            denoise=self.denoise,
        )


def _v1(**entries: Any) -> Configuration:
    return Configuration(**entries | dict(ORIGINAL))


def _v2(
    dataset: str, image_size: int, num_classes: int, sigma_begin: float, level_steps: int, step_size: float
) -> Configuration:
    sampling: dict[str, Any] = {"level_steps": level_steps, "step_size": step_size, "denoise": True}
    return Configuration(dataset, image_size, num_classes=num_classes, sigma_begin=sigma_begin, **sampling)


PUBLISHED: Mapping[str, Configuration] = MappingProxyType(
    {
        "mnist-ncsn": _v1(dataset="MNIST", image_size=28, channels=1, ngf=64),
        "cifar10-ncsn": _v1(),
        "celeba32-ncsn": _v1(dataset="CELEBA"),
        "cifar10-ncsnv2": _v2("CIFAR10", 32, 232, 50, 5, 6.2e-6),
        "celeba64-ncsnv2": _v2("CELEBA", 64, 500, 90, 5, 3.3e-6),
        # The published yml says 64 pixels; the paper, whose levels these are, 96.
        "church96-ncsnv2": _v2("LSUN", 96, 788, 140, 4, 4.9e-6),
        "bedroom128-ncsnv2": _v2("LSUN", 128, 1086, 190, 3, 1.8e-6),
        "tower128-ncsnv2": _v2("LSUN", 128, 1086, 190, 3, 1.8e-6),
        "ffhq256-ncsnv2": _v2("FFHQ", 256, 2311, 348, 3, 0.9e-6),
    }
)


def matches(path: Path) -> bool:
    """Whether it is a file of `torch.save` that names a weight of these networks."""
    return MARK in head(path)


def read(path: Path, *, config: str | Configuration | None = None, weights: str = "ema") -> StoredModel:
    """The model of a checkpoint.

    Args:
        path: of the checkpoint.
        config: name in `PUBLISHED`, path of a yml, or a configuration of one's own; None takes the only yml beside the
            checkpoint.
        weights: "ema" takes the average over training where the checkpoint has one, "raw" never.

    Raises:
        PrescoreError: the checkpoint or the yml is damaged, not of these networks, or they do not fit each other.
    """
    configuration = _configuration(path, config)
    content = load_torch(path)
    if not isinstance(content, list) or len(content) < 2:
        raise PrescoreError("not a checkpoint of NCSN or NCSNv2, which is a list of the model's weights and more")
    state = check_tensors("its model", content[0])
    averaged = weights == "ema" and len(content) > 4
    if averaged:
        buffers = {"sigmas": state["sigmas"]} if "sigmas" in state else {}
        state = buffers | check_tensors("its EMA", content[4])
    network, arguments, levels = _network(state, configuration)
    if network == "NCSN" and configuration.level_steps is None:  # which its code holds, not its yml
        configuration = replace(configuration, **ORIGINAL)
    facts = dict(zip(("epoch", "step"), filter(is_number, content[2:4]), strict=False))
    description = ModelDescription(
        network,
        arguments,
        "score-labels",
        {"sigmas": levels.tolist()},
        levels[-1].item(),
        levels[0].item(),
        (configuration.channels, configuration.image_size, configuration.image_size),
        data_range=(-1.0, 1.0) if configuration.rescaled else (0.0, 1.0),
        weights="ema" if averaged else "raw",
        name=name_of(path.stem),
        training={"format": f"{network} checkpoint", "data": configuration.dataset, **facts},
        sampling=configuration.sampling,
    )
    return StoredModel(description, state)


def _network(state: Mapping[str, Tensor], given: Configuration) -> tuple[str, dict[str, Any], Tensor]:
    """Class and arguments of the network that has these weights, and its noise levels in float64, the highest first."""
    is_conditional = "normalizer.embed.weight" in state
    table = "normalizer.embed.weight" if is_conditional else "sigmas"
    for name, ndim in {"begin_conv.weight": 4, table: 2 if is_conditional else 1}.items():
        if name not in state:
            raise PrescoreError(f"the weight {name!r} is missing")
        if state[name].ndim != ndim:
            raise PrescoreError(f"the weight {name!r} has shape {tuple(state[name].shape)}; {ndim} axes are needed")
    first = state["begin_conv.weight"].shape
    arguments: dict[str, Any] = {"channels": first[1], "ngf": first[0], "num_classes": len(state[table])}
    for name, value in arguments.items():
        _check_fits(name, getattr(given, name), value)
    arguments["rescaled"] = given.rescaled
    if is_conditional:
        return "NCSN", arguments, geometric(given.num_classes, given.sigma_end, given.sigma_begin)
    levels = _levels(state["sigmas"], given)
    tower = _tower(state)
    _check_fits(f"the network for the data set {given.dataset}", TOWER_OF.get(given.dataset, tower), tower)
    ends = {"sigma_begin": given.sigma_begin, "sigma_end": given.sigma_end}
    return "NCSNv2", arguments | ends | {"variant": tower}, levels


def _tower(state: Mapping[str, Tensor]) -> str:
    stages = {name.partition(".")[0] for name in state}
    return "deepest" if "res31" in stages else "deeper" if "res5" in stages else "ncsnv2"


def _levels(sigmas: Tensor, given: Configuration) -> Tensor:
    levels = checked_levels(sigmas)
    for name, value in {"sigma_begin": levels[0].item(), "sigma_end": levels[-1].item()}.items():
        if abs(value - getattr(given, name)) > 1e-4 * value:
            _check_fits(name, getattr(given, name), float(f"{value:.6g}"))
    return levels


def _check_fits(name: str, given: object, found: object) -> None:
    if given != found:
        raise PrescoreError(f"config: {name} is {given}, but it is {found} in the checkpoint; give the yml of this one")


def _configuration(path: Path, config: object) -> Configuration:
    if isinstance(config, Configuration):
        return config
    if config is None:
        return _read_yml(_yml_beside(path))
    if not isinstance(config, str):
        raise PrescoreError("config: this is a checkpoint of NCSN; a name, a yml, or ncsn.Configuration is needed")
    if config in PUBLISHED:
        return PUBLISHED[config]
    if not os.path.isfile(config):
        known = suggest(config[:100], PUBLISHED)
        raise PrescoreError(f"config: {shorten(config)} is no yml file and no published configuration; {known}")
    return _read_yml(Path(config))


def _yml_beside(path: Path) -> Path:
    found = [file for ending in ("yml", "yaml") for file in path.parent.glob(f"*.{ending}") if file.is_file()]
    for candidates in ([file for file in found if file.stem == "config"], found):
        if len(candidates) == 1:
            return candidates[0]
    raise PrescoreError(
        f"config: the checkpoint does not hold its configuration, and there are {len(found)} yml files beside it; "
        f"give the path of its yml or one of {', '.join(PUBLISHED)}"
    )


def _read_yml(file: Path) -> Configuration:
    try:
        content = parse_yml(file)
        data, model = section(content, "data"), section(content, "model")
        sampling = section(content, "sampling", {})
        if data.get("logit_transform", False) is not False:
            raise PrescoreError("logit_transform: networks of data in logits are not supported")
        for name, known in SUPPORTED.items():
            if model.get(name, known) != known:
                raise PrescoreError(f"{name}: {shorten(model[name])} is not supported, only {known} is")
        return Configuration(
            entry(data, "dataset", str, "unknown"),
            entry(data, "image_size", int),
            entry(data, "channels", int),
            entry(model, "ngf", int),
            entry(model, "num_classes", int),
            entry(model, "sigma_begin", float),
            entry(model, "sigma_end", float),
            entry(data, "rescaled", bool, False),
            entry(sampling, "n_steps_each", int, NOTHING),
            entry(sampling, "step_lr", float, NOTHING),
            entry(sampling, "denoise", bool, NOTHING),
        )
    except PrescoreError as error:
        raise PrescoreError(f"config: {file.name}: {error}") from None
