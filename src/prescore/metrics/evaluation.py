"""Metrics of a set of samples beside a set of true ones.

Features, statistics and metrics are separate steps: `Features` make numbers of images, `measure` passes over a set once
and keeps what the metrics need, `evaluate` compares two such sets.

| metric | true samples | needs |
|-|-|-|
| frechet | 0, and a bias of about a constant over n | covariance of the features |
| kernel | 0 on average | features |
| precision, recall | below 1, by n and dimension | features |
| density | 1 on average | features |
| coverage | `prescore.metrics.neighbours` gives it | features |
| inception-score | that of the data | logits |
| sliced-wasserstein | above 0, falling with n | features |
| spectrum | about 1 / sqrt(n) of Gaussian data | power at each frequency |
| pixel-mean, pixel-deviation | about the deviation over sqrt(n) | moments of each pixel |

The value of true samples depends on n in all but two of them. A value says something beside that of as many true
samples only, the floor: hold n of them out of the reference (`hold_out`) and compare them with the rest.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import reduce
from operator import add
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from prescore.data import ImageSet
from prescore.errors import PrescoreError, check_choice
from prescore.jackknife import BLOCKS, Estimate, leave_out
from prescore.metrics.features import Features, unit_images
from prescore.metrics.frechet import Moments, frechet_distance
from prescore.metrics.inception_score import Answers
from prescore.metrics.kernel import kernel_distances
from prescore.metrics.neighbours import neighbours_of_parts
from prescore.metrics.pixels import PixelMoments, pixel_errors
from prescore.metrics.sets import SetStatistics, image_digest, image_power
from prescore.metrics.sliced import sliced_distances
from prescore.metrics.spectrum import power_error

K = 5  # neighbours, of precision to coverage
MOST_FEATURES = 8192  # whose covariance, 0.5 GB, is still decomposed
UNLIKE_SCALES = 10.0  # between numbers of a sample, above which the largest decide what a distance is
AMPLE = 5  # samples a feature, below which the bias of the Frechet distance is worth a word


@dataclass(frozen=True)
class Metric:
    """One number, or several that are found together.

    Args:
        names: of the numbers.
        needs: the attribute of `SetStatistics` that they are made of.
        least: images that each set must have.
        compute: from that attribute of the parts of the samples, and of the reference: first the numbers of all parts,
            then those of all but each of so many first ones.
        alone: whether the reference is not looked at.
    """

    names: tuple[str, ...]
    needs: str
    least: int
    compute: Callable[[Sequence[Any], Any, int], Iterable[Sequence[float]]]
    alone: bool = False

    def obstacle(self, samples: SetStatistics, reference: SetStatistics) -> str | None:
        """Why it cannot be computed, if so."""
        found = self._lack(samples, "the samples were")
        return found if found or self.alone else self._lack(reference, "the reference was")

    def suits(self, n: int, reference: SetStatistics) -> bool:
        """Whether it can be computed of n samples that are measured for it."""
        return not self.alone and n >= self.least and self._lack(reference, "") is None

    def _lack(self, given: SetStatistics, who: str) -> str | None:
        if getattr(given, self.needs) is None:
            return f"{who} measured without {KINDS[self.needs]}"
        if given.count < self.least:
            return f"{given.count} image{'s' * (given.count > 1)} in {who.rpartition(' ')[0]}, {self.least} are needed"
        return None

    def estimates(self, parts: Sequence[SetStatistics], reference: SetStatistics) -> dict[str, Estimate]:
        """The numbers of all parts together, with their errors if the parts are blocks of samples."""
        n = sum(part.count for part in parts)
        has_errors = len(parts) >= BLOCKS and n - parts[0].count >= self.least
        of = [getattr(part, self.needs) for part in parts]
        all_parts, *without = self.compute(of, getattr(reference, self.needs), BLOCKS if has_errors else 0)
        columns = zip(self.names, all_parts, *without, strict=True)
        return {name: Estimate.of(value, others, n) for name, value, *others in columns}


def _of_sums(function: Callable[[Any, Any], Sequence[float]]) -> Callable[[Sequence[Any], Any, int], Any]:
    """Of statistics that add up."""
    return lambda parts, b, blocks: [function(reduce(add, kept), b) for kept in leave_out(parts, blocks)]


KINDS = {
    "moments": "the covariance of the features",
    "features": "keeping the features",
    "answers": "the logits of a classifier",
    "pixels": "the moments of pixels",
    "spectrum": "the power spectrum",
}


TABLE = (
    Metric(("frechet",), "moments", 2, _of_sums(lambda a, b: (frechet_distance(a, b),))),
    Metric(
        ("kernel",), "features", 2, lambda parts, b, blocks: [(value,) for value in kernel_distances(parts, b, blocks)]
    ),
    Metric(
        ("precision", "recall", "density", "coverage"),
        "features",
        K + 1,
        lambda parts, b, blocks: map(astuple, neighbours_of_parts(parts, b, blocks, k=K)),
    ),
    Metric(("inception-score",), "answers", 1, _of_sums(lambda a, b: (a.score,)), alone=True),
    Metric(
        ("sliced-wasserstein",),
        "features",
        1,
        lambda parts, b, blocks: [(value,) for value in sliced_distances(parts, b, blocks)],
    ),
    Metric(("spectrum",), "spectrum", 1, _of_sums(lambda a, b: (power_error(a.power, b.power, a.length),))),
    Metric(("pixel-mean", "pixel-deviation"), "pixels", 2, _of_sums(pixel_errors)),
)
METRICS = tuple(name for metric in TABLE for name in metric.names)
HIGHER_IS_BETTER = frozenset({"precision", "recall", "density", "coverage", "inception-score"})


def measure(
    images: Tensor | ImageSet | Iterable[Tensor],
    features: Features,
    metrics: Collection[str] | None = None,
    *,
    batch_size: int = 256,
    data_range: tuple[float, float] | None = (0.0, 1.0),
    progress: bool = False,
) -> SetStatistics:
    """What metrics need to know of a set of images, in one pass over it.

    Args:
        images: all of them, (N, C, H, W) or (N, *event), those of files (`prescore.data.open_images`), or batches of
            any size; uint8, or floating point within `data_range`.
        features: what is made of them.
        metrics: which will be asked for; by default all that these features allow.
        batch_size: images in one call of the extractor; the result is the same for all, up to its rounding.
        data_range: lowest and highest value that floating-point images may have; None takes samples as they are.
        progress: show a bar on a terminal.

    Raises:
        PrescoreError: images that do not fit, a metric that is none or that these features do not allow, or no image.
    """
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not a positive whole number")
    kept = _kept(features, metrics)
    length = len(images) if isinstance(images, Tensor | ImageSet) else None
    parts = (images,) if isinstance(images, Tensor) else images
    parts = parts.batches(batch_size) if isinstance(parts, ImageSet) else parts
    total: SetStatistics | None = None
    with tqdm(total=length, unit="image", disable=None if progress else True, leave=False) as bar:
        for batch in (
            batch for part in parts for batch in part.split(min(batch_size, max(len(part), 1))) if len(batch)
        ):
            found = _measure(batch, features, kept, data_range)
            total = found if total is None else total + found
            bar.update(len(batch))
    if total is None:
        raise PrescoreError("images: none given")
    return total.joined()


def evaluate(
    samples: SetStatistics, reference: SetStatistics, metrics: Collection[str] | None = None, *, progress: bool = False
) -> dict[str, float]:
    """Metrics of samples beside true ones, by name, in the order of `METRICS`.

    Args:
        samples, reference: from `measure`, with the same features.
        metrics: names of `METRICS`; by default all that both sets allow.
        progress: show a bar on a terminal.

    Raises:
        PrescoreError: the sets cannot be compared, or do not allow a metric that is asked for.

    Cost: kernel and precision to coverage look at all pairs of the n + m images of both sets, (n + m)^2 d operations;
    the others pass over the images, or decompose a matrix of d x d.

    >>> from prescore.metrics import make_features
    >>> images = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> data = measure(images, make_features("pixels", (1, 4, 4)))
    >>> evaluate(data, data, ["precision", "pixel-mean"])
    {'precision': 1.0, 'pixel-mean': 0.0}
    """
    found = estimates([samples], reference, metrics, progress=progress)
    return {name: estimate.value for name, estimate in found.items()}


def estimates(
    parts: Sequence[SetStatistics],
    reference: SetStatistics,
    metrics: Collection[str] | None = None,
    *,
    progress: bool = False,
) -> dict[str, Estimate]:
    """What `evaluate` finds of all parts together, with errors if they are the blocks of `block_sizes`.

    Args:
        parts: of the samples, in the order of their seeds.
        reference, metrics, progress: as of `evaluate`, which has the errors too.

    Cost: ten more of what decomposes or sorts; what looks at all pairs does so once.
    """
    samples = reduce(add, parts)
    reference.check_comparable(samples.shape, samples.extractor)
    wanted = set(check_possible(samples, reference, metrics))
    found: dict[str, Estimate] = {}
    with tqdm(TABLE, unit="metric", disable=None if progress else True, leave=False) as bar:
        for metric in bar:
            if wanted & set(metric.names):
                found |= metric.estimates(parts, reference)
    return {name: estimate for name, estimate in found.items() if name in wanted}


def check_possible(
    samples: SetStatistics, reference: SetStatistics, metrics: Collection[str] | None = None
) -> list[str]:
    """The metrics that are asked for, by default all that these sets allow.

    Raises:
        PrescoreError: there is no such metric, or the sets do not allow it.
    """
    found = obstacles(samples, reference)
    for name in metrics or ():
        check_choice("metrics", name, METRICS)
        if name in found:
            suited = [other for metric in TABLE if metric.suits(samples.count, reference) for other in metric.names]
            raise PrescoreError(f"{name}: {found[name]}; valid are {', '.join(suited) or 'no others'}")
    return [name for name in METRICS if (name not in found if metrics is None else name in metrics)]


def obstacles(samples: SetStatistics, reference: SetStatistics) -> dict[str, str]:
    """The metrics that these sets do not allow, and why."""
    found = {metric: metric.obstacle(samples, reference) for metric in TABLE}
    return {name: reason for metric, reason in found.items() if reason is not None for name in metric.names}


def cautions(samples: SetStatistics, reference: SetStatistics, metrics: Collection[str]) -> list[str]:
    """What a reader should know about these values, one line each."""
    lines, d = [], samples.extractor["dimension"]
    n = min(samples.count, reference.count)
    if "frechet" in metrics and n <= d:
        lines.append(
            f"frechet: {n} images for {d} features, fewer than a covariance needs, so that most of it may be bias; "
            "the other metrics are valid, kernel without any bias"
        )
    elif "frechet" in metrics and n < AMPLE * d:
        lines.append(f"frechet: {n} images are few for {d} features; compare at equal n only, beside the floor")
    spans = [given.highest - given.lowest for given in (samples, reference)]
    is_unit = all(0 <= given.lowest <= given.highest <= 1 for given in (samples, reference))
    if is_unit and min(spans) < 0.6 * max(spans):
        ends = " and ".join(f"{given.lowest:.3g} to {given.highest:.3g}" for given in (samples, reference))
        lines.append(f"samples and reference: values {ends} of a range of 0 to 1; was one scaled otherwise?")
    if samples.extractor["name"] == "pixels" and len(samples.shape) != 3 and reference.moments is not None:
        deviations = reference.moments.scatter.diagonal().clamp(min=0).sqrt()
        least, most = deviations[deviations > 0].aminmax() if (deviations > 0).any() else (1, 1)
        if most > UNLIKE_SCALES * least:
            lines.append(
                "distances are in the units of the data, whose deviations differ by a factor of "
                f"{float(most / least):.3g}, so that the largest decide; divide the data by them first"
            )
    if samples.digest == reference.digest:
        lines.append("samples: they are the images of the reference")
    return lines


Images = TypeVar("Images", bound=Tensor | ImageSet)


def hold_out(images: Images, n: int, seed: int = 0) -> tuple[Images, Images] | None:
    """n images drawn at random, and the others; None if these would be fewer than n."""
    if len(images) < 2 * n:
        return None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, others = order[:n].sort().values, order[n:].sort().values
    parts: Any = [images[rows] if isinstance(images, Tensor) else images.take(rows.tolist()) for rows in (held, others)]
    return parts[0], parts[1]


def _kept(features: Features, metrics: Collection[str] | None) -> set[str]:
    """The attributes of `SetStatistics` that metrics need."""
    for name in metrics or ():
        check_choice("metrics", name, METRICS)
    impossible = {}
    if features.logits is None:
        impossible["answers"] = f"{features.name} gives no logits of a classifier"
    if features.dimension > MOST_FEATURES:
        impossible["moments"] = f"{features.dimension} features of {features.name}, at most {MOST_FEATURES} are allowed"
    asked = {m.needs: name for m in TABLE for name in m.names if metrics is None or name in metrics}
    for needs, reason in impossible.items():
        if metrics is not None and needs in asked:
            raise PrescoreError(f"{asked[needs]}: {reason}; leave it out, or take other features")
    return set(asked) - set(impossible)


def _measure(
    batch: Tensor, features: Features, kept: Collection[str], data_range: tuple[float, float] | None
) -> SetStatistics:
    """Of one batch."""
    x, unit = features(batch, data_range), unit_images(batch, data_range)
    return SetStatistics(
        count=len(batch),
        shape=tuple(batch.shape[1:]),
        extractor=features.facts,
        digest=image_digest(unit),
        lowest=unit.min().item(),
        highest=unit.max().item(),
        moments=Moments.of(x) if "moments" in kept else None,
        rows=(x.float(),) if "features" in kept else (),
        answers=Answers.of(features.logits(x)) if "answers" in kept and features.logits is not None else None,
        pixels=PixelMoments.of(unit) if "pixels" in kept else None,
        power=image_power(unit) if "spectrum" in kept else None,
    )
