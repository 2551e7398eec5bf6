"""The table of metrics of reconstructions: the values of `metrics=`, and the columns of tables."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from arinv.metrics import frechet, gram, image_quality, perceptual
from arinv.types import Array

OWN = "encoder"  # the network field of the evaluated encoder; the others are named after architectures


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      function: (reconstructions, images) -> [B]; with `networks`, (features_fn, reconstructions, images, *, layers)
        -> [B], which also takes `heads=` where `heads` is set; with `of_set`, (moments of the features of the
        reconstructions, those of the images) -> float.
      variant: the exact formula, as text that begins with the metric's name.
      heading: heading of its column in a table, with the unit.
      format: format string of its values in a table.
      higher_is_better: whether a larger value is better.
      networks: fields of config.metric_networks; the first one that is set gives the features. The last need not be set
        if it is `OWN`. Empty: the metric compares pixels. A metric with networks is reported under a longer name, with
        that of the network.
      layers: the features that are compared: "layers" (those of LPIPS) or "style_layers" (those of the Gram loss).
      heads: LPIPS's learned weights of channels, "alex" or "vgg"; empty: none.
      of_set: one number for the whole set of images, from the features of the last spatial layer.
      finish: (values [N], images [N, H, W, C] in [0, 1]) -> values [N], where a value also depends on the whole set.
    """

    function: Callable[..., Array | float]
    variant: str
    heading: str
    format: str = "{:.3f}"
    higher_is_better: bool = False
    networks: tuple[str, ...] = ()
    layers: str = "layers"
    heads: str = ""
    of_set: bool = False
    finish: Callable[[np.ndarray, Any], np.ndarray] | None = None

    @property
    def needs_set(self) -> bool:
        """Whether the value of an image depends on the whole set, or only the set has one."""
        return self.of_set or self.finish is not None


# In the order of the columns.
METRICS: dict[str, Metric] = {
    "psnr": Metric(image_quality.psnr, image_quality.PSNR_VARIANT, "PSNR (dB)", "{:.2f}", higher_is_better=True),
    "ssim": Metric(image_quality.ssim, image_quality.SSIM_VARIANT, "SSIM", higher_is_better=True),
    "ssim_uniform7": Metric(
        image_quality.ssim_uniform7,
        image_quality.SSIM_UNIFORM7_VARIANT,
        "SSIM (uniform7)",
        higher_is_better=True,
    ),
    "mse": Metric(image_quality.mean_squared_error, image_quality.MSE_VARIANT, "MSE", "{:.4f}"),
    "normalized_error": Metric(
        image_quality.euclidean_distance,
        image_quality.NORMALIZED_ERROR_VARIANT,
        "normalized error",
        finish=lambda distances, images: image_quality.normalized_error(
            distances, image_quality.mean_pairwise_distance(images)
        ),
    ),
    "lpips_alex": Metric(
        perceptual.lpips,
        perceptual.LPIPS_VARIANTS["lpips_alex"],
        "LPIPS (alex)",
        networks=("alexnet",),
        heads="alex",
    ),
    "lpips_vgg": Metric(
        perceptual.lpips, perceptual.LPIPS_VARIANTS["lpips_vgg"], "LPIPS (vgg)", networks=("vgg16",), heads="vgg"
    ),
    "robust_lpips": Metric(perceptual.lpips, perceptual.ROBUST_LPIPS_VARIANT, "robust LPIPS", networks=(OWN,)),
    "gram": Metric(
        gram.gram_loss,
        gram.GRAM_VARIANT,
        "Gram loss",
        "{:.3g}",
        networks=("vgg19", OWN),
        layers="style_layers",
    ),
    "fid": Metric(frechet.moments_distance, frechet.FRECHET_VARIANT, "FID", "{:.4g}", networks=(OWN,), of_set=True),
}
