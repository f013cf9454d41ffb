"""The states of all samples after each step, in one array."""

import io
import math
from pathlib import Path

import numpy as np
import torch

from prescore.errors import PrescoreError
from prescore.files import check_writable, write_atomically
from prescore.limits import check_size
from prescore.output.files import Output
from prescore.plan import Plan
from prescore.samplers import Progress

STATE_BYTES = 2 * 4  # for each number, which is kept and then written


class Trajectory:
    """A callback of `prescore.sample` that keeps the states after each step, to be written at the end.

    Args:
        path: of an .npy file: float32 (T, n, *event), in the model's own coordinates.
        plan: what is drawn.
        output: where its samples go, which has none of them yet.

    Raises:
        PrescoreError: the file cannot be written, or the states do not fit into memory.
    """

    def __init__(self, path: str | Path, plan: Plan, output: Output) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".npy":
            raise PrescoreError(f"--trajectory: {path} given; an .npy file is written")
        if output.present():
            raise PrescoreError(f"--trajectory: {output.path} holds samples, which are not drawn again; choose another")
        check_writable(path)
        n, shape = len(output.seeds), plan.denoiser.event_shape
        check_size("trajectory", plan.steps * n, STATE_BYTES * math.prod(shape))
        self.rows = {seed: row for row, seed in enumerate(output.seeds)}
        self.states = torch.empty(plan.steps, n, *shape)

    def __call__(self, progress: Progress) -> None:
        self.states[progress.step, [self.rows[seed] for seed in progress.seeds]] = progress.x.float().cpu()

    def finish(self) -> None:
        """Write the states. Raises PrescoreError."""
        buffer = io.BytesIO()
        np.save(buffer, self.states.numpy())
        write_atomically(self.path, buffer.getvalue())
