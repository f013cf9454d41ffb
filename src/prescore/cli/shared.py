"""Options that several commands share: how a model is opened, what a sample is drawn with, how images are read."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from prescore.errors import PrescoreError

OPENING = "How the model is opened"

Model = Annotated[
    str,
    typer.Argument(
        help="Name of a shipped model (mnist-ve), a model file, or package.module:factory, Python code of your own "
        "that makes a prescore.Denoiser."
    ),
]
Data = Annotated[Path, typer.Argument(help="Folder, zip or tar of images, .npz, .npy or IDX file.")]
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
    typer.Option(
        help="Statistics of the data, from `prescore calibrate`; or an .npy mask of the authors of PDS.",
        show_default="the shipped model's own",
    ),
]
Class = Annotated[
    str | None,
    typer.Option("--class", help="Of a class-conditional model: the class of every sample, or several in turn: 0,1,2."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        help="With --class, of a model that was trained without classes too: classifier-free guidance, D_u + W (D_c - "
        "D_u), in two network calls instead of one.",
        show_default="none, which is 1",
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="noise|gaussian",
        help="Start from noise alone, or from noisy data of the Gaussian model.",
        show_default="as the sampler does; of auto the better one, if it was measured",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the first sample; the next ones count up.")]
BatchSize = Annotated[int, typer.Option(help="Samples in one network call.")]
READING = "How images are read"
Look = dict[str, Any]  # what `reads_images` makes of the options
Key = Annotated[str | None, typer.Option(help="Which array of an .npz holds the images.", rich_help_panel=READING)]

ReferenceKey = Annotated[
    str | None, typer.Option(help="Which array of an .npz holds the true images.", rich_help_panel=READING)
]
SEES = "What sees the images: mnist-classifier, pixels, means-2x2, efficientnet-lite0, inception."


def look(
    pad: Annotated[
        str | None,
        typer.Option(
            help="Pad the images to this many pixels a side (MNIST: 32), or to 64x96.", rich_help_panel=READING
        ),
    ] = None,
    crop: Annotated[str | None, typer.Option(help="Cut this size out of the middle.", rich_help_panel=READING)] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="Scale the images until they cover this size, and cut it out.", rich_help_panel=READING),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(help="Colour behind transparent pixels and padding: white, #808080.", rich_help_panel=READING),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Which axis of an array is which: NHWC or NHW for pictures, NC for vectors, NCL for signals, NCDHW.",
            show_default="what its shape or the file says",
            rich_help_panel=READING,
        ),
    ] = None,
    data_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range", metavar="LOW HIGH", help="Range of floats that are not in [0, 1].", rich_help_panel=READING
        ),
    ] = None,
) -> dict[str, Any]:
    """How `prescore.data.load_images` is to read images, by its arguments.

    Raises:
        PrescoreError: a size is neither a number nor two with an x.
    """
    sizes: dict[str, Any] = {}
    for name, text in {"pad": pad, "crop": crop, "fit": fit}.items():
        try:
            numbers = None if text is None else tuple(int(word) for word in text.lower().split("x"))
        except ValueError:
            numbers = ()
        if numbers is not None and len(numbers) not in (1, 2):
            raise PrescoreError(
                f"--{name}: {text!r} given; a number of pixels, or height x width as in 64x96, is needed"
            )
        sizes[name] = numbers if numbers is None or len(numbers) == 2 else numbers[0]
    return sizes | {"background": background, "layout": layout, "data_range": data_range}


def reads_images(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has the options of `look` in the place of its argument of that name, which is what they make."""
    options = inspect.signature(look).parameters
    signature = inspect.signature(command)
    parameters = [
        p for own in signature.parameters.values() for p in (options.values() if own.name == "look" else [own])
    ]

    @functools.wraps(command)
    def reading(**given: Any) -> None:
        made = look(**{name: given.pop(name) for name in options})
        command(look=made, **given)

    vars(reading)["__signature__"] = signature.replace(parameters=parameters)
    reading.__annotations__ = {p.name: p.annotation for p in parameters}
    return reading


def which_weights(raw: bool) -> str:
    """The average of the weights over training or the raw ones, as `prescore.load` names them."""
    return "raw" if raw else "ema"
