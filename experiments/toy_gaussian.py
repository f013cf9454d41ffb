"""The two-dimensional toy example of preconditioned Langevin dynamics, under every reading of its text.

Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504, section 5.1
and figure 3, sample N(0, C), C = [[9, 0.2], [0.2, 0.5]], by Langevin dynamics "with step size 0.1 (left), step 1
(middle) and preconditioned Langevin dynamics with step 1 (right)", where "we set the preconditioning matrix for this
sampling process as C + I". In the middle the samples have low probability, on the right "much higher". The text
leaves open whether C + I is M, M M^T or the inverse of one of them, and which of

    x <- x + h M M^T score(x) + sqrt(2 h) M z,    h = eps,  or h = eps^2 / 2 as in Eq. 8 and 20 of the paper

has the step size eps. Every candidate M is a function of C, so in the eigenvectors of C, whose eigenvalues are
c = 9.005 and 0.495, each coordinate goes by itself and all is known in closed form. With score(x) = -x / c a step
multiplies x by f = 1 - h m^2 / c and adds noise of variance 2 h m^2. It converges if and only if |f| < 1, then to

    v = c / (1 - h m^2 / 2c),        v_n = v + f^2n (1 - v)        starting from N(0, I).

What comes out (100 steps, Kullback-Leibler divergence from N(0, C) in nats; `python experiments/toy_gaussian.py`):

- The left and middle panel need h = eps: plain dynamics then reaches 0.005 with step 0.1 and diverges with step 1
  (radius 1.02, the largest stable step is 0.99). With h = eps^2 / 2 nothing fails in the middle: 0.16.
- With h = eps, C + I itself cannot be the right panel. As M M^T it does even out the axes (condition number 18 -> 2.7)
  but is stable only up to step 0.66, and diverges at 1 (radius 2.02); as M it is stable up to 0.18 (radius 10.1).
- The right panel comes out if C + I is inverted: 0.48 for M M^T = (C + I)^-1, 0.38 for M = (C + I)^-1. But that is no
  preconditioning: the long axis is slowed most (condition number 18 -> 122, 814), and plain dynamics with step 0.1
  is a hundred times closer after the same number of steps.
- It also comes out with M M^T = C, the true preconditioner (condition number 1): one step and the distribution is
  reached, though with step 1 this is N(0, 2 C), 0.31. With h = 1/2 it is N(0, 4/3 C), 0.046, against 0.16 for plain
  dynamics with the same h, and 0.87 for M M^T = C + I.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

from prescore.operators import Dense
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin

ROOT = Path(__file__).parents[1]
COVARIANCE = torch.tensor([[9.0, 0.2], [0.2, 0.5]], dtype=torch.float64)
C, Q = torch.linalg.eigh(COVARIANCE)  # eigenvalues, ascending, and eigenvectors
STEPS: dict[str, Callable[[float], float]] = {"h = eps": lambda eps: eps, "h = eps²/2": lambda eps: eps**2 / 2}
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


def table(results: dict[str, dict[str, dict]]) -> str:
    """The results as text."""
    widths = {"h": 7, "max h": 7, "condition": 10, "radius": 8, "KL": 10, "KL, n = inf": 12, "energy": 10}
    head = "".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [f"{'step':12}{'reading':16}{head}  sampled"]
    for convention, rows in results.items():
        for name, r in rows.items():
            limit = "diverges" if r["stationary_KL"] is None else f"{r['stationary_KL']:.4f}"
            lines.append(
                f"{convention:12}{name:16}{r['h']:7.3g}{r['largest_h']:7.2f}{r['condition']:10.3g}{r['radius']:8.3f}"
                f"{r['KL']:10.3g}{limit:>12}{r['energy']:10.3g}  {r['sampled']:.3g} ± {r['standard_error']:.1g}"
            )
    return "\n".join(lines)


def draw_scatter(ax: Axes, x: Tensor, title: str) -> None:
    """Samples, and the ellipse of two standard deviations of N(0, C)."""
    ax.plot(*x[:1000].T, ".", ms=1.5, color="tab:blue", alpha=0.5)
    minor, major = (4 * C.sqrt()).tolist()
    angle = math.degrees(math.atan2(Q[1, 1].item(), Q[0, 1].item()))
    ax.add_patch(Ellipse((0, 0), major, minor, angle=angle, fill=False, color="tab:red", lw=1.2))
    if not (x.abs() < 10).any():
        ax.text(0, -5, "outside the frame", ha="center", fontsize=7)
    ax.set(xlim=(-10, 10), ylim=(-6, 6), xticks=[-9, 0, 9], yticks=[-5, 0, 5])
    ax.set_title(title, fontsize=8)
    ax.tick_params(labelsize=6)


def draw_curves(ax: Axes, convention: str, n: int) -> None:
    """Divergence against the number of steps, for each reading."""
    counts = sorted({round(k) for k in torch.logspace(0, math.log10(10 * n), 80).tolist()})
    for name, (m, eps) in READINGS.items():
        dynamics = Dynamics(m, STEPS[convention](eps))
        kl = [divergence(dynamics.variance(k)) for k in counts]
        ax.loglog(counts, [v if v < 1e9 else math.nan for v in kl], lw=1.2, label=name)
    ax.axvline(n, color="0.8", lw=0.8)
    ax.set(ylim=(5e-4, 1e2), xlabel="steps")
    ax.set_title("KL from N(0, C), nats", fontsize=8)
    ax.tick_params(labelsize=6)
    ax.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def draw(samples: dict[str, dict[str, Tensor]], results: dict[str, dict[str, dict]], n: int) -> Figure:
    """One row of panels for each meaning of the step size."""
    columns = len(READINGS) + 1
    figure = Figure(figsize=(2 * columns + 2, 2 * len(results) + 0.3), layout="constrained")
    axes = figure.subplots(len(results), columns, squeeze=False, width_ratios=[*[1] * len(READINGS), 1.4])
    for row, (convention, readings) in zip(axes, results.items(), strict=True):
        for ax, (name, r) in zip(row, readings.items(), strict=False):
            title = f"{name}, h = {r['h']:.3g}\nradius {r['radius']:.2f}, KL {r['KL']:.2g}"
            draw_scatter(ax, samples[convention][name], title)
        row[0].set_ylabel(convention)
        draw_curves(row[-1], convention, n)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Toy example of preconditioned Langevin dynamics (Ma et al., Fig. 3)")
    parser.add_argument("--points", type=int, default=2000, help="samples for each reading")
    parser.add_argument("--steps", type=int, default=100, help="Langevin steps")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "toy_gaussian.png")
    parser.add_argument("--json", type=Path, default=ROOT / "experiments" / "results" / "toy_gaussian.json")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, dict]] = {}
    samples: dict[str, dict[str, Tensor]] = {}
    for convention, h in STEPS.items():
        measured = {k: measure(Dynamics(m, h(eps)), options.points, options.steps) for k, (m, eps) in READINGS.items()}
        results[convention] = {name: row for name, (row, _) in measured.items()}
        samples[convention] = {name: x for name, (_, x) in measured.items()}
    print(table(results))
    draw(samples, results, options.steps).savefig(options.figure, dpi=80)
    content = {"points": options.points, "steps": options.steps, "C": COVARIANCE.tolist(), "readings": results}
    options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
