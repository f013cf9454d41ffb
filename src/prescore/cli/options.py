"""Commands that take, beside their own options, those of a sampler or a recipe, read from a shell's words."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from typer.core import TyperCommand

from prescore.errors import PrescoreError, suggest
from prescore.options import Option, field_options

DEFAULT_SAMPLER, DEFAULT_RECIPE = "auto", "edm"


class Command(TyperCommand):
    """A command whose messages name its options as they are typed."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PrescoreError as error:
            flags = {
                p.name.rstrip("_"): flag for p in self.params for flag in reversed(p.opts) if flag.startswith("--")
            }
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
        from prescore.samplers.table import find_sampler, options_of

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
    """The sampler that a command line names, by itself or by a preset, or the default."""
    name, preset = last_value("--sampler", words, DEFAULT_SAMPLER), last_value("--preset", words, "")
    if not preset or name != DEFAULT_SAMPLER:
        return name
    from prescore.presets import find_preset

    return str(find_preset(preset).options["sampler"])


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
