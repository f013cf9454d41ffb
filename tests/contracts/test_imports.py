"""The layout is the architecture: imports run one way, and the core needs no extra."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prescore

ROOT = Path(prescore.__file__).parent
LAYERS = [
    {"errors"},
    {"assets", "device", "files"},
    {"data", "images"},
    {"schedule", "grid", "noise", "operators"},
    {"denoiser", "oracle"},
    {"precondition"},
    {"samplers"},
    {"models"},
    {"checkpoints"},
    {"training"},
    {"metrics"},
    {"cli", "__main__"},
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


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    for module, top in imports(path):
        parts = module.split(".")
        if parts[0] == "prescore" and len(parts) > 1:
            assert RANK[parts[1]] <= RANK[part(path)], f"{module} is above {path.relative_to(ROOT)}"
        if part(path) not in ("cli", "__main__"):
            assert not (top and parts[0] in EXTRAS), f"{path.name} needs the extra {parts[0]} to be imported"


def test_importing_prescore_is_light():
    """Only torch, numpy, safetensors and tqdm, whatever else is installed."""
    code = f"import sys, prescore; print(*sorted({EXTRAS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
