"""Sampling in the latent space of an autoencoder with 20 times fewer steps, plain and preconditioned.

Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504, appendix B,
train a convolutional VAE (MNIST to 384 numbers) and a score-based model on its latents, and report that PDS with
alpha = 1.75 "substantially preserves sampling quality" at 20 times fewer steps. They show pictures (figure 14) but no
distances, and say neither which shape the 384 numbers have nor whether a latent is the mean of a posterior or a draw.

Here latents are 6 x 8 x 8 means of posteriors, the sampler is predictor-corrector (r = 0.16) with T = 1000 and fewer
steps, and M has the paper's frequency mask, R = log(E|F z|^2 + 1), of the latents as they stand. Frechet distance in
the features of a digit classifier, n = 500, seeds 0 to 499:

    true digits 2.1, their reconstructions 5.2 (no sampler can be expected to do better)
    plain, T = 1000    14.1        PDS, alpha 1.75, T = 50    25.2        plain, T = 20    23.6
    plain, T = 50      14.6        PDS, alpha 2.5, T = 50     12.0        PDS, alpha 1.75, T = 20    628
                                   PDS, alpha 5, T = 50       12.3

- 20 times fewer steps cost the plain sampler nothing: quality is preserved, but without preconditioning.
- PDS with alpha = 1.75 is worse than plain at T = 50 and diverges at T = 20.
- A weaker PDS (alpha 2.5) is a little better than plain, by about as much as sets of seeds differ. Three of these:
  plain 14.6, 16.9, 15.3; alpha 2.5 12.0, 16.4, 13.6; all noise multiplied by one number of the same mean square, which
  only lengthens the steps, 13.0, 15.1, 17.7; Euler-Maruyama 13.7, 17.4, 14.7; alpha 1.75 25.2, 27.6, 30.8.

Why: PDS evens out what differs between frequencies, a factor of 900 in the digits, and little of it is left in the
latents. Draws from the posteriors are white, as the KL divergence wants them (the frequencies of a channel agree within
6 %), R is constant, and M, between 1 and 1.09, would do nothing. Of the means the autoencoder uses one channel, of
variance 0.45, in which the frequencies differ by a factor of 5 and M is 1 to 1.26. The other five, of 0.0005 to
0.011, get most of M, 1.5 to 2.32, and need it least: they reach their distribution first in any case. Their predictor
steps become up to 5.4 times as long, 1.36 sigma^2 at T = 50 and 2.8 sigma^2 at T = 20, where 2 sigma^2 is the limit of
stability. With the pixel mask as well it is 7.4 sigma^2 at T = 50, and the run overflows.

`python experiments/latent_mnist.py mnist.npz --n 500` trains both networks and draws everything, in about half an hour
on one core.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import prescore
from prescore.data import load_images
from prescore.errors import SamplingError
from prescore.files import write_atomically
from prescore.images import grid, to_uint8
from prescore.metrics import Features, Moments, frechet_distance, make_features, radial_power
from prescore.models.latent import LatentDenoiser
from prescore.operators import Pixel
from prescore.precondition import Preconditioner, Statistics, frequency_preconditioner, pixel_preconditioner
from prescore.samplers import PredictorCorrector
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.recipes import find_recipe, with_options

ROOT = Path(__file__).parents[1]
SIDE, HELD_OUT = 32, 5000  # digits that are not trained on
ALPHA, SPEEDUP = 1.75, 20  # of the paper
ALPHAS = (1.25, 2.5, 5.0, 15.0)
FRACTIONS = (50, 100)  # of T, still fewer steps
SHOWN = 20  # samples of each method in the figure
# Settings of both trainings; the quick ones make no digits.
VAE = {"model_channels": 16, "steps": 1500, "warmup": 100, "cooldown": 750}
LATENT = {"steps": 5000, "cooldown": 2500}
QUICK_VAE = {"model_channels": 8, "steps": 60, "batch_size": 32, "warmup": 10, "cooldown": 30}
QUICK_LATENT = {"model_channels": 64, "num_blocks": 1, "steps": 100, "batch_size": 32, "warmup": 10, "cooldown": 50}


def own_units(statistics: Statistics) -> Statistics:
    """The statistics of latents for the formulas of the paper, which are for data in [0, 1], as they stand."""
    return replace(statistics, data_range=(0.0, 1.0))


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

    def run(self, steps: int, options: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
        """Measures and first samples of the seeds 0 to n - 1; no samples if the run overflows."""
        sampler, start = PredictorCorrector(steps=steps, **options), time.perf_counter()
        row: dict[str, Any] = {"steps": steps, "calls": sampler.total_calls(steps)}
        try:
            z = prescore.sample(
                self.model, sampler, seeds=range(self.n), batch_size=self.batch_size, progress=False
            ).float()
        except SamplingError:
            return row | {"frechet": None, "frechet_of_latents": None}, None
        images = self.model.decode(z)
        row |= self.measures(images, z) | {"seconds": round(time.perf_counter() - start, 1)}
        return row, to_uint8(images[:SHOWN])

    def floors(self) -> dict[str, dict[str, float]]:
        """The measures of n true digits, and of what the autoencoder makes of them."""
        true, z = self.digits[-self.n :], self.latents[-self.n :]
        again = self.model.decode(z)
        return {"true digits": self.measures(true, z), "their reconstructions": self.measures(again, z)}


def whiteness(x: Tensor, low: float, high: float) -> dict[str, Any]:
    """How unlike the scales of data are: of the frequencies of a channel, of channels, of principal components."""
    s = prescore.calibrate(x.double(), data_range=(low, high))
    power = s.power_centred / s.size_transformed
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
        raise SystemExit(f"{path}: not a model of latents")
    return model


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"{'':44}{'calls':>7}{'Frechet':>10}{'of latents':>12}"]
    for name, row in rows.items():
        values = ("overflow" if row[key] is None else f"{row[key]:.4g}" for key in ("frechet", "frechet_of_latents"))
        lines.append("{:44}{:>7}{:>10}{:>12}".format(name, row.get("calls", ""), *values))
    return "\n".join(lines)


def draw(pictures: Mapping[str, Tensor], rows: Mapping[str, Mapping[str, Any]], scales: Mapping[str, Any]) -> Figure:
    """A strip of samples for each method, and the spectra beside them."""
    figure = Figure(figsize=(11, 0.55 * len(pictures) + 0.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 1.2))
    for ax, (name, images) in zip(left.subplots(len(pictures), 1, squeeze=False)[:, 0], pictures.items(), strict=True):
        ax.imshow(grid(images, columns=len(images))[0].numpy(), cmap="gray", vmin=0, vmax=255)
        ax.set_title(f"{name}: {rows[name]['frechet']:.2f}", fontsize=8, loc="left", pad=2)
        ax.set_axis_off()
    draw_spectra(right.subplots(), scales)
    return figure


def draw_spectra(ax: Axes, scales: Mapping[str, Any]) -> None:
    for name in ("images", "latents", "drawn latents"):
        ax.semilogy(scales[name]["frequencies"], scales[name]["power"], marker=".", label=name)
    ax.set(xlabel="cycles a pixel", ylim=(1e-3, 3))
    ax.set_title("variance of a frequency", fontsize=9)
    ax.legend(fontsize=7, frameon=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="PDS in the latent space of an autoencoder (Ma et al., appendix B)")
    parser.add_argument("data", type=Path, help="MNIST: .npz, IDX file or folder")
    parser.add_argument("--model", type=Path, help="a trained model of latents; by default one is trained")
    parser.add_argument("--folder", type=Path, help="where it is trained, or taken from; by default a temporary one")
    parser.add_argument("--steps", type=int, default=1000, help="T; the other methods take a 20th of it")
    parser.add_argument("--n", type=int, default=1000, help="samples of each method")
    parser.add_argument("--quick", action="store_true", help="train for a minute and draw 60 samples, to try it out")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "latent_mnist.png")
    parser.add_argument("--json", type=Path, default=ROOT / "experiments" / "results" / "latent_mnist.json")
    options = parser.parse_args(arguments)
    T, n = (60, 60) if options.quick else (options.steps, options.n)
    digits = load_images(options.data, pad=SIDE)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    with tempfile.TemporaryDirectory() as temporary:
        train_on, folder = digits[: -max(n, HELD_OUT)], options.folder or Path(temporary)
        model = load_model(options.model) if options.model else train_model(train_on, folder, options.quick)
    setting = Setting(model, digits[:2000] if options.quick else digits, n)

    rows: dict[str, dict[str, Any]] = {**setting.floors()}
    pictures = {"true digits": digits[-n:][:SHOWN]}
    pictures["their reconstructions"] = to_uint8(model.decode(setting.latents[-n:][:SHOWN]))
    few = max(2, T // SPEEDUP)
    runs = {f"{name}, T = {few}": (few, make(setting.statistics)) for name, make in METHODS.items()}
    for alpha in () if options.quick else ALPHAS:
        for name, M in {"PDS": pds, "M = m": uniform}.items():
            runs[f"{name}, alpha {alpha:g}, T = {few}"] = (few, {"preconditioner": M(setting.statistics, alpha)})
    for fewer in () if options.quick else (max(2, T // fraction) for fraction in FRACTIONS):
        for name in ("plain", "PDS", "plain, Euler-Maruyama"):
            runs[f"{name}, T = {fewer}"] = (fewer, METHODS[name](setting.statistics))
    runs[f"plain, T = {T}"] = (T, {})
    for name, (steps, given) in runs.items():
        rows[name], images = setting.run(steps, given)
        if images is not None and steps in (few, T) and not name.startswith("M = m, alpha"):
            pictures[name] = images
        print(table({name: rows[name]}), flush=True)
    scales = spectra(setting)
    print(table(rows))
    draw(pictures, rows, scales).savefig(options.figure, dpi=80)
    content = {"T": T, "n": n, "alpha": ALPHA, "rows": rows, "scales": scales}
    write_atomically(options.json, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
