"""The lines of docs/integrations.md run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
BLOCKS = re.findall(r"## ([^\n]+)\n(?:(?!## ).)*?```python\n(.+?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_the_lines_run(title, code):
    names: dict = {}
    try:
        exec(compile(code, title, "exec"), names)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert names["x"].isfinite().all()


def test_every_door_is_on_the_page():
    assert [title for title, _ in BLOCKS] == [
        "diffusers",
        "A pipeline as a denoiser",
        "k-diffusion",
        "Flow matching",
        "sbi",
        "azula",
        "denoising_diffusion_pytorch",
        "torchcfm",
        "ONNX Runtime",
        "JAX",
        "Your own code, from the command line",
    ]
