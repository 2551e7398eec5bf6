"""Metrics: one number per example, which the caller reduces (`summary`)."""

from arinv.metrics import images, reconstruction
from arinv.metrics.classification import correct
from arinv.metrics.images import mean_squared_error, psnr, ssim
from arinv.metrics.reconstruction import (
    euclidean_distance,
    mean_pairwise_distance,
    normalized_error,
)
from arinv.metrics.statistics import summary

# Name in a results file -> the exact variant that was computed.
VARIANTS = {**images.VARIANTS, "normalized_error": reconstruction.NORMALIZED_ERROR_VARIANT}

__all__ = [
    "VARIANTS",
    "correct",
    "euclidean_distance",
    "mean_pairwise_distance",
    "mean_squared_error",
    "normalized_error",
    "psnr",
    "ssim",
    "summary",
]
