"""Training of an inverter: a generator that reconstructs images from one layer of a trained, frozen encoder.

Source: Rojas-Gomez et al. 2022, sections 3.2 and A3.1.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from arinv import data, losses, metrics, models
from arinv.errors import UserError, unknown
from arinv.experiment import descriptions, trained, workdirs
from arinv.experiment.run import Run, check_fields
from arinv.experiment.state import TrainState, apply_train
from arinv.experiment.trained import CLASSIFIER, DISCRIMINATOR, GENERATOR, INVERTER, Trained, make_features_fn
from arinv.ops import sift
from arinv.ops.augment import augment
from arinv.ops.images import image_grid, resize_images, to_float
from arinv.ops.inputs import check_count
from arinv.train import classifier, training
from arinv.types import Array, Batch, FeaturesFn, Metrics, Network, Variables

_TERMS = ("pixel", "feature", "adversarial")  # of the generator's loss
_STARTS = ("checkpoint", "random")  # weights of a trained encoder at the start
_START = 3  # PRNG stream of random ones, after those of `training`


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data or checkpoints.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    trained.check_generator(
        config.encoder.name,
        config.encoder.layer,
        variant=config.encoder.generator,
        image_size=config.data.image_size,
        latent=_latent_size(config) > 0,
    )
    models.feature_spec(config.encoder.name, config.loss.feature_layer or config.encoder.layer)
    check_loss(config.loss)
    check_checkpoint(config)
    _check_latents(config)


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the encoder exists and fits, or will once its stage is complete.

    Raises:
      UserError: no checkpoint, or one of another network or image size.
    """
    config, reference = run.config, run.config.encoder.checkpoint
    if not reference or not reference.startswith("stage:"):
        _load_encoder(run)
    elif not config.encoder.other_size:
        run.check_planned_size(reference)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: of configs/inverter.py; config.encoder.checkpoint names the classifier's workdir.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    encoder = _load_encoder(run)
    size = descriptions.report_size(encoder.description, run.config.data.image_size, run.config.title)
    return run.finish({**training.train(run, build, encoder=encoder), **size})


def build(run: Run, encoder: Trained, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: of configs/inverter.py.
      encoder: the frozen encoder, trained or with the shapes of its weights.
      info: of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: an encoder that does not fit the config, or a number out of range.
    """
    config, image_size, layer = run.config, run.config.data.image_size, run.config.encoder.layer
    generator, reader = _build_generator(run, encoder), _reader(config, encoder)
    inverted = models.LATENT if _latent_size(config) else layer
    structs = trained.feature_structs(reader.module, image_size)
    networks, autoencoder = {GENERATOR: (generator, (structs[inverted],))}, None
    if config.encoder.get("train", False):
        autoencoder = models.LayerAutoencoder(encoder.module, generator, layer)
        if _latent_size(config):
            autoencoder = models.VariationalAutoencoder(reader.module, generator)
        networks = {GENERATOR: (autoencoder, (trained.image_struct(image_size),))}
    side = trained.training_side(generator, structs[inverted])
    if side != image_size and (config.loss.feature > 0 or config.loss.adversarial > 0):
        raise UserError(
            f"encoder.generator={config.encoder.generator!r} returns {side} px of {image_size} px, which only pixels "
            "can be compared at: set loss.feature and loss.adversarial to 0, as loss=euclidean does"
        )
    discriminator = None
    if config.loss.adversarial > 0:
        conditional = config.loss.get("conditional", True)
        options = {} if conditional else {"conditional": False, "spectral_norm": False}
        discriminator = models.build_discriminator(image_size=image_size, dtype=run.dtype, **options)
        networks[DISCRIMINATOR] = (discriminator, (trained.image_struct(image_size), structs[layer]))
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    comparator = _comparator(run, info)
    step = make_train_step(
        encoder.module,
        generator,
        discriminator,
        optimizers,
        layer=layer,
        feature_layer=config.loss.feature_layer or layer,
        weights={**loss_weights(config.loss), "divergence": config.loss.get("divergence", 0.0)},
        pixel_order=config.loss.pixel_order,
        pause=config.loss.get("pause", 0.0),
        comparator=comparator and comparator.module,
        augmentation=config.augmentation.to_dict(),
        side=side,
        autoencoder=autoencoder,
    )
    eval_step = make_eval_step(reader.module, generator, layer=inverted)

    def evaluate(variables, batch, key, frozen, *comparator):
        if autoencoder is None:
            return eval_step(variables[GENERATOR], batch, frozen)
        own, generator_variables = (trained.part_of(variables[GENERATOR], part) for part in ("encoder", GENERATOR))
        return eval_step(generator_variables, batch, own)

    def start(state: TrainState) -> TrainState:
        fresh, own = (trained.part_of(state.variables[GENERATOR], part) for part in ("encoder", GENERATOR))
        start = trained.with_encoder(fresh, encoder.variables) if _latent_size(config) else encoder.variables
        return state.replace(variables={**state.variables, GENERATOR: trained.joined(start, own)})

    checkpoint = config.encoder.checkpoint
    source = workdirs.relative(run.resolve(checkpoint), run.workdir) if checkpoint else ""
    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=step,
        eval_step=evaluate,
        figure=lambda images: image_grid([to_float(images["image"]), images["reconstruction"]]),
        description={**_describe(config, encoder), "encoder_workdir": source},
        frozen=(encoder.variables, *([comparator.variables] if comparator else [])),
        start=None if autoencoder is None else start,
        normalization=encoder.module.normalization,
        host_features=encoder.module.host_features if encoder.module.has_host_features else None,
    )


def check_loss(loss: ConfigDict) -> None:
    """Checks the weights of a loss of reconstructions.

    Raises:
      UserError: a negative weight, no term that compares with the image, or an unknown order.
    """
    for name in _TERMS:
        if not loss[name] >= 0:
            raise UserError(f"loss.{name} must be 0 or more; got {loss[name]!r}")
    if not any(loss[name] > 0 for name in ("pixel", "feature")):
        raise UserError("loss.pixel and loss.feature are both 0, so nothing compares with the image; set one of them")
    if not loss.get("pause", 0.0) >= 0:
        raise UserError(f"loss.pause={loss.pause!r} must be 0 (no pause) or more: a ratio of two losses, such as 0.1")
    if loss.pixel_order not in (1, 2):
        raise UserError(f"loss.pixel_order={loss.pixel_order!r} must be 1 (absolute) or 2 (squared differences)")


def check_checkpoint(config: ConfigDict) -> None:
    """Checks that a config names an encoder.

    Raises:
      UserError: it does not.
    """
    module = models.build(config.encoder.name)
    has_weights = module.has_weights
    if not has_weights:
        models.build(config.encoder.name, **config.encoder.get("options", {})).check_installed()
    start = config.encoder.get("start", "checkpoint")
    if start not in _STARTS:
        raise unknown("encoder.start", start, _STARTS)
    if start == "random":
        _check_random(config, module)
    elif has_weights and not config.encoder.checkpoint:
        raise UserError("encoder.checkpoint is empty; name the workdir of a classifier's training")
    if not has_weights and config.encoder.get("train", False):
        raise UserError(f"encoder.train must be False: encoder {config.encoder.name!r} has no weights to train")
    if not has_weights and config.encoder.checkpoint:
        raise UserError(
            f"encoder.checkpoint={config.encoder.checkpoint!r} must be empty: encoder {config.encoder.name!r} has no "
            "weights"
        )


def _latent_size(config: ConfigDict) -> int:
    """Returns the number of latents of a variational autoencoder; 0 for another network."""
    return config.encoder.get("latent_size", 0)


def _check_latents(config: ConfigDict) -> None:
    """Checks the fields of a variational autoencoder.

    Raises:
      UserError: latents without an encoder that is trained, or without the divergence from their prior.
    """
    latent_size, weight = _latent_size(config), config.loss.get("divergence", 0.0)
    check_count(latent_size, "encoder.latent_size", least=0)
    if latent_size and not config.encoder.get("train", False):
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
      UserError: one that is not trained or has a checkpoint, or a layer behind its convolutions.
    """
    layer, specs = config.encoder.layer, module.feature_specs()
    if not config.encoder.get("train", False) or config.encoder.checkpoint:
        raise UserError(
            "encoder.start='random' needs encoder.train=True and an empty encoder.checkpoint, which has other weights"
        )
    models.build(config.encoder.name, num_classes=0, **config.encoder.options)
    fields = {"encoder.layer": layer}
    if not config.loss.get("comparator", ""):
        fields["loss.feature_layer"] = config.loss.feature_layer or layer
    for field, value in fields.items():
        if specs[value].is_vector:
            known = ", ".join(name for name, spec in specs.items() if not spec.is_vector)
            raise UserError(f"encoder.start='random' has convolutions alone: {field}={value!r} must be one of {known}")


def loss_weights(loss: ConfigDict) -> dict[str, float]:
    """Returns the weights of `make_update`."""
    return {name: loss[name] for name in (*_TERMS, "discriminator")}


def _comparator(run: Run, info: data.SourceInfo) -> Trained | None:
    """Returns the network that compares images in loss.comparator's place; None where the encoder does.

    Of an autoencoder it is the encoder. Before its stage is complete, it has the shapes of its weights.

    Raises:
      UserError: no usable checkpoint, one of another image size, or without the compared layer.
    """
    config = run.config
    if not config.loss.get("comparator", ""):
        return None
    size, layer = config.data.image_size, config.loss.feature_layer or config.encoder.layer
    workdir = run.resolve(config.loss.comparator)
    stage = run.stages.get(workdir)
    if stage is not None and not workdirs.is_complete(workdir):
        comparator = _planned(run, stage, info)
    else:
        comparator = run.load(config.loss.comparator, kind=(CLASSIFIER, INVERTER), image_size=size).encoder
    module = comparator.module
    known = [name for name, spec in module.feature_specs().items() if module.num_classes or not spec.is_vector]
    if layer not in known:
        raise unknown(f"loss.feature_layer of {config.loss.comparator}", layer, known)
    return comparator


def _planned(run: Run, stage: ConfigDict, info: data.SourceInfo) -> Trained:
    """Returns the encoder that a stage will train, with the shapes of its weights."""
    if stage.task == "classifier":
        return trained.abstract_encoder(classifier.describe(stage, info), dtype=run.dtype)
    if not stage.encoder.checkpoint:
        return initial_encoder(run.beside(stage, run.workdir))
    parent = run.stages.get(run.resolve(stage.encoder.checkpoint))
    return _planned(run, parent, info) if parent is not None else run.load(stage.encoder.checkpoint, kind=CLASSIFIER)


def _untrained(run: Run) -> Trained:
    """Returns the encoder of a config with random weights."""
    config = run.config
    return trained.untrained(
        jax.random.fold_in(run.key, _START),
        config.encoder.name,
        image_size=config.data.image_size,
        resize=config.data.resize,
        options=config.encoder.options.to_dict(),
        dtype=run.dtype,
    )


def _load_encoder(run: Run) -> Trained:
    """Returns the encoder, checked to fit the config.

    Raises:
      UserError: it does not fit, or cannot be read.
    """
    config, size = run.config, run.config.data.image_size
    if not config.encoder.checkpoint:
        encoder = initial_encoder(run)
        _build_generator(run, encoder)
        return encoder
    options = {"image_size": size, "other_size": config.encoder.get("other_size", False)}
    try:
        encoder = run.load(config.encoder.checkpoint, kind=CLASSIFIER, **options)
    except descriptions.OtherSize as error:
        raise UserError(f"{error}, or encoder.other_size=True to invert it at {size} px all the same") from error
    _build_generator(run, encoder)
    return encoder


def initial_encoder(run: Run) -> Trained:
    """Returns the encoder of a config without a checkpoint: one without weights, or with random ones."""
    config = run.config
    if config.encoder.get("start", "checkpoint") == "random":
        return _untrained(run)
    return trained.without_weights(
        config.encoder.name,
        image_size=config.data.image_size,
        resize=config.data.resize,
        options=dict(config.encoder.get("options", {})),
        dtype=run.dtype,
    )


def _reader(config: ConfigDict, encoder: Trained) -> Trained:
    """Returns the encoder, with the latents of a variational autoencoder where the config has some."""
    size = _latent_size(config)
    if not size:
        return encoder
    return trained.with_latents(encoder, config.encoder.layer, size, image_size=config.data.image_size)


def _build_generator(run: Run, encoder: Trained) -> Any:
    """Returns the untrained generator.

    Raises:
      UserError: another encoder than the config's, or an image size that the generator does not return.
    """
    config = run.config
    descriptions.check_encoder(encoder.description, config.encoder.name, config.encoder.checkpoint)
    return trained.build_generator(_describe(config, encoder), _reader(config, encoder), dtype=run.dtype)


def _describe(config: ConfigDict, encoder: Trained) -> dict[str, Any]:
    """Returns what the generator is rebuilt from, given its encoder."""
    size, layer = _latent_size(config), config.encoder.layer
    latents = {"layer": models.LATENT, "encoded_layer": layer, "latent_size": size} if size else {}
    initial = {"initial": dict(encoder.description)} if config.encoder.get("start", "checkpoint") == "random" else {}
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
        **({"trained_encoder": True} if config.encoder.get("train", False) else {}),
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
      side: of the generator's images in training, in pixels, which the images are reduced to; 0 for their own.
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
        given = _given_features(batch)
        if given is not None:
            images, features_fn = to_float(batch["image"]), None
            targets = {layer: given}
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
        goal = Goal(images, targets, features_fn, condition, batch["mask"])
        return update(keys, state, inputs, goal)

    return train_step


def _given_features(batch: Batch) -> Array | None:
    """Returns the features that come with a batch, sparse ones spread on their grid; None where there are none."""
    if "places" not in batch:
        return batch.get("features")
    height, width = (side // sift.CELL for side in batch["image"].shape[1:3])
    return sift.spread(batch["places"], batch["features"], height=height, width=width)


class Goal(NamedTuple):
    """What a batch of reconstructions is compared with; all constant in the gradient.

    Attributes:
      images: [B, H, W, C] in [0, 1].
      targets: the comparator's features of the images, by layer.
      features_fn: features function of the comparator.
      condition: second input of the discriminator, [B, ...]; None without a discriminator.
      mask: [B], 0 for padding.
    """

    images: Array
    targets: Mapping[str, Array]
    features_fn: FeaturesFn
    condition: Array | None
    mask: Array


def make_update(
    generator: Network,
    discriminator: Network | None,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    feature_layer: str,
    weights: Mapping[str, float],
    pixel_order: int = 1,
    pause: float = 0.0,
) -> Callable[[Array, TrainState, tuple, Goal], tuple[TrainState, Metrics]]:
    """Returns the pure update (keys [3], state, inputs of the generator, goal) -> (state one step on, metrics).

    Args:
      generator: inputs -> images; with weights["divergence"] above 0 in training (images, normal distribution of
        latents), as a `models.VariationalAutoencoder`.
      discriminator: (images, condition) -> logits; None to train without.
      optimizers: one for "generator" and one for "discriminator" where there is one.
      feature_layer: the feature that the feature loss compares.
      weights: {"pixel": ..., "feature": ..., "adversarial": ..., "discriminator": ...} of the terms, and
        "divergence", of the latents from N(0, I); 0 omits the term.
      pixel_order: 1 for l1, 2 for squared l2.
      pause: the discriminator is not updated while its loss is below this share of the generator's adversarial loss,
        without weights; 0 for never.

    Returns:
      A function whose metrics are the weighted terms, per image.

    Source: Rojas-Gomez et al. 2022, eqs. 4 to 8; Dosovitskiy & Brox 2016b for the pause, at 0.1, and the divergence.
    """
    divergence_weight = weights.get("divergence", 0.0)
    reconstruction_loss = functools.partial(
        _reconstruction_loss, feature_layer=feature_layer, weights=weights, pixel_order=pixel_order
    )

    def update(keys: Array, state: TrainState, inputs: tuple, goal: Goal):
        variables = state.variables[GENERATOR]

        def generate(params):
            outputs, collections = apply_train(generator, params, variables, *inputs, key=keys[0])
            if not divergence_weight:
                return (outputs, None), collections
            images, latents = outputs
            return (images, divergence_weight * losses.gaussian_divergence(*latents)), collections

        (reconstructions, divergence), backward, collections = jax.vjp(generate, variables["params"], has_aux=True)
        chex.assert_equal_shape([reconstructions, goal.images])

        terms, judge = {}, None
        if discriminator is not None:
            state, terms["discriminator"] = _discriminator_step(
                keys[1],
                state,
                discriminator,
                optimizers[DISCRIMINATOR],
                weights["discriminator"],
                reconstructions,
                goal,
                pause,
            )
            judge = _make_judge(keys[2], discriminator, state.variables[DISCRIMINATOR], goal.condition)

        loss_gradient = jax.grad(reconstruction_loss, has_aux=True)
        cotangent, (generator_terms, judge_collections) = loss_gradient(reconstructions, goal, judge)
        if judge_collections is not None:  # after the power iteration of the generator's forward pass
            discriminator_variables = {**state.variables[DISCRIMINATOR], **judge_collections}
            state = state.replace(variables={**state.variables, DISCRIMINATOR: discriminator_variables})
        of_divergence = None
        if divergence is not None:
            of_divergence = goal.mask / jnp.maximum(jnp.sum(goal.mask), 1)
            generator_terms = {**generator_terms, "divergence": divergence}
        (gradients,) = backward((cotangent, of_divergence))
        state = state.apply_gradients(GENERATOR, gradients, collections, optimizers[GENERATOR])

        report = {"loss": sum(generator_terms.values()), "psnr": metrics.psnr(reconstructions, goal.images)}
        report |= {f"loss_{name}": term for name, term in {**generator_terms, **terms}.items()}
        report = {name: (jnp.sum(value * goal.mask), jnp.sum(goal.mask)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return update


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _reconstruction_loss(reconstructions: Array, goal: Goal, judge, *, feature_layer, weights, pixel_order):
    """Returns the mean loss, and its weighted terms per image with the judge's new collections."""
    terms, collections = {}, None
    if weights["pixel"] > 0:
        terms["pixel"] = weights["pixel"] * losses.pixel_loss(reconstructions, goal.images, order=pixel_order)
    if weights["feature"] > 0:
        features = goal.features_fn(reconstructions)[feature_layer]
        chex.assert_equal_shape([features, goal.targets[feature_layer]])
        terms["feature"] = weights["feature"] * losses.feature_loss(features, goal.targets[feature_layer])
    if judge is not None:
        logits, collections = judge(reconstructions)
        terms["adversarial"] = weights["adversarial"] * losses.generator_loss(logits)
    chex.assert_equal_shape([goal.mask, *terms.values()])
    return _masked_mean(sum(terms.values()), goal.mask), (terms, collections)


def _discriminator_step(
    key, state, discriminator, optimizer, weight, reconstructions, goal: Goal, pause: float
) -> tuple[TrainState, Array]:
    """Returns the state after the discriminator's update, and its weighted loss per image [B].

    Two forward passes, of the images and then of the reconstructions, each with a power iteration of the spectral norms
    and a dropout mask of its own, as in the released code.
    """
    variables = state.variables[DISCRIMINATOR]
    keys = jax.random.split(key)

    def loss_fn(params):
        def judge(key, collections, images):
            return apply_train(discriminator, params, collections, images, goal.condition, key=key)

        real, collections = judge(keys[0], variables, goal.images)
        fake, collections = judge(keys[1], collections, reconstructions)
        loss, adversarial = losses.discriminator_loss(real, fake), losses.generator_loss(fake)
        is_ahead = _masked_mean(loss, goal.mask) < pause * _masked_mean(adversarial, goal.mask)
        return _masked_mean(weight * loss, goal.mask), (weight * loss, is_ahead, collections)

    gradients, (per_image, is_ahead, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    updated = state.apply_gradients(DISCRIMINATOR, gradients, collections, optimizer)
    if pause:
        updated = jax.tree.map(lambda before, after: jnp.where(is_ahead, before, after), state, updated)
    return updated, per_image


def _make_judge(key: Array, discriminator: Network, variables: Variables, condition: Any):
    """Returns images -> (logits [B], collections after the forward pass), in training mode."""

    def judge(images):
        return apply_train(discriminator, variables["params"], variables, images, condition, key=key)

    return judge


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
