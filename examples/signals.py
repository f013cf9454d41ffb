"""Signals of two channels and unlike scale: calibrate, draw, look at their spectrum.

    python examples/signals.py

The model is an exact denoiser of Gaussian signals whose power falls with frequency, in the place of a network.
"""

import torch

import prescore
from prescore.gaussian import Gaussian
from prescore.metrics import power_spectrum_error

LENGTH = 128
scale = torch.tensor([1.0, 50.0])[:, None]  # of the channels
shape = Gaussian.power_law((2, LENGTH), exponent=2.0, mean=0.0, rms=1.0)


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """x (B, 2, LENGTH). Each channel in units of its own scale is one of `shape`, with noise sigma / scale."""
    channels = [
        shape(x / s, sigma / s)[:, c] * s for c, s in enumerate(scale.flatten().tolist())
    ]  # fmt: skip
    return torch.stack(channels, 1)


model = prescore.Denoiser(denoise, (2, LENGTH), 0.01, 500.0, name="signals", dtype=torch.float64)
data = scale * shape.sample(200, torch.Generator().manual_seed(0))  # (N, C, L), any values: no range is needed
statistics = prescore.calibrate(data)
print(statistics)

for sampler in ("p-ode-2m", "dpmpp-2m"):
    x = prescore.draw(model, n=200, calls=8, sampler=sampler, statistics=statistics, progress=False)
    error = power_spectrum_error(x, statistics)
    print(f"{sampler}: deviations {x.std((0, 2)).numpy().round(2)} of (1, 50), spectrum error {error:.3f}")
