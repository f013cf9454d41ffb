"""What a model is told beside x and sigma: named tensors with a row for each sample, or one for all."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prescore.errors import PrescoreError


def check_condition(condition: Mapping[str, object] | None) -> dict[str, Tensor]:
    """The condition of a run as a dictionary of tensors; lists and arrays of numbers become some.

    Raises:
        PrescoreError: it is no mapping of names to tensors, or to what becomes one, with a row for each sample.
    """
    if condition is not None and not isinstance(condition, Mapping):
        raise PrescoreError(
            f"condition: {type(condition).__name__} given; tensors by the names of the model's arguments are needed, "
            'as in {"class_labels": labels}'
        )
    return {name: _as_rows(name, rows) for name, rows in (condition or {}).items()}


def condition_rows(condition: Mapping[str, object] | None, n: int) -> dict[str, Tensor]:
    """The condition of n samples: n rows of each, of which one may have been given for all.

    Raises:
        PrescoreError: as `check_condition`, or there is another number of rows.
    """
    rows = check_condition(condition)
    for name, values in rows.items():
        if len(values) not in (1, n):
            raise PrescoreError(
                f"condition {name!r} has {len(values)} rows for {n} samples; one for each, or one, is needed"
            )
    return {name: values.expand(n, *values.shape[1:]) for name, values in rows.items()}


def _as_rows(name: str, rows: object) -> Tensor:
    try:
        tensor = rows if isinstance(rows, Tensor) else torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.zeros(())
    if tensor.ndim == 0:
        raise PrescoreError(f"condition {name!r}: a tensor with a row for each sample, or one for all, is needed")
    return tensor.float() if tensor.dtype == torch.float64 and not isinstance(rows, Tensor) else tensor
