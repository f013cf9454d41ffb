"""`prescore calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.opening import PANEL as OPENING
from prescore.cli.opening import Config, Raw, kind
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Denoiser, Statistics

PANEL = "A model: its score, for analytic-ddpm and analytic-ddim, and its steps, for --grid auto"


def calibrate(
    data: Annotated[Path, typer.Argument(help="Folder or zip of images, .npz, .npy or IDX file.")],
    out: Annotated[Path, typer.Option(help="The statistics file to write (safetensors).")],
    n: Annotated[int, typer.Option("--n", help="Measure at most this many images, drawn at random.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    key: Annotated[str | None, typer.Option(help="Which array of an .npz holds the images.")] = None,
    pad: Annotated[int | None, typer.Option(help="Pad the images to this many pixels a side (MNIST: 32).")] = None,
    data_range: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", metavar="LOW HIGH", help="Range of floats that are not in [0, 1]."),
    ] = None,
    encode: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Measure the latents that this model makes of the images.")
    ] = None,
    components: Annotated[
        int | None, typer.Option(help="Find this many principal components of the data as well.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Measure this model's score on the data as well, and what the steps of solvers do wrong on it.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(help="At how many noise levels to measure the score.", show_default="24", rich_help_panel=PANEL),
    ] = None,
    trajectories: Annotated[
        int | None,
        typer.Option(help="On how many samples to measure steps; 0: none.", show_default="32", rich_help_panel=PANEL),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(
            help="On how many of these to try noise levels for unipc and p-ode-3m; 0: none.",
            show_default="16",
            rich_help_panel=PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images in one network call.", show_default="64", rich_help_panel=PANEL)
    ] = None,
    config: Config = None,
    raw: Raw = False,
    device: Annotated[str | None, typer.Option(help="Where the network runs.", rich_help_panel=OPENING)] = None,
) -> None:
    """Measure what samplers and preconditioners need to know about the data, on about 200 examples."""
    from prescore.cli.info import describe_extras, describe_statistics
    from prescore.cli.plan import open_model
    from prescore.data import load_images
    from prescore.files import check_writable
    from prescore.precondition import calibrate as measure
    from prescore.precondition import save_statistics

    check_writable(out)
    counts = {"--levels": levels, "--trajectories": trajectories, "--tries": tries, "--batch-size": batch_size}
    for option, value in counts.items():
        if value is not None and model is None:
            raise PrescoreError(f"{option}: does nothing without --model")
    for option, is_given in {"--config": config, "--raw": raw, "--device": device}.items():
        if is_given and model is None and encode is None:
            raise PrescoreError(f"{option}: does nothing without --model or --encode")

    def opened(name: str) -> "Denoiser":
        return open_model(name, config=config, weights=kind(raw), device=device)[1]

    images, value_range = load_images(data, key=key, n=n, seed=seed, pad=pad, data_range=data_range), data_range
    if encode is not None:
        images, value_range = _encoded(images, data_range or (0.0, 1.0), encode, opened(encode))
    statistics = measure(images, data_range=value_range or (0.0, 1.0), components=components)
    description = describe_statistics(statistics)  # refuses data that no preconditioner can be built from
    if model is not None:
        statistics = _with_model(statistics, images, model, opened(model), levels, trajectories, tries, batch_size)
    save_statistics(statistics, out)
    print("\n\n".join((description, *describe_extras(statistics))))
    print(f"\nwritten to {out}")


def _encoded(
    images: "Tensor", value_range: tuple[float, float], name: str, model: "Denoiser"
) -> tuple["Tensor", tuple[float, float]]:
    """Latents that a model makes of images, and their range."""
    import torch

    from prescore.models.latent import LatentDenoiser

    if not isinstance(model, LatentDenoiser):
        raise PrescoreError(f"--encode: {name} is not a model of latents")
    if images.dtype != torch.uint8:
        low, high = value_range
        images = (images - low) / (high - low)
    return model.encode(images), model.data_range


def _with_model(
    statistics: "Statistics",
    images: "Tensor",
    name: str,
    model: "Denoiser",
    levels: int | None,
    trajectories: int | None,
    tries: int | None,
    batch_size: int | None,
) -> "Statistics":
    """The statistics in the model's data range, with its score on the images and the errors of steps."""
    from dataclasses import replace

    import torch

    from prescore.cli.plan import model_gaussian
    from prescore.grid import geometric
    from prescore.precondition import in_range
    from prescore.precondition.score import USUAL_LEVELS, score_statistics
    from prescore.samplers.calibrated import USUAL_TRAJECTORIES, USUAL_TRIES, measure_steps

    if model.event_shape != statistics.event_shape:
        raise PrescoreError(f"--model: {name} makes samples {model.event_shape}, the data are {statistics.event_shape}")
    (low, high), (new_low, new_high) = statistics.data_range, model.data_range
    if images.dtype != torch.uint8:  # bytes are mapped onto the range by whoever reads them
        images = new_low + (images.double() - low) / (high - low) * (new_high - new_low)
    grid = geometric(USUAL_LEVELS if levels is None else levels, model.sigma_min, model.sigma_max)
    size = 64 if batch_size is None else batch_size
    count = USUAL_TRAJECTORIES if trajectories is None else trajectories
    if count < 0:
        raise PrescoreError(f"--trajectories: {count} is negative; 0 leaves the steps out")
    if tries is not None and not 0 <= tries <= count:
        raise PrescoreError(f"--tries: {tries} given; 0 to {count}, the number of trajectories, are possible")
    tries = USUAL_TRIES if tries is None else tries
    score = score_statistics(model, images, grid, batch_size=size, progress=True)
    statistics = replace(in_range(statistics, model.data_range), score=score)
    if count == 0:
        return statistics
    reference = model_gaussian(statistics, model)
    steps = measure_steps(model, reference, trajectories=count, tries=tries, batch_size=size, progress=True)
    return replace(statistics, step_errors=steps)
