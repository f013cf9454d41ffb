"""What prescore chooses by itself beside the published methods, each on its best noise levels, on a shipped network.

    python benchmarks/frontier.py natural-edm --data data/natural.npz --features efficientnet-lite0

First the error of the state, root mean square over 32 samples and all pixels, against the probability flow solved in 48
steps of the classical Runge-Kutta method from the same start: of `prescore` with nothing but a number of calls given,
and of the deterministic methods in solvers.PUBLISHED on each of the grids of solvers.GRIDS, on GITS's levels and on
their own usual ones. Then, with --data, the distribution of n samples of `prescore` and, for each number of calls, of
the PEERS methods of the least errors, on their best levels: the Frechet distance of features, projected on the
COMPONENTS directions in which those of true images vary most, and the error of the power spectrum.

With --flow the samples of the flow itself stand beside them, of which FLOW_STEPS steps of `p-ode-3m` leave little
undone: who is nearer to the data than these owes it to errors that happen to help.

A number behind +- is the deviation that a jackknife over BLOCKS blocks of seeds gives: of the value, or of the
difference to `prescore`, whose samples have the same seeds. True samples, as many and held out, show the floor.

Results are written after each number to results/frontier-MODEL.json, from which a run goes on; without --data only
errors of states are measured. `--table` prints the tables of all results there are.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from problems import Sampled, make_problem, training_images
from solvers import CHOSEN, GRIDS, NETWORK_SEED, PUBLISHED, Method, Ours
from torch import Tensor
from tqdm import tqdm

import prescore
from prescore.checkpoints.native import read_safetensors
from prescore.jackknife import BLOCKS, deviations, standard_error
from prescore.metrics import Features, Moments, frechet_distance, make_features, power_spectrum_error
from prescore.metrics.features import Preprocessing
from prescore.models.classifier import FEATURES, SHAPE, DigitClassifier
from prescore.noise import NoiseSource

HERE = Path(__file__).parent
CALLS = (5, 6, 8, 10)
N, COMPONENTS, PEERS, BATCH, FLOW_STEPS = 2000, 64, 1, 250, 24
MOST_IMAGES = 5000  # true ones, of which features are taken
ALL_GRIDS = ("usual", *GRIDS, "gits")
MODELS = ("natural-edm", "topography-edm", "mnist-edm", "clothes-edm", "emoji-ve")
Content = dict[str, Any]


class Kept:
    """A JSON file that is written after each number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.content: Content = json.loads(path.read_text()) if path.is_file() else {}
        except ValueError:
            raise SystemExit(f"{path}: not a whole JSON file; remove it") from None

    def __call__(self, part: str, key: str, compute: Callable[[], Any]) -> Any:
        found = self.content.setdefault(part, {})
        if key not in found:
            found[key] = compute()
            whole = self.path.with_suffix(".part")
            whole.write_text(json.dumps(self.content, indent=1) + "\n")
            whole.replace(self.path)
        return found[key]


def state_error(method: Method, problem: Sampled, levels: Tensor, start: Tensor, exact: Tensor) -> float | None:
    noise = NoiseSource(range(NETWORK_SEED, NETWORK_SEED + len(start)), problem.event_shape)
    x = method.run(problem, levels, problem.denoise, noise, start)
    error = (x.double() - exact).square().mean().sqrt().item()
    return error if math.isfinite(error) else None


def errors_of_states(problem: Sampled, kept: Kept, names: Sequence[str] | None, grids: Sequence[str]) -> None:
    """Of prescore and the methods named: "method, calls, levels" -> error."""
    seeds = range(NETWORK_SEED, NETWORK_SEED + problem.rows)
    start = problem.sigma_max * NoiseSource(seeds, problem.event_shape)()
    exact = problem.flow(start)
    published = [method for method in PUBLISHED if names is None or method.label in names]
    deterministic = [CHOSEN, *(method for method in published if not method.stochastic(problem))]
    jobs = [(method, calls, grid) for method in deterministic for calls in CALLS for grid in grids]
    for method, calls, grid in tqdm(jobs, desc="errors of states", disable=None):
        levels = method.levels(problem, grid, calls)
        if levels is not None:
            key = f"{method.label}, {calls}, {grid}"
            kept("states", key, lambda m=method, g=levels: state_error(m, problem, g, start, exact))


def best(states: Content, calls: int) -> list[tuple[float, str, str]]:
    """(error, method, levels) of the published methods on their best levels, from the best on."""
    rows: dict[str, tuple[float, str, str]] = {}
    for key, error in states.items():
        name, n, grid = key.rsplit(", ", 2)
        if int(n) == calls and name != CHOSEN.label and error is not None:
            rows[name] = min(rows.get(name, (math.inf, "", "")), (error, name, grid))
    return sorted(rows.values())


def features_of(name: str, shape: tuple[int, ...]) -> Features:
    """A named extractor, or that of a file which experiments/mnist_classifier.py wrote."""
    if not name.endswith(".safetensors"):
        return make_features(name, shape)
    _, state = read_safetensors(Path(name))
    network = DigitClassifier()
    network.load_state_dict({key: value.float() for key, value in state.items()})
    network.eval()
    return Features(Path(name).name.partition(".")[0], FEATURES, Preprocessing(SHAPE, fit="pad"), network.features)


class Measure:
    """Measures of samples, and their values without each block of seeds."""

    def __init__(self, images: Tensor, extractor: Features, limits: tuple[float, float]) -> None:
        self.extractor, self.limits = extractor, limits
        self.spectrum = prescore.calibrate(images, data_range=limits)
        features = self.features(images)
        centred = features - features.mean(0)
        self.directions = torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS].mT
        self.true = Moments.of(features @ self.directions)

    def features(self, x: Tensor) -> Tensor:
        x = x.clamp(*self.limits)
        return torch.cat([*self.extractor.batches(x, data_range=self.limits, batch_size=100)]).double()

    def __call__(self, x: Tensor) -> dict[str, list[float]]:
        """By measure its value and those without each block."""
        features, blocks = self.features(x) @ self.directions, torch.arange(len(x)) * BLOCKS // len(x)
        rows = [torch.ones(len(x), dtype=torch.bool), *(blocks != b for b in range(BLOCKS))]
        return {
            "frechet": [frechet_distance(features[row], self.true) for row in rows],
            "spectrum": [power_spectrum_error(x[row], self.spectrum) for row in rows],
        }


def distributions(
    problem: Sampled, name: str, data: Path, features: str, n: int, numbers: Sequence[int], flow: bool, kept: Kept
) -> None:
    model = prescore.load(name)
    limits = model.data_range
    assert limits is not None
    images = training_images(data, model)
    known = images[: min(2 * len(images) // 3, MOST_IMAGES)]
    extractor = features_of(features, model.event_shape)
    measure = Measure(known, extractor, limits)
    about = {"n": n, "features": extractor.name, "images": len(known)}
    if kept.content.setdefault("about", about) != about:
        raise SystemExit(f"{kept.path}: holds {kept.content['about']}, asked for is {about}; take another --out")
    left = images[len(images) - (len(images) - len(known)) // n * n :] if len(images) - len(known) >= n else None
    if left is not None:
        kept("floor", f"{n}", lambda: measure(left[:n]))
    methods = {method.label: method for method in (CHOSEN, *PUBLISHED)}

    def drawn(method: Method, levels: Tensor) -> dict[str, list[float]]:
        parts = [range(NETWORK_SEED + i, NETWORK_SEED + min(i + BATCH, n)) for i in range(0, n, BATCH)]
        described = tqdm(parts, desc=f"{method.label}, {len(levels) - 1} steps", disable=None, leave=False)
        noises = (NoiseSource(part, problem.event_shape) for part in described)
        return measure(torch.cat([method.run(problem, levels, problem.denoise, noise, None) for noise in noises]))

    for calls in numbers:
        rows = [
            (CHOSEN.label, "usual"),
            *((peer, grid) for _, peer, grid in best(kept.content["states"], calls)[:PEERS]),
        ]
        for label, grid in rows:

            def compute(
                method: Method = methods[label], grid: str = grid, calls: int = calls
            ) -> dict[str, list[float]]:
                levels = method.levels(problem, grid, calls)
                assert levels is not None
                return drawn(method, levels)

            kept("samples", f"{label}, {calls}, {grid}", compute)
    if flow:
        fine = GRIDS["log-snr"](FLOW_STEPS, problem.sigma_min, problem.sigma_max)
        kept("flow", f"{n}", lambda: drawn(Ours("the flow", "p-ode-3m"), fine))


def tables(found: dict[str, Content]) -> str:
    """Markdown."""
    lines = ["| error of the state | " + " | ".join(f"{n} calls" for n in CALLS) + " |", "| --- " * 5 + "|"]
    for name, content in found.items():
        states, cells = content["states"], []
        for calls in CALLS:
            own, (error, peer, grid) = states[f"{CHOSEN.label}, {calls}, usual"], best(states, calls)[0]
            cells.append(f"**{own / error:.2f}** ({own:.4f}; {peer}, {grid}: {error:.4f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    parts = ["\n".join(lines)]
    for measure, digits in {"frechet": 3, "spectrum": 3}.items():
        title = {"frechet": "Frechet distance", "spectrum": "error of the spectrum"}[measure]
        lines = [f"| {title} | " + " | ".join(f"{n} calls" for n in CALLS) + " | the flow | true |", "| --- " * 7 + "|"]
        for name, content in found.items():
            if not content.get("samples"):
                continue
            cells = []
            for calls in CALLS:
                rows = {
                    key.rsplit(", ", 2)[0]: value[measure]
                    for key, value in content["samples"].items()
                    if int(key.rsplit(", ", 2)[1]) == calls
                }
                n, own = content["about"]["n"], rows.pop(CHOSEN.label, None)
                if own is None or not rows:  # not measured, or not yet
                    cells.append("")
                    continue
                peer = min(rows, key=lambda label: rows[label][0])
                apart = [a - b for a, b in zip(own[1:], rows[peer][1:], strict=True)]
                spread = standard_error(deviations(apart, n)) or math.nan
                cells.append(f"{own[0]:.{digits}g}; {peer} {rows[peer][0]:.{digits}g} +- {spread:.2g}")
            for part in ("flow", "floor"):
                found_there = [*content.get(part, {}).values()]
                cells.append(f"{found_there[0][measure][0]:.{digits}g}" if found_there else "")
            lines.append(f"| {name}, {content['about']['features']} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", choices=MODELS)
    parser.add_argument("--data", type=Path, help="the training images, the array train of an .npz")
    parser.add_argument("--features", default="means-2x2", help="a named extractor, or a classifier's file")
    parser.add_argument("--n", type=int, default=N, help="samples")
    parser.add_argument("--calls", type=int, nargs="+", choices=CALLS, default=CALLS, help="of which samples are drawn")
    parser.add_argument("--flow", action="store_true", help="draw the samples of the flow itself too")
    labels = [method.label for method in PUBLISHED]
    parser.add_argument("--methods", nargs="+", choices=labels, metavar="NAME", help=f"by default {', '.join(labels)}")
    parser.add_argument("--grids", nargs="+", choices=ALL_GRIDS, default=ALL_GRIDS, help="by default all")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of frontier-MODEL.json")
    parser.add_argument("--table", action="store_true", help="print the tables of all results in the folder")
    options = parser.parse_args(arguments)
    if options.model is not None:
        if options.data is not None and not options.data.is_file():
            parser.error(f"--data: {options.data} is no file")
        options.out.mkdir(parents=True, exist_ok=True)
        problem = make_problem(options.model, None, None, False, "cpu")
        assert isinstance(problem, Sampled)
        kept = Kept(options.out / f"frontier-{options.model}.json")
        errors_of_states(problem, kept, options.methods, options.grids)
        if options.data is not None:
            asked = (options.data, options.features, options.n, options.calls, options.flow)
            distributions(problem, options.model, *asked, kept)
    if options.table:
        files = {name: options.out / f"frontier-{name}.json" for name in MODELS}
        print(tables({name: json.loads(path.read_text()) for name, path in files.items() if path.is_file()}))
    elif options.model is None:
        parser.error("a model, or --table, is needed")


if __name__ == "__main__":
    main()
