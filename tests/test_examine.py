"""What samples say about their run, on data that are known."""

import re

import pytest
import torch

import prescore
from prescore import Denoiser, calibrate
from prescore.errors import PrescoreError, SampleWarning
from prescore.examine import Examination
from prescore.statistics import in_range

SHAPE = (1, 16, 16)


def fields(n: int, seed: int, gain: float = 1.0, high: float = 1.0) -> torch.Tensor:
    """Gaussian fields in [0, 1] with power that falls with frequency; `gain` scales all, `high` the upper half."""
    z = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k = torch.hypot(torch.fft.fftfreq(16)[:, None], torch.fft.rfftfreq(16)).clamp(min=1 / 16)
    shape = torch.where(k > 0.25, high, 1.0) * gain / k
    x = torch.fft.irfft2(torch.fft.rfft2(z) * shape, s=(16, 16))
    return 0.5 + 0.02 * x


STATISTICS = calibrate(fields(200, 0).clamp(0, 1), data_range=(0.0, 1.0))


def doubts(x: torch.Tensor, bounds: tuple[float, float] | None = (0.0, 1.0)) -> tuple[str, ...]:
    found = Examination(bounds, STATISTICS)
    for batch in x.split(5):
        found.add(batch)
    return found.doubts


def test_true_data_raise_no_doubt() -> None:
    for n in (1, 2, 16):
        assert doubts(fields(n, n)) == ()


def test_values_far_outside_are_counted() -> None:
    x = fields(16, 1)
    x[:, :, :4] += 3
    (text, *_) = doubts(x)
    assert text.startswith("25.0% of the samples' values are far outside the data's range 0 to 1 (they go from ")
    assert "--clip range" in text
    assert Examination(None, None).doubts == ()


def test_energy_is_compared_band_by_band() -> None:
    assert [round(r, 1) for r in energies(fields(400, 2, high=3.0))][-1] == pytest.approx(9, rel=0.1)
    assert energies(fields(400, 2))[2:] == pytest.approx([1] * 6, rel=0.15)
    (text,) = doubts(fields(16, 3, high=3.0))
    assert re.match(r"the samples have \d.*around 0\.[345]\d* cycles a pixel, and in [123] of 8 bands", text)
    (text,) = doubts(fields(16, 3, gain=0.3))
    assert "the samples have 0.0" in text


def energies(x: torch.Tensor) -> list[float]:
    found = Examination((0.0, 1.0), STATISTICS)
    found.add(x)
    return found.energies()


def test_draw_and_the_file_warn() -> None:
    model = Denoiser(lambda x, sigma: x, SHAPE, 0.01, 10.0, data_range=(0, 1))  # knows nothing: noise stays
    with pytest.warns(SampleWarning, match="far outside the data's range"):
        prescore.draw(model, n=2, sampler="ddim", calls=3, statistics=STATISTICS, progress=False)


@pytest.mark.filterwarnings("ignore::prescore.errors.SampleWarning")
def test_a_run_may_clip_predictions() -> None:
    wild = Denoiser(lambda x, sigma: 3 * x, (1, 2, 2), 0.01, 10.0, data_range=(-1, 1))
    plan = prescore.plan(wild, sampler="ddim", steps=3, clip="range")
    assert plan.settings["clip"] == "range"
    assert plan.sample(range(3), progress=False).abs().max() <= 1
    with pytest.raises(PrescoreError, match="clip: unknown value 'hard'; known: range, dynamic"):
        prescore.plan(wild, sampler="ddim", steps=3, clip="hard")


def test_statistics_of_a_plan_are_in_the_model_s_coordinates() -> None:
    model = Denoiser(lambda x, sigma: x / (1 + sigma**2), SHAPE, 0.01, 10.0, data_range=(-1, 1))
    plan = prescore.plan(model, sampler="ddim", steps=3, statistics=STATISTICS)
    assert plan.statistics is not None
    expected = in_range(STATISTICS, (-1, 1)).moments.power_centred
    assert torch.equal(plan.statistics.moments.power_centred, expected)
