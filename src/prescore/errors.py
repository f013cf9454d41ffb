"""Errors that say in one line what is wrong with the input and what would be right."""

import difflib
import math
from collections.abc import Iterable
from numbers import Real

LONGEST = 1000  # characters of a message
WIDTHS = (1e-100, 1e100)  # of an interval, far from where squares of numbers of double precision end


class PrescoreError(ValueError):
    """Something the user gave is wrong. The command line prints the message and exits with code 2.

    The message is one line that a terminal takes as text, whatever it quotes from files and names: see `printable`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message), LONGEST))


class ModelWarning(UserWarning):
    """A model that works, but not as it should: see what is said of it before its samples are trusted."""


class SampleWarning(UserWarning):
    """Samples that do not look like the data, far outside their range or of other energy, or that may differ within
    rounding from those beside them, because they were drawn in batches of another size."""


class SamplingError(PrescoreError):
    """A sampler or the model under it produced something unusable (non-finite values, a wrong shape)."""


def printable(text: str, longest: int | None = None) -> str:
    r"""Text of any origin as one line without control characters.

    Line breaks, with the white space around them, become a space; other characters that do not print, among them what
    moves the cursor or turns the direction of writing, their escapes; of what is longer than `longest`, the middle is
    left out.

    >>> printable("a\n  b"), printable("\x1b[31mred"), printable("a" * 20, 9)
    ('a b', '\\x1b[31mred', 'aaa...aaa')
    """
    lines = text.splitlines()
    line = lines[0] if len(lines) == 1 else " ".join(filter(None, map(str.strip, lines)))
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if longest is None or len(line) <= longest:
        return line
    half = (longest - 3) // 2
    return f"{line[:half]}...{line[-half:]}"


def suggest(name: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown name: the near ones if there are any, else all of them."""
    known = list(known)
    alike = {k.lower(): k for k in known}
    typed = name[:100].lower().replace("+", "p")
    begun = [k for k in known if len(typed) > 2 and k.lower().startswith(typed)]
    near = [*begun, *(alike[k] for k in difflib.get_close_matches(typed, alike, n=3, cutoff=0.5))]
    near = list(dict.fromkeys(near))[:3]
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def is_whole(value: object) -> bool:
    """Whether this is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_number(name: str, value: object) -> None:
    """Raise PrescoreError unless what was given as `name` is a number; text that spells one is none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise PrescoreError(f"{name}: {value!r} given; a number is needed")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise PrescoreError unless `value`, given as `name`, is one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise PrescoreError(f"{name}: unknown value {value!r}; {suggest(str(value), choices)}")


def has_width(low: float, high: float) -> bool:
    """Whether an interval is neither too narrow nor too wide for squares of its width, or of its inverse."""
    return WIDTHS[0] <= high - low <= WIDTHS[1]


def check_interval(name: str, interval: object) -> None:
    """Raise PrescoreError unless what was given as `name` is two finite numbers, the lower one first, of a width whose
    square a number can hold."""
    match interval:
        case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
            if has_width(low, high):
                return
            raise PrescoreError(f"{name}: {interval!r} given; a width from {WIDTHS[0]:g} to {WIDTHS[1]:g} is needed")
    raise PrescoreError(f"{name}: {interval!r} is not an interval (low, high)")
