"""Image files to uint8 RGB arrays [H, W, 3] in 0..255, and resizing on the host.

Reads whatever Pillow reads: grey, palette, transparent (laid on white), 16-bit, CMYK, animated
(first frame), and turns a photograph upright as its EXIF orientation says.
"""

import io
import pathlib

import numpy as np
from PIL import Image

from arinv.errors import UserError, unknown

RESIZE_MODES = ("squash", "crop")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation: what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | pathlib.Path, *, min_side: int | None = None) -> np.ndarray:
    """Returns the image of a file as uint8 RGB.

    Args:
      path: an image file.
      min_side: the image may come back smaller than it is stored, but with both sides at least this
        long (JPEG only; decoding is then up to four times faster). None: full size.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: missing, broken, cut short or far too large; the message names the file.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read image {str(path)!r}: {error.strerror or error}") from None
    return decode_image(data, name=str(path), min_side=min_side)


def decode_image(data: bytes, *, name: str, min_side: int | None = None) -> np.ndarray:
    """Returns an encoded image (the bytes of a file) as uint8 RGB; `name` stands in the errors.

    Args:
      data: bytes of a JPEG, PNG, ... file.
      name: what to call it in an error.
      min_side: see `read_image`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UserError: broken, cut short or far too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise UserError(_too_large(name, f"{image.width} x {image.height} pixels"))
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            return np.asarray(_to_rgb(image))
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(_too_large(name, "very many pixels")) from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{name} is not a readable image, or its start is damaged") from None
    except Exception as error:  # Pillow's decoders raise many kinds; each means a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} is damaged or cut short ({reason})") from None


def _too_large(name: str, size: str) -> str:
    return f"{name} has {size}, more than the {Image.MAX_IMAGE_PIXELS:,} allowed; make it smaller"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns the first frame, upright, as mode RGB."""
    image.load()  # which turns a TIFF upright and takes the tag away
    if image.mode == "RGB" and "exif" not in image.info and "transparency" not in image.info:
        return image  # nearly all images: no copy
    if (turn := _UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; damaged EXIF data is no reason to refuse the picture."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Returns a 16-bit grey image with 8 bits; other depths have no agreed range."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise ValueError(f"grey values {low} to {high}; save it with 8 or 16 bits a channel")
    grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def resize_u8(image: np.ndarray, size: int, mode: str = "squash") -> np.ndarray:
    """Returns an image with both sides `size`, by bilinear interpolation with antialiasing.

    Args:
      image: uint8 [H, W, 3].
      size: side of the result, in pixels.
      mode: "squash" gives up the aspect ratio; "crop" brings the short side to `size` and keeps the
        centre.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: unknown mode.
    """
    if mode not in RESIZE_MODES:
        raise unknown("resize", mode, RESIZE_MODES)
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    box = (0.0, 0.0, float(width), float(height))
    if mode == "crop":  # the same pixels as resizing first, without the cost of a long side
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)
