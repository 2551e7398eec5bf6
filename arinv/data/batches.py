"""Batches for training (endless, shuffled, resumable) and for evaluation (in order, padded).

A batch is {"image": uint8 [b, S, S, 3], "label": int32 [b], "mask": float32 [b]}, where b is the number of rows of the
global batch that belong to this process. The examples of training batch t, and the windows cropped from them, are a
pure function of (seed, t): the same with one process or many, in memory or streamed, and after a restart.
"""

import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from arinv import interrupts
from arinv.data.cores import count_workers, num_cores
from arinv.data.decoding import crop_options, random_resized_crop
from arinv.data.source import Arrays, Originals, Source, estimate_bytes, load_arrays, pixels
from arinv.errors import TemporaryError, UserError, first_line
from arinv.ops.inputs import as_array, check_count, on_host

Batch = dict[str, np.ndarray]

MAX_BYTES_IN_MEMORY = 2_000_000_000
_ENDLESS = 1 << 40  # Grain requires a length
_KILLED = "Worker process was terminated"  # Grain's error for a worker that has ended
_CROPS = 1  # first in the key of a window, before seed, step and row


@functools.lru_cache(maxsize=4)  # two sources, each across the end of an epoch
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_examples)
    order.flags.writeable = False
    return order


@dataclasses.dataclass(frozen=True, eq=False)
class TrainOrder:
    """The examples of every step, as a pure function without state.

    Attributes:
      num_examples: number of examples of the source.
      batch_size: number of examples of the global batch.
      seed: seed of the order.
      rows: the rows of each global batch that belong to this process, int64.
    """

    num_examples: int
    batch_size: int
    seed: int
    rows: np.ndarray

    @property
    def steps_per_epoch(self) -> int:
        """Full global batches in an epoch."""
        return self.num_examples // self.batch_size

    @property
    def share(self) -> int:
        """Examples of a global batch that belong to this process."""
        return len(self.rows)

    def indices(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """Returns the indices of this process's examples of global batch `step`, int64 [share], or of some `rows`.

        Args:
          step: number of the batch, from 0.
          rows: slice of this process's rows.
        """
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        return _permutation(self.num_examples, self.seed, epoch)[step_in_epoch * self.batch_size + self.rows[rows]]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainExamples:
    """The examples of training batches, read one by one.

    Attributes:
      source: examples to read; opened with resize="original" where windows are cropped.
      order: order of the examples.
      resized_crop: options of `decoding.random_resized_crop`; empty: images as in the source.
    """

    source: Source
    order: TrainOrder
    resized_crop: Mapping[str, Any]

    def read(self, step: int, row: int) -> dict[str, Any]:
        """Returns one example of a batch, by its row among those of this process.

        Args:
          step: number of the batch, from 0.
          row: row among those of this process, from 0.

        Returns:
          {"image": uint8 [S, S, C], "label": int}.
        """
        (index,) = self.order.indices(step, slice(row, row + 1))
        example = self.source[int(index)]
        if not self.resized_crop:
            return {**example, "image": pixels(example, self.source.info)}
        key = [_CROPS, self.order.seed, step, int(self.order.rows[row])]
        options = {"size": self.source.info.image_size, **self.resized_crop}
        return {**example, "image": random_resized_crop(key, example["image"], **options)}


class TrainBatches:
    """Endless iterator over training batches, resumed exactly by `get_state` and `set_state`."""

    def __init__(self, order: TrainOrder, start: Callable[[int], Iterator[Batch]]):
        """Stores the order, and a function from a step to an iterator over the batches from it on."""
        self._order = order
        self._start = start
        self._step = 0
        self._iterators: list[Iterator[Batch]] = []
        # Stops the decoding threads or processes with this object, at the latest before Python exits.
        weakref.finalize(self, _close_all, self._iterators)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch; examples after the last full one are dropped."""
        return self._order.steps_per_epoch

    @property
    def num_examples(self) -> int:
        """Examples in the source."""
        return self._order.num_examples

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> Batch:
        if not self._iterators:
            self._iterators.append(self._start(self._step))
        batch = next(self._iterators[0])
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position of the iterator, as plain JSON values."""
        order = self._order
        return {
            "step": self._step,
            "seed": order.seed,
            "batch_size": order.batch_size,
            "num_examples": order.num_examples,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to the batch at which `get_state` was called, with any number of processes.

        Args:
          state: state returned by `get_state`.

        Raises:
          UserError: the state has another seed, batch size or number of examples.
        """
        current = self.get_state()
        for name in ("seed", "batch_size", "num_examples"):
            if state.get(name) != current[name]:
                raise UserError(
                    f"cannot resume the data: {name} was {state.get(name)} and is now "
                    f"{current[name]}; set it back, or start a new run"
                )
        self._step = int(state["step"])
        self.close()

    def close(self) -> None:
        """Stops the threads or processes that decode ahead; the next batch starts them again."""
        _close_all(self._iterators)


def _close_all(iterators: list[Iterator[Batch]]) -> None:
    while iterators:
        iterators.pop().close()


def check_full_batch(batch_size: int, num_examples: int) -> None:
    """Checks that the training images fill a batch.

    Args:
      batch_size: number of images in the global batch.
      num_examples: number of training images.

    Raises:
      UserError: there are fewer images than that.
    """
    if num_examples < batch_size:
        raise UserError(
            f"batch_size={batch_size} is more than the {num_examples} training examples, so no batch would ever be "
            f"full; set batch_size to {num_examples} or less"
        )


def train_batches(
    source: Source | Arrays,
    *,
    batch_size: int,
    seed: int,
    rows: np.ndarray | None = None,
    in_memory: bool | None = None,
    num_workers: int = 0,
    resized_crop: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainBatches:
    """Returns an endless iterator over shuffled training batches.

    Every epoch has its own order and `num_examples // batch_size` batches; the remaining examples
    are dropped for that epoch. Masks are all one.

    Args:
      source: examples, from `open_source` or, as arrays, from `load_arrays`.
      batch_size: number of examples of the global batch, over all processes.
      seed: seed of the order, 0 or more.
      rows: rows of each global batch that belong to this process, ascending (`parallel.process_rows`); None: all.
      in_memory: whether to decode all images once and keep them as uint8 arrays, instead of decoding ahead of time
        with Grain; None: if the arrays take 2 GB or less.
      num_workers: number of worker processes that decode ahead; 0: threads of this process; -1: by the number of
        cores, see `cores.count_workers`.
      resized_crop: options of `decoding.random_resized_crop` (scale, ratio), for a source opened with
        resize="original": a window of every image, drawn by (seed, step, row), is resized to
        source.info.image_size. Empty or None: images as in the source.
      progress: called with (done, total) while the arrays are decoded.

    Returns:
      Iterator with `get_state`, `set_state` and `steps_per_epoch`; see `TrainBatches`.

    Raises:
      UserError: neither a source nor arrays, fewer examples than one batch, a batch_size below 1, rows that are
        not whole numbers in the batch, or num_workers below -1.
    """
    arrays = _checked_arrays(source)
    num_examples = len(arrays["label"]) if arrays is not None else len(source)
    rows = _rows(batch_size, rows)
    check_full_batch(batch_size, num_examples)
    check_count(seed, "seed", minimum=0)
    num_workers = count_workers(num_workers, num_cores())
    order = TrainOrder(num_examples, batch_size, seed, rows)
    resized_crop = dict(resized_crop or {})
    crop_options(resized_crop)
    if resized_crop and arrays is not None:
        raise UserError('resized_crop needs a source opened with resize="original"; arrays have images of one size')
    if arrays is None and not len(rows):
        shape = (source.info.image_size, source.info.image_size, source.info.channels)
        return TrainBatches(order, functools.partial(_empty_batches, shape))
    if arrays is None and in_memory is None:
        in_memory = estimate_bytes(source) <= MAX_BYTES_IN_MEMORY if resized_crop else _fits_in_memory(source)
    if arrays is None and not in_memory:
        examples = TrainExamples(source, order, resized_crop)
        return TrainBatches(order, functools.partial(_streamed_batches, examples, num_workers))
    if resized_crop:
        examples = TrainExamples(Originals(source, progress=progress), order, resized_crop)
        return TrainBatches(order, functools.partial(_cropped_by_threads, examples))
    arrays = load_arrays(source, progress=progress) if arrays is None else arrays
    return TrainBatches(order, functools.partial(_memory_batches, arrays, order))


def _cropped_by_threads(examples: TrainExamples, step: int) -> Iterator[Batch]:
    """Yields the batches from `step` on; the next one is cropped while the last is used."""
    share = examples.order.share
    with futures.ThreadPoolExecutor(num_cores()) as pool:

        def submit(step):
            return [pool.submit(examples.read, step, row) for row in range(share)]

        ahead = submit(step)
        while True:
            tasks, step = ahead, step + 1
            ahead = submit(step)
            batch = [task.result() for task in tasks]
            yield {
                "image": np.stack([example["image"] for example in batch]),
                "label": np.array([example["label"] for example in batch], np.int32),
                "mask": np.ones(share, np.float32),
            }


def _memory_batches(arrays: Arrays, order: TrainOrder, step: int) -> Iterator[Batch]:
    mask = np.ones(order.share, np.float32)
    while True:
        indices = order.indices(step)
        yield {
            "image": arrays["image"][indices],
            "label": arrays["label"][indices],
            "mask": mask.copy(),
        }
        step += 1


def _empty_batches(shape: tuple[int, ...], step: int) -> Iterator[Batch]:
    while True:
        yield {
            "image": np.zeros((0, *shape), np.uint8),
            "label": np.zeros(0, np.int32),
            "mask": np.zeros(0, np.float32),
        }


@functools.cache
def _follow_parent() -> None:
    """Makes a worker process end when the process that started it does, which may have been killed, and not before."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        interrupts.leave_to_parent()

        def wait() -> None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=wait, name="end with parent", daemon=True).start()


class _Positions:
    """The examples in the order of training, from one step on."""

    def __init__(self, examples: TrainExamples, first_step: int):
        self._examples, self._first_step = examples, first_step

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _follow_parent()

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> dict[str, Any]:
        step, row = divmod(position, self._examples.order.share)
        example = self._examples.read(self._first_step + step, row)
        return {
            "image": example["image"],
            "label": np.int32(example["label"]),
            "mask": np.float32(1.0),
        }

    def __repr__(self) -> str:
        return f"_Positions({self._examples.source.info})"


def _streamed_batches(examples: TrainExamples, num_workers: int, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns the batches from `first_step` on.

    Args:
      examples: examples in the order of training; pickled where there are worker processes.
      num_workers: number of processes that decode; 0: threads of this process.
      first_step: number of the first batch.

    Returns:
      Endless iterator over {"image": uint8 [b, S, S, 3], "label": int32 [b], "mask": float32 [b]}.
    """
    from absl import flags
    from grain import python as grain

    share = examples.order.share
    positions = grain.MapDataset.source(_Positions(examples, first_step))
    if num_workers == 0:
        options = grain.ReadOptions(num_threads=min(32, 2 * num_cores()), prefetch_buffer_size=4 * share)
        return iter(positions.to_iter_dataset(options).batch(share, drop_remainder=True))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags
    # Whole batches as elements: the workers alternate, so the order is the same as without them.
    batches = positions.batch(share, drop_remainder=True)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
    return _own_copies(iter(batches.to_iter_dataset(options).mp_prefetch(workers)))


def _own_copies(batches) -> Iterator[dict[str, np.ndarray]]:
    """Copies batches out of the memory shared with the workers, which is freed when they end.

    Raises:
      TemporaryError: a worker was killed.
    """
    try:
        for batch in batches:
            yield {name: np.array(values) for name, values in batch.items()}
    except RuntimeError as error:
        if not str(error).startswith(_KILLED):
            raise
        raise TemporaryError(
            f"a process that decodes images was killed ({first_line(error)}), as where memory lacks: start again, or "
            "set fewer of them (data.num_workers)"
        ) from error
    finally:
        batches.close()


class EvalBatches:
    """The batches of one pass over a dataset; can be iterated again, and has a length."""

    def __init__(self, source: Source | Arrays, batch_size: int, rows: np.ndarray):
        self._source = source
        self._batch_size = batch_size
        self._shares = rows
        self._total = len(source["label"]) if isinstance(source, dict) else len(source)

    def __len__(self) -> int:
        return -(-self._total // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self._source, dict):
            for step in range(len(self)):
                rows = self._rows(step)
                yield self._pad(self._source["image"][rows], self._source["label"][rows])
            return
        with futures.ThreadPoolExecutor(num_cores()) as pool:
            submit = functools.partial(pool.submit, self._source.__getitem__)
            ahead = [submit(int(i)) for i in self._rows(0)]
            for step in range(len(self)):
                tasks, ahead = ahead, [submit(int(i)) for i in self._rows(step + 1)]
                yield self._stack([task.result() for task in tasks])

    def _rows(self, step: int) -> np.ndarray:
        rows = step * self._batch_size + self._shares
        return rows[rows < self._total]

    def _stack(self, examples: list[dict[str, Any]]) -> Batch:
        info = self._source.info
        image = np.array([pixels(e, info) for e in examples], np.uint8)
        image = image.reshape(-1, info.image_size, info.image_size, info.channels)
        return self._pad(image, np.array([e["label"] for e in examples], np.int32))

    def _pad(self, image: np.ndarray, label: np.ndarray) -> Batch:
        real, share = len(label), len(self._shares)
        padded = {
            "image": np.zeros((share, *image.shape[1:]), np.uint8),
            "label": np.full(share, -1, np.int32),
            "mask": np.zeros(share, np.float32),
        }
        padded["image"][:real], padded["label"][:real], padded["mask"][:real] = image, label, 1.0
        return padded


def eval_batches(
    source: Source | Arrays,
    *,
    batch_size: int,
    rows: np.ndarray | None = None,
    in_memory: bool | None = None,
) -> EvalBatches:
    """Returns the batches of one pass in order; all processes together see each example once.

    Args:
      source: examples, from `open_source` or, as arrays, from `load_arrays`.
      batch_size: number of examples of the global batch, over all processes.
      rows: rows of each global batch that belong to this process, ascending (`parallel.process_rows`); None: all.
      in_memory: whether to decode all images once and keep them as uint8 arrays, instead of on every pass; None: if
        the arrays take 2 GB or less.

    Returns:
      An iterable with a length, the same in every process. The last batch is padded with black
      images, label -1 and mask 0.

    Raises:
      UserError: neither a source nor arrays, a batch_size below 1, or rows that are not whole numbers in the batch.
    """
    rows = _rows(batch_size, rows)
    if _checked_arrays(source) is None and (in_memory or (in_memory is None and _fits_in_memory(source))):
        source = load_arrays(source)
    return EvalBatches(source, batch_size, rows)


def _fits_in_memory(source: Source) -> bool:
    """Returns whether the images of a source, all of one size, may be kept as arrays."""
    return len(source) * source.info.image_size**2 * source.info.channels <= MAX_BYTES_IN_MEMORY


def _rows(batch_size: int, rows: np.ndarray | None) -> np.ndarray:
    """Returns the rows of a global batch that belong to this process."""
    check_count(batch_size, "batch_size")
    rows = np.arange(batch_size) if rows is None else on_host(as_array(rows, "rows"), "rows")
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        hint = ": take numpy.flatnonzero of a mask" if rows.dtype == bool else ""
        raise UserError(f"rows must be whole numbers [b]; got {rows.dtype} of shape {rows.shape}{hint}")
    rows = rows.astype(np.int64)
    if rows.size and not 0 <= rows.min() <= rows.max() < batch_size:
        raise UserError(f"rows must be 0 to {batch_size - 1}, those of a batch; got {rows.min()} to {rows.max()}")
    return rows


def _checked_arrays(source: Source | Arrays) -> Arrays | None:
    """Returns the examples if they are arrays; None for a source.

    Raises:
      UserError: neither, or not one label for each image.
    """
    if isinstance(source, Source):
        return None
    if not isinstance(source, dict) or not {"image", "label"} <= source.keys():
        names = sorted(source) if isinstance(source, dict) else type(source).__name__
        raise UserError(f"examples must be a source, of open_source, or arrays named image and label; got {names}")
    if len(source["image"]) != len(source["label"]):
        raise UserError(
            f"arrays must have one label for each image; got {len(source['label'])} for {len(source['image'])}"
        )
    return source


class MixedBatches:
    """Endless iterator over batches that concatenate a batch of one source and a batch of another.

    An epoch has as many examples, of both sources together, as the first source.
    """

    def __init__(self, first: TrainBatches, second: TrainBatches, *, batch_size: int):
        """Stores the iterators over both sources, and the global size of the concatenated batches."""
        self._parts = {"first": first, "second": second}
        self.steps_per_epoch = max(1, first.num_examples // batch_size)

    def __iter__(self) -> "MixedBatches":
        return self

    def __next__(self) -> Batch:
        first, second = (next(part) for part in self._parts.values())
        return {name: np.concatenate([first[name], second[name]]) for name in first}

    def get_state(self) -> dict[str, Any]:
        """Returns the positions of the iterators, as plain JSON values."""
        return {name: part.get_state() for name, part in self._parts.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to the batch at which `get_state` was called.

        Raises:
          UserError: the state has another seed, batch size or number of examples.
        """
        for name, part in self._parts.items():
            part.set_state(state.get(name, {}))

    def close(self) -> None:
        """Stops the threads or processes that decode ahead."""
        for part in self._parts.values():
            part.close()


class ExtendedBatches:
    """Batches of training or evaluation with further arrays that the host computes from their images."""

    def __init__(self, batches: Any, function: Callable[[np.ndarray], Mapping[str, np.ndarray]]):
        """Stores the batches, and the function from images uint8 [b, S, S, 3] to arrays of b rows by name."""
        self._batches, self._function = batches, function

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)  # length of an epoch, position and end

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._extend, self._batches)

    def __next__(self) -> Batch:
        return self._extend(next(self._batches))

    def _extend(self, batch: Batch) -> Batch:
        return {**batch, **self._function(batch["image"])}
