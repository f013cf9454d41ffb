"""NCSNv2 with fewer Langevin steps, plain and with the radial mask: Figures 7 and 8 of the PDS paper, in form.

    python experiments/ncsnv2_steps.py --data mnist.npz --trained runs/ncsnv2

The paper draws churches and towers from NCSNv2 with T0 / c Langevin steps, one at each of as many levels, c = 25, 20
and 15 or 50, 40 and 30, plain and with the mask (R, lambda) = (0.2, 1.6) or (0.2, 1.1), by the step rule (a step c
times as long). Its networks cannot be had; here a small one is trained on MNIST by the recipe ncsnv2, or taken from
--trained DIR or --model FILE. T0 is 3 steps at each of its levels, of the length that NCSNv2's technique 4 gives. The
row "plain, own steps" has the length that technique 4 gives for T levels with one step each.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from drawing import page, sheet
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from publish import Pictures, Runs, add_options, cell, command, output_folder, publish, table
from subjects import add_network_options, described, kept, load_network, rows, values
from torch import Tensor

import prescore
from prescore.data import load_images
from prescore.denoiser import Denoiser
from prescore.errors import SamplingError
from prescore.grid import geometric
from prescore.images import to_uint8
from prescore.metrics import Features, Moments, frechet_distance, make_features
from prescore.precondition import radial_preconditioner
from prescore.samplers import AnnealedLangevin, Sampler
from prescore.samplers.langevin import usual_step_size
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.recipes import find_recipe, with_options

NAME = "ncsnv2_steps"
LEVELS, LEVEL_STEPS = 120, 3  # of the original sampler
FEWER = (50, 25, 20, 15, 5)  # c, by how much fewer steps are taken
RADIUS, LAMBDAS = 0.2, (1.6, 1.1)
SEEDS = 2  # sets of seeds
SHOWN = 12
HELD_OUT = 5000  # digits that are not trained on
SETTINGS = {
    "model_channels": 16,
    "levels": LEVELS,
    "steps": 2000,
    "warmup": 50,
    "cooldown": 1000,
    "batch_size": 32,
    "learning_rate": 1e-3,
}
QUICK = {"model_channels": 4, "levels": 6, "steps": 2, "warmup": 0, "cooldown": 1, "batch_size": 4}
TRUE = "true digits"
PLAIN, OWN = "plain", "plain, own steps"


@dataclass(frozen=True, eq=False)
class Setting:
    """What is drawn from and compared with.

    Args:
        model: an NCSNv2, or any model of digits.
        levels: of the original sampler.
        digits: uint8, (N, 1, H, W), in random order; the last n are true samples, the others the reference.
        n: samples of a run.
    """

    model: Denoiser
    levels: int
    digits: Tensor
    n: int

    @property
    def original_steps(self) -> int:
        """T0."""
        return LEVEL_STEPS * self.levels

    def ratio(self, levels: int) -> float:
        return float((self.model.sigma_max / self.model.sigma_min) ** (1 / (levels - 1)))

    def sampler(self, T: int, method: str) -> Sampler:
        """Of T Langevin steps, one at each of T levels, by the step rule; the original one if T is T0."""
        is_original = self.original_steps == T
        levels, each = (self.levels, LEVEL_STEPS) if is_original else (T, 1)
        lam = float(method.removeprefix("lambda ")) if method.startswith("lambda") else None
        shape = self.model.event_shape
        rule: dict[str, Any] = {"step_size": self.step_size, "original_steps": self.original_steps}
        return AnnealedLangevin(
            grid=geometric(levels, self.model.sigma_min, self.model.sigma_max, final_zero=True),
            level_steps=each,
            preconditioner=None if lam is None else radial_preconditioner(shape, RADIUS * shape[-2], lam),
            **({} if method == OWN else rule),
        )

    @property
    def step_size(self) -> float:
        """Of the original sampler at the lowest level, by technique 4."""
        return usual_step_size(self.ratio(self.levels), LEVEL_STEPS) * self.model.sigma_min**2

    @cached_property
    def features(self) -> Features:
        return make_features("mnist-classifier", self.model.event_shape)

    @cached_property
    def reference(self) -> Moments:
        return self.features.moments(self.digits[: -self.n])

    def distance(self, x: Tensor) -> float:
        pictures = x if x.dtype == torch.uint8 else to_uint8(x, self.model.data_range)
        return frechet_distance(self.features.moments(pictures), self.reference)

    def draw(self, sampler: Sampler, seeds: range) -> Tensor | None:
        """Samples of these seeds; None if the run overflows."""
        try:
            return prescore.sample(self.model, sampler, seeds=seeds, batch_size=min(len(seeds), 100), progress=False)
        except SamplingError:
            return None

    def pictures(self, T: int, method: str) -> Tensor | None:
        x = self.draw(self.sampler(T, method), range(SHOWN))
        return None if x is None else to_uint8(x, self.model.data_range)

    def run(self, T: int, method: str, k: int) -> dict[str, Any]:
        x = self.draw(self.sampler(T, method), range(k * self.n, (k + 1) * self.n))
        return {"frechet": None if x is None else self.distance(x)}


def train_model(digits: Tensor, folder: Path, quick: bool) -> Denoiser:
    """The network, trained or taken from the folder."""
    settings, config = with_options(find_recipe("ncsnv2"), QUICK if quick else SETTINGS)
    options = RunOptions(name="mnist-ncsnv2", progress=not quick)
    return prescore.load(train(settings.task(TrainingData(digits)), config, folder, options).model)


def methods() -> list[str]:
    return [PLAIN, *(f"lambda {lam:g}" for lam in LAMBDAS), OWN]


def numbers_of(original: int, fewer: Sequence[int]) -> list[int]:
    """T0 / c, rounded down, as the papers have it."""
    return list(dict.fromkeys(max(2, original // c) for c in fewer))


def run_all(setting: Setting, fewer: Sequence[int], sets: int, runs: Runs) -> None:
    """All methods with fewer steps, and plain with the original ones."""
    for k in range(sets):
        for T in numbers_of(setting.original_steps, fewer):
            for method in methods():
                kept(runs, {"T": T, "method": method, "set": k}, partial(setting.run, T, method, k))
        T = setting.original_steps
        kept(runs, {"T": T, "method": PLAIN, "set": k}, partial(setting.run, T, PLAIN, k))


def found(runs: Mapping[str, Any], T: int, method: str) -> list[float]:
    return [row["frechet"] for row in rows(runs, T=T, method=method) if row["frechet"] is not None]


def shown(numbers: Sequence[float]) -> str:
    if not numbers:
        return "–"
    return cell(mean(numbers)) + (f" ± {cell(stdev(numbers))}" if len(numbers) > 1 else "")


def key(T: int, method: str) -> str:
    return f"{method}, T = {T}"


def draw_all(setting: Setting, fewer: Sequence[int], pictures: Pictures) -> None:
    """The pictures of the figure."""
    for T in numbers_of(setting.original_steps, fewer):
        for method in methods():
            pictures.get(key(T, method), partial(setting.pictures, T, method))
    pictures.get(TRUE, lambda: setting.digits[-SHOWN:])
    pictures.get(key(setting.original_steps, PLAIN), partial(setting.pictures, setting.original_steps, PLAIN))


def draw(numbers: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Figure:
    """A row for each method, a column for each T, the same seeds; to the right T0 steps, and true digits."""
    runs = {name: row for name, row in numbers["runs"].items() if "T" in row}
    original, true = numbers["facts"]["original_steps"], numbers["runs"][TRUE]["frechet"]
    steps, named = [T for T in values(runs, "T") if original != T], methods()
    figure = page(0.5 + 1.75 * len(named))
    axes = figure.subplots(len(named), len(steps) + 1, squeeze=False)

    def panel(ax: Axes, name: str, distances: Sequence[float]) -> None:
        sheet(ax, pictures[name], columns=4)
        ax.set_xlabel(f"distance {cell(mean(distances))}" if distances else "diverges")

    for line, method in zip(axes, named, strict=True):
        for ax, T in zip(line, steps, strict=False):
            panel(ax, key(T, method), found(runs, T, method))
        line[0].set_ylabel(method)
        line[-1].set_axis_off()
    for ax, T in zip(axes[0], [*steps, original], strict=True):
        ax.set_title(f"T = {T}" + (", plain" if original == T else ""), loc="center")
    for ax in axes[:2, -1]:
        ax.set_axis_on()
    panel(axes[0, -1], key(original, PLAIN), found(runs, original, PLAIN))
    panel(axes[1, -1], TRUE, [true])
    axes[1, -1].set_title("true digits", loc="center")
    nearest = min((mean(d) for T in steps for method in named if (d := found(runs, T, method))), default=None)
    far = nearest is not None and nearest > 2 * mean(found(runs, original, PLAIN) or [nearest])
    figure.suptitle(
        "So few steps leave little but noise, with or without the mask" if far else "Digits of the same seeds"
    )
    return figure


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    settings, facts = numbers["settings"], numbers["facts"]
    runs = {name: row for name, row in numbers["runs"].items() if "T" in row}
    original, floor = facts["original_steps"], numbers["runs"][TRUE]["frechet"]
    steps = [T for T in values(runs, "T") if original != T]
    lines = [[method, *(shown(found(runs, T, method)) for T in steps)] for method in methods()]

    def wins(method: str, rival: str) -> list[str]:
        pairs = {T: (found(runs, T, method), found(runs, T, rival)) for T in steps}
        return [str(T) for T, (own, other) in pairs.items() if own and (not other or mean(own) < mean(other))]

    masks = [f"lambda {lam:g}" for lam in LAMBDAS]
    ahead = {method: wins(method, PLAIN) for method in masks}
    count = sum(map(len, ahead.values()))
    verdict = "Agrees" if count == len(masks) * len(steps) else "Does not agree" if count == 0 else "Agrees in part"
    listed = "; ".join(f"{m} at {'T = ' + ', '.join(T) if T else 'no T'}" for m, T in ahead.items())
    alone = "T = " + ", ".join(T) if (T := wins(OWN, PLAIN)) else "no T"
    return f"""## NCSNv2 with fewer steps (Figures 7, 8)

The paper draws churches and towers from NCSNv2 with 15 to 50 times fewer Langevin steps, one at each of T levels, and
shows that with the radial mask they keep their form where plain ones do not; it gives no distance. Here
{facts["what"]} of digits, {settings["levels"]} levels from {facts["sigma_max"]:.3g} to {facts["sigma_min"]:.3g};
T0 = {original}.
Frechet distance in the features of `mnist-classifier`, mean and standard deviation over
{len(values(runs, "set"))} sets of {settings["n"]} seeds; as many true digits have {floor:.3g}, plain
with T0 steps {shown(found(runs, original, PLAIN))}. By the step rule
but for the last row, whose steps technique 4 of NCSNv2 gives for T levels:

{table(["", *(f"T = {T}" for T in steps)], lines)}

![Digits for several T](figures/{NAME}.png)

**{verdict}:** below plain are {listed}. Plain with its own steps is below plain by the step rule at {alone}. A
dash is a run that overflows.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="NCSNv2 with fewer Langevin steps (PDS, Figures 7 and 8)")
    parser.add_argument("--data", type=Path, default=Path("data/mnist.npz"), help="the digits, as the array train")
    add_network_options(parser, help="an NCSNv2 of digits; by default one is trained")
    parser.add_argument("--trained", type=Path, help="where it is trained, or taken from [a temporary folder]")
    parser.add_argument("--levels", type=int, default=LEVELS, help="of the original sampler")
    parser.add_argument("--n", type=int, default=200, help="samples of each run")
    parser.add_argument("--sets", type=int, default=SEEDS, help="sets of seeds")
    parser.add_argument("--fewer", type=int, nargs="+", default=list(FEWER), help="c, how many times fewer steps")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.n, options.sets, options.fewer, options.levels = 4, 1, [6, 3], 6
    digits = load_images(options.data, key="train")
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    settings = {"n": options.n, "levels": options.levels, "model": options.model and Path(options.model).stem}
    runs, pictures = Runs.open(options, NAME, settings), Pictures.open(options, NAME)
    with tempfile.TemporaryDirectory() as temporary:
        train_on = digits[: -max(options.n, min(HELD_OUT, len(digits) // 2))]
        opened: Callable[[], Denoiser] = partial(load_network, options.model, options.config)
        trained = partial(train_model, train_on, options.trained or Path(temporary), options.quick)
        setting = Setting((opened if options.model else trained)(), options.levels, digits, options.n)
        runs.get(TRUE, lambda: {"frechet": setting.distance(digits[-options.n :])})
        run_all(setting, options.fewer, options.sets, runs)
        draw_all(setting, options.fewer, pictures)
    what = described([options.model]) if options.model else "a small NCSNv2, trained for minutes,"
    facts = {"what": what, "original_steps": setting.original_steps}
    facts |= {"sigma_min": setting.model.sigma_min, "sigma_max": setting.model.sigma_max}
    publish(output_folder(options), NAME, draw, text, runs.numbers | {"facts": facts}, pictures.pictures)


if __name__ == "__main__":
    command(main)
