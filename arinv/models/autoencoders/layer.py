"""Autoencoders of an encoder's layer: the encoder up to there and a generator, plain or with latents of a known prior.

Source: Dosovitskiy & Brox 2016a, section 5.2; Kingma & Welling 2014 and Dosovitskiy & Brox 2016b (DeePSiM) for the
variational form.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import unknown
from arinv.models.encoders.base import Encoder, FeatureSpec
from arinv.models.layers import ShapeChecked
from arinv.ops.channels import flatten_rows
from arinv.ops.inputs import check_count
from arinv.types import Array

LATENT = "latent"  # the feature of a variational encoder
_LOG_LIMIT = 20.0  # of log-variances, so that float32 holds the variances


class Gaussian(NamedTuple):
    """Normal distributions with independent entries.

    Attributes:
      mean: float32 [B, K].
      log_variance: float32 [B, K].
    """

    mean: Array
    log_variance: Array


class LayerAutoencoder(ShapeChecked):
    """An encoder up to a layer and the generator from there; their variables are under "encoder" and "generator".

    The encoder always runs in evaluation mode: without dropout, and with its running statistics.

    Attributes:
      encoder: images [B, H, W, C] in [0, 1] -> (logits, named features).
      generator: features of the layer -> images.
      layer: name of the feature.
    """

    encoder: nn.Module
    generator: nn.Module
    layer: str

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Returns the reconstructions of images."""
        return self.generator(self.encoder(images, train=False)[1][self.layer], train=train)


class VariationalEncoder(Encoder):
    """An encoder with one more feature, "latent": the mean of a normal distribution after one of its layers.

    Mean and log-variance are linear in the layer's feature. `variational_encoder` makes one.

    Attributes:
      encoder: images [B, H, W, 3] in [0, 1] -> (logits, named features), always in evaluation mode.
      layer: name of the feature.
      latent_size: K, length of the latents.
    """

    encoder: Encoder | None = None
    layer: str = ""
    latent_size: int = 256

    default_layer = LATENT

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the encoder was designed for."""
        return self.encoder.image_size

    @property
    def smallest_side(self) -> int:
        """Side in pixels of the smallest images that the encoder takes."""
        return self.encoder.smallest_side

    @property
    def style_layers(self) -> tuple[str, ...]:
        """The features that styles are transferred at."""
        return self.encoder.style_layers

    def setup(self) -> None:
        """Builds the two layers after the encoder; the variances begin at 1."""
        self.mean = nn.Dense(self.latent_size, dtype=self.dtype)
        self.log_variance = nn.Dense(self.latent_size, kernel_init=nn.initializers.zeros, dtype=self.dtype)

    def _run(self, images: Array) -> tuple[Array, dict[str, Array], Gaussian]:
        logits, features = self.encoder(images, train=False)
        x = flatten_rows(features[self.layer])
        mean, log_variance = (head(x).astype(jnp.float32) for head in (self.mean, self.log_variance))
        return logits, features, Gaussian(mean, jnp.clip(log_variance, -_LOG_LIMIT, _LOG_LIMIT))

    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns the encoder's logits, and its features and the mean [B, K] as "latent"."""
        logits, features, latents = self._run(images)
        return logits, {**features, LATENT: latents.mean}

    def gaussian(self, images: Array) -> Gaussian:
        """Returns the distributions of the latents of images.

        Args:
          images: float [B, H, W, 3] in [0, 1].

        Returns:
          Means and log-variances, each float32 [B, K].
        """
        return self._run(images)[2]

    def feature_specs(self) -> dict[str, FeatureSpec]:
        """Returns the place of every named feature; that of the latents is a vector after the layer."""
        specs = self.encoder.feature_specs()
        return {**specs, LATENT: dataclasses.replace(specs[self.layer], is_vector=True)}


def variational_encoder(encoder: Encoder, layer: str, *, latent_size: int = 256) -> VariationalEncoder:
    """Returns an encoder with the normal distribution of latents after one of its layers.

    Args:
      encoder: an encoder with weights.
      layer: name of the feature in which mean and log-variance are linear.
      latent_size: K, length of the latents.

    Returns:
      A module with the features of the encoder and "latent", [B, K].

    Raises:
      UserError: a layer that the encoder does not have, or a size that is not a whole number of 1 or more.
    """
    if layer not in encoder.feature_specs():
        raise unknown("layer of the encoder", layer, encoder.feature_specs())
    shared = {name: getattr(encoder, name) for name in ("num_classes", "normalization", "dtype")}
    return VariationalEncoder(
        **shared, encoder=encoder, layer=layer, latent_size=check_count(latent_size, "latent_size")
    )


class VariationalAutoencoder(ShapeChecked):
    """A variational encoder and the generator from its latents; their variables are under "encoder" and "generator".

    Attributes:
      encoder: images -> distribution of the latents.
      generator: latents [B, K] -> images.
    """

    encoder: VariationalEncoder
    generator: nn.Module

    def __call__(self, images: Array, *, train: bool = False) -> Array | tuple[Array, Gaussian]:
        """Returns the images of the means; in training, those of random latents and the distribution of these."""
        latents = self.encoder.gaussian(images)
        if not train:
            return self.generator(latents.mean, train=False)
        noise = jax.random.normal(self.make_rng("dropout"), latents.mean.shape)
        samples = latents.mean + jnp.exp(latents.log_variance / 2) * noise
        return self.generator(samples, train=True), latents
