"""Stages of an experiment: checked before any work, run in order, skipped where complete."""

import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from arinv import data, distributed
from arinv.errors import UserError, is_out_of_memory, unknown
from arinv.experiment import lock, references, workdirs
from arinv.experiment.output_files import remove_temporary
from arinv.experiment.run import Run
from arinv.experiment.task import Task, Tasks


def run(config: ConfigDict, workdir: pathlib.Path, tasks: Tasks) -> None:
    """Runs a task, or every stage that is not complete yet.

    Args:
      config: config of one task, or with `stages` and their `order`.
      workdir: directory of the run; each stage has a folder of its name in it.
      tasks: the table of tasks, `arinv.tasks.TASKS`.

    Raises:
      UserError: a mistake in the config or in what it names.
    """
    sources: dict[str, data.Source] = {}
    stages = check(config, workdir, tasks, sources)
    for i, (folder, stage) in enumerate(stages.items(), start=1):
        complete = distributed.broadcast(distributed.index() == 0 and workdirs.is_complete(folder))
        if complete or len(stages) > 1:
            distributed.report(f"[{i}/{len(stages)}] {folder.name}: {'is complete' if complete else stage.task}")
        if not complete:
            run = Run(stage, folder, stages, sources, tasks)
            with lock.hold(folder):
                # Another run of the same command may have completed it meanwhile.
                if distributed.broadcast(distributed.index() == 0 and _is_complete(run)):
                    continue
                if distributed.index() == 0 and (folder / "config.json").exists():
                    remove_temporary(folder)
                _run(tasks[stage.task], run)
            distributed.gather(None)  # other processes may now read the files of process 0


def _is_complete(run: Run) -> bool:
    """Returns whether another run has completed a stage since the check, and reports it.

    Raises:
      UserError: the run was of another config, or of inputs that have changed.
    """
    if not workdirs.is_complete(run.workdir):
        return False
    run.check_workdir()
    run.check_unchanged()
    distributed.report(f"{run.workdir.name}: is complete, by another run")
    return True


def _run(task: Task, run: Run) -> None:
    """Runs a task; if a device runs out of memory and images are independent, runs it again with half the batch."""
    while True:
        try:
            task.run(run)
            return
        except Exception as error:  # whose traceback keeps arrays of the batch until the end of this block
            smaller = _half(run) if is_out_of_memory(error) else None
            if smaller is None:
                raise
        run.report(
            f"batch_size={run.config.batch_size} does not fit into memory; continues with {smaller.config.batch_size}"
        )
        run = smaller


def _half(run: Run) -> Run | None:
    """Returns the run with half the batch, shared by its devices; None where the batch cannot change or be halved."""
    if not run.task.is_independent or distributed.count() > 1:
        return None
    config, devices = run.config.copy_and_resolve_references(), run.mesh.size
    config.batch_size = config.batch_size // 2 // devices * devices
    return run.with_config(config, run.workdir) if config.batch_size else None


def check(
    config: ConfigDict, workdir: pathlib.Path, tasks: Tasks, sources: dict[str, data.Source] | None = None
) -> dict[pathlib.Path, ConfigDict]:
    """Checks everything that can be checked before any work, and returns workdir -> config of each stage.

    Args:
      config: see `run`.
      workdir: directory of the run; nothing is written.
      tasks: see `run`.
      sources: filled with the datasets that are opened, see `Run`; None to discard them.

    Raises:
      UserError: a mistake in the config or in what it names.
    """
    stages = expand(config, workdir, tasks)
    runs = [Run(stage, folder, stages, sources, tasks) for folder, stage in stages.items()]
    for run in runs:
        if distributed.index() == 0:  # on other hosts, network file systems may cache that a file was missing
            references.check_local(run.config, reads_paths=run.task.reads_paths)
            run.check_workdir()
            run.check_unchanged()
        if run.task.single_process and distributed.count() > 1:
            raise UserError(f"task {run.config.task} runs in one process, on all of its devices; start it on one host")
        run.task.check(run.config)
    if distributed.index() == 0:
        _check_level(config, workdir)
        _check_order(stages)
        pending = [run for run in runs if not workdirs.is_complete(run.workdir)]
        references.check_runs({run.workdir: run.config for run in pending})
        with distributed.alone():
            for run in pending:
                run.task.check_inputs(run)
    return stages


def _check_level(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Checks that a single task is not run in a folder of runs, and no experiment in the folder of a single task.

    Raises:
      UserError: the workdir holds other runs, or belongs to a single task.
    """
    is_run, is_experiment = (workdir / "config.json").exists(), "stages" in config
    if is_experiment and is_run:
        task = workdirs.read_json(workdir / "config.json").get("task", "")
        raise UserError(f"workdir {workdir} belongs to a single task ({task}), not to an experiment; name another")
    if (
        not is_experiment
        and not is_run
        and (runs := sorted(path.parent.name for path in workdir.glob("*/config.json")))
    ):
        others = ", ".join(runs[:5]) + (", ..." if len(runs) > 5 else "")
        raise UserError(
            f"workdir {workdir} holds other runs ({others}); name a directory of its own, such as {workdir}/new"
        )


def expand(config: ConfigDict, workdir: pathlib.Path, tasks: Tasks) -> dict[pathlib.Path, ConfigDict]:
    """Returns workdir -> config of each stage, in order; a single task is the only stage.

    Raises:
      UserError: an unknown stage or task.
    """
    stages = {workdir: config}
    if "stages" in config:
        if missing := [name for name in config.order if name not in config.stages]:
            raise unknown("stage", missing[0], config.stages)
        stages = {workdir / name: config.stages[name] for name in config.order}
    for stage in stages.values():
        if stage.task not in tasks:
            raise unknown("task", stage.task, tasks)
    return stages


def _check_order(stages: Mapping[pathlib.Path, ConfigDict]) -> None:
    """Checks that each stage reads others that run before it, and that none is complete that reads an incomplete one.

    Raises:
      UserError: naming both.
    """
    names = {f"{workdirs.STAGE}{folder.name}": folder for folder in stages}
    order = list(stages)
    for folder, stage in stages.items():
        parts = {part for _, text in references.texts(stage) for part in text.split("+")}
        for name in sorted(part.partition("/")[0] for part in parts if part.startswith(workdirs.STAGE)):
            if name not in names:
                if len(stages) > 1 and not (folder.parent / name.removeprefix(workdirs.STAGE)).is_dir():
                    known = unknown("stage", name.removeprefix(workdirs.STAGE), [place.name for place in order])
                    raise UserError(f"stage {folder.name}: {known}")
                continue
            if order.index(names[name]) > order.index(folder) and not workdirs.is_complete(names[name]):
                raise UserError(f"stage {folder.name} reads {name}, which runs after it; name an earlier one")
            if workdirs.is_complete(folder) and not workdirs.is_complete(names[name]):
                raise UserError(
                    f"{names[name]} has to run, but {folder}, which depends on it, is complete: delete {folder} "
                    f"too, or restore {names[name]}"
                )
