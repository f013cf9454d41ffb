"""The runs of `prescore compare`: which there are, and what comes of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prescore.cli.output import Settings
from prescore.cli.plan import ChosenClasses, Opened, settings_of
from prescore.errors import PrescoreError, suggest
from prescore.grid import GRIDS
from prescore.plan import AUTO, Plan, plan
from prescore.samplers import find_sampler
from prescore.statistics import load_statistics


@dataclass(frozen=True, eq=False)
class Run:
    """One sampler with one number of network calls.

    Attributes:
        name: SAMPLER or SAMPLER@GRID, as it was asked for.
        allowed: calls that were asked for; the plan makes the largest number below that it can.
        plan: how it is drawn.
        settings: everything that decides its samples, JSON values.
    """

    name: str
    allowed: int
    plan: Plan
    settings: Settings

    @property
    def calls(self) -> int:
        assert self.plan.calls is not None  # a plan for so many calls knows them
        return self.plan.calls

    @property
    def steps(self) -> int:
        return self.plan.steps

    @property
    def taken(self) -> str | None:
        """The sampler that `auto` stands for, with the grid if that was chosen too, and why."""
        if "sampler" not in self.plan.reasons:
            return None
        grid = f"@{self.settings['grid']}" if "grid" in self.settings else ""
        return f"{self.plan.name}{grid}, because {self.plan.reasons['sampler']}"

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
    opened: Opened, names: Sequence[str], allowed: Sequence[int], statistics: str | None, chosen: ChosenClasses | None
) -> list[Run]:
    """All runs, by number of calls and then by sampler.

    Args:
        opened: the model.
        names: of the samplers, each as SAMPLER or SAMPLER@GRID; auto is what `choose_sampler` says.
        allowed: numbers of network calls.
        statistics: file for the samplers that need statistics; by default those that the model brings.
        chosen: classes of the samples.

    Raises:
        PrescoreError: a sampler cannot run on this model, with so few calls, or makes as many as it likes.
    """
    denoiser, file = opened.denoiser, statistics or opened.denoiser.statistics
    if isinstance(file, str) and any(map(uses_statistics, names)):  # read once for all
        denoiser = replace(denoiser, statistics=load_statistics(file))
    runs = []
    for calls in allowed:
        for text in names:
            name, grid = split_name(text)
            decided = plan(denoiser, sampler=name, calls=calls, grid=grid)
            runs.append(Run(text, calls, decided, settings_of(opened, decided, chosen)))
    return runs


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
