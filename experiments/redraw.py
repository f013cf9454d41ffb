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

from prescore.errors import PrescoreError, check_choice

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
        PrescoreError: what is stored is not what the script stores now.
    """
    module, source = script(name), numbers_file(None, name)
    numbers, pictures = json.loads(source.read_text()), read_pictures(pictures_file(None, name))
    try:
        publish(folder, name, module.draw, module.text, numbers, pictures)
    except KeyError as error:
        raise PrescoreError(f"{source}: lacks what its figure shows ({error!r}); run {module.__name__}.py") from error


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
