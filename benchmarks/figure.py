"""The README's first picture: prescore beside DPM-Solver++(2M) and UniPC on two shipped models, from the same noise.

    python benchmarks/figure.py            # docs/figures/peers.png, and the numbers in it

Each number is the error of the state, root mean square over 32 samples and all pixels, against the probability flow
solved in 64 steps from the same start; no model was measured on these starts. prescore is `auto`; each peer takes, for
each number of calls, the best of its usual grid and those of solvers.GRIDS. The last row is the flow itself.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from solvers import GRIDS
from torch import Tensor

import prescore
from prescore.cli.plots import PAGE, new_figure, save_figure, style
from prescore.denoiser import Denoiser
from prescore.grid import check_grid, geometric
from prescore.images import grid, to_uint8
from prescore.noise import NoiseSource

HERE = Path(__file__).parent
CALLS = (5, 8, 12)
N, SHOWN, FIRST = 32, 6, 1000  # samples, those in the picture, the first seed: none that a model was measured on
PEERS = {"DPM-Solver++(2M)": ("dpmpp-2m", {}), "UniPC": ("unipc", {"p": 3})}
EXACT = "the exact flow"
TITLES = {"clothes-edm": "clothes, ten classes", "natural-edm": "patches of photographs"}


def condition_of(model: Denoiser, name: str) -> Mapping[str, Tensor] | None:
    """The ten classes in turn."""
    return {"class_labels": torch.eye(10)[torch.arange(N) % 10]} if name == "clothes-edm" else None


def drawn(model: Denoiser, start: Tensor, condition: Mapping[str, Tensor] | None, **planned: object) -> Tensor:
    plan = prescore.plan(model, **planned)
    initial = start * (plan.levels[0] / model.sigma_max)
    return plan.sample(range(FIRST, FIRST + N), initial=initial, condition=condition, progress=False)


def compare(name: str) -> dict[str, dict[int, tuple[float, Tensor]]]:
    """By sampler and calls the error of the state, and the samples."""
    model = prescore.load(name)
    condition, low, high = condition_of(model, name), model.sigma_min, model.sigma_max
    noise = NoiseSource(range(FIRST, FIRST + N), model.event_shape)()
    start = high * noise
    exact = drawn(model, start, condition, sampler="dpmpp-3m", grid=geometric(64, low, high, final_zero=True))
    found: dict[str, dict[int, tuple[float, Tensor]]] = {EXACT: dict.fromkeys(CALLS, (0.0, exact)), "prescore": {}}
    for calls in CALLS:
        x = drawn(model, start, condition, calls=calls)
        found["prescore"][calls] = ((x - exact).square().mean().sqrt().item(), x)
    for peer, (sampler, options) in PEERS.items():
        found[peer] = {}
        for calls in CALLS:
            tried = []
            for make in (None, *GRIDS.values()):
                how = {"calls": calls} if make is None else {"grid": check_grid(make(calls, low, high))}
                x = drawn(model, start, condition, sampler=sampler, **how, **options)
                tried.append(((x - exact).square().mean().sqrt().item(), x))
            found[peer][calls] = min(tried, key=lambda pair: pair[0])
    return found


@style()
def draw(found: Mapping[str, Mapping[str, Mapping[int, tuple[float, Tensor]]]], out: Path) -> None:
    """Rows of samplers, a block of columns for each model and number of calls, the error below each sheet."""
    rows = ["prescore", *PEERS, EXACT]
    figure = new_figure(PAGE, 4.9)
    widths = [1.08, *[1.0] * (len(found) - 1)]  # the first has the names of the rows
    blocks = figure.subfigures(1, len(found), squeeze=False, width_ratios=widths)[0]
    for block, (name, own) in zip(blocks, found.items(), strict=True):
        bounds = prescore.load(name).picture_range
        block.suptitle(TITLES.get(name, name))
        axes = block.subplots(len(rows), len(CALLS), squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            for cell, calls in zip(line, CALLS, strict=True):
                error, x = own[row][calls]
                sheet = grid(to_uint8(x[:SHOWN], bounds), columns=3).movedim(0, -1).numpy()
                cell.imshow(sheet.squeeze(), cmap="gray")
                cell.set(xticks=[], yticks=[], xlabel="" if row == EXACT else f"error {error:.3f}")
                cell.spines[:].set_visible(False)
            if block is blocks[0]:
                line[0].set_ylabel(row.replace("Solver++", "Solver\n++"))
        for cell, calls in zip(axes[0], CALLS, strict=True):
            cell.set_title(f"{calls} calls", loc="center")
    save_figure(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(TITLES))
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "figures" / "peers.png")
    options = parser.parse_args()
    found = {name: compare(name) for name in options.models}
    for name, own in found.items():
        for row in ("prescore", *PEERS):
            print(f"| {name} | {row} | " + " | ".join(f"{own[row][calls][0]:.4f}" for calls in CALLS) + " |")
    draw(found, options.out)


if __name__ == "__main__":
    main()
