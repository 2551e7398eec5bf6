"""Latents of generators: their priors, and random latents that depend only on an image's number."""

import jax
import jax.numpy as jnp

from arinv.errors import unknown
from arinv.ops.inputs import as_indices, check_count
from arinv.ops.keys import single_key
from arinv.types import Array, ArrayLike

PRIORS = ("normal", "uniform")  # N(0, 1), or uniform in (-1, 1)


def draw_latents(key: Array, shape: tuple[int, ...], *, prior: str) -> Array:
    """Returns latents of a prior.

    Args:
      key: PRNG key.
      shape: shape of the latents; sizes of 0 or more.
      prior: "normal", N(0, 1), or "uniform", in (-1, 1).

    Returns:
      float32, of that shape.

    Raises:
      UserError: unknown prior, not a key, or a negative count.
    """
    if prior not in PRIORS:
        raise unknown("prior of latents", prior, PRIORS)
    key, shape = single_key(key), tuple(check_count(count, "a count of latents", minimum=0) for count in shape)
    if prior == "normal":
        return jax.random.normal(key, shape, jnp.float32)
    return jax.random.uniform(key, shape, jnp.float32, -1, 1)


def draw_starts(key: Array, indices: ArrayLike, *, latent_size: int, prior: str, num_starts: int = 1) -> Array:
    """Returns latents for each image, the same in every batch.

    Args:
      key: PRNG key.
      indices: integer [B], the images' numbers.
      latent_size: K, length of a latent.
      prior: "normal" or "uniform".
      num_starts: R, number of latents per image.

    Returns:
      float32 [B, R, K].

    Raises:
      UserError: an unknown prior, not a key, counts below 1, or indices that are not integers.
    """
    key, shape = single_key(key), (check_count(num_starts, "num_starts"), check_count(latent_size, "latent_size"))
    return jax.vmap(lambda index: draw_latents(jax.random.fold_in(key, index), shape, prior=prior))(as_indices(indices))
