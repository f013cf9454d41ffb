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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from drawing import GREY, SERIES, few_decades, page, sheet
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from paper_skews import paper_skews
from publish import Pictures, Runs, add_options, cell, command, output_folder, publish, table
from torch import Tensor
from trained import SOLVERS, Trained, add_model_options, steps_of

import prescore
from prescore.errors import SamplingError
from prescore.metrics import power_spectrum_error
from prescore.operators import Identity, OddFrequency, RollSkew
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin, Sampler

STEPS = 66  # of the paper
OMEGAS = (1.0, 10.0, 100.0, 1000.0)
SIDE = 32
STEP_SIZES = (0.0512, 0.005, 0.0005)  # a lam; the first is the corrector's, 2 snr^2
CHECKED = ((0.0512, 0.5), (0.0512, 2.0), (0.005, 2.0), (0.005, 8.0))  # a lam and omega of the samples
CURVE = torch.logspace(-1, 3, 200, dtype=torch.float64)
SHOWN, CONTROL = 4, "no corrector"


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


def samplers(model: Trained, T: int, omegas: Sequence[float]) -> dict[str, Sampler]:
    """PDS without a term and with each operator and weight, without a corrector, and the preconditioned solvers."""
    plain = model.pds(T)
    base, found = plain.M, {"none": plain}
    for name, S in paper_skews().items():
        for omega in omegas:
            M = Preconditioner(base.M, skew=S, omega=omega, label=base.label, alpha=base.alpha)
            found[with_term(name, omega)] = replace(plain, preconditioner=M)
    return found | {CONTROL: replace(plain, corrector="none")} | {s: model.solver(s, 2 * T) for s in SOLVERS}


def with_term(name: str, omega: float) -> str:
    return f"{name}, omega {omega:g}"


def shown(omegas: Sequence[float]) -> list[str]:
    """What the figure has pictures of: of the operators that are zero on images one."""
    top = max(omegas)
    largest = [with_term(name, top) for name in ("S", "S2", "S3")]
    return ["none", *largest, CONTROL, *(with_term("S1", omega) for omega in omegas), SOLVERS[-1]]


def measures(model: Trained, sampler: Sampler, n: int, reference: Callable[[], Tensor]) -> dict[str, Any]:
    """How far samples are from those of the same seeds without a term, and the error of their spectrum.

    All are None if the run overflows.
    """
    steps = sampler.steps if sampler.grid is None else len(sampler.grid) - 1
    row: dict[str, Any] = {"calls": sampler.total_calls(steps), "step": None}
    M = getattr(sampler, "preconditioner", None)
    try:
        x = model.draw(sampler, n)
    except SamplingError:
        return row | {"difference": None, "spectrum": None}
    if M is not None and sampler.corrector != "none":
        row["step"] = 1.0 if M.skew is None else corrector_step(model, M)
    difference = ((x - reference()).square().mean().sqrt() / reference().std()).item()
    return row | {"difference": difference, "spectrum": power_spectrum_error(x, model.statistics)}


def draw_states(ax: Axes, points: Sequence[Mapping[str, float]]) -> None:
    """Steady state of S1 against omega, closed form and sampled."""
    ax.set(xscale="log", yscale="log", xlim=(CURVE[0].item(), CURVE[-1].item()), ylim=(0.8, 10))
    for a, colour in zip(STEP_SIZES, SERIES, strict=False):
        values = [(omega, v) for omega in CURVE.tolist() if math.isfinite(v := steady_state(a, omega))]
        ax.plot(*zip(*values, strict=True), color=colour)
        last, _ = values[-1]
        ax.axvline(last, color=colour, ls=":", lw=1)
        ax.text(1.05 * last, 8, f"step {a:g}:\ndiverges", color=colour, va="top")
        own = [p for p in points if p["a"] == a]
        ax.plot([p["omega"] for p in own], [p["sampled"] for p in own], "o", color=colour)
    ax.axhline(1, color=GREY, lw=0.8)
    few_decades(ax)
    ax.set(xlabel="ω", ylabel="variance / variance of the data")
    ax.set_title("Steady state of S1 for three lengths of the step: lines in closed form, points sampled")


def draw(numbers: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Figure:
    """Pictures with and without a term; below, the steady state of S1 over omega."""
    runs, names = numbers["runs"], shown(numbers["settings"]["omegas"])
    columns = 5
    lines = math.ceil(len(names) / columns)
    figure = page(1.9 * lines + 3.2)
    above, below = figure.subfigures(2, 1, height_ratios=(1.9 * lines, 3))
    axes = above.subplots(lines, columns).flatten()
    for ax, name in zip(axes, names, strict=False):
        sheet(ax, pictures[name], columns=2)
        title = {"none": "no term", **{s: s for s in SOLVERS}}.get(name, name.replace("omega", "ω ="))
        ax.set_title(title, loc="center")
        ax.set_xlabel(f"{runs[name]['calls']} calls, error {cell(runs[name]['spectrum'])}")
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    above.suptitle("PDS without and with a skew-symmetric term, the same seeds")
    draw_states(below.subplots(), [row for name, row in runs.items() if name.startswith("steady state")])
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    settings, runs, size = numbers["settings"], numbers["runs"], numbers["runs"]["gain"]
    top, T = max(settings["omegas"]), settings["T"]
    zero = [name for name, value in size.items() if value < 1e-6]
    named = {"none": runs["none"]} | {name: runs[f"{name}, omega {top:g}"] for name in size}
    named |= {name: runs[name] for name in (CONTROL, *SOLVERS)}
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
{cell(runs[CONTROL]["spectrum"])} in the error of the spectrum)."""
        if stands_still
        else f"""At ω = {top:g} with S1 the corrector's step is {cell(acting["step"])} of what it was, and the error of
the spectrum {cell(acting["spectrum"])}, beside {cell(runs[CONTROL]["spectrum"])} without a corrector and
{cell(runs["none"]["spectrum"])} without a term."""
    )
    return f"""## Skew-symmetric terms (Figures 12, 13)

The paper adds ω S score to the drift of PDS, with S = Re[F - Fᵀ] and ω from 1 to 1000 (Figure 12) and six other S
with ω = 1000 (Figure 13), T = 66, faces of 1024x1024 pixels, and sees no effect of any. Here `{settings["model"]}`, T =
{T}, {settings["n"]} samples, the same seeds; table for ω = {top:g} (a difference of 1 would be that of the
size of the samples, and the solvers are at the same {2 * T} calls):

{table(head, rows)}

![Pictures with and without a term, and the steady state of S1](figures/skew.png)

Above, the same seeds with and without a term, and the error of the spectrum. A step of PDS makes two network calls;
without a corrector, and in the preconditioned solver, it makes one.

**{verdict}** {", ".join(zero)} are the zero operator on
real images: the DFT matrix is symmetric, and Re F(P - Pᵀ)F⁻¹ multiplies every frequency by an imaginary number. S1,
S2 and S3 act, and an explicit step of the corrector's length keeps the steady state only while ω is far below
{limit:.2g}, where it diverges (below). {saved}
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
    settings = {"T": options.steps, "n": options.n, "omegas": options.omegas, "model": model.name}
    settings |= {"preset": options.preset} if options.preset else {}
    runs, pictures = Runs.open(options, "skew", settings), Pictures.open(options, "skew")
    for a, omega in CHECKED[:1] if options.quick else CHECKED:
        point = partial(sampled_state, a, omega, options.n)
        facts = {"a": a, "omega": omega, "closed": steady_state(a, omega)}
        runs.get(f"steady state, a {a:g}, omega {omega:g}", lambda f=facts, point=point: f | {"sampled": point()})
    runs.get("gain", partial(gains, model.denoiser.event_shape))
    own = samplers(model, options.steps, options.omegas)
    reference = cache(partial(model.draw, own["none"], options.n))
    for name, sampler in own.items():
        runs.get(name, partial(measures, model, sampler, options.n, reference))
    for name in shown(options.omegas):
        pictures.get(name, partial(model.pictures, own[name], min(SHOWN, options.n)))
    publish(output_folder(options), "skew", draw, text, runs.numbers, pictures.pictures)


if __name__ == "__main__":
    command(main)
