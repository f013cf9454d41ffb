"""Samplers, the loop that drives them, and the table of their names."""

from prescore.samplers.adaptive import GGF
from prescore.samplers.alpha import AlphaChoice, AlphaRelation, choose_alpha
from prescore.samplers.analytic import AnalyticDDIM
from prescore.samplers.base import Preconditionable, Progress, Sampler, sample, score, steps_for_calls
from prescore.samplers.calibrated import auto_grid, measure_steps
from prescore.samplers.choose import SamplerChoice, choose_sampler
from prescore.samplers.ddim import DDIM, DDPM
from prescore.samplers.deis import DEIS, RungeKuttaDEIS
from prescore.samplers.edm import EDMChurn, EDMFlow
from prescore.samplers.exponential import Exponential
from prescore.samplers.fitted import Fitted
from prescore.samplers.fitting import fit_weights
from prescore.samplers.langevin import AnnealedLangevin
from prescore.samplers.ode import AdaptiveODE, Likelihood, log_likelihood
from prescore.samplers.pndm import PNDM
from prescore.samplers.predictor_corrector import PredictorCorrector
from prescore.samplers.recursion import GaussianTrajectory, gaussian_recursion, statistics_recursion
from prescore.samplers.sde import ReverseSDE
from prescore.samplers.subspace import Stage, subspace_denoiser, subspace_sample
from prescore.samplers.table import SAMPLERS, Entry, find_sampler, make_sampler
from prescore.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "GGF",
    "PNDM",
    "SAMPLERS",
    "AdaptiveODE",
    "AlphaChoice",
    "AlphaRelation",
    "AnalyticDDIM",
    "AnnealedLangevin",
    "EDMChurn",
    "EDMFlow",
    "Entry",
    "Exponential",
    "Fitted",
    "GaussianTrajectory",
    "Likelihood",
    "Preconditionable",
    "PredictorCorrector",
    "Progress",
    "ReverseSDE",
    "RungeKuttaDEIS",
    "Sampler",
    "SamplerChoice",
    "Stage",
    "UniPC",
    "auto_grid",
    "choose_alpha",
    "choose_sampler",
    "find_sampler",
    "fit_weights",
    "gaussian_recursion",
    "log_likelihood",
    "make_sampler",
    "measure_steps",
    "sample",
    "score",
    "statistics_recursion",
    "steps_for_calls",
    "subspace_denoiser",
    "subspace_sample",
]
