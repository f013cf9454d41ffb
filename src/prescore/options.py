"""Options of samplers and recipes: the fields of a dataclass that a word can give, and what each may be."""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prescore.errors import PrescoreError

# Types that a word can stand for, tried in this order, and what the user reads about them.
WORDS = {bool: "yes or no", int: "a whole number", float: "a number", tuple: "numbers with commas", str: "text"}


@dataclass(frozen=True)
class Option:
    """A field of a dataclass that words can give.

    Attributes:
        name: of the field.
        kinds: its types, those that a word can stand for, in the order of `WORDS`; a tuple keeps its arguments.
        optional: whether it may be None.
        default: its value if it is not given.
        choices: the words it may be, if the class lists them.
        help: its part of the docstring.
    """

    name: str
    kinds: tuple[Any, ...]
    optional: bool
    default: object
    choices: tuple[str, ...]
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-").lower()

    @property
    def is_switch(self) -> bool:
        """Whether it is given as --x or --no-x."""
        return bool in self.kinds

    @property
    def flags(self) -> tuple[str, ...]:
        return (self.flag, "--no-" + self.flag[2:]) if self.is_switch else (self.flag,)

    @property
    def value(self) -> str:
        """What a value may be, in words."""
        words = ", ".join(self.choices) or " or ".join(WORDS[get_origin(kind) or kind] for kind in self.kinds)
        return f"{words}, or none" if self.optional and not self.is_switch else words

    def parse(self, word: str) -> object:
        """The value that a word stands for.

        Raises:
            PrescoreError: it stands for none.
        """
        if self.optional and word.lower() == "none":
            return None
        for kind in self.kinds:
            try:
                return _numbers(kind, word) if get_origin(kind) is tuple else kind(word)
            except ValueError:
                continue
        raise PrescoreError(f"{self.flag}: {word!r} given; {self.value} is needed")


def field_options(
    cls: Any, names: Collection[str], defaults: Mapping[str, object], choices: Mapping[str, Sequence[str]]
) -> dict[str, Option]:
    """The fields of a dataclass, of these names, that words can give.

    Args:
        cls: its docstring explains them in an Args section; its attribute `choices` lists words, where there are few.
        names: of the fields.
        defaults, choices: those that differ from the class's.
    """
    texts = argument_docs(cls)
    choices = {**getattr(cls, "choices", {}), **choices}
    options = {}
    for field in fields(cls):
        members = _members(cls, field.name)
        kinds = tuple(kind for word in WORDS for kind in members if (get_origin(kind) or kind) is word)
        literal = tuple(value for kind in members if get_origin(kind) is Literal for value in get_args(kind))
        if field.name in names and (kinds or literal):
            options[field.name] = Option(
                field.name,
                kinds or (str,),
                NoneType in members,
                defaults.get(field.name, None if field.default is MISSING else field.default),
                literal or tuple(choices.get(field.name, ())),
                texts.get(field.name, ""),
            )
    return options


def argument_docs(cls: type) -> dict[str, str]:
    """What the Args sections of a class and of its bases say about each argument, each as one line."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(
            r"^Args:\n((?: .*\n|\n)*)", inspect.cleandoc(base.__dict__.get("__doc__") or "") + "\n", re.M
        )
        parts = re.split(r"^ {4}(\S[^:\n]*): ", section[1] if section else "", flags=re.MULTILINE)
        for names, text in zip(parts[1::2], parts[2::2], strict=True):
            if re.fullmatch(r"\w+(, \w+)*", names):  # not "a, b and the others"
                texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


def check_types(cls: type, given: Mapping[str, object]) -> None:
    """Raise PrescoreError unless each value is of a type that the field of its name says.

    A whole number stands for a number, a list for a tuple; text stands for neither, and a number not for yes or no.
    """
    for name, value in given.items():
        members = _members(cls, name)
        if not any(_is_a(member, value) for member in members):
            kinds = [get_origin(member) or member for member in members]
            words = [WORDS.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds if kind is not NoneType]
            raise PrescoreError(f"{name}: {value!r} given; {' or '.join(dict.fromkeys(words))} is needed")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _members(cls: type, name: str) -> tuple[Any, ...]:
    """The types that the annotation of a field allows."""
    hint = _hints(cls)[name]
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_a(kind: Any, value: object) -> bool:
    """Whether a value is of a type in an annotation."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return isinstance(value, str)  # which of them it may be, the class says
    if origin is bool:
        return isinstance(value, bool)
    if origin in (int, float):
        return isinstance(value, Integral if origin is int else Real) and not isinstance(value, bool)
    if origin is tuple:
        of = next((kind for kind in get_args(kind) if kind is not Ellipsis), object)
        return isinstance(value, tuple | list) and all(_is_a(of, each) for each in value)
    return not isinstance(origin, type) or isinstance(value, origin)


def _numbers(kind: Any, word: str) -> tuple[object, ...]:
    """The word "1,2" as the tuple type that `kind` is. Raises ValueError."""
    members, parts = get_args(kind), word.split(",") if word else []
    if members[-1] is not Ellipsis and len(parts) != len(members):
        raise ValueError
    return tuple(members[0](part) for part in parts)
