"""Annealed Langevin dynamics of NCSN on MNIST with few steps, plain and preconditioned: Figure 6 of the PDS paper.

    python experiments/ncsn_mnist.py --data data/mnist.npz

There are 10 noise levels from 1 to 0.01 and some Langevin steps at each, of length a = h sigma^2. The original sampler
takes 100 of h = 0.2 (2e-5 at the lowest level). The paper's rule for fewer steps is to lengthen them in proportion.
Every method draws from the same seeds:

    plain               M = 1
    PDS                 M = F^-1[F[x] / R], as Eq. 37 and 38 print it, "the elementwise division", in the usual order of
                        frequencies: the low ones, outside the disc, are divided by lam = 1.6, the highest keep 1
    PDS, shifted mask   the same with the zero frequency in the middle of the mask: the high ones are divided by lam
    PDS, multiplied     M = F^-1[F[x] R], with the product sign of the supplement's Eq. 19: the low ones are multiplied
    M = 1/lam           no shape at all: the plain sampler with steps 2.56 times shorter

Measured are the Frechet distance in the features of `mnist-classifier` and the error of the power spectrum
(`power_spectrum_error`); "surrogate" is that error on Gaussian data of the same mean and power, in closed form, which
needs no samples. Samples are clipped to [0, 1] first.

**What T = 20 means.** 20 steps in all (2 a level) would by the rule be steps of h = 10, and any method whose M keeps a
gain of 1 somewhere diverges beyond h = 2. 20 steps a level are steps of h = 1, about as long as the paper's settings
for NCSNv2 (0.5 to 1.2, from its 65 to 210 iterations). Both are run here, the first also with other lengths.

**Why the mask of Eq. 37 does not help.** No entry of its M exceeds 1, so it shortens steps and lengthens none; with few
steps what is missing is distance covered, not stability. Multiplied, M is ahead while its own steps are stable
(1.6^2 h < 2, h < 0.78), and so is a plain sampler with steps as long as its longest, h = 1.28 for multiplied, h = 0.5.
So what the text names ("shrinking the scale of low-frequency coordinates") does not help this sampler; the opposite,
which the product does, agrees with the figure at equal h. `--model exact` draws with the exact score of 1000 digits
instead of a network's: what comes out then is the sampler's doing alone.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from drawing import BLUE, GREY, LOOKS, legend_below, page, sheet
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Pictures, Runs, add_options, cell, command, output_folder, publish, table
from subjects import add_network_options, load_network
from torch import Tensor

import prescore
from prescore.data import load_images
from prescore.denoiser import Denoiser
from prescore.device import open_device
from prescore.errors import SamplingError, check_choice
from prescore.grid import geometric
from prescore.images import to_uint8
from prescore.metrics import Moments, frechet_distance, make_features, power_spectrum_error, radial_power
from prescore.operators import Frequency, Pixel
from prescore.operators.frequency import mirror
from prescore.oracle import EmpiricalOracle
from prescore.precondition import Preconditioner, radial_mask, radial_preconditioner
from prescore.samplers import AnnealedLangevin, make_sampler, sample
from prescore.statistics import Statistics

LEVELS = 10
ORIGINAL_STEPS, ORIGINAL_H = 100, 0.2  # a level; 2e-5 / 0.01^2
RADIUS, LAM = 0.2, 1.6  # of the disc, in heights
DRAWN_SAMPLES, SHOWN = 48, 24  # samples of a spectrum in the figure, and of them pictures
EXACT, EXACT_DIGITS = "exact", 1000  # digits whose exact score stands in for a network
OURS = "p-ode-2m"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DRAWN = ("plain", "PDS", "PDS, multiplied")
NAMES = {"PDS": "PDS as printed", "PDS, shifted mask": "mask shifted", "PDS, multiplied": "mask multiplied"}


def shifted_preconditioner(shape: Sequence[int]) -> Preconditioner:
    """The mask with its zero frequency in the middle: the disc is at the low frequencies, and the high ones shrink."""
    weights = torch.fft.ifftshift(1 / radial_mask(shape, RADIUS * shape[-2], LAM))
    return Preconditioner(Frequency.from_full((weights + mirror(weights, (-2, -1))) / 2, 2), label="shifted")


METHODS: Mapping[str, Callable[[Sequence[int]], Preconditioner | None]] = {
    "plain": lambda shape: None,
    "PDS": lambda shape: radial_preconditioner(shape, RADIUS * shape[-2], LAM),
    "PDS, shifted mask": shifted_preconditioner,
    "PDS, multiplied": lambda shape: radial_preconditioner(shape, RADIUS * shape[-2], 1 / LAM),
    "M = 1/lam": lambda shape: Preconditioner(Pixel(torch.full(tuple(shape), 1 / LAM, dtype=torch.float64))),
}


@dataclass(frozen=True, eq=False)
class Setting:
    """What a run draws from and is compared with.

    Args:
        model: the NCSN, or any denoiser with a noise range.
        digits: uint8, (N, 1, H, W), in random order; the last n are true samples, the others the reference.
        n: samples of a run.  batch_size: of them in one network call.
    """

    model: Denoiser
    digits: Tensor
    n: int
    batch_size: int

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.model.event_shape

    @cached_property
    def reference(self) -> Moments:
        return self.moments(self.digits[: -self.n])

    @cached_property
    def statistics(self) -> Statistics:
        return prescore.calibrate(self.digits[: -self.n])

    def floor(self) -> dict[str, float]:
        """The measures of n true samples."""
        return self.measures(self.digits[-self.n :].double() / 255)

    def moments(self, x: Tensor) -> Moments:
        return make_features("mnist-classifier", self.shape).moments(x)

    def measures(self, x: Tensor) -> dict[str, float]:
        """Frechet distance in the features of the classifier, and error of the spectrum, of images in [0, 1]."""
        return {
            "frechet": frechet_distance(self.moments(x), self.reference),
            "spectrum": power_spectrum_error(x, self.statistics),
        }

    def draw(self, method: str, level_steps: int, h: float, n: int) -> Tensor | None:
        """Samples of the seeds 0 to n - 1, clipped to [0, 1]; None if the run overflows."""
        sampler = AnnealedLangevin(
            grid=geometric(LEVELS, self.model.sigma_min, self.model.sigma_max, final_zero=True),
            level_steps=level_steps,
            step_size=h * self.model.sigma_min**2,
            denoise=False,
            preconditioner=METHODS[method](self.shape),
        )
        try:
            size = min(n, self.batch_size)
            return sample(self.model, sampler, seeds=range(n), batch_size=size, progress=False).clamp(0, 1)
        except SamplingError:
            return None

    def pictures(self, method: str, level_steps: int, h: float) -> Tensor | None:
        x = self.draw(method, level_steps, h, min(DRAWN_SAMPLES, self.n))
        return None if x is None else to_uint8(x)

    def surrogate(self, method: str, level_steps: int, h: float) -> float:
        """Error of the spectrum, about the mean, on Gaussian data with the mean and the power of the digits.

        Every frequency follows v <- (1 - a m^2 / (c + sigma^2))^2 v + 2 a m^2 with a = h sigma^2, m the gain of M and
        c the variance of the data; the start is uniform on [0, 1].
        """
        delta = torch.zeros(1, *self.shape, dtype=torch.float64)
        delta[..., 0, 0] = 1
        M, axes = METHODS[method](self.shape), (-2, -1)
        m = torch.fft.rfftn(delta if M is None else M.noise(delta), dim=axes)[0].abs()
        c = self.statistics.moments.power_centred / self.statistics.moments.size_transformed
        bias = torch.fft.rfftn(0.5 - self.statistics.moments.mean, dim=axes, norm="ortho").abs() ** 2
        variance = torch.full_like(c, 1 / 12)
        levels = geometric(LEVELS, self.model.sigma_min, self.model.sigma_max)
        for sigma in levels.repeat_interleave(level_steps):
            a = h * sigma**2 * m**2
            f = (1 - a / (c + sigma**2)) ** 2
            variance, bias = f * variance + 2 * a, f * bias
        squares = ((variance + bias) / (c + levels[-1] ** 2)).log() ** 2
        weight = self.statistics.moments.multiplicity.expand(c.shape)
        return ((weight * squares).sum() / weight.sum()).sqrt().item()


def h_of_paper(level_steps: int) -> float:
    """Fewer steps are longer in proportion: "for a consistent accumulative update of the score function"."""
    return ORIGINAL_H * ORIGINAL_STEPS / level_steps


def shown_h(level_steps: int) -> float:
    """Of the pictures: the rule's, but short enough for every method to be stable."""
    return min(h_of_paper(level_steps), 0.5)


def measure(setting: Setting, method: str, level_steps: int, h: float) -> dict[str, Any]:
    """One run and its measures, None where it overflows."""
    start = time.perf_counter()
    x = setting.draw(method, level_steps, h, setting.n)
    measured = {"frechet": None, "spectrum": None} if x is None else setting.measures(x)
    run: dict[str, Any] = {"method": method, "level_steps": level_steps, "T": LEVELS * level_steps, "h": h}
    run["surrogate"] = setting.surrogate(method, level_steps, h)
    return run | measured | {"seconds": round(time.perf_counter() - start)}


def key(method: str, level_steps: int, h: float) -> str:
    return f"{method}, {level_steps} steps a level, h = {h:g}"


def spectra(setting: Setting, level_steps: int, pictures: Mapping[str, Tensor]) -> dict[str, Any]:
    """Power of the pictures over that of the data, against frequency, for each method whose run is finite."""
    frequencies, data = radial_power(setting.statistics.moments.power[0], setting.shape[-2:])
    found: dict[str, Any] = {"frequencies": frequencies.tolist()}
    for method in DRAWN:
        x = pictures[key(method, level_steps, shown_h(level_steps))]
        if len(x):
            _, own = radial_power(prescore.calibrate(x).moments.power[0], setting.shape[-2:])
            found[method] = (own / data).tolist()
    return found


def draw_digits(axes: Axes, x: Tensor, method: str, run: Mapping[str, Any] | None) -> None:
    """The first samples, the same seeds for each method, and the distance of the run that has it."""
    sheet(axes, x[:SHOWN], columns=4)
    axes.set_title(NAMES.get(method, method), loc="center")
    if run is not None:
        axes.set_xlabel(f"distance {cell(run['frechet'])}")


def draw_spectra(axes: Axes, found: Mapping[str, Any]) -> None:
    looks = {"plain": LOOKS["plain"], "PDS": LOOKS["PDS"], "PDS, multiplied": {"color": BLUE, "marker": "o"}}
    for method in DRAWN:
        if method in found:
            name = NAMES.get(method, method)
            axes.semilogy(found["frequencies"], found[method], label=name, markevery=2, **looks[method])
    axes.axhline(1, color=GREY, lw=1, ls="--", label="data")
    axes.set(xlabel="cycles a pixel", title="power / power of the data")


def draw(numbers: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Figure:
    """Digits of the same seeds by three methods, and their spectra; one row for each number of steps."""
    runs, start = numbers["runs"], "spectra, "
    level_steps = [int(name.removeprefix(start).split()[0]) for name in runs if name.startswith(start)]
    figure = page(0.4 + 3.1 * len(level_steps))
    lines = figure.subfigures(len(level_steps), 1, squeeze=False)[:, 0]
    for line, steps in zip(lines, level_steps, strict=True):
        h = shown_h(steps)
        *axes, right = line.subplots(1, len(DRAWN) + 1, width_ratios=[*[1] * len(DRAWN), 1.5])
        for ax, method in zip(axes, DRAWN, strict=True):
            name = key(method, steps, h)
            draw_digits(ax, pictures[name], method, runs.get(name))
        draw_spectra(right, runs[f"{start}{steps} steps a level"])
        measured = {method: run["frechet"] for method in DRAWN if _finite(run := runs.get(key(method, steps, h)))}
        nearest = (
            f": {NAMES.get(best, best)} is nearest" if (best := min(measured, key=measured.get, default="")) else ""
        )
        line.suptitle(f"{LEVELS * steps} network calls, steps of h = {h:g}{nearest}")
        legend_below(line, right, 4)
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    facts = numbers["settings"]
    runs = [run for run in numbers["runs"].values() if "method" in run]
    (ours,) = (run for name, run in numbers["runs"].items() if name.startswith(OURS))
    settings = sorted({(run["level_steps"], run["h"]) for run in runs})
    found = {(run["level_steps"], run["h"], run["method"]): run["frechet"] for run in runs}
    methods = [method for method in METHODS if any(run["method"] == method for run in runs)]
    rows: list[list[Any]] = []
    for steps, h in settings:
        values = [found.get((steps, h, method), "") for method in methods]
        best = min((v for v in values if isinstance(v, float)), default=None)
        rows.append([f"{LEVELS * steps}", f"{h:g}", *(f"**{v:.3g}**" if v == best else v for v in values)])
    rows.append([f"{ours['calls']}", "", f"`{OURS}`: {ours['frechet']:.3g}", *[""] * (len(methods) - 1)])
    head = ["calls T", "h", *(NAMES.get(method, method) for method in methods)]
    both = [s for s in settings if {(*s, "plain"), (*s, "PDS")} <= found.keys()]
    wins = [s for s in both if _is_less(found[*s, "PDS"], found[*s, "plain"])]
    multiplied = [s for s in both if _is_less(found.get((*s, "PDS, multiplied")), found[*s, "plain"])]
    listed = " and ".join(f"T = {LEVELS * steps}, h = {h:g}" for steps, h in multiplied)
    verdict = "Agrees" if len(wins) == len(both) else "Does not agree" if not wins else "Partly agrees"
    longer = [(steps, round(LAM**2 * h, 4)) for steps, h in multiplied]
    plain = [f"{found[*s, 'plain']:.3g} at h = {s[1]:g}" for s in longer if found.get((*s, "plain"))]
    as_long = f", and plain steps as long as its longest have {' and '.join(plain)}" if plain else ""
    ahead = (
        f"it is ahead in {listed}, as in the figure: it lengthens the steps of the frequencies that carry the "
        f"digits{as_long}. Beyond"
        if multiplied
        else "it is ahead in none. It lengthens the steps of the frequencies that carry the digits, and beyond"
    )
    return f"""## NCSN on MNIST (Figure 6)

The paper draws digits from NCSN in T = 20 steps, plain and with the mask (r, lam) = (0.2 H, 1.6): the plain ones are
broken and the preconditioned ones digits. Here `{facts["model"]}` draws by annealed Langevin dynamics on {LEVELS}
noise levels from {facts["sigma_max"]:g} to {facts["sigma_min"]:g}, with steps of h sigma². Frechet distance
in the features of `mnist-classifier`, n = {facts["n"]}; as many true digits have
{numbers["runs"]["true digits"]["frechet"]:.2g}. A dash
is a run that overflows, an empty field one that was not made. `{OURS}` draws from the same network, between its levels
by the nearest one.

{table(head, rows)}

![Digits, plain and preconditioned, and spectra](figures/ncsn_mnist.png)

The pictures have the same seeds, and below them stand their distances; the spectrum is that of {DRAWN_SAMPLES} samples.

**{verdict} as printed.** With the low frequencies divided by 1.6, PDS is ahead of plain in {len(wins)} of {len(both)}
rows: no entry of its M exceeds 1, so that it only shortens steps, and with few steps it is distance that is missing.
**Multiplied instead of divided** {ahead} h = 0.78 (1.6² h > 2) its own steps are unstable.
"""


def _finite(run: Mapping[str, Any] | None) -> bool:
    return run is not None and run["frechet"] is not None


def _is_less(a: float | None, b: float | None) -> bool:
    return a is not None and (b is None or a < b)


def ours(setting: Setting, calls: int) -> dict[str, Any]:
    """The preconditioned solver at the same number of calls as the shortest runs."""
    start = time.perf_counter()
    sampler = make_sampler(OURS, steps=calls, reference=setting.statistics)
    size = min(setting.n, setting.batch_size)
    x = sample(setting.model, sampler, seeds=range(setting.n), batch_size=size, progress=False)
    return {"calls": calls} | setting.measures(x.clamp(0, 1)) | {"seconds": round(time.perf_counter() - start)}


def load(path: Path, side: int) -> Tensor:
    """The digits of a file in random order, padded if the model's are."""
    x = load_images(path, key="train", pad=side)
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def prepare(options: argparse.Namespace) -> Setting:
    """The model and its data; the model "exact" has the exact score of some of the digits, without any network."""
    device, n = open_device(options.device), options.n
    if options.model != EXACT:
        check_choice("--dtype", options.dtype, DTYPES)
        network = load_network(options.model, options.config, device=device, dtype=DTYPES[options.dtype])
        return Setting(network, load(options.data, network.event_shape[-1]), n, options.batch_size)
    digits = load(options.data, 28)
    oracle = EmpiricalOracle(digits[:-n][:EXACT_DIGITS].double().to(device) / 255)
    exact = Denoiser(oracle, oracle.event_shape, 0.01, 1.0, dtype=torch.float64, device=device, name=EXACT)
    return Setting(exact, digits, n, options.batch_size)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="NCSN on MNIST with few Langevin steps, plain and preconditioned")
    add_network_options(parser, default="mnist-ncsn", help="a shipped model, any checkpoint, or exact")
    parser.add_argument("--data", type=Path, default=Path("data/mnist.npz"), help="the digits, as the array train")
    parser.add_argument("--n", type=int, default=5000, help="samples of each run, and true ones for the floor")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--level-steps", type=int, nargs="+", default=[2, 20], help="steps at each of 10 levels")
    parser.add_argument("--lengths", type=float, nargs="+", help="h [0.2, 0.5, 0.75 and the rule's]")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the network, float32 or bfloat16")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.level_steps, options.lengths = 16, [2], [0.2, 10]
    setting = prepare(options)
    facts = {"model": setting.model.name, "n": options.n, "dtype": options.dtype, "levels": LEVELS}
    facts |= {"sigma_min": setting.model.sigma_min, "sigma_max": setting.model.sigma_max, "r": RADIUS, "lam": LAM}
    runs, pictures = Runs.open(options, "ncsn_mnist", facts), Pictures.open(options, "ncsn_mnist")
    runs.get("true digits", setting.floor)
    for level_steps in options.level_steps:
        for h in options.lengths or sorted({0.2, 0.5, 0.75, h_of_paper(level_steps)}):
            for method in options.methods:
                name = key(method, level_steps, h)
                print(name, runs.get(name, partial(measure, setting, method, level_steps, h)), flush=True)
    fewest = LEVELS * min(options.level_steps)
    runs.get(f"{OURS}, {fewest} calls", partial(ours, setting, fewest))
    for level_steps in options.level_steps:
        h = shown_h(level_steps)
        for method in DRAWN:
            pictures.get(key(method, level_steps, h), partial(setting.pictures, method, level_steps, h))
        runs.get(f"spectra, {level_steps} steps a level", partial(spectra, setting, level_steps, pictures.pictures))
    publish(output_folder(options), "ncsn_mnist", draw, text, runs.numbers, pictures.pictures)


if __name__ == "__main__":
    command(main)
