"""How a network is trained, whatever it learns: length, optimizer, average, precision."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from prescore.errors import PrescoreError, check_choice

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainingConfig:
    """Together with the data and the settings of the recipe, everything that decides the trained weights.

    Args:
        steps: number of optimizer steps.
        batch_size: examples in each step, over all processes.
        learning_rate: of Adam, reached after the warm-up and falling to 0 over the cool-down.
        beta1, beta2: decay of Adam's mean of the gradients, and of their squares.
        warmup: steps over which the learning rate rises.
        cooldown: last steps, over which it falls to 0.
        clip: largest norm of a gradient; 0 for any.
        ema_decay: decay of the weight average, in [0, 1); 0 keeps the last weights.
        precision: float32, or bfloat16 or float16 for mixed precision; the weights are always float32.
        seed: decides the initial weights and every draw.

    Raises:
        PrescoreError: a value is out of its range or unknown.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {"precision": PRECISIONS}

    steps: int = 10000
    batch_size: int = 64
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99
    warmup: int = 200
    cooldown: int = 2500
    clip: float = 1.0
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "steps", "batch_size")
        check_least(self, 0, "warmup", "cooldown", "seed")
        check_positive(self, "learning_rate")
        check_share(self, "beta1", "beta2", "ema_decay")
        if not 0 <= self.clip < math.inf:
            raise PrescoreError(f"clip: {self.clip} is not a norm; give a positive number, or 0 for no clipping")
        check_choice("precision", self.precision, PRECISIONS)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step` (from 0)."""
        left = (self.steps - step) / self.cooldown if self.cooldown else 1.0
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1), left)


def check_least(settings: object, least: int, *names: str) -> None:
    """Raise PrescoreError unless these attributes are at least `least`."""
    for name in names:
        if getattr(settings, name) < least:
            raise PrescoreError(f"{name}: {getattr(settings, name)} is less than {least}")


def check_positive(settings: object, *names: str) -> None:
    """Raise PrescoreError unless these attributes are positive and finite."""
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise PrescoreError(f"{name}: {getattr(settings, name)} is not a positive number")


def check_share(settings: object, *names: str) -> None:
    """Raise PrescoreError unless these attributes are in [0, 1)."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise PrescoreError(f"{name}: {getattr(settings, name)} is not in [0, 1)")
