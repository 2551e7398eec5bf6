"""Metrics of reconstructions, FID of samples, and the networks whose features they compare."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, models, parallel, paths, zoo
from arinv.errors import UserError, unknown
from arinv.experiment import checkpoint
from arinv.experiment.cache import fingerprint
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, Trained, make_features_fn
from arinv.metrics.metric import METRICS, OWN
from arinv.ops.images import to_float, to_rgb
from arinv.types import Array, ArrayLike, FeaturesFn, Variables

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


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that stages which train the networks of metrics train classifiers.

    Args:
      run: the run of the evaluation.

    Raises:
      UserError: a stage trains another network, or none.
    """
    for name in _names(run.config):
        if METRICS[name].networks:
            check_planned_network(run, _field(run.config, name))


def check_planned_network(run: Run, field: str) -> None:
    """Checks that a stage which a field of config.metric_networks names trains a classifier.

    Raises:
      UserError: it trains another network, or none.
    """
    if reference := run.config.metric_networks[field]:
        run.check_planned(reference, kind=CLASSIFIER, allow_other_size=True)


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
        results = {metric.key: metric.function(variables, reconstructions, images) for metric in self._of_images}
        if self._of_set:
            results[_FEATURES] = [
                tuple(metric.network.vectors(variables[metric.field], x) for x in (reconstructions, images))
                for metric in self._of_set
            ]
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
            key = network.whole_set_key(name, moments[0].count)
            totals[key] = METRICS[name].function(*moments)
            variants[key] = variant_text(name, key, (network.last_layer,), network)
            weights[key] = network.weights
        return {**totals, "variants": variants, "metric_weights": weights}


@dataclasses.dataclass(frozen=True)
class MetricNetwork:
    """A network whose features metrics compare.

    Attributes:
      name: name of its architecture.
      module: images [B, H, W, 3] in [0, 1] -> (logits, features), computed in float32.
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

    def vectors(self, variables: Variables, images: ArrayLike) -> Array:
        """Returns the last spatial features averaged over positions, [B, C].

        Args:
          variables: weights, an argument so that jit does not embed them.
          images: float32 [B, H, W, 1 or 3] in [0, 1].
        """
        return _vectors(variables, images, module=self.module, layer=self.last_layer)

    def moments(self, batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> metrics.FeatureMoments:
        """Returns the mean and the covariance of the vectors of images.

        Args:
          batches: images float32 [B, H, W, 1 or 3] in [0, 1] and masks [B], 0 for padding.
        """
        result = metrics.FeatureMoments()
        for images, mask in batches:
            result.update(self.vectors(self.variables, images), mask)
        return result

    def whole_set_key(self, metric: str, count: int) -> str:
        """Returns the name of a metric of a set in results, with the network, the layer and the number of images."""
        return f"{metric}_{self.name}_{self.last_layer}_n{count}"


@functools.partial(jax.jit, static_argnames=("module", "layer"))
def _vectors(variables: Variables, images: Array, *, module: Any, layer: str) -> Array:
    return metrics.feature_vectors(make_features_fn(module, variables), to_rgb(images), layer=layer)


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
        checkpoint.load_description(place, kind=CLASSIFIER)  # raises where it holds none


def load_metric_network(run: Run, field: str, own: Trained) -> MetricNetwork:
    """Returns a network of config.metric_networks.

    Args:
      run: the run of the evaluation.
      field: "encoder", or the name of an architecture.
      own: the encoder that is evaluated.

    Raises:
      UserError: no usable weights there, or those of another architecture.
    """
    reference = run.config.metric_networks[field]
    if not reference:
        return metric_network(own, "the evaluated encoder itself")
    if field == OWN or zoo.is_reference(reference) or run.resolve(reference).is_dir():
        encoder = run.load(reference, kind=CLASSIFIER)
        if field not in (OWN, encoder.description["encoder"]):
            raise UserError(f"metric_networks.{field}={reference} holds {encoder.description['encoder']}, not {field}")
        return metric_network(encoder)
    path = run.resolve(reference)
    variables = models.convert.load_torch(path, field)
    return MetricNetwork(field, models.build(field, num_classes=0), variables, path.name, fingerprint(variables))


def check_metric_encoder(run: Run) -> None:
    """Checks, before any stage runs, that the classifier of config.metric_encoder exists or is a stage.

    Raises:
      UserError: none there, one of another image size, or one without a spatial feature of such images.
    """
    options = _size_options(run.config)
    reference = run.config.metric_encoder
    if reference and (encoder := run.check_network(reference, kind=CLASSIFIER, **options)):
        encoder.check_layer(models.spatial_layers(encoder.module)[-1], image_size=options["image_size"])


def load_metric_encoder(run: Run) -> MetricNetwork | None:
    """Returns the classifier of config.metric_encoder, whose features FID compares; None where it is empty.

    Raises:
      UserError: none there, or one of another image size.
    """
    reference = run.config.metric_encoder
    if not reference:
        return None
    return metric_network(run.load(reference, kind=CLASSIFIER, **_size_options(run.config)))


def _size_options(config):
    """Returns the options of `load` by which a network must be of the images' size, unless the config allows others."""
    return {"image_size": config.data.get("image_size"), "allow_other_size": config.get("allow_other_size", False)}


def metric_network(encoder: Trained, which: str = "given encoder") -> MetricNetwork:
    """Returns a classifier as a network whose features metrics compare.

    Args:
      encoder: the classifier, of any dtype.
      which: its origin, for the reader of results.
    """
    description = encoder.description
    attack = description.get("attack") or {"eps": 0}
    training = f"adversarial ({attack['norm']} eps {attack['eps']:g})" if attack["eps"] > 0 else "standard"
    origin = f"{which}, {training} training"
    # Without the head it takes images of every size; LPIPS's features need no 63 px, as conv5 does.
    module = encoder.module.clone(num_classes=0, dtype=jnp.float32)
    return MetricNetwork(description["encoder"], module, encoder.variables, origin, encoder.fingerprint)


def sample_distance(
    gan: models.Gan, network: MetricNetwork, source: data.Source, *, key: Array, batch_size: int = 64
) -> Callable[[Variables], dict[str, float]]:
    """Returns a function that measures the Fréchet distance of a GAN's samples from as many images.

    Args:
      gan: the networks.
      network: its last spatial features are compared.
      source: the images.
      key: PRNG key of the samples, the same at every call.
      batch_size: number of images, and of samples, in a batch.

    Returns:
      Variables of the generator -> {name of the distance in results: its value}.
    """
    batches = data.eval_batches(source, batch_size=batch_size)

    @jax.jit
    def sample(variables: Variables, key: Array) -> Array:
        return jnp.clip(gan.generator.apply(variables, gan.draw(key, batch_size), train=False), 0, 1)

    @functools.cache
    def real() -> tuple[metrics.FeatureMoments, list[np.ndarray]]:
        masks = []

        def images():
            for batch in batches:
                masks.append(batch["mask"])
                yield to_float(batch["image"]), batch["mask"]

        return network.moments(images()), masks

    def measure(variables: Variables) -> dict[str, float]:
        images, masks = real()
        samples = ((sample(variables, jax.random.fold_in(key, i)), mask) for i, mask in enumerate(masks))
        distance = metrics.moments_distance(network.moments(samples), images)
        return {network.whole_set_key("fid", images.count): distance}

    return measure


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
