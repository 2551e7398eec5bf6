"""Training of one inverter for each class of a dataset, in turn: the detectors of one-vs-all anomaly detection.

The config is an inverter's with `classes`, the labels. WORKDIR/classN holds the inverter of class N with a config,
checkpoints and results of its own; a class that is complete is skipped, and one that was cut short resumes.

Source: Rojas-Gomez et al. 2022, sections 3.3 and A2.
"""

import pathlib
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from arinv import distributed
from arinv.errors import UserError
from arinv.experiment import workdirs
from arinv.experiment.run import Run
from arinv.train import inverter


def check(config: ConfigDict) -> None:
    """Checks the config of every inverter.

    Raises:
      UserError: no class, or as `inverter.check`.
    """
    if not config.classes:
        raise UserError("classes is empty; name the labels to train an inverter of, such as 0-9")
    inverter.check(config)


def check_inputs(run: Run) -> None:
    """Checks the encoder as `inverter.check_inputs`."""
    inverter.check_inputs(run)


def run(run: Run) -> dict[str, Any]:
    """Trains the inverters that are not complete and returns the results of all.

    Args:
      run: of an inverter's config with classes.

    Raises:
      UserError: as `inverter.run`.
    """
    run.begin()
    results = {}
    for number, (folder, config) in enumerate(split(run.workdir, run.config).items(), start=1):
        complete = distributed.first(distributed.index() == 0 and workdirs.is_complete(folder))
        if jax.process_index() == 0:
            state = "is complete" if complete else "inverter"
            print(f"[{number}/{len(run.config.classes)}] {folder.name}: {state}", file=sys.stderr, flush=True)
        if not complete:
            inverter.run(run.beside(config, folder))
            distributed.gather(None)  # the files of process 0 are there before another process reads them
        results[folder.name] = workdirs.read_results(folder)
    return run.finish(results)


def split(workdir: pathlib.Path, config: ConfigDict) -> dict[pathlib.Path, ConfigDict]:
    """Returns workdir -> config of the inverter of each class.

    Args:
      workdir: of the task.
      config: of the task.
    """
    inverters = {}
    for label in config.classes:
        single = ConfigDict(config.to_dict())
        del single.classes
        single.task, single.data.classes = "inverter", (label,)
        single.title = f"{config.title} of class {label}"
        reference = config.encoder.checkpoint
        if reference.startswith("stage:"):  # stages are found from the folder above
            single.encoder.checkpoint = f"stage:../{reference.removeprefix('stage:')}"
        inverters[workdir / f"class{label}"] = single
    return inverters
