"""The README's Python runs as it stands, on small things of the names that it takes from the user."""

import re
from pathlib import Path

import pytest
import torch

import prescore

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def noise_prediction(x_t, t):
    """The exact one for data N(0, 1/16) in the scaled coordinates of the linear betas."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].to(x_t)
    alpha_bar = alpha_bar.reshape(-1, *(1,) * (x_t.ndim - 1))
    return (1 - alpha_bar).sqrt() * x_t / (alpha_bar / 16 + 1 - alpha_bar)


PHOTOS = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
# What each block takes from the user, and what of it is made smaller.
GIVEN = {
    "import prescore": ({}, {"n=64": "n=2", "range(1000), batch_size=100": "range(2), batch_size=2"}),
    "from_noise_prediction": (
        {"network": noise_prediction, "photos": PHOTOS},
        {"(3, 64, 64)": "(3, 8, 8)", "calls=(5, 8)": "calls=(5,), trajectories=2, tries=1, levels=4"},
    ),
}


@pytest.mark.filterwarnings("ignore::prescore.errors.ModelWarning")  # the network is exact for other photographs
@pytest.mark.parametrize(("key", "block"), zip(GIVEN, BLOCKS, strict=True))
def test_a_block_runs(key, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, smaller = GIVEN[key]
    assert key in block
    for large, small in smaller.items():
        assert large in block
        block = block.replace(large, small)
    scope = {"torch": torch, "prescore": prescore, **names}
    exec(block, scope)
    assert scope["images"].shape[1] == 3
    assert scope["images"].isfinite().all()
