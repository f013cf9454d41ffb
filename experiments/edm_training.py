"""What each change of EDM's training does: configurations A to F, trained at equal size for equal steps.

Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), NeurIPS 2022,
https://arxiv.org/abs/2206.00364, Table 2: FID of VP and VE models as hyper-parameters (B), capacity (C),
preconditioning (D), noise levels and loss weight (E), and non-leaky augmentation (F) are changed one after the other.

Here small networks learn 8x8 patches drawn from the mixture of subjects.py, whose best denoiser D* is known. So the
loss needs no noise to be compared: measured is the excess over the best possible one,

    E |D(x0 + sigma n; sigma) - D*(x0 + sigma n; sigma)|^2 (sigma^2 + sd^2) / (sigma sd)^2 / d

on draws that were not trained on, with EDM's weight at every level, whatever the network was trained with; 1 is about
what a network without output has at EDM's preconditioning. The levels are in units of the mixture: VE's recipe works in
[0, 1], the others in [-1, 1]. All runs have the batch size given here; what a configuration says of it (128, and from B
on 512) would compare unequal numbers of images.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from drawing import BLUE, RED, SERIES, label_ends, page
from matplotlib.figure import Figure
from publish import ROOT, Runs, add_options, cell, command, output_folder, publish, table
from subjects import Subject, floor_text, kept, patch_mixture, patches, rows, values
from torch import Tensor

import prescore
from prescore.noise import NoiseSource
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.losses import edm_weight
from prescore.training.recipes import configured, with_options

NAME = "edm_training"
CONFIGURATIONS = {
    "A": "baseline",
    "B": "+ hyper-parameters",
    "C": "+ capacity",
    "D": "+ preconditioning",
    "E": "+ noise levels and weight",
    "F": "+ augmentation",
}
RECIPES = ("ve", "vp")
LEVELS = (0.05, 0.15, 0.5, 1.5, 5.0, 15.0)
TRAINED = 2 * 10**9  # seed of the first patch that is learned from
TEST = 1000  # patches that the excess is measured on
RANGE = (0.05, 80.0)  # of sampling: what all of them were trained on
CALLS = 35
SAMPLERS = {"Heun": "edm-heun", "`p-ode-2m`": "p-ode-2m", "`p-ode-3m`": "p-ode-3m"}  # the first for all configurations


@dataclass(frozen=True)
class Training:
    """What all runs share.

    Args:
        steps, batch_size: of each.
        channels: base width.
        examples: patches to learn from.
    """

    steps: int
    batch_size: int
    channels: int
    examples: int

    @property
    def options(self) -> dict[str, Any]:
        """What replaces the configurations' own: the length, and a network for 8x8 pixels."""
        length = {"steps": self.steps, "warmup": self.steps // 10, "cooldown": self.steps // 3}
        size = {"model_channels": self.channels, "num_blocks": 1, "attn_resolutions": (4,)}
        return {"batch_size": self.batch_size, **length, **size}


def trained(recipe: str, letter: str, data: TrainingData, training: Training, folder: Path) -> prescore.Denoiser:
    """The network of a configuration, trained in the folder, or as far as it was, taken from there."""
    settings, config = with_options(configured(recipe, letter), training.options)
    run = folder / f"{recipe}-{letter}-{training.steps}"
    options = RunOptions(name=f"{recipe}-{letter}", progress=False)
    return prescore.load(train(settings.task(data), config, run, options).model)


def in_units_of(data: TrainingData, model: prescore.Denoiser) -> prescore.Denoiser:
    """The model in the units of the data."""
    (low, high), (model_low, model_high) = data.data_range, model.data_range
    a = (high - low) / (model_high - model_low)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return low + a * (model((x - low) / a + model_low, sigma / a) - model_low)

    low_level, high_level = RANGE
    return replace(model, function=denoise, sigma_min=low_level, sigma_max=high_level, data_range=(-1.0, 1.0))


def excess(model: prescore.Denoiser, best: prescore.Denoiser, x0: Tensor, sigma_data: float) -> list[float]:
    """The weighted excess at each of the `LEVELS`."""
    n, found = NoiseSource(range(len(x0)), x0.shape[1:])(), []
    for level in LEVELS:
        sigma = torch.tensor(level, dtype=torch.float64)
        x = x0 + sigma * n
        with torch.no_grad():
            error = torch.cat([model(part.float(), sigma.float()) for part in x.split(250)]) - best(x, sigma)
        found.append((edm_weight(sigma, sigma_data) * error.square().mean()).item())
    return found


def measure(model: prescore.Denoiser, subject: Subject, names: Sequence[str]) -> dict[str, Any]:
    """Excess of the loss, and distances of samples."""
    x0 = subject.sets[0][:TEST]
    errors = excess(model, subject.denoiser, x0, x0.square().mean().sqrt().item())
    return {"excess": sum(errors) / len(errors), "by_level": errors, "samples": samples(subject, model, names)}


def samples(subject: Subject, model: prescore.Denoiser, names: Sequence[str]) -> dict[str, Any]:
    """The rows of the samplers with this denoiser."""
    own = replace(subject, denoiser=model, sigma_min=RANGE[0], batch_size=min(500, subject.n))
    return {name: own.run(own.sampler(SAMPLERS[name], CALLS)) for name in names}


def run(
    recipe: str, letter: str, data: TrainingData, training: Training, folder: Path, subject: Subject
) -> dict[str, Any]:
    """The row of a configuration: its size, and what it reached."""
    names = list(SAMPLERS) if letter == "F" else ["Heun"]
    model = trained(recipe, letter, data, training, folder)
    parameters = sum(p.numel() for p in model.function.parameters())
    return {"parameters": parameters, **measure(in_units_of(data, model), subject, names)}


def report(runs: Mapping[str, Any]) -> str:
    """A row for each configuration; then other samplers with the last of them, and with the exact denoiser."""
    lines = []
    for letter in values(runs, "configuration"):
        found = of(runs, letter)
        distances = [row["samples"]["Heun"]["frechet"] for row in found]
        sizes = " / ".join(f"{row['parameters']:,}" for row in found)
        lines.append([f"{letter}: {CONFIGURATIONS[letter]}", *(row["excess"] for row in found), *distances, sizes])
    exact = rows(runs, denoiser="exact", samples="drawn")[0]["drawn"]
    for name, row in exact.items():
        distances = [trained_row["samples"][name]["frechet"] for trained_row in of(runs, "F")]
        title = f"F, {name}, {row['calls']} calls (exact denoiser: {cell(row['frechet'])})"
        lines.append([title, "", "", *distances, ""])
    head = [*(f"excess loss, {recipe.upper()}" for recipe in RECIPES), *(f"Frechet, {r.upper()}" for r in RECIPES)]
    return table(["configuration", *head, "parameters, VE / VP"], lines)


def of(runs: Mapping[str, Any], letter: str) -> list[dict[str, Any]]:
    """The rows of a configuration, by recipe."""
    return [rows(runs, recipe=recipe, configuration=letter)[0] for recipe in RECIPES]


def draw(numbers: Mapping[str, Any]) -> Figure:
    """Excess and distance by configuration, and the excess of each by noise level."""
    runs = numbers["runs"]
    figure = page(6.0)
    (above, beside), below = figure.subplots(2, 2)
    letters = values(runs, "configuration")
    ends: dict[str, list[tuple[float, str, str]]] = {"excess": [], "distance": []}
    for i, (recipe, colour, marker) in enumerate(zip(RECIPES, (RED, BLUE), "so", strict=True)):
        found = [of(runs, letter)[i] for letter in letters]
        excesses, distances = ([get(row) for row in found] for get in (_excess, _distance))
        for ax, y, key in ((above, excesses, "excess"), (beside, distances, "distance")):
            ax.semilogy(letters, y, marker=marker, color=colour)
            ends[key].append((y[-1], recipe.upper(), colour))
    label_ends(above, ends["excess"], gap=0.09)
    label_ends(beside, ends["distance"], gap=0.09)
    above.set(title="Excess of the loss over the best denoiser", xlabel="configuration")
    beside.set(title=f"Frechet distance, Heun, {CALLS} calls", xlabel="configuration")
    for i, (ax, recipe) in enumerate(zip(below, RECIPES, strict=True)):
        last = []
        for letter, colour in zip(letters, SERIES, strict=False):
            own = of(runs, letter)[i]["by_level"]
            ax.loglog(LEVELS, own, marker=".", color=colour)
            last.append((own[-1], letter, colour))
        label_ends(ax, last, gap=0.09)
        ax.set(title=f"{recipe.upper()}: excess by noise level", xlabel="noise level σ")
    return figure


def _excess(row: Mapping[str, Any]) -> float:
    return row["excess"]


def _distance(row: Mapping[str, Any]) -> float:
    return row["samples"]["Heun"]["frechet"]


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    runs, settings = numbers["runs"], numbers["settings"]
    n = rows(runs, denoiser="exact", samples="true")[0]["n"]
    return f"""## Training: configurations A to F

EDM's Table 2 trains VP and VE networks in configurations A to F, each one change more: FID on CIFAR-10 falls from 3.01
(VP) and 3.77 (VE) to 1.97 and 1.98, mostly at B and at E; preconditioning (D) alone changes little there, and rescues
VE at 64x64.

Here: {settings["steps"]} steps of {settings["batch_size"]} patches for each of 12 networks with base width
{settings["channels"]}, learning {settings["examples"]} patches of 8x8 pixels drawn from a mixture whose best denoiser
is known. Compare them with each other: networks trained this briefly are far from what they can reach. The excess loss
is that over the best denoiser, with EDM's weight at {len(LEVELS)} noise levels, on {min(TEST, n)} other patches.
Frechet distance of n = {n} samples, Heun's method with {CALLS} calls; true samples have {floor_text(runs)}.

{report(runs)}

![Excess and distance by configuration](figures/{NAME}.png)

{verdict(runs)}
"""


def verdict(runs: Mapping[str, Any]) -> str:
    """By what factor each change multiplies the excess."""

    def factors(i: int) -> str:
        steps = pairwise((letter, of(runs, letter)[i]["excess"]) for letter in values(runs, "configuration"))
        return ", ".join(f"{letter} {cell(after / before)}" for (_, before), (letter, after) in steps)

    changes = "; ".join(f"{recipe.upper()} {factors(i)}" for i, recipe in enumerate(RECIPES))
    return f"Each change multiplies the excess by: {changes}."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Configurations A to F of EDM's training (Table 2)")
    add_options(parser)
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"), help="photographs of the mixture")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--batch-size", type=int, default=64, help="of each training")
    parser.add_argument("--channels", type=int, default=16, help="base width of the networks")
    parser.add_argument("--examples", type=int, default=20000, help="patches to learn from")
    parser.add_argument("--n", type=int, default=500, help="samples of each network")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / NAME, help="checkpoints; a stopped run goes on")
    options = parser.parse_args(arguments)
    training = Training(options.steps, options.batch_size, options.channels, options.examples)
    n, letters = options.n, list(CONFIGURATIONS)
    if options.quick:
        training, n, letters = Training(2, 4, 4, 40), 8, ["A", "F"]
    subject = patches(options.data, n, options.quick)
    settings = {"n": n, **asdict(training)}
    runs = Runs.open(options, NAME, settings)
    x = patch_mixture(options.data, options.quick).sample(range(TRAINED, TRAINED + training.examples)).float()
    bound = x.abs().max().item()
    data = TrainingData(x, (-bound, bound))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.runs
        kept(runs, {"denoiser": "exact", "samples": "true"}, lambda: {"n": n, "true": subject.floor()})
        drawn = partial(samples, subject, subject.denoiser, list(SAMPLERS))
        kept(runs, {"denoiser": "exact", "samples": "drawn"}, lambda: {"drawn": drawn()})
        for recipe, letter in product(RECIPES, letters):
            facts = {"recipe": recipe, "configuration": letter}
            kept(runs, facts, partial(run, recipe, letter, data, training, folder, subject))
    publish(output_folder(options), NAME, draw, text, runs.numbers)
    print(text(runs.numbers))


if __name__ == "__main__":
    command(main)
