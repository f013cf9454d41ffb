"""The record of a decision: a `Plan`, which says what a run is and why, and draws samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prescore.denoiser import Denoiser
from prescore.examine import Examination
from prescore.gaussian import Gaussian
from prescore.noise import NoiseSource, check_seeds
from prescore.samplers import Sampler
from prescore.samplers import sample as run
from prescore.statistics import Statistics

REASON = "_chosen"  # ends the names under which settings keep the reasons, which decide no sample
ELSE = {"grid": "usual", "statistics": "unused"}  # what stands for settings that were not made
SHOWN = 22  # levels that a plan shows


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run is.

    Attributes:
        denoiser: the model, limited to the noise range of the run.
        name: of the sampler, in `prescore.SAMPLERS`.
        sampler: ready to run.
        levels: its noise levels, (T + 1,), decreasing, float64.
        calls: network calls of a sample; None if the sampler makes as many as its tolerance needs.
        settings: everything that decides a sample beside its seed and the model's weights, as JSON values; and the
            reasons, under names that end in REASON.
        reasons: why "sampler", "grid", "alpha" and "weights" are what they are, for those that were chosen, and why
            "statistics" are not used, if they were given and are not.
        warnings: what is doubtful about the run, and what to do.
        start: the Gaussian model of the data, of whose noisy data at the highest level, N(mu, C + sigma^2), samples are
            made where the sampler would begin with noise alone; or None.
        statistics: of the data in the model's own coordinates, where the run has read some: what samples are held
            against.
        found: (lowest, highest) value of the data in the statistics, where the run has read some.
    """

    denoiser: Denoiser
    name: str
    sampler: Sampler
    levels: Tensor
    calls: int | None
    settings: Mapping[str, object]
    reasons: Mapping[str, str]
    warnings: Sequence[str] = ()
    start: Gaussian | None = None
    statistics: Statistics | None = None
    found: tuple[float, float] | None = None

    @property
    def picture_range(self) -> tuple[float, float] | None:
        """What pictures are scaled by: the range that the model knows, or the values that were found in its data."""
        return self.denoiser.picture_range or self.found

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    def initial(self, noise: NoiseSource) -> Tensor:
        """Where samples start, at the highest level, by the next draws of their noise."""
        sigma = self.levels[0]
        return self.sampler.initial(noise, sigma) if self.start is None else self.start.noisy(noise(), sigma)

    def sample(self, seeds: Iterable[int], **how: Any) -> Tensor:
        """One sample for each seed in the model's own coordinates; `how` and errors are those of `prescore.sample`."""
        if self.start is not None and how.get("initial") is None:
            numbers = check_seeds(seeds)
            noise = NoiseSource(numbers, self.denoiser.event_shape, draw=how.get("draw", 0))
            seeds, how = numbers, {**how, "initial": self.initial(noise), "draw": noise.draw}
        return run(self.denoiser, self.sampler, seeds=seeds, **how)

    def __repr__(self) -> str:
        calls = "as many network calls as its tolerance needs" if self.calls is None else f"{self.calls} network calls"
        steps = f"{self.steps} step{'s' if self.steps > 1 else ''}"
        interval = self.denoiser.data_range
        lines = [f"Plan: {self.name} on {self.denoiser.name or 'the model'}, {steps}, {calls} a sample"]
        lines += [f"noise levels: {self.shown_levels}"]
        lines += [f"data range: {interval[0]:g} to {interval[1]:g}"] if interval else []
        chosen = ELSE | dict(self.settings)
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in chosen.items()}
        lines += [f"{name} = {shown[name]}: {reason}" for name, reason in self.reasons.items()]
        said = {"sampler", "steps", "grid", *self.reasons, *self.sampler.unused(self.levels)}
        others = (
            f"{name} {value}"
            for name, value in self.settings.items()
            if name.removesuffix(REASON) not in said and value is not None
        )
        lines += [f"settings: {', '.join(others)}", *(f"warning: {text}" for text in self.warnings)]
        return "\n  ".join(lines)

    @property
    def shown_levels(self) -> str:
        """The noise levels in three digits; of more than SHOWN, those in the middle left out."""
        levels = [f"{level:.3g}" for level in self.levels.tolist()]
        left = len(levels) - SHOWN
        return ", ".join(levels if left <= 0 else [*levels[: SHOWN // 2], f"({left} more)", *levels[-SHOWN // 2 :]])


def examination(plan: Plan) -> Examination:
    """What samples of this plan are held against."""
    denoiser = plan.denoiser
    return Examination(None if denoiser.data_mean_removed else denoiser.data_range, plan.statistics)


def examined(plan: Plan, x: Tensor) -> tuple[str, ...]:
    """What is doubtful about samples of a plan, (N, *event) in the model's own coordinates, one line each."""
    found = examination(plan)
    found.add(x)
    return found.doubts
