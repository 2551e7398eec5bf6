"""Training of a GAN: a generator of images from noise, and a discriminator, in one of the games of `arinv.train.games`.

A network that grows is trained in stages, each from the one before: config.start names the stage of half the size, or
of the same size, and with config.fade the new blocks fade in over the steps of the stage. Each stage has new
optimizers. In a step the discriminator is updated first, then the moving average of the generator, which is kept,
then the generator.

Source: Karras et al. 2018, sections 2 and A.1; Berthelot et al. 2017, section 3; as used by the Generative Encoder.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from arinv import data, losses, models, parallel
from arinv.errors import UserError, unknown
from arinv.experiment import checkpoint, loading, measurement, workdirs
from arinv.experiment.fields import channels_of, check_fields
from arinv.experiment.loading import abstract_gan, image_struct
from arinv.experiment.run import Run
from arinv.experiment.state import AVERAGE, TrainState, apply_train
from arinv.experiment.trained import DISCRIMINATOR, GAN, GENERATOR, Trained
from arinv.models.gans.progressive import fade_images, grow
from arinv.ops.augment import augment
from arinv.ops.images import image_grid, to_float
from arinv.ops.inputs import check_number
from arinv.train import training
from arinv.train.games import GAMES, Turn
from arinv.types import Array, Batch, Metrics, Network, Variables

_BALANCE = "balance"  # of a game that has one, besides the networks in the state


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data or checkpoints.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    gan = loading.build_gan(describe(config))
    game = config.game
    if game.name not in GAMES:
        raise unknown("game", game.name, GAMES)
    if GAMES[game.name].has_balance != GAMES[gan.game].has_balance:
        raise UserError(f"networks {config.gan.networks!r} are trained in the game {gan.game!r}; got {game.name!r}")
    for name, maximum in (("penalty", np.inf), ("drift", np.inf), ("ratio", 1.0)):
        check_number(game[name], f"game.{name}", minimum=0.0, maximum=maximum)
    if (config.fade or config.start) and not gan.grows:
        raise UserError(f"networks {config.gan.networks!r} do not grow: start must be empty and fade False")
    if config.fade and not config.start:
        raise UserError("fade=True needs start, the workdir of the GAN of half the image size")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the GAN it starts from and the metric's encoder exist or are earlier stages.

    Raises:
      UserError: no checkpoint, or one of other networks or of another image size.
    """
    reference = run.config.start
    if reference and (planned := run.check_planned(reference, kind=GAN, allow_other_size=True)) is not None:
        _check_start(run.config, planned.gan.to_dict(), planned.data.image_size)
    elif reference:
        _load_start(run)
    measurement.check_metric_encoder(run)
    training.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: a run of configs/gan.py.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    network, config = measurement.load_metric_encoder(run), run.config
    if network is None:
        return run.finish(training.train(run, build))
    gan, test = loading.build_gan(describe(config), dtype=run.dtype), run.open_data("test")
    distance = measurement.sample_distance(gan, network, test, key=run.key, batch_size=config.batch_size)
    results = training.train(run, build, measure=lambda variables: distance(parallel.to_host(variables[AVERAGE])))
    place = workdirs.relative(run.resolve(config.metric_encoder), run.workdir)
    return run.finish({**results, "metric_encoder": place})


def build(run: Run, frozen: None, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: a run of configs/gan.py.
      frozen: None, since a GAN is trained on no other network.
      info: description of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: a GAN to start from that does not fit, or a number out of range.
    """
    config = run.config
    gan = loading.build_gan(describe(config), dtype=run.dtype)
    latents = jax.ShapeDtypeStruct((1, gan.latent_size), jnp.float32)
    fade = (jax.ShapeDtypeStruct((), jnp.float32),) if gan.grows else ()
    images = image_struct(config.data.image_size, channels_of(config))
    networks = {GENERATOR: (gan.generator, (latents, *fade)), DISCRIMINATOR: (gan.discriminator, (images, *fade))}
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    fade_steps = training.total_steps(config, steps_per_epoch) if config.fade else 0
    step = make_train_step(
        gan,
        optimizers,
        game=config.game.to_dict(),
        fade_steps=fade_steps,
        ema_decay=config.ema_decay,
        augmentation=config.augmentation.to_dict(),
    )

    def extend(state: TrainState) -> TrainState:
        state = state.start_average(GENERATOR)
        return state.replace(extra={_BALANCE: jnp.zeros(())}) if GAMES[config.game.name].has_balance else state

    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=step,
        eval_step=make_eval_step(gan, config.game.name),
        figure=lambda images: image_grid([to_float(images["image"]), np.clip(images["sample"], 0, 1)]),
        description=describe(config),
        extend=extend,
        start=functools.partial(_start, run) if config.start else None,
    )


def describe(config: ConfigDict) -> dict[str, Any]:
    """Returns what the generator is rebuilt from."""
    return {
        "kind": GAN,
        "gan": config.gan.to_dict(),
        "image_size": config.data.image_size,
        "channels": channels_of(config),
        "resize": config.data.resize,
        "game": config.game.to_dict(),
    }


def _load_start(run: Run) -> Trained:
    """Returns the GAN that the training starts from.

    Raises:
      UserError: none there, or one of other networks.
    """
    config = run.config
    start = run.load(config.start, kind=GAN)
    _check_start(config, start.description["gan"], start.image_size)
    return start


def _check_start(config: ConfigDict, networks: Mapping[str, Any], before: int) -> None:
    """Checks that the GAN that config.start names can be continued.

    Args:
      config: config of the training.
      networks: config.gan of that GAN.
      before: side of its images, in pixels.

    Raises:
      UserError: other networks, or an image size that is not that before.
    """
    size = config.data.image_size
    if networks != config.gan.to_dict():
        raise UserError(f"{config.start} has gan={networks}, the config {config.gan.to_dict()}; give both the same")
    expected = size // 2 if config.fade else size
    if before != expected:
        raise UserError(f"{config.start} has images of {before} px; data.image_size={size} continues {expected} px")


def _start(run: Run, state: TrainState) -> TrainState:
    """Returns a new state with the weights of config.start."""
    description = _load_start(run).description
    before = checkpoint.load_variables(run.resolve(run.config.start), abstract_gan(description)[1])
    merged = {name: grow(state.variables[name], value) for name, value in before.items()}
    return state.replace(variables={**state.variables, **merged})


def make_train_step(
    gan: models.Gan,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    game: Mapping[str, Any],
    fade_steps: int = 0,
    ema_decay: float = 0.999,
    augmentation: Mapping[str, Any],
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key) -> (state, metrics).

    Args:
      gan: its networks.
      optimizers: one for "generator" and one for "discriminator".
      game: {"name": one of GAMES, "penalty", "drift": of wasserstein_gp, "ratio", "rate": of equilibrium}.
      fade_steps: steps over which the share of the last block rises from 0 to 1; 0: it is 1.
      ema_decay: decay of the moving average of the generator.
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics are the losses and what the game measures, per image.

    Source: Karras et al. 2018, section A.1: one update of each network, lambda 10, drift 1e-3, decay 0.999.
    """

    def train_step(state: TrainState, batch: Batch, key: Array):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 7)
        images = augment(keys[0], batch["image"], **augmentation)
        count = images.shape[0]
        fade = (jnp.minimum(1.0, state.step / fade_steps) if fade_steps else jnp.ones(()),) if gan.grows else ()
        if fade_steps:
            images = fade_images(images, fade[0])
        before = state.variables[GENERATOR]
        latents = gan.draw(keys[1], count)
        fakes, collections = apply_train(gan.generator, before["params"], before, latents, *fade, key=keys[2])
        state = state.replace(variables={**state.variables, GENERATOR: {**before, **collections}})
        state, report = update_discriminator(
            state, gan.discriminator, optimizers[DISCRIMINATOR], images, fakes, keys[3:6], game=game, fade=fade
        )
        state = state.update_average(GENERATOR, ema_decay)
        state, report["loss_generator"] = _update_generator(
            state, gan, optimizers[GENERATOR], keys[6], count, loss=GAMES[game["name"]].generator_loss, fade=fade
        )
        report = {name: (jnp.sum(value), jnp.asarray(count, jnp.float32)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return train_step


def update_discriminator(
    state: TrainState,
    discriminator: Network,
    optimizer: optax.GradientTransformation,
    images: Array,
    fakes: Array,
    keys: Array,
    *,
    game: Mapping[str, Any],
    fade: tuple[Array, ...] = (),
) -> tuple[TrainState, dict[str, Array]]:
    """Updates the discriminator, and the balance k of the equilibrium game; `step` is unchanged.

    Args:
      state: with "discriminator", and of the equilibrium game "balance" in its extra.
      discriminator: the network.
      optimizer: its optimizer.
      images: [B, H, W, C] in [0, 1].
      fakes: of the same shape, generated.
      keys: three PRNG keys, of its dropout for each batch and of the gradient penalty.
      game: see `make_train_step`.
      fade: second input of a network that grows; empty for others.

    Returns:
      The new state, and the losses and scores of each image.
    """
    fakes, row = jax.lax.stop_gradient(fakes), GAMES[game["name"]]
    balance = state.extra[_BALANCE] if row.has_balance else None
    variables = state.variables[DISCRIMINATOR]
    shares_key, penalty_key = jax.random.split(keys[2])

    def discriminate(params, variables, images, key):
        return apply_train(discriminator, params, variables, images, *fade, key=key)

    def loss_fn(params):
        real, collections = discriminate(params, variables, images, keys[0])
        fake, collections = discriminate(params, {**variables, **collections}, fakes, keys[1])
        turn = Turn(
            images, fakes, real, fake, lambda x: discriminate(params, variables, x, penalty_key)[0], shares_key, balance
        )
        terms = row.discriminator_terms(turn, game)
        measured = row.measure(real, images), row.measure(fake, fakes)
        return jnp.mean(sum(terms.values())), (terms, measured, collections)

    gradients, (terms, (real, fake), collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    state = state.apply_gradients(DISCRIMINATOR, gradients, collections, optimizer)
    report = {"loss": sum(terms.values()), "real": real, "fake": fake}
    report |= {f"loss_{name}": term for name, term in terms.items()}
    if row.has_balance:
        errors = jnp.mean(real), jnp.mean(fake)
        new = losses.update_balance(balance, *errors, ratio=game["ratio"], rate=game["rate"])
        state = state.replace(extra={**state.extra, _BALANCE: new})
        report["convergence"] = jnp.full(len(images), errors[0] + jnp.abs(game["ratio"] * errors[0] - errors[1]))
        report["balance"] = jnp.full(len(images), new)
    return state, report


def _update_generator(
    state: TrainState,
    gan: models.Gan,
    optimizer: optax.GradientTransformation,
    key: Array,
    count: int,
    *,
    loss: Callable[[Array, Array], Array],
    fade: tuple[Array, ...],
) -> tuple[TrainState, Array]:
    """Returns the state after an update of the generator, and its losses [count]."""
    latent_key, dropout_key, discriminator_key = jax.random.split(key, 3)
    variables, discriminator = state.variables[GENERATOR], state.variables[DISCRIMINATOR]

    def loss_fn(params):
        latents = gan.draw(latent_key, count)
        images, collections = apply_train(gan.generator, params, variables, latents, *fade, key=dropout_key)
        output, _ = apply_train(
            gan.discriminator, discriminator["params"], discriminator, images, *fade, key=discriminator_key
        )
        per_image = loss(output, images)
        return jnp.mean(per_image), (per_image, collections)

    gradients, (per_image, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
    return state.apply_gradients(GENERATOR, gradients, collections, optimizer), per_image


def make_eval_step(
    gan: models.Gan, game: str
) -> Callable[[Mapping[str, Variables], Batch, Array], Mapping[str, Array]]:
    """Returns the pure step (variables, batch, key) -> results.

    Args:
      gan: the networks.
      game: that they are trained in.

    Returns:
      A function returning "real" and "fake", the discriminator's scores, probabilities or errors of images and of
      samples, each [B], and "sample" [B, H, W, C] of the averaged generator. Rows of padding repeat the images, since
      a discriminator may compare those of a batch.
    """

    def eval_step(variables: Mapping[str, Variables], batch: Batch, key: Array) -> Mapping[str, Array]:
        images = to_float(batch["image"])
        count = jnp.maximum(jnp.sum(batch["mask"] > 0), 1)
        images = images[jnp.arange(images.shape[0]) % count]
        samples = gan.generator.apply(variables[AVERAGE], gan.draw(key, images.shape[0]), train=False)
        real, fake = (
            GAMES[game].measure(gan.discriminator.apply(variables[DISCRIMINATOR], x, train=False), x)
            for x in (images, samples)
        )
        return {"real": real, "fake": fake, "sample": samples}

    return eval_step
