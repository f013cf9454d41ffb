"""Options of samplers and recipes as a shell has them, read from the fields and the docstring of a dataclass."""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand

from prescore.errors import PrescoreError, suggest

if TYPE_CHECKING:
    from prescore.samplers import Entry

DEFAULT_SAMPLER, DEFAULT_RECIPE = "auto", "edm"
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


def options_of(entry: "Entry") -> dict[str, Option]:
    """The options of a sampler in the table that words can give, by name."""
    return field_options(entry.cls, entry.options, entry.defaults, entry.choices)


def field_options(
    cls: Any, names: Collection[str], defaults: Mapping[str, object], choices: Mapping[str, Sequence[str]]
) -> dict[str, Option]:
    """The fields of a dataclass, of these names, that words can give.

    Args:
        cls: its docstring explains them in an Args section; its attribute `choices` lists words, where there are few.
        names: of the fields.
        defaults, choices: those that differ from the class's.
    """
    hints, texts = get_type_hints(cls), argument_docs(cls)
    choices = {**getattr(cls, "choices", {}), **choices}
    options = {}
    for field in fields(cls):
        hint = hints[field.name]
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
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


class Command(TyperCommand):
    """A command whose messages name its options as they are typed."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PrescoreError as error:
            flags = {p.name.rstrip("_"): flag for p in self.params for flag in p.opts if flag.startswith("--")}
            flags |= {name: "--" + name.replace("_", "-").lower() for name in ctx.obj or ()}
            names, colon, rest = str(error).partition(": ")
            words = names.split(", ")
            if colon and all(word in flags for word in words):
                raise type(error)(f"{', '.join(flags[word] for word in words)}: {rest}") from None
            raise


class SampleCommand(Command):
    """A command that takes, beside its own options, those of the sampler that its arguments name.

    Their values are left in the context's `obj`, by name.
    """

    def named(self, args: list[str]) -> tuple[str, dict[str, Option]]:
        """What the words name, and the options that it has."""
        from prescore.plan import AUTO
        from prescore.samplers import find_sampler

        name = named_sampler(args)
        return f"sampler {name!r}", {} if name == AUTO else options_of(find_sampler(name))

    def able(self, option: str) -> list[str]:
        """What has this option, if what the words name has not."""
        from prescore.samplers.table import which_take

        return which_take(option)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        what, options = self.named(args)
        ctx.obj, rest = take(options, args)
        try:
            return super().parse_args(ctx, rest)
        except Exception as error:
            if not hasattr(error, "possibilities"):  # click's or typer's own NoSuchOption, by typer's version
                raise
            own = [flag for parameter in self.params for flag in (*parameter.opts, *parameter.secondary_opts)]
            known = [flag for flag in own if flag.startswith("--")] + [o.flag for o in options.values()]
            flag: str = getattr(error, "option_name", "")
            if able := self.able(flag[2:].replace("-", "_")):
                raise PrescoreError(
                    f"{flag}: {what} has no such option; name a sampler that has, such as {able[0]}"
                ) from None
            raise PrescoreError(f"{flag}: {what} has no such option; {suggest(flag, known)}") from None


class TrainCommand(SampleCommand):
    """The same for the recipe that the arguments name."""

    def named(self, args: list[str]) -> tuple[str, dict[str, Option]]:
        name = last_value("--recipe", args, DEFAULT_RECIPE)
        return f"recipe {name!r}", recipe_options(name)

    def able(self, option: str) -> list[str]:
        return []


def recipe_options(name: str) -> dict[str, Option]:
    """The options of a recipe in the table, by name."""
    from prescore.training.recipes import find_recipe

    recipe = find_recipe(name)
    options: dict[str, Option] = {}
    for part in (recipe.settings, recipe.training):
        defaults = {field.name: getattr(part, field.name) for field in fields(part)}
        options |= field_options(type(part), defaults, defaults, {})
    return options


def named_sampler(words: Sequence[str]) -> str:
    """The sampler that a command line names, or the default."""
    return last_value("--sampler", words, DEFAULT_SAMPLER)


def last_value(flag: str, words: Sequence[str], default: str) -> str:
    """What a command line gives for this flag."""
    value = default
    for word, following in zip(words, [*words, default][1:], strict=True):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


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
    members, parts = get_args(kind), word.split(",") if word else []
    if members[-1] is not Ellipsis and len(parts) != len(members):
        raise ValueError
    return tuple(members[0](part) for part in parts)
