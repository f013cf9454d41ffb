"""Samples by a plan, in one call."""

import warnings
from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor

from prescore.denoiser import Denoise
from prescore.errors import PrescoreError, SampleWarning, is_whole
from prescore.limits import MOST_SAMPLES, check_count, check_size
from prescore.plan.decide import plan
from prescore.plan.record import examined


def draw(
    model: Denoise,
    n: int = 16,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
    progress: bool = True,
    **planned: Any,
) -> Tensor:
    """Draw samples in the units of the data, by a plan.

    Args:
        model: as `plan` takes it.
        n, seed: number of samples, and the seed of the first; the next ones count up.
        batch_size: samples in one network call; all at once by default.
        condition: named tensors, arrays or lists of n rows, or of one for all, passed to the model as keyword
            arguments.
        progress: show a bar that counts network calls, on a terminal.
        planned: everything else that `plan` takes, such as sampler, calls, statistics.

    Warns:
        ModelWarning: as `plan`.
        SampleWarning: values far outside the data's range, or energies far from the data's (`prescore.examine`).

    Returns:
        (n, *shape): samples, or what they decode to if the model is one of latents; float64 on the model's device.

    Raises:
        PrescoreError: as `plan` and `prescore.sample`.
    """
    decided = plan(model, **planned)
    if not is_whole(n) or n < 1:
        raise PrescoreError(f"n: {n!r} samples asked for; at least 1 is needed")
    check_count("n", n, MOST_SAMPLES)
    check_size("n", n, 8 * prod(decided.denoiser.event_shape))
    if not is_whole(seed):
        raise PrescoreError(f"seed: {seed!r} is not a whole number")
    x = decided.sample(range(seed, seed + n), batch_size=batch_size, condition=condition, progress=progress)
    for doubt in examined(decided, x):
        warnings.warn(doubt, SampleWarning, stacklevel=2)
    return decided.denoiser.decode(x)
