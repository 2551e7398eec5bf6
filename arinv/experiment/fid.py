"""FID of generated or restored images: their distance from a dataset in the features of a trained classifier."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from arinv import data, metrics, models
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, Trained
from arinv.ops.images import to_float, to_rgb
from arinv.types import Array, ArrayLike, FeaturesFn


def check_encoder(run: Run) -> None:
    """Checks, before any stage runs, that the classifier of config.metric_encoder exists, or will.

    Raises:
      UserError: none there, or one of another image size.
    """
    if reference := run.config.metric_encoder:
        run.check_network(reference, kind=CLASSIFIER, image_size=run.config.data.get("image_size"))


def load_encoder(run: Run) -> Trained | None:
    """Returns the classifier of config.metric_encoder, whose features FID compares; None where it is empty.

    Raises:
      UserError: none there, or one of another image size.
    """
    reference = run.config.metric_encoder
    return run.load(reference, kind=CLASSIFIER, image_size=run.config.data.image_size) if reference else None


def sample_distance(
    generator: Trained, encoder: Trained, source: data.Source, *, key: Array, batch_size: int = 64
) -> dict[str, float | str]:
    """Returns the Fréchet distance of samples of a GAN from as many images, in the features of an encoder.

    Args:
      generator: the GAN.
      encoder: a classifier, whose last spatial features are compared.
      source: the images.
      key: PRNG key of the samples.
      batch_size: number of images, and of samples, in a batch.

    Returns:
      {"fid": the distance, "variant": its name, with the encoder, the layer and the number of images}.
    """
    sample = jax.jit(lambda key: jnp.clip(generator.sample(key, batch_size), 0, 1))
    batches = data.eval_batches(data.load_arrays(source), batch_size=batch_size)
    masks = [batch["mask"] for batch in batches]
    real = feature_moments(encoder, ((to_float(batch["image"]), batch["mask"]) for batch in batches))
    samples = ((sample(jax.random.fold_in(key, i)), mask) for i, mask in enumerate(masks))
    return {
        "fid": metrics.moments_distance(feature_moments(encoder, samples), real),
        "variant": variant_name(encoder, real),
    }


def feature_moments(encoder: Trained, batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> metrics.FeatureMoments:
    """Returns the mean and the covariance of the features of images, averaged over positions.

    Args:
      encoder: a classifier, whose last spatial features are read.
      batches: images float32 [B, H, W, C] in [0, 1] and masks [B], 0 for padding.
    """
    result, layer = metrics.FeatureMoments(), models.spatial_layers(encoder.module)[-1]
    for images, mask in batches:
        result.update(_vectors(encoder.features_fn, images, layer=layer), mask)
    return result


@functools.partial(jax.jit, static_argnames="layer")
def _vectors(features_fn: FeaturesFn, images: Array, *, layer: str) -> Array:
    with jax.default_matmul_precision("highest"):  # as for the other metrics: TF32 would show in the third digit
        return metrics.feature_vectors(features_fn, to_rgb(images), layer=layer)


def variant_name(encoder: Trained, moments: metrics.FeatureMoments) -> str:
    """Returns the name of FID in results, with the encoder, its layer and the number of images."""
    return f"fid_{encoder.description['encoder']}_{models.spatial_layers(encoder.module)[-1]}_n{moments.count}"
