"""`prescore calibrate`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prescore.cli.shared import (
    Config,
    Device,
    Key,
    Look,
    Raw,
    reads_images,
    which_weights,
)
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Denoiser
    from prescore.cli.plan import Opened
    from prescore.statistics import Statistics

USUAL_N = 200
OTHERS = (".npz", ".npy", ".png", ".json", ".pt", ".pth", ".pkl")  # suffixes of other formats
WITHOUT = "Without data"
PANEL = "A model: its score, for analytic-ddpm and analytic-ddim, and its steps, for --grid auto"


@reads_images
def calibrate(
    out: Annotated[Path, typer.Option(help="The statistics file to write (safetensors).")],
    look: Look,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder or zip of images, .npz, .npy or IDX file; left out with --from-model.", show_default=False
        ),
    ] = None,
    from_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Without data: measure samples that this model draws itself, and the model on them.",
            rich_help_panel=WITHOUT,
        ),
    ] = None,
    sample_calls: Annotated[
        int | None,
        typer.Option(
            help="The most network calls that one of these samples may take.",
            show_default="enough for 40 evaluations of the model",
            rich_help_panel=WITHOUT,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            help="Measure at most this many images, drawn at random.",
            show_default=f"{USUAL_N}, with --from-model 64",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw, with --from-model that of the first sample.")] = 0,
    key: Key = None,
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
    calls: Annotated[
        str | None,
        typer.Option(
            help="Numbers of network calls for which to try noise levels and fit weights (p-fit), with commas: 5,8.",
            show_default="4 to 20",
            rich_help_panel=PANEL,
        ),
    ] = None,
    fitted: Annotated[
        int | None,
        typer.Option(
            help="On how many samples to search levels for these calls; weights are fitted to these and more, 0: none.",
            show_default="48",
            rich_help_panel=PANEL,
        ),
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Which of the model's classes the data are; with --from-model one or several in turn: 0,1,2.",
            show_default="with --from-model all in turn, of a model that needs one or is guided",
            rich_help_panel=PANEL,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Which array of the .npz holds the class of each image.", rich_help_panel=PANEL),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="W",
            help="Measure the model with classifier-free guidance of this weight.",
            show_default="none, which is 1",
            rich_help_panel=PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images in one network call.", show_default="64", rich_help_panel=PANEL)
    ] = None,
    config: Config = None,
    raw: Raw = False,
    device: Device = None,
) -> None:
    """Measure what samplers and preconditioners need to know about the data, on about 200 examples, or on samples of a
    model (--from-model)."""
    from prescore.assets import STATISTICS_SUFFIX
    from prescore.calibration import USUAL_BATCH, USUAL_OWN, calibrate_model, calls_to_calibrate
    from prescore.calibration import calibrate as measure
    from prescore.cli.info import describe_extras, describe_statistics
    from prescore.cli.plan import choose_classes, condition_of, every_class, open_model, whole_numbers
    from prescore.cli.report import show
    from prescore.data import DataWarning, load_images, subset
    from prescore.data.sets import flag_of
    from prescore.files import check_writable
    from prescore.samplers.fitting import MOST_CALLS, USUAL_FITTED
    from prescore.statistics import Statistics, measure_moments, save_statistics
    from prescore.statistics.batches import USUAL
    from prescore.training.data import load_labels

    check_writable(out)
    if out.suffix in OTHERS:
        raise PrescoreError(f"--out: {out}: statistics are a safetensors file; call it {out.stem}{STATISTICS_SUFFIX}")
    counts = {"levels": levels, "trajectories": trajectories, "tries": tries, "batch_size": batch_size}
    counts["fitted"] = fitted
    of_model = {**counts, "calls": calls, "class": class_, "labels": labels, "guidance": guidance}
    for option, value in of_model.items():
        if value is not None and model is None and from_model is None:
            raise PrescoreError(f"--{option.replace('_', '-')}: does nothing without --model")
    for option, is_given in {"config": config, "raw": raw, "device": device}.items():
        if is_given and model is None and encode is None and from_model is None:
            raise PrescoreError(f"{option}: does nothing without --model or --encode")
    given: dict[str, Any] = {name: value for name, value in counts.items() if value is not None}
    given |= {"calls": whole_numbers("calls", calls)} if calls else {}

    def opened(name: str, guidance: float | None = None) -> "Opened":
        return open_model(name, config=config, weights=which_weights(raw), device=device, guidance=guidance)

    def finish(statistics: "Statistics") -> None:
        text = "\n\n".join((describe_statistics(statistics), *describe_extras(statistics)))  # refuses what is of no use
        save_statistics(statistics, out)
        print(text)
        print(f"\nwritten to {show(out)}")

    if from_model is not None:
        for option, value in {
            "DATA": data,
            "model": model,
            "encode": encode,
            "labels": labels,
            "key": key,
            **look,
        }.items():
            if value is not None:
                flag = option if option == "DATA" else flag_of(option)
                raise PrescoreError(f"{flag}: does nothing beside --from-model, whose own samples are measured")
        own = opened(from_model, guidance)
        given |= {name: v for name, v in {"n": n, "sample_calls": sample_calls}.items() if v is not None}
        every = every_class(own.description, USUAL_OWN if n is None else n, seed, guidance)
        chosen = choose_classes(own.description, every if class_ is None else class_, guidance)
        condition = None if chosen is None else chosen.in_turn
        most = calls_to_calibrate(own.denoiser, **given)
        rows = given.get("batch_size", USUAL_BATCH)
        print(f"samples of {show(from_model)} stand for data: at most {most} network calls of at most {rows} samples")
        more: dict[str, Any] = {"seed": seed, "components": components, "condition": condition, "progress": True}
        finish(calibrate_model(own.denoiser, **more, **given))
        return
    if data is None:
        raise PrescoreError("DATA: is missing; images to measure, or --from-model MODEL, are needed")
    if sample_calls is not None:
        raise PrescoreError("--sample-calls: does nothing without --from-model")
    if guidance is not None and class_ is None and labels is None:
        raise PrescoreError("--guidance: does nothing without --class or --labels")
    known = None if model is None else opened(model, guidance)
    network = None if known is None else known.denoiser

    def check(shape: tuple[int, ...]) -> None:
        if network is not None and encode is None and shape[1:] != network.event_shape:
            needed, found = network.event_shape, shape[1:]
            is_size = len(found) == len(needed) == 3 and found[0] == needed[0]
            size = str(needed[-1]) if needed[-1] == needed[-2] else f"{needed[-2]}x{needed[-1]}"
            how = f"; --fit {size} scales them, --crop {size} or --pad {size} do not" if is_size else ""
            raise PrescoreError(f"model: {model} makes samples {needed}, the data are {found}{how}")

    images = load_images(data, key=key, n=USUAL_N if n is None else n, seed=seed, check=check, **look)
    if n is not None and len(images) < n:
        warnings.warn(f"{data} has {len(images)} images, fewer than --n {n}", DataWarning, stacklevel=2)
    value_range = look["data_range"]
    if encode is not None:
        images, value_range = _encoded(images, value_range or (0.0, 1.0), encode, opened(encode).denoiser)
    measured: dict[str, Any] = {}
    if known is not None:
        describe_statistics(Statistics(moments=measure_moments(images, data_range=value_range or USUAL)))  # refuses
        if calls and fitted != 0 and trajectories != 0:
            wanted, count = len(given["calls"]), USUAL_FITTED if fitted is None else fitted
            cost = f"at most {wanted * MOST_CALLS} network calls on each of {count} samples"
            print(f"weights for {calls} calls are fitted: {cost}")
        classes = None if labels is None else load_labels(data, labels)
        if classes is not None:
            classes = classes[subset(len(classes), USUAL_N if n is None else n, seed)]
        condition = condition_of(known.description, class_, classes, len(images))
        measured = {"model": network, "condition": condition, "progress": True, **given}
    finish(measure(images, data_range=value_range, components=components, **measured))


def _encoded(
    images: "Tensor", value_range: tuple[float, float], name: str, model: "Denoiser"
) -> tuple["Tensor", tuple[float, float] | None]:
    """Latents that a model makes of images, and their range."""
    import torch

    from prescore.models.latent import LatentDenoiser

    if not isinstance(model, LatentDenoiser):
        raise PrescoreError(f"--encode: {name} is not a model of latents")
    if images.dtype != torch.uint8:
        low, high = value_range
        images = (images - low) / (high - low)
    return model.encode(images), model.data_range
