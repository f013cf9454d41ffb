"""Sampling in the latent space of an autoencoder with 20 times fewer steps, plain and preconditioned.

Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504, appendix B,
train a convolutional VAE (MNIST to 384 numbers) and a score-based model on its latents, and report that PDS with
alpha = 1.75 "substantially preserves sampling quality" at 20 times fewer steps. They show pictures (figure 14) but no
distances, and say neither which shape the 384 numbers have nor whether a latent is the mean of a posterior or a draw.

Here latents are 6 x 8 x 8 means of posteriors, the sampler is predictor-corrector (r = 0.16) with T = 1000 and fewer
steps, and M has the paper's frequency mask, R = log(E|F z|^2 + 1), of the latents as they stand. Beside PDS stand what
could explain it: all noise multiplied by one number of the same mean square (M = m), which only lengthens the steps,
and another predictor.

PDS evens out what differs between frequencies, a factor of 900 in the digits, and little of it is left in the latents.
Draws from the posteriors are white, as the KL divergence wants them, R is constant, M would do nothing. Of the means
the autoencoder uses one channel, in which the frequencies differ by a factor of about 5. The others, of hardly any
variance, get most of M, and need it least: they reach their distribution first in any case. Their predictor steps
become several times as long, near sigma^2 at T = 50 and beyond 2 sigma^2, the limit of stability, at T = 20.

Both networks are trained first, in about 20 minutes on one core, or taken from --trained DIR or --model FILE.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from drawing import SERIES, label_ends, page, sheet
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Pictures, Runs, add_options, cell, command, output_folder, publish, table
from torch import Tensor

import prescore
from prescore.data import load_images
from prescore.errors import PrescoreError, SamplingError
from prescore.gaussian import pixel_gaussian
from prescore.images import to_uint8
from prescore.metrics import Features, Moments, frechet_distance, make_features, radial_power
from prescore.models.latent import LatentDenoiser
from prescore.operators import Pixel
from prescore.precondition import Preconditioner, frequency_preconditioner, pixel_preconditioner
from prescore.samplers import PredictorCorrector, Sampler, make_sampler
from prescore.statistics import Statistics
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.recipes import find_recipe, with_options

SIDE, HELD_OUT = 32, 5000  # digits that are not trained on
ALPHA, SPEEDUP = 1.75, 20  # of the paper
OURS = "p-ode-2m"
TRUE, AGAIN = "true digits", "their reconstructions"
ALPHAS = (1.25, 2.5, 5.0, 15.0)
FRACTIONS = (50, 100)  # of T, still fewer steps
SHOWN = 16  # samples of each method in the figure
IN_FIGURE = ("plain", "PDS", "PDS, alpha 2.5", "M = m")  # with a 20th of the steps; beside them all T, and the solver
# Settings of both trainings; the quick ones make no digits.
VAE = {"model_channels": 16, "steps": 1500, "warmup": 100, "cooldown": 750}
LATENT = {"steps": 5000, "cooldown": 2500}
QUICK_VAE = {"model_channels": 8, "steps": 60, "batch_size": 32, "warmup": 10, "cooldown": 30}
QUICK_LATENT = {"model_channels": 64, "num_blocks": 1, "steps": 100, "batch_size": 32, "warmup": 10, "cooldown": 50}


def own_units(statistics: Statistics) -> Statistics:
    """The statistics of latents for the formulas of the paper, which are for data in [0, 1], as they stand."""
    return replace(statistics, moments=replace(statistics.moments, data_range=(0.0, 1.0)))


def pds(statistics: Statistics, alpha: float = ALPHA) -> Preconditioner:
    return frequency_preconditioner(own_units(statistics), alpha)


def uniform(statistics: Statistics, alpha: float = ALPHA) -> Preconditioner:
    """All frequencies multiplied alike, by the root mean square of what PDS would multiply them by."""
    impulses = torch.eye(torch.Size(statistics.event_shape).numel(), dtype=torch.float64)
    m = pds(statistics, alpha).noise(impulses.reshape(-1, *statistics.event_shape)).square().sum(0).mean().sqrt().item()
    return Preconditioner(Pixel(torch.full(statistics.event_shape, m, dtype=torch.float64)), label=f"uniform {m:.3g}")


Options = Callable[[Statistics], Mapping[str, Any]]
# What the predictor-corrector sampler is given, at T / 20 steps.
METHODS: Mapping[str, Options] = {
    "plain": lambda s: {},
    "PDS": lambda s: {"preconditioner": pds(s)},
    "PDS, frequency and pixel": lambda s: {"preconditioner": pds(s) @ pixel_preconditioner(own_units(s), ALPHA)},
    "PDS, latents scaled to [0, 1]": lambda s: {"preconditioner": frequency_preconditioner(s, ALPHA)},
    "PDS, marginal": lambda s: {"preconditioner": pds(s), "form": "marginal"},
    "M = m": lambda s: {"preconditioner": uniform(s)},
    "plain, Euler-Maruyama": lambda s: {"predictor": "euler-maruyama"},
}


@dataclass(frozen=True, eq=False)
class Setting:
    """What is drawn from and compared with.

    Args:
        model: of latents.
        digits: uint8, (N, 1, R, R), in random order; the last n are true samples, the others the reference.
        n: samples of a run.  batch_size: of them in one network call.
    """

    model: LatentDenoiser
    digits: Tensor
    n: int
    batch_size: int = 500

    @cached_property
    def latents(self) -> Tensor:
        """Of all digits."""
        return self.model.encode(self.digits)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the latents of 2000 reference digits, in the latent space."""
        return prescore.calibrate(self.latents[:2000].double(), data_range=self.model.data_range)

    @cached_property
    def reference(self) -> tuple[Moments, Moments]:
        return self.features.moments(self.digits[: -self.n]), Moments.of(self.latents[: -self.n])

    @cached_property
    def features(self) -> Features:
        return make_features("mnist-classifier", self.model.picture_shape)

    def measures(self, images: Tensor, latents: Tensor) -> dict[str, float]:
        """Frechet distances, of pictures in the features of the classifier, and of latents as they are."""
        of_images, of_latents = self.reference
        return {
            "frechet": frechet_distance(self.features.moments(images), of_images),
            "frechet_of_latents": frechet_distance(Moments.of(latents), of_latents),
        }

    def draw(self, sampler: Sampler, n: int) -> Tensor | None:
        """Latents of the seeds 0 to n - 1; None if the run overflows."""
        try:
            return prescore.sample(
                self.model, sampler, seeds=range(n), batch_size=min(n, self.batch_size), progress=False
            ).float()
        except SamplingError:
            return None

    def pictures(self, sampler: Sampler) -> Tensor | None:
        z = self.draw(sampler, SHOWN)
        return None if z is None else to_uint8(self.model.decode(z))

    def run(self, sampler: Sampler, steps: int) -> dict[str, Any]:
        """Measures of n samples."""
        start = time.perf_counter()
        z = self.draw(sampler, self.n)
        measured = (
            {"frechet": None, "frechet_of_latents": None} if z is None else self.measures(self.model.decode(z), z)
        )
        return {"steps": steps, "calls": sampler.total_calls(steps), **measured, "seconds": time.perf_counter() - start}

    def floor(self, name: str) -> dict[str, float]:
        """The measures of n true digits, or of what the autoencoder makes of them."""
        z = self.latents[-self.n :]
        return self.measures(self.digits[-self.n :] if name == TRUE else self.model.decode(z), z)


def whiteness(x: Tensor, low: float, high: float) -> dict[str, Any]:
    """How unlike the scales of data are: of the frequencies of a channel, of channels, of principal components."""
    s = prescore.calibrate(x.double(), data_range=(low, high))
    power = s.moments.power_centred / s.moments.size_transformed
    frequencies, rings = radial_power(power, s.event_shape[-2:])
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.double().flatten(1).mT)).flip(0)
    variances = eigenvalues.clamp_min(0)
    return {
        "frequencies": frequencies.tolist(),
        "power": rings.reshape(-1, len(frequencies)).mean(0).tolist(),
        "power_of_channels": power.flatten(1).mean(1).tolist(),
        "largest_over_smallest_frequency_of_a_channel": (power.amax((1, 2)) / power.amin((1, 2))).median().item(),
        "eigenvalues": eigenvalues[:: max(1, len(eigenvalues) // 16)].tolist(),
        "effective_dimensions": (variances.sum() ** 2 / variances.square().sum()).item(),
    }


def spectra(setting: Setting) -> dict[str, Any]:
    """The scales of the digits, of their latents, and of draws from the posteriors."""
    images, z = setting.digits[:5000], setting.latents[:5000]
    posterior = setting.model.autoencoder.encode(images.float() / 255)
    drawn = posterior.sample(torch.randn(z.shape, generator=torch.Generator().manual_seed(0)))
    bound = 2 * drawn.abs().max().item()
    return {
        "images": whiteness(images.float() / 255, 0.0, 1.0),
        "latents": whiteness(z, -bound, bound),
        "drawn latents": whiteness(drawn, -bound, bound),
        "KL": posterior.kl().mean().item(),
    }


def train_model(digits: Tensor, folder: Path, quick: bool) -> LatentDenoiser:
    """The autoencoder and the model of its latents, trained or taken from the folder."""
    data = TrainingData(digits)
    for name, given in {"vae": QUICK_VAE if quick else VAE, "latent": QUICK_LATENT if quick else LATENT}.items():
        file = {"autoencoder": str(folder / "vae" / "model.safetensors")} if name == "latent" else {}
        settings, config = with_options(find_recipe(name), {**given, **file})
        train(settings.task(data), config, folder / name, RunOptions(name=f"mnist-{name}", progress=not quick))
    return load_model(folder / "latent" / "model.safetensors")


def load_model(path: Path) -> LatentDenoiser:
    model = prescore.load(path)
    if not isinstance(model, LatentDenoiser):
        raise PrescoreError(f"{path}: not a model of latents; `prescore train --recipe latent` makes one")
    return model


def in_figure(T: int) -> list[str]:
    """The runs that the figure shows, of those of all T steps and of a 20th."""
    few = max(2, T // SPEEDUP)
    return [*(f"{name}, T = {few}" for name in IN_FIGURE), f"plain, T = {T}", f"{OURS}, {max(2, few // 2)} calls"]


def draw(numbers: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Figure:
    """A strip of samples for each method with its distance, and the spectra below."""
    runs = numbers["runs"]
    names = [name for name in (TRUE, AGAIN, *in_figure(numbers["settings"]["T"])) if name in pictures]
    figure = page(0.3 + 0.47 * len(names) + 2.6)
    above, below = figure.subfigures(2, 1, height_ratios=(0.3 + 0.47 * len(names), 2.6))
    for ax, name in zip(above.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        sheet(ax, pictures[name], columns=SHOWN)
        calls = f"{runs[name]['calls']} calls, " if "T =" in name else ""
        ax.set_ylabel(f"{name}\n{calls}distance {cell(runs[name]['frechet'])}", rotation=0, ha="right", va="center")
    above.suptitle("Digits from latents, the same seeds, with their distance")
    draw_spectra(below.subplots(), numbers["scales"])
    return figure


def draw_spectra(ax: Axes, scales: Mapping[str, Any]) -> None:
    ends = []
    ax.set(yscale="log", xlabel="cycles a pixel", ylabel="variance of a frequency", ylim=(1e-3, 3))
    for name, colour in zip(("images", "latents", "drawn latents"), SERIES, strict=False):
        ax.plot(scales[name]["frequencies"], scales[name]["power"], marker="o", color=colour)
        ends.append((scales[name]["power"][-1], name, colour))
    label_ends(ax, ends, gap=0.1)
    ax.set_title("The frequencies of digits differ by orders of magnitude, those of their latents hardly")


def samplers(statistics: Statistics, T: int, is_quick: bool) -> dict[str, tuple[int, Sampler]]:
    """Steps and sampler of each run, by name."""
    few = max(2, T // SPEEDUP)
    made = {f"{name}, T = {few}": (few, make(statistics)) for name, make in METHODS.items()}
    for alpha in () if is_quick else ALPHAS:
        for name, M in {"PDS": pds, "M = m": uniform}.items():
            made[f"{name}, alpha {alpha:g}, T = {few}"] = (few, {"preconditioner": M(statistics, alpha)})
    for fewer in () if is_quick else (max(2, T // fraction) for fraction in FRACTIONS):
        for name in ("plain", "PDS", "plain, Euler-Maruyama"):
            made[f"{name}, T = {fewer}"] = (fewer, METHODS[name](statistics))
    made[f"plain, T = {T}"] = (T, {})
    found: dict[str, tuple[int, Sampler]] = {
        name: (steps, PredictorCorrector(steps=steps, **given)) for name, (steps, given) in made.items()
    }
    for calls in (2 * few, few // 2):
        steps = max(2, calls)
        found[f"{OURS}, {steps} calls"] = (steps, make_sampler(OURS, steps=steps, reference=pixel_gaussian(statistics)))
    return found


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, facts, scales = numbers["runs"], numbers["settings"], numbers["scales"]
    T, few = facts["T"], max(2, facts["T"] // SPEEDUP)
    rows = [[name, run.get("calls", ""), run["frechet"], run["frechet_of_latents"]] for name, run in runs.items()]
    long, plain, ours = (runs[name]["frechet"] for name in (f"plain, T = {T}", f"plain, T = {few}", f"PDS, T = {few}"))
    others = {name: run["frechet"] for name, run in runs.items() if name.startswith("PDS, alpha")}
    best = min((name for name in others if others[name] is not None), key=lambda name: others[name], default=None)
    weaker = "" if best is None else f" The best of the other strengths, {best}, has {others[best]:.3g}."
    agrees = ours is not None and ours <= plain
    verdict = "Agrees" if agrees else "Does not agree"
    reached = "overflows" if ours is None else f"has {ours:.3g}"
    digits, latents = (scales[n]["largest_over_smallest_frequency_of_a_channel"] for n in ("images", "latents"))
    return f"""## Latent space (Appendix B, Figure 14)

The paper trains a VAE (MNIST to 384 numbers) and a score model on its latents, and reports that PDS with alpha = 1.75
"substantially preserves sampling quality" at 20 times fewer steps; it shows pictures and no distances. Here latents are
6 x 8 x 8 means of posteriors. Frechet distance in the features of `mnist-classifier`, and of the latents as they are,
n = {facts["n"]}, the same seeds for all; a dash is a run that overflows:

{table(["", "calls", "Frechet distance", "of the latents"], rows)}

![Digits from latents, plain and preconditioned](figures/latent_mnist.png)

**{verdict}.** With {SPEEDUP} times fewer steps the plain sampler has {plain:.3g} (T = {T}: {long:.3g}) and PDS with
alpha = {ALPHA} {reached}.{weaker} There is little to even out: the largest and the smallest variance of a frequency are
a factor of {digits:.0f} apart in the digits and {latents:.1f} in the channel medians of the latents. M = m multiplies
all noise alike, by the mean square of what PDS multiplies it by.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="PDS in the latent space of an autoencoder (Ma et al., appendix B)")
    parser.add_argument("--data", type=Path, default=Path("data/mnist.npz"), help="MNIST: .npz, IDX file or folder")
    parser.add_argument("--model", type=Path, help="a trained model of latents; by default one is trained")
    parser.add_argument(
        "--trained", type=Path, help="where it is trained, or taken from; by default a temporary folder"
    )
    parser.add_argument("--steps", type=int, default=1000, help="T; the other methods take a 20th of it")
    parser.add_argument("--n", type=int, default=500, help="samples of each method")
    add_options(parser)
    options = parser.parse_args(arguments)
    T, n = (60, 60) if options.quick else (options.steps, options.n)
    digits = load_images(options.data, pad=SIDE)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    facts = {"T": T, "n": n, "alpha": ALPHA}
    runs, pictures = Runs.open(options, "latent_mnist", facts), Pictures.open(options, "latent_mnist")
    with tempfile.TemporaryDirectory() as temporary:
        train_on, folder = digits[: -max(n, HELD_OUT)], options.trained or Path(temporary)
        model = load_model(options.model) if options.model else train_model(train_on, folder, options.quick)
    setting = Setting(model, digits[:2000] if options.quick else digits, n)

    for name in (TRUE, AGAIN):
        runs.get(name, partial(setting.floor, name))
    pictures.get(TRUE, lambda: digits[-n:][:SHOWN])
    pictures.get(AGAIN, lambda: to_uint8(model.decode(setting.latents[-n:][:SHOWN])))
    for name, (steps, sampler) in samplers(setting.statistics, T, options.quick).items():
        print(name, runs.get(name, partial(setting.run, sampler, steps)), flush=True)
        if name in in_figure(T):
            pictures.get(name, partial(setting.pictures, sampler))
    numbers = runs.numbers | {"scales": spectra(setting)}
    publish(output_folder(options), "latent_mnist", draw, text, numbers, pictures.pictures)


if __name__ == "__main__":
    command(main)
