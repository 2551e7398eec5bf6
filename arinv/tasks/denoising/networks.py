"""A trained denoiser by its run's directory, with the encoder that its weights belong to."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from arinv import models
from arinv.apps import denoising
from arinv.errors import UserError
from arinv.models.wavelet_encoder import MULTIPLE
from arinv.tasks import networks
from arinv.tasks import workdir as workdirs
from arinv.tasks.fingerprint import fingerprint
from arinv.train import checkpoint
from arinv.train.denoiser import make_denoise_fn
from arinv.train.reconstruction import GENERATOR
from arinv.types import Variables

KIND = "denoiser"  # of a checkpoint


@dataclasses.dataclass(frozen=True)
class TrainedDenoiser:
    """A trained denoiser.

    Attributes:
      classifier: whose convolutions the encoder has.
      encoder: the wavelet encoder.
      decoder: its decoder.
      variables: of the decoder.
      description: {"encoder_workdir", "encoder", "variant", "pad_side", "image_size", "noise", "loss"}.
    """

    classifier: networks.Encoder
    encoder: Any
    decoder: Any
    variables: Variables
    description: Mapping[str, Any]

    @property
    def denoise_fn(self) -> jax.tree_util.Partial:
        """Images [B, H, W, 3] of sides that are multiples of 32 -> denoised images; the weights are arguments."""
        weights = convolutions(self.classifier.variables)
        return jax.tree_util.Partial(make_denoise_fn(self.encoder, self.decoder), (weights, self.variables))


def convolutions(variables: Variables) -> Variables:
    """Returns a classifier's variables without its fully connected layers, which no encoder of a denoiser has."""
    return {"params": {name: value for name, value in variables["params"].items() if name.startswith("conv")}}


def check_tiles(tiles: Mapping[str, int]) -> None:
    """Checks that the sizes of config.tiles fit together and suit the networks.

    Raises:
      UserError: they do not.
    """
    if tiles["multiple"] % MULTIPLE:
        raise UserError(f"multiple={tiles['multiple']} must be a multiple of {MULTIPLE} px, as the networks' sides are")
    denoising.check_tiles(**tiles)


def build(
    description: Mapping[str, Any], classifier: networks.Encoder, *, dtype: jax.typing.DTypeLike
) -> models.Denoiser:
    """Returns the two halves that a description asks for.

    Raises:
      UserError: unknown encoder, variant or side of padding.
    """
    return models.build_denoiser(
        description["encoder"],
        variant=description["variant"],
        pad_side=description["pad_side"],
        dtype=dtype,
        encoder_options=classifier.description["options"],
    )


def decoder_inputs(encoder: Any, image_size: int) -> tuple[Any, Any]:
    """Returns the shapes of what the decoder takes for one image."""
    images = networks.image_struct(image_size)
    features, details = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], images)
    return features["conv5"], details


def load(workdir: pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32) -> TrainedDenoiser:
    """Returns the denoiser of a run.

    Raises:
      UserError: no checkpoint there or at its encoder's place, or it is damaged or not a denoiser's.
    """
    description = checkpoint.load_description(workdir, kind=KIND)
    classifier = networks.load_encoder(workdirs.follow(description["encoder_workdir"], workdir), dtype=dtype)
    networks.check_weights(description, fingerprint(classifier.variables), workdir)
    encoder, decoder = build(description, classifier, dtype=dtype)
    inputs = decoder_inputs(encoder, description["image_size"])
    abstract = jax.eval_shape(lambda *x: decoder.init(jax.random.key(0), *x), *inputs)
    variables = checkpoint.load_variables(workdir, {GENERATOR: abstract})[GENERATOR]
    return TrainedDenoiser(classifier, encoder, decoder, variables, description)
