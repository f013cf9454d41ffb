"""Annealed Langevin dynamics in a latent space, plain and preconditioned: PDS, appendix B, Figures 14 and 15.

    python experiments/latent_langevin.py --data mnist.npz --trained runs/latent
    python experiments/latent_langevin.py --subject colour --data emoji.npz --trained runs/colour

The paper samples latents by NCSN, that is by annealed Langevin dynamics; latent_mnist.py has the predictor-corrector
sampler in its place. Here are both on the same model: of digits (alpha = 1.75, Figure 14), or of pictures of 64 pixels
in colour (alpha = 4, Figure 15). T0 = 1000 Langevin steps are 5 at each of 200 levels, of the length by technique 4 of
NCSNv2; 20 times fewer are one at each of 50 levels, c = 20 times as long by the paper's step rule, or of the
length that technique 4 gives for 50 levels ("own steps"). M = m multiplies all noise alike, as much as PDS does.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from drawing import page, sheet
from latent_mnist import LATENT, QUICK_LATENT, QUICK_VAE, VAE, load_model, pds, uniform
from matplotlib.figure import Figure
from publish import Pictures, Runs, add_options, cell, command, output_folder, publish, table
from subjects import kept, rows, values
from torch import Tensor

import prescore
from prescore.data import load_images
from prescore.errors import SamplingError
from prescore.grid import geometric
from prescore.images import to_uint8
from prescore.metrics import Features, Moments, frechet_distance, make_features
from prescore.models.latent import LatentDenoiser
from prescore.precondition import Preconditioner
from prescore.samplers import AnnealedLangevin, PredictorCorrector, Sampler
from prescore.samplers.langevin import usual_step_size
from prescore.statistics import Statistics
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.recipes import find_recipe, with_options

ORIGINAL_LEVELS, LEVEL_STEPS, FEWER = 200, 5, 20  # of the original sampler; by how much fewer steps are taken
T0 = ORIGINAL_LEVELS * LEVEL_STEPS
SHOWN = 12
LANGEVIN, OWN, CORRECTED = "Langevin, step rule", "Langevin, own steps", "predictor-corrector"


@dataclass(frozen=True)
class Kind:
    """What is drawn.

    Attributes:
        what: in words.
        figure: of the paper.
        features: what sees the pictures.
        alpha: of the paper; others: tried beside it.
        pad: pixels a side, or None.
        held_out: pictures that are not trained on.
        vae, latent: settings of both trainings.
    """

    what: str
    figure: int
    features: str
    alpha: float
    others: tuple[float, ...]
    pad: int | None
    held_out: int
    vae: Mapping[str, Any]
    latent: Mapping[str, Any]


SUBJECTS = {
    "digits": Kind("digits", 14, "mnist-classifier", 1.75, (2.5, 5.0), 32, 5000, VAE, LATENT),
    "colour": Kind(
        "pictures of 64 pixels in colour",
        15,
        "efficientnet-lite0",
        4.0,
        (1.75, 10.0),
        None,
        400,
        {"model_channels": 16, "steps": 500, "warmup": 50, "cooldown": 250, "batch_size": 32},
        {"steps": 2000, "cooldown": 1000},
    ),
}


NAMES = {"digits": "latent_langevin", "colour": "latent_colour"}  # of results


@dataclass(frozen=True, eq=False)
class Setting:
    """What is drawn from and compared with.

    Args:
        model: of latents.
        pictures: uint8, (N, C, R, R), in random order; the last n are true samples, others the reference.
        n: samples of a run.
        features: the name of what sees the pictures.
    """

    model: LatentDenoiser
    pictures: Tensor
    n: int
    features: str

    @cached_property
    def statistics(self) -> Statistics:
        """Of the latents of 1000 reference pictures."""
        return prescore.calibrate(self.model.encode(self.pictures[:1000]).double(), data_range=self.model.data_range)

    @cached_property
    def extractor(self) -> Features:
        return make_features(self.features, self.model.picture_shape)

    @cached_property
    def reference(self) -> Moments:
        return self.extractor.moments(self.pictures[: -self.n][:5000])

    def distance(self, x: Tensor) -> float:
        return frechet_distance(self.extractor.moments(x), self.reference)

    def draw(self, sampler: Sampler, seeds: range) -> Tensor | None:
        """Pictures of these seeds; None if the run overflows."""
        try:
            z = prescore.sample(self.model, sampler, seeds=seeds, batch_size=min(len(seeds), 250), progress=False)
        except SamplingError:
            return None
        return to_uint8(self.model.decode(z), self.model.picture_range)

    def run(self, sampler: Sampler, k: int) -> dict[str, Any]:
        x = self.draw(sampler, range(k * self.n, (k + 1) * self.n))
        return {"frechet": None if x is None else self.distance(x)}

    def langevin(self, levels: int, each: int, M: Preconditioner | None, c: float | None = None) -> Sampler:
        """Annealed Langevin dynamics; steps of technique 4, or c times as long as the original ones."""
        low, high = self.model.sigma_min, self.model.sigma_max
        original = usual_step_size((high / low) ** (1 / (ORIGINAL_LEVELS - 1)), LEVEL_STEPS) * low**2
        return AnnealedLangevin(
            grid=geometric(levels, low, high, final_zero=True),
            level_steps=each,
            step_size=None if c is None else c * original,
            prior="gaussian",
            preconditioner=M,
        )


def methods(kind: Kind, setting: Setting, T: int) -> dict[tuple[str, str], Sampler]:
    """Samplers of T steps by dynamics and by what preconditions them."""
    masks: dict[str, Preconditioner | None] = {"plain": None}
    for alpha in (kind.alpha, *kind.others):
        masks[f"PDS, alpha {alpha:g}"] = pds(setting.statistics, alpha)
    masks["M = m"] = uniform(setting.statistics, kind.alpha)
    c = T0 / T
    found: dict[tuple[str, str], Sampler] = {}
    for name, M in masks.items():
        found[LANGEVIN, name] = setting.langevin(T, 1, M, c)
        found[OWN, name] = setting.langevin(T, 1, M)
        found[CORRECTED, name] = PredictorCorrector(steps=T, preconditioner=M)
    return found


def train_model(kind: Kind, pictures: Tensor, folder: Path, quick: bool) -> LatentDenoiser:
    """The autoencoder and the model of its latents, trained or taken from the folder."""
    data = TrainingData(pictures)
    for name, own, short in (("vae", kind.vae, QUICK_VAE), ("latent", kind.latent, QUICK_LATENT)):
        file = {"autoencoder": str(folder / "vae" / "model.safetensors")} if name == "latent" else {}
        settings, config = with_options(find_recipe(name), {**(short if quick else own), **file})
        train(settings.task(data), config, folder / name, RunOptions(name=f"pictures-{name}", progress=not quick))
    return load_model(folder / "latent" / "model.safetensors")


def found(runs: Mapping[str, Any], dynamics: str, mask: str) -> list[float | None]:
    return [row["frechet"] for row in rows(runs, dynamics=dynamics, mask=mask)]


def shown(numbers: Sequence[float | None]) -> str:
    """Mean and spread; a dash if any run overflowed."""
    finite = [value for value in numbers if value is not None]
    if not finite or len(finite) < len(numbers):
        return "–"
    return cell(mean(finite)) + (f" ± {cell(stdev(finite))}" if len(finite) > 1 else "")


def draw(numbers: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Figure:
    """A strip for each sampler with its distance, the same seeds."""
    runs, true = numbers["runs"], {"true": shown([numbers["runs"]["true"]["frechet"]])}
    figure = page(0.3 + 0.6 * len(pictures))
    for ax, (name, x) in zip(figure.subplots(len(pictures), 1, squeeze=False)[:, 0], pictures.items(), strict=True):
        mask, _, dynamics = name.partition(": ")
        distance = true.get(name) or shown(found(runs, dynamics, mask))
        sheet(ax, x, columns=SHOWN)
        ax.set_ylabel(f"{name}\ndistance {distance}", rotation=0, ha="right", va="center")
    figure.suptitle("Pictures from latents, the same seeds in each row")
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    settings, kind = numbers["settings"], SUBJECTS[numbers["settings"]["subject"]]
    floor, reconstructed = (cell(numbers["runs"][key]["frechet"]) for key in ("true", "reconstructed"))
    runs = {key: run for key, run in numbers["runs"].items() if "mask" in run}
    T, masks = settings["T"], [mask for mask in values(runs, "mask") if mask != "original"]
    lines = [[mask, *(shown(found(runs, dynamics, mask)) for dynamics in (LANGEVIN, OWN, CORRECTED))] for mask in masks]
    own = f"PDS, alpha {kind.alpha:g}"

    def is_ahead(dynamics: str) -> bool:
        numbers, plain = found(runs, dynamics, own), found(runs, dynamics, "plain")
        return None not in numbers and (None in plain or mean(numbers) < mean(plain))  # type: ignore[type-var]

    ahead = [dynamics for dynamics in (LANGEVIN, OWN, CORRECTED) if is_ahead(dynamics)]
    verdict = "Agrees" if LANGEVIN in ahead else "Agrees in part" if ahead else "Does not agree"
    where = " and ".join(ahead) if ahead else "none of the three"
    return f"""## Langevin dynamics on latents of {kind.what} (Figure {kind.figure})

The paper samples latents by annealed Langevin dynamics and reports, by pictures, that PDS with alpha = {kind.alpha:g}
keeps the quality with {FEWER} times fewer steps. Here: latents {numbers["latents"]}, Frechet distance in the features
of `{settings["features"]}`, mean and standard deviation over {settings["sets"]} sets of {settings["n"]} seeds; as many
true pictures have {floor}, their reconstructions {reconstructed}, plain Langevin dynamics with
T0 = {T0} steps {shown(found(runs, LANGEVIN, "original"))}. With T = {T}:

{table(["", LANGEVIN, OWN, CORRECTED], lines)}

![Pictures from latents](figures/{NAMES[settings["subject"]]}.png)

**{verdict}:** PDS with the paper's alpha is below plain with {where}. A dash is a run that overflows; M = m multiplies
all noise alike, by the mean square of what PDS multiplies it by.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Annealed Langevin dynamics on latents (PDS, Figures 14 and 15)")
    parser.add_argument("--subject", choices=SUBJECTS, default="digits", help="digits, or pictures in colour")
    parser.add_argument("--data", type=Path, default=Path("data/mnist.npz"), help="the pictures, as the array train")
    parser.add_argument("--model", type=Path, help="a trained model of latents; by default one is trained")
    parser.add_argument("--trained", type=Path, help="where it is trained, or taken from [a temporary folder]")
    parser.add_argument("--features", help="of the distance [mnist-classifier; efficientnet-lite0]")
    parser.add_argument("--n", type=int, default=200, help="samples of each run")
    parser.add_argument("--sets", type=int, default=3, help="sets of seeds")
    add_options(parser)
    options = parser.parse_args(arguments)
    kind, T = SUBJECTS[options.subject], T0 // FEWER
    kind = kind if options.features is None else replace(kind, features=options.features)
    if options.quick:
        options.n, options.sets, T = 4, 1, 5
    name = NAMES[options.subject]
    x = load_images(options.data, key="train", pad=kind.pad)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    settings = {"subject": options.subject, "T": T, "n": options.n, "sets": options.sets, "features": kind.features}
    runs, pictures = Runs.open(options, name, settings), Pictures.open(options, name)
    with tempfile.TemporaryDirectory() as temporary:
        train_on = x[: -max(options.n, min(kind.held_out, len(x) // 2))]
        trained: Callable[[], LatentDenoiser] = partial(
            train_model, kind, train_on, options.trained or Path(temporary), options.quick
        )
        model = load_model(options.model) if options.model else trained()
    setting = Setting(model, x[:200] if options.quick else x, options.n, kind.features)
    true = setting.pictures[-options.n :]
    runs.get("true", lambda: {"frechet": setting.distance(true)})
    again = partial(lambda: to_uint8(model.decode(model.encode(true)), model.picture_range))
    runs.get("reconstructed", lambda: {"frechet": setting.distance(again())})
    samplers = methods(kind, setting, T)
    original = setting.langevin(*((10, 1) if options.quick else (ORIGINAL_LEVELS, LEVEL_STEPS)), None)
    for k in range(options.sets):
        for (dynamics, mask), sampler in samplers.items():
            kept(runs, {"dynamics": dynamics, "mask": mask, "set": k}, partial(setting.run, sampler, k))
        kept(runs, {"dynamics": LANGEVIN, "mask": "original", "set": k}, partial(setting.run, original, k))
    pictures.get("true", lambda: true[:SHOWN])
    for (dynamics, mask), sampler in samplers.items():
        if mask in ("plain", f"PDS, alpha {kind.alpha:g}"):
            pictures.get(f"{mask}: {dynamics}", partial(setting.draw, sampler, range(SHOWN)))
    numbers = runs.numbers | {"latents": " x ".join(map(str, model.event_shape))}
    publish(output_folder(options), name, draw, text, numbers, pictures.pictures)


if __name__ == "__main__":
    command(main)
