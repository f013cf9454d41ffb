"""The runs of `prescore compare`: which there are, how each is drawn and measured, and the folder that keeps them.

The folder holds

    settings.json           what all runs have in common; another command goes on only if its settings are the same
    reference.json          what is known of the true images: the floor, their spectrum
    runs/SAMPLER-T.npz      images (float32, channels last), seeds, settings, as `prescore sample --float` writes them
    runs/SAMPLER-T.json     seconds, calls and metrics; written last, so that a run is finished if this is there
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import prescore
from prescore.cli.judging import Judge, Truth, profile
from prescore.cli.measuring import finite
from prescore.cli.options import AUTO
from prescore.cli.output import (
    Numbers,
    Settings,
    check_folder,
    make_folder,
    read_settings,
    refuse_other_settings,
)
from prescore.cli.plan import (
    GRIDS,
    ChosenClasses,
    choose_grid,
    chosen_sampler,
    measured_grid,
    open_statistics,
    resolve,
)
from prescore.cli.report import calls_text
from prescore.data import reading
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, SamplingError, suggest
from prescore.files import write_atomically
from prescore.operators import Identity
from prescore.precondition import Preconditioner
from prescore.samplers import Sampler, find_sampler, make_sampler, steps_for_calls

FEW = 16  # steps, fewer than which are enough for any sampler


@dataclass(frozen=True, eq=False)
class Run:
    """One sampler with one number of network calls.

    Attributes:
        name: SAMPLER or SAMPLER@GRID, as it was asked for.
        allowed: calls that were asked for; `calls` is the largest number below that it can make.
        settings: everything that decides its samples, JSON values.
    """

    name: str
    allowed: int
    calls: int
    sampler: Sampler
    settings: Settings

    @property
    def steps(self) -> int:
        steps = self.settings["steps"]
        assert isinstance(steps, int)
        return steps

    @property
    def taken(self) -> str | None:
        """The sampler that `auto` stands for, with the grid if that was chosen too, and why."""
        if "sampler_chosen" not in self.settings:
            return None
        grid = f"@{self.settings['grid']}" if "grid" in self.settings else ""
        return f"{self.settings['sampler']}{grid}, because {self.settings['sampler_chosen']}"

    @property
    def key(self) -> str:
        """Of its files: runs with the same number of steps are one."""
        return f"{self.name}-{self.steps}"


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        seconds: that sampling took, without the network's first call and without decoding and measuring.
        metrics: by name; None is a value that is not finite.
        spectrum: power on rings of equal frequency, mean over channels, of images in [0, 1].
        notes: what to know about the metrics, one line each.
        failure: why there are no samples, if there are none; the other attributes are then empty.
    """

    seconds: float | None = None
    metrics: Mapping[str, float | None] | None = None
    spectrum: Sequence[float] | None = None
    notes: Sequence[str] = ()
    failure: str | None = None


def plan_runs(
    model: str,
    denoiser: Denoiser,
    names: Sequence[str],
    allowed: Sequence[int],
    statistics: str | None,
    others: Mapping[str, object],
) -> list[Run]:
    """All runs, by number of calls and then by sampler.

    Args:
        model: its name or path.
        names: of the samplers, each as SAMPLER or SAMPLER@GRID; auto is what `choose_sampler` says.
        allowed: numbers of network calls.
        statistics: file for the samplers that need statistics; by default those of a shipped model.
        others: settings of all runs.

    Raises:
        PrescoreError: a sampler cannot run on this model, with so few calls, or makes as many as it likes.
    """
    maker = Maker(model, denoiser, statistics)
    return [maker.run(name, calls, others) for calls in allowed for name in names]


def split_name(text: str) -> tuple[str, str | None]:
    """Sampler and grid in SAMPLER@GRID; no grid where there is no @.

    Raises:
        PrescoreError: an unknown sampler or grid.
    """
    name, at, grid = text.partition("@")
    if name != AUTO:
        find_sampler(name)
    if at and grid not in (*GRIDS, AUTO):
        raise PrescoreError(f"--samplers: {text!r} has unknown grid {grid!r}; {suggest(grid, [AUTO, *GRIDS])}")
    return name, grid if at else None


def uses_statistics(text: str) -> bool:
    """Whether statistics have a part in SAMPLER@GRID."""
    name, grid = split_name(text)
    return AUTO in (name, grid) or bool(find_sampler(name).needs)


@dataclass(frozen=True)
class Maker:
    """Makes the samplers of a comparison.

    Args:
        model: its name or path.
        denoiser: the model.
        statistics: file of its data's statistics, if one was given.
    """

    model: str
    denoiser: Denoiser
    statistics: str | None

    def run(self, text: str, calls: int, others: Mapping[str, object]) -> Run:
        """The sampler of that name, with as many steps as `calls` allow."""
        (name, grid), why = split_name(text), dict[str, object]()
        if name == AUTO:
            each = self.denoiser.network_calls
            name, has_grid, why = chosen_sampler(self.model, self.denoiser, self.statistics, max(1, calls // each))
            grid = AUTO if grid is None and has_grid else grid
        steps = _steps(text, self.make(name, None, grid)[0], self.denoiser, calls)
        sampler, made_from = self.make(name, steps, grid)
        settings = resolve(self.model, self.denoiser, name, sampler, {**others, **why, **made_from})
        levels = sampler.levels(self.denoiser.sigma_min, self.denoiser.sigma_max)
        total = sampler.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)
        assert total is not None
        return Run(text, calls, total * self.denoiser.network_calls, sampler, settings)

    def make(self, name: str, steps: int | None, grid: str | None) -> tuple[Sampler, Mapping[str, object]]:
        """A sampler in a number of steps, on its own grid if that is None, and what it was made from."""

        def spread(sampler: Sampler) -> tuple[Sampler, dict[str, object]]:
            if steps is None:
                return sampler, {}
            measured = partial(measured_grid, self.model, self.denoiser, name, self.statistics)
            return choose_grid(sampler, self.denoiser, grid, None, False, measured)

        def plain() -> Sampler:
            return spread(make_sampler(name, steps=steps, preconditioner=Preconditioner(Identity())))[0]

        file = self.statistics if find_sampler(name).needs else None
        made, made_from = open_statistics(self.model, self.denoiser, name, file, None, None, None, plain)
        sampler, facts = spread(make_sampler(name, steps=steps, **made))
        return sampler, {**made_from, **facts}


def _steps(name: str, sampler: Sampler, denoiser: Denoiser, calls: int) -> int:
    """Steps that the sampler takes with so many calls of the network."""
    if sampler.total_calls(1) is None:
        raise PrescoreError(
            f"--samplers: {name!r} makes as many calls as its tolerance needs; draw with it by `prescore sample`"
        )
    each = denoiser.network_calls
    # If none of these runs, the number of steps is not the reason, and whoever resolves the sampler says what is.
    least = next((steps for steps in range(1, FEW) if _runs(replace(sampler, steps=steps), denoiser)), 1)
    needed = (sampler.total_calls(least) or 0) * each
    if needed > calls:
        raise PrescoreError(f"--calls: {calls} are too few for sampler {name!r}; it needs at least {needed}")
    return steps_for_calls(sampler, calls // each)


def _runs(sampler: Sampler, denoiser: Denoiser) -> bool:
    """Whether the sampler accepts the model and its number of steps."""
    try:
        sampler.check(denoiser.event_shape, sampler.levels(denoiser.sigma_min, denoiser.sigma_max))
    except PrescoreError:
        return False
    return True


class Store:
    """The folder of a comparison.

    Args:
        path: of the folder, which need not be there.
        settings: what all runs have in common, JSON values.

    Raises:
        PrescoreError: it cannot be made or written, or holds something else, or runs of other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        check_folder(path)
        if (path / "settings.json").exists():
            refuse_other_settings(path, read_settings(path / "settings.json"), settings)
        elif path.exists() and any(path.iterdir()):
            raise PrescoreError(f"{path}: holds something, but no comparison; choose another folder")

    def open(self) -> None:
        """Make the folder, unless it is there."""
        make_folder(self.path)
        write_atomically(self.path / "settings.json", _json(self.settings))
        make_folder(self.path / "runs")

    def result(self, run: Run) -> Result | None:
        """What came of a run, if it is finished."""
        file = self.path / "runs" / f"{run.key}.json"
        if not file.exists():
            return None
        found = dict(read_settings(file))
        before = found.pop("settings", None)
        if not isinstance(before, dict):
            raise PrescoreError(f"{file}: cannot be read; choose another folder")
        refuse_other_settings(self.path, before, run.settings)
        return _as(Result, found, file)

    def keep(self, run: Run, seeds: Sequence[int], pictures: Tensor | None, result: Result) -> None:
        """Write what came of a run, the samples first."""
        if pictures is not None:
            output = Numbers(self.path / "runs" / f"{run.key}.npz", seeds, run.settings)
            output.add(seeds, pictures)
            output.finish()
        write_atomically(self.path / "runs" / f"{run.key}.json", _json({"settings": run.settings, **asdict(result)}))

    def pictures(self, run: Run, n: int) -> Tensor:
        """The first n samples of a finished run, (n, C, H, W)."""
        file = self.path / "runs" / f"{run.key}.npz"
        with reading(file), np.load(file, allow_pickle=False) as arrays:
            if "images" in arrays:
                return torch.from_numpy(arrays["images"][:n]).movedim(-1, 1)
        raise PrescoreError(f"{file}: no images in it; choose another folder")

    @property
    def truth(self) -> Truth | None:
        """What is known of the true images, if it was kept."""
        file = self.path / "reference.json"
        return _as(Truth, dict(read_settings(file)), file) if file.exists() else None

    def keep_truth(self, truth: Truth) -> None:
        write_atomically(self.path / "reference.json", _json(asdict(truth)))


def _json(values: Mapping[str, object]) -> bytes:
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def _as(kind: Any, values: Mapping[str, Any], file: Path) -> Any:
    """What was kept, if its numbers are numbers."""
    try:
        kept = [values.get("seconds"), *(values.get("spectrum") or ())]
        for name in ("metrics", "floor"):
            kept += (values.get(name) or {}).values()
        if all(number is None or isinstance(number, int | float) for number in kept):
            return kind(**values)
    except (TypeError, AttributeError):
        pass
    raise PrescoreError(f"{file}: cannot be read; choose another folder")


def draw_missing(
    denoiser: Denoiser,
    runs: Iterable[Run],
    store: Store,
    seeds: Sequence[int],
    batch_size: int,
    chosen: ChosenClasses | None,
    judge: Callable[[], Judge],
) -> None:
    """Draw and measure the runs that the folder does not hold yet.

    Args:
        denoiser: the model.
        runs: all of them.
        store: the folder.
        seeds: of the samples, the same in each run.
        batch_size: samples in one network call.
        chosen: classes of the samples.
        judge: opens what measures them; called only if something is to be done.
    """
    distinct = {run.key: run for run in runs}
    missing = [run for run in distinct.values() if store.result(run) is None]
    if not missing and store.truth is not None:
        return
    measured_by = judge()
    store.open()
    store.keep_truth(measured_by.truth)
    batches = [list(seeds[k : k + batch_size]) for k in range(0, len(seeds), batch_size)]
    calls = {run.key: run.calls * len(batches) for run in distinct.values()}
    done = sum(calls.values()) - sum(calls[run.key] for run in missing)
    with tqdm(total=sum(calls.values()), initial=done, unit="call", disable=None, leave=False) as bar:
        try:
            if missing:
                _warm_up(denoiser, batches[0], chosen)
            for run in missing:
                bar.set_description(f"{run.name}, {calls_text(run.calls)}")
                pictures, result = _draw(denoiser, run, batches, chosen, bar)
                if pictures is not None:
                    result = _measured(result, pictures, denoiser.picture_range, measured_by)
                store.keep(run, seeds, pictures, result)
                done += calls[run.key]
                bar.update(done - bar.n)
        except KeyboardInterrupt:
            left = sum(store.result(run) is None for run in missing)
            finished = f"{len(distinct) - left} of {len(distinct)} runs are in {store.path}"
            raise KeyboardInterrupt(f"{finished}, the same command draws the others") from None
        except torch.OutOfMemoryError:
            raise PrescoreError(f"batch_size: {batch_size} samples do not fit into memory; lower it") from None


def _warm_up(denoiser: Denoiser, seeds: Sequence[int], chosen: ChosenClasses | None) -> None:
    """Call the network once, so that what only a first call takes time for is in no run's seconds."""
    condition = chosen.condition(seeds) if chosen else {}
    x = torch.zeros(len(seeds), *denoiser.event_shape, dtype=denoiser.dtype, device=denoiser.device)
    sigma = torch.tensor(denoiser.sigma_max, dtype=denoiser.dtype, device=denoiser.device)
    with torch.no_grad():
        denoiser(x, sigma, **{name: rows.to(denoiser.device) for name, rows in condition.items()}).sum().item()


def _draw(
    denoiser: Denoiser, run: Run, batches: Sequence[list[int]], chosen: ChosenClasses | None, bar: tqdm
) -> tuple[Tensor | None, Result]:
    """The pictures of a run, float32, with the seconds it took; or why there are none."""
    seconds, pictures, done = 0.0, [], bar.n

    def advance(progress: prescore.Progress) -> None:
        bar.update(done + progress.calls - bar.n)

    for seeds in batches:
        condition = chosen.condition(seeds) if chosen else None
        start = time.perf_counter()
        try:  # the check of the last state, inside, waits for the device
            x = prescore.sample(
                denoiser, run.sampler, seeds=seeds, condition=condition, callback=advance, progress=False
            )
        except SamplingError as error:
            return None, Result(failure=str(error))
        seconds += time.perf_counter() - start
        done += run.calls
        pictures.append(denoiser.decode(x).cpu().float())
        if not pictures[-1].isfinite().all():
            return None, Result(failure="samples are beyond the range of float32")
    return torch.cat(pictures), Result(seconds=seconds)


def _measured(result: Result, pictures: Tensor, value_range: tuple[float, float], judge: Judge) -> Result:
    low, high = value_range
    metrics, notes, power = judge((pictures - low) / (high - low))
    return replace(result, metrics=finite(metrics), notes=list(notes), spectrum=profile(power, pictures.shape[-1]))
