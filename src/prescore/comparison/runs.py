"""The runs of a comparison: which there are, and what comes of one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, suggest
from prescore.grid import GRIDS
from prescore.jackknife import Estimate, standard_error
from prescore.options import Option
from prescore.plan import AUTO, Plan, plan
from prescore.precondition import is_mask, load_mask
from prescore.samplers.table import find_sampler, options_of
from prescore.statistics import Statistics, load_statistics


def _part(name: str, *kinds: Any) -> Option:
    return Option(name, kinds, optional=False, default=None, choices=(), help="")


# Options of `prescore.plan` that words can give, for whatever sampler takes them.
PARTS: Mapping[str, Option] = {
    option.name: option
    for option in (
        _part("alpha", float, str),
        _part("pixel", bool),
        _part("pixel_alpha", float),
        _part("pixel_mask", str),
        _part("radial", tuple[float, float]),
        _part("skew", str),
        _part("omega", float),
        _part("basis", str),
        _part("start", str),
    )
}


@dataclass(frozen=True, eq=False)
class Run:
    """One sampler with one number of network calls.

    Attributes:
        name: SAMPLER[OPTIONS]@GRID, as it was asked for.
        allowed: calls that were asked for; the plan makes the largest number below that it can.
        plan: how it is drawn.
        settings: everything that decides its samples, JSON values.
    """

    name: str
    allowed: int
    plan: Plan
    settings: Mapping[str, object]

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
        conditioning: V_coo and R_coo, the states' variation and range averaged over samples and steps.
        metrics: by name; None is a value that is not finite.
        deviations: by metric, what each block of seeds adds to its error (`prescore.jackknife`); None where no
            error could be found.
        spectrum: power on rings of equal frequency, mean over channels, of images in [0, 1]; vectors have none.
        notes: what to know about the metrics, one line each.
        failure: why there are no samples, if there are none; the other attributes are then empty.
    """

    seconds: float | None = None
    conditioning: Mapping[str, float | None] | None = None
    metrics: Mapping[str, float | None] | None = None
    deviations: Mapping[str, Sequence[float] | None] | None = None
    spectrum: Sequence[float] | None = None
    notes: Sequence[str] = ()
    failure: str | None = None

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The metrics that are finite, with their errors."""
        return estimates_of(self.metrics or {}, self.deviations or {})

    @property
    def errors(self) -> dict[str, float | None]:
        """The standard error of each metric."""
        return {name: standard_error((self.deviations or {}).get(name)) for name in self.metrics or {}}


def estimates_of(
    metrics: Mapping[str, float | None], deviations: Mapping[str, Sequence[float] | None]
) -> dict[str, Estimate]:
    """The metrics that are finite, with their errors."""
    return {name: Estimate(value, deviations.get(name)) for name, value in metrics.items() if value is not None}


def plan_runs(
    denoiser: Denoiser,
    names: Sequence[str],
    allowed: Sequence[int],
    statistics: Statistics | str | None = None,
    settings: Mapping[str, object] | None = None,
    start: str | None = None,
) -> list[Run]:
    """All runs, by number of calls and then by sampler.

    Args:
        denoiser: the model.
        names: of the samplers, each as `parse_run` reads it; auto is what `choose_sampler` says.
        allowed: numbers of network calls.
        statistics: for the samplers that need statistics, or their file, or a mask for those that precondition; by
            default those that the model brings.
        settings: what of the model decides a sample, JSON values.
        start: of all that do not say their own, as `prescore.plan` takes it.

    Raises:
        PrescoreError: a sampler cannot run on this model, with so few calls, or makes as many as it likes.
    """
    mask = load_mask(statistics) if isinstance(statistics, str | Path) and is_mask(statistics) else None
    known = statistics if statistics is not None and mask is None else denoiser.statistics
    if known is not None and any(uses_statistics(name, start) for name in names):  # read once for all
        denoiser = replace(denoiser, statistics=load_statistics(known) if isinstance(known, str) else known)
    runs = []
    for calls in allowed:
        for text in names:
            asked = {"start": start, **parse_run(text)}
            asked |= {"statistics": mask} if mask is not None and preconditions(asked) else {}
            decided = plan(denoiser, calls=calls, **asked)
            runs.append(Run(text, calls, decided, {**(settings or {}), **decided.settings}))
    return runs


def split_runs(text: str) -> list[str]:
    """The runs in a list with commas, those in brackets aside: "pds[alpha=4,pixel],pc@karras"."""
    return [run.strip() for run in re.findall(r"(?:[^,\[\]]|\[[^\]]*\]?|\])+", text) if run.strip()]


def parse_run(text: str) -> dict[str, Any]:
    """What `prescore.plan` takes, of SAMPLER[OPTION=VALUE,SWITCH,...]@GRID; all but the sampler may be left out.

    Options are those of the sampler and of `PARTS`, with hyphens or underscores; `no-pixel` is a switch that is off,
    and several numbers have a colon between them, radial=0.2:1.6.

    Raises:
        PrescoreError: an unknown sampler, option or grid, or a value that is none.
    """
    match = re.fullmatch(r"([^\[\]@]+)(?:\[([^\[\]]*)\])?(@(.*))?", text)
    if match is None:
        raise PrescoreError(f"--samplers: {text!r} cannot be read; SAMPLER[OPTION=VALUE,...]@GRID is needed")
    name, inside, at, grid = match.groups()
    known = {**PARTS, **(options_of(find_sampler(name)) if name != AUTO else {})}  # EDM has an alpha of its own
    if at and grid not in (*GRIDS, AUTO):
        raise PrescoreError(f"--samplers: {text!r} has unknown grid {grid!r}; {suggest(grid, [AUTO, *GRIDS])}")
    arguments: dict[str, Any] = {"sampler": name, **({"grid": grid} if at else {})}
    spelled = {option.flag[2:]: option for option in known.values()}
    for word in filter(None, (inside or "").split(",")):
        key, equals, value = (part.strip() for part in word.partition("="))
        key = key.replace("_", "-").lower()
        option = spelled.get(key) or (spelled.get(key.removeprefix("no-")) if not equals else None)
        if option is None or (option.is_switch and equals) or not (option.is_switch or equals):
            what = "" if option is None else "a switch" if option.is_switch else option.value
            how = f"{key} is {what}" if what else suggest(key, spelled)
            raise PrescoreError(f"--samplers: {text!r} has unknown option {word!r}; {how}")
        arguments[option.name] = key == option.flag[2:] if option.is_switch else option.parse(value.replace(":", ","))
    return arguments


def preconditions(asked: Mapping[str, Any]) -> bool:
    """Whether a run has a preconditioner that is made of statistics, or of a mask."""
    name = asked["sampler"]
    return name != AUTO and ("preconditioner" in find_sampler(name).needs or "alpha" in asked)


def uses_statistics(text: str, start: str | None = None) -> bool:
    """Whether statistics have a part in a run.

    Args:
        start: of runs that do not say their own.
    """
    asked = {"start": start, **parse_run(text)}
    if asked["start"] == "gaussian":
        return True
    if AUTO in (name := asked["sampler"], asked.get("grid")):
        return True
    entry = find_sampler(name)
    return bool(entry.needs or {"alpha", "pixel", "basis"} & asked.keys() - set(entry.options))
