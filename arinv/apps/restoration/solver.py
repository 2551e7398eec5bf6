"""The search for the latent of a generator whose image, degraded in the same way, has the code of a degraded image.

Minimizes |E(S(G(z))) - E(x+)|^2 + penalty |z|^2 over z for a batch of degraded images x+ at once. The loss is a sum
over images, and each image's loss depends on its own latent only, so that results do not depend on the batch. With the
identity as E it is invertGAN.

Weights that belong to the callables should be arguments of the function that is compiled, as in `latent_search`.

Source: Generative Encoder, Algorithm 1 and section 4.4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.channels import flatten_rows
from arinv.ops.descent import descend
from arinv.ops.inputs import (
    LOOSE_BOUNDS,
    as_finite,
    as_images,
    call,
    check_callable,
    check_count,
    check_number,
    decode,
    is_concrete,
)
from arinv.types import Array, ArrayLike, DecodeFn


class Solution(NamedTuple):
    """The result of a search for N images.

    Attributes:
      latents: float32 [N, K], of the last iteration, or of the first whose loss is below the threshold.
      images: float32 [N, H, W, C], the generator's images of the latents.
      losses: float32 [N].
      history: float32 [T + 1, N], the losses before every update and at the end.
      errors: float32 [T + 1, N], mean squared errors of the images, clipped to [0, 1], to the true ones; NaN without
        them.
      num_steps: int32 [N], the updates of each image; fewer than T where a threshold was reached.
    """

    latents: Array
    images: Array
    losses: Array
    history: Array
    errors: Array
    num_steps: Array


def solve(
    decode_fn: DecodeFn,
    encode_fn: Callable[[Array], Array],
    degraded: ArrayLike,
    starts: ArrayLike,
    *,
    project_fn: Callable[[Array], Array] = lambda images: images,
    num_steps: int = 1400,
    learning_rate: float = 0.1,
    penalty: float = 0.0,
    threshold: float = 0.0,
    truth: ArrayLike | None = None,
) -> Solution:
    """Returns the latents that Adam reaches from given starts, and their images.

    Args:
      decode_fn: G, latents [B, K] -> images [B, H, W, C]; rows independent.
      encode_fn: E, images -> codes [B, ...]; rows independent. The identity gives invertGAN.
      degraded: x+, floating point [B, H, W, C], near [0, 1].
      starts: [B, K] or [B, R, K]; of R starts of an image, the one whose loss is lowest before the first update.
      project_fn: S, images -> images; rows independent.
      num_steps: updates T, 1 or more.
      learning_rate: learning rate of Adam.
      penalty: weight of |z|^2. It has no effect on the images of a generator that normalizes its latents.
      threshold: an image whose loss is below it is no longer updated; 0 for all updates.
      truth: [B, H, W, C], the images that were degraded, for the curve of the error; None without.

    Returns:
      A `Solution` with a row for each image.

    Raises:
      UserError: shapes that do not match, images of another range or not finite, or a number out of range.

    Source: Generative Encoder, Algorithm 1; Adam at 0.1 for 1,400 iterations, and its section 5.4 for several starts
    and for the threshold. The penalty is unstated there; 0 is our default.
    """
    check_count(num_steps, "num_steps")
    check_number(learning_rate, "learning_rate", minimum=1e-12)
    for name, value in (("penalty", penalty), ("threshold", threshold)):
        check_number(value, name, minimum=0.0)
    for name, function in (("decode_fn", decode_fn), ("encode_fn", encode_fn), ("project_fn", project_fn)):
        check_callable(function, name)
    degraded, starts, truth = _as_arrays(degraded, starts, truth)
    stops = not is_concrete(threshold) or threshold > 0
    codes = jax.lax.stop_gradient(_codes(encode_fn, degraded))

    def evaluate(latents):
        images = decode(decode_fn, latents, bounds=(-jnp.inf, jnp.inf))
        _check_shapes("images", images, degraded)
        compared = _codes(encode_fn, call(project_fn, images, "project_fn"))
        _check_shapes("codes", compared, codes)
        differences = flatten_rows(compared - codes)
        return jnp.sum(jnp.square(differences), axis=1) + penalty * jnp.sum(jnp.square(latents), axis=1), images

    def errors(images):
        if truth is None:
            return jnp.full(images.shape[:1], jnp.nan, jnp.float32)
        return jnp.mean(jnp.square(jnp.clip(images, 0, 1) - truth), axis=(1, 2, 3))

    def total(latents):
        losses, images = evaluate(latents)
        return jnp.sum(losses), (losses, errors(images))

    latents = starts if starts.ndim == 2 else _best_start(evaluate, starts)
    latents, (history, curve) = descend(
        total,
        latents,
        optax.adam(learning_rate),
        num_steps=num_steps,
        repair=norms.finite_gradient,
        finished=(lambda values: values[0] < threshold) if stops else None,
    )
    losses, images = evaluate(latents)
    count = jnp.sum(jnp.cumprod(~(history < threshold), axis=0) if stops else jnp.ones_like(history), axis=0)
    history = jnp.concatenate([history, losses[None]])
    curve = jnp.concatenate([curve, errors(images)[None]])
    return Solution(latents, images, losses, history, curve, count.astype(jnp.int32))


def _codes(encode_fn: Callable[[Array], Array], images: Array) -> Array:
    """Returns the codes of images.

    Raises:
      UserError: they are not one array with a row for each image.
    """
    codes = call(encode_fn, images, "encode_fn")
    if isinstance(codes, tuple | list | dict) or not hasattr(codes, "shape"):
        hint = '; take one feature, such as `lambda x: features_fn(x)["conv5"]`' if isinstance(codes, dict) else ""
        raise UserError(f"encode_fn must return one array of codes [B, ...], got a {type(codes).__name__}{hint}")
    if len(codes.shape) < 2 or codes.shape[0] != images.shape[0]:
        raise UserError(
            f"encode_fn must return codes [B, ...], one for each of the {images.shape[0]} images; got {codes.shape}"
        )
    return codes


def _check_shapes(name: str, generated: Array, degraded: Array) -> None:
    """Checks that images or codes of the generator have the shape of those of the degraded images.

    Raises:
      UserError: the shapes differ.
    """
    if generated.shape != degraded.shape:
        raise UserError(
            f"the generated {name} have the shape {generated.shape}, the degraded ones {degraded.shape}; both images "
            "must be of one size and as many channels"
        )


def _as_arrays(degraded: ArrayLike, starts: ArrayLike, truth: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    """Returns the arrays of `solve` as float32.

    Raises:
      UserError: shapes that do not match, or images of another range or not finite.
    """
    degraded, starts = as_images(degraded, "degraded images", bounds=LOOSE_BOUNDS), as_finite(starts, "starts")
    if starts.ndim not in (2, 3) or starts.shape[0] != degraded.shape[0] or 0 in starts.shape:
        raise UserError(
            f"starts must be [B, K] or [B, R, K] for images [B, H, W, C], of one image or more; got {starts.shape} for "
            f"{degraded.shape}"
        )
    truth = None if truth is None else as_images(truth, "truth", bounds=LOOSE_BOUNDS)
    if truth is not None and truth.shape != degraded.shape:
        raise UserError(f"truth must have the shape of the degraded images {degraded.shape}; got {truth.shape}")
    return degraded, starts, truth


def _best_start(evaluate, starts: Array) -> Array:
    """Returns the start [B, K] of the lowest loss of each image, tried one after the other to bound the memory."""
    losses = jax.lax.map(lambda latents: evaluate(latents)[0], jnp.swapaxes(starts, 0, 1))
    best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses), axis=0)
    return jnp.take_along_axis(starts, best[:, None, None], axis=1)[:, 0]
