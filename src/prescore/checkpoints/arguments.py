"""Plain data of a file, and arguments that it gives to a constructor, checked before the constructor is called.

What a constructor declares is what a file may give: the names of its parameters, and values of their annotated types
that are plain data (numbers, text, lists, mappings), small enough that nothing built from one of them takes long.
Which words and which combinations are allowed is the constructor's own business.
"""

import inspect
import json
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prescore.errors import PrescoreError, suggest

MAX_NUMBER = 65_536  # of any width, resolution, label or noise level
MAX_TEXT = 200
MAX_LENGTH = 64  # of a list or a mapping, unless the caller says otherwise
MAX_JSON_BYTES = 4_000_000
MAX_DEPTH = 10  # of lists and mappings in each other
MAX_DIGITS = 300  # of a whole number; one with more is no floating-point number
SHOWN = 60  # characters of a wrong value in a message


def check_arguments(
    what: str,
    constructor: Callable[..., object],
    arguments: object,
    *,
    max_length: int = MAX_LENGTH,
    given: Collection[str] = (),
) -> None:
    """Raise PrescoreError unless `constructor(first, **arguments)` is a call that its signature allows.

    Args:
        what: whose arguments they are, for the message.
        constructor: a class.
        arguments: untrusted data.
        max_length: of each list.
        given: parameters that do not come from `arguments`.
    """
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise PrescoreError(f"the arguments of {what} are not a mapping of names")
    parameters = {n: p for n, p in inspect.signature(constructor).parameters.items() if n not in given}
    hints = get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise PrescoreError(f"the arguments of {what} lack {name!r}")
    for name, value in arguments.items():
        if name not in parameters:
            raise PrescoreError(f"{what} has no argument {shorten(name)}, {suggest(name[:SHOWN], parameters)}")
        if value is None and not constructor.__module__.startswith("prescore."):
            continue  # other packages' annotations may leave out that nothing is allowed
        if not is_of(value, hints.get(name, Any), max_length):
            raise PrescoreError(f"the argument {name} = {shorten(value)} of {what} is not valid")


def is_of(value: Any, hint: Any, max_length: int = MAX_LENGTH) -> bool:
    """Whether a value is plain data of an annotated type, of moderate size.

    >>> is_of([1, 2, 2], list[int]), is_of([1, 0.5], list[int]), is_of(10**9, int), is_of(True, int)
    (True, False, False, False)
    """
    origin, members = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(is_of(value, member, max_length) for member in members)
    if origin is Literal:
        return any(type(value) is type(member) and value == member for member in members)
    if origin is Any:
        return any(is_of(value, kind, max_length) for kind in (None, bool, float, str, list, dict))
    if origin in (None, NoneType):
        return value is None
    if origin is bool:
        return isinstance(value, bool)
    if origin in (int, float):
        kinds = int if origin is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    if origin is str:
        return isinstance(value, str) and len(value) <= MAX_TEXT
    return _holds(value, origin, members, max_length)


def _holds(value: Any, origin: Any, members: tuple[Any, ...], max_length: int) -> bool:
    """Whether a value is a list or a mapping of annotated members."""
    if not inspect.isclass(origin) or not hasattr(value, "__len__") or len(value) > max_length:
        return False
    if issubclass(dict, origin) and not issubclass(list, origin):
        key, member = members or (str, Any)
        is_right = isinstance(value, dict) and all(is_of(k, key) for k in value)
        return is_right and all(is_of(v, member, max_length) for v in value.values())
    if not isinstance(value, (list, tuple)) or not (issubclass(list, origin) or issubclass(tuple, origin)):
        return False
    if origin is tuple and members and members[-1] is not Ellipsis:
        return len(value) == len(members) and all(map(is_of, value, members))
    return all(is_of(element, members[0] if members else Any, max_length) for element in value)


def parse_json(text: str | bytes) -> Any:
    """The plain data of a JSON text. Infinity and NaN, which diffusers writes, are numbers.

    Raises:
        PrescoreError: it is not JSON, or longer than `MAX_JSON_BYTES`, nested deeper than `MAX_DEPTH`, has a number of
            more than `MAX_DIGITS` digits, or gives a name twice in one mapping, of which readers take the one or the
            other.
    """

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise PrescoreError(f"the name {shorten(twice)} is given twice")
        return content

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise PrescoreError(f"it holds a number of {len(digits)} digits, {digits[:6]}...")
        return int(digits)

    if len(text) > MAX_JSON_BYTES:
        raise PrescoreError(f"it is larger than {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(text, object_pairs_hook=mapping, parse_int=whole)
    except PrescoreError:
        raise
    except RecursionError:
        raise PrescoreError("it is nested too deep") from None
    except ValueError as error:
        raise PrescoreError(f"it is not JSON ({error})") from None
    if not is_shallow(content):
        raise PrescoreError("it is nested too deep")
    return content


def is_shallow(value: object, levels: int = MAX_DEPTH) -> bool:
    """Whether lists and mappings inside a value are nested at most so deep."""
    layer = [value]
    for _ in range(levels):
        containers = [v for v in layer if isinstance(v, (list, tuple, Mapping))]
        layer = [member for v in containers for member in (v.values() if isinstance(v, Mapping) else v)]
    return not layer


def is_number(value: Any) -> bool:
    """Whether it is a finite real number, and not an integer beyond those."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def shorten(value: object) -> str:
    """A wrong value in a message of one line; what it holds is not looked at beyond what is shown."""
    text = _SHORT.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 2 * SHOWN

    def repr_int(self, value: int, level: int) -> str:
        # Python writes no more than 4300 digits.
        return repr(value) if value.bit_length() < 10_000 else f"a whole number of {value.bit_length()} bits"


_SHORT = _Short()
