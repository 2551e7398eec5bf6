"""The levels of a style transfer from the runs of inverters: encoders and generators for images of many sizes."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from arinv.apps.style import Level
from arinv.errors import UserError
from arinv.tasks import networks
from arinv.tasks.fingerprint import fingerprint
from arinv.tasks.workdir import follow
from arinv.train import checkpoint
from arinv.train.inverter import make_features_fn
from arinv.types import Variables

_FIXED_HEADS = ("alexnet_small", "caffenet")  # their dense layers fit images of one size only


@dataclasses.dataclass(frozen=True)
class StyleNetworks:
    """The levels of one style transfer, from the shallowest to the deepest.

    Attributes:
      inverters: one a level.
      variables: (encoder's, generator's) of each level, an argument for what is jitted.
      multiple: sides of the images must be multiples of it, in pixels.
      smallest: and at least so long.
    """

    inverters: tuple[networks.Inverter, ...]
    variables: tuple[tuple[Variables, Variables], ...]
    multiple: int
    smallest: int

    def levels(self, variables: Sequence[tuple[Variables, Variables]]) -> tuple[Level, ...]:
        """Returns the levels as functions, with the given weights."""
        return tuple(_level(*pair) for pair in zip(self.inverters, variables, strict=True))

    def describe(self) -> list[dict[str, Any]]:
        """Returns what a reader of results has to know of each level."""
        return [
            {
                "layer": inverter.description["layer"],
                "encoder": inverter.description["encoder"],
                "attack": inverter.encoder.description.get("attack"),
                "encoder_weights": fingerprint(inverter.encoder.variables),
                "generator_weights": fingerprint(inverter.variables),
                "trained_on_px": inverter.description["image_size"],
                "loss": inverter.description.get("loss"),
            }
            for inverter in self.inverters
        ]


def without_head(name: str, module: Any) -> Any:
    """Returns an encoder that gives its features for images of every size; most do as they are."""
    return module.clone(num_classes=0) if name in _FIXED_HEADS else module


def sides(module: Any) -> tuple[int, int]:
    """Returns what the sides of an encoder's images must be multiples of, and the length of the shortest, in pixels."""
    specs = module.feature_specs().values()  # of all layers: an encoder is run to its end
    multiple = max(spec.stages[-1].stride for spec in specs)
    shortest = max(spec.stages[-1].stride * (1 + spec.offset) for spec in specs)
    if getattr(module, "head", "") == "pooled":
        shortest = max(shortest, 2 * multiple)  # a VGG pools by two once more, and no named feature lies behind that
    return multiple, shortest


def _level(inverter: networks.Inverter, variables: tuple[Variables, Variables]) -> Level:
    encoder_variables, generator_variables = variables
    module = without_head(inverter.description["encoder"], inverter.encoder.module)
    return Level(
        inverter.description["layer"],
        make_features_fn(module, encoder_variables),
        lambda features: inverter.module.apply(generator_variables, features, train=False),
    )


def check(workdirs: Sequence[pathlib.Path]) -> None:
    """Checks the descriptions of levels without reading their weights.

    Args:
      workdirs: of inverters' trainings.

    Raises:
      UserError: no level, no checkpoint there, one that is not an inverter's, or the same layer twice.
    """
    if not workdirs:
        raise UserError("no level: name the workdirs of inverters' trainings, such as A+B+C for conv5, conv2 and conv1")
    layers = []
    for workdir in workdirs:
        description = checkpoint.load_description(workdir, kind="inverter")
        layers.append(description["layer"])
    if len(set(layers)) < len(layers):
        raise UserError(f"levels {'+'.join(layers)} name a layer twice; give each layer's inverter once")


def load(workdirs: Sequence[pathlib.Path], *, dtype: jax.typing.DTypeLike = jnp.float32) -> StyleNetworks:
    """Returns the levels of the runs of inverters.

    Args:
      workdirs: of inverters' trainings, in any order.
      dtype: of the computation.

    Raises:
      UserError: what `check` raises, damaged checkpoints, or an inverter of a fully connected layer.
    """
    check(workdirs)
    loaded, encoders = [], {}
    for workdir in workdirs:
        inverter = networks.load_inverter(workdir, dtype=dtype)
        place = follow(inverter.description["encoder_workdir"], workdir)
        shared = encoders.setdefault(place, inverter.encoder)  # levels of one encoder hold its weights once
        loaded.append(dataclasses.replace(inverter, encoder=shared))
    for inverter in loaded:
        specs = inverter.encoder.module.feature_specs()
        layer = inverter.description["layer"]
        if specs[layer].is_vector:
            known = ", ".join(name for name, spec in specs.items() if not spec.is_vector)
            raise UserError(f"{layer} has no places to transfer a style to; take inverters of {known}")
    multiples, smallest = zip(*(sides(inverter.encoder.module) for inverter in loaded), strict=True)
    loaded.sort(key=_depth)
    variables = tuple((inverter.encoder.variables, inverter.variables) for inverter in loaded)
    return StyleNetworks(tuple(loaded), variables, max(multiples), max(smallest))


def _depth(inverter: networks.Inverter) -> tuple[int, int]:
    specs, layer = inverter.encoder.module.feature_specs(), inverter.description["layer"]
    return specs[layer].stages[-1].stride, list(specs).index(layer)
