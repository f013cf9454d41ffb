"""Weights of a stored model that a run begins with instead of random ones: fine-tuning.

The file must hold the network that the run trains, called in the same way. Numbers that were measured on the data
(their root mean square sigma_data, their largest distance) differ a little between data sets and versions: they may be
up to 1 % apart, and the run keeps its own. From the file come the weights alone.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.checkpoints import ModelDescription
from prescore.checkpoints.arguments import is_number, shorten
from prescore.checkpoints.detect import locate, read
from prescore.checkpoints.stored import build_network, naming, network_class
from prescore.errors import PrescoreError
from prescore.models.precond import PRECONDITIONINGS

OF_THE_RUN = ("label_dropout",)  # what the data leave out, not a part of the network
MEASURED = 0.01  # relative difference of numbers that are the same but for what they were measured on


def model_weights(path: str | Path, ours: ModelDescription) -> dict[str, Tensor]:
    """Weights, averaged where the file has an average, of a stored model whose network and preconditioning are ours.

    Raises:
        PrescoreError: the model cannot be opened, or is another one; names the first thing that differs.
    """
    file = locate(path)
    with naming(path):
        stored = read(file)
        theirs = stored.description
        for name in ("network", "preconditioning"):
            check_same(name, getattr(theirs, name), getattr(ours, name))
        build_network(stored)
        check_same_arguments(network_class(ours.network), theirs.arguments, ours.arguments)
        tables = {name: value.tolist() for name, value in stored.tables.items()}
        check_same_arguments(
            PRECONDITIONINGS[ours.preconditioning],
            theirs.preconditioning_arguments | tables,
            ours.preconditioning_arguments,
        )
    return stored.weights


def check_same_arguments(
    constructor: Callable[..., object], theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Raise PrescoreError unless two calls of a constructor give it the same, in words or by its defaults."""
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name not in OF_THE_RUN and (name in theirs or name in ours):
            check_same(name, theirs.get(name, parameter.default), ours.get(name, parameter.default))


def check_same(name: str, theirs: object, ours: object) -> None:
    """Raise PrescoreError unless both are the same but for what was measured."""
    if not _is_same(theirs, ours):
        raise PrescoreError(
            f"{name} is {shorten(theirs)} in this model and {shorten(ours)} in the run; give the run the same, or "
            "another model"
        )


def _is_same(a: object, b: object) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_is_same, a, b))
    if is_number(a) and is_number(b) and float in (type(a), type(b)):
        return math.isclose(a, b, rel_tol=MEASURED)  # type: ignore[arg-type]
    return a == b
