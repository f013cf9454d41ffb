"""The lines of docs/integrations.md run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
BLOCKS = re.findall(r"## ([^\n]+)\n(?:(?!## ).)*?```python\n(.+?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_the_lines_run(title, code):
    names: dict = {}
    exec(compile(code, title, "exec"), names)
    assert names["x"].isfinite().all()


def test_every_door_is_on_the_page():
    doors = ["diffusers", "A pipeline as a denoiser", "k-diffusion", "Flow matching"]
    assert [title for title, _ in BLOCKS] == doors
