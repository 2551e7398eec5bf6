"""Trained networks by their run's directory: each checkpoint carries the description it is rebuilt from."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from arinv import data, models
from arinv.errors import UserError
from arinv.experiment import checkpoint
from arinv.experiment import workdir as workdirs
from arinv.experiment.cache import fingerprint
from arinv.types import Array, FeaturesFn, Network, Variables

CLASSIFIER, GENERATOR, DISCRIMINATOR = "classifier", "generator", "discriminator"  # networks of a train state
WEIGHTS = "encoder_weights"  # in the description of what was trained on an encoder: their fingerprint


def image_struct(image_size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of one image, to initialise a network with."""
    return jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)


def feature_structs(encoder: Any, image_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of an encoder's named features for one image."""
    images = image_struct(image_size)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0][1], images)


class OtherSize(UserError):
    """Images of another size than a network was trained on."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A trained encoder.

    Attributes:
      module: images [B, H, W, 3] in [0, 1] -> (logits, features).
      variables: its weights, or their shapes where it is not trained yet.
      description: {"encoder", "options", "num_classes", "class_names", "image_size"}.
    """

    module: Any
    variables: Variables
    description: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Inverter:
    """A trained generator and the encoder it inverts.

    Attributes:
      encoder: the frozen encoder.
      module: features[layer] -> images [B, H, W, 3] in [0, 1].
      variables: the generator's weights.
      description: {"encoder_workdir", "encoder", "layer", "variant", "image_size"}.
    """

    encoder: Encoder
    module: Any
    variables: Variables
    description: Mapping[str, Any]


def abstract_encoder(description: Mapping[str, Any], *, dtype: jax.typing.DTypeLike = jnp.float32) -> Encoder:
    """Returns the encoder of a description, with the shapes of its variables."""
    module = models.build(
        description["encoder"], num_classes=description["num_classes"], dtype=dtype, **description["options"]
    )
    return Encoder(module, _abstract(module, image_struct(description["image_size"])), description)


def load_encoder(
    workdir: pathlib.Path,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
    image_size: int | None = None,
    other_size: bool = False,
) -> Encoder:
    """Returns the encoder of a classifier's run.

    Args:
      workdir: of the run.
      dtype: of the computation.
      image_size: of the images it is for, in pixels; None where every size will do.
      other_size: whether that may be another than it was trained on.

    Raises:
      UserError: no checkpoint there, or it is damaged, not a classifier's, or was trained on images of another size.
    """
    description = checkpoint.load_description(workdir, kind=CLASSIFIER)
    if image_size is not None and not other_size:
        check_trained_size(description, image_size, workdir)
    encoder = abstract_encoder(description, dtype=dtype)
    weights = description.get("weights", CLASSIFIER)  # or a moving average of them
    variables = checkpoint.load_variables(workdir, {weights: encoder.variables})[weights]
    return dataclasses.replace(encoder, variables=variables)


def _abstract(module: Any, *inputs: jax.ShapeDtypeStruct) -> Variables:
    return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)


def load_inverter(
    workdir: pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32, image_size: int | None = None
) -> Inverter:
    """Returns the generator of an inverter's run, with the encoder that it was trained on.

    Args:
      workdir: of the run.
      dtype: of the computation.
      image_size: of the images it is for, in pixels; None where every size will do.

    Raises:
      UserError: no checkpoint there or at its encoder's place, it is damaged, not an inverter's, or was trained on
        images of another size, or the encoder is not the one that it was trained on.
    """
    description = checkpoint.load_description(workdir, kind="inverter")
    if image_size is not None:
        check_trained_size(description, image_size, workdir)
    encoder = load_encoder(workdirs.follow(description["encoder_workdir"], workdir), dtype=dtype)
    check_weights(description, fingerprint(encoder.variables), workdir)
    module = build_generator(description, encoder, dtype=dtype)
    features = feature_structs(encoder.module, description["image_size"])[description["layer"]]
    variables = checkpoint.load_variables(workdir, {GENERATOR: _abstract(module, features)})[GENERATOR]
    return Inverter(encoder, module, variables, description)


def check_name(encoder: Encoder, name: str, place: str | pathlib.Path) -> None:
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


def check_image_size(encoder: Encoder, image_size: int) -> None:
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


def check_planned_size(config: Any, reference: str, workdir: pathlib.Path, stages: Mapping[pathlib.Path, Any]) -> None:
    """Checks that a stage of the same experiment trains at the size of the images that this task has.

    Args:
      config: of this task.
      reference: what the config calls that stage; other references are left alone.
      workdir: of this task.
      stages: workdir -> config of every stage.

    Raises:
      OtherSize: it trains at another.
    """
    stage = stages.get(workdirs.resolve(reference, workdir))
    if stage is not None:
        check_trained_size({"image_size": stage.data.image_size}, config.data.image_size, reference, verb="is")


def report_size(encoder: Encoder, image_size: int, title: str) -> dict[str, int]:
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


def check_classes(encoder: Encoder, info: data.SourceInfo) -> None:
    """Checks that data has the classes that an encoder was trained on.

    Raises:
      UserError: it has others, or another number of them.
    """
    if difference := class_difference(encoder, info):
        raise UserError(f"{difference}; evaluate it on data with the same classes")


def class_difference(encoder: Encoder, info: data.SourceInfo) -> str:
    """Returns how the classes of data differ from those that an encoder was trained on; empty for not at all."""
    classes, trained = list(info.class_names), encoder.description["class_names"]
    if trained and classes != trained:
        return f"{info.name} has classes {classes[:5]}..., but the checkpoint was trained on {trained[:5]}..."
    num_classes = encoder.description["num_classes"]
    if len(classes) != num_classes:  # all that is known of an imported encoder whose file names no classes
        return f"{info.name} has {len(classes)} classes, but the checkpoint was trained on {num_classes}"
    return ""


def build_generator(description: Mapping[str, Any], encoder: Encoder, *, dtype: jax.typing.DTypeLike) -> Any:
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


DENOISER = "denoiser"  # of a checkpoint


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

    classifier: Encoder
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


def build_denoiser(
    description: Mapping[str, Any], classifier: Encoder, *, dtype: jax.typing.DTypeLike
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


def load_denoiser(workdir: pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32) -> TrainedDenoiser:
    """Returns the denoiser of a run.

    Raises:
      UserError: no checkpoint there or at its encoder's place, or it is damaged or not a denoiser's.
    """
    description = checkpoint.load_description(workdir, kind=DENOISER)
    classifier = load_encoder(workdirs.follow(description["encoder_workdir"], workdir), dtype=dtype)
    check_weights(description, fingerprint(classifier.variables), workdir)
    encoder, decoder = build_denoiser(description, classifier, dtype=dtype)
    inputs = decoder_inputs(encoder, description["image_size"])
    abstract = jax.eval_shape(lambda *x: decoder.init(jax.random.key(0), *x), *inputs)
    variables = checkpoint.load_variables(workdir, {GENERATOR: abstract})[GENERATOR]
    return TrainedDenoiser(classifier, encoder, decoder, variables, description)


def make_features_fn(encoder: Network, variables: Variables) -> FeaturesFn:
    """Returns images [B, H, W, C] in [0, 1] -> named features, in evaluation mode, in float32."""

    def features_fn(images: Array) -> Mapping[str, Array]:
        features = encoder.apply(variables, images, train=False)[1]
        return {name: value.astype(jnp.float32) for name, value in features.items()}

    return features_fn


@functools.lru_cache(maxsize=8)
def make_denoise_fn(encoder: Network, decoder: Network) -> Callable[[tuple[Variables, Variables], Array], Array]:
    """Returns ((encoder_variables, decoder_variables), images) -> denoised images.

    Equal networks get the same function, so that what was compiled for one serves the other's weights too.

    Args:
      encoder: the wavelet encoder.
      decoder: its decoder.
    """

    def denoise_fn(variables: tuple[Variables, Variables], images: Array) -> Array:
        features, details = encoder.apply(variables[0], images)
        return decoder.apply(variables[1], features["conv5"], details, train=False)

    return denoise_fn
