"""The time of a noise level, of schedules that are functions of time alone."""

from collections.abc import Callable

import torch
from torch import Tensor

HALVINGS = 60  # of the interval of times, which leave its rounding
KEPT = 10_000  # levels that are remembered


class Times:
    """t as a function of the noise level sigma = s / m of x_t = m(t) x0 + s(t) n, inverted by bisection.

    Args:
        scales: (m, s) at times (B,), float64 or better resolved than the levels between which it is asked; s / m rises.
        low, high: the ends, times.

    Levels that were asked for before are remembered.
    """

    def __init__(self, scales: Callable[[Tensor], tuple[Tensor, Tensor]], low: float, high: float) -> None:
        self.scales = scales
        self.low, self.high = (torch.tensor([end], dtype=torch.float64) for end in (low, high))
        self.known: dict[float, float] = {}

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest noise level."""
        return self._sigma(self.low).item(), self._sigma(self.high).item()

    def __call__(self, sigma: Tensor) -> Tensor:
        """Times, float64, of noise levels (B,), float64."""
        if new := sorted({level for level in sigma.tolist() if level not in self.known}):
            if len(self.known) > KEPT:
                self.known.clear()
            self.known |= dict(zip(new, self._invert(torch.tensor(new, dtype=torch.float64)).tolist(), strict=True))
        return torch.tensor([self.known[level] for level in sigma.tolist()], dtype=torch.float64)

    def _sigma(self, time: Tensor) -> Tensor:
        m, s = self.scales(time)
        return s / m

    def _invert(self, sigma: Tensor) -> Tensor:
        low, high = self.low.expand(len(sigma)), self.high.expand(len(sigma))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            is_below = self._sigma(middle) < sigma
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return (low + high) / 2
