"""Metrics: one number per example, which the caller reduces (`summary`), or one per set (`frechet_distance`)."""

from arinv.metrics import image_quality
from arinv.metrics.accuracy import AUROC_VARIANT, auroc, binomial_interval, correct, summary
from arinv.metrics.frechet import (
    FRECHET_VARIANT,
    FeatureMoments,
    feature_vectors,
    frechet_distance,
    frechet_key,
)
from arinv.metrics.gram import GRAM_LAYERS, GRAM_VARIANT, GRAM_VARIANTS, gram_distance, gram_loss, gram_statistics
from arinv.metrics.image_quality import (
    euclidean_distance,
    mean_pairwise_distance,
    mean_squared_error,
    normalized_error,
    psnr,
    ssim,
)
from arinv.metrics.perceptual import LPIPS_LAYERS, LPIPS_VARIANTS, ROBUST_LPIPS_VARIANT, lpips

# Name of a metric -> the exact variant that is computed. Those over a network are reported under longer names, which
# say what network it was.
VARIANTS = {
    **image_quality.VARIANTS,
    "normalized_error": image_quality.NORMALIZED_ERROR_VARIANT,
    **LPIPS_VARIANTS,
    "robust_lpips": ROBUST_LPIPS_VARIANT,
    "gram": GRAM_VARIANT,
    "fid": FRECHET_VARIANT,
}

__all__ = [
    "AUROC_VARIANT",
    "GRAM_LAYERS",
    "GRAM_VARIANTS",
    "LPIPS_LAYERS",
    "VARIANTS",
    "auroc",
    "binomial_interval",
    "FeatureMoments",
    "correct",
    "euclidean_distance",
    "feature_vectors",
    "frechet_distance",
    "frechet_key",
    "gram_distance",
    "gram_loss",
    "gram_statistics",
    "lpips",
    "mean_pairwise_distance",
    "mean_squared_error",
    "normalized_error",
    "psnr",
    "ssim",
    "summary",
]
