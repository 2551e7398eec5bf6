"""Distance to the nearest training features: the baseline that every detector has to beat.

Features are rows [B, K] in float32. The training features are gone through in blocks, so that memory does not grow
with their number.

Source: Bergman, Cohen & Hoshen 2020, "Deep nearest neighbor anomaly detection".
"""

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.types import Array, ArrayLike

POOLINGS = ("flat", "mean")
_LEAST_LENGTH = 1e-12  # keeps a row of zeros a row of zeros


def feature_rows(features: ArrayLike, *, pooling: str = "flat", normalize: bool = True) -> Array:
    """Returns features as rows to measure distances between.

    Args:
      features: [B, h, w, K] or [B, K].
      pooling: "flat" keeps every position, "mean" averages over them.
      normalize: divide each row by its length; distances are then those of the directions, in 0 to 2.

    Returns:
      float32 [B, h * w * K] or [B, K].

    Raises:
      UserError: unknown pooling.
    """
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    features = jnp.asarray(features, jnp.float32)
    rows = features.reshape(features.shape[0], -1)
    if pooling == "mean":
        rows = jnp.mean(features.reshape(features.shape[0], -1, features.shape[-1]), axis=1)
    if normalize:
        rows = rows / jnp.maximum(norms.norm(rows, "l2"), _LEAST_LENGTH)[:, None]
    return rows


def nearest_neighbor_distances(
    rows: ArrayLike,
    references: ArrayLike,
    *,
    k: int = 2,
    num_references: ArrayLike | int | None = None,
    block_size: int = 1024,
) -> Array:
    """Returns the mean Euclidean distance of each row to its k nearest references.

    Which are nearest is found by matrix products; the distances themselves are those of the differences, exact also
    where a row all but equals a reference, and with a gradient in `rows` through the neighbours found.

    Args:
      rows: [B, K].
      references: [M, K]; rows from `num_references` on are padding.
      k: number of neighbours, at least 1.
      num_references: how many references count; may be traced. None for all.
      block_size: references that are compared at once, at least 1.

    Returns:
      float32 [B].

    Raises:
      UserError: rows of another length, or fewer references than neighbours (where their number is known).

    Source: Bergman, Cohen & Hoshen 2020, section 3.
    """
    rows, references = jnp.asarray(rows, jnp.float32), jnp.asarray(references, jnp.float32)
    if rows.ndim != 2 or references.ndim != 2 or rows.shape[1] != references.shape[1]:
        raise UserError(f"rows {rows.shape} and references {references.shape} must be [B, K] and [M, K] of one K.")
    if k < 1 or block_size < 1:
        raise UserError(f"k and block_size must be 1 or more, got {k} and {block_size}.")
    count = known = references.shape[0]
    if num_references is not None:
        count = jnp.minimum(num_references, known)
        known = known if isinstance(num_references, jax.core.Tracer) else int(count)
    if known < k:
        raise UserError(f"k={k} neighbours need as many references, got {known}; lower k or give more.")
    nearest = _nearest(jax.lax.stop_gradient(rows), references, k, count, min(block_size, references.shape[0]))
    differences = rows[:, None, :] - references[nearest]
    return jnp.mean(norms.norm(differences.reshape(-1, rows.shape[1]), "l2").reshape(-1, k), axis=1)


def _nearest(rows: Array, references: Array, k: int, count, block_size: int) -> Array:
    """Returns the places of the k nearest references, int32 [B, k]."""
    num_blocks = -(-references.shape[0] // block_size)
    padding = num_blocks * block_size - references.shape[0]
    blocks = jnp.pad(references, ((0, padding), (0, 0))).reshape(num_blocks, block_size, -1)

    def visit(carry, block):
        closest, places = carry
        first, members = block
        here = first + jnp.arange(block_size)
        products = jnp.matmul(rows, members.T, precision=jax.lax.Precision.HIGHEST)
        # The squared distance, less the row's own square, which changes nothing about the order.
        distances = jnp.sum(jnp.square(members), axis=1)[None, :] - 2.0 * products
        distances = jnp.where((here < count)[None, :], distances, jnp.inf)
        distances = jnp.concatenate([closest, distances], axis=1)
        places = jnp.concatenate([places, jnp.broadcast_to(here[None, :], products.shape)], axis=1)
        closest, chosen = jax.lax.top_k(-distances, k)
        return (-closest, jnp.take_along_axis(places, chosen, axis=1)), None

    start = (jnp.full((rows.shape[0], k), jnp.inf), jnp.zeros((rows.shape[0], k), jnp.int32))
    (_, places), _ = jax.lax.scan(visit, start, (jnp.arange(num_blocks) * block_size, blocks))
    return places
