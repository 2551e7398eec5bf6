"""Running an evaluation step over a whole data set: one number per example, padding left out."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from arinv import parallel
from arinv.types import Array, Batch

# (batch, key) -> {name: [B] numbers or [B, H, W, C] images}
EvalStep = Callable[[Batch, Array], Mapping[str, Array]]


def collect(
    eval_step: EvalStep,
    batches: Iterable[Batch],
    *,
    key: Array,
    mesh: jax.sharding.Mesh,
    num_pictures: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the results of every example, and the images of the first few.

    Args:
      eval_step: jitted; called with a key of its own for each batch.
      batches: masked batches; uint8 or float32 images.
      key: PRNG key of the pass.
      mesh: where batches are placed.
      num_pictures: how many rows of the image results, and of the images themselves, to keep.
      progress: wraps the batches, to show how far the pass is.

    Returns:
      ({name: [N]}, {name: [num_pictures, H, W, C]}) with N the number of real examples, in order; the
      pictures have an "image" entry with the images as they came.
    """
    numbers: dict[str, list] = {}
    pictures: dict[str, list] = {}
    missing = num_pictures
    for i, batch in enumerate(progress(batches)):
        placed = parallel.place_batch(batch, mesh)
        results = dict(eval_step(placed, jax.random.fold_in(key, i)))
        images = {name: results.pop(name) for name in list(results) if results[name].ndim > 1}
        mask, results = parallel.to_host((placed["mask"], results))
        for name, values in results.items():
            numbers.setdefault(name, []).append(np.asarray(values)[mask > 0])
        if missing > 0:
            for name, values in parallel.to_host({**images, "image": placed["image"]}).items():
                pictures.setdefault(name, []).append(np.asarray(values)[mask > 0][:missing])
            missing -= int(np.sum(mask > 0))
    return (
        {name: np.concatenate(parts) for name, parts in numbers.items()},
        {name: np.concatenate(parts) for name, parts in pictures.items()},
    )
