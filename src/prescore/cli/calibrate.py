"""`prescore calibrate`."""

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Measure what a preconditioner needs to know about the data, on about 200 examples."""
    from prescore.cli.info import describe_statistics
    from prescore.data import load_images
    from prescore.files import check_writable
    from prescore.precondition import calibrate as measure
    from prescore.precondition import save_statistics

    check_writable(out)
    images = load_images(data, key=key, n=n, seed=seed, pad=pad, data_range=data_range)
    statistics = measure(images, data_range=data_range or (0.0, 1.0))
    description = describe_statistics(statistics)  # refuses data that no preconditioner can be built from
    save_statistics(statistics, out)
    print(description)
    print(f"\nwritten to {out}")
