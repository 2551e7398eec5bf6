"""The scores of a batch of images by a single-class inverter: compiled once for all inverters of one shape.

Weights are arguments of the compiled functions, and the networks' modules with the settings are what they are compiled
for, so that the detectors of all classes, of a standard encoder and of a robust one share them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from arinv.apps import anomaly
from arinv.apps.nearest_neighbors import POOLINGS
from arinv.errors import UserError, unknown
from arinv.models.spectral import fold_spectral_norm
from arinv.tasks import networks
from arinv.train.inverter import make_features_fn
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


def validate(config: ConfigDict) -> None:
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
    if jax.process_count() > 1:
        raise UserError("anomaly detection runs in one process, on all of its devices; start it on one host")


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


def make_scorer(trained: networks.Inverter, config: ConfigDict) -> tuple[Scorer, dict[str, Any]]:
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
