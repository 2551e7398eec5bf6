"""Going through images with a detector: scores, references of the nearest neighbours, reconstructions to show."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from arinv import parallel
from arinv.apps import anomaly
from arinv.errors import UserError
from arinv.tasks.anomaly.scorer import Scorer
from arinv.tasks.row_store import RowStore
from arinv.types import Array

RECONSTRUCTION = "reconstruction"  # beside the scores
_MAX_KEPT_BYTES = 2**27  # of reconstructions
_SEARCH, _ATTACK = range(2)  # what the keys folded from the seed are for


class Setting(NamedTuple):
    """How images are gone through.

    Attributes:
      key: PRNG key; an image's random numbers follow from it and from the image's content.
      mesh: the devices.
      batch_size: images at once.
      attack: options of the attacks, those of anomaly.attack_scores; empty for none.
    """

    key: Array
    mesh: jax.sharding.Mesh
    batch_size: int
    attack: Mapping[str, Any] = {}

    def for_few(self, count: int) -> "Setting":
        """Returns the setting with no more images at once than these, up to what all devices can share."""
        devices = self.mesh.devices.size
        return self._replace(batch_size=min(self.batch_size, -(-count // devices) * devices))


def add_references(
    scorer: Scorer, variables: Mapping[str, Any], images_u8: np.ndarray, setting: Setting, *, capacity: int
) -> dict[str, Any]:
    """Returns variables with the features of normal images, padded to `capacity`, placed on the devices.

    Raises:
      UserError: fewer images than neighbours.
    """
    placed = jax.device_put(dict(variables), parallel.replicated(setting.mesh))
    rows = [
        parallel.to_host(scorer.rows(placed, batch["image"]))[:size]
        for batch, size in _batches(lambda rows: images_u8[rows.start : rows.stop], len(images_u8), 0, None, setting)
    ]
    return with_references(scorer, placed, np.concatenate(rows), setting, capacity=capacity)


def with_references(
    scorer: Scorer, variables: Mapping[str, Any], rows: np.ndarray, setting: Setting, *, capacity: int
) -> dict[str, Any]:
    """Returns variables with rows [N, K] as references, padded to `capacity`, placed on the devices.

    Raises:
      UserError: fewer rows than neighbours.
    """
    if len(rows) < dict(scorer.knn)["k"]:
        raise UserError(f"knn.k={dict(scorer.knn)['k']} is more than the {len(rows)} normal training images; lower it")
    padded = np.zeros((capacity, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    references = {"references": padded, "num_references": np.int32(len(rows))}
    return jax.device_put({**variables, **references}, parallel.replicated(setting.mesh))


def score_images(
    scorer: Scorer,
    variables: Mapping[str, Any],
    read: Callable[[range], np.ndarray],
    count: int,
    setting: Setting,
    *,
    store: RowStore,
    anomalous: np.ndarray | None = None,
    keep: bool = False,
    show: Callable[[int], Any] = lambda done: None,
) -> dict[str, np.ndarray]:
    """Returns every score of every image, those of the attacks too where setting.attack says so.

    Args:
      scorer: of the inverter.
      variables: with references.
      read: places of images -> uint8 [n, S, S, 3].
      count: number of images.
      setting: how to go through them.
      store: where the scores are kept as they come; what it holds is not computed again.
      anomalous: bool [count]; needed for attacks only.
      keep: whether to keep the reconstructions of the search too, unless they are very many, to be shown later.
      show: called with the number of images that were just done.

    Returns:
      Name of the score -> float32 [count]; where they were kept, "reconstruction" -> uint8 [count, S, S, 3].
    """
    show(store.count)
    for batch, size in _batches(read, count, store.count, anomalous, setting):
        results = parallel.to_host(_score_batch(scorer, variables, batch, setting))
        made = results.pop(RECONSTRUCTION)
        if keep and count * made[0].size <= _MAX_KEPT_BYTES:
            results[RECONSTRUCTION] = np.floor(made * 255 + 0.5).astype(np.uint8)
        store.append({name: values[:size] for name, values in results.items()})
        show(size)
    store.save()
    return store.arrays()


def _score_batch(scorer: Scorer, variables: Mapping, batch: Mapping[str, Array], setting: Setting) -> dict[str, Array]:
    key = jax.random.fold_in(setting.key, _SEARCH)
    found = scorer.searched(variables, key, batch["image"], batch["id"])
    results = {"total": found.scores, "pixel": found.pixel, "feature": found.feature}
    results[RECONSTRUCTION] = found.reconstructions
    results |= scorer.compared(variables, batch["image"])
    if setting.attack:
        attack_key = jax.random.fold_in(setting.key, _ATTACK)
        scores, adversarial = scorer.attacked(variables, attack_key, batch, found.reconstructions, **setting.attack)
        adversarial = jax.device_put(adversarial, batch["image"].sharding)
        again = scorer.searched(variables, key, adversarial, batch["id"])
        results |= {**scores, "attacked_total": again.scores}
    return results


class Explanation(NamedTuple):
    """What is shown of some images.

    Attributes:
      images: float32 [n, S, S, 3] in [0, 1].
      reconstructions: float32 [n, S, S, 3] in [0, 1], of the latent search.
      maps: where they differ, float32 [n, S, S] each.
    """

    images: np.ndarray
    reconstructions: np.ndarray
    maps: anomaly.HeatMaps


def explain(
    scorer: Scorer,
    variables: Mapping[str, Any],
    images_u8: np.ndarray,
    setting: Setting,
    *,
    reconstructions_u8: np.ndarray | None = None,
) -> Explanation:
    """Returns the reconstructions of uint8 images [n, S, S, 3], searched for anew unless given, and the heat maps."""
    key, parts = jax.random.fold_in(setting.key, _SEARCH), []

    def batches(arrays):
        return _batches(lambda rows: arrays[rows.start : rows.stop], len(arrays), 0, None, setting)

    given = batches(images_u8 if reconstructions_u8 is None else reconstructions_u8)
    for (batch, size), (made, _) in zip(batches(images_u8), given, strict=True):
        made = made["image"]
        if reconstructions_u8 is None:
            made = scorer.searched(variables, key, batch["image"], batch["id"]).reconstructions
            made = jax.device_put(made, batch["image"].sharding)
        part = Explanation(batch["image"], made, scorer.maps(variables, batch["image"], made))
        parts.append(jax.tree.map(lambda x, n=size: x[:n], parallel.to_host(part)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _batches(read, count: int, first: int, anomalous, setting: Setting):
    """Yields (batch on the devices, number of real images in it), all of one size."""
    for start in range(first, count, setting.batch_size):
        rows = range(start, min(start + setting.batch_size, count))
        images = np.asarray(read(rows))
        batch = {
            "image": np.zeros((setting.batch_size, *images.shape[1:]), np.float32),
            "id": np.zeros(setting.batch_size, np.uint32),
            "anomalous": np.full(setting.batch_size, -1, np.int32),
        }
        batch["image"][: len(rows)] = images.astype(np.float32) * np.float32(1 / 255)
        batch["id"][: len(rows)] = image_ids(images)
        if anomalous is not None:
            batch["anomalous"][: len(rows)] = anomalous[rows.start : rows.stop]
        yield parallel.place_batch(batch, setting.mesh), len(rows)


def image_ids(images_u8: np.ndarray) -> np.ndarray:
    """Returns a number for each image that follows from its content, uint32 [N]: equal images get equal scores."""
    return np.array([zlib.crc32(np.ascontiguousarray(image)) for image in images_u8], np.uint32)
