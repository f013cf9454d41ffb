"""Hugging Face diffusers: the samplers as a scheduler of its pipelines, and its pipelines as denoisers."""

from prescore.adapters.diffusers.denoiser import PipelineDenoiser, denoiser_of
from prescore.adapters.diffusers.scheduler import PrescoreScheduler, scheduler

__all__ = ["PipelineDenoiser", "PrescoreScheduler", "denoiser_of", "scheduler"]
