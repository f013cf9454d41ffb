"""What is tuned to a shipped model: levels, start and fitted weights, and what these are worth on other starts.

    python benchmarks/fitted.py natural-edm --calls 5 6 8 10

measures the steps of solvers, tries levels, measures both starts and fits the weights of `p-fit` for each number of
network calls, as `prescore calibrate --model MODEL --calls 5,6,8,10` does, and prints the error of the state (root mean
square over samples and pixels) on 32 other starts: of `p-fit`, of its weights without the gains that restore the
energy, and of the textbook solvers on the levels that serve them. The flow that they are compared with is that of 64
steps of the preconditioned solver of order 3. With `--save FILE` the statistics of the model are written with all that;
what was measured of data and score stays as it is. A model of classes gets all of them in turn.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from problems import CLASSES
from torch import Tensor

import prescore
from prescore.gaussian import gaussian
from prescore.grid import geometric
from prescore.plan import seen_by
from prescore.samplers import auto_grid, fit_weights, make_sampler, measure_steps, sample
from prescore.samplers.calibrated import FINE, Runs, follow
from prescore.samplers.fitting import RIVALS, USUAL_FITTED, USUAL_POWER
from prescore.samplers.starting import START_STEPS, USUAL_STARTS, measure_start
from prescore.statistics import FittedWeights, Statistics, Tuning, save_statistics

FIRST, HELD_OUT = 1000, 32  # seeds of the starts that are held out


def errors(
    model: prescore.Denoiser,
    statistics: Statistics,
    fits: Mapping[int, FittedWeights],
    condition: Mapping[str, Tensor],
    batch_size: int,
) -> dict[str, list[float]]:
    """By solver its error of the state for each number of steps that was fitted."""
    reference, seeds = gaussian(statistics), range(FIRST, FIRST + HELD_OUT)
    runs = Runs(model, reference, seeds, condition, batch_size, progress=True)
    known = follow(runs, geometric(FINE, model.sigma_min, model.sigma_max, final_zero=True))
    start, end = runs.start(0, HELD_OUT, known.levels[0]), known.X[-1]

    def error(name: str, grid: Tensor, fit: FittedWeights | None = None) -> float:
        own = {"reference": reference} if name.startswith("p-") else {}
        if fit is not None:
            own["statistics"] = replace(statistics, tuning=Tuning(fits={len(grid) - 1: fit}))
        solver = make_sampler(name, grid=grid, **own)
        x = sample(
            model,
            solver,
            seeds=seeds,
            initial=start,
            condition=runs.rows(0, HELD_OUT),
            batch_size=batch_size,
            progress=False,
        )
        return (known.coordinates(x) - end).square().mean().sqrt().item()

    found: dict[str, list[float]] = {
        "p-fit": [error("p-fit", fit.levels, fit) for fit in fits.values()],
        "p-fit, no gains": [
            error("p-fit", fit.levels, replace(fit, gains=torch.ones_like(fit.gains))) for fit in fits.values()
        ],
    }
    return found | {name: [error(name, auto_grid(name, statistics, T)) for T in fits] for name in RIVALS}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Tune levels, start and weights to a shipped model, and measure them")
    parser.add_argument("model")
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 6, 8, 10])
    parser.add_argument("--fitted", type=int, default=USUAL_FITTED, help="samples that the weights are fitted to")
    parser.add_argument("--starts", type=int, default=USUAL_STARTS, help="samples that are drawn from either start")
    parser.add_argument("--power", type=float, default=USUAL_POWER, help="of the mean of errors, to compare levels by")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--save", type=Path, help="statistics file to write")
    options = parser.parse_args(arguments)
    model, file = prescore.load(options.model), prescore.load_statistics(options.model)
    condition = {key: torch.eye(n) for key, n in CLASSES.get(options.model, {}).items()}
    how: dict[str, Any] = {"condition": condition, "batch_size": options.batch_size, "progress": True}
    statistics = seen_by(model, file)
    reference = gaussian(statistics)
    steps, tuning = measure_steps(model, reference, **how)
    levels = steps.levels_by(tuning.rule("p-ode-3m", START_STEPS) or "gaussian", START_STEPS)
    starts = measure_start(model, reference, levels, samples=options.starts, **how)
    fits = fit_weights(
        model, reference, steps, tuning, options.calls, trajectories=options.fitted, power=options.power, **how
    )
    tuning = replace(tuning, starts=starts, fits=fits)
    statistics = replace(statistics, model=replace(statistics.model, steps=steps), tuning=tuning)
    if options.save is not None:
        low, high = statistics.data_range
        a = (file.data_range[1] - file.data_range[0]) / (high - low)
        own = replace(file.model, steps=steps.scaled(a))
        save_statistics(replace(file, model=own, tuning=tuning.scaled(a)), options.save)
    print(f"{options.model}, {HELD_OUT} starts held out, weights fitted to {options.fitted}\n")
    print("| error of the state | " + " | ".join(f"{T} steps" for T in fits) + " |")
    print("| --- " * (1 + len(fits)) + "|")
    for name, row in errors(model, statistics, fits, condition, options.batch_size).items():
        print(f"| {name} | " + " | ".join(f"{error:.4f}" for error in row) + " |")
    held = " | ".join(f"{fit.errors['p-fit']:.4f}" for fit in fits.values())
    print(f"| p-fit, cross-fitted, mean over samples | {held} |")
    print("\nstarts: " + ", ".join(f"{name} {distance:.4g}" for name, distance in starts.items()))
    print("\n" + "\n".join(f"{T} steps: {', '.join(f'{s:.3g}' for s in fit.levels)}" for T, fit in fits.items()))


if __name__ == "__main__":
    main()
