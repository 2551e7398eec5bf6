"""Trained inverters for images of every size: an encoder's convolutions and the generator of one of its layers."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from arinv.errors import UserError
from arinv.experiment import trained as networks
from arinv.experiment import workdir as workdirs
from arinv.experiment.cache import fingerprint
from arinv.experiment.trained import make_features_fn
from arinv.types import DecodeFn, FeaturesFn, Variables


@dataclasses.dataclass(frozen=True)
class AnySizeInverter:
    """An inverter of images whose sides are multiples of its stride.

    Attributes:
      trained: the inverter as it was trained, on images of one size.
      variables: {"encoder", "generator"}, an argument for what is jitted.
      stride: image pixels per feature pixel.
      smallest: side of the smallest images, in pixels.
      weights: fingerprint of the variables.
    """

    trained: networks.Inverter
    variables: Variables
    stride: int
    smallest: int
    weights: str

    @property
    def layer(self) -> str:
        """The feature that is inverted."""
        return self.trained.description["layer"]

    @property
    def image_size(self) -> int:
        """The side of the images that the generator was trained on."""
        return self.trained.description["image_size"]

    def features_fn(self, variables: Variables) -> FeaturesFn:
        """Returns images -> named features, those of the convolutions only."""
        return make_features_fn(self.trained.encoder.module.clone(num_classes=0), variables["encoder"])

    def functions(self, variables: Variables) -> tuple[DecodeFn, FeaturesFn]:
        """Returns the generator and the encoder as functions, as those of apps.inversion take them."""
        generator = self.trained.module
        return lambda x: generator.apply(variables["generator"], x, train=False), self.features_fn(variables)

    def check_multiple(self, side: int, name: str) -> None:
        """Checks that images with sides that are multiples of `side` can be inverted.

        Args:
          side: in pixels.
          name: what the error calls it.

        Raises:
          UserError: it does not fit the encoder's stride, or is too small.
        """
        if side % self.stride or side < self.smallest:
            lower = max(self.smallest, side // self.stride * self.stride)
            raise UserError(
                f"{name} {side} must be a multiple of {self.stride} px, the stride of "
                f"{self.trained.description['encoder']} {self.layer}, from {self.smallest} up, such as {lower}"
            )


def load(workdir: pathlib.Path, *, dtype: jax.typing.DTypeLike = jnp.float32) -> AnySizeInverter:
    """Returns the inverter of a run.

    Args:
      workdir: of an inverter's training.
      dtype: of the computation.

    Raises:
      UserError: no usable checkpoint there, or an inverter of a fully connected layer.
    """
    trained = networks.load_inverter(workdir, dtype=dtype)
    layer = trained.description["layer"]
    specs: Any = trained.encoder.module.feature_specs()
    if specs[layer].is_vector:
        known = ", ".join(name for name, spec in specs.items() if not spec.is_vector)
        raise UserError(
            f"{workdir} inverts {layer}, whose features come from images of one size only; take an inverter of one of "
            f"{known}"
        )
    stride = specs[layer].stages[-1].stride
    variables = {"encoder": trained.encoder.variables, "generator": trained.variables}
    return AnySizeInverter(trained, variables, stride, stride * (1 + specs[layer].offset), fingerprint(variables))


def check_named(config: ConfigDict) -> None:
    """Checks that config.inverters has a workdir under every name in config.order.

    Raises:
      UserError: it has not, or there is no name.
    """
    if not config.order or not all(config.inverters[name] for name in config.order):
        raise UserError("inverters needs the workdir of an inverter's training under every name")


def load_named(config: ConfigDict, workdir: pathlib.Path, *, dtype: jax.typing.DTypeLike) -> dict[str, AnySizeInverter]:
    """Returns the inverters of an experiment by name, in its order.

    Args:
      config: with inverters (name -> workdir), order and data.image_size.
      workdir: of the experiment.
      dtype: of the computation.

    Raises:
      UserError: no usable checkpoint there, or images that do not fit.
    """
    sources = {name: workdirs.resolve(config.inverters[name], workdir) for name in config.order}
    inverters = {name: load(source, dtype=dtype) for name, source in sources.items()}
    for name, inverter in inverters.items():
        inverter.check_multiple(config.data.image_size, "data.image_size")
        networks.check_trained_size(inverter.trained.description, config.data.image_size, sources[name])
    return inverters
