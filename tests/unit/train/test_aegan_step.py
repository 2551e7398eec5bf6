"""The step of AEGAN: its terms, and what each network is updated by."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arinv import losses, models
from arinv.experiment.state import TrainState
from arinv.ops.degradations import build_operator
from arinv.ops.latents import draw_latents
from arinv.train import aegan

pytestmark = pytest.mark.long  # whole steps are compiled

WEIGHTS = {"adversarial": 0.5, "reconstruction": 2.0, "divergence": 0.1, "restoration": 0.0}
OPTIONS = {"base_width": 16, "max_width": 4}
SIDE, LATENT = 4, 3


@pytest.mark.parametrize("learned_variance", [False, True])
def test_step_reports_the_weighted_terms_and_updates_both_networks(learned_variance, key):
    module = models.build_autoencoder(
        "aegan", image_size=SIDE, latent_size=LATENT, learned_variance=learned_variance, **OPTIONS
    )
    discriminator = models.build_gan("progressive", image_size=SIDE, latent_size=LATENT, **OPTIONS).discriminator
    images = (jnp.zeros((1, SIDE, SIDE, 3)),)
    networks = {"autoencoder": (module, images), "discriminator": (discriminator, images)}
    optimizers = {name: optax.sgd(1e-2) for name in networks}
    create = jax.jit(lambda key: TrainState.create(key, networks, optimizers).start_average("autoencoder"))
    state = create(jax.random.key(1))
    step = aegan.make_train_step(
        module, discriminator, optimizers, operator=build_operator("identity"), weights=WEIGHTS, augmentation={}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)
    new, metrics = jax.jit(step)(state, {"image": pixels}, key)
    means = {name: float(total / count) for name, (total, count) in metrics.items()}

    keys = jax.random.split(jax.random.fold_in(key, 0), 8)
    params, x = state.variables["autoencoder"]["params"], pixels / np.float32(255)
    mean, log_variance = module.encoder.apply({"params": params["encoder"]}, x, method="moments")
    assert learned_variance == bool(jnp.abs(log_variance).max() > 0)
    codes = mean + jnp.exp(log_variance / 2) * draw_latents(keys[6], mean.shape, prior="normal")
    decode = jax.jit(lambda z: module.decoder.apply({"params": params["decoder"]}, z))
    discriminate = jax.jit(discriminator.apply)
    squared = np.square(np.asarray(decode(codes)) - x).sum((1, 2, 3)).mean()
    divergence = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1).mean() / 2
    assert means["loss_reconstruction"] == pytest.approx(2.0 * squared, rel=1e-4)
    assert means["loss_divergence"] == pytest.approx(0.1 * float(divergence), rel=1e-4)
    latents = draw_latents(keys[1], (2, 4, LATENT), prior="normal")
    logits = discriminate(new.variables["discriminator"], decode(latents[1]))
    adversarial = 0.5 * float(losses.generator_loss(logits).mean())
    assert means["loss_adversarial"] == pytest.approx(adversarial, rel=1e-4)
    assert means["loss"] == pytest.approx(
        sum(means[f"loss_{name}"] for name in ("adversarial", "reconstruction", "divergence"))
    )

    real, fake = (discriminate(state.variables["discriminator"], y) for y in (x, decode(latents[0])))
    expected = float(losses.discriminator_loss(real, fake).mean())
    assert means["loss_logistic"] == pytest.approx(expected, rel=1e-4)
    for name in networks:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.variables[name], state.variables[name])
        assert max(jax.tree.leaves(moved)) > 0, name
    jax.tree.map(np.testing.assert_array_equal, new.variables["average"], new.variables["autoencoder"])
