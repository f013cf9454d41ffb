"""How an experiment leaves its results: a figure, its numbers, and its section of docs/results.md.

A script `experiments/NAME.py` adds `--quick` and `--folder` to its options by `add_options` and ends by

    publish(output_folder(options), "NAME", draw, text, numbers)

which writes, each file whole or not at all,

    docs/figures/NAME.png, experiments/results/NAME.json, and the section in docs/results.md between the lines
    <!-- NAME --> and <!-- end NAME -->, in the order of ORDER, or
    DIR/NAME.png, DIR/NAME.json and DIR/NAME.md, if a folder DIR is given; a quick run has one by default.

The figure is `draw(numbers)` and the section `text(numbers)`, functions of the script, of what the JSON file holds and
nothing else: `redraw.py` makes both again without a run. Samples that a figure shows are stored beside the numbers in
NAME.npz (`Pictures`), and it is `draw(numbers, pictures)` then. A section names its figure as `figures/NAME.png`. Runs
of minutes are kept in the JSON file as they finish (`Runs`): a script that was stopped goes on where it was.
"""

import argparse
import importlib
import io
import json
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prescore.cli.plots import png, style
from prescore.data import reading
from prescore.errors import PrescoreError
from prescore.files import write_atomically

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "experiments" / "quick"
# Of the sections of docs/results.md; names that do not stand here follow, sorted.
ORDER = (
    "toy_gaussian",
    "power_law",
    "steps_grid_mnist_ve",
    "steps_grid_natural_edm",
    "steps_grid_emoji_ve",
    "steps_grid_topography_edm",
    "distance_tables",
    "seconds_per_iteration",
    "subspace",
    "conditioning",
    "alpha_relation",
    "alpha_samples",
    "automatic_alpha",
    "skew",
    "skew_steps",
    "ncsn_mnist",
    "ncsnv2_steps",
    "latent_mnist",
    "latent_langevin",
    "latent_colour",
    "edm_stochasticity",
    "edm_schedules",
    "edm_training",
    "seeds_tables",
    "seeds_trajectories",
)
WIDTH, WRAPPING = 118, {"break_long_words": False, "break_on_hyphens": False}
TITLE = """# Results

What the papers show beside what comes out here. Each section is written by the script of its name in `experiments/`
(`make experiments`; hours), its numbers stand in `experiments/results/`. Data and weights that cannot be had are
replaced by the shipped models and their data, and named so; a script takes the original ones by path.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --quick, --folder and --fresh."""
    parser.add_argument("--quick", action="store_true", help="a run of seconds, to see that it works; not for docs/")
    parser.add_argument(
        "--folder",
        type=Path,
        help="write NAME.png, .json and .md here [docs/; with --quick: experiments/quick]",
    )
    parser.add_argument("--fresh", action="store_true", help="do again what an earlier run has finished")


def output_folder(options: argparse.Namespace) -> Path | None:
    """Where results go; None is the project itself.

    Raises:
        PrescoreError: --folder is a file.
    """
    if options.folder is None:
        return QUICK if options.quick else None
    if options.folder.exists() and not options.folder.is_dir():
        raise PrescoreError(f"--folder: {options.folder} is a file; name a folder")
    return options.folder


def publish(
    folder: Path | None,
    name: str,
    draw: Callable[..., Any],
    text: Callable[[Mapping[str, Any]], str],
    numbers: Mapping[str, Any],
    pictures: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the figure, the numbers, the pictures and the section of experiment `name`.

    Args:
        folder: of the files; None is the project itself.
        draw: the figure, of the numbers, and of the pictures if there are any.
        text: the section, of the numbers: markdown; its paragraphs are wrapped.
        numbers: what JSON can hold; a number that is not finite becomes null. Both functions see them as a file has
            them.
        pictures: samples that the figure shows, as `Pictures` keeps them.
    """
    stored = json.loads(_json(numbers))
    with style():
        figure = png(draw(stored) if pictures is None else draw(stored, pictures))
    section = wrapped(text(stored))
    _write(numbers_file(folder, name), _json(numbers))
    if pictures is not None:
        _write(pictures_file(folder, name), _npz(pictures))
    if folder is None:
        document = ROOT / "docs" / "results.md"
        _write(ROOT / "docs" / "figures" / f"{name}.png", figure)
        old = document.read_text() if document.is_file() else TITLE
        _write(document, with_section(old, name, section).encode())
    else:
        _write(folder / f"{name}.png", figure)
        _write(folder / f"{name}.md", section.replace(f"figures/{name}.png", f"{name}.png").encode())


def numbers_file(folder: Path | None, name: str) -> Path:
    """The JSON file of experiment `name`."""
    return (folder or ROOT / "experiments" / "results") / f"{name}.json"


def pictures_file(folder: Path | None, name: str) -> Path:
    """The .npz file of the pictures of experiment `name`."""
    return numbers_file(folder, name).with_suffix(".npz")


def with_section(document: str, name: str, section: str) -> str:
    """The document with the section in place of the one of that name, or where ORDER wants it."""
    block = f"<!-- {name} -->\n{section}<!-- end {name} -->\n"
    found = {m[1]: m for m in re.finditer(r"^<!-- (\w+) -->\n.*?^<!-- end \1 -->\n", document, re.M | re.S)}
    if name in found:
        return document[: found[name].start()] + block + document[found[name].end() :]
    later = [m.start() for other, m in found.items() if _place(other) > _place(name)]
    if later:
        return document[: min(later)] + block + "\n" + document[min(later) :]
    return document.rstrip("\n") + "\n\n" + block


def wrapped(section: str) -> str:
    """Markdown with its paragraphs in lines of WIDTH; tables, lists, headings and pictures stay as they are."""
    blocks = re.split(r"\n\n+", section.strip())
    return "\n\n".join(block if block[0] in "|-#!<" else _filled(block) for block in blocks) + "\n"


def _filled(paragraph: str) -> str:
    # A line that starts with one of these signs would be an item of a list; the space before it does not break.
    joined = re.sub(r"\s([-+*])\s", "\u00a0\\1 ", paragraph)
    return textwrap.fill(joined, WIDTH, **WRAPPING).replace("\u00a0", " ")


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; floats with three digits, None (a run that diverged) as a dash."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    """An entry of a table."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if not isinstance(value, float):
        return str(value)
    # Without an exponent below 100,000, where %g has one from 1000 on.
    return f"{value:.0f}" if 999.5 <= abs(value) < 99999.5 else f"{value:.3g}"


@dataclass(frozen=True)
class Runs:
    """Numbers of runs, kept in a JSON file that is written after each: what is there already is not run again.

    Args:
        path: of the file.
        settings: of all runs; a file with others is refused.
        runs: by name.
    """

    path: Path
    settings: Mapping[str, Any]
    runs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, options: argparse.Namespace, name: str, settings: Mapping[str, Any]) -> "Runs":
        """Those of experiment `name`; none of an earlier run if --fresh or --quick is given.

        Raises:
            PrescoreError: the file is of other settings, or no file of runs.
        """
        path, fresh = numbers_file(output_folder(options), name), options.fresh or options.quick
        settings = _plain(settings)
        if fresh or not path.is_file():
            return cls(path, settings)
        try:
            content = json.loads(path.read_text())
            runs, other = content["runs"], content["settings"]
        except (ValueError, KeyError, TypeError):
            raise PrescoreError(f"{path}: holds no runs; remove it, or give --fresh or another --folder") from None
        if other != settings:
            raise PrescoreError(f"{path}: its runs have other settings; give --fresh or another --folder")
        return cls(path, settings, runs)

    def get(self, name: str, run: Callable[[], Any]) -> Any:
        """The numbers of the run of that name, from the file or from `run()`, as JSON holds them."""
        if name not in self.runs:
            self.runs[name] = _plain(run())
            _write(self.path, _json(self.numbers))
        return self.runs[name]

    @property
    def numbers(self) -> dict[str, Any]:
        """What `publish` is to be given, alone or with further entries."""
        return {"settings": self.settings, "runs": self.runs}


@dataclass(frozen=True)
class Pictures:
    """Pictures that a figure shows, kept as `Runs` keeps numbers: uint8 (n, C, H, W), n = 0 where a run diverged.

    Args:
        path: of the .npz file, which is written by `publish`.
        pictures: by name.
    """

    path: Path
    pictures: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def open(cls, options: argparse.Namespace, name: str) -> "Pictures":
        """Those of experiment `name`; none of an earlier run if --fresh or --quick is given."""
        path = pictures_file(output_folder(options), name)
        return cls(path, {} if options.fresh or options.quick else read_pictures(path) or {})

    def get(self, name: str, draw: Callable[[], Tensor | None]) -> Tensor:
        """The pictures of that name, from the file or from `draw()`, which gives None for a run that diverged."""
        if name not in self.pictures:
            x = draw()
            self.pictures[name] = torch.zeros(0, 1, 1, 1, dtype=torch.uint8) if x is None else x.cpu()
        return self.pictures[name]


def read_pictures(path: Path) -> dict[str, Tensor] | None:
    """The pictures of a .npz file; None if there is no such file. Raises PrescoreError if it is damaged."""
    if not path.is_file():
        return None
    with reading(path), np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def benchmark(name: str) -> ModuleType:
    """A module of the folder benchmarks/, whose problems and timings experiments share."""
    folder = str(ROOT / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def command(main: Callable[[], None]) -> None:
    """Run a script: an error of its input, or Ctrl-C, is one line and exit code 2, or 130."""
    try:
        main()
    except PrescoreError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the runs that were finished are kept", file=sys.stderr)
        raise SystemExit(130) from None


def _plain(value: Any) -> Any:
    """As it comes back from a JSON file, with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(numbers: Mapping[str, Any]) -> bytes:
    return (json.dumps(_plain(numbers), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _npz(pictures: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: x.numpy() for name, x in pictures.items()})
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
