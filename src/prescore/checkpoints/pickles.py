"""Reading a pickle as data: its instructions are followed, nothing that they name is imported or called.

A pickle is a program for a small stack machine. Most instructions make plain values; GLOBAL and STACK_GLOBAL name a
function or class, REDUCE and NEWOBJ call it, BUILD gives an object its state. Python's own reader imports what is
named, which is how a pickle runs code. Here a name is only text. It is looked up in a table that the caller gives, of
functions of this package that stand for those that published files need, and any other name ends the reading. The rest
of the instructions can make nothing but numbers, text, bytes, tuples, lists, sets, mappings, and `Record`s.

What a file can cost is limited too: the number of instructions, the length of whole numbers, and what is hashed, keys
and elements of sets, to plain values. A stream is asked for no more than it has, so that a forged length takes no
memory. Values may still hold each other many times over, or themselves: whoever walks through them, compares or prints
them has to count.

Sources: the documentation of Python's `pickletools`, https://docs.python.org/3/library/pickletools.html; PEP 307,
https://peps.python.org/pep-0307; PEP 3154, https://peps.python.org/pep-3154 (protocol 4).
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from prescore.checkpoints.arguments import shorten
from prescore.errors import PrescoreError

T = TypeVar("T")
Call = Callable[[tuple[Any, ...]], object]
MAX_WHOLE = 2**127
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names: "module name"."""

    key: str


@dataclass(eq=False, slots=True)
class Record:
    """A call that was not made, and the state that the pickle gives to its result."""

    key: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class PersistentId:
    """What a pickle says of an object that is stored beside it."""

    value: object


def parse(stream: IO[bytes], calls: Mapping[str, Call | None], max_steps: int, *, persistent: bool = False) -> Any:
    """The value of the pickle at the stream's position, which is left behind its end.

    Args:
        stream: a `BytesIO` or memory map, which return what is there when asked for more.
        calls: what stands for each "module name" that may be named, a function of the tuple of arguments; None is a
            `Record`.
        max_steps: most instructions.
        persistent: whether persistent ids may occur.

    Raises:
        PrescoreError: damaged, too long, or it names or does what is not allowed.
    """
    machine = _Machine(calls, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= max_steps:
                raise PrescoreError(f"its pickle has more than {max_steps} instructions")
            if opcode.name == "STOP":
                return machine.result()
            machine.step(opcode.name, argument)
    except PrescoreError:
        raise
    except (ValueError, LookupError, OverflowError) as error:
        # The readers of `pickletools` and the machine's own stack and memo: all that they see is the file's.
        raise PrescoreError(f"its pickle is damaged or truncated ({shorten(str(error))})") from None
    raise PrescoreError("its pickle is damaged or truncated")


class _Machine:
    def __init__(self, calls: Mapping[str, Call | None], persistent: bool) -> None:
        self.calls, self.persistent = calls, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self.stack
        return value

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in LITERALS:
            if isinstance(argument, int) and abs(argument) >= MAX_WHOLE:
                raise PrescoreError("its pickle has a whole number of more than 127 bits")
            push(argument)
        elif name in CONSTANTS:
            push(CONSTANTS[name])
        elif name in EMPTY:
            push(EMPTY[name]())
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name not in ("PROTO", "FRAME"):
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        """The instructions that take values from the stack."""
        push = self.stack.append
        match name:
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(self._take(int(name[-1])))
            case "TUPLE":
                push(self._take_to_mark())
            case "APPEND" | "APPENDS":
                values = self._take(1) if name == "APPEND" else self._take_to_mark()
                self._top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self._take(2) if name == "SETITEM" else self._take_to_mark()
                keys = self._plain(values[::2])
                self._top(dict).update(zip(keys, values[1::2], strict=True))
            case "ADDITEMS":
                values = self._plain(self._take_to_mark())
                self._top(set).update(values)
            case "GLOBAL":
                push(self._named(argument))
            case "STACK_GLOBAL":
                module, attribute = self._take(2)
                if not (isinstance(module, str) and isinstance(attribute, str)):
                    raise ValueError("a name is not text")
                push(self._named(f"{module} {attribute}"))
            case "REDUCE" | "NEWOBJ":
                function, arguments = self._take(2)
                if not (isinstance(function, Name) and isinstance(arguments, tuple)):
                    raise ValueError("something else than a name is called")
                call = self.calls[function.key]
                push(Record(function.key, arguments) if call is None else call(arguments))
            case "BUILD":
                (state,) = self._take(1)
                self._top(Record).state = state
            case "BINPERSID" if self.persistent:
                push(PersistentId(*self._take(1)))
            case _:
                raise PrescoreError(f"its pickle uses {name}, which no checkpoint of this kind needs; refused")

    def _named(self, key: str) -> Name:
        if key not in self.calls:
            shown = shorten(".".join(key.split(" ", 1)))
            raise PrescoreError(f"its pickle names {shown}, which no checkpoint of this kind needs; refused, not run")
        return Name(key)

    def _take(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise ValueError("the stack is empty")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def _take_to_mark(self) -> tuple[Any, ...]:
        start = self.marks.pop()
        values = tuple(self.stack[start:])
        del self.stack[start:]
        return values

    def _top(self, kind: type[T]) -> T:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise ValueError(f"a {type(value).__name__} is filled like a {kind.__name__}")
        return value

    def _plain(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not all(value is None or isinstance(value, (str, bytes, int, float)) for value in values):
            raise ValueError("a key is not plain")
        return values
