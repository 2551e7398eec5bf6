"""Training of an autoencoder on images, on those of a GAN, and on degraded images that it restores.

The Generative Encoder compares images by this encoder's codes. A batch has as many generated images as real ones.

Source: Generative Encoder, sections 3.1, 3.2 and 4.3; optimizer, rate and batch are not stated there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from arinv import data, metrics, models
from arinv.experiment import checkpoint, loading, workdirs
from arinv.experiment.fields import channels_of, check_fields
from arinv.experiment.loading import image_struct
from arinv.experiment.run import Run
from arinv.experiment.state import AVERAGE, TrainState, apply_train
from arinv.experiment.trained import AUTOENCODER, GAN, Trained
from arinv.ops.augment import augment
from arinv.ops.degradations import Operator, build_operator, check_size, image_keys
from arinv.ops.images import image_grid, to_float
from arinv.ops.inputs import check_number
from arinv.train import gan, training
from arinv.types import Array, Batch, DecodeFn, Metrics, Network, Variables


def check(config: ConfigDict) -> None:
    """Checks everything that does not depend on data or checkpoints.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_shared(config)
    loading.build_autoencoder(describe(config))
    check_number(config.loss.restoration, "loss.restoration", minimum=0.0)


def check_shared(config: ConfigDict) -> None:
    """Checks the fields that every training of an autoencoder has.

    Raises:
      UserError: unknown name or number out of range.
    """
    check_fields(config)
    training.check(config)
    check_size(operator_of(config), image_size=config.data.image_size, channels=channels_of(config))


def operator_of(config: ConfigDict) -> Operator:
    """Returns the operator of the degraded images.

    Raises:
      UserError: unknown name or number out of range.
    """
    return build_operator(config.operator.name, **config.operator.options.to_dict())


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the GAN fits, whether it exists or a stage trains it.

    Raises:
      UserError: no checkpoint, or one of another image size.
    """
    if not run.config.gan or run.check_planned(run.config.gan, kind=GAN) is None:
        load_frozen(run)
    training.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Trains, saves checkpoints in the workdir, and returns the results on the test source.

    Args:
      run: a run of configs/autoencoder.py.

    Raises:
      UserError: data or checkpoints that cannot be read or do not fit the config.
    """
    return finish(run, training.train(run, build, load_frozen(run)))


def finish(run: Run, results: Mapping[str, Any]) -> dict[str, Any]:
    """Writes and returns the results of a training, with the formula of the operator."""
    formula = operator_of(run.config).formula
    return run.finish({**results, "operator": {**run.config.operator.to_dict(), "formula": formula}})


def build(run: Run, frozen: Trained | None, info: data.SourceInfo, steps_per_epoch: int) -> training.TrainSetup:
    """Returns what is trained, and how.

    Args:
      run: a run of configs/autoencoder.py.
      frozen: the GAN; None to train on images alone.
      info: description of the training images.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: a number out of range.
    """
    config, origin = run.config, {}
    if config.gan:
        origin["gan_workdir"] = workdirs.relative(run.resolve(config.gan), run.workdir)
    module = loading.build_autoencoder(describe(config), dtype=run.dtype)
    networks = {AUTOENCODER: (module, (image_struct(config.data.image_size, channels_of(config)),))}
    optimizers = training.make_optimizers(config, tuple(networks), steps_per_epoch)
    operator = operator_of(config)
    step = make_train_step(
        module,
        optimizers[AUTOENCODER],
        gan=frozen and frozen.module,
        operator=operator,
        restoration=config.loss.restoration,
        augmentation=config.augmentation.to_dict(),
    )
    return training.TrainSetup(
        networks=networks,
        optimizers=optimizers,
        train_step=step,
        eval_step=make_eval_step(module, operator),
        figure=figure,
        description=describe(config) | origin,
        frozen=(frozen.decode_fn,) if frozen else (),
    )


_ROWS = ("reconstruction", "degraded", "restored")


def figure(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns test images above their reconstructions, their degraded versions, and what is restored from these."""
    return image_grid([np.clip(rows, 0, 1) for rows in (to_float(images["image"]), *(images[name] for name in _ROWS))])


def load_frozen(run: Run) -> Trained | None:
    """Returns the GAN whose images are added to the batches; None where the config names none.

    Raises:
      UserError: none there, or one of another image size or number of channels.
    """
    if not run.config.gan:
        return None
    config = run.config
    return run.load(config.gan, kind=GAN, image_size=config.data.image_size, channels=channels_of(config))


def plan_frozen(run: Run) -> Trained | None:
    """Returns the GAN with the shapes of its weights, whether it is trained already or not; None without one.

    Raises:
      UserError: no GAN there.
    """
    if not run.config.gan:
        return None
    stage = run.check_planned(run.config.gan, kind=GAN)
    description = gan.describe(stage) if stage else checkpoint.load_description(run.resolve(run.config.gan), kind=GAN)
    module, shapes = loading.abstract_gan(description, dtype=run.dtype)
    return Trained(GAN, module, shapes[AVERAGE], description)


def describe(config: ConfigDict) -> dict[str, Any]:
    """Returns what the autoencoder is rebuilt from."""
    return {
        "kind": AUTOENCODER,
        "autoencoder": config.autoencoder.to_dict(),
        "image_size": config.data.image_size,
        "channels": channels_of(config),
        "resize": config.data.resize,
        "operator": config.operator.to_dict(),
    }


def make_train_step(
    autoencoder: Network,
    optimizer: optax.GradientTransformation,
    *,
    gan: models.Gan | None = None,
    operator: Operator,
    restoration: float = 1.0,
    augmentation: Mapping[str, Any],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the pure step (state, batch, key[, generator's decode_fn]) -> (state, metrics).

    Args:
      autoencoder: images -> reconstructions; "autoencoder" in the state.
      optimizer: its optimizer.
      gan: draws the latents of as many generated images as there are images; None to train on images alone.
      operator: operator of the degraded images.
      restoration: weight of the error of the restored images; 0 omits them.
      augmentation: options of ops.augment.augment.

    Returns:
      A function whose metrics are the mean squared errors of reconstructed and of restored images, and their PSNR.
    """

    def train_step(state: TrainState, batch: Batch, key: Array, decode_fn: DecodeFn | None = None):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 5)
        images, mask = augment(keys[0], batch["image"], **augmentation), batch["mask"]
        count = images.shape[0]
        if gan is not None:
            generated = jax.lax.stop_gradient(jnp.clip(decode_fn(gan.draw(keys[1], count)), 0, 1))
            images, mask = jnp.concatenate([images, generated]), jnp.concatenate([mask, mask])
        degraded = operator.degrade(image_keys(keys[2], jnp.arange(images.shape[0])), images) if restoration else None
        variables = state.variables[AUTOENCODER]

        def loss_fn(params):
            outputs, collections = apply_train(autoencoder, params, variables, images, key=keys[3])
            terms = {"reconstruction": metrics.mean_squared_error(outputs, images)}
            if restoration:
                restored, collections = apply_train(autoencoder, params, variables, degraded, key=keys[4])
                terms["restoration"] = restoration * metrics.mean_squared_error(restored, images)
            loss = sum(terms.values())
            report = {"loss": loss, "psnr": metrics.psnr(outputs, images)}
            report |= {f"loss_{name}": term for name, term in terms.items()}
            return jnp.sum(loss * mask) / jnp.maximum(jnp.sum(mask), 1), (report, collections)

        gradients, (report, collections) = jax.grad(loss_fn, has_aux=True)(variables["params"])
        state = state.apply_gradients(AUTOENCODER, gradients, collections, optimizer)
        report = {name: (jnp.sum(value * mask), jnp.sum(mask)) for name, value in report.items()}
        return state.replace(step=state.step + 1), report

    return train_step


def make_eval_step(
    autoencoder: Network, operator: Operator
) -> Callable[[Mapping[str, Variables], Batch, Array], Mapping[str, Array]]:
    """Returns the pure step (variables, batch, key[, ...]) -> results.

    Args:
      autoencoder: images [B, H, W, C] in [0, 1] -> reconstructions of the same shape; "autoencoder" in the variables.
      operator: operator of the degraded images.

    Returns:
      A function returning "psnr" and "psnr_restored", in dB, and of images of 11 px or more "ssim", each [B], and
      "reconstruction", "degraded" and "restored", [B, H, W, C].
    """

    def eval_step(variables: Mapping[str, Variables], batch: Batch, key: Array, *frozen: Any) -> Mapping[str, Array]:
        images = to_float(batch["image"])
        degraded = operator.degrade(image_keys(key, jnp.arange(images.shape[0])), images)
        outputs, restored = (
            jnp.clip(autoencoder.apply(variables[AUTOENCODER], x, train=False), 0, 1) for x in (images, degraded)
        )
        results = {"ssim": metrics.ssim(outputs, images)} if images.shape[1] >= metrics.SSIM_WINDOW else {}
        return results | {
            "psnr": metrics.psnr(outputs, images),
            "psnr_restored": metrics.psnr(restored, images),
            "reconstruction": outputs,
            "degraded": degraded,
            "restored": restored,
        }

    return eval_step
