"""The two-dimensional toy example of preconditioned Langevin dynamics, under every reading of its text.

Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504, section 5.1
and figure 3, sample N(0, C), C = [[9, 0.2], [0.2, 0.5]], by Langevin dynamics "with step size 0.1 (left), step 1
(middle) and preconditioned Langevin dynamics with step 1 (right)", where "we set the preconditioning matrix for this
sampling process as C+I". In the middle the samples have low probability, on the right "much higher". The text
leaves open whether C+I is M, M M^T or the inverse of one of them, and which of

    x <- x + h M M^T score(x) + sqrt(2 h) M z,    h = eps,  or h = eps^2 / 2 as in Eq. 8 and 20 of the paper

has the step size eps. Every candidate M is a function of C, so in the eigenvectors of C, whose eigenvalues are
c = 9.005 and 0.495, each coordinate goes by itself and all is known in closed form. With score(x) = -x / c a step
multiplies x by f = 1 - h m^2 / c and adds noise of variance 2 h m^2. It converges if and only if |f| < 1, then to

    v = c / (1 - h m^2 / 2c),        v_n = v + f^2n (1 - v)        starting from N(0, I).

`python experiments/toy_gaussian.py` needs 4 s; docs/results.md says what comes out.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from drawing import BLUE, GREY, RED, SERIES, label_ends, page
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from publish import add_options, command, output_folder, publish, table
from torch import Tensor

import prescore
from prescore.gaussian import Gaussian
from prescore.grid import geometric
from prescore.operators import PCA, Dense
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin

COVARIANCE = torch.tensor([[9.0, 0.2], [0.2, 0.5]], dtype=torch.float64)
C, Q = torch.linalg.eigh(COVARIANCE)  # eigenvalues, ascending, and eigenvectors
STEPS: dict[str, Callable[[float], float]] = {"h = eps": lambda eps: eps, "h = eps²/2": lambda eps: eps**2 / 2}
CALLS = 5  # of the preconditioned solver
SHOWN, FRAME = 400, (10.0, 6.0)  # samples in a panel, and half its width and height
BEYOND = 1e9  # a divergence that no panel shows
SIGMA = 0.1  # noise level at which the sampler is told to be; the dynamics does not depend on it

# name: (eigenvalues of M, eps). The first two are the left and the middle panel of the paper, the others candidates
# for the right one.
READINGS = {
    "plain, 0.1": (C**0, 0.1),
    "plain, 1": (C**0, 1.0),
    "M = C+I": (C + 1, 1.0),
    "MMᵀ = C+I": ((C + 1) ** 0.5, 1.0),
    "MMᵀ = C": (C**0.5, 1.0),
    "MMᵀ = (C+I)⁻¹": ((C + 1) ** -0.5, 1.0),
    "M = (C+I)⁻¹": ((C + 1) ** -1, 1.0),
}


@dataclass(frozen=True)
class Dynamics:
    """Langevin dynamics on N(0, C) with a matrix M of eigenvalues m, (2,), and step h."""

    m: Tensor
    h: float

    @property
    def f(self) -> Tensor:
        return 1 - self.h * self.m**2 / C

    @property
    def condition(self) -> float:
        """Condition number of M M^T C^-1: how unlike the rates of the two axes are."""
        rates = self.m**2 / C
        return (rates.max() / rates.min()).item()

    @property
    def largest_step(self) -> float:
        """The h beyond which the dynamics diverges."""
        return 2 / (self.m**2 / C).max().item()

    @property
    def radius(self) -> float:
        """Spectral radius of a step: the dynamics converges if it is below 1."""
        return self.f.abs().max().item()

    def stationary(self) -> Tensor:
        """The fixed point of the variances, (2,), reached if radius < 1."""
        return C / (1 - self.h * self.m**2 / (2 * C))

    def variance(self, n: int) -> Tensor:
        """Variances after n steps from N(0, I), (2,)."""
        v = self.stationary()
        return v + self.f ** (2 * n) * (1 - v)

    def sample(self, points: int, n: int) -> Tensor:
        """`points` samples after n steps from N(0, I), by the library's sampler: (points, 2)."""
        # One generator for all points: a NoiseSource, with a generator for each, would take most of the time.
        generator = torch.Generator().manual_seed(0)

        def noise() -> Tensor:
            return torch.randn(points, 2, dtype=torch.float64, generator=generator)

        sampler = AnnealedLangevin(
            grid=torch.tensor([SIGMA, 0.0]),
            level_steps=n,
            step_size=self.h,
            denoise=False,
            preconditioner=Preconditioner(Dense(Q * self.m @ Q.mT)),
        )
        levels = sampler.levels(None, None)
        x, _ = sampler.step(denoise, noise(), levels[0], levels[1], sampler.start(levels), noise)
        return x


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Tweedie's formula for a state whose distribution is N(0, C): x + sigma^2 score."""
    return x - sigma**2 * (x @ Q / C) @ Q.mT


def divergence(v: Tensor) -> float:
    """KL(N(0, V) || N(0, C)) in nats, V with the variances v."""
    return 0.5 * (v / C - 1 - (v / C).log()).sum().item()


def measure(dynamics: Dynamics, points: int, n: int) -> tuple[dict[str, object], Tensor]:
    """Numbers of one reading, and its samples.

    `energy` is E[x^T C^-1 x] / 2, minus the mean log density but for a constant: 1 for N(0, C). `sampled` is its mean
    over the samples, to be compared with it within a few `standard_error`.
    """
    v, x, limit = dynamics.variance(n), dynamics.sample(points, n), dynamics.stationary()
    converges = dynamics.radius < 1
    row = {
        "h": dynamics.h,
        "largest_h": dynamics.largest_step,
        "condition": dynamics.condition,
        "radius": dynamics.radius,
        "variance_ratio": (v / C).tolist(),
        "KL": divergence(v),
        "stationary_KL": divergence(limit) if converges else None,
        "stationary_variance_ratio": (limit / C).tolist() if converges else None,
        "energy": (v / C).sum().item() / 2,
        "sampled": ((x @ Q) ** 2 / C).sum(1).mean().item() / 2,
        "standard_error": math.hypot(*(v / C).tolist()) / math.sqrt(2 * points),
    }
    return row, x


def preconditioned_solver(points: int, calls: int) -> tuple[dict[str, float], Tensor]:
    """What p-ode-2m makes in as many network calls, from the exact score of N(0, C) at each noise level."""
    mean, covariance = torch.zeros(2, dtype=torch.float64), PCA(Q, C, 0.0)
    oracle = Gaussian(mean, covariance)
    sampler = prescore.make_sampler(
        "p-ode-2m", grid=geometric(calls, 0.01, 50, final_zero=True), reference=Gaussian(mean, covariance)
    )
    x = prescore.sample(oracle, sampler, seeds=range(points), progress=False)
    energies = ((x @ Q) ** 2 / C).sum(1) / 2
    row = {"calls": calls, "sampled": energies.mean().item(), "standard_error": energies.std().item() / points**0.5}
    return row, x


def in_frame(x: Tensor) -> list[list[float]]:
    """Of the first samples those that a panel shows."""
    x = x[:SHOWN]
    return [[round(value, 2) for value in point] for point in x[(x.abs() < torch.tensor(FRAME)).all(1)].tolist()]


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    results, ours, n, points = (numbers[key] for key in ("readings", "p-ode-2m", "steps", "points"))
    rows = []
    for name in READINGS:
        full, half = (results[convention][name] for convention in STEPS)
        ends = ["diverges" if r["stationary_KL"] is None else f"KL {r['KL']:.3g}" for r in (full, half)]
        rows.append(
            [name, full["condition"], full["largest_h"], *ends, full["sampled"] if full["sampled"] < 10 else None]
        )
    rows.append([f"`p-ode-2m`, {ours['calls']} calls", 1.0, None, "exact", "exact", ours["sampled"]])
    full, half = results.values()
    head = ["M, step size eps", "condition number", "largest stable h", "h = eps", "h = eps²/2", "E of the samples"]
    return f"""## Toy example (Figure 3)

The paper draws from N(0, C), C = [[9, 0.2], [0.2, 0.5]], by Langevin dynamics: with step 0.1 well, with step 1 badly,
and with step 1 and "C+I as the preconditioning matrix" well again. It leaves open whether C+I is M, MMᵀ or the
inverse of one, and whether eps is the step h or h = eps²/2 as in its Eq. 8. Here is every reading after {n} steps, in
closed form; KL is that of N(0, C) in nats, E = E[xᵀC⁻¹x]/2 of {points} samples with h = eps, 1 for N(0, C):

{table(head, rows)}

![Samples under each reading](figures/toy_gaussian.png)

Each panel has samples with h = eps and the ellipse of two standard deviations of N(0, C), two of them named by their
place in the paper; below, the KL divergence over the steps in both readings of eps. **Partly agrees.** The left and the
middle panel need h = eps: with h = eps²/2 nothing fails in the middle (KL {half["plain, 1"]["KL"]:.2g}). Then C+I
itself cannot be the right panel: as MMᵀ it evens out the axes but is stable only up to
h = {full["MMᵀ = C+I"]["largest_h"]:.2g}, as M up to {full["M = C+I"]["largest_h"]:.2g}. The panel comes out if C+I is
inverted (KL {full["MMᵀ = (C+I)⁻¹"]["KL"]:.2g} and {full["M = (C+I)⁻¹"]["KL"]:.2g}), which slows the long axis most, so
that plain dynamics with step 0.1 ({full["plain, 0.1"]["KL"]:.2g}) is closer after the same number of steps; and with
MMᵀ = C, the true preconditioner: one step and the distribution is reached, though with h = 1 this is N(0, 2C).
"""


def draw_scatter(ax: Axes, points: Sequence[Sequence[float]], title: str) -> None:
    """Samples, and the ellipse of two standard deviations of N(0, C)."""
    if points:
        ax.plot(*zip(*points, strict=True), ".", ms=3.5, color=BLUE, alpha=0.6, mew=0)
    else:
        ax.text(0, -4, "all lie outside the frame", ha="center", va="center", color=GREY)
    minor, major = (4 * C.sqrt()).tolist()
    angle = math.degrees(math.atan2(Q[1, 1].item(), Q[0, 1].item()))
    ax.add_patch(Ellipse((0, 0), major, minor, angle=angle, fill=False, color=RED, lw=1.5))
    width, height = FRAME
    ax.set(xlim=(-width, width), ylim=(-height, height), xticks=[-9, 0, 9], yticks=[-5, 0, 5], title=title)
    ax.label_outer()


def draw_curves(ax: Axes, convention: str, n: int) -> None:
    """Divergence against the number of steps, for each reading."""
    counts = sorted({round(k) for k in torch.logspace(0, math.log10(10 * n), 80).tolist()})
    ends = []
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1e2), xlim=(1, counts[-1]), xlabel="Langevin steps")
    for colour, (name, (m, eps)) in zip(SERIES, READINGS.items(), strict=True):
        dynamics = Dynamics(m, STEPS[convention](eps))
        kl = [v if (v := divergence(dynamics.variance(k))) < BEYOND else BEYOND for k in counts]
        ax.plot(counts, kl, color=colour)
        ends.append((kl[-1], name, colour))
    label_ends(ax, ends, gap=0.085)
    ax.axvline(n, color=GREY, lw=0.8, ls=":")
    ax.set_title(f"KL from N(0, C) in nats, {convention}")


def draw(numbers: Mapping[str, Any]) -> Figure:
    """A panel of samples for each reading with h = eps, and the divergence over steps for each meaning of eps."""
    readings, ours = numbers["readings"]["h = eps"], numbers["p-ode-2m"]
    figure = page(7.6)
    above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    axes = above.subplots(2, 4, sharex=True, sharey=True).flatten()
    of_paper = {"plain, 0.1": "plain, h = 0.1 (left)", "plain, 1": "plain, h = 1 (middle)"}
    for ax, (name, row) in zip(axes, readings.items(), strict=False):
        reached = "diverges" if row["stationary_KL"] is None else f"KL {row['KL']:.2g}"
        draw_scatter(ax, numbers["shown"][name], f"{of_paper.get(name, name + ', h = 1')}\n{reached}")
    draw_scatter(axes[-1], numbers["shown"]["p-ode-2m"], f"p-ode-2m, {ours['calls']} calls\nexact")
    above.suptitle(
        f"Only with M Mᵀ = C, or C+I inverted, do samples stay in the ellipse with h = 1 ({numbers['steps']} steps)"
    )
    for ax, convention in zip(below.subplots(1, 2), STEPS, strict=True):
        draw_curves(ax, convention, numbers["steps"])
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Toy example of preconditioned Langevin dynamics (Ma et al., Fig. 3)")
    parser.add_argument("--points", type=int, default=2000, help="samples for each reading")
    parser.add_argument("--steps", type=int, default=100, help="Langevin steps")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.points = 500
    results: dict[str, dict[str, dict]] = {}
    shown: dict[str, list[list[float]]] = {}
    for convention, h in STEPS.items():
        measured = {k: measure(Dynamics(m, h(eps)), options.points, options.steps) for k, (m, eps) in READINGS.items()}
        results[convention] = {name: row for name, (row, _) in measured.items()}
        if not shown:
            shown = {name: in_frame(x) for name, (_, x) in measured.items()}
    ours, x = preconditioned_solver(options.points, CALLS)
    numbers = {"points": options.points, "steps": options.steps, "C": COVARIANCE.tolist(), "readings": results}
    numbers |= {"p-ode-2m": ours, "shown": shown | {"p-ode-2m": in_frame(x)}}
    publish(output_folder(options), "toy_gaussian", draw, text, numbers)


if __name__ == "__main__":
    command(main)
