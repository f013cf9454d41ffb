"""What the samplers of the EDM and SEEDS papers are run on here: patches whose denoiser is exact, and networks.

patches: grey photographs of 8x8 pixels. The mixture of 40 Gaussians that benchmarks/mixtures.py fits to 16x16 patches
stays a mixture under a linear map, so that the means of 2x2 pixels of its samples have an exact denoiser too, 16 times
cheaper:

    A x ~ sum_k w_k N(A m_k, A C_k A^T),    A the means of 2x2 pixels.

What samples are measured by are the Frechet distance to its exact mean and covariance, which is mostly that of large
features, and, for fine ones, the excess of detail, the mean over principal components of ln(variance / true variance):
above 0 noise is left, below 0 the samples are too smooth. Statistics for the preconditioned solvers come from other
photographs.

Larger ones are the mixture of 16x16 pixels itself, and one of 10 Gaussians of whole images, 32x32 pixels.

networks: any model that `prescore.load` opens, with images of its data; the distance is that of classifier features.
Scripts that take one offer it by `add_network_options`, and say of it what `described` says.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import torch
from publish import Runs, benchmark
from torch import Tensor
from torch.nn.functional import avg_pool2d

import prescore
from prescore.assets import shipped_models
from prescore.data import load_images
from prescore.errors import PrescoreError, SamplingError
from prescore.grid import geometric
from prescore.images import to_uint8
from prescore.metrics import frechet_distance, make_features
from prescore.samplers import Sampler, steps_for_calls
from prescore.statistics import Statistics

mixtures = benchmark("mixtures")

LOWEST, HIGHEST = 0.002, 200.0  # noise that an exact denoiser may be asked about: churn goes beyond the grid
PATCH = 8  # pixels of a patch
SETS = 8  # of true samples, for the floor
SOME = 16  # steps that every sampler can take
REFERENCE = 10_000  # images that the samples of a network are compared with
FIRST = 10**9  # seed of the first of them; samplers use lower ones
Measures = dict[str, float]


def add_network_options(parser: argparse.ArgumentParser, flag: str = "--model", **how: Any) -> None:
    """Add the option of a network, or of several, and --config."""
    parser.add_argument(flag, **{"help": "network: a shipped model, or any checkpoint that prescore opens"} | how)
    parser.add_argument("--config", help="of a checkpoint that does not hold its own: a name, or a yml or JSON file")


def load_network(name: str, config: str | None = None, **how: Any) -> prescore.Denoiser:
    """A shipped model, which needs no configuration, or any checkpoint. Raises PrescoreError as `prescore.load`."""
    return prescore.load(name, config=None if name in shipped_models() else config, **how)


def described(names: Sequence[str]) -> str:
    """Networks in words: "the shipped model `mnist-ve`", "the models `a` and `b`"."""
    kind = "shipped model" if all(name in shipped_models() for name in names) else "model"
    shown = [f"`{name if name in shipped_models() else Path(name).stem}`" for name in names]
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
    return f"the {kind}{'s' * (len(shown) > 1)} {listed}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """A denoiser, what is known of its data, and how samples are measured.

    Args:
        denoiser: what samplers call.
        statistics: of the data, in the denoiser's range.
        sigma_min, sigma_max: noise range of the grids.
        measures: of samples (n, *event).
        sets: several sets of as many true samples as will be drawn.
        batch_size: samples in a call.
        is_exact: whether the denoiser is exact, and cheap, and knows every level.
    """

    denoiser: prescore.Denoiser
    statistics: Statistics
    sigma_min: float
    sigma_max: float
    measures: Callable[[Tensor], Measures]
    sets: Sequence[Tensor]
    batch_size: int
    is_exact: bool = False

    @property
    def unit(self) -> float:
        """A noise level 1 of the papers, whose data lie in [-1, 1], in the units of this denoiser."""
        low, high = self.denoiser.data_range
        return (high - low) / 2

    def sampler(
        self, name: str, calls: int, grid: Callable[[int, float, float], Tensor] | None = None, **options: Any
    ) -> Sampler:
        """Sampler `name` with as many steps as `calls` allow, on its usual grid or on another."""
        model = replace(self.denoiser, statistics=self.statistics)

        def on(levels: Tensor) -> Sampler:
            return prescore.plan(model, sampler=name, grid=levels, **options).sampler

        some = on(geometric(SOME, self.sigma_min, self.sigma_max, final_zero=True))
        return on((grid or self._usual(some))(steps_for_calls(some, calls), self.sigma_min, self.sigma_max))

    def pds(self, alpha: float | None, **levels: Any) -> Sampler:
        """The predictor-corrector sampler with the paper's mask: plain if alpha is infinite, chosen if it is None.

        Args:
            levels: steps, or a grid; the noise range is that of the grids.
        """
        model = replace(self.denoiser, statistics=self.statistics)
        limits = {} if "grid" in levels else {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        if alpha == math.inf:
            return prescore.plan(model, sampler="pc", **levels, **limits).sampler
        return prescore.plan(model, sampler="pds", alpha=alpha, **levels, **limits).sampler

    @staticmethod
    def _usual(sampler: Sampler) -> Callable[[int, float, float], Tensor]:
        return lambda steps, low, high: sampler.usual_levels(low, high, steps)

    @property
    def n(self) -> int:
        """Samples of a run."""
        return len(self.sets[0])

    def draw(self, sampler: Sampler) -> Tensor:
        """The samples of seeds 0 to n - 1."""
        size = min(self.batch_size, self.n)
        return prescore.sample(self.denoiser, sampler, seeds=range(self.n), batch_size=size, progress=False)

    def run(self, sampler: Sampler) -> dict[str, Any]:
        """Measures of n samples; a distance of None if the run overflows."""
        assert sampler.grid is not None
        start = time.perf_counter()
        row: dict[str, Any] = {"calls": sampler.total_calls(len(sampler.grid) - 1)}
        try:
            row |= self.measures(self.draw(sampler))
        except SamplingError:
            row["frechet"] = None
        return row | {"seconds": round(time.perf_counter() - start, 1)}

    def floor(self) -> dict[str, dict[str, float]]:
        """Mean and spread of the measures of the sets of true samples."""
        measured = [self.measures(x) for x in self.sets]
        columns = {name: [row[name] for row in measured] for name in measured[0]}
        return {name: {"mean": mean(column), "spread": pstdev(column)} for name, column in columns.items()}


def kept(runs: Runs, facts: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The row of a run, its facts and what it gave, from the file or from `run()`."""
    return runs.get(", ".join(f"{name} {value}" for name, value in facts.items()), lambda: {**facts, **run()})


def rows(runs: Mapping[str, Any], **facts: Any) -> list[dict[str, Any]]:
    """The rows that have these facts."""
    return [row for row in runs.values() if facts.items() <= row.items()]


def values(runs: Mapping[str, Any], name: str) -> list[Any]:
    """What the rows have under a name, in order, each once."""
    return list(dict.fromkeys(row[name] for row in runs.values() if name in row))


def floor_text(runs: Mapping[str, Any]) -> str:
    """The Frechet distance of true samples, of all subjects that were run."""
    found = {row["denoiser"]: row["true"]["frechet"] for row in runs.values() if "true" in row}
    return "; ".join(f"{name} {d['mean']:.2g} ± {d['spread']:.1g}" for name, d in found.items())


def halved(mixture: Any) -> Any:
    """The mixture of the means of 2x2 pixels of a mixture's samples."""
    d = mixture.means[0].numel()
    A = avg_pool2d(torch.eye(d, dtype=torch.float64).reshape(d, *mixture.means.shape[1:]), 2).flatten(1).mT
    covariances = A @ mixture.covariances @ A.mT
    return mixtures.Mixture(mixture.weights, avg_pool2d(mixture.means, 2), (covariances + covariances.mT) / 2)


@cache
def patch_mixture(data: Path, quick: bool, size: int = PATCH) -> Any:
    """The mixture of patches of the photographs of a file (see the module); a quick one has 4 components.

    Raises:
        PrescoreError: there is no such file.
    """
    if not data.is_file():
        raise PrescoreError(f"--data: {data}: no such file; it is to hold {mixtures.SOURCES['natural']}")
    if size > mixtures.SIZE:
        return mixtures.fit(mixtures.whole(data, "train"), 2, 1) if quick else mixtures.fitted_whole(data)
    mixture = mixtures.fit(mixtures.patches(data, "train")[::20], 4, 3) if quick else mixtures.fitted(data)
    return mixture if size == mixtures.SIZE else halved(mixture)


def patches(data: Path, n: int, quick: bool, size: int = PATCH) -> Subject:
    """Patches from `patch_mixture`, of which n will be drawn: of 8 or 16 pixels, or of 32, whole images of a file.

    Raises:
        PrescoreError: there is no such file.
    """
    mixture = patch_mixture(data, quick, size)
    held_out = mixtures.whole(data, "test") if size > mixtures.SIZE else mixtures.held_out(data)
    held_out = avg_pool2d(held_out, 2) if size == PATCH else held_out
    bound = 1.0 if held_out.abs().max() <= 1 else 5.0  # deviations of standardised values, as topography-edm has it
    exact_mean, covariance = mixture.moments
    true_variances, components = torch.linalg.eigh(covariance)

    def measures(x: Tensor) -> Measures:
        variances = ((x.flatten(1) - exact_mean) @ components).var(0)
        detail = (variances / true_variances).log().mean().item()
        return {"frechet": frechet_distance(x, (exact_mean, covariance)), "detail": detail}

    return Subject(
        denoiser=prescore.Denoiser(
            mixture, tuple(held_out.shape[1:]), LOWEST, HIGHEST, data_range=(-bound, bound), dtype=torch.float64
        ),
        statistics=prescore.calibrate(held_out, data_range=(-bound, bound)),
        sigma_min=LOWEST,
        sigma_max=80.0,
        measures=measures,
        sets=[mixture.sample(range(FIRST + i * n, FIRST + (i + 1) * n)) for i in range(SETS)],
        batch_size=min(n, 6000),
        is_exact=True,
    )


def network(model: str, images: Path, features: str, n: int, config: str | None = None) -> Subject:
    """A model in its own range, beside images of its data: a reference of `REFERENCE` of them, and true samples.

    Args:
        model, config: as for `load_network`.
        images: of its data: .npz, IDX file or folder.
        features: of the Frechet distance, a name of `prescore.metrics.make_features`.
        n: samples that will be drawn.

    Raises:
        PrescoreError: the model, the images or the features cannot be had, or do not fit each other.
    """
    denoiser = load_network(model, config)
    key = "train" if images.suffix == ".npz" else None
    x = load_images(images, key=key, pad=denoiser.event_shape[-1], n=REFERENCE + SETS * n)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    sets = x.split(n)[: max(1, min(SETS, len(x) // n // 2))]
    if len(x) < 2 * n:
        raise PrescoreError(f"{images}: {len(x)} images; at least {2 * n} are needed, twice as many as samples")
    extractor = make_features(features, denoiser.event_shape)
    reference = extractor.moments(x[len(sets) * n :])

    def measures(samples: Tensor) -> Measures:
        pictures = samples if samples.dtype == torch.uint8 else to_uint8(samples, denoiser.data_range)
        return {"frechet": frechet_distance(extractor.moments(pictures), reference)}

    return Subject(
        denoiser=denoiser,
        statistics=prescore.calibrate(x[len(sets) * n :][:1000], data_range=denoiser.data_range),
        sigma_min=denoiser.sigma_min,
        sigma_max=denoiser.sigma_max,
        measures=measures,
        sets=sets,
        batch_size=min(n, 50),
    )
