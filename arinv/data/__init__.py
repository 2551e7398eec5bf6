"""Datasets as random-access sources of uint8 images, and batches of them."""

from arinv.data.batches import MixedBatches, eval_batches, train_batches
from arinv.data.folder import Pictures, open_pictures
from arinv.data.image_files import ORIGINAL, decoded_side, read_image, resize_u8
from arinv.data.opening import SCHEMES, Scheme, check_name, open_source, published, split_name, stored_side
from arinv.data.photos import read_photograph
from arinv.data.source import Published, Renumbered, Source, SourceInfo, load_arrays

__all__ = [
    "ORIGINAL",
    "SCHEMES",
    "MixedBatches",
    "Pictures",
    "Published",
    "Renumbered",
    "Scheme",
    "Source",
    "SourceInfo",
    "check_name",
    "decoded_side",
    "eval_batches",
    "load_arrays",
    "open_pictures",
    "open_source",
    "published",
    "read_image",
    "read_photograph",
    "resize_u8",
    "split_name",
    "stored_side",
    "train_batches",
]
