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

**What comes out**, so far with the exact score in place of a network (--model exact: that of 1000 digits):

- As printed, PDS does not win: no entry of its M exceeds 1, so it shortens steps and lengthens none. With few steps
  what is missing is distance covered, not stability. In the closed form it is behind the plain sampler at every number
  of steps (2 to 100 a level) and every h below the limit, and nearly as bad as the shapeless 1/lam: 0.83, 0.97 and 0.41
  plain (2 steps, h = 1); 0.075, 0.082 and 0.041 (20 steps, h = 1). Shifting the mask changes little (0.88; 0.072).
- Multiplied, it is ahead of the plain sampler at equal h while its own steps are stable (1.6^2 h < 2, h < 0.78): in
  the closed form 1.26 against 1.95 (2 steps, h = 0.2), 0.46 against 0.74 (h = 0.5), 0.090 against 0.154 (20 steps,
  h = 0.2). With exact scores and 250 samples, where it fails a little below that limit already, the
  Frechet distances are (5.2 is that of as many true digits)

      steps   h      plain   PDS    shifted   multiplied   M = 1/lam
      2       0.2    37.3   108.0    53.7       31.8         120.3
      2       0.5    32.5    39.5    30.3       18.3          37.9
      2       0.75   27.5    37.6    27.4      321.8          33.8
      20      1.0    12.7    27.9    14.4     diverges        29.1

- A network says the same: with `mnist-ve` between the levels 1 and 0.01, 100 samples, 2 steps of h = 0.5, the distances
  are 123 plain, 247 as printed and 75 multiplied (14.6 is that of true digits).
- That gain is one of length, too: the plain sampler with h = 1.28, the longest step of "multiplied, h = 0.5", reaches
  19.6 beside its 18.3 (2 steps), and with h = 0.5, that of "multiplied, h = 0.2", 32.5 beside 31.8.
- So what the text names ("shrinking the scale of low-frequency coordinates") does not help this sampler; the opposite,
  which the product does, agrees with the figure at equal h, and a longer plain step does about as well.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import prescore
from prescore.data import load_images
from prescore.denoiser import Denoiser
from prescore.errors import SamplingError
from prescore.files import write_atomically
from prescore.grid import geometric
from prescore.images import grid, to_uint8
from prescore.metrics import Moments, frechet_distance, make_features, power_spectrum_error, radial_power
from prescore.operators import Frequency, Pixel
from prescore.operators.frequency import mirror
from prescore.oracle import EmpiricalOracle
from prescore.precondition import Preconditioner, Statistics, radial_mask, radial_preconditioner
from prescore.samplers import AnnealedLangevin, sample

ROOT = Path(__file__).parents[1]
LEVELS = 10
ORIGINAL_STEPS, ORIGINAL_H = 100, 0.2  # a level; 2e-5 / 0.01^2
RADIUS, LAM = 0.2, 1.6  # of the disc, in heights
SHOWN = 48  # samples of each picture
EXACT = 1000  # digits whose exact score stands in for a network


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

    @cached_property
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
            return sample(self.model, sampler, seeds=range(n), batch_size=self.batch_size, progress=False).clamp(0, 1)
        except SamplingError:
            return None

    def surrogate(self, method: str, level_steps: int, h: float) -> float:
        """Error of the spectrum, about the mean, on Gaussian data with the mean and the power of the digits.

        Every frequency follows v <- (1 - a m^2 / (c + sigma^2))^2 v + 2 a m^2 with a = h sigma^2, m the gain of M and
        c the variance of the data; the start is uniform on [0, 1].
        """
        delta = torch.zeros(1, *self.shape, dtype=torch.float64)
        delta[..., 0, 0] = 1
        M, axes = METHODS[method](self.shape), (-2, -1)
        m = torch.fft.rfftn(delta if M is None else M.noise(delta), dim=axes)[0].abs()
        c = self.statistics.power_centred / self.statistics.size_transformed
        bias = torch.fft.rfftn(0.5 - self.statistics.mean, dim=axes, norm="ortho").abs() ** 2
        variance = torch.full_like(c, 1 / 12)
        levels = geometric(LEVELS, self.model.sigma_min, self.model.sigma_max)
        for sigma in levels.repeat_interleave(level_steps):
            a = h * sigma**2 * m**2
            f = (1 - a / (c + sigma**2)) ** 2
            variance, bias = f * variance + 2 * a, f * bias
        squares = ((variance + bias) / (c + levels[-1] ** 2)).log() ** 2
        weight = self.statistics.multiplicity.expand(c.shape)
        return ((weight * squares).sum() / weight.sum()).sqrt().item()


def h_of_paper(level_steps: int) -> float:
    """Fewer steps are longer in proportion: "for a consistent accumulative update of the score function"."""
    return ORIGINAL_H * ORIGINAL_STEPS / level_steps


@dataclass(frozen=True)
class Results:
    """Measured runs, kept in a file that is written after each: what is there already is not run again.

    Args:
        path: of the JSON file.
        facts: about all runs; a file with others is refused.
        runs: by name.
    """

    path: Path
    facts: dict[str, Any]
    runs: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path, facts: dict[str, Any]) -> "Results":
        if not path.is_file():
            return cls(path, facts, {})
        content = json.loads(path.read_text())
        runs = content.pop("runs")
        if content != json.loads(json.dumps(facts)):
            raise SystemExit(f"{path}: holds a run with other settings; name another file with --json, or remove it")
        return cls(path, facts, runs)

    def measure(self, setting: Setting, method: str, level_steps: int, h: float) -> dict[str, Any]:
        name = f"{method}, {level_steps} steps a level, h = {h:g}"
        if name not in self.runs:
            start = time.perf_counter()
            x = setting.draw(method, level_steps, h, setting.n)
            measured = {"frechet": None, "spectrum": None} if x is None else setting.measures(x)
            run: dict[str, Any] = {"method": method, "level_steps": level_steps, "T": LEVELS * level_steps, "h": h}
            run["surrogate"] = setting.surrogate(method, level_steps, h)
            self.runs[name] = run | measured | {"seconds": round(time.perf_counter() - start)}
            content = json.dumps(self.facts | {"runs": self.runs}, indent=1)
            write_atomically(self.path, (content + "\n").encode())
        return self.runs[name]


def line(run: Mapping[str, Any]) -> str:
    numbers = " diverges" if run["frechet"] is None else f"{run['frechet']:9.2f} {run['spectrum']:9.3f}"
    return f"{run['level_steps']:4}  {run['h']:5.3g}  {run['method']:18} {run['surrogate']:9.3g} {numbers}"


def draw_digits(axes: Axes, setting: Setting, method: str, level_steps: int) -> None:
    """The first samples, the same seeds for each method."""
    x = setting.draw(method, level_steps, h_of_paper(level_steps), min(SHOWN, setting.n))
    axes.set(title=f"{method}, {level_steps} steps a level", xticks=[], yticks=[])
    if x is None:
        axes.text(0.5, 0.5, "diverges", ha="center", va="center", transform=axes.transAxes)
    else:
        axes.imshow(grid(to_uint8(x), columns=8)[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def draw_spectra(axes: Axes, setting: Setting, level_steps: int) -> None:
    """Power of the samples over that of the data, against frequency."""
    frequencies, data = radial_power(setting.statistics.power[0], setting.shape[-2:])
    for method in METHODS:
        x = setting.draw(method, level_steps, h_of_paper(level_steps), min(SHOWN, setting.n))
        if x is not None:
            _, own = radial_power(prescore.calibrate(x).power[0], setting.shape[-2:])
            axes.semilogy(frequencies, own / data, label=method)
    axes.axhline(1, color="0.8", lw=0.8, zorder=0)
    axes.set(title=f"{level_steps} steps a level", xlabel="cycles a pixel", ylabel="power / power of the data")
    axes.legend(fontsize=7)


def draw(path: Path, setting: Setting, level_steps: Sequence[int]) -> None:
    """Digits, plain above PDS, and below them the spectra; one column for each number of steps."""
    figure = Figure(figsize=(4.2 * len(level_steps), 9.5), layout="constrained")
    columns = figure.subplots(3, len(level_steps), squeeze=False).T
    for (above, below, spectra), steps in zip(columns, level_steps, strict=True):
        draw_digits(above, setting, "plain", steps)
        draw_digits(below, setting, "PDS", steps)
        draw_spectra(spectra, setting, steps)
    figure.savefig(path, dpi=80)


def load(path: Path, side: int) -> Tensor:
    """The digits of a file in random order, padded if the model's are."""
    x = load_images(path, key="train", pad=side)
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def prepare(model: str, data: Path, n: int, batch_size: int, device: str) -> Setting:
    """The model and its data; the model "exact" has the exact score of some of the digits, without any network."""
    if model != "exact":
        network = prescore.load(model, device=device)
        return Setting(network, load(data, network.event_shape[-1]), n, batch_size)
    digits = load(data, 28)
    oracle = EmpiricalOracle(digits[:-n][:EXACT].double().to(device) / 255)
    exact = Denoiser(oracle, oracle.event_shape, 0.01, 1.0, dtype=torch.float64, device=oracle.data.device, name=model)
    return Setting(exact, digits, n, batch_size)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="NCSN on MNIST with few Langevin steps, plain and preconditioned")
    parser.add_argument("--model", default="mnist-ncsn", help="a shipped model, a file, or exact")
    parser.add_argument("--data", type=Path, default=Path("data/mnist.npz"), help="the digits, as the array train")
    parser.add_argument("--n", type=int, default=5000, help="samples of each run, and true ones for the floor")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--level-steps", type=int, nargs="+", default=[2, 5, 10, 20], help="steps at each of 10 levels")
    parser.add_argument("--lengths", type=float, nargs="*", default=[0.2, 0.5, 0.75, 1.4], help="further lengths h")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="16 samples of 2 steps a level, to see that it runs")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "ncsn_mnist.png")
    parser.add_argument("--json", type=Path, default=ROOT / "experiments" / "results" / "ncsn_mnist.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.level_steps, options.lengths = 16, [2], [0.2]
    setting = prepare(options.model, options.data, options.n, options.batch_size, options.device)
    facts = {
        "model": setting.model.name,
        "n": options.n,
        "levels": LEVELS,
        "r": RADIUS,
        "lam": LAM,
        "floor": setting.floor,
    }
    results = Results.open(options.json, facts)
    print(f"{options.n} true samples: Frechet distance {setting.floor['frechet']:.2f}", end="")
    print(f", error of the spectrum {setting.floor['spectrum']:.3f}")
    print("steps   h    method             surrogate   frechet  spectrum")
    for level_steps in options.level_steps:
        for h in sorted({h_of_paper(level_steps), *options.lengths}):
            for method in METHODS:
                print(line(results.measure(setting, method, level_steps, h)), flush=True)
    draw(options.figure, setting, options.level_steps)


if __name__ == "__main__":
    main()
