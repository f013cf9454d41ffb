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

    from prescore import Plan

MODEL = "mnist-ve"
STEPS = (10, 20)
# Spectrum error of 64 digits of the test set, the mean of 100 draws (their standard deviation is 0.014).
TRUE_DIGITS, TRUE_ERROR = 64, 0.163
LABELS = {"pc": "plain predictor-corrector", "pds": "PDS", "p-ode-3m": "preconditioned ODE (p-ode-3m)"}
HELD = 64  # bytes of each number of a digit that a run holds, at least
CALLS = 2  # network calls in a step of the predictor-corrector: so many steps takes the ODE for each of its
COLUMNS = ("sampler", "T", "alpha", "network calls", "seconds", "spectrum error", "R_coo", "V_coo")


@dataclass(frozen=True)
class Run:
    """What came of a plan: uint8 images (N, C, H, W), and what they cost and are worth."""

    plan: "Plan"
    images: "Tensor"
    seconds: float
    spectrum_error: float
    coordinate_range: float
    coordinate_variation: float

    @property
    def row(self) -> list[object]:
        """Its line in the table, as `COLUMNS`."""
        plan, alpha = self.plan, self.plan.settings.get("alpha", math.inf)
        head = [LABELS[plan.name], plan.steps, alpha, plan.calls, self.seconds]
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
        float | None, typer.Option(help="Alpha of PDS, 1 is strongest.", show_default="chosen by the statistics")
    ] = None,
) -> None:
    """Draw digits by the plain sampler and by the preconditioned ones, with the same seeds and network calls."""
    import prescore
    from prescore.cli.plan import count_seeds
    from prescore.cli.report import table
    from prescore.files import check_writable
    from prescore.limits import check_size

    check_writable(out)
    denoiser = prescore.load(MODEL)
    check_size("n", n, HELD * len(steps or STEPS) * math.prod(denoiser.event_shape))
    seeds = count_seeds(seed, n)
    plans = [  # all of them first: a bad option stops nothing halfway
        prescore.plan(
            denoiser,
            sampler=name,
            steps=CALLS * T if name == "p-ode-3m" else T,
            alpha=alpha if name == "pds" else None,
        )
        for name in LABELS
        for T in steps or STEPS
    ]
    runs = []
    for plan in plans:
        print(f"drawing {n} digits by {LABELS[plan.name]} in {plan.steps} steps", flush=True)
        runs.append(_run(plan, seeds))
    print("\n" + table(COLUMNS, [run.row for run in runs]))
    print(f"\nThe floor: {TRUE_DIGITS} true digits have a spectrum error of {TRUE_ERROR:.2g}.")
    _draw(runs, out)
    print(
        f"\nThe picture is in {out}. The columns are numbers of network calls, the same in each row: the fewer, the "
        "more noise the plain sampler (top) leaves, PDS (middle) less, and the preconditioned ODE (bottom) none."
    )


def _run(plan: "Plan", seeds: list[int]) -> Run:
    from prescore.images import to_uint8
    from prescore.metrics import Conditioning, power_spectrum_error
    from prescore.statistics import in_range, load_statistics

    conditioning, start = Conditioning(), time.perf_counter()
    x = plan.sample(seeds, callback=conditioning, progress=sys.stderr.isatty())
    seconds, statistics = time.perf_counter() - start, in_range(load_statistics(MODEL), plan.denoiser.data_range)
    images, error = to_uint8(x, plan.denoiser.data_range), power_spectrum_error(x, statistics)
    return Run(plan, images, seconds, error, conditioning.range, conditioning.variation)


def _draw(runs: list[Run], path: Path) -> None:
    """One row a sampler, one column a number of steps."""
    from prescore.cli.plots import PAGE, new_figure, save_figure, style
    from prescore.images import grid

    columns = len(runs) // len(LABELS)
    with style():
        figure = new_figure(PAGE, len(LABELS) * (0.4 + PAGE / columns))
        for place, run in zip(figure.subplots(len(LABELS), columns, squeeze=False).flatten(), runs, strict=True):
            sheet = grid(run.images).movedim(0, -1).squeeze(-1)
            place.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=255)
            place.set_axis_off()
            place.set_title(
                f"{LABELS[run.plan.name]}, {run.plan.steps} steps\n{run.plan.calls} network calls, "
                f"spectrum error {run.spectrum_error:.2f}"
            )
        save_figure(figure, path)
