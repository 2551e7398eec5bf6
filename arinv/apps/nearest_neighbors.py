"""Distance to the nearest training features: the baseline that every detector has to beat.

Features are rows [B, K] in float32. The training features are gone through in blocks, so that memory does not grow
with their number.

Source: Bergman, Cohen & Hoshen 2020, "Deep nearest neighbor anomaly detection".
"""

import math

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import check_count
from arinv.types import Array, ArrayLike

POOLINGS = ("flat", "mean")
_SPARE_CANDIDATES = 6  # beyond the neighbours asked for: rounding of the products decides none of them


def feature_rows(features: ArrayLike, *, pooling: str = "flat", normalize: bool = True) -> Array:
    """Returns features as rows to measure distances between.

    Args:
      features: [B, h, w, K] or [B, K].
      pooling: "flat" keeps every position, "mean" averages over them.
      normalize: divide each row by its length; distances are then those of the directions, in 0 to 2.

    Returns:
      float32 [B, h * w * K] or [B, K].

    Raises:
      UserError: unknown pooling, or features of another rank.
    """
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    features = jnp.asarray(features, jnp.float32)
    if features.ndim not in (2, 4):
        raise UserError(f"features must be [B, h, w, K] or [B, K], got the shape {features.shape}.")
    rows = features.reshape(features.shape[0], math.prod(features.shape[1:]))
    if pooling == "mean":
        rows = jnp.mean(features, axis=tuple(range(1, features.ndim - 1)))
    if normalize:
        lengths = norms.norm(rows, "l2")[:, None]
        rows = rows / jnp.where(lengths == 0, 1.0, lengths)
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

    Candidates are found by matrix products, of features less the mean of the references, so that a common offset costs
    no digits. Among them the distances of the differences decide, which are exact also where a row all but equals a
    reference, with a gradient in `rows` through the neighbours found.

    Args:
      rows: [B, K].
      references: [M, K]; rows from `num_references` on are padding.
      k: number of neighbours, at least 1.
      num_references: how many references count; may be traced. None for all.
      block_size: references that are compared at once, at least 1.

    Returns:
      float32 [B]; NaN for a row that is not finite, and for all where a reference is not.

    Raises:
      UserError: rows of another length, or fewer references than neighbours (where their number is known).

    Source: Bergman, Cohen & Hoshen 2020, section 3.
    """
    rows, references = jnp.asarray(rows, jnp.float32), jnp.asarray(references, jnp.float32)
    if rows.ndim != 2 or references.ndim != 2 or rows.shape[1] != references.shape[1] or not rows.shape[1]:
        raise UserError(f"rows {rows.shape} and references {references.shape} must be [B, K] and [M, K] of one K.")
    check_count(k, "k")
    check_count(block_size, "block_size")
    count = known = references.shape[0]
    if num_references is not None:
        count = jnp.minimum(num_references, known).astype(jnp.int32)
        known = known if isinstance(num_references, jax.core.Tracer) else int(count)
    if known < k:
        raise UserError(f"k={k} neighbours need as many references, got {known}; lower k or give more.")
    counted = (jnp.arange(references.shape[0]) < count)[:, None]
    candidates = min(k + _SPARE_CANDIDATES, references.shape[0])
    centred = _centred(jax.lax.stop_gradient(rows), jax.lax.stop_gradient(references), counted)
    places = _nearest(*centred, candidates, count, min(block_size, references.shape[0]))
    distances = _distances(rows, references[jnp.minimum(places, references.shape[0] - 1)])
    # Where fewer references count than there are candidates, the others hold padding.
    distances = jnp.where(places < count, distances, jnp.inf)
    nearest = -jax.lax.top_k(-distances, k)[0]
    is_defined = jnp.all(jnp.where(counted, jnp.isfinite(references), True)) & jnp.all(jnp.isfinite(rows), axis=1)
    return jnp.where(is_defined, jnp.mean(nearest, axis=1), jnp.nan)


def _centred(rows: Array, references: Array, counted: Array) -> tuple[Array, Array]:
    """Returns both less the mean of the references, over their largest value: squares keep their digits."""
    members = jnp.where(counted, references, 0.0)
    scale = jnp.max(jnp.abs(members))
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1.0)
    total = jnp.sum(counted.astype(jnp.float32))
    mean = jnp.sum(members / scale / total, axis=0, keepdims=True)
    return rows / scale - mean, references / scale - mean


def _distances(rows: Array, neighbors: Array) -> Array:
    """Returns the distances [B, C] of rows [B, K] to references [B, C, K] of their own."""
    differences = rows[:, None, :] - neighbors
    batch, count, size = differences.shape
    return norms.norm(differences.reshape(batch * count, size), "l2").reshape(batch, count)


def _nearest(rows: Array, references: Array, k: int, count, block_size: int) -> Array:
    """Returns the places of the k nearest references, int32 [B, k]."""
    num_blocks = -(-references.shape[0] // block_size)
    padding = num_blocks * block_size - references.shape[0]
    blocks = jnp.pad(references, ((0, padding), (0, 0))).reshape(num_blocks, block_size, -1)

    def visit(carry, block):
        closest, places = carry
        first, members = block
        numbers = first + jnp.arange(block_size, dtype=jnp.int32)
        products = jnp.matmul(rows, members.T, precision=jax.lax.Precision.HIGHEST)
        # The squared distance, less the row's own square, which changes nothing about the order.
        distances = jnp.sum(jnp.square(members), axis=1)[None, :] - 2.0 * products
        distances = jnp.where((numbers < count)[None, :], distances, jnp.inf)
        distances = jnp.concatenate([closest, distances], axis=1)
        places = jnp.concatenate([places, jnp.broadcast_to(numbers[None, :], products.shape)], axis=1)
        closest, chosen = jax.lax.top_k(-distances, k)
        return (-closest, jnp.take_along_axis(places, chosen, axis=1)), None

    # Places that hold no reference yet are beyond all of them.
    start = (
        jnp.full((rows.shape[0], k), jnp.inf, jnp.float32),
        jnp.full((rows.shape[0], k), references.shape[0], jnp.int32),
    )
    firsts = jnp.arange(num_blocks, dtype=jnp.int32) * block_size
    return jax.lax.scan(visit, start, (firsts, blocks))[0][1]
