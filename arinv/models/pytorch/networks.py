"""The arrays of each network that has a counterpart in PyTorch, with their places there."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.models.pytorch import names as torch_names
from arinv.models.pytorch.layout import Entry, entries
from arinv.models.registry import build, build_denoiser, build_discriminator, build_generator
from arinv.models.wavelet_encoder import SMALLEST_SIDE
from arinv.types import Variables


def _images(image_size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)


def _shapes(module: nn.Module, *inputs: jax.ShapeDtypeStruct) -> Variables:
    return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)


def _features(encoder: nn.Module, layer: str, image_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of one named feature of one image."""
    images = _images(image_size)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0][1], images)[layer]


def encoder_entries(name: str, image_size: int | None, options: Mapping[str, Any]) -> tuple[nn.Module, list[Entry]]:
    """Returns an encoder and the entries of its variables; the last ones belong to the layer that gives the logits.

    Raises:
      UserError: unknown encoder or option.
    """
    module = build(name, **options)
    return module, list(_encoder_entries(name, module, image_size or module.image_size))


@functools.cache
def _encoder_entries(name: str, module: nn.Module, image_size: int) -> tuple[Entry, ...]:
    layers = torch_names.encoder_layers(name, module)
    return tuple(entries(_shapes(module, _images(image_size)), layers))


def generator_entries(encoder: str, layer: str, options: Mapping[str, Any]) -> list[Entry]:
    """Returns the entries of a generator's variables; options are those of `build_generator`.

    Raises:
      UserError: unknown encoder, layer or variant, or a feature behind a dense layer.
    """
    module = build_generator(encoder, layer, **options)
    layers = torch_names.generator_layers(module.plan)
    inverted = build(encoder, **(options.get("encoder_options") or {}))
    return entries(
        _shapes(module, _features(inverted, layer, options.get("image_size") or inverted.image_size)), layers
    )


def discriminator_entries(encoder: str, layer: str, image_size: int | None, options: Mapping[str, Any]) -> list[Entry]:
    """Returns the entries of a discriminator's variables; options are its attributes, and encoder_options.

    Raises:
      UserError: unknown encoder, or images too small.
    """
    options = dict(options)
    inverted = build(encoder, **(options.pop("encoder_options", None) or {}))
    image_size = image_size or inverted.image_size
    module = build_discriminator(image_size=image_size, **options)
    features = _features(inverted, layer, image_size)
    layers = torch_names.discriminator_layers(features.shape[-1] if len(features.shape) == 4 else 0)
    return entries(_shapes(module, _images(image_size), features), layers)


def denoiser_entries(encoder: str, options: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Returns the entries of a denoiser's "encoder" and "decoder"; options are those of `build_denoiser`.

    Raises:
      UserError: unknown encoder or variant, or one that the released code does not have.
    """
    module, decoder = build_denoiser(encoder, **options)
    images = _images(SMALLEST_SIDE)
    features, details = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)
    return {
        "encoder": entries(_shapes(module, images), torch_names.wavelet_encoder_layers()),
        "decoder": entries(
            _shapes(decoder, features["conv5"], details), torch_names.wavelet_decoder_layers(decoder.plan)
        ),
    }
