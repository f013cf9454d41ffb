"""`prescore presets`."""

from typing import Annotated

import typer


def presets(
    name: Annotated[str | None, typer.Argument(help="One preset, to be shown with what it sets.")] = None,
) -> None:
    """List the settings of the papers' tables, for `prescore sample --preset`, or show one of them."""
    from prescore.cli.report import facts, show, table
    from prescore.presets import PRESETS, find_preset

    if name is None:
        rows = [[key, each.about, _words(each.options), each.source] for key, each in PRESETS.items()]
        print(f"{table(['preset', 'model', 'settings', 'source'], rows)}\n\n`prescore presets NAME` shows one of them.")
        return
    preset = find_preset(name)
    head: dict[str, object] = {"preset": name, "model": preset.about, "source": preset.source, "samples": preset.shape}
    head |= {"configurations": list(preset.configurations)} if preset.configurations else {}
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in preset.options.items()}
    print("\n\n".join([facts(head), facts(settings), *([show(preset.note)] if preset.note else [])]))


def _words(options: object) -> str:
    assert hasattr(options, "items")
    return ", ".join(f"{key} {'x'.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in options.items())
