"""Data sets as random-access sources of uint8 images, and batches of them."""

from arinv.data.batches import MixedBatches, eval_batches, train_batches
from arinv.data.folder import Pictures, open_pictures
from arinv.data.image_files import ORIGINAL, decoded_side, read_image, resize_u8
from arinv.data.opening import check_name, open_source
from arinv.data.photos import read_photograph
from arinv.data.source import Renumbered, Source, SourceInfo, load_arrays

__all__ = [
    "ORIGINAL",
    "MixedBatches",
    "Pictures",
    "Renumbered",
    "Source",
    "SourceInfo",
    "check_name",
    "decoded_side",
    "eval_batches",
    "load_arrays",
    "open_pictures",
    "open_source",
    "read_image",
    "read_photograph",
    "resize_u8",
    "train_batches",
]
