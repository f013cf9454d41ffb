"""Errors that say in one line what is wrong with the input and what would be right."""

import difflib
from collections.abc import Iterable


class PrescoreError(ValueError):
    """Something the user gave is wrong. The command line prints the message and exits with code 2."""


class SamplingError(PrescoreError):
    """A sampler or the model under it produced something unusable (non-finite values, a wrong shape)."""


def suggest(name: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown name: the near ones if there are any, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise PrescoreError unless `value`, given as `name`, is one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise PrescoreError(f"{name}: unknown value {value!r}; {suggest(str(value), choices)}")
