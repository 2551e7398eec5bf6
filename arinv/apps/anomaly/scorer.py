"""Scores of images by an inverter of one class: compiled functions that such inverters share, and loops over images.

Weights are arguments of the compiled functions, and modules and settings are static: the inverters of all classes, of a
standard and of a robust encoder, share one compilation.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import parallel
from arinv.apps import anomaly
from arinv.apps.anomaly.nearest_neighbors import POOLINGS
from arinv.errors import UserError, unknown
from arinv.experiment.cache import CachedRows
from arinv.experiment.loading import feature_structs
from arinv.experiment.trained import Trained
from arinv.models.generators.discriminator import fold_spectral_norm
from arinv.ops.inputs import check_count, check_number
from arinv.types import Array, Batch

# score -> definition
SCORES = {
    "total": "weighted pixel and feature loss of the latent search's last iteration (Rojas-Gomez et al. 2022, A2)",
    "pixel": "its pixel term, the sum of absolute differences",
    "feature": "its feature term, the sum of squared differences",
    "amortized": "the same loss for the generator's image of the image's own features, without a search",
    "knn": "mean Euclidean distance to the k nearest features of normal training images",
}
# The same under attacks that raise the scores of normal images and lower those of anomalous ones.
ATTACKED_SCORES = {
    "attacked_knn": "knn after PGD on that distance, with the neighbors chosen at every step",
    "attacked_amortized": "amortized after PGD on that score, through encoder, generator and encoder",
    "attacked_held": (
        "the loss against the clean image's reconstruction by the latent search, after PGD on that loss with the "
        "reconstruction held fixed; a stand-in, as PGD through the search would cost a search per step"
    ),
    "attacked_total": "total, searched again, of the images of attacked_held's PGD: a transferred attack",
}
RECONSTRUCTION = "reconstruction"  # of the latent search, beside the scores
_MAX_KEPT_BYTES = 2**27  # of reconstructions
_SEARCH, _ATTACK = range(2)  # uses of the seed, folded into its key
_jit = functools.partial(jax.jit, static_argnums=0)


def check_scorer(config: ConfigDict) -> None:
    """Checks config.search, config.knn and config.log.num_images.

    Raises:
      UserError: a number out of range, or an unknown pooling.
    """
    for name in ("num_steps", "num_restarts"):
        check_count(config.search[name], f"search.{name}")
    for name in ("pixel_weight", "feature_weight", "learning_rate", "end_learning_rate"):
        check_number(config.search[name], f"search.{name}", minimum=0.0)
    check_number(config.search.momentum, "search.momentum", minimum=0.0, maximum=1.0)
    for name in ("k", "block_size"):
        check_count(config.knn[name], f"knn.{name}")
    if config.knn.pooling not in POOLINGS:
        raise unknown("knn.pooling", config.knn.pooling, POOLINGS)
    check_count(config.log.num_images, "log.num_images")  # the overview is always drawn


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Compiled functions that score images; scorers with equal fields and networks of equal modules share them.

    The methods' `variables` hold "decode_fn", "features_fn", "weights" ("pixel_weight" and "feature_weight" of the
    loss), and for the nearest neighbors "references" float32 [capacity, K] with "num_references", how many of them
    count. Images are float32 [B, H, W, 3] in [0, 1]; their rows are independent.

    Attributes:
      layer: the feature that is inverted and compared.
      latent_shape: shape of one such feature, without the batch.
      search: options of anomaly.latent_search except the weights of the loss.
      knn: k, normalize, pooling and block_size.
    """

    layer: str
    latent_shape: tuple[int, ...]
    search: tuple[tuple[str, Any], ...]
    knn: tuple[tuple[str, Any], ...]

    @_jit
    def rows(self, variables: Mapping, images: Array) -> Array:
        """Returns the features of images as rows for the nearest neighbors.

        Args:
          variables: variables of the scorer; references are not needed.
          images: float32 [B, H, W, 3] in [0, 1].

        Returns:
          float32 [B, K].

        Raises:
          UserError: an unknown pooling.
        """
        return self._rows(variables, images)

    @_jit
    def search_latents(self, variables: Mapping, key: Array, images: Array, ids: Array) -> anomaly.SearchResult:
        """Returns the result of the latent search of each image.

        Args:
          variables: variables of the scorer; references are not needed.
          key: PRNG key of the starts.
          images: float32 [B, H, W, 3] in [0, 1].
          ids: uint32 [B]; an image's starts follow from `key` and its id, see `image_ids`.

        Returns:
          The latents [B, *latent_shape], their reconstructions [B, H, W, 3] and scores [B].

        Raises:
          UserError: options of the search that anomaly.latent_search rejects.
        """
        return anomaly.latent_search(
            key,
            variables["decode_fn"],
            variables["features_fn"],
            images,
            latent_shape=self.latent_shape,
            layer=self.layer,
            indices=ids,
            **variables["weights"],
            **dict(self.search),
        )

    @_jit
    def direct_scores(self, variables: Mapping, images: Array) -> dict[str, Array]:
        """Returns the scores of images that need no search.

        Args:
          variables: variables of the scorer, with references.
          images: float32 [B, H, W, 3] in [0, 1].

        Returns:
          "amortized" and "knn", float32 [B] each; see `SCORES`.

        Raises:
          UserError: options of the nearest neighbors out of range.
        """
        return {"amortized": self._amortized(variables, images), "knn": self._distances(variables, images)}

    @functools.partial(jax.jit, static_argnums=0, static_argnames=("norm", "num_steps", "random_start"))
    def attack(
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
        """Returns the scores under attacks on each of them, and the images of the attack on the held search.

        Args:
          variables: variables of the scorer, with references.
          key: PRNG key of the random starts.
          batch: "image" float32 [B, H, W, 3] in [0, 1], "id" uint32 [B] and "anomalous" int32 [B]: 1, 0 for normal
            images, -1 for padding.
          reconstructions: float32 [B, H, W, 3] in [0, 1], of the images, by the latent search.
          eps: radius in units of [0, 1] images.
          step_size: length of a step.
          norm: "l2" or "linf".
          num_steps: gradient steps, at least 1.
          random_start: whether to start from a random point of the ball.

        Returns:
          "attacked_knn", "attacked_amortized" and "attacked_held", float32 [B] each, see `ATTACKED_SCORES`; and the
          images [B, H, W, 3] of the last attack.

        Raises:
          UserError: options that anomaly.attack_scores rejects.
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

        def fixed_reconstruction_scores(images):
            options = {"layer": self.layer, **variables["weights"]}
            return anomaly.fixed_reconstruction_scores(variables["features_fn"], images, reconstructions, **options)

        def attack_on(score_fn):
            adversarial = attack_fn(score_fn, batch["image"], batch["anomalous"])
            return score_fn(adversarial), adversarial

        knn, _ = attack_on(lambda images: self._distances(variables, images))
        amortized, _ = attack_on(lambda images: self._amortized(variables, images))
        held, adversarial = attack_on(fixed_reconstruction_scores)
        return {"attacked_knn": knn, "attacked_amortized": amortized, "attacked_held": held}, adversarial

    @_jit
    def heat_maps(self, variables: Mapping, images: Array, reconstructions: Array) -> anomaly.HeatMaps:
        """Returns where images differ from their reconstructions.

        Args:
          variables: variables of the scorer; references are not needed.
          images: float32 [B, H, W, 3] in [0, 1].
          reconstructions: float32 [B, H, W, 3] in [0, 1].

        Returns:
          Maps of pixels, smoothed by a 32nd of the image's height, and of features, float32 [B, H, W] each.

        Raises:
          UserError: images and reconstructions of different shapes.
        """
        sigma = images.shape[1] / 32
        return anomaly.heat_maps(variables["features_fn"], images, reconstructions, layer=self.layer, sigma=sigma)

    def _amortized(self, variables: Mapping, images: Array) -> Array:
        functions = variables["decode_fn"], variables["features_fn"]
        return anomaly.amortized_scores(*functions, images, layer=self.layer, **variables["weights"])

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
        feature = variables["features_fn"](images)[self.layer]
        return anomaly.feature_rows(feature, pooling=options["pooling"], normalize=options["normalize"])


class Batching(NamedTuple):
    """How a set of images is divided.

    Attributes:
      mesh: the devices, over which the rows of a batch are split.
      batch_size: number of images at a time.
    """

    mesh: jax.sharding.Mesh
    batch_size: int

    def at_most(self, count: int) -> "Batching":
        """Returns the same with smaller batches where there are fewer images.

        Args:
          count: number of images; it is rounded up to a multiple of the devices.
        """
        devices = self.mesh.devices.size
        return self._replace(batch_size=min(self.batch_size, -(-count // devices) * devices))


class Explanation(NamedTuple):
    """The reconstructions of n images, and where they differ.

    Attributes:
      images: float32 [n, S, S, 3] in [0, 1].
      reconstructions: float32 [n, S, S, 3] in [0, 1], of the latent search.
      maps: maps of pixels and of features, float32 [n, S, S] each.
    """

    images: np.ndarray
    reconstructions: np.ndarray
    maps: anomaly.HeatMaps


def make_scorer(inverter: Trained, config: ConfigDict) -> tuple[Scorer, dict[str, Any]]:
    """Returns the scorer of an inverter and its variables, without references for the nearest neighbors.

    Args:
      inverter: inverter of the normal class.
      config: with search (options of anomaly.latent_search) and knn (k, normalize, pooling, block_size).

    Returns:
      The scorer, and "decode_fn", "features_fn" and "weights" of its variables.
    """
    generator, variables = fold_spectral_norm(inverter.module, inverter.variables)
    inverter = dataclasses.replace(inverter, module=generator, variables=variables)
    search = config.search.to_dict()
    weights = {name: jnp.float32(search.pop(name)) for name in ("pixel_weight", "feature_weight")}
    scorer = Scorer(
        layer=inverter.layer,
        latent_shape=feature_structs(inverter.encoder.module, inverter.image_size)[inverter.layer].shape[1:],
        search=tuple(sorted(search.items())),
        knn=tuple(sorted(config.knn.to_dict().items())),
    )
    return scorer, {"decode_fn": inverter.decode_fn, "features_fn": inverter.features_fn, "weights": weights}


def add_references(
    scorer: Scorer, variables: Mapping[str, Any], images_u8: np.ndarray, batching: Batching, *, capacity: int
) -> dict[str, Any]:
    """Returns variables with the features of normal images as references, placed on the devices.

    Args:
      scorer: scorer of the inverter.
      variables: variables of the scorer.
      images_u8: uint8 [N, S, S, 3], the normal images.
      batching: of the images.
      capacity: number of rows, at least N, that references are padded to, so that classes of different sizes share
        compiled functions.

    Returns:
      The variables with "references" float32 [capacity, K] and "num_references".

    Raises:
      UserError: fewer images than neighbors.
    """
    placed = parallel.replicate(dict(variables), batching.mesh)
    rows = [
        parallel.to_host(scorer.rows(placed, batch["image"]))[:size]
        for batch, size in batches(images_u8.__getitem__, len(images_u8), batching)
    ]
    return with_references(scorer, placed, np.concatenate(rows), batching.mesh, capacity=capacity)


def with_references(
    scorer: Scorer, variables: Mapping[str, Any], rows: np.ndarray, mesh: jax.sharding.Mesh, *, capacity: int
) -> dict[str, Any]:
    """Returns variables with rows of features as references, placed on the devices.

    Args:
      scorer: scorer of the inverter.
      variables: variables of the scorer.
      rows: float32 [N, K], of `Scorer.rows`.
      mesh: the devices.
      capacity: as for `add_references`.

    Returns:
      As `add_references`.

    Raises:
      UserError: fewer rows than neighbors.
    """
    if len(rows) < dict(scorer.knn)["k"]:
        raise UserError(f"knn.k={dict(scorer.knn)['k']} is more than the {len(rows)} normal training images; lower it")
    padded = np.zeros((capacity, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    references = {"references": padded, "num_references": np.int32(len(rows))}
    return parallel.replicate({**variables, **references}, mesh)


def compute_scores(
    key: Array,
    scorer: Scorer,
    variables: Mapping[str, Any],
    read: Callable[[Sequence[int]], np.ndarray],
    count: int,
    batching: Batching,
    *,
    cache: CachedRows,
    attack: Mapping[str, Any] | None = None,
    anomalous: np.ndarray | None = None,
    keep: bool = False,
    progress: Callable[[int], Any] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Returns every score of every image, those under attack too if there is one.

    Args:
      key: PRNG key; the random numbers of an image follow from it and from the image's content.
      scorer: scorer of the inverter.
      variables: variables of the scorer, with references.
      read: indices of n images -> uint8 [n, S, S, 3].
      count: number of images.
      batching: of the images.
      cache: cache of the scores; images whose scores it holds are skipped.
      attack: options of anomaly.attack_scores; None or empty for no attack.
      anomalous: bool [count], whose scores attacks lower instead of raising them; None without an attack.
      keep: whether to return the reconstructions of the search too, unless they take more than 128 MiB.
      progress: called with the number of images that were finished since the last call.

    Returns:
      Name of the score -> float32 [count]; with `keep`, "reconstruction" -> uint8 [count, S, S, 3].

    Raises:
      UserError: options of the search, the nearest neighbors or the attack out of range.
    """
    progress(cache.count)
    for batch, size in batches(read, count, batching, first=cache.count, anomalous=anomalous):
        results = parallel.to_host(_score_batch(key, scorer, variables, batch, attack or {}))
        reconstructions = results.pop(RECONSTRUCTION)
        if keep and count * reconstructions[0].size <= _MAX_KEPT_BYTES:
            results[RECONSTRUCTION] = np.floor(reconstructions * 255 + 0.5).astype(np.uint8)
        cache.append({name: values[:size] for name, values in results.items()})
        progress(size)
    cache.save()
    return cache.arrays()


def explain(
    key: Array,
    scorer: Scorer,
    variables: Mapping[str, Any],
    images_u8: np.ndarray,
    batching: Batching,
    *,
    reconstructions_u8: np.ndarray | None = None,
) -> Explanation:
    """Returns the reconstructions of images and where both differ.

    Args:
      key: PRNG key, that of `compute_scores` for the same reconstructions.
      scorer: scorer of the inverter.
      variables: variables of the scorer; references are not needed.
      images_u8: uint8 [n, S, S, 3], n at least 1.
      batching: of the images.
      reconstructions_u8: uint8 [n, S, S, 3], those of an earlier search; None to search for them.

    Returns:
      The images, reconstructions and heat maps, on the host.

    Raises:
      UserError: options of the search out of range.
    """
    key, parts = jax.random.fold_in(key, _SEARCH), []
    sources = (images_u8, images_u8 if reconstructions_u8 is None else reconstructions_u8)
    parts_of = (batches(array.__getitem__, len(array), batching) for array in sources)
    for (batch, size), (other, _) in zip(*parts_of, strict=True):
        reconstructions = other["image"]
        if reconstructions_u8 is None:
            result = scorer.search_latents(variables, key, batch["image"], batch["id"])
            reconstructions = jax.device_put(result.reconstructions, batch["image"].sharding)
        maps = scorer.heat_maps(variables, batch["image"], reconstructions)
        part = parallel.to_host(Explanation(batch["image"], reconstructions, maps))
        parts.append(jax.tree.map(lambda x, n=size: x[:n], part))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def image_ids(images_u8: np.ndarray) -> np.ndarray:
    """Returns a number for each image that depends on its content only, so that equal images get equal scores.

    Args:
      images_u8: uint8 [N, H, W, C].

    Returns:
      uint32 [N].
    """
    return np.array([zlib.crc32(np.ascontiguousarray(image)) for image in images_u8], np.uint32)


def _score_batch(
    key: Array, scorer: Scorer, variables: Mapping, batch: Batch, attack: Mapping[str, Any]
) -> dict[str, Array]:
    search_key, attack_key = (jax.random.fold_in(key, use) for use in (_SEARCH, _ATTACK))
    search = scorer.search_latents(variables, search_key, batch["image"], batch["id"])
    results = {"total": search.scores, "pixel": search.pixel, "feature": search.feature}
    results[RECONSTRUCTION] = search.reconstructions
    results |= scorer.direct_scores(variables, batch["image"])
    if attack:
        scores, adversarial = scorer.attack(variables, attack_key, batch, search.reconstructions, **attack)
        adversarial = jax.device_put(adversarial, batch["image"].sharding)
        transferred = scorer.search_latents(variables, search_key, adversarial, batch["id"])
        results |= {**scores, "attacked_total": transferred.scores}
    return results


def batches(
    read: Callable[[Sequence[int]], np.ndarray],
    count: int,
    batching: Batching,
    *,
    first: int = 0,
    anomalous: np.ndarray | None = None,
) -> Iterator[tuple[Batch, int]]:
    """Yields batches of one size on the devices, with the number of images in each; the rest of it is padding.

    Args:
      read: indices of n images -> uint8 [n, S, S, 3].
      count: number of images.
      batching: of the images.
      first: index of the image to begin with.
      anomalous: bool [count]; None where it is not known.

    Yields:
      ({"image": float32 [batch_size, S, S, 3] in [0, 1], "id": uint32 [batch_size] of `image_ids`, "anomalous": int32
      [batch_size]: 1, 0, or -1 for padding and where it is not known}, number of images).
    """
    for start in range(first, count, batching.batch_size):
        rows = range(start, min(start + batching.batch_size, count))
        images = np.asarray(read(rows))
        batch = {
            "image": np.zeros((batching.batch_size, *images.shape[1:]), np.float32),
            "id": np.zeros(batching.batch_size, np.uint32),
            "anomalous": np.full(batching.batch_size, -1, np.int32),
        }
        batch["image"][: len(rows)] = images.astype(np.float32) * np.float32(1 / 255)
        batch["id"][: len(rows)] = image_ids(images)
        if anomalous is not None:
            batch["anomalous"][: len(rows)] = anomalous[rows.start : rows.stop]
        yield parallel.place_whole_batch(batch, batching.mesh), len(rows)
