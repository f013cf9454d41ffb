"""Options that several commands share: how a model is opened, and what a sample is drawn with."""

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
StatisticsFile = Annotated[
    str | None,
    typer.Option(help="Statistics of the data, from `prescore calibrate`.", show_default="the shipped model's own"),
]
Class = Annotated[
    str | None,
    typer.Option("--class", help="Of a class-conditional model: the class of every sample, or several in turn: 0,1,2."),
]


def kind(raw: bool) -> str:
    """Which weights that is, for `prescore.load`."""
    return "raw" if raw else "ema"
