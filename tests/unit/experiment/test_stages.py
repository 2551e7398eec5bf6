"""Stages: their place, and batches that do not fit into memory."""

import contextlib
import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from arinv import distributed
from arinv.errors import UserError
from arinv.experiment import stages, workdirs
from arinv.experiment.output_files import remove_temporary
from arinv.experiment.task import Task
from arinv.tasks import TASKS

DEVICES = jax.device_count()


def _tasks(task, *, largest, error=RuntimeError):
    """Returns a table of one task that lacks the memory for batches of more than `largest` images."""
    sizes = []

    def run(run):
        run.begin()
        share = run.config.batch_size // DEVICES
        sizes.append(share)
        if share > largest:
            raise error("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2147483648 bytes")
        run.finish({"batch_size": run.config.batch_size})

    module = types.SimpleNamespace(check=lambda config: None, run=run)
    return {task: dataclasses.replace(TASKS[task], module=module)}, sizes


def _config(task, share):
    """Returns the config of a task with `share` images a device."""
    fields = {"task": task, "title": task, "batch_size": share * DEVICES}
    return ConfigDict({**fields, "mesh": {"data": -1, "fsdp": 1}, "data": {"name": "photos"}})


def test_batches_are_halved_until_they_fit(tmp_path, capsys):
    tasks, sizes = _tasks("restoration", largest=3)
    stages.run(_config("restoration", 16), tmp_path, tasks)
    assert sizes == [16, 8, 4, 2]
    assert f"batch_size={4 * DEVICES} does not fit into memory; continues with {2 * DEVICES}" in capsys.readouterr().err
    tasks, sizes = _tasks("restoration", largest=3)
    stages.run(_config("restoration", 64), tmp_path, tasks)  # complete, with any batch
    assert not sizes


def test_batches_of_one_image_are_not_halved(tmp_path):
    tasks, sizes = _tasks("restoration", largest=0)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        stages.run(_config("restoration", 2), tmp_path, tasks)
    assert sizes == [2, 1]


@pytest.mark.parametrize("task", ["classifier", "evaluate"])
def test_batches_that_decide_results_are_not_halved(task, tmp_path):
    tasks, sizes = _tasks(task, largest=3)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        stages.run(_config(task, 16), tmp_path, tasks)
    assert sizes == [16]
    with pytest.raises(ValueError, match="belongs to another config: batch_size"):
        stages.run(_config(task, 2), tmp_path, tasks)


def test_tasks_and_experiments_have_directories_of_their_own(tmp_path):
    tasks, _ = _tasks("restoration", largest=8)
    config = _config("restoration", 1)
    experiment = ConfigDict({"stages": {"first": config.to_dict()}, "order": ["first"]})
    stages.run(experiment, tmp_path / "experiment", tasks)
    stages.run(experiment, tmp_path / "experiment", tasks)
    with pytest.raises(ValueError, match=r"experiment holds other runs \(first\); name a directory of its own"):
        stages.check(config, tmp_path / "experiment", tasks)
    stages.run(config, tmp_path / "task", tasks)
    stages.run(config, tmp_path / "task" / "inner", tasks)
    stages.check(config, tmp_path / "task", tasks)  # it has a config of its own
    with pytest.raises(ValueError, match=r"task belongs to a single task \(restoration\)"):
        stages.check(experiment, tmp_path / "task", tasks)


def _finished(tmp_path, name, tasks, **fields):
    config = _config("evaluate", 1)
    config.update(fields)
    stages.run(config, tmp_path / name, tasks)
    return config


def test_complete_tasks_whose_inputs_have_changed_are_refused(tmp_path, capsys):
    """An earlier run, images of a folder, and a file."""
    tasks, sizes = _tasks("evaluate", largest=99)
    for folder, count in (("images", 2), ("classes/a", 2), ("classes/b", 2)):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "weights.pth").write_bytes(b"1")
    _finished(tmp_path, "first", tasks)
    (tmp_path / "first" / "checkpoints").mkdir()
    fields = {"checkpoint": "first", "images": "images", "path": "weights.pth"}
    fields = {name: str(tmp_path / value) for name, value in fields.items()}
    fields["test"] = f"photos+folder:{tmp_path / 'classes'}"
    config = _finished(tmp_path, "second", tasks, **fields)
    stages.run(config, tmp_path / "second", tasks)
    assert len(sizes) == 2 and "second: is complete" in capsys.readouterr().err
    shutil.copytree(tmp_path / "second", tmp_path / "copy")
    for path in (tmp_path / "images").iterdir():  # a copy, with another time
        path.write_bytes(path.read_bytes())
    stages.run(config, tmp_path / "second", tasks)
    changes = {
        "checkpoint": lambda: (tmp_path / "first" / "results.json").write_text("{}"),
        "images": lambda: Image.new("RGB", (4, 4)).save(tmp_path / "images" / "1.png"),
        "path": lambda: (tmp_path / "weights.pth").write_bytes(b"2"),
        "test": lambda: (tmp_path / "classes" / "b" / "1.png").unlink(),
    }
    for name, change in changes.items():
        change()
        with pytest.raises(UserError, match=rf"is complete, but its inputs have changed:.* {name}="):
            stages.run(config, tmp_path / "copy", tasks)
    for folder in ("first", "images", "classes"):
        shutil.rmtree(tmp_path / folder)
    (tmp_path / "weights.pth").unlink()
    stages.run(config, tmp_path / "second", tasks)  # what is not there any more cannot be compared


def test_inputs_may_move_and_be_spelled_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tasks, sizes = _tasks("evaluate", largest=99)
    for name in ("images", "classes/a", "classes/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    (tmp_path / "weights.pth").write_bytes(b"1")
    _finished(tmp_path, "first", tasks)
    (tmp_path / "first" / "checkpoints").mkdir()
    fields = {"checkpoint": "first", "images": "images", "path": "weights.pth", "test": "photos+folder:classes"}
    config = _finished(tmp_path, "second", tasks, **fields)
    (tmp_path / "moved").mkdir()
    for name in ("first", "images", "classes", "weights.pth"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    moved = {"checkpoint": str(tmp_path / "moved" / "first"), "images": "./moved/images", "path": "moved/weights.pth"}
    config.update({**moved, "test": "photos+folder:moved/classes"})
    stages.run(config, tmp_path / "second", tasks)
    assert len(sizes) == 2 and "second: is complete" in capsys.readouterr().err
    for name, value in (("images", "moved/classes"), ("test", "folder:moved/classes"), ("path", "moved/other.pth")):
        with pytest.raises(UserError, match=f"belongs to another config: {name} \\(there "):
            stages.run(ConfigDict({**config.to_dict(), name: value}), tmp_path / "second", tasks)
    (tmp_path / "second" / "results.json").unlink()
    stages.run(config, tmp_path / "second", tasks)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["images"] == "./moved/images"


@pytest.mark.parametrize("trains", ["checkpoints", "class3/checkpoints", ""])
def test_stopped_trainings_whose_images_have_changed_are_refused(trains, tmp_path):
    """A training would mix both; other tasks compare their finished parts themselves."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "0.png")

    def run(run):
        run.begin()
        if trains:
            (run.workdir / trains / "3").mkdir(parents=True, exist_ok=True)
        if len(runs) < 2:
            runs.append(run)
            raise KeyboardInterrupt
        run.finish({})

    runs, tasks = [], {"evaluate": Task(types.SimpleNamespace(check=lambda config: None, run=run))}
    config = _config("evaluate", 1)
    config.data.name = f"folder:{tmp_path / 'images'}"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stages.run(config, tmp_path / "run", tasks)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "images" / "0.png")
    if trains:
        with pytest.raises(UserError, match="run holds a stopped run, but its inputs have changed: data.name=folder"):
            stages.run(config, tmp_path / "run", tasks)
    else:
        stages.run(config, tmp_path / "run", tasks)


def test_a_stage_that_another_run_completes_meanwhile_is_not_run_again(tmp_path, monkeypatch):
    tasks, sizes = _tasks("restoration", largest=8)

    other = _config("restoration", 1)

    @contextlib.contextmanager
    def hold(folder):
        workdirs.write_config(other, folder)
        workdirs.write_json(folder / "results.json", {})
        yield

    monkeypatch.setattr(stages.lock, "hold", hold)
    stages.run(_config("restoration", 1), tmp_path / "run", tasks)
    assert not sizes
    other.title = "another"
    with pytest.raises(UserError, match="belongs to another config: title"):
        stages.run(_config("restoration", 1), tmp_path / "other", tasks)


def test_temporary_files_of_killed_writes_are_removed(tmp_path):
    tasks, _ = _tasks("restoration", largest=8)
    run = tmp_path / "run"
    kept = [run / "parts" / ".tmp-notes", run / "other" / ".tmp-0123456789ab", run / "other" / "config.json"]
    for path in (run / "parts" / ".tmp-0123456789ab", *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (run / "config.json").write_text("{}")  # of this run; the other is inside of it
    remove_temporary(run)
    assert not (run / "parts" / ".tmp-0123456789ab").exists() and all(path.exists() for path in kept)
    (tmp_path / ".tmp-0123456789ab").write_text("")
    stages.run(_config("restoration", 1), tmp_path / "new", tasks)
    (tmp_path / "new" / ".tmp-0123456789ab").write_text("")
    (tmp_path / "new" / "results.json").unlink()
    stages.run(_config("restoration", 1), tmp_path / "new", tasks)
    assert (tmp_path / ".tmp-0123456789ab").exists() and not (tmp_path / "new" / ".tmp-0123456789ab").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gan", "first"),
        ("encoders", {"features": "first"}),
        ("metric_encoder", "first"),
        ("metric_networks", {"lpips": "first"}),
        ("start", "first"),
        ("restoration", "first"),
        ("metric_networks", {"lpips": "weights.pth"}),
        ("loss", {"comparator": "weights.pth"}),
    ],
)
def test_every_field_that_names_a_run_is_an_input(tmp_path, monkeypatch, field, value):
    monkeypatch.chdir(tmp_path)
    tasks, _ = _tasks("evaluate", largest=99)
    (tmp_path / "weights.pth").write_bytes(b"1")
    _finished(tmp_path, "first", tasks)
    config = _finished(tmp_path, "second", tasks, **{field: value})
    stages.run(config, tmp_path / "second", tasks)
    (tmp_path / "first" / "results.json").write_text("{}")
    (tmp_path / "weights.pth").write_bytes(b"2")
    with pytest.raises(UserError, match=f"its inputs have changed: {field}"):
        stages.run(config, tmp_path / "second", tasks)


def test_inputs_are_checked_by_process_0_without_the_others(tmp_path, monkeypatch):
    """The others would answer a later exchange."""

    def exchange(value):
        raise AssertionError("exchanged with a process that does not take part")

    monkeypatch.setattr(distributed, "_lifeline", types.SimpleNamespace(index=0, count=2, gather=exchange))
    read = []
    task = types.SimpleNamespace(
        check=lambda config: None, check_inputs=lambda run: read.append(distributed.broadcast(3))
    )
    stages.check(_config("evaluate", 1), tmp_path / "run", {"evaluate": Task(task)})
    assert read == [3]
    with pytest.raises(AssertionError, match="exchanged"):
        distributed.broadcast(3)


def test_words_that_are_also_the_name_of_the_workdir_are_no_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks, sizes = _tasks("evaluate", largest=99)
    fields = {"attribute": "edges", "gan": {"networks": "dcgan"}, "optimization": {"encoders": ("robust",)}}
    (tmp_path / "robust").mkdir()
    for name in ("edges", "dcgan"):
        config = _finished(tmp_path, name, tasks, **fields)
        inputs = workdirs.read_json(tmp_path / name / "inputs.json")
        assert not [field for field in inputs if field.endswith((f"={name}", "=robust"))]
        stages.run(config, tmp_path / name, tasks)
    assert len(sizes) == 2, "each is complete, and not refused"


def test_results_that_were_lost_are_written_again(tmp_path):
    tasks, sizes = _tasks("evaluate", largest=99)
    config = _finished(tmp_path, "run", tasks)
    (tmp_path / "run" / "results.json").write_bytes(b"")
    stages.run(config, tmp_path / "run", tasks)
    assert len(sizes) == 2 and workdirs.read_results(tmp_path / "run")
