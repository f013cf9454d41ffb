"""Named tensors of a file: checks that those of every format pass, before anything is made of them.

Parallel and compiled training puts a network inside others, which add their own part to the names of its weights:
`module.` (DataParallel), `_orig_mod.` (torch.compile), one inside the other, around the whole or around a part. They
mean nothing here, and no network has a part of these names, so they are left out wherever they stand.

Many tensors may be views of the same few numbers, in a file of torch.save and in a pickle. Each is copied sooner or
later, so that together they may be no larger than what is stored, with room for a weight that two names share.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from prescore.checkpoints.arguments import shorten
from prescore.errors import PrescoreError

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHARED = 2  # times the stored numbers, that all tensors may take


def check_tensors(what: str, tensors: object) -> dict[str, Tensor]:
    """A mapping of names to plain tensors, each stored in full, by the names of the network alone.

    Raises:
        PrescoreError: `what` is something else, or two of its names are the same.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise PrescoreError(f"{what} is not a mapping of names to tensors")
    stored: dict[int, int] = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
            raise PrescoreError(f"{what}: {shorten(name)} is not a plain tensor")
        storage = value.untyped_storage()
        if value.nbytes > storage.nbytes():
            raise PrescoreError(f"{what}: {shorten(name)} is not stored in full")
        stored[storage.data_ptr()] = storage.nbytes()
    taken, held = sum(value.nbytes for value in tensors.values()), sum(stored.values())
    if taken > SHARED * held:
        raise PrescoreError(f"{what}: its tensors take {taken} bytes, of which only {held} are stored")
    return {name: value.detach() for name, value in own_names(tensors).items()}


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the network itself, whatever it was wrapped in.

    Raises:
        PrescoreError: two of them have the same name then.
    """
    own: dict[str, Tensor] = {}
    for name, value in tensors.items():
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if plain in own:
            raise PrescoreError(f"the weight {shorten(plain)} is there twice, once as {shorten(name)}")
        own[plain] = value
    return own


def check_finite(tensors: Mapping[str, Tensor], where: str = "") -> None:
    """Raise PrescoreError if a number is not finite; `where` ends the message."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise PrescoreError(f"the weight {name!r} has values that are not finite{where}")


def checked_levels(sigmas: Tensor) -> Tensor:
    """The noise levels of a file, in float64.

    Raises:
        PrescoreError: they are not positive, finite and decreasing.
    """
    levels = sigmas.double()
    is_row = levels.ndim == 1 and len(levels) > 1
    if not (is_row and levels.isfinite().all() and (levels > 0).all() and (levels.diff() < 0).all()):
        raise PrescoreError("the noise levels 'sigmas' are not positive numbers that decrease")
    return levels
