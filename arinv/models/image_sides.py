"""The smallest image whose features a network's pools leave something of."""

from arinv.errors import UserError
from arinv.types import Array


def check_sides(images: Array, smallest: int, network: str) -> None:
    """Raises where an image is too small.

    Args:
      images: [B, H, W, C].
      smallest: side in pixels.
      network: names it in the message.

    Raises:
      UserError: a side shorter than that.
    """
    height, width = images.shape[1:3]
    if min(height, width) < smallest:
        raise UserError(
            f"{network} takes images of at least {smallest} x {smallest} px; got {height} x {width}: raise "
            "image_size, or take an encoder for smaller ones, such as resnet18 or alexnet_small"
        )
