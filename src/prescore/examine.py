"""What samples say about the run that made them: values far outside the data's range, energies far from the data's."""

import math

import torch
from torch import Tensor

from prescore.errors import SampleWarning
from prescore.statistics import Statistics
from prescore.statistics.moments import mean_power
from prescore.tuned import BEYOND, BEYOND_SHARE, ENERGY_RATIO, ENOUGH_NUMBERS

__all__ = ["Examination", "SampleWarning"]
BANDS = 8  # of equal width in log frequency, the lowest frequency apart


class Examination:
    """Sums over samples that come in batches, and what is doubtful about them.

    A value is far outside if it lies beyond the range of the data by more than `BEYOND` of its width. The energy of a
    band of frequencies is the mean power there of samples beside that of the data; bands of fewer than `ENOUGH_NUMBERS`
    numbers in all samples, and of no energy in the data, say nothing.

    Args:
        data_range: lowest and highest value of the data in the model's coordinates, if it is known.
        statistics: of the data in the model's coordinates, if they are known.
    """

    def __init__(self, data_range: tuple[float, float] | None, statistics: Statistics | None) -> None:
        self.data_range, self.statistics = data_range, statistics
        self.numbers = self.outside = self.samples = 0
        self.least, self.most = math.inf, -math.inf
        self.power: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Samples (B, *event) in the model's own coordinates."""
        if self.data_range is not None:
            low, high = self.data_range
            slack = BEYOND * (high - low)
            self.outside += int(((x < low - slack) | (x > high + slack)).sum())
            self.numbers += x.numel()
            self.least, self.most = min(self.least, x.min().item()), max(self.most, x.max().item())
        if self.statistics is not None and (axes := self.statistics.moments.axes) > 0:
            centred = x.detach().cpu().double() - self.statistics.moments.mean
            power = mean_power(centred, tuple(range(-axes, 0))) * len(x)
            self.power = power if self.power is None else self.power + power
        self.samples += len(x)

    @property
    def doubts(self) -> tuple[str, ...]:
        """One line each, with what to do about it."""
        found = []
        if self.numbers and self.outside > BEYOND_SHARE * self.numbers:
            low, high = self.data_range or (0.0, 0.0)
            found.append(
                f"{self.outside / self.numbers:.1%} of the samples' values are far outside the data's range {low:g} to "
                f"{high:g} (they go from {self.least:.3g} to {self.most:.3g}): take more calls or another sampler, "
                "measure the model (prescore calibrate DATA --model MODEL), lower sigma_max (--sigma-max), or clip its "
                "predictions (clip='range', --clip range)"
            )
        far = [(r, k) for k, r in enumerate(self.energies()) if not 1 / ENERGY_RATIO <= r <= ENERGY_RATIO]
        if far:
            ratio, band = max(far, key=lambda pair: abs(math.log(max(pair[0], 1e-12))))
            edges = self._edges().tolist()
            at = edges[0] if band == 0 else math.sqrt(edges[band - 1] * edges[band])
            found.append(
                f"the samples have {ratio:.3g} times the data's energy around {at:.2g} cycles a pixel, and in "
                f"{len(far)} of {BANDS} bands of frequencies are more than {ENERGY_RATIO:g} times off: take more calls "
                "or another sampler, or measure the model (prescore calibrate DATA --model MODEL); statistics of other "
                "data would look the same"
            )
        return tuple(found)

    def energies(self) -> list[float]:
        """Energy of the samples over that of the data, from the lowest band to the highest; 1 where nothing is said."""
        if self.power is None or self.statistics is None:
            return []
        moments = self.statistics.moments
        own, data = self.power / self.samples, moments.power_centred
        shape = moments.event_shape[-moments.axes :]
        radius = _radius(shape)
        band = torch.bucketize(radius, self._edges()).clamp(max=BANDS - 1).expand(data.shape)
        ratios = []
        for k in range(BANDS):
            inside = band == k
            count, energy = int(inside.sum()) * self.samples, data[inside].sum().item()
            is_told = count >= ENOUGH_NUMBERS and energy > 1e-9 * data.sum().item()
            ratios.append(own[inside].sum().item() / energy if is_told else 1.0)
        return ratios

    def _edges(self) -> Tensor:
        """The upper ends of the bands, in cycles a pixel."""
        assert self.statistics is not None
        longest = max(self.statistics.event_shape[-self.statistics.moments.axes :])
        return torch.logspace(math.log10(1 / longest), math.log10(0.75), BANDS, dtype=torch.float64)


def _radius(shape: tuple[int, ...]) -> Tensor:
    """Frequency of each coefficient of half a spectrum, in cycles a pixel."""
    axes = [torch.fft.fftfreq(m, dtype=torch.float64) for m in shape[:-1]]
    axes.append(torch.fft.rfftfreq(shape[-1], dtype=torch.float64))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
