"""Training of a GAN on the images of a dataset, such as those of one class, without labels.

Each step updates the discriminator on a batch of images and one of generated images, then the generator on the same
latents: the logistic game with the generator's non-saturating loss.

Source: Goodfellow et al. 2014, algorithm 1 and section 3; Radford et al. 2016, section 4 (Adam, 2e-4, 0.5, batch 128).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from arinv import data, losses, models
from arinv.experiment import trained
from arinv.experiment.run import Run, check_fields
from arinv.experiment.state import TrainState, apply_train
from arinv.experiment.trained import DISCRIMINATOR, GAN, GENERATOR
from arinv.ops.augment import augment
from arinv.ops.images import image_grid, to_float
from arinv.train import training
from arinv.types import Array, Batch, Metrics, Variables


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    models.build_gan(**config.gan, image_size=config.data.image_size)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the discriminator's probabilities on the test source.

    Args:
      run: of a config with gan, data, optimizer and augmentation.

    Raises:
      UserError: data that cannot be read.
    """
    return run.finish(training.train(run, build))


def build(run: Run, encoder: None, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: of a config with gan.
      encoder: None.
      info: of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: an image size that the GAN has not, or a number out of range.
    """
    del encoder
    config, image_size = run.config, run.config.data.image_size
    gan = models.build_gan(**config.gan, image_size=image_size, dtype=run.dtype)
    latents = jax.ShapeDtypeStruct((1, gan.latent_size), jnp.float32)
    networks = {
        GENERATOR: (gan.generator, (latents,)),
        DISCRIMINATOR: (gan.discriminator, (trained.image_struct(image_size),)),
    }
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=make_train_step(gan, optimizers, augmentation=config.augmentation.to_dict()),
        eval_step=functools.partial(evaluate, gan),
        figure=lambda images: image_grid([to_float(images["image"]), images["generated"]]),
        description={
            "kind": GAN,
            "gan": config.gan.to_dict(),
            "image_size": image_size,
            "resize": config.data.resize,
            "class_names": list(info.class_names),
        },
    )


def make_train_step(
    gan: models.Gan, optimizers: Mapping[str, optax.GradientTransformation], *, augmentation: Mapping
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key) -> (state, metrics).

    Args:
      gan: the networks and the law of the latents.
      optimizers: one for "generator" and one for "discriminator".
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics are the losses and the discriminator's probabilities, per image.
    """

    def train_step(state: TrainState, batch: Batch, key: Array):
        augment_key, latent_key, *keys = jax.random.split(jax.random.fold_in(key, state.step), 6)
        images, mask = augment(augment_key, batch["image"], **augmentation), batch["mask"]
        latents = gan.sample(latent_key, images.shape[0])

        def generate(params):
            variables = state.variables[GENERATOR]
            return apply_train(gan.generator, params, variables, latents, key=keys[0])

        def judge(params, variables, images, key):
            return apply_train(gan.discriminator, params, variables, images, key=key)

        def mean(values):
            return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)

        params = state.variables[GENERATOR]["params"]
        generated, backward, collections = jax.vjp(generate, params, has_aux=True)

        def discriminator_loss(params):
            real, variables = judge(params, state.variables[DISCRIMINATOR], images, keys[1])
            fake, variables = judge(params, variables, generated, keys[2])
            loss = losses.discriminator_loss(real, fake)
            return mean(loss), (loss, jax.nn.sigmoid(real), jax.nn.sigmoid(fake), variables)

        params = state.variables[DISCRIMINATOR]["params"]
        gradients, (d_loss, real, fake, variables) = jax.grad(discriminator_loss, has_aux=True)(params)
        state = state.apply_gradients(DISCRIMINATOR, gradients, variables, optimizers[DISCRIMINATOR])

        def generator_loss(generated):
            updated = state.variables[DISCRIMINATOR]
            loss = losses.generator_loss(judge(updated["params"], updated, generated, keys[3])[0])
            return mean(loss), loss

        cotangent, g_loss = jax.grad(generator_loss, has_aux=True)(generated)
        (gradients,) = backward(cotangent)
        state = state.apply_gradients(GENERATOR, gradients, collections, optimizers[GENERATOR])
        values = {"loss": g_loss, "loss_discriminator": d_loss, "real_probability": real, "fake_probability": fake}
        report = {name: (jnp.sum(value * mask), jnp.sum(mask)) for name, value in values.items()}
        return state.replace(step=state.step + 1), report

    return train_step


def evaluate(gan: models.Gan, variables: Mapping[str, Variables], batch: Batch, key: Array) -> Mapping[str, Array]:
    """Returns the discriminator's probabilities of images and of as many generated ones, each [B], and the latter.

    Args:
      gan: the networks.
      variables: of both.
      batch: with "image".
      key: of the latents.
    """
    images = to_float(batch["image"])
    latents = gan.sample(key, images.shape[0])
    generated = gan.generator.apply(variables[GENERATOR], latents, train=False)
    real, fake = (gan.discriminator.apply(variables[DISCRIMINATOR], x, train=False) for x in (images, generated))
    return {
        "real_probability": jax.nn.sigmoid(real),
        "fake_probability": jax.nn.sigmoid(fake),
        "generated": generated,
    }
