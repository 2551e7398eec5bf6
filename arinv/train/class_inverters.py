"""Training of one inverter or GAN for each class of a dataset: the detectors of one-vs-all anomaly detection.

The config is an inverter's or a GAN's with `classes`, the labels, and `single`, the task of each class, "inverter" or
"gan". WORKDIR/classN holds the network of class N with a config, checkpoints and results of its own; a class that is
complete is skipped, and one that was cut short resumes.

Source: Rojas-Gomez et al. 2022, sections 3.3 and A2.
"""

import pathlib
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from arinv import data, distributed
from arinv.data.source import class_labels
from arinv.errors import UserError, unknown
from arinv.experiment import workdirs
from arinv.experiment.run import Run
from arinv.train import gan, inverter

TRAINED = {"inverter": inverter, "gan": gan}  # what is trained for each class


def check(config: ConfigDict) -> None:
    """Checks the config of every class.

    Raises:
      UserError: no class, an unknown task, or as the `check` of that.
    """
    if not config.classes:
        raise UserError("classes is empty; name the labels to train a network for, such as 0-9")
    _task(config).check(config)


def check_inputs(run: Run) -> None:
    """Checks the networks, which all classes share, and that the images of every class fill a batch.

    Raises:
      UserError: as the task of each class, for one of them.
    """
    config, (folder, first) = run.config, next(iter(split(run.workdir, run.config).items()))
    _task(config).check_inputs(run.with_config(first, folder))
    whole = ConfigDict(first.to_dict())
    whole.data.classes, whole.data.num_train = (), 0
    source = run.with_config(whole, folder).open_data("train")
    counts = np.bincount(source.read_labels(), minlength=source.info.num_classes)
    for label in config.classes:
        (number,) = class_labels((label,), source.info)
        try:
            data.check_full_batch(config.batch_size, min(counts[number], config.data.num_train or counts[number]))
        except UserError as error:
            raise UserError(f"class {label}: {error}") from None


def _task(config: ConfigDict) -> ModuleType:
    """Returns the task of each class.

    Raises:
      UserError: config.single names another task.
    """
    if config.single not in TRAINED:
        raise unknown("task of each class, single", config.single, TRAINED)
    return TRAINED[config.single]


def run(run: Run) -> dict[str, Any]:
    """Trains the networks that are not complete and returns the results of all.

    Args:
      run: a run of an inverter's or a GAN's config with classes and single.

    Raises:
      UserError: as the task of each class.
    """
    run.begin()
    results = {}
    for number, (folder, config) in enumerate(split(run.workdir, run.config).items(), start=1):
        complete = distributed.broadcast(distributed.index() == 0 and workdirs.is_complete(folder))
        state = "is complete" if complete else run.config.single
        distributed.report(f"[{number}/{len(run.config.classes)}] {folder.name}: {state}")
        if not complete:
            _task(run.config).run(run.with_config(config, folder))
            distributed.gather(None)  # the files of process 0 are there before another process reads them
        results[folder.name] = workdirs.read_results(folder)
    return run.finish(results)


def split(workdir: pathlib.Path, config: ConfigDict) -> dict[pathlib.Path, ConfigDict]:
    """Returns workdir -> config of the training of each class.

    Args:
      workdir: directory of the task.
      config: config of the task.
    """
    trainings = {}
    for label in config.classes:
        single = ConfigDict(_for_subfolder(config.to_dict()))
        del single.classes, single.single
        single.task, single.data.classes = config.single, (label,)
        single.title = f"{config.title} of class {label}"
        trainings[workdir / f"class{label}"] = single
    return trainings


def _for_subfolder(value: Any) -> Any:
    """Returns fields of a config with references to stages rewritten for a workdir one level below."""
    if isinstance(value, dict):
        return {name: _for_subfolder(part) for name, part in value.items()}
    is_stage = isinstance(value, str) and value.startswith(workdirs.STAGE)
    return f"{workdirs.STAGE}../{value.removeprefix(workdirs.STAGE)}" if is_stage else value
