"""Images on the host in batches of a few sizes, padded, on the devices; predictions and margins of all of them."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.attacks import objectives
from arinv.errors import UserError
from arinv.ops.inputs import as_labels, as_logits, call, check_callable, check_count, check_images, on_host
from arinv.types import Array, LogitsFn

_SPLIT_BELOW = 0.75  # a batch is split if that saves a quarter of its rows
_CPU_ROWS = 16  # of a batch on each CPU device: larger ones are hardly faster there, and padded more
_COMPILATION = 8_000  # passes of one image that take a CPU as long as compiling an attack for another size

# A host batch {name: [B, ...]} -> the same on devices.
PlaceFn = Callable[[Mapping[str, np.ndarray]], Mapping[str, Array]]


class Buckets(NamedTuple):
    """The sizes of batches, and their placement on devices.

    Attributes:
      sizes: the largest first.
      place: moves a host batch to devices.
      small_sizes: smaller ones, which are compiled for long attacks only; the largest first.
    """

    sizes: tuple[int, ...]
    place: PlaceFn
    small_sizes: tuple[int, ...] = ()

    def size(self, remaining: int, *, passes: int = 0) -> int:
        """Returns the size of the next batch.

        Args:
          remaining: number of images.
          passes: passes through the model that each of them takes until the end of the attack. Small sizes are used
            where rows of padding would take longer than their compilations.
        """
        if remaining >= self.sizes[0]:
            return self.sizes[0]
        sizes, small = _split(self.sizes, remaining), _split((*self.sizes, *self.small_sizes), remaining)
        compiled = len({*small} - {*self.sizes})
        saved = sum(sizes) - sum(small)
        return small[0] if compiled and saved * passes >= compiled * _COMPILATION else sizes[0]

    def put(self, batch: Mapping[str, np.ndarray], size: int) -> Mapping[str, Array]:
        """Returns a host batch on devices, padded to a size; "label" is -1 in the padding, the rest is 0."""
        padded = {}
        for name, values in batch.items():
            filler = np.full((size - len(values), *values.shape[1:]), -1 if name == "label" else 0, values.dtype)
            padded[name] = np.concatenate([values, filler])
        return self.place(padded)


def _split(sizes: tuple[int, ...], remaining: int) -> list[int]:
    """Returns the sizes of all batches of images that are fewer than the largest size."""
    holding = min(size for size in sizes if size >= remaining)
    smaller = max((size for size in sizes if size <= remaining), default=holding)
    split = [smaller, *(_split(sizes, remaining - smaller) if remaining > smaller else [])]
    return split if sum(split) <= _SPLIT_BELOW * holding else [holding]


def make_buckets(
    *, batch_size: int, smallest_batch: int = 8, multiple_of: int = 1, place: PlaceFn | None = None
) -> Buckets:
    """Returns the sizes of batches: `batch_size` and its halves.

    Args:
      batch_size: largest size, at least 1; best a power of two, or a small multiple of one. On CPUs at most 16 rows per
        device are used, which are as fast as more, unless `smallest_batch` is larger.
      smallest_batch: smallest size, except for long attacks on CPUs, see `Buckets.size`.
      multiple_of: divisor of every size: the number of devices that `place` splits a batch over.
      place: moves a host batch to devices; to the default device if None.

    Returns:
      The sizes.

    Raises:
      UserError: a number below 1, or a batch_size that is not a multiple.
    """
    check_count(batch_size, "batch_size")
    check_count(smallest_batch, "smallest_batch")
    check_count(multiple_of, "multiple_of")
    if batch_size % multiple_of:
        nearest = max(1, batch_size // multiple_of) * multiple_of
        raise UserError(f"batch_size {batch_size} is not a multiple of multiple_of {multiple_of}; use {nearest}")
    if jax.default_backend() == "cpu":
        batch_size = min(batch_size, max(_CPU_ROWS, -(-smallest_batch // multiple_of)) * multiple_of)
    sizes = [batch_size]
    while sizes[-1] % (2 * multiple_of) == 0 and sizes[-1] // 2 >= smallest_batch:
        sizes.append(sizes[-1] // 2)
    small_sizes, size = [], sizes[-1]
    # Elsewhere than on CPUs a batch of one image takes as long as one of eight.
    while jax.default_backend() == "cpu" and size % (2 * multiple_of) == 0:
        size //= 2
        small_sizes.append(size)
    place = place or functools.partial(jax.tree.map, jnp.asarray)
    return Buckets(tuple(sizes), place, tuple(small_sizes))


def as_pytree(logits_fn: LogitsFn) -> jax.tree_util.Partial:
    """Returns a model as an argument for compiled functions.

    Args:
      logits_fn: a function, or a `jax.tree_util.Partial` of one and its weights, which are then not compiled in.

    Returns:
      The same, as a `jax.tree_util.Partial`.

    Raises:
      UserError: not callable.
    """
    check_callable(logits_fn, "logits_fn", of="images [B, H, W, C]")
    return logits_fn if isinstance(logits_fn, jax.tree_util.Partial) else jax.tree_util.Partial(logits_fn)


@functools.partial(jax.jit, static_argnames="count")
def largest_classes(model: LogitsFn, images: Array, *, count: int) -> Array:
    """Returns the classes of the largest logits.

    Args:
      model: a pytree, images [B, H, W, C] in [0, 1] -> logits [B, K].
      images: float32 [B, H, W, C] in [0, 1].
      count: number of classes, at most K.

    Returns:
      int32 [B, count], the prediction first; -1 in rows with NaN, which predict no class.
    """
    logits = as_logits(call(model, images, "logits_fn"), batch_size=images.shape[0], name="what logits_fn returns")
    undefined = jnp.any(jnp.isnan(logits), axis=1, keepdims=True)  # the largest would be the first NaN: class 0
    return jnp.where(undefined, -1, jax.lax.top_k(logits, count)[1])


def count_classes(model: LogitsFn, images: np.ndarray) -> int:
    """Returns the number of classes of a model.

    Args:
      model: as for `largest_classes`.
      images: float32 [N, H, W, C]; only the shape is used.

    Returns:
      K.

    Raises:
      UserError: the model does not return logits [B, K].
    """

    def logits(x):
        return as_logits(call(model, x, "logits_fn"), batch_size=1, name="what logits_fn returns")

    return jax.eval_shape(logits, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)).shape[1]


def rank(model: LogitsFn, images: np.ndarray, buckets: Buckets, *, count: int = 1) -> np.ndarray:
    """Returns the classes of the largest logits of any number of images.

    Args:
      model: as for `largest_classes`.
      images: float32 [N, H, W, C] in [0, 1], on the host.
      buckets: sizes of batches.
      count: number of classes, at most K.

    Returns:
      int32 [N, count]; -1 in rows with NaN.
    """
    classes = [np.zeros((0, count), np.int32)]
    for length, batch in _batches({"image": images}, buckets):
        classes.append(np.asarray(largest_classes(model, batch["image"], count=count))[:length])
    return np.concatenate(classes)


def margins(logits_fn: LogitsFn, images: np.ndarray, labels: np.ndarray, buckets: Buckets) -> np.ndarray:
    """Returns the logits of the labels minus the largest other ones, of any number of images.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], K at least 2.
      images: float32 [N, H, W, C] in [0, 1], on the host.
      labels: int [N]; the margin of an image labeled -1 is meaningless.
      buckets: sizes of batches.

    Returns:
      float32 [N]; negative where an image is misclassified.

    Raises:
      UserError: images outside [0, 1], labels that the model does not have, or a model that does not return [B, K].
    """
    parts, model = [np.zeros(0, np.float32)], as_pytree(logits_fn)
    images = on_host(check_images(images), "images").astype(np.float32, copy=False)
    labels = on_host(as_labels(labels, batch_size=len(images), num_classes=count_classes(model, images)), "labels")
    for length, batch in _batches({"image": images, "label": labels}, buckets):
        parts.append(np.asarray(_margins(model, batch["image"], batch["label"]))[:length])
    return np.concatenate(parts)


@jax.jit
def _margins(model: LogitsFn, images: Array, labels: Array) -> Array:
    logits = as_logits(
        call(model, images, "logits_fn"), batch_size=images.shape[0], minimum=2, name="what logits_fn returns"
    )
    return objectives.margin(logits, jnp.maximum(labels, 0))


def _batches(arrays: Mapping[str, np.ndarray], buckets: Buckets) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """Yields the number of real rows and a padded batch on devices."""
    position, count = 0, len(arrays["image"])
    while position < count:
        size = buckets.size(count - position)
        part = {name: values[position : position + size] for name, values in arrays.items()}
        yield len(part["image"]), buckets.put(part, size)
        position += size
