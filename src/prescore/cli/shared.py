"""Options that several commands share: how a model is opened, what a sample is drawn with, how images are read."""

from pathlib import Path
from typing import Annotated

import typer

OPENING = "How the model is opened"

Model = Annotated[str, typer.Argument(help="Name of a shipped model (mnist-ve), or a model file.")]
Data = Annotated[Path, typer.Argument(help="Folder or zip of images, .npz, .npy or IDX file.")]
Config = Annotated[
    str | None,
    typer.Option(
        help="For a checkpoint that does not hold its own: the name of a published configuration, or a yml.",
        rich_help_panel=OPENING,
    ),
]
Raw = Annotated[
    bool,
    typer.Option("--raw", help="Take the raw weights instead of their average over training.", rich_help_panel=OPENING),
]
Device = Annotated[
    str | None, typer.Option(help="Where networks run: cpu, cuda, ...", rich_help_panel=OPENING, show_default="cpu")
]
Dtype = Annotated[
    str,
    typer.Option(help="Precision of the network: float64, float32, float16, bfloat16.", rich_help_panel=OPENING),
]
StatisticsFile = Annotated[
    str | None,
    typer.Option(help="Statistics of the data, from `prescore calibrate`.", show_default="the shipped model's own"),
]
Class = Annotated[
    str | None,
    typer.Option("--class", help="Of a class-conditional model: the class of every sample, or several in turn: 0,1,2."),
]
Seed = Annotated[int, typer.Option(help="Seed of the first sample; the next ones count up.")]
BatchSize = Annotated[int, typer.Option(help="Samples in one network call.")]
Key = Annotated[str | None, typer.Option(help="Which array of an .npz holds the images.")]
Pad = Annotated[int | None, typer.Option(help="Pad the images to this many pixels a side (MNIST: 32).")]
DataRange = Annotated[
    tuple[float, float] | None,
    typer.Option("--range", metavar="LOW HIGH", help="Range of floats that are not in [0, 1]."),
]


def which_weights(raw: bool) -> str:
    """The average of the weights over training or the raw ones, as `prescore.load` names them."""
    return "raw" if raw else "ema"
