"""The Square Attack: random search with square windows and without gradients, in l1, l2 and linf balls.

Images are float32 [B, H, W, C] in [0, 1] and radii are in the same unit. Call it inside `jax.jit`. Each query costs one
forward pass. A search can run in pieces: `square_start`, then any number of calls of `square_continue`.

Each example draws its own windows, from its key and the number of the query alone. (The authors' code draws one
window for the whole batch: the same distribution for each example, but their results depend on one another.)

Source: Andriushchenko et al. 2020 (Square Attack), algorithms 1 to 3; Croce & Hein 2021 for l1; constants and
order as in the AutoAttack code.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.attacks.objectives import margin
from arinv.attacks.rows import Rows, prepare, select
from arinv.ops import norms
from arinv.ops.inputs import check_count
from arinv.ops.keys import fold_in, row_keys
from arinv.ops.norms import project_l1_ball
from arinv.types import Array, ArrayLike, LogitsFn

# The area of the window, first 0.8 of the image, is halved after queries of these numbers.
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
FIRST_AREA = 0.8
_POWERS = {"l1": 4, "l2": 2}
_FLOOR = 1e-12
_START = 2**31 - 1  # instead of the number of a query


class SquareSearch(NamedTuple):
    """The state of a search.

    Attributes:
      images: float32 [B, H, W, C], the best until now.
      margins: float32 [B] of these images; the search of a row ends at 0 and below. -1 in rows of padding.
      query: int32 [], the number of the next query.
    """

    images: Array
    margins: Array
    query: Array


def square(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    norm: str = "linf",
    num_queries: int = 5000,
) -> Array:
    """Returns the images of the smallest margin among the queries of the Square Attack.

    Args:
      key: PRNG key, or one per example [B], which makes the result of an example independent of the batch.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K]; rows independent.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int [B]; rows labeled -1 are padding and are returned unchanged.
      eps: radius in units of `images`; a number or one per example [B], which may be traced.
      norm: "l1", "l2" or "linf".
      num_queries: number of queries after the first; fewer once all rows are misclassified.

    Returns:
      float32 [B, H, W, C] in [0, 1], within `eps` of `images`.

    Raises:
      UserError: invalid inputs as for `attacks.rows.prepare`: images outside [0, 1], labels that the model does not
        have, a model that does not return [B, K], an unknown norm or a negative radius.

    Source: Andriushchenko et al. 2020 (Square Attack), algorithm 1.
    """
    check_count(num_queries, "num_queries", minimum=0)
    options = {"eps": eps, "norm": norm}
    search = square_start(key, logits_fn, images, labels, **options)
    return square_continue(key, logits_fn, images, labels, search, num_queries=num_queries, **options).images


def square_start(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    norm: str = "linf",
) -> SquareSearch:
    """Returns a search after its first query.

    Args:
      key: as for `square`.
      logits_fn: as for `square`.
      images: as for `square`.
      labels: as for `square`.
      eps: as for `square`.
      norm: as for `square`.

    Returns:
      The search, at query 0.

    Raises:
      UserError: as `square`.

    Source: Andriushchenko et al. 2020, sections 3.2 to 3.4 (initialization).
    """
    rows, eps = _prepare(logits_fn, images, labels, eps, norm)
    keys = fold_in(row_keys(key, batch_size=rows.images.shape[0]), _START)
    candidates = _first_images(keys, rows.images, eps, norm)
    margins = jnp.where(rows.real, _margins(rows, candidates), -1.0)
    return SquareSearch(select(rows.real, candidates, rows.images), margins, jnp.int32(0))


def square_continue(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    search: SquareSearch,
    *,
    eps: ArrayLike | float,
    num_queries: ArrayLike | int,
    norm: str = "linf",
) -> SquareSearch:
    """Returns a search after more queries, or once all rows are misclassified.

    Args:
      key: as for `square`, the same for each piece of a search.
      logits_fn: as for `square`.
      images: as for `square`, the originals.
      labels: as for `square`.
      search: state of the search, from `square_start` or an earlier call.
      eps: as for `square`.
      num_queries: largest number of further queries; may be traced.
      norm: as for `square`.

    Returns:
      The search.

    Raises:
      UserError: as `square`.

    Source: Andriushchenko et al. 2020 (Square Attack), algorithm 1.
    """
    rows, eps = _prepare(logits_fn, images, labels, eps, norm)
    keys = row_keys(key, batch_size=rows.images.shape[0])
    end = search.query + jnp.asarray(num_queries, jnp.int32)

    def unfinished(search):
        return (search.query < end) & jnp.any(search.margins > 0)

    def query(search):
        candidates = _PROPOSALS[norm](fold_in(keys, search.query), search, rows.images, eps)
        margins = _margins(rows, candidates)
        better = (search.margins > 0) & ((margins < search.margins) | (margins <= 0))
        best = select(better, candidates, search.images)
        return SquareSearch(best, jnp.where(better, margins, search.margins), search.query + 1)

    return jax.lax.while_loop(unfinished, query, search)


def _prepare(logits_fn, images, labels, eps, norm: str) -> tuple[Rows, Array]:
    rows = prepare(logits_fn, images, labels, eps=eps, norm=norm)
    return rows, norms.per_example(rows.eps, rows.images.shape)


def _margins(rows: Rows, images: Array) -> Array:
    """Returns margins [B]; -1 for logits with NaN, which predict no class."""
    margins = margin(rows.logits_fn(images), rows.labels)
    return jnp.where(jnp.isnan(margins), -1.0, margins)


def _first_images(keys: Array, images: Array, eps: Array, norm: str) -> Array:
    height, width, channels = images.shape[1:]
    if norm == "linf":
        stripes = _signs(_uniform(keys, (1, width, channels)))
        return jnp.clip(images + eps * stripes, 0.0, 1.0)
    tiles = tiling(height=height, width=width)
    side = tiles.side
    numbers = _uniform(keys, (tiles.rows, tiles.columns, 1, 1, channels + 1))
    hill = jnp.asarray(patch(side=side, norm=norm))[None, None, None, :, :, None]
    is_turned = numbers[..., -1:] > 0.5
    tiled = jnp.where(is_turned, jnp.swapaxes(hill, 3, 4), hill) * _signs(numbers[..., :-1])
    tiled = jnp.swapaxes(tiled, 2, 3).reshape(len(images), tiles.rows * side, tiles.columns * side, channels)
    below, right = (size - tiles.offset - n * side for size, n in ((height, tiles.rows), (width, tiles.columns)))
    delta = jnp.pad(tiled, ((0, 0), (tiles.offset, below), (tiles.offset, right), (0, 0)))
    return _inside(delta, images, eps, norm)


def _propose_linf(keys: Array, search: SquareSearch, images: Array, eps: Array) -> Array:
    height, width, channels = images.shape[1:]
    numbers = _uniform(keys, (2 + channels,))
    side = _side(search.query, height, width, "linf")
    window = _window(numbers[:, 0], numbers[:, 1], side, height, width)
    change = jnp.where(window.inside, 2.0 * eps * _signs(numbers[:, None, None, 2:]), 0.0)
    delta = jnp.clip(search.images + change - images, -eps, eps)
    return jnp.clip(images + delta, 0.0, 1.0)


def _propose_hills(keys: Array, search: SquareSearch, images: Array, eps: Array, *, norm: str) -> Array:
    """Moves the perturbation of a second window, and the unused radius, into hills in a first window."""
    height, width, channels = images.shape[1:]
    numbers = _uniform(keys, (5 + channels,))
    side = _side(search.query, height, width, norm)
    first = _window(numbers[:, 0], numbers[:, 1], side, height, width)
    second = _window(numbers[:, 2], numbers[:, 3], side, height, width)
    delta = search.images - images
    hills = _hills(search.query, first, numbers[:, 4] > 0.5, height, width, norm)[..., None]
    old = jnp.where(first.inside, delta, 0.0)
    new = hills * _signs(numbers[:, None, None, 5:]) + old / (_FLOOR + _length(old, (1, 2), norm))
    length_within = _length(jnp.where(first.inside | second.inside, delta, 0.0), (1, 2), norm)
    whole = _length(delta, (1, 2, 3), norm)
    if norm == "l2":
        budget = jnp.sqrt(jnp.maximum(jnp.square(eps) - jnp.square(whole), 0.0) / channels + jnp.square(length_within))
    else:
        # The share of each channel times their number, as in the authors' code; the projection undoes it.
        budget = (jnp.maximum(eps - whole, 0.0) / channels + length_within) * channels
    new = new * (budget / (_FLOOR + _length(new, (1, 2), norm)))
    delta = jnp.where(first.inside, new, jnp.where(second.inside, 0.0, delta))
    return _inside(delta, images, eps, norm)


class _Windows(NamedTuple):
    inside: Array  # bool [B, H, W, 1]
    rows: Array  # of a pixel in its window [B, H, W]
    columns: Array


def _hills(query: Array, window: _Windows, is_turned: Array, height: int, width: int, norm: str) -> Array:
    """Returns two hills in the window of each row and 0 around it [B, H, W]."""
    sides = window_sides(height=height, width=width, norm=norm)
    table = np.zeros((len(sides), max(sides), max(sides)), np.float32)
    for i, side in enumerate(sides):
        table[i, :side, :side] = patch(side=int(side), norm=norm)
    current = jnp.asarray(table)[stage(query)]
    is_turned = is_turned[:, None, None]
    down = jnp.where(is_turned, window.columns, window.rows)
    across = jnp.where(is_turned, window.rows, window.columns)
    return jnp.where(window.inside[..., 0], current.at[down, across].get(mode="clip"), 0.0)


def _window(u: Array, v: Array, side: Array, height: int, width: int) -> _Windows:
    """Returns the windows of a side at the places of numbers in [0, 1) [B].

    No window touches the last row or column, as in the authors' code.
    """
    top = jnp.floor(u * jnp.asarray(height - side, jnp.float32)).astype(jnp.int32)[:, None, None]
    left = jnp.floor(v * jnp.asarray(width - side, jnp.float32)).astype(jnp.int32)[:, None, None]
    shape = (u.shape[0], height, width)
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, 1) - top
    columns = jax.lax.broadcasted_iota(jnp.int32, shape, 2) - left
    inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return _Windows(inside[..., None], rows, columns)


def _side(query: Array, height: int, width: int, norm: str) -> Array:
    return jnp.asarray(window_sides(height=height, width=width, norm=norm))[stage(query)]


def _inside(delta: Array, images: Array, eps: Array, norm: str) -> Array:
    if norm == "l1":
        radius = eps.reshape(eps.shape[:1]) * (1.0 - 1e-6)
        return jnp.clip(images + project_l1_ball(delta, images, eps=radius), 0.0, 1.0)
    scale = eps / (_FLOOR + _length(delta, (1, 2, 3), norm))
    return jnp.clip(images + delta * scale, 0.0, 1.0)


def _length(x: Array, axes: tuple[int, ...], norm: str) -> Array:
    if norm == "l1":
        return jnp.sum(jnp.abs(x), axis=axes, keepdims=True)
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))


def _uniform(keys: Array, shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys)


def _signs(uniform: Array) -> Array:
    return jnp.where(uniform < 0.5, -1.0, 1.0)


def stage(query: np.ndarray | int) -> np.ndarray | int:
    """Returns the number of times that the area of the window has been halved.

    Args:
      query: number of the query, from 0; an integer or an array of integers, which may be traced.

    Returns:
      Integer, of the shape of `query`, in 0..9.

    Source: Andriushchenko et al. 2020, section 4.1, for 10,000 queries; not rescaled for fewer.
    """
    is_after = [query > bound for bound in HALVED_AFTER]
    return sum(after.astype("int32") if hasattr(after, "astype") else int(after) for after in is_after)


def window_sides(*, height: int, width: int, norm: str) -> np.ndarray:
    """Returns the side of the window at each stage.

    Args:
      height: height of the images, in pixels.
      width: width of the images, in pixels.
      norm: "l1", "l2" or "linf".

    Returns:
      int32 [10], at most the shorter side of the image; for l1 and l2 at least 3 and odd if that fits.
    """
    sides = []
    for halvings in range(len(HALVED_AFTER) + 1):
        side = round(math.sqrt(FIRST_AREA / 2**halvings * height * width))
        side = max(side, 1) if norm == "linf" else max(side, 3) | 1
        sides.append(min(side, height, width))
    return np.array(sides, np.int32)


def patch(*, side: int, norm: str) -> np.ndarray:
    """Returns two hills side by side, one of them upside down, with a norm of one.

    Args:
      side: side of the result, in pixels, at least 1.
      norm: "l1" or "l2".

    Returns:
      float32 [side, side].

    Source: Andriushchenko et al. 2020, section 3.4.
    """
    upper = side // 2
    parts = [_hill(upper, side, norm)] if upper else []
    return _unit(np.concatenate([*parts, -_hill(side - upper, side, norm)]), norm).astype(np.float32)


def _hill(rows: int, columns: int, norm: str) -> np.ndarray:
    """Returns the sum of nested rectangles around the middle, each less high than the one inside it."""
    center = rows // 2, columns // 2
    count = max(center) + 1
    heights = 1.0 / np.arange(1, count + 1) ** _POWERS[norm]
    outwards = np.cumsum(heights[::-1])[::-1]  # by the distance from the middle
    distance = np.maximum(np.abs(np.arange(rows) - center[0])[:, None], np.abs(np.arange(columns) - center[1])[None, :])
    return _unit(outwards[distance], norm)


def _unit(values: np.ndarray, norm: str) -> np.ndarray:
    return values / (np.abs(values).sum() if norm == "l1" else np.sqrt(np.square(values).sum()))


class Tiling(NamedTuple):
    """The tiles of the first perturbation.

    Attributes:
      side: side of a tile, in pixels.
      rows: number of tiles in a column.
      columns: number of tiles in a row.
      offset: distance of the first tile from both edges, in pixels.
    """

    side: int
    rows: int
    columns: int
    offset: int


def tiling(*, height: int, width: int) -> Tiling:
    """Returns the tiles of the first perturbation for l1 and l2, five by five in a square image, at least one.

    Args:
      height: height of the images, in pixels.
      width: width of the images, in pixels.

    Returns:
      The tiles, all of them inside.
    """
    side = max(min(height // 5, width), 1)  # of the height, as in the authors' code, if it fits
    offset = min(max(height - 5 * side, 0) // 2, width - side)
    return Tiling(side, (height - offset) // side, (width - offset) // side, offset)


_PROPOSALS = {
    "l1": lambda *arguments: _propose_hills(*arguments, norm="l1"),
    "l2": lambda *arguments: _propose_hills(*arguments, norm="l2"),
    "linf": _propose_linf,
}
