"""`prescore compare`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from prescore.cli.opening import PANEL as OPENING
from prescore.cli.opening import Class, Config, Raw, StatisticsFile, kind
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from prescore import Denoiser
    from prescore.cli.comparison import Run, Store
    from prescore.cli.judging import Reference
    from prescore.cli.report_html import Report

Value = TypeVar("Value", int, str)
PANEL = "What the samples are compared with"
MOST_TRUE = 5000  # true images that are read unless more are asked for: some metrics look at all pairs, for each run
FLAGS = ("--features", "--metrics", "--reference-n", "--reference-key", "--pad", "--range")
HEADLINE = ("frechet", "kernel", "spectrum")  # metrics that a terminal has room for


def compare(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of a shipped model (mnist-ve), or a model file.")],
    samplers: Annotated[
        str,
        typer.Option(
            help="Which samplers, with commas, on their usual grids or as SAMPLER@GRID: unipc,dpmpp-2m@karras,auto."
        ),
    ],
    calls: Annotated[str, typer.Option(help="Numbers of network calls that each may make, with commas: 6,10,20.")],
    out: Annotated[Path, typer.Option(help="The folder to write: report.html, results.json, .csv, the samples.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA|STATS",
            help="True images (a folder or zip of images, .npz, .npy or IDX file), or a file from "
            "`prescore evaluate --save-reference`.",
            show_default="spectra beside the model's statistics",
            rich_help_panel=PANEL,
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What sees the images: mnist-classifier, pixels, means-2x2, efficientnet-lite0, inception.",
            show_default="those of STATS; means-2x2; pixels where a side is odd",
            rich_help_panel=PANEL,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Some of those of `prescore evaluate`, with commas.",
            show_default="all that are possible",
            rich_help_panel=PANEL,
        ),
    ] = None,
    reference_n: Annotated[
        int | None,
        typer.Option(
            "--reference-n",
            help="Take at most this many true images, drawn at random.",
            show_default=f"{MOST_TRUE}",
            rich_help_panel=PANEL,
        ),
    ] = None,
    reference_key: Annotated[
        str | None, typer.Option(help="Which array of an .npz holds the true images.", rich_help_panel=PANEL)
    ] = None,
    pad: Annotated[
        int | None,
        typer.Option(help="Pad the true images to this many pixels a side (MNIST: 32).", rich_help_panel=PANEL),
    ] = None,
    data_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            metavar="LOW HIGH",
            help="Range of true images of floats that are not in [0, 1].",
            rich_help_panel=PANEL,
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Number of samples of each run.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the first sample of each run; the next ones count up.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples in one network call.")] = 64,
    statistics: StatisticsFile = None,
    class_: Class = None,
    config: Config = None,
    raw: Raw = False,
    device: Annotated[
        str | None, typer.Option(help="Where networks run: cpu, cuda, ...", rich_help_panel=OPENING)
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="Precision of the network: float64, float32, float16, bfloat16.", rich_help_panel=OPENING),
    ] = "float32",
) -> None:
    """Draw the same seeds by several samplers with several numbers of network calls, and report which is best.

    The report is one HTML file: pictures side by side, quality against calls and seconds, spectra, and a table.

    Ctrl-C leaves the finished runs in the folder; the same command draws the others, and more samplers or numbers of
    calls may be added. All other options of the samplers have their defaults.
    """
    from prescore.cli.comparison import Store, draw_missing, plan_runs, uses_statistics
    from prescore.cli.measuring import metric_names
    from prescore.cli.plan import choose_classes, count_seeds, open_model
    from prescore.cli.report import facts
    from prescore.cli.report_html import check_parts, write_report

    check_parts()
    names, numbers, asked = _samplers(samplers), _calls(calls), metric_names(metrics)
    seeds = count_seeds(seed, n)
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not positive")
    if statistics is not None and reference is not None and not any(uses_statistics(name) for name in names):
        raise PrescoreError("--statistics: none of the samplers has a use for statistics")
    description, denoiser = open_model(model, config=config, weights=kind(raw), device=device, dtype=dtype)
    chosen = choose_classes(description, class_)
    opened: dict[str, object] = {"model_weights": description.weights, "dtype": dtype}
    opened |= {"config": config} if config else {}
    opened |= {"class": chosen.indices} if chosen else {}
    runs = plan_runs(model, denoiser, names, numbers, statistics, opened)
    reading = Reading(features, asked, reference_n, reference_key, pad, data_range)
    beside = open_reference(reference, reading, model, denoiser, statistics, n, seed)
    common = {name: runs[0].settings[name] for name in ("prescore", "model", "model_sha256", *opened)}
    common |= {"seed": seed, "n": n, "batch_size": batch_size, "hardware": hardware(denoiser.device)}
    store = Store(out, common | dict(beside.settings))
    head = {
        "model": f"{model}, digest {common['model_sha256']}",
        "reference": beside.text,
        **({"features": beside.features} if beside.features else {}),
        "samples": f"{n} of each run, seeds {seeds[0]} to {seeds[-1]}, the same in all",
        "network": f"{dtype}, {min(batch_size, n)} samples in a call, {common['hardware']}",
        "library": f"prescore {common['prescore']}",
    }
    print(facts(head | {"out": out}), flush=True)
    draw_missing(denoiser, runs, store, seeds, batch_size, chosen, beside.judge)
    title = f"{Path(model).name}: samplers compared"
    report = make_report(title, head, command_line(context), store, runs, seeds, denoiser, beside.pictures)
    write_report(out, report)
    print(f"\n{as_text(report)}\n\nThe report is {out / 'report.html'}.")


@dataclass(frozen=True)
class Reading:
    """Options that say how a reference is read and looked at, in the order of `FLAGS`."""

    features: str | None
    metrics: Sequence[str] | None
    n: int | None
    key: str | None
    pad: int | None
    data_range: tuple[float, float] | None

    def refuse(self, flags: Sequence[str], why: str) -> None:
        """Raise PrescoreError if one of the options with these flags is given."""
        values = (self.features, self.metrics, self.n, self.key, self.pad, self.data_range)
        for flag, value in zip(FLAGS, values, strict=True):
            if value is not None and flag in flags:
                raise PrescoreError(f"{flag}: {why}")


def open_reference(
    path: Path | None,
    reading: Reading,
    model: str,
    denoiser: "Denoiser",
    statistics: str | None,
    n: int,
    seed: int,
) -> "Reference":
    """What samples are compared with: true images, statistics of them, or what the model brings."""
    from prescore.cli.judging import no_reference, reference_images, reference_statistics
    from prescore.images import check_picture
    from prescore.metrics.io import is_reference

    shape = denoiser.picture_shape
    try:
        check_picture(shape)
    except PrescoreError:
        raise PrescoreError(
            f"{model}: samples of shape {shape} are not grey or RGB pictures, and are not compared"
        ) from None
    if path is None:
        reading.refuse(FLAGS, "does nothing without --reference")
        return no_reference(model, denoiser, statistics)
    if is_reference(path):
        reading.refuse(FLAGS[2:], f"{path} holds statistics, and no images")
        return reference_statistics(path, shape, n, reading.features, reading.metrics, denoiser.device)
    return reference_images(
        path,
        shape,
        n,
        reading.features,
        reading.metrics,
        denoiser.device,
        most=MOST_TRUE if reading.n is None else reading.n,
        key=reading.key,
        seed=seed,
        pad=reading.pad,
        data_range=reading.data_range,
    )


def hardware(device: "torch.device") -> str:
    """On what seconds are measured."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)


def make_report(
    title: str,
    head: Mapping[str, str],
    command: str,
    store: "Store",
    runs: Sequence["Run"],
    seeds: Sequence[int],
    denoiser: "Denoiser",
    true: "Tensor | None",
) -> "Report":
    """What the folder holds of these runs.

    Args:
        head: what was compared.
        command: that makes the report again.
        seeds: of each run.
        true: true images, uint8, if they are there.
    """
    from prescore.cli.judging import Truth
    from prescore.cli.report_html import Report, pictures_in_a_row
    from prescore.images import to_uint8

    row = pictures_in_a_row(denoiser.picture_shape)
    results = [(run, store.result(run)) for run in runs]
    finished = [(run, result) for run, result in results if result is not None]
    pictures = {
        run.key: to_uint8(store.pictures(run, row), denoiser.picture_range)
        for run, result in finished
        if result.failure is None
    }
    pictures |= {} if true is None else {"": true[: len(seeds[:row])]}
    truth = store.truth or Truth()
    floor = "none" if truth.floor is None else f"{len(seeds)} of the true images beside the others"
    return Report(
        title=title,
        facts={**head, "floor": floor},
        command=command,
        runs=finished,
        truth=truth,
        n=len(seeds),
        seeds=seeds[:row],
        pictures=pictures,
        settings=store.settings,
    )


def as_text(report: "Report") -> str:
    """The most telling numbers as a table for a terminal, and the notes."""
    from prescore.cli.report import calls_text, table
    from prescore.cli.report_html import COLUMNS, values_of

    shown = [name for name in report.metrics if name in HEADLINE] or report.metrics
    rows = []
    for run, result in report.runs:
        values = values_of(run, result, shown)
        rows.append(["failed" if value is None else value for value in values])
    if (floor := report.truth.floor) is not None:
        rows.append(
            [f"true samples (n = {report.n})", *[""] * (len(COLUMNS) - 1), *(floor.get(name) for name in shown)]
        )
    notes = [
        f"failed: {run.name} with {calls_text(run.calls)}, {result.failure}"
        for run, result in report.runs
        if result.failure
    ]
    lines = "".join(f"\nnote: {note}" for note in (*report.notes, *notes))
    return f"{table([*COLUMNS, *shown], rows)}{lines and chr(10)}{lines}"


def command_line(context: typer.Context) -> str:
    """What to type to run the command again: its arguments, and the options that were given."""
    words = ["prescore", "compare"]
    for parameter in context.command.params:
        value = context.params[parameter.name or ""]
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is not None and value != parameter.get_default(context):
            words.append(max(parameter.opts, key=len))
            words += [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)


def _samplers(text: str) -> list[str]:
    """The names in a list with commas."""
    from prescore.cli.comparison import split_name

    names = _different("--samplers", [word.strip() for word in text.split(",") if word.strip()])
    for name in names:
        split_name(name)
    return names


def _calls(text: str) -> list[int]:
    """The numbers in a list with commas, from the smallest."""
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise PrescoreError(f"--calls: {text!r} given; positive whole numbers with commas are needed, such as 6,10,20")
    return sorted(_different("--calls", numbers))


def _different(flag: str, values: list[Value]) -> list[Value]:
    """The values, which have to be some, and none twice."""
    if not values:
        raise PrescoreError(f"{flag}: none given")
    for value in values:
        if values.count(value) > 1:
            raise PrescoreError(f"{flag}: {value} is named twice")
    return values
