"""Training of an inverter: a generator that reconstructs images from one layer of an encoder.

The encoder is trained and frozen; with encoder.train a copy of it is trained too, an autoencoder.

Source: Rojas-Gomez et al. 2022, sections 3.2 and A3.1.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from arinv import data, metrics, models
from arinv.errors import UserError, unknown
from arinv.experiment import checkpoint, descriptions, loading, workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.experiment.trained import CLASSIFIER, DISCRIMINATOR, GENERATOR, INVERTER, Trained, make_features_fn
from arinv.ops import sift
from arinv.ops.augment import augment
from arinv.ops.images import image_grid, resize_images, to_float
from arinv.ops.inputs import check_count
from arinv.train import classifier, training
from arinv.train.generator_update import ReconstructionTargets, check_loss, loss_weights, make_update
from arinv.types import Array, Batch, Metrics, Network, Variables

_STARTS = ("checkpoint", "random")  # initial weights of the encoder
_COMPARATORS = (CLASSIFIER, INVERTER)


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data or checkpoints.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    check_loss(config.loss)
    if not (pause := config.loss.pause) >= 0:
        raise UserError(f"loss.pause={pause!r} must be 0 (no pause) or more: a ratio of two losses, such as 0.1")
    _check_checkpoint(config)
    _check_latents(config)


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, the data, the encoder and the comparator, which earlier stages may train.

    Raises:
      UserError: data that cannot be read, no checkpoint, one of another network or image size, an unknown layer, or a
        generator of images of another size.
    """
    config, reference = run.config, run.config.encoder.checkpoint
    stage = None
    if reference:
        stage = run.check_planned(reference, kind=CLASSIFIER, allow_other_size=config.encoder.allow_other_size)
    if stage is None:
        encoder = load_frozen(run)
        _Pair.build(run, encoder)  # raises
        options = encoder.description["options"]
    else:
        descriptions.check_encoder({"encoder": stage.encoder.name}, config.encoder.name, reference)
        options = stage.encoder.options.to_dict()
        loading.check_generator(
            config.encoder.name,
            config.encoder.layer,
            variant=config.encoder.generator,
            image_size=config.data.image_size,
            options=options,
            latent=config.encoder.latent_size > 0,
        )
    models.feature_spec(config.encoder.name, config.loss.feature_layer or config.encoder.layer, **options)
    if config.loss.comparator:
        run.check_network(config.loss.comparator, kind=_COMPARATORS, image_size=config.data.image_size)
    training.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: a run of configs/inverter.py; config.encoder.checkpoint names the classifier's workdir.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    encoder = load_frozen(run)
    size = descriptions.report_size(encoder.description, run.config.data.image_size, run.config.title)
    return run.finish({**training.train(run, build, encoder), **size})


def build(run: Run, encoder: Trained, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: a run of configs/inverter.py.
      encoder: the frozen encoder, trained or with the shapes of its weights.
      info: description of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: an encoder that does not fit the config, or a number out of range.
    """
    config, image_size, layer = run.config, run.config.data.image_size, run.config.encoder.layer
    pair = _Pair.build(run, encoder)
    structs = loading.feature_structs(pair.reader.module, image_size)
    networks = pair.networks(structs, image_size)
    side = loading.training_side(pair.generator, structs[pair.inverted])
    if side != image_size and (config.loss.feature > 0 or config.loss.adversarial > 0):
        raise UserError(
            f"encoder.generator={config.encoder.generator!r} returns {side} px of {image_size} px, which only pixels "
            "can be compared at: set loss.feature and loss.adversarial to 0, as loss=euclidean does"
        )
    discriminator = None
    if config.loss.adversarial > 0:
        options = {} if config.loss.conditional else {"conditional": False, "spectral_norm": False}
        discriminator = models.build_discriminator(image_size=image_size, dtype=run.dtype, **options)
        networks[DISCRIMINATOR] = (discriminator, (loading.image_struct(image_size), structs[layer]))
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    comparator = _comparator(run, info)
    step = make_train_step(
        encoder.module,
        pair.generator,
        discriminator,
        optimizers,
        layer=layer,
        feature_layer=config.loss.feature_layer or layer,
        weights={**loss_weights(config.loss), "divergence": config.loss.divergence},
        pixel_order=config.loss.pixel_order,
        pause=config.loss.pause,
        comparator=comparator and comparator.module,
        augmentation=config.augmentation.to_dict(),
        side=side,
        autoencoder=pair.autoencoder,
    )
    eval_step = make_eval_step(pair.reader.module, pair.generator, layer=pair.inverted)

    def evaluate(variables, batch, key, frozen, *comparator):
        encoder_variables, generator_variables = pair.split(variables[GENERATOR], frozen)
        return eval_step(generator_variables, batch, encoder_variables)

    reference = config.encoder.checkpoint
    source = workdirs.relative(run.resolve(reference), run.workdir) if reference else ""
    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=step,
        eval_step=evaluate,
        figure=lambda images: image_grid([to_float(images["image"]), images["reconstruction"]]),
        description={**_describe(config, encoder), "encoder_workdir": source},
        frozen=(encoder.variables, *([comparator.variables] if comparator else [])),
        start=pair.start if pair.autoencoder else None,
        normalization=encoder.module.normalization,
        host_features=encoder.module.host_features if encoder.module.has_host_features else None,
    )


@dataclasses.dataclass(frozen=True)
class _Pair:
    """An encoder and the generator that inverts one of its features, with what is trained of the two.

    Attributes:
      encoder: trained or with the shapes of its weights.
      reader: the network whose feature is inverted: the encoder, of a variational autoencoder with its latents.
      generator: the feature -> images.
      inverted: name of the feature.
      autoencoder: both in one network, images -> images, where both are trained; None where the generator alone is.
    """

    encoder: Trained
    reader: Trained
    generator: Network
    inverted: str
    autoencoder: Network | None

    @classmethod
    def build(cls, run: Run, encoder: Trained) -> "_Pair":
        """Returns the pair of a config.

        Raises:
          UserError: another encoder than the config's, or an image size that the generator does not return.
        """
        config, layer, size = run.config, run.config.encoder.layer, run.config.encoder.latent_size
        descriptions.check_encoder(encoder.description, config.encoder.name, config.encoder.checkpoint)
        reader = encoder
        if size:
            reader = loading.with_latents(encoder, layer, size, image_size=config.data.image_size)
        generator, autoencoder = loading.build_generator(_describe(config, encoder), reader, dtype=run.dtype), None
        if config.encoder.train:
            autoencoder = models.LayerAutoencoder(encoder.module, generator, layer)
            if size:
                autoencoder = models.VariationalAutoencoder(reader.module, generator)
        return cls(encoder, reader, generator, models.LATENT if size else layer, autoencoder)

    def networks(
        self, structs: Mapping[str, jax.ShapeDtypeStruct], image_size: int
    ) -> dict[str, tuple[Network, tuple]]:
        """Returns what is trained with the shapes of its inputs, given those of the features and the side of images."""
        if self.autoencoder is None:
            return {GENERATOR: (self.generator, (structs[self.inverted],))}
        return {GENERATOR: (self.autoencoder, (loading.image_struct(image_size),))}

    def split(self, trained: Variables, frozen: Variables) -> tuple[Variables, Variables]:
        """Returns the variables of reader and generator, given those that are trained and the frozen encoder's."""
        if self.autoencoder is None:
            return frozen, trained
        return loading.part_of(trained, "encoder"), loading.part_of(trained, GENERATOR)

    def start(self, state: TrainState) -> TrainState:
        """Returns the state with the encoder's weights in the autoencoder."""
        reader, generator = self.split(state.variables[GENERATOR], self.encoder.variables)
        own = self.encoder.variables
        if self.reader is not self.encoder:
            own = loading.with_encoder(reader, own)
        return state.replace(variables={**state.variables, GENERATOR: loading.joined(own, generator)})


def _check_checkpoint(config: ConfigDict) -> None:
    """Checks that a config names an encoder that can be inverted: its checkpoint, start, training and installation.

    Raises:
      UserError: no checkpoint, one or a training of an encoder without weights, an unknown start, or a package that is
        not installed.
    """
    module = models.build(config.encoder.name)
    has_weights = module.has_weights
    if not has_weights:
        models.build(config.encoder.name, **config.encoder.options).check_installed()
    if config.encoder.start not in _STARTS:
        raise unknown("encoder.start", config.encoder.start, _STARTS)
    if config.encoder.start == "random":
        _check_random(config, module)
    elif has_weights and not config.encoder.checkpoint:
        raise UserError("encoder.checkpoint is empty; name the workdir of a classifier's training")
    if not has_weights and config.encoder.train:
        raise UserError(f"encoder.train must be False: encoder {config.encoder.name!r} has no weights to train")
    if not has_weights and config.encoder.checkpoint:
        raise UserError(
            f"encoder.checkpoint={config.encoder.checkpoint!r} must be empty: encoder {config.encoder.name!r} has no "
            "weights"
        )


def _check_latents(config: ConfigDict) -> None:
    """Checks the fields of a variational autoencoder.

    Raises:
      UserError: latents without an encoder that is trained, or without the divergence from their prior.
    """
    latent_size, weight = config.encoder.latent_size, config.loss.divergence
    check_count(latent_size, "encoder.latent_size", minimum=0)
    if latent_size and not config.encoder.train:
        raise UserError(
            f"encoder.latent_size={latent_size} needs encoder.train=True: a variational autoencoder trains its encoder"
        )
    if bool(latent_size) != (weight > 0) or weight < 0:
        raise UserError(
            f"encoder.latent_size={latent_size} and loss.divergence={weight!r} must both be above 0 (a variational "
            "autoencoder) or both 0"
        )


def _check_random(config: ConfigDict, module: models.Encoder) -> None:
    """Checks the fields of an encoder that starts with random weights.

    Raises:
      UserError: one that is not trained or has a checkpoint, or a layer after its convolutions.
    """
    layer, specs = config.encoder.layer, module.feature_specs()
    if not config.encoder.train or config.encoder.checkpoint:
        raise UserError(
            "encoder.start='random' needs encoder.train=True and an empty encoder.checkpoint, which has other weights"
        )
    models.build(config.encoder.name, num_classes=0, **config.encoder.options)
    fields = {"encoder.layer": layer}
    if not config.loss.comparator:
        fields["loss.feature_layer"] = config.loss.feature_layer or layer
    for field, value in fields.items():
        if specs[value].is_vector:
            known = ", ".join(name for name, spec in specs.items() if not spec.is_vector)
            raise UserError(f"encoder.start='random' has convolutions alone: {field}={value!r} must be one of {known}")


def _comparator(run: Run, info: data.SourceInfo) -> Trained | None:
    """Returns the network that compares images in loss.comparator's place; None where the encoder does.

    Of an autoencoder it is the encoder. Before its stage is complete, it has the shapes of its weights.

    Raises:
      UserError: no usable checkpoint, one of another image size, or without the compared layer.
    """
    config = run.config
    if not config.loss.comparator:
        return None
    size, layer = config.data.image_size, config.loss.feature_layer or config.encoder.layer
    stage = run.planned(config.loss.comparator)
    if stage is not None and not workdirs.is_complete(run.resolve(config.loss.comparator)):
        comparator = planned_encoder(run, stage, info)
    else:
        comparator = run.load(config.loss.comparator, kind=_COMPARATORS, image_size=size).encoder
    module = comparator.module
    known = [name for name, spec in module.feature_specs().items() if module.num_classes or not spec.is_vector]
    if layer not in known:
        raise unknown(f"loss.feature_layer of {config.loss.comparator}", layer, known)
    return comparator


def planned_encoder(run: Run, stage: ConfigDict, info: data.SourceInfo) -> Trained:
    """Returns the encoder of a classifier or an inverter that a stage will train, with the shapes of its weights.

    Args:
      run: the run that reads it.
      stage: config of the training.
      info: its training images.

    Raises:
      UserError: the stage starts from a network that does not exist, or reads it from a file when it runs.
    """
    if stage.task not in _COMPARATORS:
        raise UserError(
            f"a stage {stage.task!r} has no network before it has run: run it first, and name its workdir instead"
        )
    if stage.task == CLASSIFIER:
        return loading.abstract_encoder(classifier.describe(stage, info), dtype=run.dtype)
    if not stage.encoder.checkpoint:
        return initial_encoder(run.with_config(stage, run.workdir))
    parent = run.stages.get(run.resolve(stage.encoder.checkpoint))
    if parent is None or parent.task not in _COMPARATORS:
        return run.load(stage.encoder.checkpoint, kind=CLASSIFIER)
    return planned_encoder(run, parent, info)


def load_frozen(run: Run) -> Trained:
    """Returns the encoder.

    Raises:
      UserError: it cannot be read, or was trained on images of another size.
    """
    config, size = run.config, run.config.data.image_size
    if not config.encoder.checkpoint:
        return initial_encoder(run)
    options = {"image_size": size, "allow_other_size": config.encoder.allow_other_size}
    try:
        return run.load(config.encoder.checkpoint, kind=CLASSIFIER, **options)
    except descriptions.OtherSize as error:
        raise UserError(f"{error}, or encoder.allow_other_size=True to invert it at {size} px anyway") from error


def plan_frozen(run: Run) -> Trained:
    """Returns the encoder with the shapes of its weights, whether it is trained already or not.

    Raises:
      UserError: no checkpoint, or one of another network.
    """
    reference = run.config.encoder.checkpoint
    if not reference:
        return initial_encoder(run)
    stage = run.check_planned(reference, kind=CLASSIFIER, allow_other_size=True)
    if stage is not None and stage.task == CLASSIFIER:
        return planned_encoder(run, stage, training.published_info(stage))
    description = checkpoint.load_description(run.resolve(reference), kind=CLASSIFIER)
    return loading.abstract_encoder(description, dtype=run.dtype)


def initial_encoder(run: Run) -> Trained:
    """Returns the encoder of a config without a checkpoint: one without weights, or with random ones."""
    config = run.config
    is_random = config.encoder.start == "random"
    return loading.new_encoder(
        config.encoder.name,
        key=jax.random.fold_in(run.key, training.ENCODER) if is_random else None,
        image_size=config.data.image_size,
        resize=config.data.resize,
        options=dict(config.encoder.options),
        dtype=run.dtype,
    )


def _describe(config: ConfigDict, encoder: Trained) -> dict[str, Any]:
    """Returns what the generator is rebuilt from, given its encoder."""
    size, layer = config.encoder.latent_size, config.encoder.layer
    latents = {"layer": models.LATENT, "encoded_layer": layer, "latent_size": size} if size else {}
    initial = {"initial": dict(encoder.description)} if config.encoder.start == "random" else {}
    if not encoder.module.has_weights and encoder.description["options"]:
        initial = {"encoder_options": dict(encoder.description["options"])}
    return {
        "kind": INVERTER,
        "encoder": encoder.description["encoder"],
        "layer": layer,
        "variant": config.encoder.generator,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "loss": config.loss.to_dict(),
        **({"trained_encoder": True} if config.encoder.train else {}),
        **latents,
        **initial,
    }


def make_train_step(
    encoder: Network,
    generator: Network,
    discriminator: Network | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    layer: str,
    feature_layer: str,
    weights: Mapping[str, float],
    pixel_order: int = 1,
    pause: float = 0.0,
    comparator: Network | None = None,
    augmentation: Mapping,
    side: int = 0,
    autoencoder: Network | None = None,
) -> Callable[[TrainState, Batch, Array, Variables], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key, encoder_variables) -> (state, metrics).

    Args:
      encoder: the frozen network; it provides the features and compares images.
      generator: features[layer] -> images.
      discriminator: (images, features[layer]) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      layer: the feature that is inverted.
      feature_layer: the feature that the feature loss compares.
      weights: {"pixel": ..., "feature": ..., "adversarial": ..., "discriminator": ...} of the terms;
        pixel or feature 0 omits the term.
      pixel_order: 1 for l1, 2 for squared l2.
      pause: see `make_update`.
      comparator: another network that compares images, whose variables are the step's last argument; None for the
        encoder.
      augmentation: options of ops.augment.augment.
      side: side of the generator's images in training, in pixels, which the images are reduced to; 0 for their own.
      autoencoder: the network that "generator" in the state is, images -> images, which has an encoder of its own: a
        `models.LayerAutoencoder`, or a `models.VariationalAutoencoder` with weights["divergence"] above 0; the frozen
        one then only compares images. None for the generator itself.

    Returns:
      A function whose metrics are the weighted terms, per image. Where the batch has "features", they are inverted
      instead of the encoder's, and images are not augmented.

    Source: Rojas-Gomez et al. 2022, eqs. 4 to 8; Dosovitskiy & Brox 2016a, eq. 1.
    """
    update = make_update(
        generator if autoencoder is None else autoencoder,
        discriminator,
        optimizers,
        feature_layer=feature_layer,
        weights=weights,
        pixel_order=pixel_order,
        pause=pause,
    )

    def train_step(state: TrainState, batch: Batch, key: Array, encoder_variables: Variables, *compared: Variables):
        augment_key, *keys = jax.random.split(jax.random.fold_in(key, state.step), 4)
        host_features = _given_features(batch)
        if host_features is not None:
            images, features_fn = to_float(batch["image"]), None
            targets = {layer: host_features}
        else:
            images = augment(augment_key, batch["image"], **augmentation)
            features_fn = make_features_fn(encoder, encoder_variables)
            targets = jax.lax.stop_gradient(features_fn(images))
        inputs = (targets[layer],) if autoencoder is None else (images,)
        images = resize_images(images, side) if side else images
        condition = targets[layer]
        if comparator is not None:
            features_fn = make_features_fn(comparator, *compared)
            targets = jax.lax.stop_gradient(features_fn(images))
        goal = ReconstructionTargets(images, targets, features_fn, condition, batch["mask"])
        return update(keys, state, inputs, goal)

    return train_step


def _given_features(batch: Batch) -> Array | None:
    """Returns the features that come with a batch, sparse ones spread on their grid; None where there are none."""
    if "places" not in batch:
        return batch.get("features")
    height, width = (side // sift.CELL for side in batch["image"].shape[1:3])
    return sift.spread(batch["places"], batch["features"], height=height, width=width)


def _measure_pixels(_: Any, reconstructions: Array, images: Array) -> Mapping[str, Array]:
    return {
        "psnr": metrics.psnr(reconstructions, images),
        "ssim": metrics.ssim(reconstructions, images),
        "distance": metrics.euclidean_distance(reconstructions, images),
    }


def make_eval_step(
    encoder: Network,
    generator: Network,
    *,
    layer: str,
    measure: Callable[[Any, Array, Array], Mapping[str, Any]] = _measure_pixels,
) -> Callable[[Variables, Batch, Variables, Any], Mapping[str, Any]]:
    """Returns the pure step (generator_variables, batch, encoder_variables, measure_variables=None) -> results.

    Args:
      encoder: the frozen network.
      generator: features[layer] -> images.
      layer: the feature that is inverted.
      measure: (measure_variables, reconstructions, images) -> metrics by name; by default "psnr", "ssim" and
        "distance", each [B], without variables.

    Returns:
      A function returning the metrics, "keypoints" [B] where the batch has them, and "reconstruction" [B, H, W, C].
    """

    def eval_step(
        variables: Variables, batch: Batch, encoder_variables: Variables, measure_variables: Any = None
    ) -> Mapping[str, Any]:
        images = to_float(batch["image"])
        features = _given_features(batch)
        if features is None:
            features = make_features_fn(encoder, encoder_variables)(images)[layer]
        reconstructions = generator.apply(variables, features, train=False)
        counts = {"keypoints": batch["keypoints"]} if "keypoints" in batch else {}
        return {**measure(measure_variables, reconstructions, images), **counts, "reconstruction": reconstructions}

    return eval_step
