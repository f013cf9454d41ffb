"""Seconds per iteration, plain, PDS and preconditioned, at 64, 256 and 1024 pixels: Table 8 of the PDS paper in form.

    python experiments/seconds_per_iteration.py

An iteration is what the sampler computes between two network calls, timed alone with a network that returns a tensor
made before (the library's own steps, noise drawn each time), plus its calls of a network of random weights in the
published layout (benchmarks/pds_step.py has the layouts and the clock). The two are timed apart because the
arithmetic is a small share of an iteration, less than what the time of a network call scatters. On a CPU with one
thread it is processor time. A network call that takes longer than a minute is left out.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from drawing import BLACK, LOOKS, PINK, label_ends, numbered, page
from matplotlib.figure import Figure
from publish import Runs, add_options, benchmark, command, output_folder, publish, table
from torch import Tensor

import prescore
from prescore.gaussian import Gaussian
from prescore.noise import NoiseSource
from prescore.operators import Cosine, Frequency, Pixel
from prescore.precondition import Preconditioner
from prescore.samplers import PredictorCorrector, Sampler

pds_step = benchmark("pds_step")

SIZES = (64, 256, 1024)
BATCH = 8  # images in the paper's timing
PAPER = {64: (0.10, 0.12), 256: (0.51, 0.54), 1024: (0.96, 1.03)}  # seconds, plain and PDS, one RTX 3090
LEVELS = torch.tensor([1.0, 0.9, 0.8], dtype=torch.float64)


def samplers(size: int) -> dict[str, Sampler]:
    """Those that are compared, on three levels; masks have the size of the image, what they hold costs nothing."""
    k = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)).double()
    M = Preconditioner(Frequency(1 + 0.25 * (k / k.max()).expand(3, -1, -1), axes=2, length=size))

    pixel = Preconditioner(
        Pixel(1 + 0.2 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)).double())
    )
    variance = (1 / (1 + torch.arange(size).reshape(-1, 1) ** 2 + torch.arange(size) ** 2)).double()
    reference = Gaussian(torch.zeros(3, size, size), Cosine(variance.expand(3, -1, -1), axes=2))
    return {
        "plain": PredictorCorrector(grid=LEVELS),
        "PDS, frequency": PredictorCorrector(grid=LEVELS, preconditioner=M),
        "PDS, frequency and pixel": PredictorCorrector(grid=LEVELS, preconditioner=M @ pixel),
        **{name: prescore.make_sampler(name, grid=LEVELS, reference=reference) for name in ("p-ode-2m", "p-ode-3m")},
    }


def stepper(sampler: Sampler, size: int, batch: int) -> Callable[[], Tensor]:
    """The second step of a sampler, as the first of a multistep method is another, without the network."""
    noise = NoiseSource(range(batch), (3, size, size), dtype=torch.float32)
    x0, x = noise(), noise()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x0

    first, state = sampler.step(denoise, x, LEVELS[0], LEVELS[1], sampler.start(LEVELS), noise)
    return lambda: sampler.step(denoise, first, LEVELS[1], LEVELS[2], state, noise)[0]


def calls_of(sampler: Sampler) -> int:
    """Network calls of an iteration: what a further step takes."""
    return (sampler.total_calls(3) or 0) - (sampler.total_calls(2) or 0)


def measure(size: int, batch: int, seconds: float, network: bool) -> dict[str, Any]:
    """Times at one size, in seconds: of a network call for `batch` images, and of the arithmetic of each sampler."""
    own = samplers(size)
    steps = {name: stepper(sampler, size, batch) for name, sampler in own.items()}
    times = pds_step.alternate(steps, "cpu", seconds)
    # On one CPU thread the time is proportional to the number of images.
    call = pds_step.network_in_time(size, 1, "cpu") if network else None
    rows = {name: {"step": median(times[name]), "runs": len(times[name]), "calls": calls_of(own[name])} for name in own}
    return {"batch": batch, "network_call": None if call is None else call * batch, "samplers": rows}


def iteration(numbers: Mapping[str, Any], name: str, batch: int) -> float | None:
    """Seconds of one iteration of `batch` images."""
    row, call = numbers["samplers"][name], numbers["network_call"]
    share = batch / numbers["batch"]
    return None if call is None else share * (row["calls"] * call + row["step"])


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Milliseconds of arithmetic an image and iteration, beside the network's."""
    results = by_size(numbers)
    figure = page(3.8)
    ax, sizes, ends = figure.subplots(), list(results), []
    looks = LOOKS | {"PDS, frequency": LOOKS["PDS"], "PDS, frequency and pixel": {"color": PINK, "marker": "P"}}
    calls = {size: r["network_call"] / r["batch"] for size, r in results.items() if r["network_call"] is not None}
    ax.set(xscale="log", yscale="log", xlabel="pixels a side", ylabel="milliseconds for an image")
    for name in next(iter(results.values()))["samplers"]:
        values = [1e3 * r["samplers"][name]["step"] / r["batch"] for r in results.values()]
        ax.plot(sizes, values, **looks[name])
        ends.append((values[-1], f"{name}: arithmetic", looks[name]["color"]))
    if calls:
        ax.plot(list(calls), [1e3 * v for v in calls.values()], color=BLACK, ls="--", marker="*", ms=8)
        ends.append((1e3 * list(calls.values())[-1], "one network call", BLACK))
        timed = [r for r in results.values() if r["network_call"] is not None]
        least = min(r["network_call"] / row["step"] for r in timed for row in r["samplers"].values())
        ax.set_title(f"A network call takes at least {least:.0f} times as long as the arithmetic of a step")
    numbered(ax, sizes)
    label_ends(ax, ends, gap=0.075)
    return figure


def by_size(numbers: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    return {int(size): row for size, row in numbers["runs"].items()}


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    results, machine = by_size(numbers), numbers["settings"]["machine"]
    rows: list[list[Any]] = []
    for size, timed in results.items():
        plain = iteration(timed, "plain", BATCH)
        for name, row in timed["samplers"].items():
            own = iteration(timed, name, BATCH)
            ratio = None if own is None or plain is None else f"{own / plain:.4f}"
            step = 1e3 * BATCH / timed["batch"] * row["step"]
            rows.append([size, name, row["calls"], step, own, ratio, row["runs"]])
    head = ["pixels", "sampler", "calls", "arithmetic, ms", "iteration, s", "relative to plain", "runs"]
    paper = "; ".join(f"{size}: {a} and {b} s, a factor of {b / a:.2f}" for size, (a, b) in PAPER.items())
    extra = [
        iteration(timed, "PDS, frequency and pixel", BATCH) / plain - 1
        for timed in results.values()
        if (plain := iteration(timed, "plain", BATCH)) is not None
    ]
    theirs = max(b / a for a, b in PAPER.values()) - 1
    verdict = "Agrees" if extra and max(extra) <= theirs else "Does not agree" if extra else "Not tried"
    beside = (
        "That is less than in the paper, whose transforms are complex and made one axis after the other "
        "(docs/benchmarks.md), and less than it would be on a GPU, which makes the network faster than the "
        "transforms."
        if verdict == "Agrees"
        else f"In the paper it is up to {theirs:.0%}."
    )
    most = f"at most {max(extra):.2%}" if extra else "not known, as no network call was timed"
    return f"""## Seconds per iteration (Table 8)

The paper times an iteration for a batch of {BATCH} images on one RTX 3090, plain and with PDS ({paper}), and calls
the difference marginal. Here a CPU ({machine}), networks of the published layouts with random weights, {BATCH}
images, medians; "arithmetic" is all of an iteration but its network calls. A preconditioned solver makes one call
where a step of plain or PDS makes two:

{table(head, rows)}

![Arithmetic of an iteration beside a network call](figures/seconds_per_iteration.png)

**{verdict}:** PDS costs {most} of an iteration here. {beside}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Seconds per iteration (PDS, Table 8)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=list(pds_step.NETWORKS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing the arithmetic at each size")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.seconds = [32], 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        machine = pds_step.machine("cpu")
        runs = Runs.open(options, "seconds_per_iteration", {"machine": machine})
        for size in options.sizes:
            batch = min(BATCH, pds_step.BATCH[size])
            runs.get(str(size), partial(measure, size, batch, options.seconds, not options.quick))
    finally:
        torch.set_num_threads(threads)
    publish(output_folder(options), "seconds_per_iteration", draw, text, runs.numbers)


if __name__ == "__main__":
    command(main)
