"""Recipes of robust training.

A recipe is two pure functions. `perturb` returns the views of a batch, images [B, H, W, C] in [0, 1] that pass through
the network in training mode, one after the other; the attack itself uses evaluation mode. `loss` returns one number
per example from their logits. With eps = 0 every recipe is standard training.

    pgd       cross-entropy of PGD images (Madry et al. 2018)
    fgsm      the same after one step from a random start (Wong et al. 2020)
    n_fgsm    the same after one step from larger noise, not projected (de Jorge et al. 2022)
    trades    cross-entropy of the images plus the divergence to the images that maximize it (Zhang et al. 2019)
    gairat    PGD without best iterate; examples near the boundary have larger weights (Zhang et al. 2021)
    gair_rst  TRADES whose divergence is split between two attacks by the same geometry (its released code)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arinv import attacks, losses
from arinv.attacks.rows import select
from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import check_number, keyword_options
from arinv.types import Array, LogitsFn


class Views(NamedTuple):
    """The images of a batch that a recipe trains on.

    Attributes:
      images: float32 [B, H, W, C] each, in the order of the forward passes; the last is adversarial.
      kappa: float32 [B], attack steps that started from a correctly classified point; zeros without geometry.
    """

    images: tuple[Array, ...]
    kappa: Array


class Recipe(NamedTuple):
    """A recipe of robust training.

    Attributes:
      perturb: (key, logits_fn, images, labels, attack) -> Views; attack as options of attacks.pgd.
      loss: (logits of each view, labels, mask, kappa, active) -> [B]; `active`, whether examples are weighted by
        geometry.
    """

    perturb: Callable[[Array, LogitsFn, Array, Array, Mapping], Views]
    loss: Callable[[tuple[Array, ...], Array, Array, Array, Array], Array]


def make_recipe(name: str, *, num_steps: int, **options: Any) -> Recipe:
    """Returns a recipe by name.

    Args:
      name: a key of RECIPES.
      num_steps: number of steps of the attack, the maximum of kappa.
      **options: of the recipe: beta (trades, gair_rst), weighting and offset (gairat), offset (gair_rst), noise and
        step_factor (fgsm, n_fgsm).

    Raises:
      UserError: unknown recipe or option, or a number out of range.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    allowed = keyword_options(RECIPES[name])
    for option in options:
        if option not in allowed:
            raise UserError(f"recipe {name!r} has no option {option!r}; it has: {', '.join(allowed) or 'none'}")
        if option != "weighting":
            minimum = -math.inf if option == "offset" else 0.0
            check_number(options[option], f"recipe.options.{option}", minimum=minimum)
    return RECIPES[name](num_steps, **options)


def standard_loss(logits, labels, mask, kappa, active) -> Array:
    """Returns the cross-entropy of the only view; the arguments are those of every `Recipe.loss`.

    Args:
      logits: ([B, K],), of the view.
      labels: int32 [B], -1 for padding.
      mask: float32 [B], 0 for padding; not used, nor are the others.
      kappa: float32 [B].
      active: bool scalar.

    Returns:
      float32 [B], 0 for padding.
    """
    return losses.cross_entropy(logits[0], labels)


def _single_view(images: Array) -> Views:
    return Views((images,), jnp.zeros(images.shape[:1]))


def _pgd(num_steps: int) -> Recipe:
    def perturb(key, logits_fn, images, labels, attack):
        return _single_view(attacks.pgd(key, logits_fn, images, labels, **attack))

    return Recipe(perturb, standard_loss)


def _single_step(*, noise: float, step_factor: float, project: bool) -> Recipe:
    """Returns fgsm or n_fgsm; step_factor is the step in units of eps."""

    def perturb(key, logits_fn, images, labels, attack):
        eps = attack["eps"]
        options = {"norm": attack["norm"], "noise": noise, "project": project}
        step_size = step_factor * eps
        return _single_view(attacks.fgsm(key, logits_fn, images, labels, eps=eps, step_size=step_size, **options))

    return Recipe(perturb, standard_loss)


def _fgsm(num_steps: int, *, noise: float = 1.0, step_factor: float = 1.25) -> Recipe:
    return _single_step(noise=noise, step_factor=step_factor, project=True)


def _n_fgsm(num_steps: int, *, noise: float = 2.0, step_factor: float = 1.0) -> Recipe:
    return _single_step(noise=noise, step_factor=step_factor, project=False)


def _trades(num_steps: int, *, beta: float = 6.0) -> Recipe:
    def perturb(key, logits_fn, images, labels, attack):
        adversarial, kappa = _divergence_attack(key, logits_fn, images, labels, attack)
        return Views((images, adversarial), kappa)

    def loss(logits, labels, mask, kappa, active):
        return losses.trades_loss(logits[0], logits[1], labels, beta=beta)

    return Recipe(perturb, loss)


def _gairat(num_steps: int, *, weighting: str = "tanh", offset: float = -1.0) -> Recipe:
    if weighting not in losses.WEIGHTINGS:
        raise unknown("weighting", weighting, losses.WEIGHTINGS)

    def perturb(key, logits_fn, images, labels, attack):
        safe = jnp.maximum(labels, 0)

        def objective(x):
            logits = logits_fn(x)
            return losses.cross_entropy(logits, labels), _correct(logits, safe)

        noise = norms.random_perturbation(key, images.shape, eps=attack["eps"], norm=attack["norm"])
        adversarial, kappa = _ascend(objective, jnp.clip(images + noise, 0.0, 1.0), images, attack)
        return Views((select(labels >= 0, adversarial, images),), kappa)

    def loss(logits, labels, mask, kappa, active):
        weights = losses.geometry_weights(kappa, mask, num_steps=num_steps, kind=weighting, offset=offset)
        return jnp.where(active, weights, 1.0) * losses.cross_entropy(logits[0], labels)

    return Recipe(perturb, loss)


def _gair_rst(num_steps: int, *, beta: float = 6.0, offset: float = 3.0) -> Recipe:
    def perturb(key, logits_fn, images, labels, attack):
        divergence_key, margin_key = jax.random.split(key)
        safe = jnp.maximum(labels, 0)

        def margin(x):
            logits = logits_fn(x)
            return losses.margin_loss(logits, safe), _correct(logits, safe)

        start = _add_noise(margin_key, images)
        margin_images = select(labels >= 0, _ascend(margin, start, images, attack)[0], images)
        adversarial, kappa = _divergence_attack(divergence_key, logits_fn, images, labels, attack)
        return Views((images, margin_images, adversarial), kappa)

    def loss(logits, labels, mask, kappa, active):
        share = losses.divergence_share(kappa, num_steps=num_steps, offset=offset)
        clean, margin, adversarial = logits
        return losses.gair_rst_loss(clean, adversarial, margin, labels, jnp.where(active, share, 1.0), beta=beta)

    return Recipe(perturb, loss)


RECIPES: dict[str, Callable[..., Recipe]] = {  # (num_steps, *, options) -> recipe
    "pgd": _pgd,
    "fgsm": _fgsm,
    "n_fgsm": _n_fgsm,
    "trades": _trades,
    "gairat": _gairat,
    "gair_rst": _gair_rst,
}


def _divergence_attack(key, logits_fn, images, labels, attack) -> tuple[Array, Array]:
    """Returns the images that maximize the divergence from the network's output for the clean images, and kappa."""
    natural, safe = jax.lax.stop_gradient(logits_fn(images)), jnp.maximum(labels, 0)

    def objective(x):
        logits = logits_fn(x)
        return losses.kl_divergence(natural, logits), _correct(logits, safe)

    adversarial, kappa = _ascend(objective, _add_noise(key, images), images, attack)
    return select(labels >= 0, adversarial, images), kappa


def _ascend(objective, start: Array, images: Array, attack: Mapping) -> tuple[Array, Array]:
    """Returns the last iterate and kappa, without gradients."""
    options = {name: attack[name] for name in ("eps", "step_size", "num_steps", "norm")}
    return jax.lax.stop_gradient(
        attacks.projected_ascent(objective, start, images, use_best=False, has_aux=True, **options)
    )


def _add_noise(key: Array, images: Array) -> Array:
    """Returns images plus noise of standard deviation 1e-3; at the images themselves the divergence has no gradient."""
    return jnp.clip(images + 1e-3 * jax.random.normal(key, images.shape), 0.0, 1.0)


def _correct(logits: Array, labels: Array) -> Array:
    return (jax.lax.argmax(logits, 1, jnp.int32) == labels).astype(jnp.float32)
