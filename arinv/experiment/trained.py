"""Trained networks: `Trained`, which applies one to images; `arinv.experiment.loading` has `load`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arinv import metrics, parallel
from arinv.errors import UserError, unknown
from arinv.experiment.cache import fingerprint
from arinv.experiment.descriptions import article
from arinv.models.generators.wavelet import MULTIPLE, SMALLEST_SIDE
from arinv.ops.images import crop_images, pad_images
from arinv.ops.inputs import LOOSE_BOUNDS, as_floats, as_images, as_labels, check_count, on_host
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn, LogitsFn, Network, Variables

CLASSIFIER, INVERTER, DENOISER = "classifier", "inverter", "denoiser"  # kinds of trained networks
AUTOENCODER, GAN = "autoencoder", "gan"
GENERATOR, DISCRIMINATOR = "generator", "discriminator"  # networks in a train state, besides the classifier


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, with the encoder that it was trained on.

    The functions are pytrees (`jax.tree_util.Partial`) whose leaves are the weights: passed to a jitted function as
    arguments, the weights are not compiled in, and networks of one architecture share the compiled program.

    Attributes:
      kind: "classifier", "inverter", "denoiser", "autoencoder" or "gan".
      module: of a classifier, images [B, H, W, 3] in [0, 1] -> (logits, named features); of an inverter, features of
        `layer` -> images in [0, 1]; of a denoiser, `models.Denoiser(encoder, decoder)`; of a GAN, `models.Gan`; of an
        autoencoder, `models.Autoencoder`.
      variables: weights of the encoder, the generator (of a GAN the averaged one) or the decoder; their shapes before
        training.
      description: what the network is rebuilt from, see `arinv.experiment.descriptions`.
      parent: the classifier below an inverter or a denoiser, frozen or trained with the inverter; None for others.
    """

    kind: str
    module: Any
    variables: Variables
    description: Mapping[str, Any]
    parent: "Trained | None" = None

    @property
    def encoder(self) -> "Trained":
        """The classifier: the network itself, or its parent.

        Raises:
          UserError: of a GAN or an autoencoder, which have none.
        """
        if self.kind in (GAN, AUTOENCODER):
            raise UserError(f"a trained {self.kind} has no classifier; load the workdir of a classifier or an inverter")
        return self.parent or self

    @property
    def layer(self) -> str:
        """Name of the feature that an inverter inverts."""
        self._check_kind(INVERTER, "layer")
        return self.description["layer"]

    @property
    def latent_size(self) -> int:
        """Length of the latents of a variational autoencoder, whose prior is N(0, I); 0 for other networks."""
        return self.description.get("latent_size", 0)

    def __repr__(self) -> str:
        """Returns the kind, the encoder, the layer of an inverter, the image size and the fingerprint."""
        layer = f", layer={self.layer!r}" if self.kind == INVERTER else ""
        has_encoder = self.kind not in (GAN, AUTOENCODER)
        own = self.encoder.description["encoder"] if has_encoder else self.description[self.kind]["networks"]
        name = f"{'encoder' if has_encoder else 'networks'}={own!r}"
        has_shapes = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self.variables))
        state = "untrained" if has_shapes else f"fingerprint={self.fingerprint!r}"
        return f"Trained({self.kind!r}, {name}{layer}, image_size={self.image_size}, {state})"

    @property
    def image_size(self) -> int:
        """Side of the images that the network was trained on, in pixels."""
        return self.description["image_size"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that depend on every weight, the parent's included."""
        if self.parent is None:
            return fingerprint(self.variables)
        return fingerprint({"encoder": self.parent.variables, GENERATOR: self.variables})

    @property
    def logits_fn(self) -> LogitsFn:
        """Images [B, H, W, 3] in [0, 1] -> logits [B, K] of the encoder, in evaluation mode.

        An encoder with dense layers takes images of the size it was trained on; for another it raises UserError.

        Raises:
          UserError: an encoder without classes, such as HOG.
        """
        self.encoder.check_classes()
        return jax.tree_util.Partial(_logits_function(self.encoder.module), self.encoder.variables)

    def check_classes(self) -> None:
        """Checks that the encoder has logits.

        Raises:
          UserError: it has none.
        """
        if not self.encoder.module.has_weights:
            raise UserError(
                f"encoder {self.encoder.description['encoder']!r} has no classes, so there are no logits; use an "
                "encoder that classifies, such as alexnet"
            )

    @property
    def features_fn(self) -> FeaturesFn:
        """Images [B, H, W, 3] in [0, 1] -> named features of the encoder, float32, in evaluation mode.

        For an inverter of a convolutional layer, only the convolutions run, so that images may have any size.
        """
        module = self.encoder.module
        if self.kind == INVERTER and not self._spec.is_vector:
            module = module.clone(num_classes=0)
        return jax.tree_util.Partial(_features_function(module), self.encoder.variables)

    @property
    def decode_fn(self) -> DecodeFn:
        """Features of `layer` [B, ...] -> images [B, H, W, 3] in [0, 1] of an inverter, in evaluation mode.

        Of a GAN, latents [B, K] -> images [B, H, W, C], near [0, 1]: its last layer may be linear. Of an autoencoder,
        codes [B, K] -> images.
        """
        if self.kind == AUTOENCODER:
            return jax.tree_util.Partial(_method(self.module, "decode"), self.variables)
        if self.kind == GAN:
            return jax.tree_util.Partial(_method(self.module.generator, "__call__"), self.variables)
        self._check_kind(INVERTER, "decode_fn")
        return jax.tree_util.Partial(_decode_function(self.module), self.variables)

    @property
    def encode_fn(self) -> Callable[[Array], Array]:
        """Images [B, H, W, C] in [0, 1] -> codes, [B, ...].

        Of an autoencoder its own; of an inverter the features it inverts, of a classifier those of its default layer.
        """
        if self.kind in (INVERTER, CLASSIFIER):
            return self.layer_fn()
        self._check_kind(AUTOENCODER, "encode_fn")
        return jax.tree_util.Partial(_method(self.module, "encode"), self.variables)

    @property
    def default_layer(self) -> str:
        """The feature that an inverter inverts, or the default one of a classifier."""
        return self.layer if self.kind == INVERTER else self.encoder.module.default_layer

    def layer_fn(self, layer: str = "") -> Callable[[Array], Array]:
        """Returns images [B, H, W, 3] in [0, 1] -> one feature of the encoder, float32, in evaluation mode.

        For a convolutional layer only the convolutions run, so that images may have any size with an output there.

        Args:
          layer: name of the feature; empty for `default_layer`.

        Raises:
          UserError: a layer that the encoder does not have, or a network without an encoder.
        """
        name, module = layer or self.default_layer, self.encoder.module
        if name not in (specs := module.feature_specs()):
            raise unknown(f"layer of {self.encoder.description['encoder']}", name, specs)
        if not specs[name].is_vector:
            module = module.clone(num_classes=0)
        features_fn = jax.tree_util.Partial(_features_function(module), self.encoder.variables)
        return jax.tree_util.Partial(_layer_function(name), features_fn)

    def check_layer(self, layer: str = "", *, image_size: int | None = None) -> None:
        """Checks that the encoder has a layer, and that images of a size have that feature.

        Args:
          layer: name of the feature; empty for `default_layer`.
          image_size: side of the images in pixels; None for any.

        Raises:
          UserError: as `layer_fn`, images that are too small, or a dense layer of images of another size.
        """
        function = self.layer_fn(layer)
        if image_size:
            images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
            jax.eval_shape(lambda function, images: function(images), function, images)

    def sample(self, key: Array, count: int) -> Array:
        """Returns images of a GAN or a variational autoencoder, drawn from the prior of its latents.

        Args:
          key: PRNG key.
          count: number of images.

        Returns:
          float32 [count, H, W, C], near [0, 1].

        Raises:
          UserError: the network is neither a GAN nor a variational autoencoder.
        """
        if self.latent_size:
            return self.decode_fn(jax.random.normal(key, (count, self.latent_size)))
        self._check_kind(GAN, "sample")
        return self.decode_fn(self.module.draw(key, count))

    @property
    def denoise_fn(self) -> Callable[[Array], Array]:
        """Images [B, H, W, 3], sides multiples of 32 from 64 px up -> denoised images of a denoiser, near [0, 1]."""
        self._check_kind(DENOISER, "denoise_fn")
        weights = convolutions(self.encoder.variables), self.variables
        return jax.tree_util.Partial(make_denoise_fn(*self.module), weights)

    @property
    def stride(self) -> int:
        """Image pixels per feature pixel of an inverter's layer."""
        return self._spec.stages[-1].stride

    @property
    def smallest_side(self) -> int:
        """Side of the smallest images that an inverter takes, in pixels."""
        return self.stride * (1 + self._spec.offset)

    @property
    def _spec(self) -> Any:
        self._check_kind(INVERTER, "layer")
        return self.encoder.module.feature_specs()[self.layer]

    def reconstruct(self, images: ArrayLike, *, batch_size: int = 32) -> np.ndarray:
        """Returns the reconstructions of images from their features.

        Images are padded to a multiple of the layer's stride, and the reconstructions cropped. Each image size is
        compiled once.

        Args:
          images: float32 [N, H, W, C] in [0, 1], of any number and size; of an autoencoder of its own size.
          batch_size: largest number of images in a batch.

        Returns:
          float32 [N, H, W, 3] in [0, 1].

        Raises:
          UserError: neither an inverter nor an autoencoder, images outside [0, 1], or a size that it cannot take.
        """
        if self.kind != AUTOENCODER:
            self._check_kind(INVERTER, "reconstruct")
        images = on_host(as_images(images), "images")
        size = images.shape[1:3]
        if self.kind == AUTOENCODER:
            if size != (self.image_size, self.image_size):
                raise UserError(
                    f"images of {size[0]} x {size[1]} px: this autoencoder has images of {self.image_size} x "
                    f"{self.image_size} px only; resize them"
                )
            step = functools.partial(_autoencode, self.decode_fn, self.encode_fn)
            return _in_batches(step, images, batch_size)
        if self._spec.is_vector:
            if size != (self.image_size, self.image_size):
                raise UserError(
                    f"images of {size[0]} x {size[1]} px: features of {self.layer} come from images of "
                    f"{self.image_size} x {self.image_size} px only; resize them, or invert a convolutional layer"
                )
        else:
            images = _pad(images, multiple=self.stride, smallest_side=self.smallest_side)
        step = functools.partial(_reconstruct, self.decode_fn, self.features_fn, layer=self.layer)
        return crop_images(_in_batches(step, images, batch_size), size)

    def evaluate(
        self, images: ArrayLike, labels: ArrayLike | None = None, *, batch_size: int = 32
    ) -> dict[str, np.ndarray]:
        """Returns the metrics of each image.

        Args:
          images: float32 [N, H, W, 3] in [0, 1], of any number.
          labels: int [N], for the accuracy of the encoder; None to omit it.
          batch_size: largest number of images in a batch.

        Returns:
          Name -> [N]: "clean_accuracy" (0 or 1) with labels; "psnr" (dB), "ssim" and "mse" of the reconstructions of
          an inverter or an autoencoder, or of a denoiser's outputs.

        Raises:
          UserError: images outside [0, 1], of less than 11 px (SSIM), labels that are not one class of the encoder for
            each image, a classifier without labels, an autoencoder with them, or a GAN.
        """
        if self.kind == GAN:
            raise UserError("a trained gan does not reconstruct images; evaluate an inverter or a denoiser")
        images = on_host(as_images(images), "images")
        results = {}
        if labels is not None:
            labels = as_labels(labels, batch_size=len(images), padding=False)
            logits = _in_batches(functools.partial(_apply, self.logits_fn), images, batch_size)
            results["clean_accuracy"] = np.asarray(metrics.correct(logits, labels))
        elif self.kind == CLASSIFIER:
            raise UserError("evaluating a classifier needs labels")
        if self.kind in (INVERTER, AUTOENCODER):
            outputs = self.reconstruct(images, batch_size=batch_size)
        elif self.kind == DENOISER:
            padded = _pad(images, multiple=MULTIPLE, smallest_side=SMALLEST_SIDE)
            step = functools.partial(_apply, self.denoise_fn)
            outputs = np.clip(crop_images(_in_batches(step, padded, batch_size), images.shape[1:3]), 0, 1)
        else:
            return results
        qualities = {"psnr": metrics.psnr, "ssim": metrics.ssim, "mse": metrics.mean_squared_error}
        return results | {name: np.asarray(metric(outputs, images)) for name, metric in qualities.items()}

    def check_side(self, side: int, name: str) -> None:
        """Checks that an inverter takes images with sides that are multiples of `side`.

        Args:
          side: in pixels.
          name: name of the field that sets it, for the message.

        Raises:
          UserError: not a multiple of the layer's stride, too small, or a layer that takes one image size only.
        """
        if self._spec.is_vector:
            specs = self.encoder.module.feature_specs()
            convolutional = ", ".join(layer for layer, spec in specs.items() if not spec.is_vector)
            raise UserError(
                f"an inverter of {self.layer}, whose features come from images of one size only, does not take images "
                f"of other sizes; use an inverter of one of {convolutional}"
            )
        if side % self.stride or side < self.smallest_side:
            lower = max(self.smallest_side, side // self.stride * self.stride)
            raise UserError(
                f"{name} {side} must be a multiple of {self.stride} px, the stride of "
                f"{self.description['encoder']} {self.layer}, from {self.smallest_side} up, such as {lower}"
            )

    def _check_kind(self, kind: str, name: str) -> None:
        if self.kind != kind:
            raise UserError(f"a trained {self.kind} has no {name}; load the workdir of {article(kind)}")


def convolutions(variables: Variables) -> Variables:
    """Returns a classifier's variables without its fully connected layers, for the encoder of a denoiser."""
    return {"params": {name: value for name, value in variables["params"].items() if name.startswith("conv")}}


def make_logits_fn(encoder: Network, variables: Variables) -> LogitsFn:
    """Returns images [B, H, W, C] in [0, 1] -> logits [B, K], in evaluation mode."""
    return lambda images: encoder.apply(variables, images, train=False)[0]


def make_features_fn(encoder: Network, variables: Variables) -> FeaturesFn:
    """Returns images [B, H, W, C] in [0, 1] -> named features, in evaluation mode, in float32."""

    def features_fn(images: Array) -> Mapping[str, Array]:
        features = encoder.apply(variables, images, train=False)[1]
        return {name: value.astype(jnp.float32) for name, value in features.items()}

    return features_fn


@functools.lru_cache(maxsize=8)
def make_denoise_fn(encoder: Network, decoder: Network) -> Callable[[tuple[Variables, Variables], Array], Array]:
    """Returns ((encoder_variables, decoder_variables), images) -> denoised images.

    Args:
      encoder: the wavelet encoder.
      decoder: its decoder.

    Returns:
      The same function for equal modules, so that compiled programs are shared.
    """

    def denoise_fn(variables: tuple[Variables, Variables], images: Array) -> Array:
        images = as_images(images, finite=False, bounds=LOOSE_BOUNDS)
        features, details = encoder.apply(variables[0], images)
        return decoder.apply(variables[1], features["conv5"], details, train=False)

    return denoise_fn


# Equal modules get the same function, so that a program compiled for one network is used for another's weights.


@functools.lru_cache(maxsize=8)
def _logits_function(encoder: Network) -> Callable[[Variables, Array], Array]:
    return lambda variables, images: make_logits_fn(encoder, variables)(images)


@functools.lru_cache(maxsize=8)
def _features_function(encoder: Network) -> Callable[[Variables, Array], Mapping[str, Array]]:
    return lambda variables, images: make_features_fn(encoder, variables)(images)


@functools.lru_cache(maxsize=8)
def _decode_function(generator: Network) -> Callable[[Variables, Array], Array]:
    return lambda variables, features: generator.apply(variables, features, train=False)


@functools.lru_cache(maxsize=8)
def _method(module: Network, name: str) -> Callable[[Variables, Array], Array]:
    return lambda variables, inputs: module.apply(variables, as_floats(inputs, "inputs"), method=name)


@functools.lru_cache(maxsize=8)
def _layer_function(layer: str) -> Callable[[FeaturesFn, Array], Array]:
    def layer_fn(features_fn: FeaturesFn, images: Array) -> Array:
        features = features_fn(images)
        if layer not in features:
            height, width = images.shape[1:3]
            raise UserError(f"images of {height} x {width} px are too small for {layer}; use larger ones")
        return features[layer]

    return layer_fn


@jax.jit
def _autoencode(decode_fn: DecodeFn, encode_fn: Callable[[Array], Array], images: Array) -> Array:
    return jnp.clip(decode_fn(encode_fn(images)), 0, 1)  # the generator of an AEGAN may leave [0, 1]


@functools.partial(jax.jit, static_argnames="layer")
def _reconstruct(decode_fn: DecodeFn, features_fn: FeaturesFn, images: Array, *, layer: str) -> Array:
    return decode_fn(features_fn(images)[layer])


@jax.jit
def _apply(function: Callable[[Array], Array], images: Array) -> Array:
    return function(images)


def _pad(images: np.ndarray, *, multiple: int, smallest_side: int) -> np.ndarray:
    """Returns images padded on the right and below to sides that are multiples and not smaller than the smallest."""
    images = pad_images(images, multiple=multiple)
    missing = [max(0, smallest_side - side) for side in images.shape[1:3]]
    return np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def _in_batches(step: Callable[[np.ndarray], Array], images: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the results of all images; a single batch has a power of two, so that few sizes are compiled."""
    size = min(check_count(batch_size, "batch_size"), 1 << max(0, len(images) - 1).bit_length())
    return parallel.map_batches(step, images, size=size)
