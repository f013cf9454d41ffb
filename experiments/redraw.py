"""Draw figures and write sections of docs/results.md again from stored results; nothing is sampled.

python experiments/redraw.py                          # all that have results
python experiments/redraw.py skew steps_grid_mnist_ve --folder out
"""

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from publish import ORDER, command, numbers_file, output_folder, pictures_file, publish, read_pictures

from prescore.data.guards import in_one_line, reading
from prescore.errors import PrescoreError, check_choice

# What numbers raise in a figure or a text that they are not for.
UNLIKE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
SHARED = {"steps_grid_": "steps_grid", "latent_colour": "latent_langevin"}  # names of results that one script makes


def script(name: str) -> ModuleType:
    """The module whose `draw` and `text` show the results of that name."""
    found = [module for start, module in SHARED.items() if name.startswith(start)]
    return importlib.import_module(found[0] if found else name)


def stored() -> list[str]:
    """The names of all stored results, in the order of docs/results.md."""
    return [name for name in ORDER if numbers_file(None, name).is_file()]


def redraw(name: str, folder: Path | None) -> None:
    """Publish stored results again, in the project or in a folder.

    Raises:
        PrescoreError: what is stored is damaged, or not what the script stores now.
    """
    module, source = script(name), numbers_file(None, name)
    with reading(source):
        numbers = json.loads(source.read_text(encoding="utf-8"))
    pictures = read_pictures(shown := pictures_file(None, name))
    try:
        publish(folder, name, module.draw, module.text, numbers, pictures)
    except UNLIKE as error:
        files = source if pictures is None else f"{source}, {shown.name}"
        raise PrescoreError(
            f"{files}: damaged, or of another version, without all that the figure shows ({type(error).__name__}: "
            f"{in_one_line(error)}); restore it, or run {module.__name__}.py"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw figures again from stored results")
    parser.add_argument("names", nargs="*", help="of results [all]")
    parser.add_argument("--folder", type=Path, help="write NAME.png, .json and .md here [docs/]")
    parser.set_defaults(quick=False)
    options = parser.parse_args(arguments)
    for name in options.names:
        check_choice("name", name, stored())
    for name in options.names or stored():
        redraw(name, output_folder(options))


if __name__ == "__main__":
    command(main)
