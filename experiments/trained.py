"""What the experiments of the PDS papers share: a network with the statistics of its data, and samplers at equal calls.

A step of the predictor-corrector sampler makes two network calls, so that the solvers beside it take 2 T steps of
one. PDS has the paper's frequency mask. Its alpha is the one whose final spectrum comes nearest the data's on
Gaussian data of the same statistics, which is known in closed form; the paper searches by FID. A preset (`prescore
presets`) fixes alpha, snr and the rest instead.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from drawing import RELIEF
from subjects import add_network_options, described, load_network
from torch import Tensor

import prescore
from prescore.errors import PrescoreError, SamplingError
from prescore.gaussian import frequency_gaussian
from prescore.images import to_uint8
from prescore.precondition import frequency_preconditioner
from prescore.presets import PRESETS
from prescore.samplers import PredictorCorrector, Progress, Sampler, find_sampler, statistics_recursion
from prescore.statistics import Statistics

SHIPPED = ("mnist-ve", "natural-edm", "topography-edm")
ALPHAS = (1 + torch.logspace(-0.5, 2, 26, dtype=torch.float64)).tolist()  # 1.3 to 101
SOLVERS = ("p-ode-2m", "p-ode-3m")


def add_model_options(parser: argparse.ArgumentParser, flag: str = "--models", **how: Any) -> None:
    """Add --models, or another flag, --config, --statistics and --preset."""
    add_network_options(parser, flag, **how)
    parser.add_argument("--statistics", type=Path, help="of the data of a model that is a file (prescore calibrate)")
    parser.add_argument("--preset", choices=PRESETS, metavar="NAME", help="settings of a paper for PDS and plain")


def add_models_options(parser: argparse.ArgumentParser) -> None:
    """The same for several models, by default the shipped ones."""
    how: dict[str, Any] = {"nargs": "+", "default": list(SHIPPED)}
    add_model_options(parser, help="networks: shipped models, or any checkpoints that prescore opens", **how)


def steps_of(options: argparse.Namespace, usual: int) -> int:
    """T: what is given, else the preset's, else the usual."""
    own = PRESETS[options.preset].options.get("steps", usual) if options.preset else usual
    return own if options.steps is None else options.steps


@dataclass(frozen=True, eq=False)
class Trained:
    """A network and the statistics of its data.

    Args:
        denoiser: the network.
        statistics: in its range.
        label: what it is, in words.
        preset: whose settings plain and PDS have, or None.
    """

    denoiser: prescore.Denoiser
    statistics: Statistics
    label: str = ""
    preset: str | None = None

    @classmethod
    def open(cls, model: str, statistics: Path | None, config: str | None = None, preset: str | None = None) -> Self:
        """Raises PrescoreError if the model cannot be read, or is a file without statistics."""
        denoiser = load_network(model, config)
        if statistics is None and Path(model).exists():
            raise PrescoreError(f"--statistics: needed for {model}; `prescore calibrate DATA --out FILE` makes them")
        known = prescore.load_statistics(model if statistics is None else statistics)
        return cls(denoiser, prescore.in_range(known, denoiser.data_range), described([model]), preset)

    @property
    def name(self) -> str:
        return self.denoiser.name

    def best_alpha(self, T: int) -> float:
        """The alpha with the least error of the final spectrum in the closed form; inf if none is better."""

        def error(alpha: float) -> float:
            M = None if math.isinf(alpha) else frequency_preconditioner(self.statistics, alpha)
            sampler, denoiser = PredictorCorrector(steps=T, preconditioner=M), self.denoiser
            run = statistics_recursion(sampler, self.statistics, denoiser.sigma_min, denoiser.sigma_max)
            value = run.log_ratio[-1].item()
            return value if math.isfinite(value) else math.inf

        return min((math.inf, *ALPHAS), key=error)

    def plan(self, name: str, **asked: Any) -> Sampler:
        """A sampler by its name."""
        return prescore.plan(replace(self.denoiser, statistics=self.statistics), sampler=name, **asked).sampler

    def plain(self, T: int) -> Sampler:
        """The predictor-corrector sampler as it is, or the preset's without its preconditioner."""
        if self.preset is None:
            return PredictorCorrector(steps=T)
        own = PRESETS[self.preset].options
        name = "pc" if own["sampler"] == "pds" else own["sampler"]
        kept = {key: own[key] for key in find_sampler(name).options if key in own}
        return self.plan(name, steps=T, **kept)

    def pds(self, T: int, **options: Any) -> Sampler:
        """The predictor-corrector sampler with the paper's mask and the best alpha, or the preset's."""
        if self.preset is not None:
            model = replace(self.denoiser, statistics=self.statistics)
            return prescore.plan(model, preset=self.preset, steps=T, **options).sampler
        alpha = self.best_alpha(T)
        if math.isinf(alpha):
            return self.plan("pc", steps=T, **options)
        return self.plan("pds", steps=T, alpha=alpha, **options)

    def solver(self, name: str, calls: int) -> Sampler:
        """A preconditioned solver with as many steps as `calls` allow."""
        return self.plan(name, calls=calls)

    def contenders(self, T: int) -> dict[str, Sampler]:
        """Plain, PDS and the preconditioned solvers, each with 2 T network calls."""
        samplers: dict[str, Sampler] = {"plain": self.plain(T), "PDS": self.pds(T)}
        return samplers | {name: self.solver(name, 2 * T) for name in SOLVERS}

    def draw(
        self, sampler: Sampler, n: int, callback: Callable[[Progress], None] | None = None, batch_size: int = 64
    ) -> Tensor:
        """The samples of the seeds 0 to n - 1."""
        return prescore.sample(
            self.denoiser, sampler, seeds=range(n), batch_size=min(n, batch_size), callback=callback, progress=False
        )

    def gaussian_draws(self, n: int) -> Tensor:
        """n draws from the Gaussian of the statistics: samples whose spectrum is the data's."""
        known = frequency_gaussian(self.statistics)
        z = torch.randn(n, *self.denoiser.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return known.draw(z)

    def pictures(self, sampler: Sampler, n: int) -> Tensor | None:
        """Of the first n seeds, uint8, for a figure: heights between two deviations; None if the run overflows."""
        try:
            return to_uint8(self.draw(sampler, n), RELIEF if is_relief(self.name) else self.denoiser.data_range)
        except SamplingError:
            return None


def is_relief(model: str) -> bool:
    """Whether the samples of a model are heights, which are drawn in colours of a map."""
    return model == "topography-edm"


def alpha_of(sampler: Sampler) -> float | None:
    """alpha of PDS; None of a sampler that has no preconditioner."""
    M = getattr(sampler, "preconditioner", None)
    return None if M is None else M.alpha
