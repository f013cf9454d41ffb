"""`prescore demo`: the plain sampler beside the preconditioned ones, with the same seeds and network calls."""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Denoiser, Sampler, Statistics

MODEL = "mnist-ve"
STEPS = (10, 20)
# PDS's alpha by the number of steps: the least error of the final spectrum by `statistics_recursion`.
ALPHA = {10: 4.5, 20: 4.0, 50: 10.0}
# Spectrum error of 64 digits of the test set, the mean of 100 draws (their standard deviation is 0.014).
TRUE_DIGITS, TRUE_ERROR = 64, 0.163
LABELS = {"pc": "plain predictor-corrector", "pds": "PDS", "p-ode-3m": "preconditioned ODE (p-ode-3m)"}
CALLS = 2  # network calls in a step of the predictor-corrector: so many steps takes the ODE for each of its
COLUMNS = ("sampler", "T", "alpha", "network calls", "seconds", "spectrum error", "R_coo", "V_coo")


@dataclass(frozen=True)
class Run:
    """One sampler at one number of steps: its uint8 images (N, C, H, W), and what they cost and are worth."""

    sampler: str
    steps: int
    alpha: float
    images: "Tensor"
    calls: int
    seconds: float
    spectrum_error: float
    coordinate_range: float
    coordinate_variation: float

    @property
    def row(self) -> list[object]:
        """Its line in the table, as `COLUMNS`."""
        head = [self.sampler, self.steps, self.alpha, self.calls, self.seconds]
        return [*head, self.spectrum_error, self.coordinate_range, self.coordinate_variation]


def demo(
    out: Annotated[Path, typer.Option(help="The picture to write (PNG).")] = Path("demo.png"),
    n: Annotated[int, typer.Option("--n", help="Digits by each sampler.")] = 64,
    steps: Annotated[
        list[int] | None,
        typer.Option(help="Steps T of the predictor-corrector; repeat for several.", show_default="10 20"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first digit.")] = 0,
    alpha: Annotated[
        float | None, typer.Option(help="Alpha of PDS, 1 is strongest.", show_default="by the number of steps")
    ] = None,
) -> None:
    """Draw digits by the plain sampler and by the preconditioned ones, with the same seeds and network calls."""
    import prescore
    from prescore.assets import STATISTICS_SUFFIX, find
    from prescore.cli.plan import count_seeds
    from prescore.cli.report import table
    from prescore.files import check_writable
    from prescore.precondition import in_range, load_statistics

    check_writable(out)
    seeds = count_seeds(seed, n)
    denoiser = prescore.load(MODEL)
    statistics = in_range(load_statistics(find(MODEL, STATISTICS_SUFFIX)), denoiser.data_range)
    plans = [(name, T, usual_alpha(T) if alpha is None else alpha) for name in LABELS for T in steps or STEPS]
    samplers = [_sampler(statistics, *plan) for plan in plans]  # all of them first: a bad option stops nothing halfway
    runs = []
    for (name, _, strength), sampler in zip(plans, samplers, strict=True):
        print(f"drawing {n} digits by {LABELS[name]} in {sampler.steps} steps", flush=True)
        runs.append(_run(denoiser, statistics, sampler, LABELS[name], strength if name == "pds" else math.inf, seeds))
    print("\n" + table(COLUMNS, [run.row for run in runs]))
    print(f"\nThe floor: {TRUE_DIGITS} true digits have a spectrum error of {TRUE_ERROR:.2g}.")
    _draw(runs, out)
    print(
        f"\nThe picture is in {out}. The columns are numbers of network calls, the same in each row: the fewer, the "
        "more noise the plain sampler (top) leaves, PDS (middle) less, and the preconditioned ODE (bottom) none."
    )


def usual_alpha(steps: int) -> float:
    """PDS's alpha for this number of steps: that of the nearest one in the table."""
    return ALPHA[min(ALPHA, key=lambda known: abs(known - steps))]


def _sampler(statistics: "Statistics", name: str, steps: int, alpha: float) -> "Sampler":
    from prescore.precondition import frequency_preconditioner
    from prescore.samplers import PredictorCorrector, make_sampler

    if name == "p-ode-3m":
        return make_sampler(name, steps=CALLS * steps, reference=statistics)
    M = frequency_preconditioner(statistics, alpha) if name == "pds" else None
    return PredictorCorrector(steps=steps, preconditioner=M)


def _run(
    denoiser: "Denoiser",
    statistics: "Statistics",
    sampler: "Sampler",
    label: str,
    alpha: float,
    seeds: list[int],
) -> Run:
    import prescore
    from prescore.images import to_uint8
    from prescore.metrics import Conditioning, power_spectrum_error

    conditioning, start = Conditioning(), time.perf_counter()
    x = prescore.sample(denoiser, sampler, seeds=seeds, callback=conditioning, progress=sys.stderr.isatty())
    assert sampler.steps is not None
    calls = sampler.total_calls(sampler.steps)
    assert calls is not None  # none of these is adaptive
    return Run(
        sampler=label,
        steps=sampler.steps,
        alpha=alpha,
        images=to_uint8(x, denoiser.data_range),
        calls=calls,
        seconds=time.perf_counter() - start,
        spectrum_error=power_spectrum_error(x, statistics),
        coordinate_range=conditioning.range,
        coordinate_variation=conditioning.variation,
    )


def _draw(runs: list[Run], path: Path) -> None:
    """One row a sampler, one column a number of steps."""
    from prescore.cli.plots import new_figure, save_figure
    from prescore.images import grid

    columns = len(runs) // len(LABELS)
    figure = new_figure(4.6 * columns, 5 * len(LABELS))
    for place, run in zip(figure.subplots(len(LABELS), columns, squeeze=False).flatten(), runs, strict=True):
        sheet = grid(run.images).movedim(0, -1).squeeze(-1)
        place.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        place.set_axis_off()
        place.set_title(
            f"{run.sampler}, T = {run.steps}\n{run.calls} network calls, spectrum error {run.spectrum_error:.2f}"
        )
    save_figure(figure, path)
