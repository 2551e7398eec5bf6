"""Games in which a generator is trained against a discriminator.

A game is a row of GAMES. The discriminator returns scores or logits of images, or reconstructs them.

    wasserstein_gp  scores, with a penalty on the discriminator's gradient and a drift term (Karras et al. 2018)
    equilibrium     errors of a discriminator that is an autoencoder, in a balance k (Berthelot et al. 2017)
    logistic        logits of images and of generated images
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arinv import losses
from arinv.types import Array


class Turn(NamedTuple):
    """What the discriminator's loss is computed from.

    Attributes:
      images: [B, H, W, C] in [0, 1].
      fakes: of the same shape, generated.
      real: the discriminator's outputs for the images: scores or logits [B], or reconstructions.
      fake: those for the generated images.
      scores_fn: images -> such outputs, with the same parameters.
      key: PRNG key.
      balance: k of a game that has one; None in others.
    """

    images: Array
    fakes: Array
    real: Array
    fake: Array
    scores_fn: Callable[[Array], Array]
    key: Array
    balance: Array | None


class Game(NamedTuple):
    """A game of a generator and a discriminator.

    Attributes:
      discriminator_terms: (turn, options as in config.game) -> weighted terms of the discriminator's loss, each [B].
      generator_loss: (the discriminator's outputs, generated images) -> the generator's loss, [B].
      measure: (the discriminator's outputs, images) -> its scores, probabilities or errors, [B].
      has_balance: whether the discriminator is an autoencoder, whose errors a balance k keeps in a ratio.
    """

    discriminator_terms: Callable[[Turn, Mapping[str, Any]], Mapping[str, Array]]
    generator_loss: Callable[[Array, Array], Array]
    measure: Callable[[Array, Array], Array]
    has_balance: bool = False


def _wasserstein_terms(turn: Turn, options: Mapping[str, Any]) -> Mapping[str, Array]:
    terms = {"wasserstein": losses.wasserstein_loss(turn.real, turn.fake, drift=options["drift"])}
    if options["penalty"]:
        shares = jax.random.uniform(turn.key, turn.images.shape[:1])
        # The published target of 1 is of images in [-1, 1].
        penalty = losses.gradient_penalty(turn.scores_fn, turn.images, turn.fakes, shares, target=2.0)
        terms["penalty"] = options["penalty"] * penalty
    return terms


def _equilibrium_terms(turn: Turn, options: Mapping[str, Any]) -> Mapping[str, Array]:
    real, fake = _errors(turn.real, turn.images), _errors(turn.fake, turn.fakes)
    return {"equilibrium": losses.equilibrium_loss(real, fake, turn.balance)}


def _logistic_terms(turn: Turn, options: Mapping[str, Any]) -> Mapping[str, Array]:
    return {"logistic": losses.discriminator_loss(turn.real, turn.fake)}


def _errors(reconstructions: Array, images: Array) -> Array:
    """Returns mean absolute errors in units of [-1, 1] images, [B]."""
    return 2 * jnp.mean(jnp.abs(reconstructions - images), axis=(1, 2, 3))


GAMES = {
    "wasserstein_gp": Game(_wasserstein_terms, lambda output, _: -output, lambda output, _: output),
    "equilibrium": Game(_equilibrium_terms, _errors, _errors, has_balance=True),
    "logistic": Game(
        _logistic_terms, lambda output, _: losses.generator_loss(output), lambda output, _: jax.nn.sigmoid(output)
    ),
}
