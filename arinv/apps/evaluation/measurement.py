"""Metrics of reconstructions, and the networks whose features perceptual metrics compare."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import metrics, models, parallel, paths, zoo
from arinv.errors import UserError, unknown
from arinv.experiment import checkpoint
from arinv.experiment.cache import fingerprint
from arinv.experiment.run import Run
from arinv.experiment.trained import Trained, make_features_fn
from arinv.metrics.metric import METRICS, OWN
from arinv.types import Array, FeaturesFn, Variables

_LPIPS_LAYERS = {"alexnet": metrics.LPIPS_LAYERS["alex"], "vgg16": metrics.LPIPS_LAYERS["vgg"]}
_FEATURES = "features"  # of reconstructions and images, in a batch's results


def check(config: ConfigDict) -> None:
    """Checks that everything that the metrics of a config need is there.

    Args:
      config: with metrics, names joined by "+", and metric_networks.

    Raises:
      UserError: an unknown metric, or one whose network or package is missing.
    """
    for name in _names(config):
        if METRICS[name].networks:
            check_metric_network(config, _field(config, name), name)
        if METRICS[name].heads:
            models.load_lpips_heads(METRICS[name].heads)
    check_enough_images(config, config.data.get("num_test", 0) or 2)


def check_enough_images(config: ConfigDict, count: int) -> None:
    """Checks that there are images enough for the metrics of the config.

    Args:
      config: config of the task.
      count: number of test images.

    Raises:
      UserError: a metric of the whole set, such as FID, and one image.
    """
    if count < 2 and (names := whole_set_metrics(config)):
        raise UserError(f"{', '.join(names)} of one image is undefined; name two or more, such as data.num_test=2")


def whole_set_metrics(config: ConfigDict) -> list[str]:
    """Returns the metrics of the config that need the whole set of images.

    Raises:
      UserError: an unknown metric.
    """
    return [name for name in _names(config) if METRICS[name].needs_set]


class Measurement:
    """The metrics of reconstructions, batch by batch, with those of the whole set at the end.

    Attributes:
      variables: variables of the networks, for `measure`.
    """

    def __init__(self, run: Run, own: Trained):
        """Loads the networks whose features the metrics of the config compare.

        Args:
          run: the run of the evaluation.
          own: the encoder that is evaluated.

        Raises:
          UserError: no usable weights where the config names them.
        """
        fields = {name: _field(run.config, name) for name in _names(run.config)}
        networks = {field: load_metric_network(run, field, own) for field in dict.fromkeys(fields.values()) if field}
        self.variables = {field: network.variables for field, network in networks.items()}
        self._of_images, self._of_set = [], []
        for name, field in fields.items():
            network = networks.get(field)
            if METRICS[name].of_set:
                moments = metrics.FeatureMoments(), metrics.FeatureMoments()
                self._of_set.append(_SetMetric(name, field, network, moments))
            else:
                self._of_images.append(_image_metric(name, field, network))

    def measure(self, variables: Mapping[str, Variables], reconstructions: Array, images: Array) -> dict[str, Any]:
        """Returns the metrics of a batch, and features for `accumulate`; to be jitted.

        Args:
          variables: the attribute, an argument so that jit does not embed the weights.
          reconstructions: [B, H, W, 3] in [0, 1].
          images: [B, H, W, 3] in [0, 1].
        """
        with jax.default_matmul_precision("highest"):  # a GPU's TF32 would show in the third digit
            results = {metric.key: metric.function(variables, reconstructions, images) for metric in self._of_images}
            if self._of_set:
                results[_FEATURES] = [_vectors(metric, variables, reconstructions, images) for metric in self._of_set]
        return results

    def accumulate(self, results: Mapping[str, Any], mask: Array) -> dict[str, Array]:
        """Returns a batch's results without the features, which are added to the statistics of the whole set."""
        results = dict(results)
        if _FEATURES in results:
            features, mask = parallel.to_host((results.pop(_FEATURES), mask))
            for metric, pair in zip(self._of_set, features, strict=True):
                for moments, rows in zip(metric.moments, pair, strict=True):
                    moments.update(rows, mask)
        return results

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns the statistics of the whole set so far, as named arrays; empty where no metric needs them."""
        return {
            f"{metric.name}/{i}/{name}": values
            for metric in self._of_set
            for i, moments in enumerate(metric.moments)
            for name, values in moments.get_state().items()
        }

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Replaces the statistics of the whole set by what `get_state` has returned."""
        for metric in self._of_set:
            for i, moments in enumerate(metric.moments):
                prefix = f"{metric.name}/{i}/"
                own = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
                moments.set_state(own)

    def finish(self) -> dict[str, Any]:
        """Returns the metrics of the whole set, each metric's exact variant and its network's weights.

        The keys are the names of those metrics, "variants" and "metric_weights".
        """
        totals = {}
        variants = {metric.key: metric.variant for metric in self._of_images}
        weights = {metric.key: metric.weights for metric in self._of_images if metric.weights}
        for name, _, network, moments in self._of_set:
            key = f"{name}_{network.name}_{network.last_layer}_n{moments[0].count}"
            totals[key] = METRICS[name].function(*moments)
            variants[key] = variant_text(name, key, (network.last_layer,), network)
            weights[key] = network.weights
        return {**totals, "variants": variants, "metric_weights": weights}


@dataclasses.dataclass(frozen=True)
class MetricNetwork:
    """A network whose features metrics compare.

    Attributes:
      name: name of its architecture.
      module: images [B, H, W, 3] in [0, 1] -> (logits, features).
      variables: its weights.
      origin: origin of the weights, for the reader of results.
      weights: their fingerprint.
    """

    name: str
    module: Any
    variables: Variables
    origin: str
    weights: str

    def features_fn(self, variables: Variables) -> FeaturesFn:
        """Returns images -> named features; the weights are an argument so that jit does not embed them."""
        return make_features_fn(self.module, variables)

    @property
    def layers(self) -> tuple[str, ...]:
        """The features that a perceptual distance compares: those of LPIPS where it has any, else all spatial ones."""
        return _LPIPS_LAYERS.get(self.name) or models.spatial_layers(self.module)

    @property
    def style_layers(self) -> tuple[str, ...]:
        """The features that the Gram loss compares: the paper's in a VGG, else those of `layers`."""
        spatial = models.spatial_layers(self.module)
        return metrics.GRAM_LAYERS if set(metrics.GRAM_LAYERS) <= set(spatial) else self.layers

    @property
    def last_layer(self) -> str:
        """The last spatial feature."""
        return models.spatial_layers(self.module)[-1]


def check_metric_network(config: ConfigDict, field: str, metric: str) -> None:
    """Checks a network of config.metric_networks without loading it.

    Args:
      config: config of the evaluation.
      field: field of config.metric_networks.
      metric: name of the metric that compares its features.

    Raises:
      UserError: weights that are not named or do not exist, or images that are too small for the network.
    """
    reference = config.metric_networks[field]
    if not reference and field != OWN:
        raise UserError(
            f"metric {metric} needs a trained {field}: set metric_networks.{field} to a file of torchvision's weights "
            "or to the workdir of a classifier's training; robust_lpips, gram and fid need neither"
        )
    is_stage = reference.startswith("stage:")  # which may not have run yet
    is_known = is_stage or zoo.is_reference(reference)
    place = None if is_known or not reference else paths.canonical(reference, name=f"metric_networks.{field}")
    if place is not None and not place.exists():
        raise UserError(f"metric_networks.{field}={reference} does not exist; metric {metric} needs it")
    smallest = 1 if field == OWN else models.build(field, num_classes=0).smallest_side
    if config.data.image_size < smallest:
        raise UserError(
            f"metric {metric} needs images of at least {smallest} px; data.image_size is "
            f"{config.data.image_size}: use robust_lpips"
        )
    if place is not None and place.is_dir():
        checkpoint.load_description(place, kind="classifier")  # raises where it holds none


def load_metric_network(run: Run, field: str, own: Trained) -> MetricNetwork:
    """Returns a network of config.metric_networks, computing in float32.

    Args:
      run: the run of the evaluation.
      field: "encoder", or the name of an architecture.
      own: the encoder that is evaluated.

    Raises:
      UserError: no usable weights there, or those of another architecture.
    """
    reference = run.config.metric_networks[field]
    if not reference:
        network = _from_trained(own, "the evaluated encoder itself")
    elif field == OWN or zoo.is_reference(reference) or run.resolve(reference).is_dir():
        encoder = run.load(reference, kind="classifier")
        if field not in (OWN, encoder.description["encoder"]):
            raise UserError(f"metric_networks.{field}={reference} holds {encoder.description['encoder']}, not {field}")
        network = _from_trained(encoder, "given encoder")
    else:
        path = run.resolve(reference)
        variables = models.convert.load_torch(path, field)
        network = MetricNetwork(field, models.build(field), variables, path.name, fingerprint(variables))
    # Without the head it takes images of every size; LPIPS's features need no 63 px, as conv5 does.
    return dataclasses.replace(network, module=network.module.clone(num_classes=0, dtype=jnp.float32))


def _from_trained(encoder: Trained, which: str) -> MetricNetwork:
    description = encoder.description
    attack = description.get("attack") or {"eps": 0}
    training = f"adversarial ({attack['norm']} eps {attack['eps']:g})" if attack["eps"] > 0 else "standard"
    origin = f"{which}, {training} training"
    return MetricNetwork(description["encoder"], encoder.module, encoder.variables, origin, encoder.fingerprint)


class _ImageMetric(NamedTuple):
    """A metric of each image.

    Attributes:
      key: the name it is reported under.
      variant: what exactly it computes.
      weights: fingerprint of the network whose features it compares; empty for none.
      function: (variables of all networks, reconstructions, images) -> [B].
    """

    key: str
    variant: str
    weights: str
    function: Callable[[Mapping[str, Variables], Array, Array], Array]


class _SetMetric(NamedTuple):
    """A metric of the whole set.

    Attributes:
      name: name of the metric.
      field: field of the network.
      network: that gives the features.
      moments: moments of the features of the reconstructions and of the images.
    """

    name: str
    field: str
    network: MetricNetwork
    moments: tuple[metrics.FeatureMoments, metrics.FeatureMoments]


def _image_metric(name: str, field: str | None, network: MetricNetwork | None) -> _ImageMetric:
    row = METRICS[name]
    if network is None:
        return _ImageMetric(name, row.variant, "", lambda _, *images: row.function(*images))
    key, layers, options = f"{name}_{network.name}", getattr(network, row.layers), {}
    if row.heads:
        key, options = name, {"heads": models.load_lpips_heads(row.heads)}

    def function(variables, *images):
        return row.function(network.features_fn(variables[field]), *images, layers=layers, **options)

    return _ImageMetric(key, variant_text(name, key, layers, network), network.weights, function)


def _vectors(metric: _SetMetric, variables: Mapping[str, Variables], *images: Array) -> tuple[Array, ...]:
    """Returns the feature vectors of each batch of images."""
    features_fn, layer = metric.network.features_fn(variables[metric.field]), metric.network.last_layer
    return tuple(metrics.feature_vectors(features_fn, batch, layer=layer) for batch in images)


def variant_text(name: str, key: str, layers: tuple[str, ...], network: MetricNetwork) -> str:
    """Returns the exact text of a metric, with the network that it was measured through.

    Args:
      name: the metric.
      key: its longer name in results.
      layers: the compared features.
      network: the network that gives them.
    """
    text = METRICS[name].variant.removeprefix(name)
    return f"{key}{text}; {', '.join(layers)} of {network.name} ({network.origin}, weights {network.weights})"


def _names(config: ConfigDict) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, config.metrics.split("+"))))
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return names


def _field(config: ConfigDict, name: str) -> str | None:
    """Returns which of config.metric_networks a metric uses; the last of its choices need not be set."""
    choices = METRICS[name].networks
    return next((field for field in choices if config.metric_networks[field]), choices[-1] if choices else None)
