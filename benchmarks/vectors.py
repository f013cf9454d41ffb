"""Vectors of unlike scale: Frechet distance of solvers on mixtures whose denoiser is exact.

    python benchmarks/vectors.py

Three Gaussians in four dimensions, each number of another scale; 3000 samples beside 8000 true ones, each number in
units of its own scale. The statistics are of 200 examples.
"""

import torch
from torch import Tensor

import prescore
from prescore.samplers.choose import unlikeness

SOLVERS = ("p-ode-3m", "unipc", "dpmpp-2m")


def row(ratio: float, seed: int) -> str:
    """One mixture: scales in geometric progression over this ratio."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, 1, 4) ** torch.tensor(ratio).log10()
    centres = torch.randn(3, 4, generator=generator) * scales

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        variance = (scales.to(x) / 3) ** 2
        total = variance + sigma.reshape(-1, 1) ** 2
        apart = x[:, None] - centres.to(x)
        weight = torch.softmax(-(apart**2 / total[:, None]).sum(2) / 2, 1)
        return (weight[:, :, None] * (centres.to(x) + variance / total[:, None] * apart)).sum(1)

    def data(n: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(3, (n,), generator=generator)
        return centres[which] + scales / 3 * torch.randn(n, 4, generator=generator)

    model = prescore.Denoiser(denoise, (4,), 0.002, 50 * ratio**0.5)
    statistics, true = prescore.calibrate(data(200, 1)), data(8000, 2) / scales
    cells = [f"{ratio:g}, seed {seed}", f"{unlikeness(statistics):.3g}"]
    for calls in (6, 8, 10):
        for solver in SOLVERS:
            given = statistics if solver.startswith("p-") else None
            x = prescore.draw(model, n=3000, calls=calls, sampler=solver, statistics=given, progress=False)
            distance = prescore.evaluate(x / scales, true, metrics=["frechet"]).metrics["frechet"]
            cells.append(f"{distance:.3g}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    heads = [f"{solver}, {calls}" for calls in (6, 8, 10) for solver in SOLVERS]
    print(f"| scales | deviations | {' | '.join(heads)} |\n|{'-|' * (len(heads) + 2)}")
    for ratio in (1.0, 10.0, 100.0, 1000.0):
        for seed in (0, 1):
            print(row(ratio, seed), flush=True)
