"""Training of an AEGAN: an autoencoder whose decoder is the generator of a GAN, trained against a discriminator.

The discriminator gets images and what the decoder generates from N(0, I), in the logistic game. The autoencoder's loss
has the adversarial term of generated images, the squared error of reconstructed images, the divergence of their codes
from N(0, I), and where an operator is given the squared error of restored images. In training a code is drawn around
its mean; in evaluation the encoder returns the mean. Terms are sums over an image, or a code, and means over the batch.

Source: Generative Encoder, eq. 6 and section 4.5. Weights of the terms are not stated there: all are 1 for images in
[-1, 1], whose squared errors are 4 times those of images in [0, 1].
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from arinv import data, losses, models
from arinv.errors import UserError
from arinv.experiment.fields import channels_of
from arinv.experiment.loading import image_struct
from arinv.experiment.run import Run
from arinv.experiment.state import AVERAGE, TrainState
from arinv.experiment.trained import AUTOENCODER, DISCRIMINATOR
from arinv.ops.augment import augment
from arinv.ops.degradations import Operator, image_keys
from arinv.ops.inputs import check_number
from arinv.ops.latents import draw_latents
from arinv.train import autoencoder, training
from arinv.train.gan import update_discriminator
from arinv.types import Array, Batch, Metrics, Network

_GAME = {"name": "logistic"}
_TERMS = ("adversarial", "reconstruction", "divergence", "restoration")


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data or checkpoints.

    Raises:
      UserError: unknown name or number out of range.
    """
    autoencoder.check_shared(config)
    _build(config, jnp.float32)
    for name in _TERMS:
        check_number(config.loss[name], f"loss.{name}", minimum=0.0)


check_inputs = training.check_inputs


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: a run of configs/autoencoder.py with networks=aegan.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    return autoencoder.finish(run, training.train(run, build))


def build(run: Run, frozen: None, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: a run of configs/autoencoder.py with networks=aegan.
      frozen: None, since it is trained on no other network.
      info: description of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: a number out of range.
    """
    config = run.config
    module, discriminator = _build(config, run.dtype)
    images = image_struct(config.data.image_size, channels_of(config))
    networks = {AUTOENCODER: (module, (images,)), DISCRIMINATOR: (discriminator, (images,))}
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    operator = autoencoder.operator_of(config)
    step = make_train_step(
        module,
        discriminator,
        optimizers,
        operator=operator,
        weights=config.loss.to_dict(),
        ema_decay=config.ema_decay,
        augmentation=config.augmentation.to_dict(),
    )
    evaluate = autoencoder.make_eval_step(module, operator)
    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=step,
        eval_step=lambda variables, *others: evaluate({AUTOENCODER: variables[AVERAGE]}, *others),
        figure=autoencoder.figure,
        description={**autoencoder.describe(config), "weights": AVERAGE},
        extend=lambda state: state.start_average(AUTOENCODER),
    )


def _build(config: ConfigDict, dtype: jax.typing.DTypeLike) -> tuple[models.Autoencoder, Network]:
    """Returns the autoencoder, and the discriminator of its generator's GAN."""
    spec = config.autoencoder
    if spec.networks != "aegan":
        raise UserError(f"an AEGAN has autoencoder.networks 'aegan'; got {spec.networks!r}")
    shared = {"image_size": config.data.image_size, "channels": channels_of(config), "dtype": dtype}
    options = spec.options.to_dict()
    module = models.build_autoencoder("aegan", latent_size=spec.latent_size, **shared, **options)
    options.pop("learned_variance", None)
    return module, models.build_gan("progressive", **shared, **options).discriminator


def make_train_step(
    module: models.Autoencoder,
    discriminator: Network,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    operator: Operator,
    weights: Mapping[str, float],
    ema_decay: float = 0.999,
    augmentation: Mapping[str, Any],
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key) -> (state, metrics).

    Args:
      module: the autoencoder; "autoencoder" in the state.
      discriminator: images -> logits.
      optimizers: one for "autoencoder" and one for "discriminator".
      operator: operator of the degraded images.
      weights: weights of the terms "adversarial", "reconstruction", "divergence" and "restoration"; 0 omits the last.
      ema_decay: decay of the moving average of the autoencoder.
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics are the weighted terms of the autoencoder, per image, and "loss_logistic", "real" and
      "fake" of the discriminator.
    """

    def train_step(state: TrainState, batch: Batch, key: Array):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 8)
        images = augment(keys[0], batch["image"], **augmentation)
        count = images.shape[0]
        latents = draw_latents(keys[1], (2, count, module.decoder.latent_size), prior="normal")
        degraded = operator.degrade(image_keys(keys[2], jnp.arange(count)), images)
        before = state.variables[AUTOENCODER]["params"]
        fakes = _decode(module, before, latents[0])
        state, report = update_discriminator(
            state, discriminator, optimizers[DISCRIMINATOR], images, fakes, keys[3:6], game=_GAME
        )
        discriminator_variables = state.variables[DISCRIMINATOR]

        def loss_fn(params):
            outputs, divergence = _reconstruct(module, params, images, keys[6])
            generated = _decode(module, params, latents[1])
            terms = {
                "adversarial": losses.generator_loss(
                    discriminator.apply(discriminator_variables, generated, train=True)
                ),
                "reconstruction": losses.pixel_loss(outputs, images, order=2),
                "divergence": divergence,
            }
            if weights["restoration"]:
                restored, _ = _reconstruct(module, params, degraded, keys[7])
                terms["restoration"] = losses.pixel_loss(restored, images, order=2)
            terms = {name: weights[name] * term for name, term in terms.items()}
            return jnp.mean(sum(terms.values())), terms

        gradients, terms = jax.grad(loss_fn, has_aux=True)(before)
        state = state.apply_gradients(AUTOENCODER, gradients, {}, optimizers[AUTOENCODER])
        state = state.update_average(AUTOENCODER, ema_decay)
        report |= {"loss": sum(terms.values())} | {f"loss_{name}": term for name, term in terms.items()}
        report = {name: (jnp.sum(value), jnp.asarray(count, jnp.float32)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return train_step


def _decode(module: models.Autoencoder, params: Any, codes: Array) -> Array:
    return module.decoder.apply({"params": params["decoder"]}, codes, train=True)


def _reconstruct(module: models.Autoencoder, params: Any, images: Array, key: Array) -> tuple[Array, Array]:
    """Returns the images of codes drawn around their means, and the divergence of the codes [B]."""
    means, log_variances = module.encoder.apply({"params": params["encoder"]}, images, method="moments")
    codes = means + jnp.exp(log_variances / 2) * draw_latents(key, means.shape, prior="normal")
    return _decode(module, params, codes), losses.gaussian_divergence(means, log_variances)
