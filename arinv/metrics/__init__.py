"""Metrics: one number per example, which the caller reduces (`summary`), or one per dataset (`frechet_distance`).

The table `METRICS` lists those of reconstructions by name.
"""

from arinv.metrics.accuracy import AUROC_VARIANT, auroc, binomial_interval, correct, summary
from arinv.metrics.frechet import (
    FeatureMoments,
    feature_vectors,
    frechet_distance,
    moments_distance,
)
from arinv.metrics.gram import GRAM_LAYERS, GRAM_VARIANTS, gram_distance, gram_loss, gram_statistics
from arinv.metrics.image_quality import (
    SSIM_WINDOW,
    UNIFORM_WINDOW,
    euclidean_distance,
    mean_pairwise_distance,
    mean_squared_error,
    normalized_error,
    psnr,
    ssim,
    ssim_uniform7,
)
from arinv.metrics.metric import METRICS, Metric
from arinv.metrics.perceptual import LPIPS_LAYERS, lpips

VARIANTS = {name: metric.variant for name, metric in METRICS.items()}

__all__ = [
    "AUROC_VARIANT",
    "GRAM_LAYERS",
    "GRAM_VARIANTS",
    "LPIPS_LAYERS",
    "METRICS",
    "SSIM_WINDOW",
    "UNIFORM_WINDOW",
    "VARIANTS",
    "FeatureMoments",
    "Metric",
    "auroc",
    "binomial_interval",
    "correct",
    "euclidean_distance",
    "feature_vectors",
    "frechet_distance",
    "gram_distance",
    "gram_loss",
    "gram_statistics",
    "lpips",
    "mean_pairwise_distance",
    "mean_squared_error",
    "moments_distance",
    "normalized_error",
    "psnr",
    "ssim",
    "ssim_uniform7",
    "summary",
]
