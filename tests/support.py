"""What several test modules share."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prescore import checkpoints
from prescore.checkpoints import ModelDescription
from prescore.denoiser import Denoiser
from prescore.noise import NoiseSource
from prescore.statistics import Statistics

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"


def reference(name: str) -> dict[str, Tensor]:
    """Tensors recorded from an original implementation; the test is skipped where they are not."""
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"no recorded numbers {name} beside the repository")
    return load_file(path)


class Replay(NoiseSource):
    """A noise source that returns given draws in order."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self.draws = iter(draws)

    def __call__(self) -> Tensor:
        return next(self.draws)

    uniform = __call__


class BrownianNoise(NoiseSource):
    """Draws of one Brownian path in the clock u = sigma^2, seen at the levels of any grid coarser than `fine`.

    Args:
        fine: decreasing levels, (n + 1,).  normals: one standard normal a fine step, (n, B, *event).
        levels: a subset of `fine`.
        initial: the state at the highest level over sigma_max, returned by the first call.
    """

    def __init__(self, fine: Tensor, normals: Tensor, levels: Tensor, initial: Tensor) -> None:
        steps = (fine[:-1] ** 2 - fine[1:] ** 2).sqrt().reshape(-1, *(1,) * (normals.ndim - 1))
        path = torch.cat([torch.zeros_like(normals[:1]), (steps * normals).cumsum(0)])
        at = torch.searchsorted(-fine, -levels)
        size = (levels[:-1] ** 2 - levels[1:] ** 2).sqrt().reshape(-1, *(1,) * (normals.ndim - 1))
        self.draws = iter([initial, *(path[at].diff(dim=0) / size)])

    def __call__(self) -> Tensor:
        return next(self.draws)


def filter_weights(*shape: int, axes: int = 2, seed: int = 0) -> Tensor:
    """A half spectrum between 1 and 2 that a real filter on events of `shape` may have."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    power = torch.fft.rfftn(x, dim=tuple(range(-axes, 0))).abs()
    return 1 + power / power.max()


def with_moments(statistics: Statistics, **changes: Any) -> Statistics:
    """The statistics with other entries of their moments."""
    return replace(statistics, moments=replace(statistics.moments, **changes))


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of a - b over the norm of b."""
    return ((a - b).norm() / b.norm()).item()


def slope(sizes: Iterable[float], errors: Iterable[float]) -> float:
    """Fitted order: least-squares slope of log error against log step."""
    x, y = (torch.tensor(list(v), dtype=torch.float64).log() for v in (sizes, errors))
    x = x - x.mean()
    return ((x * y).sum() / (x * x).sum()).item()


def with_function(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], **attributes: Any) -> None:
    """Let the model that a command opens be this function of (model, x, sigma)."""

    def open_any(name: str, **options: Any) -> tuple[ModelDescription, Denoiser]:
        description, model = checkpoints.open_model(name, **options)
        return description, replace(model, function=lambda x, sigma: function(model, x, sigma), **attributes)

    monkeypatch.setattr("prescore.cli.plan.open_any", open_any)
