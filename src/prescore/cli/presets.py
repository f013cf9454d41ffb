"""`prescore presets`."""

import textwrap
from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prescore.presets import Preset

WIDTH = 79  # of a line, for terminals of 80 columns


def presets(
    name: Annotated[str | None, typer.Argument(help="One preset, to be shown with what it sets.")] = None,
) -> None:
    """List the settings of the papers' tables, for `prescore sample --preset`, or show one of them."""
    print(describe_all() if name is None else describe(name))


def describe_all() -> str:
    """The presets by table and model: what all of a model share, and what each sets beside that."""
    from prescore.presets import PRESETS

    width, blocks = max(map(len, PRESETS)) + 2, []
    for (source, about), rows in groupby(PRESETS.items(), lambda row: (row[1].source, row[1].about)):
        own = dict(rows)
        common = _common(own)
        lines = [f"{source}: {about}"]
        lines += [_fill(_words(common), 2, 2)] if common else []
        for name, preset in own.items():
            rest = {key: value for key, value in preset.options.items() if key not in common}
            lines.append(_fill(f"{name:<{width}}{_words(rest)}", 2, width + 2))
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, "`prescore presets NAME` shows one of them."])


def describe(name: str) -> str:
    """One preset with all that it sets, and what the paper leaves open."""
    from prescore.cli.report import facts, show
    from prescore.presets import find_preset

    preset = find_preset(name)
    head: dict[str, object] = {"preset": name, "model": preset.about, "source": preset.source, "samples": preset.shape}
    head |= {"configurations": list(preset.configurations)} if preset.configurations else {}
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in preset.options.items()}
    indent = max(map(len, head)) + 2
    lines = [_fill(line, 0, indent) for line in facts(head).splitlines()]
    return "\n\n".join(["\n".join(lines), facts(settings), *([_fill(show(preset.note), 0, 0)] if preset.note else [])])


def _common(rows: Mapping[str, "Preset"]) -> dict[str, Any]:
    """The options that several presets share; none of one alone."""
    first, *others = (preset.options for preset in rows.values())
    if not others:
        return {}
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _words(options: Mapping[str, Any]) -> str:
    """Options with commas between, their values as they would be typed."""
    parts = []
    for key, value in options.items():
        word = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append({True: key, False: f"no {key}"}[value] if isinstance(value, bool) else f"{key} {word}")
    return ", ".join(parts)


def _fill(text: str, first: int, others: int) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_on_hyphens=False,
        break_long_words=False,
    )
