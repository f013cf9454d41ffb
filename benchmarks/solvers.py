"""All solvers side by side with those of diffusers, at equal numbers of network calls, on data known exactly.

    python benchmarks/solvers.py --problem natural --data data/natural.npz

Compared are the names of `prescore.samplers.SAMPLERS` whose number of calls is known before; PEERS, the schedulers of
diffusers (see peers.py, which runs them in float64 on the same levels, states and draws as ours); and PUBLISHED,
methods of the literature: as samplers of the table with the options of their papers, or from literature.py. For a
number of calls every solver takes as many steps as it can, and is run on its usual grid and on each of the common
grids

    karras      EDM's, rho = 7
    log-snr     uniform in log sigma
    short       the same, stopping where neighbours would differ by more than a factor of 4.5, or at 0.01
    uniform-t   uniform in the time of a VP schedule fitted to the range

all of which go from sigma_max to sigma_min (but for short) and then to 0; `karras-open`, `log-snr-open` and
`uniform-t-open` have a level more, and 0 in the place of the last, so that no call is spent at sigma_min. `--grids
gits` adds the levels of GITS, from trajectories of the problem (literature.py), and `--grids auto`, for our solvers,
the levels that follow from what their steps do wrong on TRAJECTORIES samples of the problem
(`prescore.samplers.measure_steps`). The table and the figure show the best of all these; what was taken is in the JSON
file, together with every other cell. Problems and measures are described in problems.py. Beside the distance of n
samples stands that of n true ones, the floor, as mean and spread of several independent sets.

Without --calls, all solvers are run at 5, 6, 8, 10 and 14 calls and the SELECTED ones also at 20 and 36; shipped
networks, for which it is wise to name few solvers, from 5 to 20. A file of results is read again and only what it
lacks is computed: a cell is taken over if problem, options, grid, calls, n and seed agree, and the version of
prescore. After a change of code use --fresh. Preconditioned solvers have as reference the Gaussian of other data than
the problem was made from, in the cosine basis, and start from it; in the trajectory error all start from the same
state.

Left out, with the reason printed: names that need what a problem does not have, and, on the power law, solvers that
are not linear.
"""

import argparse
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import diffusers
import peers
import torch
from diffusers.utils import logging
from literature import dpm_solver_v3, er_sde
from problems import NAMES, NETWORKS, Denoise, NotLinearError, Problem, make_problem
from torch import Tensor
from tqdm import tqdm

import prescore
from prescore.cli.plots import PAGE, style
from prescore.errors import PrescoreError
from prescore.gaussian import ErrorShare, Gaussian, frequency_gaussian, gaussian
from prescore.grid import append_zero, karras, log_snr, uniform_t
from prescore.noise import NoiseSource
from prescore.plan import Plan
from prescore.samplers import SAMPLERS, Sampler
from prescore.samplers.choose import least_error_share
from prescore.schedule import VP

HERE = Path(__file__).parent
Cell = dict[str, Any]
GRIDS: Mapping[str, Callable[[int, float, float], Tensor]] = {
    "karras": lambda n, low, high: karras(n, low, high, final_zero=True),
    "log-snr": lambda n, low, high: log_snr(n, low, high, final_zero=True),
    "short": lambda n, low, high: log_snr(n, max(low, high / 4.5 ** (n - 1), 0.01), high, final_zero=True),
    "uniform-t": lambda n, low, high: uniform_t(VP.between(low, high), n, final_zero=True),
    "karras-open": lambda n, low, high: opened(karras(n + 1, low, high)),
    "log-snr-open": lambda n, low, high: opened(log_snr(n + 1, low, high)),
    "uniform-t-open": lambda n, low, high: opened(uniform_t(VP.between(low, high), n + 1)),
}
ALL_CALLS, MORE_CALLS = (5, 6, 8, 10, 14), (20, 36)
N, NETWORK_N = 6000, 2000
NETWORK_SEED = 10_000  # no model was measured on samples from here on
NETWORK_CALLS = (5, 6, 8, 10, 14, 20)


def opened(levels: Tensor) -> Tensor:
    """The same with 0 in the place of the last one."""
    return append_zero(levels[:-1])


class NotApplicableError(Exception):
    """A solver that cannot be run on a problem at all."""


@dataclass(frozen=True)
class Ours:
    """A solver of the table.

    Args:
        label: in the results.
        name: in `SAMPLERS`.
        options: of `make_sampler`; a function is called with the problem.
        peer: whether it stands for a method of others, in the form of their paper.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False

    @property
    def highlighted(self) -> bool:
        """Whether it is one of the preconditioned family."""
        return "reference" in SAMPLERS[self.name].needs

    def plan(self, problem: Problem, **asked: Any) -> Plan:
        """What was asked for, on the problem, with the options of this solver."""
        if other := set(SAMPLERS[self.name].needs) - {"reference"}:
            raise NotApplicableError(f"needs {', '.join(sorted(other))}")
        options = {key: value(problem) if callable(value) else value for key, value in self.options.items()}
        model = problem.measured if asked.get("grid") == "auto" else problem.model
        return prescore.plan(model, sampler=self.name, **asked, **options)

    def sampler(self, problem: Problem, levels: Tensor) -> Sampler:
        return self.plan(problem, grid=levels.tolist()).sampler

    def levels(self, problem: Problem, grid: str, calls: int) -> Tensor | None:
        """The levels of as many steps as `calls` allow; None if there are none."""
        try:
            found = self.plan(problem, calls=calls, grid="auto" if grid == "auto" else None)
            if grid == "gits":
                found = self.plan(problem, grid=problem.gits(found.steps).tolist())
            elif grid in GRIDS:
                levels = GRIDS[grid](found.steps, problem.sigma_min, problem.sigma_max)
                found = self.plan(problem, grid=levels.tolist())
        except PrescoreError:
            return None
        return found.levels

    def stochastic(self, problem: Problem) -> bool:
        return self.plan(problem).sampler.stochastic

    def is_adaptive(self, problem: Problem) -> bool:
        """Whether its calls are not known before."""
        return self.plan(problem).calls is None

    def run(
        self, problem: Problem, levels: Tensor, denoise: Denoise, noise: NoiseSource, start: Tensor | None
    ) -> Tensor:
        sampler = self.sampler(problem, levels)
        x = sampler.initial(noise, levels[0]) if start is None else start
        state = sampler.start(levels)
        for sigma, sigma_next in pairwise(levels):
            x, state = sampler.step(denoise, x, sigma, sigma_next, state, noise)
        return x


@dataclass(frozen=True)
class Chosen(Ours):
    """What prescore chooses by itself for a number of calls: solver, levels and, where they were fitted, weights."""

    highlighted = True

    def plan(self, problem: Problem, **asked: Any) -> Plan:
        if "calls" not in asked and "grid" not in asked:
            asked = {"calls": 8}
        if asked.get("grid") is not None:
            asked = {"calls": len(asked["grid"]) - 1}
        return prescore.plan(problem.measured, calls=asked["calls"])

    def levels(self, problem: Problem, grid: str, calls: int) -> Tensor | None:
        return self.plan(problem, calls=calls).levels if grid == "usual" else None

    def run(
        self, problem: Problem, levels: Tensor, denoise: Denoise, noise: NoiseSource, start: Tensor | None
    ) -> Tensor:
        chosen = self.plan(problem, calls=len(levels) - 1)
        if start is None and chosen.start is not None:
            start = chosen.start.noisy(noise(), levels[0])
        return super().run(problem, levels, denoise, noise, start)


@dataclass(frozen=True)
class Peer:
    """A scheduler of diffusers.

    Args:
        label: in the results.
        name: in `peers.NAMES`.
        options: of the scheduler.
        calls: network calls on a grid of n levels and a final 0.
        draws: whether it draws random numbers.
        finish: it cannot end in 0: run it to sigma_min, and take the denoiser's answer there.
        least: steps.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    calls: Callable[[int], int] = field(default=lambda n: n, compare=False)
    draws: bool = False
    finish: bool = False
    least: int = 2

    peer = True
    highlighted = False

    def levels(self, problem: Problem, grid: str, calls: int) -> Tensor | None:
        if grid in ("usual", "auto"):  # diffusers has no usual grid in sigma: the common ones stand for its options
            return None
        fitting = [n for n in range(self.least, calls + 1) if self.calls(n) <= calls]
        if grid == "gits":
            return problem.gits(max(fitting)) if fitting else None
        return GRIDS[grid](max(fitting), problem.sigma_min, problem.sigma_max) if fitting else None

    def stochastic(self, problem: Problem) -> bool:
        return self.draws

    def is_adaptive(self, problem: Problem) -> bool:
        return False

    def run(
        self, problem: Problem, levels: Tensor, denoise: Denoise, noise: NoiseSource, start: Tensor | None
    ) -> Tensor:
        x = levels[0] * noise() if start is None else start
        if not self.finish:
            return peers.run(self.name, denoise, levels, x, noise, **self.options)
        return denoise(peers.run(self.name, denoise, levels[:-1], x, noise, **self.options), levels[-2])


@dataclass(frozen=True)
class Published(Peer):
    """A method in literature.py, whose names these are."""

    def run(
        self, problem: Problem, levels: Tensor, denoise: Denoise, noise: NoiseSource, start: Tensor | None
    ) -> Tensor:
        x = (levels[0] * noise() if start is None else start).double()
        if self.name == "er_sde":
            return er_sde(denoise, levels, x, noise, **self.options)
        return dpm_solver_v3(denoise, levels, x, problem.v3, **self.options)


def ending(problem: Problem, left: float) -> Gaussian:
    """The reference, as if the network left this share of its error at all noise levels."""
    levels = torch.tensor([problem.sigma_max, problem.sigma_min], dtype=torch.float64)
    return replace(gaussian(problem.statistics), error_share=ErrorShare(levels, torch.full_like(levels, left)))


Method = Ours | Peer
# Further forms of our solvers, beside one row for each name of the table.
VARIANTS: tuple[Ours, ...] = (
    Ours("p-ode-3m (frequency)", "p-ode-3m", {"reference": lambda problem: frequency_gaussian(problem.statistics)}),
    Ours("p-ode-2m (frequency)", "p-ode-2m", {"reference": lambda problem: frequency_gaussian(problem.statistics)}),
    Ours("p-ode-2m (corrector)", "p-ode-2m", {"corrector": True}),
    Ours("p-ode-2m (Gaussian end)", "p-ode-2m", {"reference": lambda problem: ending(problem, 1.0)}),
    Ours("p-ode-2m (denoised end)", "p-ode-2m", {"reference": lambda problem: ending(problem, 0.0)}),
    Ours("p-ode-3m (Gaussian end)", "p-ode-3m", {"reference": lambda problem: ending(problem, 1.0)}),
    Ours("p-ode-3m (denoised end)", "p-ode-3m", {"reference": lambda problem: ending(problem, 0.0)}),
    Ours("p-ode-3m (no corrector)", "p-ode-3m", {"corrector": False, "warm_up": False}),
    Ours("dpmpp-3m (corrector)", "dpmpp-3m", {"corrector": True}),
)
PEERS = (
    Peer("diffusers DDIM", "DDIM"),
    Peer("diffusers Euler", "EulerDiscrete"),
    Peer("diffusers Heun", "HeunDiscrete", calls=lambda n: 2 * n - 1),
    Peer("diffusers LMS", "LMSDiscrete"),
    Peer("diffusers PNDM (PLMS)", "PNDM", {"skip_prk_steps": True}, calls=lambda n: n + 1, least=4),
    Peer("diffusers DEIS-2", "DEISMultistep", {"solver_order": 2}, finish=True),
    Peer("diffusers DEIS-3", "DEISMultistep", {"solver_order": 3}, finish=True),
    Peer("diffusers DPM-Solver++(2S)", "DPMSolverSinglestep", {"solver_order": 2}),
    Peer("diffusers DPM-Solver++(2M)", "DPMSolverMultistep", {"solver_order": 2}),
    Peer("diffusers DPM-Solver++(3M)", "DPMSolverMultistep", {"solver_order": 3}, least=3),
    Peer("diffusers UniPC-2", "UniPCMultistep", {"solver_order": 2}),
    Peer("diffusers UniPC-3", "UniPCMultistep", {"solver_order": 3}, least=3),
    Peer("diffusers SDE-DPM-Solver++(2M)", "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, draws=True),
    Peer("diffusers Euler ancestral", "EulerAncestralDiscrete", draws=True),
    Peer("diffusers DDPM", "DDPM", draws=True),
)
PUBLISHED: tuple[Ours | Peer, ...] = (
    Ours("iPNDM", "ipndm", peer=True),
    Ours("iPNDM-v", "deis-rhoab", {"degree": 3}, peer=True),
    Ours("DEIS-tAB3", "deis-tab", {"degree": 3}, peer=True),
    Ours("DPM-Solver++(2M)", "dpmpp-2m", peer=True),
    Ours("DPM-Solver++(3M)", "dpmpp-3m", {"warm_up": False}, peer=True),
    Ours("RES (2M)", "dpmpp-2m", {"weights": "exact"}, peer=True),
    Ours("UniPC-2", "unipc", {"p": 2}, peer=True),
    Ours("UniPC-3", "unipc", {"p": 3}, peer=True),
    Ours("SA-Solver", "sa-solver", {"l": 0.0}, peer=True),
    Published("ER-SDE-3 (ODE)", "er_sde", {"phi": "ODE"}),
    Published("ER-SDE-3 (SDE 5)", "er_sde", {"phi": "SDE 5"}, draws=True),
    Published("DPM-Solver-v3", "dpm_solver_v3"),
    Published("DPM-Solver-v3 (corrector)", "dpm_solver_v3", {"corrector": True}),
    Published("DPM-Solver-v3 (pseudo, corrector)", "dpm_solver_v3", {"pseudo": True, "corrector": True}),
)
CHOSEN = Chosen("prescore", "auto")
SELECTED = (
    *("p-ode-1", "p-ode-2m", "p-ode-3m", "p-seeds-1", "p-seeds-2", "p-seeds-3", "p-sde-2m"),
    *("ddim", "dpmpp-2m", "dpmpp-3m", "dpmpp-sde-2m", "edm-heun"),
    *("diffusers Heun", "diffusers DPM-Solver++(2M)", "diffusers DPM-Solver++(3M)", "diffusers UniPC-2"),
    *("diffusers UniPC-3", "diffusers DEIS-3", "diffusers SDE-DPM-Solver++(2M)"),
)


def methods(names: Sequence[str] | None) -> list[Method]:
    """All solvers, or those named."""
    everything = [CHOSEN, *(Ours(name, name) for name in SAMPLERS), *VARIANTS, *PEERS, *PUBLISHED]
    if names is None:
        return everything
    known = {method.label: method for method in everything}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--solvers: {', '.join(unknown)} not known; there are {', '.join(known)}")
    return [known[name] for name in names]


class Counted:
    """A denoiser that counts its calls and shows them."""

    def __init__(self, denoise: Denoise, bar: tqdm) -> None:
        self.denoise, self.bar, self.calls = denoise, bar, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        self.bar.update()
        return self.denoise(x, sigma)


def evaluate(method: Method, problem: Problem, levels: Tensor, n: int, seed: int, bar: tqdm) -> Cell:
    """The measures, or why there are none."""
    calls = []

    def solve(denoise: Denoise, noise: NoiseSource, start: Tensor | None) -> Tensor:
        counted = Counted(denoise, bar)
        x = method.run(problem, levels, counted, noise, start)
        calls.append(counted.calls)
        return x

    start = time.perf_counter()
    cell: Cell = {"steps": len(levels) - 1, "stochastic": method.stochastic(problem)}
    try:
        values = problem.evaluate(solve, n, seed, cell["stochastic"])
        cell["values"] = {name: value if math.isfinite(value) else None for name, value in values.items()}
    except NotLinearError:
        raise NotApplicableError("is not linear") from None
    except PrescoreError as error:
        cell["values"], cell["error"] = {}, str(error)
    return cell | {"calls_used": max(calls, default=0), "seconds": round(time.perf_counter() - start, 2)}


def key(cell: Cell) -> str:
    """What must agree for a cell to be taken over."""
    return json.dumps(
        [cell[name] for name in ("problem", "identity", "solver", "options", "grid", "calls", "n", "seed")]
    )


class Results:
    """Cells in a JSON file, written after each of them."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path, self.versions = path, versions()
        self.cells: dict[str, Cell] = {}
        self.floors: dict[str, dict[str, list[float]]] = {}
        if path.is_file() and not fresh:
            content = json.loads(path.read_text())
            if content["versions"]["prescore"] == self.versions["prescore"]:
                self.cells = {key(cell): cell for cell in content["cells"]}
                self.floors = content["floors"]

    def save(self) -> None:
        content = {"versions": self.versions, "machine": machine(), "floors": self.floors}
        content["cells"] = list(self.cells.values())
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps(content, indent=1) + "\n")
        whole.replace(self.path)


def versions() -> dict[str, str]:
    return {"prescore": prescore.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}


def machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def sweep(problem: Problem, chosen: Sequence[Method], options: argparse.Namespace, results: Results) -> list[Cell]:
    """All cells of the problem with these options, computed where the results lack them."""
    floor_key = f"{problem.name} {problem.identity} {options.n}"
    if floor_key not in results.floors:
        results.floors[floor_key] = problem.floor(options.n)
    floor = results.floors[floor_key]
    cells: list[Cell] = []
    with tqdm(unit="call", disable=None) as bar:
        for method in chosen:
            try:
                if method.is_adaptive(problem):
                    raise NotApplicableError("its calls are not known before")
                for calls in options.calls:
                    if calls in options.selected_calls and method.label not in SELECTED:
                        continue
                    own: list[tuple[Tensor, Cell]] = []
                    for grid in options.grids:
                        bar.set_description(f"{method.label}, {calls} calls, {grid}")
                        cell = describe(method, problem, grid, calls, options)
                        levels = method.levels(problem, grid, calls)
                        if levels is None:
                            continue
                        if key(cell) not in results.cells:
                            # The usual grid may be one of the common ones.
                            same = [other for seen, other in own if torch.equal(seen, levels)]
                            found = same[0] if same else evaluate(method, problem, levels, options.n, options.seed, bar)
                            results.cells[key(cell)] = found | cell | {"floor": floor}
                            results.save()
                        own.append((levels, results.cells[key(cell)]))
                    cells += [cell for _, cell in own]
            except NotApplicableError as error:
                tqdm.write(f"{method.label}: left out, {error}")
    return cells


def describe(method: Method, problem: Problem, grid: str, calls: int, options: argparse.Namespace) -> Cell:
    return {
        "problem": problem.name,
        "identity": problem.identity,
        "solver": method.label,
        "peer": method.peer,
        "options": {k: v if isinstance(v, int | float | str) else str(v) for k, v in method.options.items()},
        "grid": grid,
        "calls": calls,
        "n": options.n,
        "seed": options.seed,
    }


def best(cells: Sequence[Cell], measure: str) -> dict[str, dict[int, Cell]]:
    """For each solver and number of calls the cell of the best grid; solvers from best to worst."""
    table: dict[str, dict[int, Cell]] = defaultdict(dict)
    for cell in cells:
        value = cell["values"].get(measure)
        old = table[cell["solver"]].get(cell["calls"])
        if value is not None and (old is None or value < old["values"][measure]):
            table[cell["solver"]][cell["calls"]] = cell
    rows = {solver: row for solver, row in table.items() if row}

    def rank(item: tuple[str, dict[int, Cell]]) -> float:
        values = [cell["values"][measure] for n, cell in item[1].items() if n not in MORE_CALLS or len(item[1]) == 1]
        return mean(math.log(max(value, 1e-300)) for value in values) if values else math.inf

    return dict(sorted(rows.items(), key=rank))


def floor_of(cells: Sequence[Cell], measure: str) -> tuple[float, float] | None:
    """Mean and spread of what true samples have."""
    values = cells[0]["floor"].get(measure)
    return None if values is None else (mean(values), stdev(values))


def markdown(cells: Sequence[Cell], measure: str) -> str:
    """Best value over the grids, the grid's initial, and in brackets the value on the usual grid."""
    rows = best(cells, measure)
    calls = sorted({cell["calls"] for cell in cells})
    usual = {(c["solver"], c["calls"]): c["values"].get(measure) for c in cells if c["grid"] == "usual"}
    lines = [["solver", *map(str, calls)], ["---"] * (len(calls) + 1)]
    for solver, row in rows.items():
        line = [solver]
        for n in calls:
            if n not in row:
                line.append("")
                continue
            other = usual.get((solver, n))
            bracket = "" if other is None else f" ({other:.3g})"
            line.append(f"{row[n]['values'][measure]:.3g} {row[n]['grid'][0]}{bracket}")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def automatic(cells: Sequence[Cell], measure: str) -> str:
    """The value on the automatic levels, bold where no other grid has less, and the least of the others."""
    values: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for cell in cells:
        if cell["values"].get(measure) is not None:
            values[cell["solver"], cell["calls"]][cell["grid"]] = cell["values"][measure]
    calls = sorted({cell["calls"] for cell in cells})
    lines = [["automatic, best other", *map(str, calls)], ["---"] * (len(calls) + 1)]
    for solver in dict.fromkeys(cell["solver"] for cell in cells):
        line = [solver]
        for n in calls:
            others = dict(values[solver, n])
            own = others.pop("auto", None)
            if own is None or not others:
                line.append("")
                continue
            grid = min(others, key=others.__getitem__)
            text = f"**{own:.3g}**" if own <= others[grid] else f"{own:.3g}"
            line.append(f"{text}, {others[grid]:.3g} {grid[0]}")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def findings(cells: Sequence[Cell]) -> list[str]:
    """How the best preconditioned solver compares with the floor and with the best peer."""
    lines = []
    ours = {method.label for method in methods(None) if method.highlighted}
    peers_of = {method.label for method in methods(None) if method.peer}
    for measure in sorted({name for cell in cells for name in cell["values"]}):
        rows, floor = best(cells, measure), floor_of(cells, measure)
        for n in sorted({cell["calls"] for cell in cells}):
            values = {solver: row[n]["values"][measure] for solver, row in rows.items() if n in row}
            own = min((s for s in values if s in ours), key=values.__getitem__, default=None)
            peer = min((s for s in values if s in peers_of), key=values.__getitem__, default=None)
            if own is None or peer is None:
                continue
            text = f"{measure}, {n} calls: {own} {values[own]:.3g}"
            text += "" if floor is None else f" ({values[own] / floor[0]:.3g} times the floor)"
            lines.append(f"{text}; best peer {peer} {values[peer]:.3g} ({values[peer] / values[own]:.3g} times that)")
    return lines


def report(problem: Problem, cells: Sequence[Cell], options: argparse.Namespace) -> str:
    text = f"Problem {problem.name}, n = {options.n}, best of the grids {', '.join(options.grids)}\n"
    if problem.statistics.model.score is not None:
        text += f"The model leaves {least_error_share(problem.statistics):.2g} of the error of the Gaussian model.\n"
    for measure in sorted({name for cell in cells for name in cell["values"]}):
        floor = floor_of(cells, measure)
        beside = "" if floor is None else f"; true samples {floor[0]:.3g} +- {floor[1]:.2g}"
        text += f"\n{measure} against network calls{beside}\n\n{markdown(cells, measure)}\n"
        if "auto" in options.grids and len(options.grids) > 1:
            text += (
                f"\n{measure} on the automatic levels, and on the best of the others\n\n{automatic(cells, measure)}\n"
            )
    if options.selected_calls:
        text += f"\nOnly a selection was run at {' and '.join(map(str, options.selected_calls))} calls.\n"
    lines = findings(cells)
    return text + ("\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else "")


DASHES = ("-", "--", ":", "-.", (0, (8, 2, 1, 1, 1, 2)))


@style()
def draw(problem: Problem, cells: Sequence[Cell], path: Path) -> None:
    """Measures against calls: preconditioned solvers in colour, our others blue, peers grey; the floor as a band."""
    from matplotlib.figure import Figure

    measures = sorted({name for cell in cells for name in cell["values"]})
    figure = Figure(figsize=(PAGE, 4.2 + 0.2 * len(DASHES)), layout="constrained")
    highlighted = [method.label for method in methods(None) if method.highlighted]
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        rows = best(cells, measure)
        named = [solver for solver, row in rows.items() if next(iter(row.values()))["peer"]][: len(DASHES)]
        for solver, row in reversed(rows.items()):
            calls = sorted(row)
            values = [row[n]["values"][measure] for n in calls]
            peer = row[calls[0]]["peer"]
            if solver in highlighted:
                style = {"color": f"C{highlighted.index(solver)}", "lw": 2, "marker": "o", "zorder": 3}
            elif solver in named:
                style = {
                    "color": "black",
                    "ls": ("-", "--", ":", "-.", (0, (5, 1, 1, 1)))[named.index(solver)],
                    "lw": 1.2,
                }
            else:
                style = {"color": "0.75" if peer else "tab:blue", "lw": 0.8, "alpha": 0.8 if peer else 0.35}
            axes.loglog(calls, values, label=solver if solver in highlighted + named else None, **style)
        floor = floor_of(cells, measure)
        if floor is not None:
            axes.axhspan(floor[0] - floor[1], floor[0] + floor[1], color="tab:green", alpha=0.25, lw=0)
            axes.axhline(floor[0], color="tab:green", lw=1.2, label="true samples")
        ticks = sorted({cell["calls"] for cell in cells})
        axes.set_xticks(ticks, labels=[str(n) for n in ticks], minor=False)
        axes.set_xticks([], minor=True)
        seen = [row[n]["values"][measure] for solver, row in rows.items() if solver in highlighted + named for n in row]
        if seen:  # the others may leave the picture, and so may what is exact up to rounding
            axes.set_ylim(max(min(seen), 1e-4 * (floor or [max(seen)])[0]) / 1.5, 1.5 * max(seen))
        title = {"frechet": "Frechet distance", "trajectory": "trajectory error (RMS)", "spectrum": "spectrum error"}
        axes.set(xlabel="network calls", title=f"{problem.name}: {title[measure]}")
        axes.grid(alpha=0.3, which="both")
    shown = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare solvers at equal numbers of network calls")
    parser.add_argument("--problem", choices=NAMES, default="natural")
    parser.add_argument("--data", type=Path, help="by default data/PROBLEM.npz; a network without has no distances")
    parser.add_argument("--cache", type=Path, help="file of the fitted mixture; by default beside the data")
    parser.add_argument("--solvers", nargs="+", help="by default all")
    parser.add_argument("--calls", type=int, nargs="+", help="by default 5 6 8 10 14, and 20 36 for a selection")
    parser.add_argument("--grids", nargs="+", choices=["usual", "auto", "gits", *GRIDS], default=["usual", *GRIDS])
    parser.add_argument("--n", type=int, help=f"samples; by default {N}, {NETWORK_N} of a network")
    parser.add_argument("--seed", type=int, help=f"of the first sample; by default 0, {NETWORK_SEED} of a network")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of solvers-PROBLEM.json, .md and .png"
    )
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--device", default="cpu", help="of a network")
    parser.add_argument(
        "--quick", action="store_true", help="a few hundred samples of a small mixture, as a smoke test"
    )
    options = parser.parse_args(arguments)
    options.selected_calls = ()
    is_network = options.problem in NETWORKS
    if options.calls is None and is_network:
        options.calls = list(NETWORK_CALLS)
    elif options.calls is None:
        options.calls, options.selected_calls = [*ALL_CALLS, *MORE_CALLS], MORE_CALLS
    if options.quick:
        options.n, options.calls, options.selected_calls = options.n or 200, [5, 10], ()
    if options.seed is None:
        options.seed = NETWORK_SEED if is_network else 0
    options.n = options.n or (NETWORK_N if is_network else N)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    chosen = methods(options.solvers)
    problem = make_problem(options.problem, options.data, options.cache, options.quick, options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"solvers-{problem.name}{'-quick' if options.quick else ''}"
    results = Results(options.out / f"{stem}.json", options.fresh)
    cells = sweep(problem, chosen, options, results)
    results.save()
    if not cells:
        raise SystemExit("nothing was run: no solver fits these calls and grids")
    text = report(problem, cells, options)
    (options.out / f"{stem}.md").write_text(text)
    draw(problem, cells, options.out / f"{stem}.png")
    print(text)


if __name__ == "__main__":
    main()
