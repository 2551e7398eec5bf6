"""The scores of a batch of images by a single-class inverter: compiled once for all inverters of one shape.

Weights are arguments of the compiled functions, and the networks' modules with the settings are what they are compiled
for, so that the detectors of all classes, of a standard encoder and of a robust one share them.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import parallel
from arinv.apps import anomaly
from arinv.apps.anomaly.nearest_neighbors import POOLINGS
from arinv.errors import UserError, unknown
from arinv.experiment import trained as networks
from arinv.experiment.cache import CachedRows
from arinv.experiment.trained import Trained, make_features_fn
from arinv.models.generators.discriminator import fold_spectral_norm
from arinv.types import Array

# name of a score -> what exactly it is
SCORES = {
    "total": "weighted pixel and feature loss of the latent search's last iteration (Rojas-Gomez et al. 2022, A2)",
    "pixel": "its pixel term, the sum of absolute differences",
    "feature": "its feature term, the sum of squared differences",
    "amortized": "the same loss for the generator's image of the image's own features, without a search",
    "knn": "mean Euclidean distance to the k nearest features of normal training images",
}
# The same under attacks that raise the scores of normal images and lower those of anomalous ones.
ATTACKED_SCORES = {
    "attacked_knn": "knn after PGD on that distance itself, the neighbours chosen anew at every step",
    "attacked_amortized": "amortized after PGD on that score itself, through encoder, generator and encoder",
    "attacked_held": (
        "the loss against the reconstruction that the latent search found for the clean image, after PGD on that loss "
        "with the reconstruction held fixed; a stand-in, as PGD through the search would cost a search per step"
    ),
    "attacked_total": "total, searched anew, of the images that attacked_held's PGD found: a transferred attack",
}
_jit = functools.partial(jax.jit, static_argnums=0)


def check(config: ConfigDict) -> None:
    """Tells mistakes in config.search and config.knn.

    Raises:
      UserError: a number out of range, or an unknown pooling.
    """
    for section, name in (
        *(("search", name) for name in ("num_steps", "num_restarts")),
        *(("knn", name) for name in ("k", "block_size")),
    ):
        if config[section][name] < 1:
            raise UserError(f"{section}.{name} must be 1 or more; got {config[section][name]}")
    for name in ("pixel_weight", "feature_weight"):
        if not config.search[name] >= 0:
            raise UserError(f"search.{name} must be 0 or more; got {config.search[name]!r}")
    check_pictures(config)
    if config.knn.pooling not in POOLINGS:
        raise unknown("knn.pooling", config.knn.pooling, POOLINGS)


def check_pictures(config: ConfigDict) -> None:
    """Checks how many images the overview is to show.

    Raises:
      UserError: none.
    """
    if config.log.num_pictures < 1:
        raise UserError(f"pictures={config.log.num_pictures} must be 1 or more: how many images the overview shows")


@dataclasses.dataclass(frozen=True)
class Scorer:
    """What the compiled functions are compiled for; two scorers with equal fields share them.

    Attributes:
      encoder: images [B, H, W, 3] in [0, 1] -> (logits, features).
      generator: features[layer] -> images, without spectral normalisation.
      layer: the feature that is inverted and compared.
      latent_shape: shape of one such feature.
      search: options of anomaly.latent_search but the weights of the loss.
      knn: k, normalize, pooling and block_size.
    """

    encoder: Any
    generator: Any
    layer: str
    latent_shape: tuple[int, ...]
    search: tuple[tuple[str, Any], ...]
    knn: tuple[tuple[str, Any], ...]

    def _callables(self, variables: Mapping):
        def decode_fn(latents):
            return self.generator.apply(variables["generator"], latents, train=False)

        return decode_fn, make_features_fn(self.encoder, variables["encoder"])

    def _distances(self, variables: Mapping, images: Array) -> Array:
        options = dict(self.knn)
        return anomaly.nearest_neighbor_distances(
            self._rows(variables, images),
            variables["references"],
            num_references=variables["num_references"],
            k=options["k"],
            block_size=options["block_size"],
        )

    def _rows(self, variables: Mapping, images: Array) -> Array:
        options = dict(self.knn)
        feature = self._callables(variables)[1](images)[self.layer]
        return anomaly.feature_rows(feature, pooling=options["pooling"], normalize=options["normalize"])

    @_jit
    def rows(self, variables: Mapping, images: Array) -> Array:
        """Returns the features of images [B, H, W, 3] as rows [B, K] for the nearest neighbours."""
        return self._rows(variables, images)

    @_jit
    def searched(self, variables: Mapping, key: Array, images: Array, ids: Array) -> anomaly.SearchResult:
        """Returns the latent search of images [B, H, W, 3] in [0, 1] that are known by ids [B]."""
        return anomaly.latent_search(
            key,
            *self._callables(variables),
            images,
            latent_shape=self.latent_shape,
            layer=self.layer,
            indices=ids,
            **variables["weights"],
            **dict(self.search),
        )

    @_jit
    def compared(self, variables: Mapping, images: Array) -> dict[str, Array]:
        """Returns the scores of images [B, H, W, 3] that need no search."""
        amortized = anomaly.amortized_scores(
            *self._callables(variables), images, layer=self.layer, **variables["weights"]
        )
        return {"amortized": amortized, "knn": self._distances(variables, images)}

    @functools.partial(jax.jit, static_argnums=0, static_argnames=("norm", "num_steps", "random_start"))
    def attacked(
        self,
        variables: Mapping,
        key: Array,
        batch: Mapping[str, Array],
        reconstructions: Array,
        *,
        eps: float,
        step_size: float,
        norm: str,
        num_steps: int,
        random_start: bool,
    ) -> tuple[dict[str, Array], Array]:
        """Returns the scores under attacks on each of them, and the images of the attack on the searched one.

        Args:
          variables: of the networks.
          key: of the random starts.
          batch: "image", "id" and "anomalous", -1 for padding.
          reconstructions: what the search found for the images.
          eps: see anomaly.attack_scores, also for the rest.
          step_size: of each step.
          norm: of the ball.
          num_steps: of the attack.
          random_start: of the attack.
        """
        attack_fn = functools.partial(
            anomaly.attack_scores,
            key,
            indices=batch["id"],
            eps=eps,
            step_size=step_size,
            norm=norm,
            num_steps=num_steps,
            random_start=random_start,
        )
        decode_fn, features_fn = self._callables(variables)
        options = {"layer": self.layer, **variables["weights"]}

        def attack_on(score_fn):
            adversarial = attack_fn(score_fn, batch["image"], batch["anomalous"])
            return score_fn(adversarial), adversarial

        knn, _ = attack_on(lambda x: self._distances(variables, x))
        amortized, _ = attack_on(lambda x: anomaly.amortized_scores(decode_fn, features_fn, x, **options))
        held, adversarial = attack_on(lambda x: anomaly.held_scores(features_fn, x, reconstructions, **options))
        return {"attacked_knn": knn, "attacked_amortized": amortized, "attacked_held": held}, adversarial

    @_jit
    def maps(self, variables: Mapping, images: Array, reconstructions: Array) -> anomaly.HeatMaps:
        """Returns where images differ from their reconstructions."""
        features_fn = self._callables(variables)[1]
        return anomaly.heat_maps(features_fn, images, reconstructions, layer=self.layer, sigma=images.shape[1] / 32)


def make_scorer(trained: Trained, config: ConfigDict) -> tuple[Scorer, dict[str, Any]]:
    """Returns the scorer of an inverter and its variables, still without references for the nearest neighbours.

    Args:
      trained: the inverter.
      config: with search and knn.
    """
    description = trained.description
    generator, generator_variables = fold_spectral_norm(trained.module, trained.variables)
    features = networks.feature_structs(trained.encoder.module, description["image_size"])
    search = config.search.to_dict()
    weights = {name: jnp.float32(search.pop(name)) for name in ("pixel_weight", "feature_weight")}
    scorer = Scorer(
        encoder=trained.encoder.module,
        generator=generator,
        layer=description["layer"],
        latent_shape=features[description["layer"]].shape[1:],
        search=tuple(sorted(search.items())),
        knn=tuple(sorted(config.knn.to_dict().items())),
    )
    return scorer, {"encoder": trained.encoder.variables, "generator": generator_variables, "weights": weights}


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
    store: CachedRows,
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
