"""Datasets as random-access sources of uint8 images, and batches of them.

The files, from a name to a batch:

opening.py      `open_source`, and the table of schemes
source.py       the protocol of a source, subsets and arrays
photos.py       photos: patches of ten photographs, built in
tfds.py         tfds:NAME, without TensorFlow
folder.py       folder:PATH, a subfolder a class
image_files.py  `open_images`: the files of a folder, found and checked
npz.py          npz:PATH, arrays of images and labels
slices.py       blobs and volume:PATH, slices of volumes
decoding.py     decoding, resizing and cropping of image files
cores.py        the processor cores that decode
batches.py      batches for training and evaluation, in memory or through Grain
"""

from arinv.data.batches import ExtendedBatches, MixedBatches, check_full_batch, eval_batches, train_batches
from arinv.data.cores import count_workers, num_cores
from arinv.data.decoding import (
    ORIGINAL,
    check_window,
    decoded_side,
    limit_side,
    means_u8,
    read_image,
    resize_u8,
    to_grey,
)
from arinv.data.image_files import ImageFiles, open_images
from arinv.data.opening import (
    LARGEST_SIDE,
    SCHEMES,
    Scheme,
    check_name,
    check_split,
    open_source,
    published,
    report_absent,
    same_dataset,
    share_images,
    split_name,
    stored_side,
)
from arinv.data.photos import is_photographs, open_photographs, photograph_names, read_photograph
from arinv.data.source import Published, Renumbered, Source, SourceInfo, count_copies, load_arrays

__all__ = [
    "LARGEST_SIDE",
    "ORIGINAL",
    "SCHEMES",
    "ExtendedBatches",
    "ImageFiles",
    "MixedBatches",
    "Published",
    "Renumbered",
    "Scheme",
    "Source",
    "SourceInfo",
    "check_full_batch",
    "check_name",
    "check_split",
    "check_window",
    "count_copies",
    "count_workers",
    "decoded_side",
    "eval_batches",
    "is_photographs",
    "limit_side",
    "load_arrays",
    "means_u8",
    "num_cores",
    "open_images",
    "open_photographs",
    "open_source",
    "photograph_names",
    "published",
    "read_image",
    "read_photograph",
    "report_absent",
    "resize_u8",
    "same_dataset",
    "share_images",
    "split_name",
    "stored_side",
    "to_grey",
    "train_batches",
]
