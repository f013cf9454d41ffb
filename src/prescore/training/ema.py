"""Exponential moving average of a network's weights."""

import torch
from torch import Tensor


def ema_decay(updates: int, decay: float) -> float:
    """Decay of update number `updates` (from 0): min(decay, (1 + n) / (10 + n)).

    The warm-up lets the average forget the random initial weights: without it they would still weigh decay^n.
    """
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def ema_update(average: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    """average <- decay average + (1 - decay) weights, in place, entry by entry."""
    for name, value in average.items():
        value.lerp_(weights[name], 1 - decay)
