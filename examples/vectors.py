"""Vectors of unlike scale: a denoiser of your own, its statistics, samples, and a comparison of samplers.

    python examples/vectors.py
    prescore sample examples.vectors:denoiser --n 1000 --calls 8 --out vectors.npz     # the same from a shell
    prescore info examples.vectors:denoiser

The data are a mixture whose denoiser is known exactly, in the place of a network. Their scales differ by a factor of a
thousand, which the Gaussian reference, with its full covariance, takes into account.
"""

import torch
from torch import Tensor

import prescore

SCALES = torch.tensor([100.0, 10.0, 1.0, 0.1])
CENTRES = torch.tensor([[-1.0, 0.5, 0.0, 1.0], [1.0, -0.5, 0.5, -1.0]]) * SCALES


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """The mean of the data that x (B, 4) may come from: two Gaussians N(centre, (scale / 3)^2)."""
    variance = (SCALES.to(x) / 3) ** 2
    total = variance + sigma.reshape(-1, 1) ** 2
    apart = x[:, None] - CENTRES.to(x)
    weight = torch.softmax(-(apart**2 / total[:, None]).sum(2) / 2, 1)
    means = CENTRES.to(x) + variance / total[:, None] * apart
    return (weight[:, :, None] * means).sum(1)


def data(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(2, (n,), generator=generator)
    return CENTRES[which] + SCALES / 3 * torch.randn(n, 4, generator=generator)


def denoiser() -> prescore.Denoiser:
    """What a command line takes as examples.vectors:denoiser."""
    statistics = prescore.calibrate(data(200))
    return prescore.Denoiser(denoise, (4,), 0.002, 500.0, name="two Gaussians", statistics=statistics)


if __name__ == "__main__":
    model = denoiser()
    print(prescore.plan(model, calls=8).reasons["sampler"])
    x = prescore.draw(model, n=2000, calls=8, progress=False)
    true = data(6000) / SCALES
    print(prescore.evaluate(x / SCALES, true, metrics=["frechet", "pixel-mean"], floor=True))
    for run in prescore.compare(model, "p-ode-3m,dpmpp-2m,unipc,ddim", [8, 12], n=2000).runs:
        distance = prescore.evaluate(run.samples / SCALES, true, metrics=["frechet"]).metrics["frechet"]
        print(f"{run.sampler}, {run.calls} calls: Frechet distance {distance:.4f}, each number in units of its scale")
