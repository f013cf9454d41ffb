"""Everything that samplers and preconditioners may know beside the network, in three parts."""

from dataclasses import dataclass, field, replace

from prescore.errors import PrescoreError
from prescore.statistics.moments import Moments, merge_moments
from prescore.statistics.score import ScoreStatistics, merge_scores
from prescore.statistics.shrinkage import Shrinkage
from prescore.statistics.steps import StepErrors, Tuning
from prescore.version import __version__


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelStatistics:
    """What was measured of a model of the data.

    Attributes:
        score: how large its score is on the data (`score_statistics`), or None.
        shrinkage: how much of it to use, if it errs more than the Gaussian model at high noise, or None.
        steps: what the steps of solvers do wrong on it (`prescore.measure_steps`), shrunk if it is to be, or None.
        guidance: weight of the classifier-free guidance with which all this, and what was tuned, was measured.
    """

    score: ScoreStatistics | None = None
    shrinkage: Shrinkage | None = None
    steps: StepErrors | None = None
    guidance: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Statistics:
    """What is known of a data set, and of a model of it.

    Attributes:
        moments: of the data.
        model: what was measured of a model of them.
        tuning: what was tuned for solvers on that model.
        samples_of: name of the model whose own samples were measured in the place of data; empty for data.
        version: of the library that measured it.
        source, digest: name or path of the file that it was read from, and the start of that file's SHA-256.
    """

    moments: Moments
    model: ModelStatistics = field(default_factory=ModelStatistics)
    tuning: Tuning = field(default_factory=Tuning)
    samples_of: str = ""
    version: str = __version__
    source: str = ""
    digest: str = ""

    def __repr__(self) -> str:
        within = f" in {self.data_range}" if self.data_range else ""
        parts = [f"{self.measured_on} of shape {self.event_shape}{within}"]
        parts += [f"score of {self.model.score.model or 'a model'}"] if self.model.score else []
        parts += ["errors of steps"] if self.model.steps else []
        fits = ", ".join(map(str, sorted(self.tuning.fits)))
        return f"Statistics({'; '.join([*parts, *([f'weights for {fits} steps'] if fits else [])])})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.moments.event_shape

    @property
    def measured_on(self) -> str:
        """What was measured, in words."""
        return f"{self.moments.count} samples" + (f" of {self.samples_of}" if self.samples_of else "")

    @property
    def data_range(self) -> tuple[float, float] | None:
        return self.moments.data_range


def in_range(statistics: Statistics, data_range: tuple[float, float] | None) -> Statistics:
    """The statistics of the same data mapped affinely from their data range onto another, exact up to rounding.

    Where one of the two is not known, None, they stay in the units that they have.
    """
    if statistics.data_range is None or data_range is None:
        return replace(statistics, moments=replace(statistics.moments, data_range=data_range))
    (low, high), (new_low, new_high) = statistics.data_range, data_range
    a = (new_high - new_low) / (high - low)
    known = {name: getattr(statistics.model, name) for name in ("score", "shrinkage", "steps")}
    model = replace(statistics.model, **{name: part and part.scaled(a) for name, part in known.items()})
    moments, tuning = statistics.moments.in_range(data_range), statistics.tuning.scaled(a)
    return replace(statistics, moments=moments, model=model, tuning=tuning)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both data sets together.

    Moments as `merge_moments` has them; the means of the score are weighted by count. The errors of steps, a shrinkage
    and what was tuned are left out: they belong to one Gaussian model of the data. `samples_of` is that of the first
    that has one.

    Raises:
        PrescoreError: they are of different event shapes, axes or data ranges, only one has components or a score,
            or the scores are of different models, guidance or levels.
    """
    score, guidance = merge_scores(a.model.score, b.model.score), a.model.guidance
    if score is not None and b.model.guidance != guidance:
        raise PrescoreError(f"data: the scores of two statistics are of guidance {guidance:g} and {b.model.guidance:g}")
    moments, drawn = merge_moments(a.moments, b.moments), a.samples_of or b.samples_of
    return Statistics(moments=moments, model=ModelStatistics(score=score, guidance=guidance), samples_of=drawn)
