"""Options of every command that opens a model."""

from typing import Annotated

import typer

PANEL = "How the model is opened"
Config = Annotated[
    str | None,
    typer.Option(
        help="For a checkpoint that does not hold its own: the name of a published configuration, or a yml.",
        rich_help_panel=PANEL,
    ),
]
Raw = Annotated[
    bool,
    typer.Option("--raw", help="Take the raw weights instead of their average over training.", rich_help_panel=PANEL),
]


def kind(raw: bool) -> str:
    """Which weights that is, for `prescore.load`."""
    return "raw" if raw else "ema"
