"""Denoising of images of any size, padded to sides that the network takes and cut into tiles where they are large.

Images are [B, H, W, C], uint8 or floating point in [0, 1] (a noisy image may leave that range); results are float32
of the same size. A network such as the wavelet denoiser takes sides that are multiples of 32: the edge is repeated at
the bottom and on the right, and the result is cropped.

With tiles, the device holds one tile at a time, and all larger images share one compilation. Tiles lie at multiples of
32, so that the network's strides fall on the grid of the whole image, and overlap. The outer quarter of an overlap,
where a tile lacks its neighbors most, has weight 0; over the middle half the weight moves linearly from one tile to
the next, so that no seam remains. Where one tile has all the weight, and its border is beyond the network's receptive
field, the result is that of the whole image.

Source: padding as in the released code of Rojas-Gomez et al. 2022 (to multiples of 224 there); tiles are ours.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from arinv.errors import UserError
from arinv.ops.images import to_float
from arinv.ops.inputs import LOOSE_BOUNDS, check_callable, check_count, check_images, on_host
from arinv.types import Array, ArrayLike

# images [B, H, W, C] -> images of the same shape; rows are independent.
DenoiseFn = Callable[[Array], Array]


def denoise(
    denoise_fn: DenoiseFn,
    images: ArrayLike,
    *,
    multiple: int = 32,
    smallest: int = 64,
    tile: int = 0,
    overlap: int = 192,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Returns denoised images.

    Args:
      denoise_fn: images [B, h, w, C] -> images of that shape, for sides that are multiples of `multiple` from
        `smallest` up. Wrap weights in a `jax.tree_util.Partial`, so that they are not compiled in.
      images: [B, H, W, C] of any height and width, uint8 or floating point.
      multiple: of which padded sides and the places of tiles are multiples, in pixels; 224 is the paper's.
      smallest: least padded side, in pixels.
      tile: greatest side that is denoised at once, a multiple of `multiple`, in pixels; 0: any, the whole image.
      overlap: least overlap of neighboring tiles, a multiple of `multiple`, at most half a tile, in pixels.
      progress: called with (tiles done, number of tiles).

    Returns:
      float32 [B, H, W, C], not clipped.

    Raises:
      UserError: images of another rank or dtype or far outside [0, 1], sizes that do not match, or a denoise_fn that
        changes the shape or returns NaN.
    """
    check_callable(denoise_fn, "denoise_fn")
    images = _check_images(images)
    check_tiles(multiple=multiple, smallest=smallest, tile=tile, overlap=overlap)
    smallest = -(-smallest // multiple) * multiple
    height, width = images.shape[1:3]
    rows, columns = (_spans(side, multiple, smallest, tile, overlap) for side in (height, width))
    denoise_fn = denoise_fn if isinstance(denoise_fn, jax.tree_util.Partial) else jax.tree_util.Partial(denoise_fn)
    count = itertools.count(1)

    def denoise_tile(top: int, left: int) -> np.ndarray:
        piece = _cut(images, (top, rows.size), (left, columns.size))
        result = np.asarray(_apply(denoise_fn, to_float(piece)))
        if result.shape != piece.shape:
            raise UserError(f"denoise_fn returned {result.shape} for {piece.shape}; it must keep the shape")
        if not np.isfinite(result).all():
            raise UserError("denoise_fn returned NaN or infinity; check its weights and its range of images, [0, 1]")
        check_images(result, "what denoise_fn returns", bounds=LOOSE_BOUNDS)
        if progress:
            progress(next(count), len(rows.starts) * len(columns.starts))
        return result

    def strip(top: int) -> np.ndarray:
        pieces = ((left, denoise_tile(top, left)) for left in columns.starts)
        return _join(pieces, width, columns.size, overlap, axis=2)

    return _join(((top, strip(top)) for top in rows.starts), height, rows.size, overlap, axis=1)


def check_tiles(*, multiple: int, tile: int, overlap: int, smallest: int = 64) -> None:
    """Checks that the sizes of `denoise` match.

    Args:
      multiple: as for `denoise`, as all others.
      tile: 0 for none.
      overlap: ignored without tiles.
      smallest: least padded side.

    Raises:
      UserError: a tile or an overlap that is no multiple, or out of range.
    """
    for name, value in (("multiple", multiple), ("smallest", smallest)):
        check_count(value, name)
    for name, value in (("tile", tile), ("overlap", overlap)):
        check_count(value, name, minimum=0)
    if tile and (tile % multiple or tile < smallest):
        raise UserError(f"tile={tile} must be a multiple of {multiple} from {smallest} up, or 0 for the whole image")
    if tile and (overlap % multiple or not 0 <= overlap <= tile // 2):
        raise UserError(
            f"overlap={overlap} must be a multiple of {multiple} from 0 up to half of the tile, {tile // 2}"
        )


@jax.jit
def _apply(denoise_fn: Any, images: Array) -> Array:
    return denoise_fn(images)


class _Spans(NamedTuple):
    """The starts of tiles along one side, and their size."""

    starts: list[int]
    size: int


def _spans(side: int, multiple: int, smallest: int, tile: int, overlap: int) -> _Spans:
    """Returns the tiles that cover a side, spread evenly, each a multiple of `multiple` from the start."""
    padded = max(smallest, -(-side // multiple) * multiple)
    if not tile or padded <= tile:
        return _Spans([0], padded)
    steps = -(-(padded - tile) // (tile - overlap))
    units = (padded - tile) // multiple
    return _Spans([units * i // steps * multiple for i in range(steps + 1)], tile)


def _cut(images: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Returns a window (start, size) of the images; beyond the edge the last row and column are repeated."""
    (top, height), (left, width) = rows, columns
    window = images[:, top : top + height, left : left + width]
    missing = (height - window.shape[1], width - window.shape[2])
    return np.pad(window, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else window


def _join(pieces: Iterator[tuple[int, np.ndarray]], side: int, size: int, overlap: int, *, axis: int) -> np.ndarray:
    """Returns one array of (start, piece) in order along `axis`, neighbors blended, cut off at `side`."""
    joined, end = None, 0
    for start, piece in pieces:
        piece = np.moveaxis(piece, axis, 0)[: side - start]
        if joined is None:
            joined = np.empty((side, *piece.shape[1:]), np.float32)
            shared = 0
        else:
            shared = min(end, side) - start
            ramp = _ramp(end - start, overlap)[:shared].reshape(-1, *[1] * (piece.ndim - 1))
            before, after = joined[start : start + shared], piece[:shared]
            # Exact where the two are equal or one has all the weight.
            blended = before + ramp * (after - before)
            joined[start : start + shared] = np.where(ramp < 1, blended, after)
        joined[start + shared : start + len(piece)] = piece[shared:]
        end = start + size
    return np.moveaxis(joined, 0, axis)


def _ramp(shared: int, overlap: int) -> np.ndarray:
    """Returns the weights of the second of two neighbors over their overlap, from 0 to 1 about its middle."""
    positions = np.arange(shared, dtype=np.float32) + 0.5
    return np.clip((positions - shared / 2) / max(overlap / 2, 1) + 0.5, 0.0, 1.0).astype(np.float32)


def _check_images(images: ArrayLike) -> np.ndarray:
    images = on_host(check_images(images, bounds=LOOSE_BOUNDS, uint8=True), "images")
    if 0 in images.shape:
        raise UserError(f"images have shape {images.shape}; must be [batch, height, width, channels] without a 0")
    return images
