"""The networks that metrics look through: our own encoder, or published ones from a file of weights.

config.metric_networks   {"encoder": the workdir of a classifier's training, by default the evaluated encoder itself,
                          "alexnet", "vgg16", "vgg19": a file of torchvision's weights, or such a workdir}

They compute in float32 whatever the evaluation computes in.
"""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from arinv import metrics, models, paths
from arinv.errors import UserError
from arinv.tasks import networks
from arinv.tasks import workdir as workdirs
from arinv.tasks.fingerprint import fingerprint
from arinv.train.inverter import make_features_fn
from arinv.types import FeaturesFn, Variables

OWN = "encoder"  # the field of our own encoder; the others have the names of architectures

_LPIPS_LAYERS = {"alexnet": metrics.LPIPS_LAYERS["alex"], "vgg16": metrics.LPIPS_LAYERS["vgg"]}
_SMALLEST = {"alexnet": 31, "vgg16": 32, "vgg19": 32}  # px


@dataclasses.dataclass(frozen=True)
class MetricNetwork:
    """A network that metrics look through.

    Attributes:
      name: of its architecture.
      module: images [B, H, W, 3] in [0, 1] -> (logits, features).
      variables: its weights.
      origin: where they come from, for the reader of results.
      weights: their fingerprint.
    """

    name: str
    module: Any
    variables: Variables
    origin: str
    weights: str

    def features_fn(self, variables: Variables) -> FeaturesFn:
        """Returns images -> named features; the weights are an argument so that jit need not embed them."""
        return make_features_fn(self.module, variables)

    @property
    def layers(self) -> tuple[str, ...]:
        """The features that a perceptual distance compares: LPIPS's where there are such, else all spatial ones."""
        return _LPIPS_LAYERS.get(self.name) or self._spatial()

    @property
    def style_layers(self) -> tuple[str, ...]:
        """The features that the Gram loss compares: the paper's in a VGG, else those of `layers`."""
        return metrics.GRAM_LAYERS if set(metrics.GRAM_LAYERS) <= set(self._spatial()) else self.layers

    @property
    def last_layer(self) -> str:
        """The last spatial feature."""
        return self._spatial()[-1]

    def _spatial(self) -> tuple[str, ...]:
        return tuple(name for name, spec in self.module.feature_specs().items() if not spec.is_vector)


def validate(config: ConfigDict, field: str, metric: str) -> None:
    """Checks what can be seen of a network before it is loaded.

    Args:
      config: of the evaluation.
      field: of config.metric_networks.
      metric: the name of what needs it.

    Raises:
      UserError: weights that are not named or not there, or images too small for the network.
    """
    reference = config.metric_networks[field]
    if not reference and field != OWN:
        raise UserError(
            f"metric {metric} needs a trained {field}: set metric_networks.{field} to a file of torchvision's weights "
            "or to the workdir of a classifier's training; robust_lpips, gram and fid need neither"
        )
    is_stage = reference.startswith("stage:")  # which may not have run yet
    if reference and not is_stage and not paths.canonical(reference, name=f"metric_networks.{field}").exists():
        raise UserError(f"metric_networks.{field}={reference} does not exist; metric {metric} needs it")
    if config.data.image_size < _SMALLEST.get(field, 1):
        raise UserError(
            f"metric {metric} needs images of at least {_SMALLEST[field]} px; data.image_size is "
            f"{config.data.image_size}: use robust_lpips"
        )


def load(config: ConfigDict, field: str, workdir: pathlib.Path, own: networks.Encoder) -> MetricNetwork:
    """Returns the network of a field of config.metric_networks.

    Args:
      config: of the evaluation.
      field: "encoder", or the name of an architecture.
      workdir: of the evaluation, beside which stages are found.
      own: the encoder that is evaluated.

    Raises:
      UserError: no usable weights there, or those of another architecture.
    """
    reference = config.metric_networks[field]
    if not reference:
        module = own.module.clone(dtype=jnp.float32)
        network = _trained(networks.Encoder(module, own.variables, own.description), "the evaluated encoder itself")
    else:
        network = _load(reference, field, workdir)
    # The features alone: they fit every image size, where a head may not, and LPIPS's need no 63 px as conv5 does.
    return dataclasses.replace(network, module=network.module.clone(num_classes=0))


def _load(reference: str, field: str, workdir: pathlib.Path) -> MetricNetwork:
    path = workdirs.resolve(reference, workdir)
    if path.is_dir() or field == OWN:
        encoder = networks.load_encoder(path)
        if field not in (OWN, encoder.description["encoder"]):
            raise UserError(f"metric_networks.{field}={reference} holds {encoder.description['encoder']}, not {field}")
        return _trained(encoder, "given encoder")
    variables = models.convert.load_torch(path, field)
    return MetricNetwork(field, models.build(field), variables, path.name, fingerprint(variables))


def _trained(encoder: networks.Encoder, which: str) -> MetricNetwork:
    description = encoder.description
    attack = description.get("attack") or {"eps": 0}
    training = f"adversarial ({attack['norm']} eps {attack['eps']:g})" if attack["eps"] > 0 else "standard"
    origin = f"{which}, {training} training"
    return MetricNetwork(
        description["encoder"], encoder.module, encoder.variables, origin, fingerprint(encoder.variables)
    )
