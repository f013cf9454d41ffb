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
        raise PrescoreError(f"device: {str(name)!r} cannot be used ({reason})") from None
    return torch.device(name)
