"""What a class-conditional network calls its classes, and how it takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prescore.checkpoints.stored import ModelDescription
from prescore.errors import PrescoreError

ARGUMENT = "class_labels"  # of all networks that have classes


@dataclass(frozen=True)
class Classes:
    """The classes of a conditional network.

    Attributes:
        count: of classes.
        one_hot: whether the network takes rows with a single 1, instead of indices.
        optional: whether it was trained without a class too.
    """

    count: int
    one_hot: bool
    optional: bool

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


def classes_of(description: ModelDescription) -> Classes | None:
    """The classes of a model, or None if it has none."""
    arguments = description.arguments
    if arguments.get("label_dim"):
        return Classes(arguments["label_dim"], one_hot=True, optional=bool(arguments.get("label_dropout")))
    if arguments.get("num_class_embeds"):
        return Classes(arguments["num_class_embeds"], one_hot=False, optional=False)
    return None
