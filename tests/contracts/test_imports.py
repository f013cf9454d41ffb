"""The layout is the architecture: imports run one way, and the core needs no extra."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prescore

ROOT = Path(prescore.__file__).parent
FLOOR = re.compile(r"^\d+\. ((?:`\w+`(?:, )?)+): \S", re.MULTILINE)
# From the lowest to the highest, as docs/architecture.md lists them.
LAYERS = [
    set(re.findall(r"`(\w+)`", names))
    for names in FLOOR.findall((Path(__file__).parents[2] / "docs" / "architecture.md").read_text())
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
EXTRAS = {
    "accelerate",
    "click",
    "diffusers",
    "jinja2",
    "markupsafe",
    "matplotlib",
    "PIL",
    "pyvips",
    "rich",
    "scipy",
    "tensorboard",
    "typer",
    "yaml",
}


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path):
    """(module, at the top of the file) of each import of a source file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, top


SOURCES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def test_the_page_lists_every_module_once():
    listed = [name for layer in LAYERS for name in layer]
    assert len(listed) == len(set(listed))
    assert set(listed) == {part(path) for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    for module, top in imports(path):
        parts = module.split(".")
        if parts[0] == "prescore":  # the package itself re-exports everything, and is above all but its front ends
            rank = RANK[parts[1]] if len(parts) > 1 else len(LAYERS) - 1
            assert rank <= RANK[part(path)], f"{module} is above {path.relative_to(ROOT)}"
        if part(path) not in ("adapters", "cli", "__main__"):
            assert not (top and parts[0] in EXTRAS), f"{path.name} needs the extra {parts[0]} to be imported"


def test_no_modules_import_each_other():
    """Also inside a folder, and also where an import stands inside a function."""
    names = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}
    below = {name: {m for m, _ in imports(p) if m in names and m != name} for name, p in names.items()}
    inside = {name: {m for m in found if not name.startswith(f"{m}.")} for name, found in below.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(inside[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_importing_prescore_is_light():
    """Only torch, numpy, safetensors and tqdm, whatever else is installed."""
    code = f"import sys, prescore; print(*sorted({EXTRAS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
