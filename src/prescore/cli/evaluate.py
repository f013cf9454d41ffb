"""`prescore evaluate`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from torch import Tensor

    from prescore.metrics import Features, SetStatistics

PANEL = "How images are read"
SHOWN = 12  # digits of a digest


def evaluate(
    samples: Annotated[Path, typer.Argument(help="Folder or zip of images, .npz, .npy or IDX file.")],
    reference: Annotated[
        Path, typer.Option(metavar="DATA|STATS", help="True images, as for SAMPLES, or a file from --save-reference.")
    ],
    features: Annotated[
        str,
        typer.Option(help="What sees the images: mnist-classifier, pixels, means-2x2, efficientnet-lite0, inception."),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Some of frechet, kernel, precision, recall, density, coverage, inception-score, sliced-wasserstein, "
            "spectrum, pixel-mean, pixel-deviation, with commas.",
            show_default="all that are possible",
        ),
    ] = None,
    floor: Annotated[
        bool, typer.Option("--floor", help="Hold as many true images out and show what they reach beside the others.")
    ] = False,
    save_reference: Annotated[
        Path | None, typer.Option(help="Write the statistics of DATA to this file, to be given as STATS.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the result to this file as well.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Take at most this many samples, drawn at random.")] = None,
    reference_n: Annotated[int | None, typer.Option("--reference-n", help="The same of the true images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of these draws and of the floor's.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images in one call of the extractor.")] = 256,
    device: Annotated[str | None, typer.Option(help="Where the extractor runs: cpu, cuda, ...")] = None,
    key: Annotated[
        str | None, typer.Option(help="Which array of an .npz holds the samples.", rich_help_panel=PANEL)
    ] = None,
    reference_key: Annotated[
        str | None, typer.Option(help="Which array of an .npz holds the true images.", rich_help_panel=PANEL)
    ] = None,
    pad: Annotated[
        int | None, typer.Option(help="Pad both to this many pixels a side (MNIST: 32).", rich_help_panel=PANEL)
    ] = None,
    data_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range", metavar="LOW HIGH", help="Range of floats that are not in [0, 1].", rich_help_panel=PANEL
        ),
    ] = None,
) -> None:
    """Compare samples with true images: distances, fidelity and diversity, spectra, pixels."""
    from prescore.data import load_images
    from prescore.device import open_device
    from prescore.files import check_writable, write_atomically
    from prescore.metrics import make_features
    from prescore.metrics import save_reference as save
    from prescore.metrics.io import is_reference

    for path in (save_reference, json_out):
        if path is not None:
            check_writable(path)
    names = _names(metrics)
    images = load_images(samples, key=key, n=n, seed=seed, pad=pad, data_range=data_range)
    extractor = make_features(features, images.shape[1:], open_device(device or "cpu"))
    measuring = Measuring(extractor, names, batch_size, data_range or (0.0, 1.0))
    if is_reference(reference):
        given = {"--save-reference": save_reference, "--reference-n": reference_n, "--reference-key": reference_key}
        for option, value in given.items():
            if value is not None:
                raise PrescoreError(f"{option}: {reference} holds statistics, and no images")
        sets = stored_reference(reference, tuple(images.shape[1:]), extractor, floor)
    else:
        data = load_images(reference, key=reference_key, n=reference_n, seed=seed, pad=pad, data_range=data_range)
        sets = measured_reference(data, images, measuring, floor, seed)
    own = measuring(images)
    comparison = compare(own, sets, names)
    if save_reference is not None:
        save(sets.reference, save_reference)
    if json_out is not None:
        write_atomically(json_out, as_json(samples, reference, own, sets, comparison))
    print(as_text(samples, reference, own, sets, comparison))
    for path in (save_reference, json_out):
        if path is not None:
            print(f"written to {path}")


@dataclass(frozen=True)
class Measuring:
    """How sets of images are measured: both alike."""

    features: "Features"
    metrics: Sequence[str] | None
    batch_size: int
    data_range: tuple[float, float]

    def __call__(self, images: "Tensor") -> "SetStatistics":
        from prescore.metrics import measure

        return measure(
            images,
            self.features,
            self.metrics,
            batch_size=self.batch_size,
            data_range=self.data_range,
            progress=True,
        )


@dataclass(frozen=True)
class Sets:
    """What samples are compared with.

    Attributes:
        reference: all true images.
        held: as many of them as there are samples, for the floor.
        others: the rest, which these are compared with.
        why_none: why a floor that was asked for is not there.
    """

    reference: "SetStatistics"
    held: "SetStatistics | None" = None
    others: "SetStatistics | None" = None
    why_none: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Metrics of the samples, those of the held-out true images, and what to know about them, one line each."""

    values: Mapping[str, float]
    floor: Mapping[str, float] | None
    notes: Sequence[str]


def stored_reference(path: Path, shape: tuple[int, ...], features: "Features", floor: bool) -> Sets:
    """Statistics from a file, which have to be of images of that shape, measured with these features."""
    from prescore.metrics import load_reference

    statistics = load_reference(path)
    try:
        statistics.check_comparable(shape, features.facts)
    except PrescoreError as error:
        raise PrescoreError(f"{path}: {error}") from None
    return Sets(statistics, why_none="the reference is statistics, and true images are needed" if floor else None)


def measured_reference(data: "Tensor", images: "Tensor", measuring: Measuring, floor: bool, seed: int) -> Sets:
    """Statistics of true images, in two parts where a floor is asked for and there are enough."""
    from prescore.metrics import hold_out
    from prescore.metrics.sets import check_shapes

    check_shapes(tuple(images.shape[1:]), tuple(data.shape[1:]))
    parts = hold_out(data, len(images), seed) if floor else None
    if parts is None:
        why = f"the reference has {len(data)} images, and twice the {len(images)} of the samples are needed (--n)"
        return Sets(measuring(data), why_none=why if floor else None)
    held, others = (measuring(part) for part in parts)
    return Sets(held + others, held, others)


def compare(own: "SetStatistics", sets: Sets, names: Sequence[str] | None) -> Comparison:
    """All metrics that are asked for, or that there can be."""
    from prescore.metrics import cautions, obstacles
    from prescore.metrics import evaluate as compute

    values = compute(own, sets.reference, names, progress=True)
    floor = None
    if sets.held is not None and sets.others is not None:
        floor = compute(sets.held, sets.others, list(values), progress=True)
    notes = cautions(own, sets.reference, list(values))
    left_out: dict[str, list[str]] = {}
    for name, reason in obstacles(own, sets.reference).items() if names is None else ():
        left_out.setdefault(reason, []).append(name)
    notes += [f"{', '.join(without)}: left out, {reason}" for reason, without in left_out.items()]
    if sets.why_none is not None:
        notes.append(f"floor: left out, {sets.why_none}")
    return Comparison(values, floor, notes)


def as_text(samples: Path, reference: Path, own: "SetStatistics", sets: Sets, comparison: Comparison) -> str:
    """The result as tables for a terminal."""
    from prescore.cli.report import facts, show, table
    from prescore.metrics.evaluation import HIGHER_IS_BETTER

    head = {
        "samples": f"{own.count} images {show(own.shape)}, {samples}",
        "reference": f"{sets.reference.count} images, {reference}, digest {_hexadecimal(sets.reference)[:SHOWN]}",
        "features": f"{own.extractor['name']}, {own.extractor['dimension']} an image",
    }
    columns = ["metric", f"samples (n = {own.count})", "better"]
    rows: list[list[object]] = [
        [name, value, "higher" if name in HIGHER_IS_BETTER else "lower"] for name, value in comparison.values.items()
    ]
    if comparison.floor is not None and sets.held is not None and sets.others is not None:
        head["floor"] = f"{sets.held.count} of the true images beside the other {sets.others.count}"
        columns.insert(2, f"floor (n = {sets.held.count})")
        for row, value in zip(rows, comparison.floor.values(), strict=True):
            row.insert(2, value)
    notes = "".join(f"\nnote: {note}" for note in comparison.notes)
    return f"{facts(head)}\n\n{table(columns, rows)}\n{notes}"


def as_json(samples: Path, reference: Path, own: "SetStatistics", sets: Sets, comparison: Comparison) -> bytes:
    """The result as JSON; a value that is not finite, such as the spectrum error of black images, is null."""
    from prescore.precondition.statistics import library_version

    def described(path: Path, of: "SetStatistics") -> dict[str, Any]:
        return {"path": str(path), "n": of.count, "digest": _hexadecimal(of)}

    def finite(values: Mapping[str, float]) -> dict[str, float | None]:
        return {name: value if isfinite(value) else None for name, value in values.items()}

    floor: dict[str, Any] | None = None
    if comparison.floor is not None and sets.held is not None and sets.others is not None:
        floor = {"n": sets.held.count, "reference_n": sets.others.count, "metrics": finite(comparison.floor)}
    result = {
        "samples": described(samples, own),
        "reference": described(reference, sets.reference),
        "image_shape": own.shape,
        "features": own.extractor,
        "metrics": finite(comparison.values),
        "floor": floor,
        "notes": comparison.notes,
        "library_version": library_version(),
    }
    return (json.dumps(result, indent=1) + "\n").encode()


def _names(metrics: str | None) -> list[str] | None:
    """The metrics that a list with commas names."""
    from prescore.errors import check_choice
    from prescore.metrics import METRICS

    if metrics is None:
        return None
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in names:
        check_choice("--metrics", name, METRICS)
    if not names:
        raise PrescoreError(f"--metrics: none named; known: {', '.join(METRICS)}")
    return names


def _hexadecimal(statistics: "SetStatistics") -> str:
    return f"{statistics.digest:064x}"
