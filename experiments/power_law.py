"""Plain against preconditioned sampling of a Gaussian whose power falls as |k|^-2, as that of natural images does.

The data are N(0.5, C) on 32x32 pixels with standard deviation 0.2, noise levels 50 to 0.01 in geometric progression
and then 0, predictor-corrector (reverse diffusion, Langevin with snr 0.16). The denoiser is exact, so whatever is
wrong with a sample is the sampler's doing. The sampler is linear, and C and the preconditioner are diagonal in
frequency: the variance of every frequency follows a recursion (`prescore.samplers.statistics_recursion`), which is
the closed form here; the same quantities from samples confirm it.

The error is the root mean square over frequencies of log(E|F(x - mu)|^2 / E|F(x0 - mu)|^2). Its estimate from n
samples averages the power over frequencies of equal |k| (everything here is isotropic) and subtracts the variance that
the logarithm of such an average has.

`python experiments/power_law.py` needs 45 s; docs/results.md says what comes out.
"""

import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from drawing import BLACK, BLUE, GREEN, GREY, PINK, RED, SERIES, label_ends, page
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import add_options, command, output_folder, publish, table
from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.gaussian import Gaussian, frequency_gaussian
from prescore.grid import geometric
from prescore.operators import Frequency
from prescore.precondition import frequency_preconditioner
from prescore.samplers import (
    GaussianTrajectory,
    PredictorCorrector,
    gaussian_recursion,
    make_sampler,
    sample,
    statistics_recursion,
)
from prescore.statistics import Moments, Statistics

SIZE = 32
SIGMA = (0.01, 50.0)
SHAPE = (1, SIZE, SIZE)
ORACLE = Gaussian.power_law(SHAPE)
ALPHAS = (1 + torch.logspace(-1.5, 2, 61, dtype=torch.float64)).tolist()
GAINS = torch.linspace(1, 1.4, 81, dtype=torch.float64).tolist()
STEPS = (20, 50, 100, 200)


def exact_statistics() -> Statistics:
    """What calibration would find on infinitely many samples of the oracle."""
    assert isinstance(ORACLE.covariance, Frequency)
    centred = (ORACLE.covariance.weights * SIZE**2).expand(1, SIZE, -1)
    power = centred + torch.fft.rfftn(ORACLE.mean, dim=(-2, -1)).abs() ** 2
    variance = ORACLE.covariance.as_matrix(SHAPE).diagonal().reshape(SHAPE)
    moments = Moments(
        count=1,
        event_shape=SHAPE,
        axes=2,
        data_range=(0.0, 1.0),
        mean=ORACLE.mean,
        mean_square=ORACLE.mean**2 + variance,
        power=power,
        power_centred=centred,
        minimum=0.0,
        maximum=1.0,
    )
    return Statistics(moments=moments)


STATISTICS = exact_statistics()
# Frequencies of equal |k| make one ring: its number for each entry of the half spectrum, and its k in cycles an image.
K2 = torch.fft.fftfreq(SIZE, 1 / SIZE)[:, None] ** 2 + torch.fft.rfftfreq(SIZE, 1 / SIZE) ** 2
SQUARES, RING = K2.round().long().unique(return_inverse=True)
COUNT = torch.zeros(len(SQUARES), dtype=torch.float64).index_add_(
    0, RING.flatten(), STATISTICS.moments.multiplicity.expand(SIZE, -1).flatten()
)


def rings(values: Tensor) -> Tensor:
    """Mean of a half spectrum, (1, SIZE, SIZE // 2 + 1), over the frequencies of each ring."""
    weighted = (values[0] * STATISTICS.moments.multiplicity).flatten()
    return torch.zeros_like(COUNT).index_add_(0, RING.flatten(), weighted) / COUNT


def sampler(alpha: float, steps: int, form: str = "paper", predictor: str = "reverse-diffusion") -> PredictorCorrector:
    """The predictor-corrector sampler; alpha = inf is the plain one."""
    M = None if math.isinf(alpha) else frequency_preconditioner(STATISTICS, alpha)
    grid = geometric(steps, *SIGMA, final_zero=True)
    return PredictorCorrector(grid=grid, preconditioner=M, form=form, predictor=predictor)


def predict(alpha: float, steps: int, form: str = "paper", predictor: str = "reverse-diffusion") -> GaussianTrajectory:
    """The closed form of `sampler(alpha, steps, form, predictor)`."""
    return statistics_recursion(sampler(alpha, steps, form, predictor), STATISTICS, *SIGMA)


@functools.cache
def error(alpha: float, steps: int, form: str = "paper", predictor: str = "reverse-diffusion") -> float:
    """Error of the final spectrum in the closed form."""
    return predict(alpha, steps, form, predictor).log_ratio[-1].item()


@functools.cache
def unshaped_error(m: float, steps: int) -> float:
    """The control: M = m for every frequency, which has no shape at all."""
    plain = sampler(math.inf, steps)
    trajectory = gaussian_recursion(
        plain,
        plain.levels(*SIGMA),
        STATISTICS.moments.power_centred / STATISTICS.moments.size_transformed,
        mean_square=torch.fft.rfftn(STATISTICS.moments.mean, dim=(-2, -1), norm="ortho").abs() ** 2,
        gain=m,
        multiplicity=STATISTICS.moments.multiplicity,
    )
    return trajectory.log_ratio[-1].item()


def final_ratio(trajectory: GaussianTrajectory) -> Tensor:
    """Second moment of the samples over that of the data, for each ring."""
    return rings(((trajectory.variance + trajectory.bias) / trajectory.target)[-1])


def sampled_ratio(alpha: float, steps: int, n: int, form: str = "paper") -> Tensor:
    """The same from n samples; its logarithm has the variance 2 / (n COUNT)."""
    x = sample(ORACLE, sampler(alpha, steps, form), seeds=range(n), progress=False)
    power = torch.fft.rfftn(x - ORACLE.mean, dim=(-2, -1)).abs() ** 2
    return rings(power.mean(0) / STATISTICS.moments.power_centred)


def error_of(ratio: Tensor, n: int) -> tuple[float, float]:
    """Mean square of the log ratio without the share of the sampling noise, and its standard error."""
    weight, noise = COUNT / COUNT.sum(), 2 / (n * COUNT)
    square = (weight * (ratio.log() ** 2 - noise)).sum().item()
    spread = (weight**2 * (2 * noise**2 + 4 * noise * ratio.log() ** 2)).sum().sqrt().item()
    return square, spread


def solver_error(steps: int) -> float:
    """The error of p-ode-2m with as many network calls as the predictor-corrector sampler makes, in closed form.

    It is linear and draws nothing after its start, N(mu, C + sigma_max^2): what it makes of an impulse says all.
    """
    solver = make_sampler("p-ode-2m", steps=2 * steps, reference=frequency_gaussian(STATISTICS))
    solver = replace(solver, steps=None, grid=solver.usual_levels(*SIGMA, 2 * steps))
    start = ORACLE.mean.repeat(2, 1, 1, 1)
    start[1, 0, 0, 0] += 1
    exact = Denoiser(ORACLE, SHAPE, *SIGMA, dtype=torch.float64)
    x = sample(exact, solver, seeds=range(2), initial=start, progress=False)
    C = STATISTICS.moments.power_centred / STATISTICS.moments.size_transformed
    ratio = torch.fft.rfftn(x[1] - x[0], dim=(-2, -1)).abs() ** 2 * (C + SIGMA[1] ** 2) / C
    return error_of(rings(ratio), math.inf)[0] ** 0.5


def best(steps: int, form: str = "paper") -> tuple[float, float]:
    """(alpha, error) of the alpha with the smallest error in the closed form."""
    return min(((alpha, error(alpha, steps, form)) for alpha in ALPHAS), key=lambda pair: pair[1])


def best_unshaped(steps: int) -> tuple[float, float]:
    """(m, error) of the best control."""
    return min(((m, unshaped_error(m, steps)) for m in GAINS), key=lambda pair: pair[1])


def limits(steps: int) -> tuple[float, float]:
    """Alpha below which the last predictor step overshoots, and below which all do: G^2 m^2 / sigma^2 > 2.

    Overshooting once costs accuracy; overshooting in every step makes the run diverge.
    """
    levels = geometric(steps, *SIGMA, final_zero=True)

    def smallest(levels: Tensor) -> float:
        low, high = 1 + 1e-6, 1e3
        for _ in range(40):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if sampler(middle, steps).diagnosis(SHAPE, levels) else (low, middle)
        return high

    return smallest(levels), smallest(levels[:-1])


@dataclass(frozen=True)
class Point:
    """One sampled check of the closed form."""

    alpha: float
    form: str
    predicted: float
    square: float
    spread: float

    @property
    def sampled(self) -> float:
        return math.sqrt(max(self.square, 0))

    def to_json(self) -> dict[str, object]:
        """alpha is null for the plain sampler; `ends` are those of the error bar, two standard errors off."""
        ends = [math.sqrt(max(self.square + s * self.spread, 0)) for s in (-2, 2)]
        own = asdict(self) | {"alpha": None if math.isinf(self.alpha) else self.alpha}
        return own | {"sampled": self.sampled, "ends": ends}


def check(alpha: float, steps: int, n: int, form: str = "paper") -> Point:
    """Sample n times and compare with the closed form."""
    return Point(alpha, form, error(alpha, steps, form), *error_of(sampled_ratio(alpha, steps, n, form), n))


def curves(steps: int, n: int) -> dict[str, Any]:
    """What the figure shows: errors over alpha in closed form, and the variance of each ring over the data's."""
    errors = {form: [error(alpha, steps, form) for alpha in ALPHAS] for form in ("paper", "marginal")}
    by_steps = {T: [error(alpha, T) for alpha in ALPHAS] for T in STEPS}
    ratios = {
        "plain" if math.isinf(alpha) else f"alpha {alpha:.3g}": {
            "closed": final_ratio(predict(alpha, steps))[1:].tolist(),
            "sampled": sampled_ratio(alpha, steps, n)[1:].tolist(),
        }
        for alpha in (math.inf, best(steps)[0], 2.0)
    }
    k = SQUARES.double().sqrt()[1:].tolist()
    return {"alphas": ALPHAS, "by_form": errors, "by_steps": by_steps, "k": k, "ratios": ratios}


def draw_alpha(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """Error against alpha: published and marginal form, closed form and sampled, with plain samplers beside them."""
    alphas, (row,) = numbers["curves"]["alphas"], (row for row in numbers["by_steps"] if row["T"] == numbers["T"])
    unstable, overshoot = row["every_step_overshoots_below_alpha"], row["last_step_overshoots_below_alpha"]
    ax.axvspan(1, unstable, color=RED, alpha=0.16, lw=0)
    ax.axvspan(unstable, overshoot, color=RED, alpha=0.07, lw=0)
    ax.set(xscale="log", yscale="log", xlim=(1.03, 100), ylim=(3e-3, 2), xlabel="alpha", ylabel="error of the spectrum")
    ends = []
    for form, colour in (("paper", RED), ("marginal", BLUE)):
        values = numbers["curves"]["by_form"][form]
        ax.plot(alphas, values, color=colour)
        name = "PDS" if form == "paper" else 'PDS, form="marginal"'
        ends.append((values[-1], name, colour))
        own = [p for p in numbers["sampled"] if p["form"] == form and p["alpha"] is not None]
        for p in own:
            ax.plot([p["alpha"]] * 2, p["ends"], color=colour, lw=1)
        ax.plot([p["alpha"] for p in own], [p["sampled"] for p in own], "o", color=colour)
    for key, colour, style, name in (
        ("plain", BLACK, "--", "plain"),
        ("unshaped", PINK, ":", f"M = {row['unshaped_best_m']:.3g} for all k"),
        ("plain_euler_maruyama", GREEN, "-.", "plain, Euler-Maruyama"),
    ):
        ax.axhline(row[key], color=colour, ls=style)
        ends.append((row[key], name, colour))
    label_ends(ax, ends, gap=0.09)
    for x, name in ((1.05, "diverges"), (0.72 * overshoot, "last step\novershoots")):
        ax.text(x, 1.7, name, va="top", color=GREY, rotation=90)
    ax.set_title(f"T = {numbers['T']}: lines in closed form, points from {numbers['n']} samples ± 2 standard errors")


def draw_frequencies(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """Variance ratio against |k|: plain, the best alpha, and one too small."""
    k, ends = numbers["curves"]["k"], []
    for (name, ratio), colour in zip(numbers["curves"]["ratios"].items(), (BLACK, RED, BLUE), strict=True):
        ax.plot(k, ratio["closed"], color=colour)
        ends.append((ratio["closed"][-1], name, colour))
        ax.plot(k, ratio["sampled"], ".", ms=2, color=colour)
    ax.axhline(1, color=GREY, lw=0.8, zorder=0)
    ax.set(xscale="log", xlabel="|k|, cycles in an image", ylabel="variance / variance of the data")
    ax.set_title(f"T = {numbers['T']}: which frequencies are wrong")
    label_ends(ax, ends, gap=0.08)


def draw_steps(ax: Axes, numbers: Mapping[str, Any]) -> None:
    """Error against alpha for several numbers of steps."""
    ax.set(xscale="log", yscale="log", xlim=(1.03, 100), ylim=(3e-3, 2), xlabel="alpha", ylabel="error of the spectrum")
    ends = []
    for row, colour in zip(numbers["by_steps"], SERIES, strict=False):
        values = numbers["curves"]["by_steps"][str(row["T"])]
        ax.plot(numbers["curves"]["alphas"], values, color=colour)
        ax.axhline(row["plain"], color=colour, ls="--", lw=0.8)
        ax.plot(row["best_alpha"], row["pds"], "o", color=colour)
        ends.append((values[-1], f"T = {row['T']}", colour))
    label_ends(ax, ends, gap=0.08)
    ax.set_title("PDS over T; dashed: plain, dot: best alpha")


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Error over alpha at one T; below, the frequencies there, and the error over alpha for several T."""
    figure = page(6.4)
    above, below = figure.subfigures(2, 1)
    draw_alpha(above.subplots(), numbers)
    left, right = below.subplots(1, 2)
    draw_frequencies(left, numbers)
    draw_steps(right, numbers)
    return figure


def row_of(steps: int) -> dict[str, float]:
    """The closed form at one number of steps."""
    (alpha, at_best), (marginal_alpha, marginal) = best(steps), best(steps, "marginal")
    (m, unshaped), (overshoot, unstable) = best_unshaped(steps), limits(steps)
    return {
        "T": steps,
        "plain": error(math.inf, steps),
        "best_alpha": alpha,
        "pds": at_best,
        "marginal_best_alpha": marginal_alpha,
        "marginal": marginal,
        "unshaped_best_m": m,
        "unshaped": unshaped,
        "plain_euler_maruyama": error(math.inf, steps, predictor="euler-maruyama"),
        "last_step_overshoots_below_alpha": overshoot,
        "every_step_overshoots_below_alpha": unstable,
    }


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    rows = numbers["by_steps"]

    def with_argument(value: str, argument: str) -> list[str]:
        return [f"{row[value]:.3f} ({row[argument]:.3g})" for row in rows]

    lines = [
        ["plain", *(f"{row['plain']:.3f}" for row in rows)],
        ["PDS, best alpha", *with_argument("pds", "best_alpha")],
        ['`form="marginal"`, best alpha', *with_argument("marginal", "marginal_best_alpha")],
        ["control: M = m for all frequencies", *with_argument("unshaped", "unshaped_best_m")],
        ["plain, Euler-Maruyama predictor", *(f"{row['plain_euler_maruyama']:.3f}" for row in rows)],
        ["`p-ode-2m` at the same calls", *(f"{row['p-ode-2m']:.0e}" for row in rows)],
    ]
    few = rows[0]
    return f"""## Power law

The paper explains what PDS gains by the unequal scales of the frequencies of images. Here are the error of the
spectrum and its cause without a network: the data are a Gaussian with the spectrum of images (power falls as |k|⁻²,
{SIZE}x{SIZE} pixels, an exact score), the sampler is the paper's (reverse diffusion, Langevin correction of snr 0.16),
and the variance of every frequency follows in closed form. The error is the root mean square over frequencies of
log(power / power of the data), alpha or m in brackets.

{table(["", *(f"T = {row['T']}" for row in rows)], lines)}

![Error of the spectrum over alpha](figures/power_law.png)

**Agrees that PDS helps at few steps, not why.** The control, the same M for every frequency, does at least as well
at T = {few["T"]} ({few["unshaped"]:.3f} beside {few["pds"]:.3f}), so the gain is that of a longer predictor step, not
of the preconditioner's shape: reverse diffusion takes G² = σ² - σ'² where the exact step in h = log(σ/σ') takes 2hσ²,
and m² is about their ratio. The Euler-Maruyama predictor takes 2hσ² and needs no M. Below
alpha = {few["last_step_overshoots_below_alpha"]:.2f} the last step overshoots, and below
{few["every_step_overshoots_below_alpha"]:.2f} (T = {few["T"]}) every step does. The preconditioned solver has nothing
left to approximate on a Gaussian.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Plain and preconditioned sampling of a power-law Gaussian")
    parser.add_argument("--n", type=int, default=400, help="samples for each point")
    parser.add_argument("--steps", type=int, default=50, help="steps T of the first two panels")
    parser.add_argument("--alphas", type=float, nargs="*", default=[1.6, 2, 3, 5, 10, 20, 50], help="sampled alphas")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.steps, options.alphas = 40, 20, [5.0]
    points = [check(alpha, options.steps, options.n) for alpha in (math.inf, *options.alphas)]
    points += [check(alpha, options.steps, options.n, "marginal") for alpha in options.alphas[::2]]
    rows = [row_of(steps) | {"p-ode-2m": solver_error(steps)} for steps in STEPS]
    numbers = {"size": SIZE, "sigma": SIGMA, "n": options.n, "T": options.steps, "by_steps": rows}
    numbers |= {"sampled": [p.to_json() for p in points], "curves": curves(options.steps, options.n)}
    publish(output_folder(options), "power_law", draw, text, numbers)


if __name__ == "__main__":
    command(main)
