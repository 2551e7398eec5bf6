"""Distances to the nearest training features: the baseline of anomaly detection.

Features are rows [B, K] in float32. The training features are processed in blocks, so that memory does not grow with
their number.

Source: Bergman, Cohen & Hoshen 2020, "Deep nearest neighbor anomaly detection".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import as_floats, check_count
from arinv.types import Array, ArrayLike

POOLINGS = ("flat", "mean")
_SPARE_CANDIDATES = 6  # beyond the k nearest, against rounding
_ROUNDING = 2.0**-21  # upper bound for squares in matrix products


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
    features = as_floats(features, "features")
    if features.ndim not in (2, 4):
        raise UserError(f"features must be [B, h, w, K] or [B, K]; got the shape {features.shape}")
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

    Matrix products find the candidates, after subtraction of the mean of some references, so that a common offset
    costs no digits; the choice is verified. The distances are those of the differences, exact also for a row that
    almost equals a reference, with a gradient in `rows` through the neighbors.

    Args:
      rows: [B, K].
      references: [M, K]; rows from index `num_references` on are padding.
      k: number of neighbors, at least 1.
      num_references: how many references count; may be traced. None for all.
      block_size: references that are compared at once, at least 1.

    Returns:
      float32 [B]; NaN for a row that is not finite, and for all where a reference is not.

    Raises:
      UserError: rows of another length, or fewer references than neighbors (unless their number is traced).

    Source: Bergman, Cohen & Hoshen 2020, section 3.
    """
    rows, references = (as_floats(x, name) for x, name in ((rows, "rows"), (references, "references")))
    if rows.ndim != 2 or references.ndim != 2 or rows.shape[1] != references.shape[1] or not rows.shape[1]:
        raise UserError(
            f"rows {rows.shape} and references {references.shape} must be [B, K] and [M, K] with the same K."
        )
    check_count(k, "k")
    check_count(block_size, "block_size")
    count = least = references.shape[0]
    if num_references is not None:
        if not isinstance(num_references, jax.core.Tracer):
            check_count(num_references, "num_references", minimum=0)
        count = jnp.minimum(num_references, least).astype(jnp.int32)
        least = least if isinstance(num_references, jax.core.Tracer) else int(count)
    if least < k:
        raise UserError(f"k={k} neighbors need as many references; got {least}: lower k or give more")
    constants = jax.lax.stop_gradient(rows), jax.lax.stop_gradient(references)
    indices, largest = _nearest(*constants, k, count, min(block_size, references.shape[0]))
    distances = _distances(rows, references[indices])
    return jnp.where(jnp.isfinite(largest), jnp.mean(distances, axis=1), jnp.nan)


def _distances(rows: Array, neighbors: Array) -> Array:
    """Returns the distances [B, C] of rows [B, K] to references [B, C, K] of their own."""
    differences = rows[:, None, :] - neighbors
    batch, count, size = differences.shape
    return norms.norm(differences.reshape(batch * count, size), "l2").reshape(batch, count)


def _nearest(rows: Array, references: Array, k: int, count: ArrayLike, block_size: int) -> tuple[Array, Array]:
    """Returns the indices of the k nearest references, int32 [B, k], and the largest value of all references.

    Matrix products find k and a few more candidates. Where rounding could have placed a nearer reference behind the
    last of them, as among distant clusters, all differences are computed instead.
    """
    num_references = references.shape[0]
    center = _centering(references[:block_size], count)
    size = min(k + _SPARE_CANDIDATES, num_references)
    rows = center(rows)
    squares, candidates, longest, largest = _search(rows, references, center, size, count, block_size, _products)
    # The last candidates are padding where fewer references count than there are candidates.
    neighbors = center(references[jnp.minimum(candidates, num_references - 1).reshape(-1)])
    exact = jnp.square(_distances(rows, neighbors.reshape(*candidates.shape, rows.shape[1])))
    exact, chosen = jax.lax.top_k(-jnp.where(candidates < count, exact, jnp.inf), k)
    own = jnp.sum(jnp.square(rows), axis=1)
    is_certain = -exact[:, -1] <= squares[:, -1] + own - _ROUNDING * (own + longest)
    indices = jax.lax.cond(
        jnp.all(is_certain) | (size == num_references),
        lambda: jnp.take_along_axis(candidates, chosen, axis=1),
        lambda: _search(rows, references, center, k, count, block_size, _differences)[1],
    )
    return indices, largest


def _centering(references: Array, count: ArrayLike) -> Callable[[Array], Array]:
    """Returns the function that divides by a power of two, the scale of some references, and subtracts their mean."""
    counted = (jnp.arange(references.shape[0]) < count)[:, None]
    members = jnp.where(counted & jnp.isfinite(references), references, 0.0)
    largest = jnp.max(jnp.abs(members))
    # Division by a power of two rounds nothing.
    scale = jnp.minimum(jax.lax.reduce_precision(largest, 8, 0), 2.0**126)
    scale = jnp.where(largest > 0, scale, 1.0)
    mean = jnp.sum(members / scale, axis=0, keepdims=True) / jnp.sum(counted.astype(jnp.float32))
    return lambda x: x / scale - mean


def _products(rows: Array, members: Array) -> Array:
    """Returns squared distances [B, S] without the rows' own squares, which do not change the order."""
    products = jnp.matmul(rows, members.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(members), axis=1)[None, :] - 2.0 * products


def _differences(rows: Array, members: Array) -> Array:
    """Returns distances [B, S]."""
    return jax.lax.map(lambda row: norms.norm(row[None] - members, "l2"), rows)


def _search(rows, references, center, k: int, count, block_size: int, values_fn) -> tuple[Array, Array, Array, Array]:
    """Returns the k smallest of values_fn(rows, center(references)), computed block by block.

    The result is (values [B, k], indices [B, k], largest square of a centered reference, largest value of a reference
    before centering: NaN where one is).
    """
    num_references = references.shape[0]

    def visit(carry, first):
        closest, indices, longest, largest = carry
        start = jnp.minimum(first, num_references - block_size)  # the last block overlaps with the one before
        members = jax.lax.dynamic_slice_in_dim(references, start, block_size)
        numbers = start + jnp.arange(block_size, dtype=jnp.int32)[None, :]
        counted = (numbers >= first) & (numbers < count)
        largest = jnp.maximum(largest, jnp.max(jnp.where(counted.T, jnp.abs(members), 0.0)))
        members = jnp.where(counted.T, center(members), 0.0)
        values = jnp.where(counted, values_fn(rows, members), jnp.inf)
        values = jnp.concatenate([closest, values], axis=1)
        indices = jnp.concatenate([indices, jnp.broadcast_to(numbers, (rows.shape[0], block_size))], axis=1)
        closest, chosen = jax.lax.top_k(-values, k)
        longest = jnp.maximum(longest, jnp.max(jnp.sum(jnp.square(members), axis=1)))
        return (-closest, jnp.take_along_axis(indices, chosen, axis=1), longest, largest), None

    start = (
        jnp.full((rows.shape[0], k), jnp.inf, jnp.float32),
        jnp.full((rows.shape[0], k), num_references, jnp.int32),  # no reference
        jnp.float32(0.0),
        jnp.float32(0.0),
    )
    return jax.lax.scan(visit, start, jnp.arange(0, num_references, block_size, dtype=jnp.int32))[0]
