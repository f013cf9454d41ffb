"""`prescore compare`."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prescore.cli.shared import (
    SEES,
    BatchSize,
    Class,
    Config,
    Device,
    Dtype,
    Guidance,
    Look,
    Model,
    Raw,
    ReferenceKey,
    Seed,
    Start,
    StatisticsFile,
    reads_images,
    which_weights,
)
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    import torch

    from prescore import Denoiser
    from prescore.cli.compare.folder import RunFolder
    from prescore.cli.compare.page import Report
    from prescore.comparison.reference import Reference
    from prescore.comparison.runs import Run
    from prescore.jackknife import Estimate

PANEL = "What the samples are compared with"
NUMBERS = 2 * 4  # bytes for each number of the samples of a run, which are measured at once
HEADLINE = ("frechet", "kernel", "spectrum")  # metrics that a terminal has room for


@reads_images
def compare(
    context: typer.Context,
    model: Model,
    samplers: Annotated[
        str,
        typer.Option(
            help="Which samplers, with commas, with options and grids where they are not the usual ones: "
            "'unipc,pds[alpha=4,pixel,snr=0.075],dpmpp-2m@karras,auto'."
        ),
    ],
    calls: Annotated[str, typer.Option(help="Numbers of network calls that each may make, with commas: 6,10,20.")],
    out: Annotated[Path, typer.Option(help="The folder to write: report.html, results.json, .csv, the samples.")],
    look: Look,
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
            help=SEES,
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
            show_default="5000",
            rich_help_panel=PANEL,
        ),
    ] = None,
    reference_key: ReferenceKey = None,
    n: Annotated[int, typer.Option("--n", "--samples", help="Number of samples of each run.")] = 64,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    statistics: StatisticsFile = None,
    start: Start = None,
    class_: Class = None,
    guidance: Guidance = None,
    config: Config = None,
    raw: Raw = False,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Draw the same seeds by several samplers with several numbers of network calls, and report which is best.

    The report is one HTML file: pictures side by side, quality against calls and seconds, spectra, and a table.

    Ctrl-C leaves the finished runs in the folder; the same command draws the others, and more samplers or numbers of
    calls may be added. Under torchrun, or accelerate launch, the processes share the runs.
    """
    from prescore.cli.compare.folder import RunFolder
    from prescore.cli.compare.page import check_parts, write_report
    from prescore.cli.plan import choose_classes, count_seeds, open_model, opened_settings, whole_numbers
    from prescore.cli.report import facts, show
    from prescore.comparison.drawing import draw_missing
    from prescore.comparison.reference import Reading, open_reference
    from prescore.comparison.runs import plan_runs, uses_statistics
    from prescore.limits import check_size
    from prescore.metrics.measuring import metric_names
    from prescore.output.drawing import PATIENCE
    from prescore.processes import processes_on

    check_parts()
    names, numbers, asked = _samplers(samplers), whole_numbers("calls", calls), metric_names(metrics)
    seeds = count_seeds(seed, n)
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not positive")
    if statistics is not None and reference is not None and not any(uses_statistics(name, start) for name in names):
        raise PrescoreError("--statistics: none of the samplers has a use for statistics")
    with processes_on(device or "cpu", PATIENCE) as processes:
        how: dict[str, Any] = {"weights": which_weights(raw), "dtype": dtype, "guidance": guidance}
        how |= {"device": None if device is None else str(processes.device)}
        opened = open_model(model, config=config, **how)
        denoiser, chosen = opened.denoiser, choose_classes(opened.description, class_, guidance)
        check_size("n", n, NUMBERS * math.prod(denoiser.picture_shape))
        runs = plan_runs(denoiser, names, numbers, statistics, opened_settings(opened, chosen), start)
        look = look | {"key": reference_key}
        reading = Reading(features, asked, reference_n, look)
        beside = open_reference(reference, reading, denoiser, statistics, n, seed)
        common = opened_settings(opened, chosen)
        common |= {"seed": seed, "n": n, "batch_size": batch_size, "hardware": hardware(denoiser.device)}
        store = RunFolder(out, common | dict(beside.settings))
        name = opened.name
        head = {
            "model": f"{name}, digest {common['model_sha256']}",
            **({"file": model} if name != model else {}),
            "reference": beside.text,
            **({"features": beside.features} if beside.features else {}),
            "samples": f"{n} of each run, seeds {seeds[0]} to {seeds[-1]}, the same in all",
            **({"classes": f"{', '.join(map(str, chosen.indices))}, in turn"} if chosen else {}),
            **({} if guidance is None else {"guidance": f"{guidance:g}, two network calls an evaluation"}),
            "network": f"{dtype}, {min(batch_size, n)} samples in a call, {common['hardware']}",
            "library": f"prescore {common['prescore']}",
        }
        if processes.is_first:
            print(facts(head | {"out": out}), flush=True)
        condition_of = chosen.condition if chosen else None
        draw_missing(
            runs, store, seeds, min(batch_size, n), condition_of, beside.measure, beside.value_range, True, processes
        )
        if not processes.is_first:
            return
    title = f"{name}: samplers compared"
    report = make_report(title, head, command_line(context), store, runs, seeds, denoiser, beside)
    write_report(out, report)
    print(f"\n{as_text(report)}\n\nThe report is {show(out / 'report.html')}.", flush=True)
    if all(result.failure is not None for _, result in report.runs):
        raise PrescoreError(f"samplers: every run failed, the first because {report.runs[0][1].failure}")


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
    store: "RunFolder",
    runs: Sequence["Run"],
    seeds: Sequence[int],
    denoiser: "Denoiser",
    beside: "Reference",
) -> "Report":
    """What the folder holds of these runs.

    Args:
        head: what was compared.
        command: that makes the report again.
        seeds: of each run.
        beside: what they were compared with.
    """
    from prescore.cli.compare.page import Report, pictures_in_a_row
    from prescore.comparison.reference import ReferenceFigures
    from prescore.images import is_picture, to_uint8

    row = pictures_in_a_row(denoiser.picture_shape)
    results = [(run, store.result(run)) for run in runs]
    finished = [(run, result) for run, result in results if result is not None]
    shown = finished if is_picture(denoiser.picture_shape) else []
    pictures = {
        run.key: to_uint8(store.pictures(run, row), beside.value_range)
        for run, result in shown
        if result.failure is None
    }
    pictures |= {} if beside.pictures is None else {"": beside.pictures[: len(seeds[:row])]}
    figures = store.figures(denoiser.picture_shape) or ReferenceFigures()
    floor = "none" if figures.floor is None else f"{len(seeds)} of the true images beside the others"
    return Report(
        title=title,
        facts={**head, "floor": floor},
        command=command,
        runs=finished,
        figures=figures,
        n=len(seeds),
        seeds=seeds[:row],
        pictures=pictures,
        settings=store.settings,
        lacking=beside.lacking,
    )


def as_text(report: "Report") -> str:
    """The most telling numbers as a table for a terminal, and the notes."""
    from prescore.cli.compare.page import COLUMNS, values_of
    from prescore.cli.report import calls_text, show, table
    from prescore.comparison.runs import estimates_of

    shown = [name for name in report.metrics if name in HEADLINE] or report.metrics
    rows = []
    for run, result in report.runs:
        texts = [_value(result.estimates.get(name)) for name in shown]
        rows.append(["failed" if value is None else value for value in values_of(run, result, [])] + texts)
    if (floor := report.figures.floor) is not None:
        true = estimates_of(floor, {})
        errors = report.figures.floor_errors or {}
        texts = [_value(true.get(name), errors.get(name)) for name in shown]
        rows.append([f"true samples (n = {report.n})", *[""] * (len(COLUMNS) - 1), *texts])
    notes = [
        f"failed: {run.name} with {calls_text(run.calls)}, {result.failure}"
        for run, result in report.runs
        if result.failure
    ]
    lines = "".join(f"\nnote: {show(note)}" for note in (*report.notes, *notes))
    verdict = f"\n\n{show(report.verdict)}" if report.verdict else ""
    return f"{table([*COLUMNS, *shown], rows)}{verdict}{lines and chr(10)}{lines}"


def _value(estimate: "Estimate | None", error: float | None = None) -> str:
    """A metric with its error, its own or the one that is given; "failed" without one."""
    from prescore.jackknife import with_error

    return "failed" if estimate is None else with_error(estimate.value, estimate.error if error is None else error)


def command_line(context: typer.Context) -> str:
    """What to type to run the command again: its arguments, and the options that were given."""
    words = ["prescore", "compare"]
    for parameter in context.command.params:
        value = context.params[parameter.name or ""]
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is not None and value != parameter.get_default(context):
            words.append(next((flag for flag in parameter.opts if flag.startswith("--")), parameter.opts[0]))
            words += [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)


def _samplers(text: str) -> list[str]:
    """The names in a list with commas."""
    from prescore.cli.plan import different
    from prescore.comparison.runs import parse_run, split_runs

    names = different("samplers", split_runs(text))
    for name in names:
        parse_run(name)
    return names
