"""Every line of Python on the pages runs, and every command on them is one."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer

import prescore
from prescore.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def blocks_of(name: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / name).read_text())


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Stands for any network: finite, of the shape of its input."""
    return 0.1 * x


def test_times_of_a_network_are_those_that_the_page_says() -> None:
    called: list[torch.Tensor] = []
    names = {f"{kind}_network": network for kind in ("velocity", "flow", "score", "data", "edm")}
    names["noise_network"] = lambda x, t: called.append(t) or 0.1 * x
    code = [block for block in blocks_of("own-model.md") if "import" in block or "integer_time" in block]
    exec("\n".join(line for block in code for line in block.splitlines() if " = prescore.draw" not in line), names)
    for made in ("fractions", "whole", "scaled"):
        names[made](torch.zeros(1, 3, 8, 8), torch.tensor(1.0))
    said = re.findall(r"is called with ([\d.]+)|# with ([\d.]+)", "\n".join(code))
    assert [f"{t.item():.2f}".removesuffix(".00") for t in called] == [a or b for a, b in said]
    assert [t.dtype for t in called] == [torch.float32, torch.int64, torch.float32]


# Pages of which each block goes on from those before, what they take from the user, and what is made smaller in them.
RUN: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "checkpoints.md": ({"prescore": prescore}, {"checkpoint.pth": "mnist-edm"}),
    "training.md": (
        {"prescore": prescore, "sampler": prescore.make_sampler("ddim", steps=1)},
        {"runs/latent/model.safetensors": "mnist-edm", "range(16)": "range(2)"},
    ),
    "own-model.md": (
        {f"{kind}_network": network for kind in ("noise", "velocity", "flow", "score", "data", "edm")},
        {},
    ),
    "index.md": ({}, {"range(16)": "range(2)", "n=16": "n=2"}),
    "without-data.md": ({}, {}),
    "beyond.md": ({}, {"calls=39": "calls=5"}),
}
ELSEWHERE = {"integrations.md", "architecture.md"}  # tests/adapters/test_integrations.py, contracts/test_new_solver.py


@pytest.mark.filterwarnings("ignore::prescore.errors.ModelWarning")
@pytest.mark.parametrize("page", RUN)
def test_python_runs(page: str) -> None:
    given, smaller = RUN[page]
    names, code = dict(given), "\n".join(blocks_of(page))
    for large, small in smaller.items():
        assert large in code
        code = code.replace(large, small)
    exec(compile(code, page, "exec"), names)
    assert all(value.isfinite().all() for value in names.values() if isinstance(value, torch.Tensor))
    if page == "beyond.md":
        assert torch.stack(names["film"]).shape == (8, 4, 3, 32, 32)
        assert (names["known"] * (names["filled"] - names["y"])).abs().max() < 0.1
        assert (names["edited"] - names["x"]).std() < names["x"].std()


def test_no_page_has_python_that_is_not_run() -> None:
    with_blocks = {page.name for page in PAGES[1:] if BLOCK.search(page.read_text())}
    assert with_blocks - ELSEWHERE - RUN.keys() == set()


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        lines = re.findall(r"^ {4}((?:torchrun .* -m )?prescore [a-z-]+ .*)$", text, re.MULTILINE)
        found += [(page.name, re.sub(r"(\s{2,}| )#.*", "", line)) for line in lines]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_commands(page: str, line: str) -> None:
    words = shlex.split(line)
    group = typer.main.get_command(app)
    name, *arguments = words[words.index("prescore") + 1 :]
    with group.make_context("prescore", ["--version"]) as context:
        group.commands[name].make_context(name, arguments, parent=context)
