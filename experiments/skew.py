"""The solenoidal term omega S score in Langevin dynamics: Figures 12 and 13 of the PDS paper.

    python experiments/skew.py

The paper adds omega S score, S skew-symmetric, to the drift of PDS, S = Re[F - F^T] and six others, omega up to 1000,
and finds "no impact" on pictures at T = 66: such a term leaves the steady state alone. `paper_skews` says why there
is less to see than that:

- S, S4, S5 and S6 are the zero operator on real images. Here that is measured: the largest |S x| / |x| over random x.
- S1 to S3, rolls of the image, are not. But an explicit step of size a, on Gaussian data of precision lam in every
  coordinate, with i q an eigenvalue of S and M = 1, multiplies by f = 1 - a lam (1 + i omega q) and so ends at

      lam v = 1 / (1 - a lam (1 + omega^2 q^2) / 2),

  which is the steady state, 1, only as a -> 0, and no state at all from a lam (1 + omega^2 q^2) = 2 on. With the
  a lam = 2 snr^2 = 0.0512 of the corrector that is omega |q| = 6.2. The left panel has this for S1, in closed form and
  from samples of the library's Langevin dynamics.
- The corrector's step size, eps = 2 (snr |M z| / |drift|)^2, has the whole drift in it: omega = 1000 makes it a
  millionth of what it was, or less. The pictures are then those of the predictor alone, the control "no corrector".
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from paper_skews import paper_skews
from publish import add_options, cell, command, output_folder, publish, table
from torch import Tensor
from trained import SOLVERS, Trained, add_model_options, steps_of

import prescore
from prescore.errors import SamplingError
from prescore.metrics import power_spectrum_error
from prescore.operators import Identity, OddFrequency, RollSkew
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin

STEPS = 66  # of the paper
OMEGAS = (1.0, 10.0, 100.0, 1000.0)
SIDE = 32
STEP_SIZES = (0.0512, 0.005, 0.0005)  # a lam; the first is the corrector's, 2 snr^2
CHECKED = ((0.0512, 0.5), (0.0512, 2.0), (0.005, 2.0), (0.005, 8.0))  # a lam and omega of the samples
CURVE = torch.logspace(-1, 3, 200, dtype=torch.float64)
SHOWN = 4


def gains(shape: tuple[int, ...]) -> dict[str, float]:
    """The largest |S x| / |x| over some random x."""
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        name: (S.mv(x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).max().item()
        for name, S in paper_skews().items()
    }


def steady_state(a: float, omega: float) -> float:
    """lam v for S1 on SIDE x SIDE pixels, the mean over the frequencies; inf from the first that diverges on."""
    S = OddFrequency.roll((1, 1), (SIDE, SIDE))
    weight = torch.full((SIDE // 2 + 1,), 2.0, dtype=torch.float64)
    weight[0] = weight[-1] = 1
    left = 1 - a * (1 + omega**2 * S.q**2) / 2
    return math.inf if left.min() <= 0 else ((weight / left).sum() / SIDE**2).item()


def sampled_state(a: float, omega: float, n: int) -> float:
    """The same from n images that the library's Langevin dynamics has run to their steady state, lam = 1."""
    M = Preconditioner(Identity(), skew=RollSkew((1, 1)), omega=omega)
    level = torch.tensor([1.0, 0.0])
    sampler = AnnealedLangevin(
        grid=level, level_steps=math.ceil(4 / a), step_size=a, prior="gaussian", denoise=False, preconditioner=M
    )
    point = prescore.Denoiser(lambda x, sigma: torch.zeros_like(x), (1, SIDE, SIDE), 0.5, 2.0, dtype=torch.float64)
    return prescore.sample(point, sampler, seeds=range(n), progress=False).square().mean().item()


def corrector_step(model: Trained, M: Preconditioner, sigma: float = 1.0) -> float:
    """The size of the corrector's step with the skew term over that without, at a noisy draw of the data's Gaussian."""
    noise = torch.randn(4, *model.denoiser.event_shape, generator=torch.Generator().manual_seed(1)).double()
    x = model.gaussian_draws(4) + sigma * noise
    with torch.no_grad():
        x0 = model.denoiser(x.to(model.denoiser.dtype), torch.tensor(sigma, dtype=model.denoiser.dtype)).double()
    g = (x0 - x) / sigma**2
    whole, plain = (M.norm(M.analyse(g, noise, skew=skew)[0]) for skew in (True, False))
    return (plain / whole).square().median().item()


def pictures(model: Trained, T: int, n: int, omegas: Sequence[float]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Samples with each operator and weight, and their numbers."""
    plain = model.pds(T)
    base = plain.M
    reference = model.draw(plain, n)
    found = {"none": reference}
    rows: dict[str, Any] = {"none": measures(model, reference, reference) | {"step": 1.0}}
    for name, S in paper_skews().items():
        for omega in omegas:
            M = Preconditioner(base.M, skew=S, omega=omega, label=base.label, alpha=base.alpha)
            key = f"{name}, omega {omega:g}"
            try:
                found[key] = model.draw(replace(plain, preconditioner=M), n)
                rows[key] = measures(model, found[key], reference) | {"step": corrector_step(model, M)}
            except SamplingError:
                rows[key] = {"difference": None, "spectrum": None, "step": None}
    controls = {"no corrector": replace(plain, corrector="none")}
    for name, sampler in controls.items() | {(s, model.solver(s, 2 * T)) for s in SOLVERS}:
        found[name] = model.draw(sampler, n)
        rows[name] = measures(model, found[name], reference) | {"step": None}
    return found, rows


def measures(model: Trained, x: Tensor, reference: Tensor) -> dict[str, float]:
    """How far samples are from those of the same seeds without a term, and the error of their spectrum."""
    difference = (x - reference).square().mean().sqrt() / reference.std()
    return {"difference": difference.item(), "spectrum": power_spectrum_error(x, model.statistics)}


def draw_states(ax: Axes, points: Sequence[dict[str, float]]) -> None:
    """Steady state of S1 against omega, closed form and sampled."""
    for i, a in enumerate(STEP_SIZES):
        values = [steady_state(a, omega) for omega in CURVE.tolist()]

        ax.loglog(
            CURVE, [v if math.isfinite(v) else math.nan for v in values], color=f"C{i}", label=f"step {a:g} / lam"
        )
        own = [p for p in points if p["a"] == a]
        ax.plot([p["omega"] for p in own], [p["sampled"] for p in own], "o", ms=4, color=f"C{i}")
    ax.axhline(1, color="0.7", lw=0.8)
    ax.set(xlabel="omega", ylabel="variance / variance of the data", title="S1: lines closed form, points sampled")
    ax.legend(fontsize=7)


def draw_pictures(axes: Any, model: Trained, found: dict[str, Tensor], omegas: Sequence[float]) -> None:
    """A row for each omega, a column for each operator."""
    for row, omega in zip(axes, omegas, strict=True):
        for ax, name in zip(row, ("none", *paper_skews(), "no corrector"), strict=True):
            x = found.get(name, found.get(f"{name}, omega {omega:g}"))
            if x is None:
                ax.set(xticks=[], yticks=[])
                ax.text(0.5, 0.5, "diverges", ha="center", va="center", transform=ax.transAxes, fontsize=7)
            else:
                model.show(ax, x[:SHOWN], columns=2)
        row[0].set_ylabel(f"omega {omega:g}", fontsize=8)
    for ax, name in zip(axes[0], ("none", *paper_skews(), "no corrector"), strict=True):
        ax.set_title(name, fontsize=8)


def text(numbers: dict[str, Any], model: Trained) -> str:
    """The section of docs/results.md."""
    size, runs, top = numbers["gain"], numbers["pictures"], max(numbers["omegas"])
    zero = [name for name, value in size.items() if value < 1e-6]
    named = {"none": runs["none"]} | {name: runs[f"{name}, omega {top:g}"] for name in size}
    named |= {name: runs[name] for name in ("no corrector", *SOLVERS)}
    keys, acting = ("step", "difference", "spectrum"), named["S1"]

    rows = [
        [name, f"{size[name]:.1g}" if name in size else None, *(row[k] for k in keys)] for name, row in named.items()
    ]
    head = ["S", "largest gain on images", "corrector's step, relative", "difference to none", "error of the spectrum"]
    limit = math.sqrt(2 / STEP_SIZES[0] - 1) / 2
    stands_still = acting["step"] is not None and acting["step"] < 0.01
    verdict = (
        "Agrees that nothing is to be seen, for other reasons than the paper's."
        if stands_still
        else "Does not agree: S1 changes the pictures."
    )
    saved = (
        f"""What saves the pictures is the corrector's step size, which has the whole drift
in its denominator: at ω = {top:g} with S1 it is {acting["step"] or 0:.0e} of what it was, the corrector stands still,
and the pictures are about those without a corrector ({cell(acting["spectrum"])} beside
{cell(runs["no corrector"]["spectrum"])} in the error of the spectrum)."""
        if stands_still
        else f"""At ω = {top:g} with S1 the corrector's step is {cell(acting["step"])} of what it was, and the error of
the spectrum {cell(acting["spectrum"])}, beside {cell(runs["no corrector"]["spectrum"])} without a corrector and
{cell(runs["none"]["spectrum"])} without a term."""
    )
    return f"""## Skew-symmetric terms (Figures 12, 13)

The paper adds ω S score to the drift of PDS, with S = Re[F - Fᵀ] and ω from 1 to 1000 (Figure 12) and six other S
with ω = 1000 (Figure 13), T = 66, faces of 1024x1024 pixels, and sees no effect of any. Here `{model.name}`, T =
{numbers["T"]}, {numbers["n"]} samples, the same seeds; table for ω = {top:g} (a difference of 1 would be that of the
size of the samples, and the solvers are at the same {2 * numbers["T"]} calls):

{table(head, rows)}

![Steady state of S1, and pictures](figures/skew.png)

**{verdict}** {", ".join(zero)} are the zero operator on
real images: the DFT matrix is symmetric, and Re F(P - Pᵀ)F⁻¹ multiplies every frequency by an imaginary number. S1,
S2 and S3 act, and an explicit step of the corrector's length keeps the steady state only while ω is far below
{limit:.2g}, where it diverges (left). {saved}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Solenoidal terms in PDS (Figures 12 and 13)")
    add_model_options(parser, "--model", default="mnist-ve")
    parser.add_argument("--steps", type=int, help=f"T [{STEPS}, or the preset's]")
    parser.add_argument("--n", type=int, default=16, help="samples")
    parser.add_argument("--omegas", type=float, nargs="+", default=list(OMEGAS))
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.n, options.omegas = 4, 2, [1.0, 1000.0]
    options.steps = steps_of(options, STEPS)
    model = Trained.open(options.model, options.statistics, options.config, options.preset)
    checked = CHECKED[:1] if options.quick else CHECKED
    points = [
        {"a": a, "omega": omega, "closed": steady_state(a, omega), "sampled": sampled_state(a, omega, options.n)}
        for a, omega in checked
    ]
    found, rows = pictures(model, options.steps, options.n, options.omegas)
    numbers = {"T": options.steps, "n": options.n, "omegas": options.omegas, "model": model.name}
    numbers |= {"gain": gains(model.denoiser.event_shape), "steady_state": points, "pictures": rows}
    figure = Figure(figsize=(15, 1.35 * len(options.omegas) + 0.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2.6])
    draw_states(left.subplots(), points)
    axes = right.subplots(len(options.omegas), len(paper_skews()) + 2, squeeze=False)
    draw_pictures(axes, model, found, options.omegas)
    publish(output_folder(options), "skew", figure, numbers, text(numbers, model))


if __name__ == "__main__":
    command(main)
