"""Decoding of image files on the host, as uint8 RGB [H, W, 3]; resizing and cropping."""

import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from arinv.errors import UserError, unknown
from arinv.ops.colors import REC_601
from arinv.ops.inputs import check_count

RESIZE_MODES = ("squash", "crop", "crop_7_8")
ORIGINAL = "original"  # the mode that does not resize

_BITS, _PHOTOMETRIC, _LAYOUT, _PLANES, _SAMPLE_FORMAT, _SIGNED = 258, 262, 284, 2, 339, 2  # tags of TIFF, and values
_MAX_ASPECT_DIFFERENCE = 0.02


def read_image(path: str | pathlib.Path, *, min_side: int | None = None) -> np.ndarray:
    """Returns the image of a file as uint8 RGB.

    Args:
      path: an image file.
      min_side: length in pixels to which a JPEG may be reduced while it is decoded, which is up to four times faster;
        both sides stay at least this long. None: full size.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: a missing, damaged, truncated or far too large file, or one with 32 bits a pixel.
    """
    return decode_image(_read_bytes(path), name=str(path), min_side=min_side)


def read_levels(path: str | pathlib.Path) -> np.ndarray:
    """Returns the grey levels of an image file as they are stored, those of a scan.

    Args:
      path: an image file, of any number of bits; colors become grey by Rec. 601.

    Returns:
      [H, W], uint8, or of the file's own type where it has more than 8 bits.

    Raises:
      UserError: a missing, damaged, truncated or far too large file, or one of several pages.
    """
    return _decode(_read_bytes(path), str(path), _to_levels)


def _read_bytes(path: str | pathlib.Path) -> bytes:
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"cannot read image {path!r}: give the path of a file")
    try:
        return pathlib.Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError, ValueError) as error:  # also no such user, a null character
        raise UserError(f"cannot read image {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None


def decode_image(data: bytes, *, name: str, min_side: int | None = None) -> np.ndarray:
    """Returns an encoded image (the bytes of a file) as uint8 RGB.

    Args:
      data: bytes of a JPEG, PNG, ... file.
      name: its name in errors.
      min_side: see `read_image`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: damaged, truncated or far too large data, or 32 bits a pixel.
    """
    return _decode(data, name, lambda image, name: np.asarray(_to_rgb(image, name)), min_side=min_side)


def _decode(
    data: bytes, name: str, convert: Callable[[Image.Image, str], np.ndarray], *, min_side: int | None = None
) -> np.ndarray:
    """Returns what `convert` makes of an opened image.

    Raises:
      UserError: as for `decode_image`.
    """
    if not data:
        raise UserError(f"{name} is empty: 0 bytes")
    if min_side is not None:
        check_count(min_side, "min_side")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise UserError(_too_large(name, f"{image.width} x {image.height} pixels"))
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            _check_planes(image, name)
            return convert(image, name)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(_too_large(name, "very many pixels")) from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{name} is not a readable image, or its start is damaged") from None
    except ImportError:  # a package is missing
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of errors, all for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is damaged or truncated ({reason})") from None


def _too_large(name: str, size: str) -> str:
    return f"{name} has {size}, more than the {Image.MAX_IMAGE_PIXELS:,} allowed; make it smaller"


def _to_levels(image: Image.Image, name: str) -> np.ndarray:
    """Returns the grey levels [H, W] of the first frame, upright, not scaled."""
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{name} has {image.n_frames} pages; a slice is a file of its own: save each by itself")
    _load_upright(image)
    return _deep_values(image)[0] if _is_deep(image) else to_grey(np.asarray(_to_rgb(image, name)))


def _load_upright(image: Image.Image) -> None:
    image.load()  # also rotates a TIFF upright and removes its tag
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # with damaged EXIF data the pixels are still valid
        pass


def _is_deep(image: Image.Image) -> bool:
    """Returns whether a grey image has more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _tiff_number(image: Image.Image, tag: int, default: int) -> int:
    """Returns the number of a tag of a TIFF, or a default, also for other formats."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) else value


def _check_planes(image: Image.Image, name: str) -> None:
    """Checks that an image is not a TIFF without compression and with planes of 16 bits, which Pillow reads as 8 bits.

    Raises:
      UserError: it is.
    """
    is_raw = image.tile and image.tile[0][0] == "raw"
    if is_raw and _tiff_number(image, _LAYOUT, 1) == _PLANES and _tiff_number(image, _BITS, 8) > 8:
        raise UserError(
            f"{name} has planes of 16 bits without compression; save it with 8 bits, or with interleaved channels"
        )


def _deep_values(image: Image.Image) -> tuple[np.ndarray, int]:
    """Returns the grey levels of an image of more than 8 bits, with white as the highest, and the highest level.

    Pillow neither scales 12 bits to 16 nor inverts a TIFF whose white is 0.
    """
    values, highest = np.array(image), (1 << 16) - 1
    if image.mode.startswith("I;16"):
        highest = (1 << min(_tiff_number(image, _BITS, 16), 16)) - 1
        if _tiff_number(image, _PHOTOMETRIC, 1) == 0:
            values = (highest - values.astype(np.int32)).astype(np.uint16)
    return values, highest


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Returns the first frame, upright, as mode RGB.

    Raises:
      UserError: 32 bits a pixel, or signed ones.
    """
    if _tiff_number(image, _SAMPLE_FORMAT, 1) == _SIGNED and not _is_deep(image):
        raise UserError(f"{name} has signed values, of no standard range; save it with 8 or 16 bits without a sign")
    _scale_transparency(image)
    _load_upright(image)
    if _is_deep(image):
        return _deep_grey_to_rgb(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_transparency(image: Image.Image) -> None:
    """Scales a PNG's transparent color to 8 bits, as Pillow scales the pixels but not that color."""
    color, raw_mode = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if raw_mode in ("L;2", "L;4") and isinstance(color, int):
        image.info["transparency"] = color * {"L;2": 85, "L;4": 17}[raw_mode]
    elif raw_mode == "RGB;16B" and isinstance(color, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in color)


def _deep_grey_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Returns a 16-bit grey image with 8 bits; its transparent grey becomes white.

    Raises:
      UserError: 32 bits a pixel, whose range is not standardized.
    """
    values, highest = _deep_values(image)
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")):  # PPM: at most 16
        raise UserError(
            f"{name} has 32 bits a pixel, values {values.min():g} to {values.max():g} of no standard range; save it "
            "with 8 or 16 bits"
        )
    grey = ((values.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _check_u8(image: np.ndarray, *, grey: bool = True) -> None:
    is_u8 = isinstance(image, np.ndarray) and image.dtype == np.uint8 and 0 not in image.shape
    if not is_u8 or not (image.ndim == 3 and image.shape[-1] == 3 or grey and image.ndim == 2):
        kind = f"{image.dtype} {image.shape}" if hasattr(image, "dtype") else type(image).__name__
        raise UserError(f"an image must be uint8 [H, W, 3]{' or [H, W]' if grey else ''} in 0..255; got {kind}")


def resize_u8(image: np.ndarray, size: int, mode: str = "squash") -> np.ndarray:
    """Returns an image with both sides `size`, by bilinear interpolation with antialiasing, Pillow's.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result, in pixels.
      mode: "squash" ignores the aspect ratio; "crop" resizes the short side to `size`, then crops the center;
        "crop_7_8" resizes the short side to 8/7 of `size`, then crops the center, as torchvision's Resize(256) and
        CenterCrop(224); "original" returns the image unchanged.

    Returns:
      uint8 [size, size, 3]; "original": [H, W, 3].

    Raises:
      UserError: unknown mode, not an image of uint8, or a side below 1.
    """
    if mode not in (*RESIZE_MODES, ORIGINAL):
        raise unknown("resize", mode, (*RESIZE_MODES, ORIGINAL))
    _check_u8(image)
    check_count(size, "size")
    height, width = image.shape[:2]
    if mode == ORIGINAL or (mode != "crop_7_8" and (height, width) == (size, size)):
        return image
    box = crop_box(height, width, size, mode)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def limit_side(image: np.ndarray, max_side: int) -> np.ndarray:
    """Returns an image whose longer side is not longer than a limit, reduced by bilinear interpolation.

    Args:
      image: uint8 [H, W, 3].
      max_side: largest length of the longer side, in pixels; 0 for no limit.

    Returns:
      uint8 [h, w, 3]; the image itself where it is not larger.

    Raises:
      UserError: not an image of uint8, or a negative limit.
    """
    _check_u8(image)
    check_count(max_side, "max_side", minimum=0)
    height, width = image.shape[:2]
    factor = max_side / max(height, width) if max_side else 1.0
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def means_u8(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the largest square in the center of an image, reduced to sides of `size` by means of blocks.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result, in pixels.

    Returns:
      uint8 [size, size, 3]; pixels of a smaller image are repeated.

    Raises:
      UserError: not an image of uint8, or a side below 1.
    """
    _check_u8(image)
    check_count(size, "size")
    box = crop_box(*image.shape[:2], size, "crop")
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX, box=box))


def check_window(window: Sequence[int]) -> None:
    """Checks the numbers of a window of `crop_window`.

    Args:
      window: x and y of the center and the side of the window, in pixels.

    Raises:
      UserError: not three whole numbers, or a side below 1.
    """
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in window)
    if len(window) != 3 or not whole or window[2] < 1:
        raise UserError(
            f"window must be x and y of its center and its side, in pixels, such as (89, 121, 128); got {tuple(window)}"
        )


def crop_window(image: np.ndarray, window: Sequence[int], *, name: str) -> np.ndarray:
    """Returns a square window of an image.

    Args:
      image: uint8 [H, W, C].
      window: x and y of its center and its side, in pixels; an even side extends one pixel further to the top left.
      name: name of the image in errors.

    Returns:
      uint8 [side, side, C].

    Raises:
      UserError: the window is not inside the image.

    Source: (89, 121, 128) of aligned CelebA is that of Karras et al. 2018.
    """
    x, y, side = window
    left, top = x - side // 2, y - side // 2
    height, width = image.shape[:2]
    if min(left, top) < 0 or left + side > width or top + side > height:
        raise UserError(
            f"{name} has {width} x {height} px: the window of {side} px around x={x}, y={y} is not inside; set "
            "data.window"
        )
    return image[top : top + side, left : left + side]


def to_grey(image: np.ndarray) -> np.ndarray:
    """Returns an image in grey by Rec. 601.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      uint8 [H, W].

    Raises:
      UserError: not an image of uint8 with three channels.
    """
    _check_u8(image, grey=False)
    return np.rint(image.astype(np.float32) @ np.array(REC_601, np.float32)).astype(np.uint8)


def fits(shape: Sequence[int], image_shape: Sequence[int]) -> bool:
    """Returns whether a mask or a label map fits an image: square, or of the same aspect ratio up to rounding.

    Args:
      shape: shape of the map, [H, W, ...].
      image_shape: shape of the image, [H, W, ...].
    """
    height, expected = shape[0], shape[1] * image_shape[0] / image_shape[1]
    return height == shape[1] or abs(height - expected) <= max(1.0, _MAX_ASPECT_DIFFERENCE * expected)


def crop_box(height: int, width: int, size: int, mode: str) -> tuple[float, float, float, float]:
    """Returns (left, top, right, bottom) of the part of an image that `resize_u8` resizes to `size`, in its pixels.

    Resizing that part gives the same pixels as resizing first and cropping then, without the cost of a long side.

    Args:
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      size: side of the result, in pixels.
      mode: see `resize_u8`.
    """
    if mode == "squash":
        return (0.0, 0.0, float(width), float(height))
    short = min(height, width)
    if mode == "crop":
        left, top = (width - short) / 2, (height - short) / 2
        return (left, top, left + short, top + short)
    # torchvision resizes to whole pixels, and crops at whole pixels of that.
    resized = round(size * 8 / 7)
    long = int(resized * max(height, width) / short)
    sides = (resized, long) if height <= width else (long, resized)
    (top, zoom_y), (left, zoom_x) = (
        (round((side - size) / 2), original / side) for side, original in zip(sides, (height, width), strict=True)
    )
    return (left * zoom_x, top * zoom_y, (left + size) * zoom_x, (top + size) * zoom_y)


def decoded_side(size: int, mode: str) -> int:
    """Returns the `min_side` of `read_image` that loses no detail when the image is then resized to `size`.

    Twice the size is enough for the antialiasing filter. "original" images are cropped at random: the smallest
    window of ImageNet's recipe, 8 % of the area, still has about `size` pixels across.

    Args:
      size: side of the result, in pixels.
      mode: see `resize_u8`.

    Returns:
      The side, in pixels.
    """
    return {ORIGINAL: 4, "crop_7_8": 3}.get(mode, 2) * size


def random_resized_crop(
    key: Sequence[int],
    image: np.ndarray,
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Returns a window of random area and shape, resized to `size` by bilinear interpolation with antialiasing.

    Args:
      key: integers of 0 or more that seed the window, such as a seed and a step.
      image: uint8 [H, W, C], as stored, C 1 or 3.
      size: side of the result, in pixels.
      scale: smallest and largest area of the window, as a fraction of the image's.
      ratio: smallest and largest width / height of the window, drawn on a log scale.

    Returns:
      uint8 [size, size, C].

    Raises:
      UserError: as `crop_options`.

    Source: torchvision's RandomResizedCrop on Pillow images: ten tries, then the largest centered window of an allowed
    shape.
    """
    crop_options({"scale": scale, "ratio": ratio})
    rng, channels = np.random.default_rng(list(key)), image.shape[2]
    top, left, height, width = _draw_window(rng, image.shape[:2], scale, ratio)
    # Cropped before resizing: the filter must not reach pixels outside of the window.
    pixels = image[top : top + height, left : left + width]
    window = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    return np.asarray(window.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)


def crop_options(options: Mapping[str, Sequence[float]], name: str = "resized_crop") -> dict[str, tuple[float, float]]:
    """Checks options of `random_resized_crop`, scale and ratio, and returns them.

    Args:
      options: name -> (lowest, highest); either may be missing.
      name: what has the options, for the message.

    Raises:
      UserError: an unknown option, or limits that are not two positive numbers in ascending order, of areas at most 1.
    """
    limits = {}
    for option, values in options.items():
        try:
            low, high = limits[option] = tuple(map(float, values))
        except (TypeError, ValueError):
            low = high = 0.0
        if option not in ("scale", "ratio") or not 0 < low <= high:
            raise UserError(
                f"{name}.{option}={values} must be scale or ratio with two positive numbers, the lower first"
            )
    if limits.get("scale", (1.0, 1.0))[1] > 1:
        raise UserError(f"{name}.scale={limits['scale']} must be shares of the image's area, 1 or less")
    return limits


def _draw_window(rng, shape: tuple[int, int], scale, ratio) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of a window of whole pixels."""
    height, width = shape
    low, high = np.log(ratio)
    for area, aspect, at_y, at_x in rng.random((10, 4)):
        pixels = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        shape_of_window = np.exp(low + (high - low) * aspect)
        w, h = round(float(np.sqrt(pixels * shape_of_window))), round(float(np.sqrt(pixels / shape_of_window)))
        if 0 < w <= width and 0 < h <= height:
            return int(at_y * (height - h + 1)), int(at_x * (width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, max(1, h), max(1, w)
