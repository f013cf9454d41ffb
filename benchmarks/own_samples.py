"""Statistics of samples that a model drew itself beside those of data.

    python benchmarks/own_samples.py natural-edm --calls 5 8

measures a shipped model by `prescore.calibrate_model` and prints the error of the state (root mean square over samples
and pixels) on 32 other starts with these statistics and with those that the model brings, which are of data. Starts,
and the flow that the ends are compared with, 64 steps of the preconditioned solver of order 3, are the same for both.
"""

import argparse
from collections.abc import Sequence

import torch

import prescore
from prescore.gaussian import error_share, gaussian
from prescore.grid import geometric
from prescore.plan import seen_by
from prescore.samplers import auto_grid, make_sampler, sample
from prescore.samplers.calibrated import FINE, Runs, Trajectories, follow

FIRST, HELD_OUT = 1000, 32  # seeds of the starts
SOLVERS = (("p-ode-3m", "auto"), ("p-ode-3m", "usual"), ("p-ode-2m", "auto"), ("unipc", "auto"))


def error(
    runs: Runs, known: Trajectories, name: str, grid: str, statistics: prescore.Statistics, calls: int
) -> tuple[float, float]:
    """Of the state at the end, and its standard error over the samples."""
    reference = gaussian(statistics) if name.startswith("p-") else None
    levels = auto_grid(name, statistics, calls) if grid == "auto" else None
    if levels is None:
        steps = next(T for T in range(calls, 0, -1) if make_sampler(name, reference=reference).total_calls(T) <= calls)
        own = make_sampler(name, steps=steps, reference=reference)
        levels = own.levels(runs.denoiser.sigma_min, runs.denoiser.sigma_max)
    solver = make_sampler(name, grid=levels, reference=reference)
    start = runs.start(0, HELD_OUT, known.levels[0])
    x = sample(runs.denoiser, solver, seeds=runs.seeds, initial=start, batch_size=runs.batch_size, progress=False)
    squares = (known.coordinates(x) - known.X[-1]).square().mean(1)
    mean = squares.mean().sqrt()
    return mean.item(), (squares.std() / HELD_OUT**0.5 / (2 * mean)).item()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare statistics of own samples with those of data")
    parser.add_argument("model")
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 8])
    parser.add_argument("--n", type=int, default=64, help="samples that the model draws itself")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args(arguments)
    model = prescore.load(options.model)
    data = seen_by(model, prescore.load_statistics(options.model))
    own = prescore.calibrate_model(
        model, n=options.n, calls=options.calls, fitted=0, batch_size=options.batch_size, progress=True
    )
    both = {f"{data.moments.count} data": data, f"{options.n} own samples": seen_by(model, own)}
    runs = Runs(model, gaussian(data), range(FIRST, FIRST + HELD_OUT), {}, options.batch_size, progress=True)
    known = follow(runs, geometric(FINE, model.sigma_min, model.sigma_max, final_zero=True))
    print(f"{options.model}, {HELD_OUT} starts, error of the state ± its standard error\n")
    heads = [f"{T} calls, {name}" for T in options.calls for name in both]
    print("| sampler, levels | " + " | ".join(heads) + " |")
    print("| --- " * (1 + len(heads)) + "|")
    for name, grid in SOLVERS:
        found = [error(runs, known, name, grid, statistics, T) for T in options.calls for statistics in both.values()]
        cells = (f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in found)
        print(f"| {name}, {grid} | " + " | ".join(cells) + " |", flush=True)
    for name, statistics in both.items():
        share = error_share(statistics).shares.min().item()
        spread = gaussian(statistics).variances.mean().sqrt().item()
        print(f"\n{name}: deviation {spread:.3f}, least share that the network leaves {share:.3f}")
    C = [gaussian(statistics).variances.flatten() for statistics in both.values()]
    ratio = (C[1] / C[0]).log()
    print(f"\nlog of the ratio of the variances: mean {ratio.mean():.3f}, deviation {ratio.std():.3f}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
