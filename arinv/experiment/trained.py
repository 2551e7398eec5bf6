"""Trained networks: `load` rebuilds them from the description in their checkpoint; `Trained` applies them to images."""

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arinv import data, metrics, models
from arinv.errors import UserError
from arinv.experiment import checkpoint, workdirs
from arinv.experiment.cache import fingerprint
from arinv.models.generators.wavelet import MULTIPLE, SMALLEST_SIDE
from arinv.ops.inputs import as_images, check_count
from arinv.ops.padding import crop_images, pad_images
from arinv.types import Array, ArrayLike, DecodeFn, FeaturesFn, LogitsFn, Network, Variables

CLASSIFIER, GENERATOR, DISCRIMINATOR = "classifier", "generator", "discriminator"  # networks of a train state
INVERTER, DENOISER = "inverter", "denoiser"  # kinds of checkpoints, beside "classifier"
WEIGHTS = "encoder_weights"  # in the description of what was trained on an encoder: their fingerprint


class OtherSize(UserError):
    """Images of another size than a network was trained on."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, with the encoder that it was trained on.

    The functions are pytrees (`jax.tree_util.Partial`) whose leaves are the weights: passed to a jitted function as
    arguments, they are not compiled in, and equal networks share what was compiled.

    Attributes:
      kind: "classifier", "inverter" or "denoiser".
      module: of a classifier, images [B, H, W, 3] in [0, 1] -> (logits, named features); of an inverter, features of
        `layer` -> images in [0, 1]; of a denoiser, `models.Denoiser(encoder, decoder)`.
      variables: weights of the encoder, the generator or the decoder; shapes where the network is not trained yet.
      description: of the checkpoint: "kind", "encoder", "image_size" and what else the network is rebuilt from.
      parent: the frozen classifier below an inverter or a denoiser, None for a classifier.
    """

    kind: str
    module: Any
    variables: Variables
    description: Mapping[str, Any]
    parent: "Trained | None" = None

    @property
    def encoder(self) -> "Trained":
        """The classifier: the network itself, or its parent."""
        return self.parent or self

    @property
    def layer(self) -> str:
        """The feature that an inverter inverts."""
        return self.description["layer"]

    @property
    def image_size(self) -> int:
        """Side of the images that the network was trained on, in pixels."""
        return self.description["image_size"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that depend on every weight, those of the parent included."""
        if self.parent is None:
            return fingerprint(self.variables)
        return fingerprint({"encoder": self.parent.variables, GENERATOR: self.variables})

    @property
    def logits_fn(self) -> LogitsFn:
        """Images [B, H, W, 3] in [0, 1] -> logits [B, K] of the encoder, in evaluation mode."""
        return jax.tree_util.Partial(_logits_function(self.encoder.module), self.encoder.variables)

    @property
    def features_fn(self) -> FeaturesFn:
        """Images [B, H, W, 3] in [0, 1] -> named features of the encoder, float32, in evaluation mode.

        Of an inverter of a convolutional layer those of the convolutions only, so that images may have other sizes.
        """
        module = self.encoder.module
        if self.kind == INVERTER and not self._spec.is_vector:
            module = module.clone(num_classes=0)
        return jax.tree_util.Partial(_features_function(module), self.encoder.variables)

    @property
    def decode_fn(self) -> DecodeFn:
        """Features of `layer` [B, ...] -> images [B, H, W, 3] in [0, 1] of an inverter, in evaluation mode."""
        self._check_kind(INVERTER, "decode_fn")
        return jax.tree_util.Partial(_decode_function(self.module), self.variables)

    @property
    def denoise_fn(self) -> Callable[[Array], Array]:
        """Images [B, H, W, 3] with sides that are multiples of 32 -> denoised images of a denoiser."""
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

        Images whose sides are no multiples of the layer's stride are padded, and their reconstructions cropped. Each
        size of images is compiled once.

        Args:
          images: float32 [N, H, W, 3] in [0, 1], of any number and size.
          batch_size: the largest number of images at a time.

        Returns:
          float32 [N, H, W, 3] in [0, 1].

        Raises:
          UserError: not an inverter, images outside [0, 1], or a size that the layer cannot be inverted at.
        """
        self._check_kind(INVERTER, "reconstruct")
        images = np.asarray(as_images(images))
        size = images.shape[1:3]
        if self._spec.is_vector:
            if size != (self.image_size, self.image_size):
                raise UserError(
                    f"images of {size[0]} x {size[1]} px: features of {self.layer} come from images of "
                    f"{self.image_size} x {self.image_size} px only; resize them, or invert a convolutional layer"
                )
        else:
            images = pad_images(images, multiple=self.stride)
            missing = [max(0, self.smallest_side - side) for side in images.shape[1:3]]
            images = np.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        step = functools.partial(_reconstruct, self.decode_fn, self.features_fn, layer=self.layer)
        return crop_images(_in_batches(step, images, batch_size), size)

    def evaluate(
        self, images: ArrayLike, labels: ArrayLike | None = None, *, batch_size: int = 32
    ) -> dict[str, np.ndarray]:
        """Returns the metrics of each image.

        Args:
          images: float32 [N, H, W, 3] in [0, 1], of any number.
          labels: int [N], for the accuracy of the encoder; None leaves it out.
          batch_size: the largest number of images at a time.

        Returns:
          Name -> [N]: "clean_accuracy" (0 or 1) with labels; "psnr" (dB), "ssim" and "mse" of an inverter's
          reconstructions or of a denoiser's images.

        Raises:
          UserError: images outside [0, 1], as many labels as images expected, or a classifier without labels.
        """
        images = np.asarray(as_images(images))
        results = {}
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != (len(images),):
                raise UserError(f"labels have shape {labels.shape}; must be one for each of the {len(images)} images")
            logits = _in_batches(functools.partial(_apply, self.logits_fn), images, batch_size)
            results["clean_accuracy"] = np.asarray(metrics.correct(logits, labels))
        elif self.kind == CLASSIFIER:
            raise UserError("evaluating a classifier needs labels")
        if self.kind == INVERTER:
            outputs = self.reconstruct(images, batch_size=batch_size)
        elif self.kind == DENOISER:
            padded = pad_images(images, multiple=MULTIPLE)
            missing = [max(0, SMALLEST_SIDE - side) for side in padded.shape[1:3]]
            padded = np.pad(padded, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            step = functools.partial(_apply, self.denoise_fn)
            outputs = np.clip(crop_images(_in_batches(step, padded, batch_size), images.shape[1:3]), 0, 1)
        else:
            return results
        compared = {"psnr": metrics.psnr, "ssim": metrics.ssim, "mse": metrics.mean_squared_error}
        return results | {name: np.asarray(metric(outputs, images)) for name, metric in compared.items()}

    def check_side(self, side: int, name: str) -> None:
        """Checks that an inverter takes images with sides that are multiples of `side`.

        Args:
          side: in pixels.
          name: what the error calls it.

        Raises:
          UserError: it does not fit the stride of the layer, is too small, or the layer has no positions.
        """
        if self._spec.is_vector:
            specs = self.encoder.module.feature_specs()
            known = ", ".join(layer for layer, spec in specs.items() if not spec.is_vector)
            raise UserError(
                f"an inverter of {self.layer}, whose features come from images of one size only, does not take images "
                f"of other sizes; use an inverter of one of {known}"
            )
        if side % self.stride or side < self.smallest_side:
            lower = max(self.smallest_side, side // self.stride * self.stride)
            raise UserError(
                f"{name} {side} must be a multiple of {self.stride} px, the stride of "
                f"{self.description['encoder']} {self.layer}, from {self.smallest_side} up, such as {lower}"
            )

    def _check_kind(self, kind: str, name: str) -> None:
        if self.kind != kind:
            raise UserError(f"a trained {self.kind} has no {name}; load the workdir of {checkpoint.article(kind)}")


def load(
    reference: str | os.PathLike,
    *,
    kind: str | tuple[str, ...] = "",
    dtype: jax.typing.DTypeLike = jnp.float32,
    image_size: int | None = None,
    other_size: bool = False,
) -> Trained:
    """Returns the network of a training, with the encoder that it was trained on.

    Args:
      reference: workdir of the training, such as "runs/quickstart/robust_inverter".
      kind: "classifier", "inverter" or "denoiser", or several of them, where it has to be that; empty for any.
      dtype: of the computation.
      image_size: side of the images that it is for, in pixels; None for any size.
      other_size: whether images may have another size than those it was trained on.

    Raises:
      UserError: no checkpoint there or at its encoder's place, a damaged one, one of another kind, images of another
        size, or an encoder of other weights than it was trained on.
    """
    workdir = pathlib.Path(reference)
    kinds = (kind,) if isinstance(kind, str) else kind
    description = checkpoint.load_description(workdir)
    if any(kinds) and description.get("kind") not in kinds:
        description = checkpoint.load_description(workdir, kind=kinds[-1])  # raises
    if image_size is not None and not other_size:
        check_trained_size(description, image_size, workdir)
    if description["kind"] == CLASSIFIER:
        network = abstract_encoder(description, dtype=dtype)
        name = description.get("weights", CLASSIFIER)  # or a moving average of them
        variables = checkpoint.load_variables(workdir, {name: network.variables})[name]
        return dataclasses.replace(network, variables=variables)
    encoder = load(workdirs.follow(description["encoder_workdir"], workdir), kind=CLASSIFIER, dtype=dtype)
    check_weights(description, encoder.fingerprint, workdir)
    if description["kind"] == INVERTER:
        module = build_generator(description, encoder, dtype=dtype)
        abstract = _abstract(module, feature_structs(encoder.module, description["image_size"])[description["layer"]])
    else:
        module = build_denoiser(description, encoder, dtype=dtype)
        abstract = _abstract(module.decoder, *decoder_inputs(module.encoder, description["image_size"]))
    variables = checkpoint.load_variables(workdir, {GENERATOR: abstract})[GENERATOR]
    return Trained(description["kind"], module, variables, description, encoder)


def abstract_encoder(description: Mapping[str, Any], *, dtype: jax.typing.DTypeLike = jnp.float32) -> Trained:
    """Returns the encoder of a description, with the shapes of its variables."""
    module = models.build(
        description["encoder"], num_classes=description["num_classes"], dtype=dtype, **description["options"]
    )
    return Trained(CLASSIFIER, module, _abstract(module, image_struct(description["image_size"])), description)


def image_struct(image_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of one image, to initialise a network with."""
    return jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)


def feature_structs(encoder: Any, image_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of an encoder's named features for one image."""
    images = image_struct(image_size)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0][1], images)


def _abstract(module: Any, *inputs: jax.ShapeDtypeStruct) -> Variables:
    return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)


def check_name(encoder: Trained, name: str, place: str | pathlib.Path) -> None:
    """Checks that an encoder is the one that a config names.

    Args:
      encoder: as loaded.
      name: the config's.
      place: where it was loaded from, for the message.

    Raises:
      UserError: it is another.
    """
    if encoder.description["encoder"] != name:
        raise UserError(
            f"{place} is of another model: encoder is {encoder.description['encoder']!r} there, {name!r} in the config"
        )


def check_weights(description: Mapping[str, Any], weights: str | None, place: pathlib.Path) -> None:
    """Checks that an encoder is the one that a generator was trained on, where that is known.

    Args:
      description: of the generator's checkpoint.
      weights: fingerprint of the encoder's variables.
      place: of that checkpoint, for the message.

    Raises:
      UserError: it has other weights.
    """
    known = description.get(WEIGHTS)
    if known and weights and known != weights:
        raise UserError(
            f"{place} was trained on an encoder of weights {known}, and the one at its place now has {weights}; bring "
            "that one back, or train anew in another directory"
        )


def check_image_size(encoder: Trained, image_size: int) -> None:
    """Checks that an encoder takes images of a size.

    Raises:
      UserError: it does not; names the size that it was trained on.
    """
    trained = encoder.description["image_size"]
    if trained == image_size:
        return
    try:
        jax.eval_shape(encoder.module.apply, encoder.variables, image_struct(image_size))
    except Exception as error:  # Flax and lax tell wrong shapes in many ways
        raise UserError(
            f"the encoder was trained on images of {trained} px and does not take {image_size} px; set "
            f"image_size={trained}"
        ) from error


def check_trained_size(
    description: Mapping[str, Any], image_size: int, place: pathlib.Path | str, *, verb: str = "was"
) -> None:
    """Checks that a network is used at the size that it was trained on; many run at others, and do worse.

    Args:
      description: of its checkpoint.
      image_size: of the images, in pixels.
      place: of the checkpoint, for the message.
      verb: "is" where it is yet to be trained.

    Raises:
      OtherSize: it is not.
    """
    trained = description["image_size"]
    if trained != image_size:
        raise OtherSize(
            f"{place} {verb} trained on images of {trained} px, but data.image_size is {image_size}; set "
            f"image_size={trained}"
        )


def resize_of(config: Any, description: Mapping[str, Any]) -> str:
    """Returns how the images of an evaluation are brought to size: data.resize, or as in the network's training.

    Args:
      config: of the evaluation; an empty data.resize stands for the network's.
      description: of its checkpoint.
    """
    return config.data.resize or description.get("resize", "squash")


def report_size(encoder: Trained, image_size: int, title: str) -> dict[str, int]:
    """Prints that an encoder is used at a size that it was not trained on, and returns it as a field of the results.

    Args:
      encoder: as loaded.
      image_size: of the images, in pixels.
      title: of the task.

    Returns:
      {"encoder_image_size": the size it was trained on}; empty where it is the same.
    """
    trained = encoder.description["image_size"]
    if trained == image_size:
        return {}
    if jax.process_index() == 0:
        print(f"{title}: the encoder was trained on images of {trained} px and sees {image_size} px", file=sys.stderr)
    return {"encoder_image_size": trained}


def check_classes(encoder: Trained, info: data.SourceInfo) -> None:
    """Checks that data has the classes that an encoder was trained on.

    Raises:
      UserError: it has others, or another number of them.
    """
    if difference := class_difference(encoder, info):
        raise UserError(f"{difference}; evaluate it on data with the same classes")


def class_difference(encoder: Trained, info: data.SourceInfo) -> str:
    """Returns how the classes of data differ from those that an encoder was trained on; empty for not at all."""
    classes, trained = list(info.class_names), encoder.description["class_names"]
    if trained and classes != trained:
        return f"{info.name} has classes {classes[:5]}..., but the checkpoint was trained on {trained[:5]}..."
    num_classes = encoder.description["num_classes"]
    if len(classes) != num_classes:  # all that is known of an imported encoder whose file names no classes
        return f"{info.name} has {len(classes)} classes, but the checkpoint was trained on {num_classes}"
    return ""


def build_generator(description: Mapping[str, Any], encoder: Trained, *, dtype: jax.typing.DTypeLike) -> Any:
    """Returns the untrained generator that a description asks for, checked against the image size.

    Raises:
      UserError: unknown layer or variant, or an image size whose features do not lead back to it.
    """
    image_size, layer = description["image_size"], description["layer"]
    check_image_size(encoder, image_size)
    module = models.build_generator(
        encoder.description["encoder"],
        layer,
        image_size=image_size,
        variant=description["variant"],
        dtype=dtype,
        encoder_options=encoder.description["options"],
    )
    features = feature_structs(encoder.module, image_size)[layer]
    _check_way_back(module, features, image_size, f"{encoder.description['encoder']} {layer}")
    return module


@functools.cache
def check_generator(encoder: str, layer: str, *, variant: str, image_size: int) -> None:
    """Checks, where the encoder is not trained yet, that its generator leads back to the size of the images.

    Generators of vectors are left to `build_generator`: they are made for their image size.

    Args:
      encoder: its name.
      layer: the feature that is inverted.
      variant: of the generator.
      image_size: in pixels.

    Raises:
      UserError: it does not, or a name is unknown, or the images are too small for the encoder.
    """
    module = models.build_generator(encoder, layer, image_size=image_size, variant=variant)
    if not module.is_vector:
        features = feature_structs(models.build(encoder, num_classes=0), image_size)[layer]
        _check_way_back(module, features, image_size, f"{encoder} {layer}")


def _check_way_back(generator: Any, features: jax.ShapeDtypeStruct, image_size: int, what: str) -> None:
    side = jax.eval_shape(lambda x: generator.init_with_output(jax.random.key(0), x)[0], features).shape[1]
    if side != image_size:
        raise UserError(
            f"the generator for {what} turns {image_size} px into {side} px; set data.image_size to a multiple of 32, "
            f"such as {max(64, round(image_size / 32) * 32)}"
        )


def convolutions(variables: Variables) -> Variables:
    """Returns a classifier's variables without its fully connected layers, which no encoder of a denoiser has."""
    return {"params": {name: value for name, value in variables["params"].items() if name.startswith("conv")}}


def build_denoiser(
    description: Mapping[str, Any], classifier: Trained, *, dtype: jax.typing.DTypeLike
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
    images = image_struct(image_size)
    features, details = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], images)
    return features["conv5"], details


def make_features_fn(encoder: Network, variables: Variables) -> FeaturesFn:
    """Returns images [B, H, W, C] in [0, 1] -> named features, in evaluation mode, in float32."""

    def features_fn(images: Array) -> Mapping[str, Array]:
        features = encoder.apply(variables, images, train=False)[1]
        return {name: value.astype(jnp.float32) for name, value in features.items()}

    return features_fn


# Equal networks get the same function, so that what was compiled for one serves the other's weights too.


@functools.lru_cache(maxsize=8)
def _logits_function(encoder: Network) -> Callable[[Variables, Array], Array]:
    return lambda variables, images: encoder.apply(variables, images, train=False)[0]


@functools.lru_cache(maxsize=8)
def _features_function(encoder: Network) -> Callable[[Variables, Array], Mapping[str, Array]]:
    return lambda variables, images: make_features_fn(encoder, variables)(images)


@functools.lru_cache(maxsize=8)
def _decode_function(generator: Network) -> Callable[[Variables, Array], Array]:
    return lambda variables, features: generator.apply(variables, features, train=False)


@functools.partial(jax.jit, static_argnames="layer")
def _reconstruct(decode_fn: DecodeFn, features_fn: FeaturesFn, images: Array, *, layer: str) -> Array:
    return decode_fn(features_fn(images)[layer])


@jax.jit
def _apply(function: Callable[[Array], Array], images: Array) -> Array:
    return function(images)


def _in_batches(step: Callable[[np.ndarray], Array], images: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the results of all images; the last batch is padded, so that one size of images is compiled once."""
    size = min(check_count(batch_size, "batch_size"), 1 << max(0, len(images) - 1).bit_length())
    results = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
        results.append(np.asarray(step(padded))[: len(batch)])
    return np.concatenate(results)


@functools.lru_cache(maxsize=8)
def make_denoise_fn(encoder: Network, decoder: Network) -> Callable[[tuple[Variables, Variables], Array], Array]:
    """Returns ((encoder_variables, decoder_variables), images) -> denoised images.

    Args:
      encoder: the wavelet encoder.
      decoder: its decoder.
    """

    def denoise_fn(variables: tuple[Variables, Variables], images: Array) -> Array:
        features, details = encoder.apply(variables[0], images)
        return decoder.apply(variables[1], features["conv5"], details, train=False)

    return denoise_fn
