"""Slices of volumes as datasets of grey images [S, S, 1]: synthetic porous volumes, or a user-supplied one.

"blobs"        a synthetic volume, not a scan: a Gaussian random field, thresholded so that 24% are pores (dark),
               blurred, with noise. It is generated as it is read, identically each time.
"volume:PATH"  a .npy file, a .npz file with one array or "volume", both [D, H, W], or a folder of slices in the order
               of their names. Values other than uint8, and those of a volume with two values, are scaled from the
               volume's smallest and largest to 0 to 255.

A slice is the largest square in the center, or data.window, resized. The class of a slice is the axis across which it
was cut. Test slices are cut across axis 0 only, in their order, so that they form a volume again.

Source: slices of a rock along varying axes, Generative Encoder, section 4.1.
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from arinv.data import decoding, image_files
from arinv.data.source import SourceInfo, check_index
from arinv.errors import UserError, first_line, unknown
from arinv.paths import expanded

AXES = ("axis 0", "axis 1", "axis 2")
_SPLITS = ("train", "test")
_TEST_SHARE = 5  # one slice in five, the last ones

_CUBES = 16  # of the training split of blobs
_SMALLEST_CUBE = 64  # voxels; slices of smaller images are reduced, as those of photographs are
_POROSITY = 0.24
_SCALE = 1 / 24  # standard deviation of the field's filter, in sides of the cube
_BLUR, _NOISE = 0.7, 0.03  # voxels; standard deviation in units of [0, 1] images
_PORE, _SOLID = 0.15, 0.85  # grey levels

_FEWEST_LEVELS = 16  # from the darkest to the brightest voxel of a scan; labels of phases are fewer


class Slices:
    """Slices of volumes, by volume, axis and position."""

    def __init__(
        self,
        name: str,
        split: str,
        volume_fn: Callable[[int], np.ndarray],
        index: np.ndarray,
        *,
        image_size: int,
        resize: str,
        left_out: str = "",
    ):
        """Stores what the slices are cut from.

        Args:
          name: name of the dataset.
          split: name of the split.
          volume_fn: number of a volume -> uint8 [D, H, W].
          index: int [N, 3], the number of the volume, the axis and the position on it of each slice.
          image_size: side of the images, in pixels.
          resize: "original" for squares as they are; all other modes of `decoding.resize_u8` crop squares.
          left_out: other files beside the slices and gaps in their numbers, as text.
        """
        self._volume_fn, self._index = volume_fn, index
        self._mode = resize if resize == decoding.ORIGINAL else "crop"
        self.info = SourceInfo(name, split, len(index), len(AXES), AXES, image_size, left_out, channels=1)
        self.num_skipped = 0

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, axis, position = (int(value) for value in self._index[check_index(index, len(self))])
        image = np.take(self._volume_fn(number), position, axis)
        return {"image": decoding.resize_u8(image, self.info.image_size, self._mode)[..., None], "label": axis}

    def read_labels(self) -> np.ndarray:
        """Returns the axes of all slices, int32 [N]."""
        return self._index[:, 1].astype(np.int32)


def open_blobs(location: str, split: str, *, image_size: int, resize: str) -> Slices:
    """Returns slices of synthetic porous volumes.

    Args:
      location: empty; the dataset has no location.
      split: "train", slices of sixteen cubes across all axes; or "test", image_size slices of another cube across
        axis 0.
      image_size: side of the images, in pixels.
      resize: see `Slices`.

    Returns:
      Examples {"image": uint8 [S, S, 1], "label": int}.

    Raises:
      UserError: unknown split.
    """
    if split not in _SPLITS:
        raise unknown("split of blobs", split, _SPLITS)
    step = max(1, round(_SMALLEST_CUBE / image_size))
    side = step * image_size
    if split == "test":
        index = np.array([(_CUBES, 0, position) for position in range(0, side, step)])
    else:
        grid = np.meshgrid(np.arange(_CUBES), np.arange(side), np.arange(3), indexing="ij")
        index = np.stack([axis.ravel() for axis in grid], axis=1)[:, [0, 2, 1]]
    volume_fn = functools.partial(make_blobs, side=side)  # unlike a lambda it can be sent to worker processes
    return Slices("blobs", split, volume_fn, index, image_size=image_size, resize=resize)


@functools.lru_cache(maxsize=4)
def make_blobs(number: int, side: int) -> np.ndarray:
    """Returns a synthetic porous cube: a thresholded Gaussian random field, blurred, with noise.

    Args:
      number: number of the cube; number and side determine its contents.
      side: side of the cube, in voxels.

    Returns:
      uint8 [side, side, side], read-only; pores are dark.
    """
    rng = np.random.default_rng([number, side])
    field = _filtered(rng.standard_normal((side, side, side), np.float32), _SCALE * side)
    solid = (field > np.quantile(field, _POROSITY)).astype(np.float32)
    grey = _PORE + (_SOLID - _PORE) * _filtered(solid, _BLUR) + _NOISE * rng.standard_normal(solid.shape, np.float32)
    cube = np.clip(np.rint(255 * grey), 0, 255).astype(np.uint8)
    cube.flags.writeable = False
    return cube


def _filtered(values: np.ndarray, deviation: float) -> np.ndarray:
    """Returns periodic values [D, H, W] after a Gaussian filter of a standard deviation in voxels."""
    frequencies = [np.fft.fftfreq(side) for side in values.shape[:2]] + [np.fft.rfftfreq(values.shape[2])]
    gains = [np.exp(-2 * (np.pi * deviation * f) ** 2).astype(np.float32) for f in frequencies]
    spectrum = np.fft.rfftn(values) * gains[0][:, None, None] * gains[1][:, None] * gains[2]
    return np.fft.irfftn(spectrum, values.shape, axes=(0, 1, 2)).astype(np.float32)


def open_volume(location: str, split: str, *, image_size: int, resize: str, window: tuple[int, ...] = ()) -> Slices:
    """Returns slices of a user-supplied volume.

    Args:
      location: path of a .npy or .npz file, or of a folder of slices.
      split: "test", the last fifth of the volume along axis 0, cut across that axis; "train", the rest, cut across the
        others too where it is long enough for squares of the same size.
      image_size: side of the images, in pixels.
      resize: see `Slices`.
      window: window of slices across axis 0, see `decoding.crop_window`; empty for the largest square in the center.

    Returns:
      Examples {"image": uint8 [S, S, 1], "label": int}.

    Raises:
      UserError: a missing or damaged file, no volume in it, one value everywhere, slices in several folders, an unknown
        split, or a window that is not inside.
    """
    if split not in _SPLITS:
        raise unknown(f"split of volume:{location}", split, _SPLITS)
    volume, left_out = _read(expanded(location))
    if len(volume) < 2:
        raise UserError(
            f"{location} has {len(volume)} slice; a volume needs two or more, of which the last are the test"
        )
    height, width = volume.shape[1:]
    x, y, side = window or (width // 2, height // 2, min(height, width))
    volume = np.moveaxis(decoding.crop_window(np.moveaxis(volume, 0, -1), (x, y, side), name=location), -1, 0)
    first_test = len(volume) - max(1, len(volume) // _TEST_SHARE)
    volume = volume[first_test:] if split == "test" else volume[:first_test]
    # Of slices across the other axes, the squares in their center are read.
    axes = range(3) if split == "train" and len(volume) >= side else range(1)
    index = [(0, axis, i) for i in range(max(volume.shape)) for axis in axes if i < volume.shape[axis]]
    name = f"volume:{location}"
    volume_fn, options = (volume,).__getitem__, {"image_size": image_size, "resize": resize, "left_out": left_out}
    return Slices(name, split, volume_fn, np.array(index), **options)


def check_location(location: str) -> None:
    """Checks that the volume exists.

    Raises:
      UserError: there is no such volume.
    """
    path = expanded(location)
    if not path.is_dir() and not (path.is_file() and path.suffix in (".npy", ".npz")):
        raise UserError(
            f"{location!r} is not a volume; give the path of a .npy or .npz file [D, H, W], or of a folder of slices"
        )


@functools.lru_cache(maxsize=1)
def _read_file(path: pathlib.Path, modified: int) -> tuple[np.ndarray, str]:
    """Returns the volume of a file or a folder, uint8 [D, H, W], and what is beside or missing among its slices."""
    if path.is_dir():
        paths, left_out = _list_slices(path)
        slices = [decoding.read_levels(file) for file in paths]
        for kind, values in (
            ("sizes", {f"{image.shape[1]}x{image.shape[0]} px" for image in slices}),
            ("types", {str(image.dtype) for image in slices}),
        ):
            if len(values) != 1:
                raise UserError(
                    f"{path} has slices of different {kind}, {', '.join(sorted(values))}; all slices must have "
                    f"the same {kind}"
                )
        return _to_uint8(np.stack(slices), path), left_out
    try:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            volume = arrays
        else:
            with arrays:
                names = arrays.files
                if "volume" not in names and len(names) != 1:
                    raise UserError(f"{path} has the arrays {', '.join(names)}; name the volume's 'volume'")
                volume = arrays["volume" if "volume" in names else names[0]]
    except UserError:
        raise
    except Exception as error:  # zip, deflate and NumPy's header parser raise many kinds of errors
        raise UserError(
            f"{path} cannot be read as a NumPy file ({type(error).__name__}: {first_line(error)}); write an array of "
            "numbers, not of objects, with numpy.save"
        ) from None
    if volume.ndim == 4 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3 or 0 in volume.shape or volume.dtype.kind not in "buif":
        raise UserError(f"{path} has {volume.dtype} {volume.shape}; a volume has numbers [D, H, W]")
    return _to_uint8(volume, path), ""


def _list_slices(path: pathlib.Path) -> tuple[list[pathlib.Path], str]:
    """Returns the slices of a folder in their order, and what is beside or missing among them.

    Raises:
      UserError: no image, or images in several folders.
    """
    images, left_out = image_files.list_images(path)
    folders = sorted({str(image.parent.relative_to(path)) for image in images})
    if len(folders) > 1:
        raise UserError(
            f"{path} has images in several folders ({', '.join(folders[:5])}), of which each may be a volume; name one"
        )
    paths = sorted(images, key=lambda file: _number_order(file.name))
    numbers = [int(parts[-1]) if (parts := re.findall(r"\d+", file.stem)) else 0 for file in paths]
    steps = np.diff(numbers)
    if len(steps) and steps.min() > 0 and steps.max() > steps.min():
        missing = f"missing number among the slices ({np.sum(steps // steps.min() - 1)})"
        left_out = f"{left_out}, {missing}" if left_out else missing
    return paths, left_out


def _number_order(name: str) -> list[tuple[int, str]]:
    """Returns a key that sorts names by the numbers in them: slice9 before slice10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _read(path: pathlib.Path) -> tuple[np.ndarray, str]:
    check_location(str(path))
    return _read_file(path, os.stat(path).st_mtime_ns)


def _to_uint8(volume: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns a volume as grey levels; see the module's docstring.

    Raises:
      UserError: values that are not finite, one value everywhere, or a few grey levels that may be labels.
    """
    if volume.dtype == np.uint8:
        seen = np.zeros(256, bool)
        for image in volume:
            seen[image] = True
            levels = np.flatnonzero(seen)
            if len(levels) > 2 and levels[-1] - levels[0] >= _FEWEST_LEVELS:
                return volume
        if len(levels) > 2:
            raise UserError(
                f"{path} has the values {levels[0]} to {levels[-1]} of uint8, nearly equal ones of 0 to 255; "
                "save it as another type, whose values are scaled, or keep two of the values"
            )
    low, high = volume.min().item(), volume.max().item()
    if not np.isfinite([float(low), float(high)]).all():
        raise UserError(f"{path} has values that are not finite; a volume has finite numbers")
    if low == high:
        raise UserError(f"{path} has the value {low:g} everywhere; a volume has lower and higher ones")
    levels = np.empty(volume.shape, np.uint8)
    for image, values in zip(levels, volume, strict=True):  # a float64 copy of the whole would be eight times as large
        if volume.dtype.kind == "f":  # halves, whose difference does not overflow
            shares = (0.5 * values.astype(np.float64) - 0.5 * low) / (0.5 * high - 0.5 * low)
        else:  # differences modulo 2^64 are exact, also of integers that float64 rounds
            shares = (values.astype(np.uint64) - np.uint64(int(low) % 2**64)) / float(int(high) - int(low))
        image[...] = np.rint(255.0 * shares)
    return levels
