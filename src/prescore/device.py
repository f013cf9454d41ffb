"""Devices by their names, refused in one line where they cannot be used."""

import torch

from prescore.errors import PrescoreError


def open_device(name: torch.device | str) -> torch.device:
    """The device of a name such as "cpu" or "cuda:1".

    Raises:
        PrescoreError: there is no such device here, or it holds no numbers.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # unknown names, and devices that torch was not built for
        reason = str(error).splitlines()[0]
        raise PrescoreError(f"device: {str(name)!r} cannot be used ({reason}); {_usable()} can be") from None
    return torch.device(name)


def _usable() -> str:
    """The names of the devices that are here."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ["cpu", *(["cuda"] if count else []), *(f"cuda:{k}" for k in range(1, count))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return " or ".join(names)
