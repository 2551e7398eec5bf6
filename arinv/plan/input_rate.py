"""Input rate of a training: decoding, cropping, resizing and batching, measured on this host.

No dataset is opened: synthetic files of its typical image size are read by the code that training runs.
"""

import io
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from arinv import data
from arinv.data import decoding
from arinv.data.batches import MAX_BYTES_IN_MEMORY
from arinv.experiment.fields import channels_of

_TYPICAL = (375, 500)  # height and width of photographs such as ImageNet's, JPEG
_EXAMPLES, _BATCH = 256, 32
_SECONDS = 1.0


class InputRate(NamedTuple):
    """Input rate of a training.

    Attributes:
      path: "memory" where images are decoded once, "stream" where they are decoded at every access.
      stored: what is read, the format and size of the files, or of decoded images.
      per_core: images per second of one processor core, Grain's own work included.
      per_process: images per second of one process: of `num_workers` cores, or without workers of this host's threads.
      workers: number of decoding processes; 0 for threads.
      cores: cores of this host.
    """

    path: str
    stored: str
    per_core: float
    per_process: float
    workers: int
    cores: int


def measure(
    config: ConfigDict,
    num_examples: int,
    *,
    host_features: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None,
    seconds: float | None = None,
) -> InputRate:
    """Measures the input rate of a training.

    Args:
      config: config of a training task.
      num_examples: number of training images; 0 if unknown, which counts as too many for memory.
      host_features: images uint8 [b, S, S, 3] -> further arrays of the batches, such as SIFT; computed in the process
        that trains, at the first access of each image. None for none.
      seconds: duration of the measurement; None for one second.
    """
    fields = config.data
    crop = {name: tuple(limits) for name, limits in fields.get("resized_crop", {}).items()}
    channels, resize = channels_of(config), data.ORIGINAL if crop else fields.resize
    source = _SyntheticSource(fields.name, fields.image_size, resize, channels)
    height, width = source.stored_size if crop else (fields.image_size, fields.image_size)
    in_memory = 0 < num_examples * height * width * channels <= MAX_BYTES_IN_MEMORY
    stored = f"{width} x {height} px, decoded once" if in_memory else source.title
    if in_memory and not crop:
        size = fields.image_size
        images_u8 = np.broadcast_to(source[0]["image"], (_EXAMPLES, size, size, channels))
        source = {"image": images_u8, "label": np.zeros(_EXAMPLES, np.int32)}
    size, num_first = (1, 1) if host_features else (_BATCH, 8)  # SIFT of an image takes a second
    batches = data.train_batches(source, batch_size=size, seed=0, in_memory=in_memory, resized_crop=crop)
    if host_features:
        shifts = itertools.count()  # other images each time: features of one that was seen may be kept
        batches = data.ExtendedBatches(batches, lambda images: host_features(np.roll(images, next(shifts), axis=2)))
    for _ in range(num_first):  # fills the prefetch buffers
        next(batches)
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    seconds = _SECONDS if seconds is None else seconds
    while not count or time.perf_counter() - wall < seconds:
        next(batches)
        count += size
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    batches.close()
    per_core = count / max(cpu, 1e-9)
    workers = 0 if in_memory else data.count_workers(fields.num_workers, data.num_cores())
    path = "memory" if in_memory else "stream"
    per_process = count / wall if host_features or not workers else per_core * workers
    return InputRate(path, stored, per_core, per_process, workers, data.num_cores())


class _SyntheticSource:
    """A source of one synthetic image, stored in the format of a dataset."""

    def __init__(self, name: str, size: int, resize: str, channels: int):
        self.info = data.SourceInfo(name, "train", _EXAMPLES, 1, (), size, channels=channels)
        self.num_skipped = 0
        self._size, self._resize = size, resize
        side = data.stored_side(name, size)
        height, width = (side, side) if side else _TYPICAL
        kind = "PNG" if side else "JPEG"
        # Smooth with some noise: about the file size of a photograph.
        rng = np.random.default_rng(0)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
        pixels = np.asarray(coarse, np.int16) + rng.integers(-8, 9, (height, width, 3), dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, kind)
        self._file = file.getvalue()
        self.stored_size = height, width
        self.title = f"{kind} of {width} x {height} px"

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        min_side = decoding.decoded_side(self._size, self._resize)
        pixels = decoding.decode_image(self._file, name="synthetic", min_side=min_side)
        image = decoding.resize_u8(pixels, self._size, self._resize)
        return {"image": data.to_grey(image)[..., None] if self.info.channels == 1 else image, "label": 0}

    def read_labels(self) -> np.ndarray:
        """Returns all labels, int32 [N]."""
        return np.zeros(len(self), np.int32)


def limits(rate: InputRate, *, num_processes: int, batch_size: int, seconds: Mapping | None) -> dict[str, Any]:
    """Returns the input in a plan, plain JSON.

    Args:
      rate: rate of one process.
      num_processes: that share the batch, each on a separate host.
      batch_size: size of the global batch.
      seconds: seconds of a step, with "total" of the devices; None if unknown.

    Returns:
      The rate's fields, "processes", "images_per_second" of all processes, "seconds" of a batch, and "cores_needed"
      for the devices never to wait (None if their time is unknown).
    """
    images_per_second = num_processes * rate.per_process
    total = seconds and seconds["total"]
    return {
        **rate._asdict(),
        "processes": num_processes,
        "images_per_second": images_per_second,
        "seconds": batch_size / images_per_second,
        "cores_needed": batch_size / total / rate.per_core if total else None,
    }
