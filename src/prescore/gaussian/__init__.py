"""The Gaussian model of the data: exact denoiser, coordinates, flow, and how it is made from statistics."""

from prescore.gaussian.fit import (
    GAUSSIANS,
    cosine_gaussian,
    covariance_gaussian,
    doubt_of,
    error_share,
    frequency_gaussian,
    gaussian,
    pca_gaussian,
    pixel_gaussian,
    trusted_level,
)
from prescore.gaussian.flow import GaussianFlow
from prescore.gaussian.model import ErrorShare, Gaussian
from prescore.gaussian.shrunk import Shrunk, measure_shrinkage, shrunk

__all__ = [
    "GAUSSIANS",
    "ErrorShare",
    "Gaussian",
    "GaussianFlow",
    "Shrunk",
    "cosine_gaussian",
    "covariance_gaussian",
    "doubt_of",
    "error_share",
    "frequency_gaussian",
    "gaussian",
    "measure_shrinkage",
    "pca_gaussian",
    "pixel_gaussian",
    "shrunk",
    "trusted_level",
]
