"""What a run may know of its model's data: the statistics as the model sees them, and what follows from them alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isclose, prod
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, check_choice
from prescore.gaussian import GAUSSIANS, Gaussian, Shrunk, doubt_of, gaussian, shrunk, trusted_level
from prescore.precondition import PublishedMask, is_mask, load_mask
from prescore.samplers import SAMPLERS
from prescore.samplers.starting import STARTS, better_start
from prescore.statistics import FittedWeights, Shrinkage, Statistics, in_range, load_statistics
from prescore.tuned import HIDING, SMALL, WIDE

ALIKE = 1e-3  # relative, between noise levels that are called the same


def statistics_or_mask(
    given: Statistics | PublishedMask | str | Path | None,
) -> tuple[Statistics | None, PublishedMask | None]:
    """What was given, read if it is the path of a file: statistics, or a mask of the authors of PDS, or neither."""
    if isinstance(given, PublishedMask):
        return None, given
    if is_mask(given):
        return None, load_mask(str(given))
    return load_statistics(given) if isinstance(given, str | Path) else given, None


def seen_by(denoiser: Denoiser, statistics: Statistics) -> Statistics:
    """The statistics of the data as a model sees them: in its data range, and less their mean if it was removed."""
    seen = in_range(statistics, denoiser.data_range)
    return replace(seen, moments=seen.moments.centred()) if denoiser.data_mean_removed else seen


def reference_of(statistics: Statistics, basis: str | None = None) -> Gaussian:
    """The Gaussian model of the data in one of the bases of `GAUSSIANS`. Raises PrescoreError for another."""
    if basis is None:
        return gaussian(statistics)
    check_choice("basis", basis, GAUSSIANS)
    return GAUSSIANS[basis](statistics)


def hiding_level(denoiser: Denoiser, statistics: Statistics | None = None) -> float:
    """The noise that hides the data: `HIDING` times the largest root mean square of a coordinate in the cosine basis.

    Usual levels start here where a model knows more noise: a step from farther up would do nothing but take a call, and
    leave wide gaps to the others.

    Args:
        denoiser: the model.
        statistics: as it sees its data; without, their root mean square is taken to be a quarter of the largest value
            in the data range, or 1 where none is known, a quarter of their power to be in one coordinate, and the
            coordinates to be `SMALL` at least, since a range may be a guess.
    """
    if statistics is None:
        largest = max(map(abs, denoiser.data_range or (-4.0, 4.0)))
        return HIDING * max(prod(denoiser.event_shape), SMALL) ** 0.5 * largest / 8
    reference = reference_of(statistics)
    square = reference.variances + reference.transform(reference.mean[None].double())[0] ** 2
    return HIDING * square.max().sqrt().item()


@dataclass(frozen=True)
class Known:
    """What is known of a model's data: the statistics that were given or that the model brings, read when they are
    first needed; and a mask, of which preconditioners are made instead."""

    denoiser: Denoiser
    given: Statistics | None
    mask: PublishedMask | None = None

    @cached_property
    def read(self) -> Statistics | None:
        """As they were given; None if there are none."""
        found = self.denoiser.statistics if self.given is None else self.given
        if isinstance(found, str | Path):
            found = load_statistics(found)
        if found is not None and not isinstance(found, Statistics):
            raise PrescoreError(f"statistics: {type(found).__name__} given; prescore.Statistics or a path is needed")
        if found is not None and found.event_shape != self.denoiser.event_shape:
            raise PrescoreError(
                f"statistics: they are of events of shape {found.event_shape}, the model's have "
                f"{self.denoiser.event_shape}"
            )
        return found

    @cached_property
    def statistics(self) -> Statistics | None:
        """As the model sees the data; None if there are none."""
        return None if self.read is None else seen_by(self.denoiser, self.read)

    @property
    def span(self) -> float | None:
        """Width of the data: of their range, or of the values that were found; None if nothing is known of it."""
        if self.denoiser.data_range is not None:
            low, high = self.denoiser.data_range
            return high - low
        return None if self.statistics is None else self.statistics.moments.maximum - self.statistics.moments.minimum

    @property
    def hiding(self) -> float | None:
        """The level whose noise hides the data, if the model knows much more noise than that; else None."""
        if self.span is None or self.denoiser.sigma_max <= WIDE * self.span:
            return None
        level = hiding_level(self.denoiser, self.statistics)
        return level if self.denoiser.sigma_min < level < self.denoiser.sigma_max else None

    @property
    def trusted(self) -> float | None:
        """The level from which on the network serves, or serves shrunk, if it does not at the highest ones."""
        level: float | None = None
        if self.shrinkage is not None:
            level = min(self.shrinkage.levels[0].item(), self.denoiser.sigma_max)
        elif self.is_scored:
            level = trusted_level(self.needed)
        return level if level is not None and self.denoiser.sigma_min < level <= self.denoiser.sigma_max else None

    @property
    def shrinkage(self) -> Shrinkage | None:
        """How much of the network to use, if that was measured, with the guidance of the run."""
        is_known = self.statistics is not None and self.is_measured_alike
        return self.needed.model.shrinkage if is_known else None

    @property
    def is_shrunk(self) -> bool:
        return isinstance(self.denoiser.function, Shrunk)

    def better_start(self, levels: Tensor) -> tuple[str, str] | None:
        """The start that serves the model better, and why, for a run from the level where it was measured."""
        if self.statistics is None or not (starts := self.statistics.tuning.starts):
            return None
        steps = self.statistics.model.steps
        if steps is None or not isclose(levels[0].item(), steps.levels[0].item(), rel_tol=ALIKE):
            return None
        text = ", ".join(f"{starts[start]:.3g} ({start})" for start in STARTS)
        text = f"the squared distance of samples from the data is {text}, the difference within {starts['error']:.2g}"
        return better_start(starts), f"on {steps.model or 'the model'} {text}"

    @property
    def serving(self) -> float | None:
        """The level from which `auto` starts, if that is not the highest."""
        return self.trusted or self.hiding

    @property
    def measured_from(self) -> float | None:
        """The highest level of what was measured of solvers, if it was for less noise than the model knows."""
        steps = None if self.statistics is None else self.statistics.model.steps
        if steps is None or steps.is_for(self.denoiser.sigma_min, self.denoiser.sigma_max):
            return None
        level = steps.levels[0].item()
        is_lower = level < self.denoiser.sigma_max and steps.is_for(self.denoiser.sigma_min, level)
        return level if is_lower else None

    def limited(self, sigma_max: float) -> tuple[Denoiser, "Known"]:
        """The model limited to less noise, and the same of it; shrunk, where that was measured for so much noise."""
        own: dict[str, Any] = {"statistics": self.read} if self.given is None else {}
        denoiser = replace(self.denoiser, sigma_max=sigma_max, **own)
        if not self.is_shrunk and (shrinkage := self.shrinkage) and sigma_max <= shrinkage.levels[0] * (1 + ALIKE):
            denoiser = shrunk(denoiser, reference_of(self.needed), shrinkage)
        return denoiser, Known(denoiser, self.given, self.mask)

    @property
    def needed(self) -> Statistics:
        assert self.statistics is not None
        return self.statistics

    def require(self, option: str, with_model: bool) -> None:
        """Raise PrescoreError unless there are statistics, which this option needs."""
        if self.statistics is None:
            name, own = self.denoiser.name or "the model", " --model MODEL" if with_model else ""
            raise PrescoreError(
                f"{option}: {name} comes without statistics of its data; measure them with `prescore calibrate DATA"
                f"{own} --out FILE` or prescore.calibrate (without data --from-model MODEL, prescore.calibrate_model), "
                "and give them as statistics"
            )

    @property
    def is_scored(self) -> bool:
        """Whether the score of the model was measured."""
        return self.statistics is not None and self.statistics.model.score is not None

    @property
    def has_levels(self) -> bool:
        """Whether levels were measured for the model's noise range."""
        errors = None if self.statistics is None else self.statistics.model.steps
        return errors is not None and errors.is_for(self.denoiser.sigma_min, self.denoiser.sigma_max)

    def fit(self, steps: int) -> FittedWeights | None:
        """What was fitted for so many steps in the model's noise range.

        Raises:
            PrescoreError: it names a solver beside it that there is not.
        """
        fit = None if self.statistics is None else self.statistics.tuning.fits.get(steps)
        if unknown := [name for name in (fit.errors if fit is not None else ()) if name not in SAMPLERS]:
            raise PrescoreError(
                f"{self.needed.source or 'statistics'}: damaged, or of a newer version of prescore: its fit of {steps} "
                f"steps names the solver {unknown[0]!r}, which there is not; fit the weights again with "
                "`prescore calibrate`"
            )
        return fit if fit is not None and fit.is_for(self.denoiser.sigma_min, self.denoiser.sigma_max) else None

    @property
    def is_measured_alike(self) -> bool:
        """Whether the network was measured with the guidance that it runs with."""
        return self.statistics is None or self.statistics.model.guidance == self.denoiser.guidance

    def misguided(self, used: Sequence[str]) -> str:
        """That what is used of the measurements is for other guidance than that of the run, and what to do."""
        weights = self.needed.model.guidance, self.denoiser.guidance
        measured, own = ("without guidance" if w == 1 else f"with guidance {w:g}" for w in weights)
        option = "" if weights[1] == 1 else f" --guidance {weights[1]:g} --class K"
        return (
            f"the {' and '.join(used)} follow from the network {measured}, the run is {own}: measure it so by "
            f"`prescore calibrate DATA --model MODEL{option}`"
            + (", K the class of the data, or --labels the array of theirs" if option else "")
            + " (guidance of prescore.load, condition of prescore.calibrate)"
        )

    def unfitted(self, steps: int) -> str:
        """That no weights were fitted for a run of so many steps, and what would be right."""
        fitted = [n for n in self.needed.tuning.fits if self.fit(n) is not None]
        known = f"; they were for {', '.join(map(str, sorted(fitted)))}" if fitted else ""
        return (
            f"sampler: no weights were fitted for p-fit with {steps} steps on these noise levels{known}; fit them by "
            f"`prescore calibrate DATA --model MODEL --calls {steps * self.denoiser.network_calls} --out FILE`"
        )

    def why_usual(self, sampler: str) -> str:
        """Why a sampler takes its usual levels where it might take some that were measured."""
        errors = None if self.statistics is None else self.statistics.model.steps
        if errors is None:
            return f"that of {sampler}; none was measured for the model (`prescore calibrate --model` does)"
        low, high = errors.levels[-1], errors.levels[0]
        return (
            f"that of {sampler}; what was measured is for noise from {low:.3g} to {high:.3g} (calibrate the model "
            "limited to this range)"
        )

    @property
    def doubts(self) -> tuple[str, ...]:
        """What was measured of the model that makes its samples doubtful."""
        statistics = self.__dict__.get("statistics")  # those that the run has read
        if statistics is None or statistics.model.score is None:
            return ()
        used = self.denoiser.sigma_max
        doubt = doubt_of(statistics, min(used, trusted_level(statistics) or used) if self.is_shrunk else used)
        return (doubt,) if doubt else ()

    @property
    def at_hand(self) -> Statistics | None:
        """As `statistics`, but no file is read for it."""
        is_file = isinstance(self.denoiser.statistics if self.given is None else self.given, str | Path)
        return self.__dict__.get("statistics") if is_file else self.statistics

    @property
    def found(self) -> tuple[float, float] | None:
        """(Lowest, highest) value of the data, if the run has read statistics of them."""
        statistics = self.at_hand
        return None if statistics is None else (statistics.moments.minimum, statistics.moments.maximum)

    @property
    def facts(self) -> dict[str, object]:
        statistics = self.needed
        name = statistics.source or statistics.measured_on
        return {"statistics": name, **({"statistics_sha256": statistics.digest} if statistics.digest else {})}
