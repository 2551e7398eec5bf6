"""Export of a trained encoder, or of the generator of an inverter, as model.safetensors for PyTorch."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from arinv import distributed, models
from arinv.errors import UserError
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained

_FILE = "model.safetensors"


def check(config: ConfigDict) -> None:
    """Checks that the config names a checkpoint.

    Args:
      config: a config of configs/export_torch.py.

    Raises:
      UserError: no checkpoint.
    """
    if not config.checkpoint:
        raise UserError("checkpoint is empty; name the workdir of a classifier's or an inverter's training")


def run(run: Run) -> dict[str, Any]:
    """Writes model.safetensors into the workdir and returns its description.

    Args:
      run: a run of configs/export_torch.py; config.checkpoint is the workdir of a classifier or an inverter.

    Returns:
      Results of the run: a description of the file.

    Raises:
      UserError: no usable checkpoint there, or a network without a counterpart in PyTorch.
    """
    network = run.load(run.config.checkpoint, kind=(CLASSIFIER, INVERTER))
    is_encoder = network.kind == CLASSIFIER
    run.begin()
    if distributed.index() == 0:
        (_write_encoder if is_encoder else _write_generator)(run.workdir / _FILE, network)
    kind = "encoder" if is_encoder else "generator"
    return run.finish({"file": _FILE, "network": kind, "checkpoint": dict(network.description)})


def _write_encoder(path: pathlib.Path, network: Trained) -> None:
    description = network.description
    models.convert.export_safetensors(
        path,
        description["encoder"],
        network.variables,
        image_size=description["image_size"],
        class_names=description["class_names"],
        num_classes=description["num_classes"],
        **description["options"],
    )


def _write_generator(path: pathlib.Path, network: Trained) -> None:
    description = network.description
    models.convert.export_generator_safetensors(
        path,
        description["encoder"],
        description["layer"],
        network.variables,
        image_size=description["image_size"],
        variant=description["variant"],
        encoder_options=network.encoder.description["options"],
    )
