"""From the words of a command line to what `prescore.plan` takes, and models opened as they ask."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from prescore.checkpoints.detect import locate
from prescore.checkpoints.detect import open_model as open_any
from prescore.checkpoints.labels import Classes, classes_of
from prescore.checkpoints.python import code_digest, is_python, open_python
from prescore.checkpoints.stored import ModelDescription, naming
from prescore.denoiser import Denoiser
from prescore.device import open_device
from prescore.errors import PrescoreError, check_choice
from prescore.grid import GRIDS
from prescore.limits import MOST_SAMPLES, check_count, check_size
from prescore.noise import check_seeds
from prescore.plan import AUTO, Plan
from prescore.version import __version__

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NAMELESS = ("model", "score_sde")  # names that readers give to models without one
DIGITS = 16  # of a digest
SEED_BYTES = 100  # of memory for each number among the seeds
Value = TypeVar("Value", int, str)


class ChosenClasses(NamedTuple):
    """The classes that the seeds take in turn.

    The seed itself chooses: a sample then stays the same whatever the others are.
    """

    classes: Classes
    indices: list[int]

    def condition(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """That of the samples of these seeds."""
        return self.classes.condition([self.indices[seed % len(self.indices)] for seed in seeds])

    @property
    def in_turn(self) -> dict[str, Tensor]:
        """That of one sample of each, in their order."""
        return self.classes.condition(self.indices)


class Opened(NamedTuple):
    """A model as a command asked for it.

    Attributes:
        denoiser: on its device.
        description: of its network; None of the user's own code, which says nothing of classes.
        settings: what of it decides a sample, JSON values.
    """

    denoiser: Denoiser
    description: ModelDescription | None
    settings: Mapping[str, object]

    @property
    def name(self) -> str:
        """What a reader is told: the name that the model has, or that of its file where it has none."""
        given = str(self.settings["model"])
        if self.description is None:
            return given
        return self.description.name if self.description.name not in NAMELESS else Path(given).resolve().stem


def open_model(
    name: str,
    *,
    config: str | None = None,
    weights: str = "ema",
    device: str | None = None,
    dtype: str = "float32",
    channels_last: bool = False,
    compile: bool = False,
    guidance: float | None = None,
) -> Opened:
    """The model of this name or path, or what the user's own code makes. Raises PrescoreError if there is none."""
    check_choice("dtype", dtype, DTYPES)
    if is_python(name):
        asked = {"--config": config, "--raw": weights != "ema", "--device": device, "--dtype": dtype != "float32"}
        asked |= {"--channels-last": channels_last, "--compile": compile, "--guidance": guidance is not None}
        for option, value in asked.items():
            if value:
                raise PrescoreError(f"{option}: {name} is Python code, which says it itself; change it there")
        own = open_python(name)
        own = own if own.name else replace(own, name=name)
        made: dict[str, object] = {"prescore": __version__, "model": name, "model_sha256": code_digest(name)}
        return Opened(own, None, made | {"dtype": str(own.dtype).removeprefix("torch.")})
    description, denoiser = open_any(
        name,
        config=config,
        weights=weights,
        device=None if device is None else open_device(device),
        dtype=DTYPES[dtype],
        channels_last=channels_last,
        compile=compile,
        guidance=guidance,
    )
    settings: dict[str, object] = {"prescore": __version__, "model": name, "model_sha256": _digest(locate(name))}
    settings |= {"model_weights": description.weights, "dtype": dtype, **({"config": config} if config else {})}
    settings |= {} if guidance is None else {"guidance": guidance}
    return Opened(denoiser, description, settings)


def choose_classes(
    description: ModelDescription | None, text: str | None, guidance: float | None = None
) -> ChosenClasses | None:
    """The classes in a list such as "3,1,4"; None for a model that is to draw without one.

    Raises:
        PrescoreError: the model has no classes, or needs one, or there is no such class; or there is guidance without.
    """
    if guidance is not None and text is None:
        raise PrescoreError("--guidance: does nothing without --class")
    if description is None:
        if text is not None:
            raise PrescoreError("--class: the model is Python code, whose factory gives it a class; change it there")
        return None
    if (kind := description.arguments.get("class_embed_type")) in ("timestep", "identity"):
        raise PrescoreError(
            f"--class: the model {description.name} takes a {kind} embedding, which only Python can give"
        )
    classes = classes_of(description)
    if text is None and (classes is None or classes.optional):
        return None
    if classes is None:
        raise PrescoreError(f"--class: the model {description.name} has no classes")
    if text is None:
        raise PrescoreError(f"--class: is missing; the model draws one of its classes 0 to {classes.count - 1}")
    try:
        indices = [int(word) for word in text.split(",")]
    except ValueError:
        raise PrescoreError(f"--class: {text!r} given; a class, or several as in 0,1,2, are needed") from None
    classes.condition(indices)
    return ChosenClasses(classes, indices)


def every_class(description: ModelDescription | None, n: int, seed: int, guidance: float | None = None) -> str | None:
    """The list of all classes, or of n at random if there are more, of a model that needs one or is guided; or None."""
    classes = None if description is None else classes_of(description)
    if classes is None or (classes.optional and guidance is None):
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = (
        range(classes.count) if classes.count <= n else torch.randperm(classes.count, generator=generator)[:n].tolist()
    )
    return ",".join(map(str, chosen))


def condition_of(
    description: ModelDescription | None, index: str | None, labels: Tensor | None, n: int
) -> dict[str, Tensor] | None:
    """The condition of n data for a model: all of one class, or each of the class that its label says.

    Raises:
        PrescoreError: the model has no classes, or not this one; it needs one and none is said; or labels are not as
            many as the data.
    """
    if index is not None and labels is not None:
        raise PrescoreError("--class: does nothing beside --labels")
    if labels is None:
        if index is not None and "," in index:
            raise PrescoreError(f"--class: {index} given; of data of several classes, --labels names the array of them")
        chosen = choose_classes(description, index)
        return None if chosen is None else chosen.condition(range(n))
    classes = None if description is None else classes_of(description)
    if classes is None:
        raise PrescoreError(f"--labels: the model {description.name if description else ''} has no classes")
    if len(labels) != n:
        raise PrescoreError(f"--labels: {len(labels)} labels for {n} images")
    with naming("--labels"):
        return classes.condition(labels.tolist())


def parse_grid(text: str | None) -> str | list[float] | None:
    """A name of noise levels as it is, or the numbers of a list with commas.

    Raises:
        PrescoreError: it is neither.
    """
    if text is None or text in (*GRIDS, AUTO):
        return text
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        known = f"{', '.join((*GRIDS, AUTO))}, or decreasing numbers such as 50,10,2,0.5,0"
        raise PrescoreError(f"--grid: {text!r} given; it may be {known}") from None


def parse_alpha(text: str | None) -> float | str | None:
    """The number that a word stands for; a word that stands for none as it is."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def parse_pairs(text: str | None) -> dict[int, float] | None:
    """The pairs T=alpha in a list with commas. Raises PrescoreError if it is none."""
    if text is None:
        return None
    try:
        return {int(T): float(alpha) for T, alpha in (pair.split("=") for pair in text.split(","))}
    except ValueError:
        raise PrescoreError(f"--alpha-relation: {text!r} given; pairs such as 100=5,400=25 are needed") from None


def parse_radial(text: str | None) -> tuple[float, float] | None:
    """Two numbers with a comma. Raises PrescoreError if it is something else."""
    if text is None:
        return None
    try:
        R, lam = (float(word) for word in text.split(","))
    except ValueError:
        raise PrescoreError(f"--radial: {text!r} given; two numbers are needed, such as 0.2,1.6") from None
    return R, lam


def whole_numbers(option: str, text: str) -> list[int]:
    """The positive numbers in a list with commas such as "6,10,20", from the smallest.

    Raises:
        PrescoreError: there is none, one is not positive, or one is there twice.
    """
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise PrescoreError(f"{option}: {text!r} given; positive whole numbers with commas are needed, such as 6,10,20")
    return sorted(different(option, numbers))


def different(option: str, values: list[Value]) -> list[Value]:
    """The values, which have to be some, and none twice. Raises PrescoreError."""
    if not values:
        raise PrescoreError(f"{option}: none given")
    for value in values:
        if values.count(value) > 1:
            raise PrescoreError(f"{option}: {value} is named twice")
    return values


def opened_settings(opened: Opened, chosen: ChosenClasses | None) -> dict[str, object]:
    """What of the model decides a sample, as JSON values."""
    return {**opened.settings, **({"class": chosen.indices} if chosen else {})}


def settings_of(opened: Opened, plan: Plan, chosen: ChosenClasses | None) -> dict[str, object]:
    """Everything that decides a sample beside its seed, as JSON values."""
    return {**opened_settings(opened, chosen), **plan.settings}


def count_seeds(seed: int, n: int) -> list[int]:
    """n seeds from `seed` on. Raises PrescoreError if these are none, or more than memory holds."""
    if n < 1:
        raise PrescoreError(f"n: {n} samples asked for; at least 1 is needed")
    check_count("n", n, MOST_SAMPLES)
    check_size("n", n, SEED_BYTES)
    return check_seeds(range(seed, seed + n))


def parse_seeds(text: str | None, seed: int | None, n: int | None) -> list[int]:
    """The seeds in a list of numbers and ranges with commas, "0-99,200"; or n from `seed` on, 16 from 0 by default.

    Raises:
        PrescoreError: both are given, the list is none, or the seeds are more than memory holds.
    """
    if text is None:
        return count_seeds(seed or 0, 16 if n is None else n)
    for option, value in {"--seed": seed, "--n": n}.items():
        if value is not None:
            raise PrescoreError(f"{option}: does nothing beside --seeds")
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", part.strip())
        if match is None:
            raise PrescoreError(f"--seeds: {part.strip()!r} in it; numbers and ranges are needed, as in 0-99,200")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise PrescoreError(f"--seeds: {part.strip()} ends before it begins")
        ranges.append(range(first, last + 1))
    count = sum(last - first + 1 for first, last in ((part[0], part[-1]) for part in ranges))
    check_count("--seeds", count, MOST_SAMPLES)
    check_size("--seeds", count, SEED_BYTES)
    return check_seeds(seed for part in ranges for seed in part)


def text_of(seeds: Sequence[int]) -> str:
    """The list that `parse_seeds` reads as these seeds, with spaces that a line may break at.

    >>> text_of([0, 1, 2, 7])
    '0-2, 7'
    """
    parts: list[tuple[int, int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1] = parts[-1][0], seed
        else:
            parts.append((seed, seed))
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in parts]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:7], f"and {len(shown) - 7} more ranges"])


def _digest(path: Path) -> str:
    """Enough of the SHA-256 of a file, or of all files in a folder, to tell whether it is still the same."""
    if path.is_dir():
        inside = "".join(f"{p.relative_to(path)} {_digest(p)}\n" for p in sorted(path.rglob("*")) if p.is_file())
        return hashlib.sha256(inside.encode()).hexdigest()[:DIGITS]
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
