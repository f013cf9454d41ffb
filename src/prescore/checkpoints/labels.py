"""What a class-conditional network calls its classes, and how it takes them.

A network broadcasts labels of a wrong shape against its features, takes any numbers for a class, and has an answer
without a class that it may never have learned. The denoiser of a stored model therefore checks its condition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError, suggest

ARGUMENT, AUGMENTATION = "class_labels", "augment_labels"  # of all networks that have classes, or augmentations
ROUNDING = 0.01  # of the sum of a row in half precision


class Described(Protocol):
    """What of a `ModelDescription` says how its network takes classes."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Classes:
    """The classes of a conditional network.

    Attributes:
        count: of classes.
        one_hot: whether the network takes rows with a single 1, instead of indices.
        optional: whether it was trained without a class too.
        none: the index that stands for no class, if the network has to be given one.
    """

    count: int
    one_hot: bool
    optional: bool
    none: int | None = None

    def condition(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The condition of one sample for each index, as a denoiser takes it.

        Raises:
            PrescoreError: an index is none of a class.
        """
        for index in indices:
            if not 0 <= index < self.count:
                raise PrescoreError(f"class: {index} given; the model has the classes 0 to {self.count - 1}")
        rows = torch.tensor(indices, dtype=torch.int64)
        return {ARGUMENT: nn.functional.one_hot(rows, self.count).float() if self.one_hot else rows}

    @property
    def needed(self) -> str:
        """What labels have to be, in words."""
        if not self.one_hot:
            return f"whole numbers from 0 to {self.count - 1}, (B,), are needed"
        none = ", or of zeros for none," if self.optional else ""
        return f"rows of {self.count} numbers, a 1 for the class{none} (B, {self.count}), are needed"

    def advice(self, labels: Tensor, batch: int) -> str:
        """What makes labels of these, if they are those of the other kind."""
        other = Classes(self.count, not self.one_hot, self.optional)
        if not other.fit(labels, batch):
            return ""
        made = f"torch.nn.functional.one_hot(labels, {self.count})" if self.one_hot else "labels.argmax(1)"
        return f"; {made} makes them of these"

    def fit(self, labels: Tensor, batch: int) -> bool:
        """Whether these are labels of a batch, one for each sample or one for all. Rows may mix classes."""
        if not self.one_hot:
            is_whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
            has_shape = labels.ndim == 1 and len(labels) in (1, batch)
            return is_whole and has_shape and bool(((labels >= 0) & (labels < self.count)).all())
        if labels.is_complex() or not _are_rows(labels, self.count, batch):
            return False
        total = labels.sum(1, dtype=torch.float32)
        is_right = ((total - 1).abs() <= ROUNDING) | ((total == 0) & self.optional)
        return bool((is_right & (labels >= 0).all(1)).all())


@dataclass(frozen=True)
class Condition:
    """What the denoiser of a stored model takes beside x and sigma.

    Attributes:
        model: its name.
        names: of the tensors that it takes.
        classes: its classes, if it has any.
        is_needed: whether it has no answer without `class_labels`.
        augmentations: width of the rows `augment_labels`.
    """

    model: str
    names: tuple[str, ...]
    classes: Classes | None
    is_needed: bool
    augmentations: int

    def check(self, x: Tensor, condition: Mapping[str, Tensor | None]) -> None:
        """Raise PrescoreError unless the network takes this condition for x (B, *event)."""
        for name in condition:
            if name not in self.names:
                known = suggest(name, self.names) if self.names else "it takes none"
                raise PrescoreError(f"condition: the model {self.model} takes no {name!r}; {known}")
            if not isinstance(condition[name], Tensor | None):
                raise PrescoreError(f"{name}: a {type(condition[name]).__name__} given; a tensor is needed")
        labels, augmentation = condition.get(ARGUMENT), condition.get(AUGMENTATION)
        needed = self.classes.needed if self.classes else "an embedding of it is needed"
        if labels is None and self.is_needed:
            raise PrescoreError(f"{ARGUMENT}: is missing; the model {self.model} draws samples of a class, {needed}")
        if labels is not None and self.classes and not self.classes.fit(labels, len(x)):
            needed += self.classes.advice(labels, len(x))
            raise PrescoreError(f"{ARGUMENT}: {_described(labels)} given for {len(x)} samples; {needed}")
        if augmentation is not None and not _are_rows(augmentation, self.augmentations, len(x)):
            needed = f"(B, {self.augmentations}) is needed"
            raise PrescoreError(f"{AUGMENTATION}: {_described(augmentation)} given for {len(x)} samples; {needed}")

    def hook(
        self, _: nn.Module, arguments: tuple[Tensor, ...], condition: dict[str, Tensor | None]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor | None]] | None:
        """`check` before a module is called as module(x, sigma, **condition); of none, its index if it has one."""
        self.check(x := arguments[0], condition)
        if self.classes is None or self.classes.none is None or condition.get(ARGUMENT) is not None:
            return None
        none = torch.full((len(x),), self.classes.none, device=x.device)
        return arguments, {**condition, ARGUMENT: none}


def classes_of(description: Described) -> Classes | None:
    """The classes of a model, or None if it has none."""
    arguments = description.arguments
    if arguments.get("label_dim"):
        return Classes(arguments["label_dim"], one_hot=True, optional=bool(arguments.get("label_dropout")))
    if arguments.get("num_class_embeds") and not arguments.get("class_embed_type"):
        return Classes(arguments["num_class_embeds"], one_hot=False, optional=False)
    if count := arguments.get("num_embeds_ada_norm"):  # of DiT, whose embedding has an entry for no class
        return Classes(count, one_hot=False, optional=True, none=count)
    return None


def check_guidance(description: Described) -> None:
    """Raise PrescoreError unless the model can be guided by a class: it has classes, and an answer without one."""
    if (classes := classes_of(description)) is None:
        raise PrescoreError(f"the model {description.name} has no classes to be guided by")
    if not classes.optional:
        raise PrescoreError(
            f"the model {description.name} has no answer without a class, which guidance needs; one that was trained "
            "without them too has (--label-dropout)"
        )


def condition_of(description: Described, network: nn.Module) -> Condition:
    """What a network with this description takes beside x and the noise level."""
    classes, augmentations = classes_of(description), description.arguments.get("augment_dim") or 0
    is_needed = bool(description.arguments.get("class_embed_type")) or (classes is not None and not classes.optional)
    takes = {ARGUMENT: is_needed or classes is not None, AUGMENTATION: augmentations > 0}
    names = tuple(name for name in list(signature(network.forward).parameters)[2:] if takes.get(name, True))
    return Condition(description.name, names, classes, is_needed, augmentations)


def _are_rows(values: Tensor, width: int, batch: int) -> bool:
    return values.ndim == 2 and values.shape[1] == width and len(values) in (1, batch)


def _described(values: Tensor) -> str:
    """Shape, and smallest and largest value."""
    has_ends = values.numel() and not values.is_complex()
    return f"shape {tuple(values.shape)}{f', values from {values.min():g} to {values.max():g}' if has_ends else ''}"
