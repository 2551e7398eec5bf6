"""Trained networks from their checkpoints: `load`, and networks that are rebuilt from their descriptions.

Networks that are not trained yet have shapes in place of weights.
"""

import dataclasses
import functools
import os
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from arinv import models, parallel, paths, zoo
from arinv.errors import UserError
from arinv.experiment import checkpoint, descriptions, workdirs
from arinv.experiment.state import AVERAGE
from arinv.experiment.trained import AUTOENCODER, CLASSIFIER, DISCRIMINATOR, GAN, GENERATOR, INVERTER, Trained
from arinv.ops.inputs import as_dtype
from arinv.types import Array, Network, Variables


def load(
    reference: str | os.PathLike,
    *,
    kind: str | tuple[str, ...] = "",
    dtype: jax.typing.DTypeLike = jnp.float32,
    image_size: int | None = None,
    allow_other_size: bool = False,
    channels: int | None = None,
) -> Trained:
    """Returns a trained network, with the encoder that it was trained on.

    Args:
      reference: workdir of the training, such as "runs/quickstart/robust_inverter"; an entry of the zoo, "zoo:NAME",
        or one of its networks, "zoo:NAME/conv5"; or the file of such a network.
      kind: required kind, "classifier", "inverter", "denoiser", "autoencoder" or "gan", or a tuple of kinds;
        empty for any.
      dtype: dtype of the computation.
      image_size: side of the images that it is applied to, in pixels; None for any size.
      allow_other_size: whether this may differ from the size that the network was trained on.
      channels: channels of the images that it is applied to; None for any number.

    Returns:
      A `Trained` with `.logits_fn`, `.features_fn`, `.decode_fn`, `.encode_fn`, `.denoise_fn`, `.reconstruct` and
      `.sample`, each for the kinds of networks that have it.

    Raises:
      UserError: not a path or a dtype, no checkpoint of the network or of its encoder, a damaged one, one of another
        kind, image size or number of channels, an encoder of other weights than the network was trained on, or
        JAX_PLATFORMS names a platform without devices.
    """
    if not isinstance(reference, str | os.PathLike) or not os.fspath(reference):
        raise UserError(f"load needs a workdir or 'zoo:NAME'; got {reference!r}")
    kinds, dtype = (kind,) if isinstance(kind, str) else kind, as_dtype(dtype)
    if not isinstance(kinds, tuple | list) or not all(isinstance(name, str) for name in kinds):
        raise UserError(f"kind={kind!r} must be a kind of network, such as 'inverter', or a tuple of kinds")
    parallel.count_devices()  # raises
    workdir = zoo.resolve(reference) if zoo.is_reference(reference) else paths.expanded(reference, name="workdir")
    workdir = zoo.network(workdir, kinds)
    description = checkpoint.load_description(workdir, kind=kinds)
    descriptions.check_fields(description, workdir)
    if image_size is not None and not allow_other_size:
        descriptions.check_trained_size(description, image_size, workdir)
    if channels not in (None, own := description.get("channels", 3)):
        raise UserError(
            f"{workdir} is of images of {own} channels, data.channels is {channels}; set data.channels={own}"
        )
    if description["kind"] == CLASSIFIER:
        network = abstract_encoder(description, dtype=dtype)
        name = description.get("weights", CLASSIFIER)  # or the moving average of the weights
        variables = checkpoint.load_variables(workdir, {name: network.variables})[name]
        return dataclasses.replace(network, variables=variables)
    if description["kind"] == GAN:
        module, shapes = abstract_gan(description, dtype=dtype)
        variables = checkpoint.load_variables(workdir, {AVERAGE: shapes[AVERAGE]})[AVERAGE]
        return Trained(GAN, module, variables, description)
    if description["kind"] == AUTOENCODER:
        module = build_autoencoder(description, dtype=dtype)
        struct = image_struct(description["image_size"], description.get("channels", 3))
        name = description.get("weights", AUTOENCODER)  # or the moving average of the weights
        variables = checkpoint.load_variables(workdir, {name: _abstract(module, struct)})[name]
        return Trained(AUTOENCODER, module, variables, description)
    encoder = _load_parent(description, workdir, dtype)
    if description["kind"] == INVERTER:
        module = build_generator(description, encoder, dtype=dtype)
        abstract = _abstract(module, feature_structs(encoder.module, description["image_size"])[description["layer"]])
    else:
        module = build_denoiser(description, encoder, dtype=dtype)
        abstract = _abstract(module.decoder, *decoder_inputs(module.encoder, description["image_size"]))
    if description.get("trained_encoder"):
        pair = checkpoint.load_variables(workdir, {GENERATOR: _shapes(joined(encoder.variables, abstract))})[GENERATOR]
        encoder = dataclasses.replace(encoder, variables=part_of(pair, "encoder"))
        return Trained(description["kind"], module, part_of(pair, GENERATOR), description, encoder)
    variables = checkpoint.load_variables(workdir, {GENERATOR: abstract})[GENERATOR]
    return Trained(description["kind"], module, variables, description, encoder)


def _load_parent(description: Mapping[str, Any], workdir: pathlib.Path, dtype: jax.typing.DTypeLike) -> Trained:
    """Returns the encoder of an inverter or a denoiser; shapes stand for weights that the inverter itself holds."""
    if description.get("initial"):
        encoder = abstract_encoder(description["initial"], dtype=dtype)
    elif description["encoder_workdir"]:
        encoder = load(workdirs.follow(description["encoder_workdir"], workdir), kind=CLASSIFIER, dtype=dtype)
        descriptions.check_weights(description, encoder.fingerprint, workdir)
    else:
        options = description.get("encoder_options", {})
        size = description["image_size"]
        encoder = new_encoder(description["encoder"], image_size=size, options=options, dtype=dtype)
        descriptions.check_weights(description, encoder.fingerprint, workdir)
    size = description.get("latent_size", 0)
    if not size:
        return encoder
    return with_latents(encoder, description["encoded_layer"], size, image_size=description["image_size"])


def new_encoder(
    name: str,
    *,
    key: Array | None = None,
    image_size: int,
    resize: str = "squash",
    options: Mapping[str, Any] | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Trained:
    """Returns an encoder without a head that comes from no training run.

    With a key it has random weights, where the training of an autoencoder starts. Without one it is a fixed function of
    the image, such as HOG.

    Args:
      name: a key of models.ENCODERS.
      key: PRNG key of the weights; None for an encoder without weights.
      image_size: side of the images that it is applied to, in pixels.
      resize: how images get that size.
      options: options of the encoder.
      dtype: dtype of the computation.

    Raises:
      UserError: no key for an encoder with weights, an unknown option, or a package that is not installed.
    """
    options = dict(options or {})
    module = models.build(name, num_classes=0, dtype=dtype, **options)
    if module.has_weights and key is None:
        raise UserError(f"encoder {name!r} has weights; name the workdir of its training")
    module.check_installed()
    struct = image_struct(image_size)
    variables = jax.jit(module.init)(key, jnp.zeros(struct.shape, struct.dtype)) if module.has_weights else {}
    description = {"kind": CLASSIFIER, "encoder": name, "options": options, "num_classes": 0, "class_names": []}
    return Trained(CLASSIFIER, module, variables, {**description, "image_size": image_size, "resize": resize})


def with_latents(encoder: Trained, layer: str, latent_size: int, *, image_size: int) -> Trained:
    """Returns a classifier with the latents of a variational autoencoder after a layer, with shapes for weights.

    Args:
      encoder: the classifier.
      layer: layer of the feature that the latents are read from.
      latent_size: number of the latents.
      image_size: side of the images, in pixels.

    Raises:
      UserError: a layer that it does not have, or a size below 1.
    """
    module = models.variational_encoder(encoder.module, layer, latent_size=latent_size)
    variables = _abstract(module, image_struct(image_size))
    return dataclasses.replace(encoder, module=module, variables=variables)


def abstract_encoder(description: Mapping[str, Any], *, dtype: jax.typing.DTypeLike = jnp.float32) -> Trained:
    """Returns the classifier of a description, with the shapes of its variables."""
    module = models.build(
        description["encoder"], num_classes=description["num_classes"], dtype=dtype, **description["options"]
    )
    return Trained(CLASSIFIER, module, _abstract(module, image_struct(description["image_size"])), description)


def joined(encoder: Variables, generator: Variables) -> Variables:
    """Combines the variables of an encoder and a generator into those of a `models.LayerAutoencoder`."""
    collections = {*encoder, *generator}
    pair = {"encoder": encoder, GENERATOR: generator}
    return {
        name: {part: variables[name] for part, variables in pair.items() if name in variables} for name in collections
    }


def part_of(variables: Variables, part: str) -> Variables:
    """Returns the variables of one part, "encoder" or "generator", of a `models.LayerAutoencoder`."""
    return {name: value[part] for name, value in variables.items() if part in value}


def with_encoder(variables: Variables, encoder: Variables) -> Variables:
    """Replaces the variables of the encoder inside a `models.VariationalEncoder`."""
    return {
        name: {**value, "encoder": encoder[name]} if name in encoder else value for name, value in variables.items()
    }


def abstract_gan(
    description: Mapping[str, Any], *, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[models.Gan, Mapping[str, Variables]]:
    """Returns the networks of a GAN's description, and the shapes of the variables in its checkpoints."""
    gan = build_gan(description, dtype=dtype)
    generator = _abstract(gan.generator, jax.ShapeDtypeStruct((1, gan.latent_size), jnp.float32))
    images = image_struct(description["image_size"], description.get("channels", 3))
    discriminator = _abstract(gan.discriminator, images)
    return gan, {GENERATOR: generator, AVERAGE: generator, DISCRIMINATOR: discriminator}


def build_gan(description: Mapping[str, Any], *, dtype: jax.typing.DTypeLike = jnp.float32) -> models.Gan:
    """Returns the untrained networks of a GAN's description."""
    return _build(models.build_gan, description, dtype)


def build_autoencoder(
    description: Mapping[str, Any], *, dtype: jax.typing.DTypeLike = jnp.float32
) -> models.Autoencoder:
    """Returns the untrained networks of an autoencoder's description."""
    return _build(models.build_autoencoder, description, dtype)


def _build(build: Callable[..., Any], description: Mapping[str, Any], dtype: jax.typing.DTypeLike) -> Any:
    spec = description[description["kind"]]
    return build(
        spec["networks"],
        image_size=description["image_size"],
        channels=description.get("channels", 3),
        latent_size=spec["latent_size"],
        dtype=dtype,
        **spec.get("options", {}),
    )


def image_struct(image_size: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    """Returns the shape of one image, to initialize a network with."""
    return jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)


@functools.lru_cache(maxsize=64)
def feature_structs(encoder: Network, image_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of an encoder's named features for one image."""
    images = image_struct(image_size)
    features = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0][1], images)
    return types.MappingProxyType(features)


def _shapes(variables: Variables) -> Variables:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)


def _abstract(module: Network, *inputs: Any) -> Variables:
    """Returns the shapes of a network's variables; not to be changed, since equal networks share them."""
    leaves, structure = jax.tree.flatten(inputs)
    return _abstract_of(module, structure, *leaves)


@functools.lru_cache(maxsize=64)
def _abstract_of(module: Network, structure: Any, *leaves: jax.ShapeDtypeStruct) -> Variables:
    inputs = jax.tree.unflatten(structure, leaves)
    return jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)


def build_generator(description: Mapping[str, Any], encoder: Trained, *, dtype: jax.typing.DTypeLike) -> Any:
    """Returns the untrained generator of an inverter's description.

    Raises:
      UserError: unknown layer or variant, or an image size that the encoder does not take or the generator does not
        return.
    """
    image_size, layer = description["image_size"], description["layer"]
    _check_image_size(encoder, image_size)
    latent = layer == models.LATENT
    module = models.build_generator(
        encoder.description["encoder"],
        description["encoded_layer"] if latent else layer,
        image_size=image_size,
        variant=description["variant"],
        dtype=dtype,
        encoder_options=encoder.description["options"],
        latent=latent,
    )
    features = feature_structs(encoder.module, image_size)[layer]
    _check_output_size(module, features, image_size, f"{encoder.description['encoder']} {layer}")
    return module


def check_generator(
    encoder: str, layer: str, *, variant: str, image_size: int, options: Mapping[str, Any], latent: bool = False
) -> None:
    """Checks that the generator of an encoder that is not trained yet returns images of the size of its inputs.

    Args:
      encoder: its name.
      layer: the feature that is inverted.
      variant: name of the generator.
      image_size: side of the images, in pixels.
      options: options of the encoder, which decide its strides and layers.
      latent: whether it is that of a variational autoencoder.

    Raises:
      UserError: another size, an unknown name, or images that are too small for the encoder.
    """
    module = models.build_generator(
        encoder, layer, image_size=image_size, variant=variant, encoder_options=dict(options), latent=latent
    )
    if not module.is_vector:  # a generator of vectors is built for its image size
        features = feature_structs(models.build(encoder, **{**options, "num_classes": 0}), image_size)[layer]
        _check_output_size(module, features, image_size, f"{encoder} {layer}")


def _check_image_size(encoder: Trained, image_size: int) -> None:
    """Checks that an encoder takes images of a size.

    Raises:
      UserError: naming the size that it was trained on.
    """
    if encoder.image_size == image_size:
        return
    try:
        jax.eval_shape(encoder.module.apply, encoder.variables, image_struct(image_size))
    except Exception as error:  # Flax and lax raise many kinds for wrong shapes
        raise UserError(
            f"the encoder was trained on images of {encoder.image_size} px and does not take {image_size} px; set "
            f"image_size={encoder.image_size}"
        ) from error


def _check_output_size(generator: Network, features: jax.ShapeDtypeStruct, image_size: int, name: str) -> None:
    side = _side(generator, features, train=False)
    if side != image_size:
        raise UserError(
            f"the generator for {name} turns {image_size} px into {side} px; set data.image_size to a multiple of 32, "
            f"such as {max(64, round(image_size / 32) * 32)}"
        )


def training_side(generator: Network, features: jax.ShapeDtypeStruct) -> int:
    """Returns the side of a generator's images in training, which some plans enlarge in evaluation alone."""
    return _side(generator, features, train=True)


@functools.lru_cache(maxsize=64)
def _side(generator: Network, features: jax.ShapeDtypeStruct, *, train: bool) -> int:
    call = functools.partial(generator.init_with_output, jax.random.key(0), train=train)
    return jax.eval_shape(lambda x: call(x)[0], features).shape[1]


def build_denoiser(
    description: Mapping[str, Any], classifier: Trained, *, dtype: jax.typing.DTypeLike
) -> models.Denoiser:
    """Returns the encoder and the untrained decoder of a denoiser's description.

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
    """Returns the shapes of a denoising decoder's inputs for one image: features and details."""
    images = image_struct(image_size)
    features, details = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], images)
    return features["conv5"], details
