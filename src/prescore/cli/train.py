"""`prescore train`: train a model by a recipe, or go on with a run that was stopped."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.options import DEFAULT_RECIPE
from prescore.cli.shared import Data, Key, Look, reads_images

if TYPE_CHECKING:
    from torch import Tensor

Option = typer.Option


@reads_images
def train(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, Option(help="Folder of the run; one that holds a run with these settings is resumed.")],
    look: Look,
    recipe: Annotated[
        str, Option(help="What is trained how; `prescore recipes` lists them, `prescore recipes NAME` its options.")
    ] = DEFAULT_RECIPE,
    configuration: Annotated[
        str | None,
        Option(
            metavar="A-F",
            help="Improve recipe ve or vp step by step as in Table 2 of the EDM paper. A: the recipe. B: larger "
            "batches and learning rate, no clipping. C: capacity moved to the high resolutions. D: EDM's "
            "preconditioning. E: EDM's noise levels and loss weight. F: non-leaky augmentation.",
        ),
    ] = None,
    name: Annotated[str | None, Option(help="Name of the model; by default that of the folder.")] = None,
    key: Key = None,
    labels: Annotated[str | None, Option(help="Which array of the .npz holds class labels to condition on.")] = None,
    init: Annotated[
        str | None,
        Option(
            metavar="MODEL",
            help="Begin with the weights of this model, a file or a shipped name, instead of random ones; it must have "
            "the recipe's network. A run that goes on needs it no more.",
        ),
    ] = None,
    device: Annotated[str, Option(help="Where the network is: cpu, cuda, ...")] = "cpu",
    accumulate: Annotated[int, Option(help="Split the batch into this many parts, to save memory.")] = 1,
    checkpoint_every: Annotated[int, Option(help="Steps between checkpoints.")] = 500,
    keep: Annotated[int, Option(help="Keep this many checkpoints.")] = 2,
    sample_every: Annotated[int, Option(help="Steps between pictures of samples; 0 for none.")] = 0,
    tensorboard: Annotated[bool, Option(help="Write losses and pictures for TensorBoard.")] = True,
    progress: Annotated[bool, Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a model and write OUT/model.safetensors.

    Every option of the recipe may be given beside those below: `prescore recipes NAME` explains them.

    The run can be stopped by Ctrl-C, or killed, at any time; the same command goes on from the last checkpoint, and
    gives the same weights as a run that was never stopped. OUT also receives checkpoints, loss.csv, and pictures.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m prescore train DATA --device cuda ...
    """
    from dataclasses import fields

    from prescore.cli.report import show
    from prescore.data import load_images
    from prescore.errors import check_interval
    from prescore.training.data import UNIT, TrainingData, load_labels
    from prescore.training.loop import RunOptions
    from prescore.training.loop import train as run
    from prescore.training.recipes import configured, find_recipe, with_options

    row = find_recipe(recipe) if configuration is None else configured(recipe, configuration)
    given, value_range = dict(context.obj), look["data_range"]
    if value_range is not None:
        check_interval("range", value_range)
        if "data_range" in {field.name for field in fields(row.settings)} - row.settings.unused().keys():
            given.setdefault("data_range", value_range)
    settings, config = with_options(row, given)
    options = RunOptions(
        name=name or _name_of(out),
        device=device,
        accumulate=accumulate,
        checkpoint_every=checkpoint_every,
        keep=keep,
        sample_every=sample_every,
        tensorboard=tensorboard,
        progress=progress,
    )
    images = load_images(data, key=key, **look)
    classes = None if labels is None else load_labels(data, labels, len(images))
    task = settings.task(TrainingData(images, value_range or UNIT, classes))
    result = run(task, config, out, options, init=init, save_picture=_save_picture)
    if result.is_first:
        loss = f"{result.seconds:.0f} s, loss {result.loss:.4f}"
        print(f"{show(result.model)}: step {result.steps} of {config.steps}, {loss}")
        if not result.is_finished:
            print("stopped; the same command goes on from here")
    if not result.is_finished:
        raise typer.Exit(128 + (result.signal or signal.SIGINT))


def _name_of(folder: Path) -> str:
    """What a model is called by its folder, as plain text."""
    name = os.path.basename(os.path.realpath(folder))
    return "".join(c if c.isprintable() else "_" for c in name)


def _save_picture(path: Path, samples: "Tensor", data_range: tuple[float, float]) -> None:
    """A grid of samples; those that are not pictures as an array."""
    from prescore.images import save_grid, save_npz, to_uint8

    if samples.ndim == 4 and samples.shape[1] in (1, 3):
        save_grid(path, to_uint8(samples, data_range))
    else:
        save_npz(path.with_suffix(".npz"), {"samples": samples.cpu().numpy()})
