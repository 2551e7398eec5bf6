"""The mesh of devices, and the sharding of arrays on it. The only file that names mesh axes.

The axis "data" splits the batch; "fsdp" splits the batch, every large parameter and its optimizer state. fsdp=1 is
plain data parallelism. One jitted step works for every mesh: XLA derives the collectives from the shardings of its
arguments.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from arinv.errors import UserError, first_line
from arinv.types import Batch

_BATCH = PartitionSpec(("data", "fsdp"))
_MIN_FSDP_ELEMENTS = 4096  # gathering smaller arrays costs more than it saves


def make_mesh(*, data: int = -1, fsdp: int = 1) -> Mesh:
    """Returns the mesh of all devices.

    Args:
      data: number of copies of the parameters, each with its share of the batch; -1: number of devices / fsdp.
      fsdp: number of devices that share a copy of the parameters.

    Returns:
      Mesh with the axes "data" and "fsdp".

    Raises:
      UserError: data x fsdp is not the number of devices, or the platform that JAX_PLATFORMS names has none.
    """
    count = count_devices()
    if fsdp < 1 or (data < 1 and data != -1) or count % fsdp or data not in (-1, count // fsdp):
        raise UserError(
            f"mesh data={data}, fsdp={fsdp} does not fit {count} device(s): data x fsdp must be {count} "
            "(data=-1 uses all devices)"
        )
    auto = (AxisType.Auto,) * 2  # explicit axes break gathers and reshapes
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), axis_types=auto)


def count_devices() -> int:
    """Returns the number of devices of all processes.

    Raises:
      UserError: the platform that JAX_PLATFORMS names is unknown or has no device, or JAX cannot initialize any.
    """
    try:
        return jax.device_count()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a known platform is installed
        platforms = f" of JAX_PLATFORMS={jax.config.jax_platforms!r}" if jax.config.jax_platforms else ""
        advice = "or unset JAX_PLATFORMS" if platforms else "or set JAX_PLATFORMS=cpu"
        raise UserError(
            f"JAX finds no device{platforms} ({first_line(error, limit=200)}): install JAX for the platform (in "
            f"requirements.txt), correct XLA_FLAGS, {advice}"
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array with a copy on every device.

    Args:
      mesh: mesh of devices, from `make_mesh`.
    """
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Returns a sharding for each array of a train state.

    Args:
      abstract_state: tree of arrays or ShapeDtypeStructs.
      mesh: mesh of devices, from `make_mesh`.

    Returns:
      The same tree of NamedShardings: large arrays split over "fsdp" along the last axis that it divides,
      all others replicated.
    """
    parts = mesh.shape["fsdp"]

    def place(leaf):
        if parts > 1 and np.prod(leaf.shape) >= _MIN_FSDP_ELEMENTS:
            for axis in reversed(range(len(leaf.shape))):
                if leaf.shape[axis] % parts == 0:
                    spec = [None] * len(leaf.shape)
                    spec[axis] = "fsdp"
                    return NamedSharding(mesh, PartitionSpec(*spec))
        return replicated(mesh)

    return jax.tree.map(place, abstract_state)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays constrained to a copy on every device within a jitted function; unchanged without FSDP.

    Args:
      tree: tree of arrays.
      mesh: mesh of devices, from `make_mesh`.

    Returns:
      Tree of arrays of the same shapes.
    """
    return jax.lax.with_sharding_constraint(tree, replicated(mesh)) if mesh.shape["fsdp"] > 1 else tree


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that a batch splits evenly over the devices.

    Args:
      batch_size: number of examples of the global batch.
      mesh: mesh of devices, from `make_mesh`.

    Raises:
      UserError: batch_size is not a multiple of the number of devices.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"batch_size {batch_size} is not a multiple of the {mesh.size} device(s) of the mesh; "
            f"use {max(1, batch_size // mesh.size) * mesh.size}"
        )


def process_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Returns the rows of a global batch that belong to the devices of this process.

    Args:
      batch_size: number of examples of the global batch.
      mesh: mesh of all devices, in any order.

    Returns:
      int64 [rows of this process], ascending; the rows of all processes are disjoint and complete.
    """
    shares = NamedSharding(mesh, _BATCH).addressable_devices_indices_map((batch_size,)).values()
    parts = sorted(share[0].indices(batch_size)[:2] for share in shares)
    return np.concatenate([np.arange(first, last) for first, last in parts])


def replicate(arrays: Any, mesh: Mesh) -> Any:
    """Returns a tree of arrays, the same in every process, with a copy on every device of the mesh.

    Args:
      arrays: tree of arrays and PRNG keys, equal in all processes.
      mesh: mesh of devices, from `make_mesh`.

    Returns:
      Tree of JAX arrays of the same shapes.
    """
    sharding = replicated(mesh)
    if jax.process_count() == 1:  # noqa: TID251
        return jax.device_put(arrays, sharding)

    # A device_put of what one process holds is a transfer between hosts, which not every backend has.
    def place(array):
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(array)), impl=jax.random.key_impl(array))
        return _place_whole(array, sharding)

    return jax.tree.map(place, arrays)


def batch_sharding(mesh: Mesh, *, stacked: bool = False) -> NamedSharding:
    """Returns the sharding of a batch's arrays: rows split over all devices.

    Args:
      mesh: mesh of devices, from `make_mesh`.
      stacked: whether a leading axis stacks several batches; it is not split.
    """
    return NamedSharding(mesh, PartitionSpec(None, *_BATCH) if stacked else _BATCH)


def place_batch(batch: Batch, mesh: Mesh, *, stacked: bool = False) -> Mapping[str, jax.Array]:
    """Returns a global batch as arrays split by rows over all devices of the mesh.

    Args:
      batch: this process's rows of the batch, see `process_rows`, each array [rows, ...], or [K, rows, ...] of K
        stacked batches.
      mesh: mesh of devices, from `make_mesh`.
      stacked: whether a leading axis stacks several batches.

    Returns:
      Arrays [batch_size, ...], or [K, batch_size, ...] of K stacked batches.
    """
    sharding = batch_sharding(mesh, stacked=stacked)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}


def place_whole_batch(batch: Batch, mesh: Mesh) -> Mapping[str, jax.Array]:
    """Returns a global batch that every process holds as arrays split by rows over all devices of the mesh.

    Args:
      batch: all rows of the batch, each array [batch_size, ...], equal in all processes.
      mesh: mesh of devices, from `make_mesh`.

    Returns:
      Arrays [batch_size, ...]. Each process transfers the rows of its own devices only.
    """
    sharding = batch_sharding(mesh)
    return {k: _place_whole(v, sharding) for k, v in batch.items()}


def _place_whole(array: Any, sharding: NamedSharding) -> jax.Array:
    """Returns an array, of which every process holds the whole, with a sharding."""
    array = np.asarray(array)
    return jax.make_array_from_process_local_data(sharding, array, array.shape)


def to_host(arrays: Any) -> Any:
    """Returns a tree of NumPy arrays; arrays that are split over processes are gathered.

    Args:
      arrays: tree of JAX arrays; all processes must call with the same tree.

    Returns:
      Tree of NumPy arrays of the same shapes.
    """
    if jax.process_count() > 1:  # noqa: TID251
        from jax.experimental import multihost_utils

        def is_split(array):
            return isinstance(array, jax.Array) and not (array.is_fully_replicated or array.is_fully_addressable)

        arrays = jax.tree.map(
            lambda array: multihost_utils.process_allgather(array, tiled=True) if is_split(array) else array, arrays
        )
    return jax.device_get(arrays)


def padded_batches(rows: np.ndarray, *, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of rows [size, ...] and masks bool [size]; copies of the last row fill the last batch.

    Args:
      rows: [N, ...].
      size: number of rows in a batch, 1 or more, so that a function of batches is compiled once.
    """
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        padding = np.repeat(batch[-1:], size - len(batch), axis=0)
        yield np.concatenate([batch, padding]), np.arange(size) < len(batch)


def map_batches(function: Callable[[Any], Any], rows: np.ndarray, *, size: int, mesh: Mesh | None = None) -> np.ndarray:
    """Returns the results of a function of batches for all rows, [N, ...].

    Args:
      function: [size, ...] -> [size, ...], rows independent.
      rows: [N, ...]; with a mesh equal in all processes, which must call together.
      size: number of rows in a batch, 1 or more.
      mesh: devices that batches are split over; None to leave the placement to the function.
    """
    if not len(rows):
        struct = jax.eval_shape(function, jax.ShapeDtypeStruct((size, *rows.shape[1:]), rows.dtype))
        return np.zeros((0, *struct.shape[1:]), struct.dtype)
    results = []
    for batch, mask in padded_batches(rows, size=size):
        placed = batch if mesh is None else place_whole_batch({"rows": batch}, mesh)["rows"]
        results.append(np.asarray(to_host(function(placed)))[mask])
    return np.concatenate(results)
