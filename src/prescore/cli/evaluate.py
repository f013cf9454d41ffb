"""`prescore evaluate`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prescore.cli.shared import READING, SEES, Look, ReferenceKey, reads_images
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from prescore.comparison.evaluate import Evaluation
    from prescore.metrics import Features, SetStatistics

SHOWN = 12  # digits of a digest


@reads_images
def evaluate(
    samples: Annotated[
        list[Path], typer.Argument(help="Folders, of pictures or shards, zips of images, .npz, .npy or IDX files.")
    ],
    reference: Annotated[
        Path, typer.Option(metavar="DATA|STATS", help="True images, as for SAMPLES, or a file from --save-reference.")
    ],
    look: Look,
    features: Annotated[
        str | None,
        typer.Option(
            help=SEES,
            show_default="means-2x2; pixels where a side is odd, and of what is no picture",
        ),
    ] = None,
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
    trajectory: Annotated[
        Path | None,
        typer.Option(
            metavar="STATES",
            help="Also V_coo and R_coo of these states, .npy (T, n, ...), as from `prescore sample --trajectory`.",
        ),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the result to this file as well.")] = None,
    n: Annotated[
        int | None, typer.Option("--n", "--samples", help="Take at most this many samples, drawn at random.")
    ] = None,
    reference_n: Annotated[int | None, typer.Option("--reference-n", help="The same of the true images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of these draws and of the floor's.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images in one call of the extractor.")] = 256,
    device: Annotated[str | None, typer.Option(help="Where the extractor runs: cpu, cuda, ...")] = None,
    key: Annotated[
        str | None, typer.Option(help="Which array of an .npz holds the samples.", rich_help_panel=READING)
    ] = None,
    reference_key: ReferenceKey = None,
) -> None:
    """Compare samples with true images: distances, fidelity and diversity, spectra, pixels.

    Files are read in batches; under torchrun, or accelerate launch, each process measures its part of them.
    """
    from prescore.cli.report import show
    from prescore.comparison import evaluate as compared
    from prescore.comparison.reference import usual_features
    from prescore.data import open_images
    from prescore.files import check_writable, write_atomically
    from prescore.metrics import make_features
    from prescore.metrics import save_reference as save
    from prescore.metrics.io import is_reference
    from prescore.metrics.measuring import conditioning_of, metric_names
    from prescore.output.drawing import PATIENCE
    from prescore.processes import processes_on

    if save_reference and json_out and os.path.realpath(save_reference) == os.path.realpath(json_out):
        raise PrescoreError(f"--json, --save-reference: both are {json_out}; name two files")
    for path in (save_reference, json_out):
        if path is not None:
            check_writable(path)
    names = metric_names(metrics)
    look = look | {"seed": seed}

    with processes_on(device or "cpu", PATIENCE) as processes:

        def extractor_of(shape: tuple[int, ...]) -> "Features":
            return make_features(features or usual_features(shape[1:]), shape[1:], processes.device)

        images = open_images(samples, key=key, n=n, clip=True, check=extractor_of, **look)
        extractor = extractor_of(images.shape)
        stored = is_reference(reference)
        given = {"--save-reference": save_reference, "--reference-n": reference_n, "--reference-key": reference_key}
        for option, value in given.items():
            if stored and value is not None:
                raise PrescoreError(f"{option}: {reference} holds statistics, and no images")
        found = compared(
            images,
            reference if stored else open_images([reference], key=reference_key, n=reference_n, **look),
            features=extractor,
            metrics=names,
            floor=floor,
            seed=seed,
            batch_size=batch_size,
            data_range=look["data_range"],
            progress=processes.is_first,
            processes=processes,
        )
        if not processes.is_first:
            return
    conditioning = None if trajectory is None else conditioning_of(trajectory)
    if save_reference is not None:
        save(found.reference.reference, save_reference)
    if json_out is not None:
        write_atomically(json_out, as_json(samples, reference, found, conditioning))
    print(as_text(samples, reference, found, conditioning))
    for path in (save_reference, json_out):
        if path is not None:
            print(f"written to {show(path)}")


def as_text(
    samples: Sequence[Path],
    reference: Path,
    found: "Evaluation",
    conditioning: Mapping[str, Any] | None = None,
) -> str:
    """The result as tables for a terminal."""
    from prescore.cli.report import facts, show, table
    from prescore.metrics import CONDITIONING
    from prescore.metrics.evaluation import HIGHER_IS_BETTER
    from prescore.metrics.measuring import hexadecimal

    own, sets, floor = found.samples, found.reference, found.floor
    digest = hexadecimal(sets.reference.digest)[:SHOWN]
    what = "image" if len(own.shape) == 3 else "sample"
    head = {
        "samples": f"{own.count} {what}s {show(own.shape)}, {', '.join(map(str, samples))}",
        "reference": f"{sets.reference.count} {what}s, {reference}, digest {digest}",
        "features": f"{own.extractor['name']}, {own.extractor['dimension']} a{'n' * (what == 'image')} {what}",
    }
    columns = ["metric", f"samples (n = {own.count})", "better"]
    rows: list[list[object]] = [
        [name, value, "higher" if name in HIGHER_IS_BETTER else "lower"] for name, value in found.metrics.items()
    ]
    if floor is not None and sets.held is not None and sets.others is not None:
        head["floor"] = f"{sets.held.count} of the true images beside the other {sets.others.count}"
        columns.insert(2, f"floor (n = {sets.held.count})")
        for row, value in zip(rows, floor.values(), strict=True):
            row.insert(2, value)
    if conditioning is not None:
        head["trajectory"] = f"{conditioning['n']} samples, {conditioning['steps']} steps, {conditioning['path']}"
        rows += [[name, conditioning[name], *[""] * (floor is not None), "lower"] for name in CONDITIONING]
    notes = "".join(f"\nnote: {note}" for note in found.notes)
    return f"{facts(head)}\n\n{table(columns, rows)}\n{notes}"


def as_json(
    samples: Sequence[Path],
    reference: Path,
    found: "Evaluation",
    conditioning: Mapping[str, Any] | None = None,
) -> bytes:
    """The result as JSON."""
    from prescore.metrics.measuring import finite, hexadecimal
    from prescore.version import __version__

    own, sets, floor = found.samples, found.reference, found.floor

    def described(paths: Sequence[Path], of: "SetStatistics") -> dict[str, Any]:
        path = str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]
        return {"path": path, "n": of.count, "digest": hexadecimal(of.digest)}

    true: dict[str, Any] | None = None
    if floor is not None and sets.held is not None and sets.others is not None:
        true = {"n": sets.held.count, "reference_n": sets.others.count, "metrics": finite(floor)}
    result = {
        "samples": described(samples, own),
        "reference": described([reference], sets.reference),
        "image_shape": own.shape,
        "features": own.extractor,
        "metrics": finite(found.metrics),
        "floor": true,
        **({} if conditioning is None else {"trajectory": conditioning}),
        "notes": found.notes,
        "library_version": __version__,
    }
    return (json.dumps(result, indent=1) + "\n").encode()
