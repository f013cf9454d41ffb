"""`prescore convert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.shared import Config, Raw, which_weights
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from prescore.checkpoints import StoredModel


def convert(
    model: Annotated[str, typer.Argument(help="A checkpoint of any format, a folder of diffusers, or a shipped name.")],
    out: Annotated[Path, typer.Option(help="The model file to write (safetensors).")],
    config: Config = None,
    raw: Raw = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Store the weights as float16 or bfloat16, half the size, or float32.", show_default="as they are"
        ),
    ] = None,
) -> None:
    """Write a model of any format as one file of prescore's own: weights and how to call them, no code, no optimiser.

    The file is read back and compared before the command ends.
    """
    from prescore.checkpoints.detect import locate, read
    from prescore.checkpoints.native import read as read_back
    from prescore.checkpoints.native import save_model
    from prescore.checkpoints.stored import build_parts, naming
    from prescore.cli.info import describe_model
    from prescore.cli.plan import DTYPES
    from prescore.cli.report import show
    from prescore.errors import check_choice
    from prescore.files import check_writable

    kinds = {name: DTYPES[name] for name in ("float16", "bfloat16", "float32")}
    if dtype is not None:
        check_choice("dtype", dtype, kinds)
    source = locate(model)
    check_writable(out)
    if out.exists() and out.resolve() == source.resolve():
        raise PrescoreError(f"{out}: is the model itself; name another file")
    if out.exists() and not out.is_file():
        raise PrescoreError(f"{out}: is no file, and what is written is read back; name a file")
    with naming(source):
        stored = read(source, config=config, weights=which_weights(raw))
        build_parts(stored)
    save_model(out, stored.description, stored.state, None if dtype is None else kinds[dtype])
    with naming(out):
        compare(read_back(out, weights=stored.description.weights), stored)
    print(describe_model(str(out)))
    print(f"\n{out.stat().st_size / 1e6:.1f} MB written to {show(out)}")


def compare(written: "StoredModel", stored: "StoredModel") -> None:
    """Raise PrescoreError if a model that was written and read back has other names, shapes or values."""
    if written.state.keys() != stored.state.keys():
        raise PrescoreError("the file that was written has other names than the model")
    for name, value in stored.state.items():
        found = written.state[name]
        if found.shape != value.shape or not found.equal(value.to(found.dtype)):
            raise PrescoreError(f"the weight {name!r} was not written as it is")
