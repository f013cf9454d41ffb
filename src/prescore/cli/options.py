"""Options of samplers as a shell has them, read from the fields and the docstring of the sampler's class."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand

from prescore.errors import PrescoreError, suggest

if TYPE_CHECKING:
    from prescore.samplers import Entry

DEFAULT_SAMPLER = "pc"
# Types that a word can stand for, tried in this order, and what the user reads about them.
WORDS = {bool: "yes or no", int: "a whole number", float: "a number", tuple: "numbers with commas", str: "text"}


@dataclass(frozen=True)
class Option:
    """A field of a sampler that words can give.

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


def options_of(entry: "Entry") -> dict[str, Option]:
    """The options of a sampler in the table that words can give, by name."""
    hints, texts = get_type_hints(entry.cls), argument_docs(entry.cls)
    choices = {**getattr(entry.cls, "choices", {}), **entry.choices}
    options = {}
    for field in fields(entry.cls):
        hint = hints[field.name]
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kinds = tuple(kind for word in WORDS for kind in members if (get_origin(kind) or kind) is word)
        literal = tuple(value for kind in members if get_origin(kind) is Literal for value in get_args(kind))
        if field.name in entry.options and (kinds or literal):
            options[field.name] = Option(
                field.name,
                kinds or (str,),
                NoneType in members,
                entry.defaults.get(field.name, None if field.default is MISSING else field.default),
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


class SampleCommand(TyperCommand):
    """A command that takes, beside its own options, those of the sampler that its arguments name.

    Their values are left in the context's `obj`, by name.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from prescore.samplers import find_sampler

        name = named_sampler(args)
        options = options_of(find_sampler(name))
        ctx.obj, rest = take(options, args)
        try:
            return super().parse_args(ctx, rest)
        except Exception as error:
            if not hasattr(error, "possibilities"):  # click's or typer's own NoSuchOption, by typer's version
                raise
            own = [flag for parameter in self.params for flag in (*parameter.opts, *parameter.secondary_opts)]
            known = [flag for flag in own if flag.startswith("--")] + [o.flag for o in options.values()]
            flag: str = getattr(error, "option_name", "")
            raise PrescoreError(f"{flag}: sampler {name!r} has no such option; {suggest(flag, known)}") from None


def named_sampler(words: Sequence[str]) -> str:
    """The sampler that a command line names, or the default."""
    name = DEFAULT_SAMPLER
    for word, following in zip(words, [*words, DEFAULT_SAMPLER][1:], strict=True):
        if word == "--sampler":
            name = following
        elif word.startswith("--sampler="):
            name = word.partition("=")[2]
    return name


def take(options: dict[str, Option], words: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """The values that words give to these options, and the words that are left."""
    by_flag = {flag: option for option in options.values() for flag in option.flags}
    given: dict[str, object] = {}
    left, following = [], iter(words)
    for word in following:
        flag, equals, value = word.partition("=")
        option = by_flag.get(flag)
        if word == "--":  # then come arguments alone
            left += [word, *following]
        elif option is None:
            left.append(word)
        elif option.is_switch:
            if equals:
                raise PrescoreError(f"{flag}: takes no value; give {' or '.join(option.flags)}")
            given[option.name] = flag == option.flag
        else:
            text = value if equals else next(following, None)
            if text is None:
                raise PrescoreError(f"{flag}: its value is missing; {option.value} is needed")
            given[option.name] = option.parse(text)
    return given, left


def _numbers(kind: Any, word: str) -> tuple[object, ...]:
    """The word "1,2" as the tuple type that `kind` is. Raises ValueError."""
    members, parts = get_args(kind), word.split(",")
    if members[-1] is not Ellipsis and len(parts) != len(members):
        raise ValueError
    return tuple(members[0](part) for part in parts)
