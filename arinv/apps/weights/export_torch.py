"""Writes a trained encoder, or the generator of an inverter, as model.safetensors that PyTorch loads."""

import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from arinv import models
from arinv.errors import UserError
from arinv.experiment import checkpoint
from arinv.experiment import trained as networks
from arinv.experiment import workdir as workdirs
from arinv.experiment.trained import CLASSIFIER

_FILE = "model.safetensors"


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading the checkpoint.

    Raises:
      UserError: no checkpoint.
    """
    if not config.checkpoint:
        raise UserError("checkpoint is empty; name the workdir of a classifier's or an inverter's training")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes model.safetensors into `workdir` and returns what it holds.

    Args:
      config: as made by configs/export_torch.py; config.checkpoint is the workdir of a classifier or an inverter.
      workdir: of the file.

    Raises:
      UserError: no usable checkpoint there, or a network without a counterpart in PyTorch.
    """
    source = workdirs.resolve(config.checkpoint, workdir)
    description = dict(checkpoint.load_description(source))
    is_encoder = description["kind"] == CLASSIFIER
    trained = networks.load_encoder(source) if is_encoder else networks.load_inverter(source)
    workdirs.open_workdir(config, workdir)
    if jax.process_index() == 0:
        (_write_encoder if is_encoder else _write_generator)(workdir / _FILE, trained)
    results = {"file": _FILE, "network": "encoder" if is_encoder else "generator", "checkpoint": description}
    workdirs.write_results(workdir, results)
    return results


def _write_encoder(path: pathlib.Path, trained: networks.Encoder) -> None:
    description = trained.description
    models.convert.export_safetensors(
        path,
        description["encoder"],
        trained.variables,
        image_size=description["image_size"],
        class_names=description["class_names"],
        num_classes=description["num_classes"],
        **description["options"],
    )


def _write_generator(path: pathlib.Path, trained: networks.Inverter) -> None:
    description = trained.description
    models.convert.export_generator_safetensors(
        path,
        description["encoder"],
        description["layer"],
        trained.variables,
        image_size=description["image_size"],
        variant=description["variant"],
        encoder_options=trained.encoder.description["options"],
    )
