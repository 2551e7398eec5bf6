"""Checkpoints on other devices, of other models and damaged; the log and the workdir."""

import errno
import functools
import json
import os
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import arinv
from arinv import command_line, data, models, parallel, paths
from arinv.errors import TemporaryError, UserError
from arinv.experiment import checkpoint, references, workdirs
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.output_files import write_png
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.experiment.writer import Writer
from arinv.train import loop

KEY = jax.random.key(0)
DESCRIPTION = {"kind": "classifier", "encoder": "alexnet_small"}


class Position:
    """A data iterator reduced to its position."""

    steps_per_epoch = 1

    def __init__(self):
        self.state = {"step": 0}

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def make_init(width=4):
    encoder = models.build("alexnet_small", num_classes=3, width=width)
    image = (jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),)
    return functools.partial(
        TrainState.create, networks={"classifier": (encoder, image)}, optimizers={"classifier": optax.adam(1e-3)}
    )


def one_device_mesh():
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=auto, devices=jax.devices()[:1])


def save(directory, mesh, step=7, width=4):
    with Checkpoints(directory, ["classifier"]) as checkpoints:
        state, _ = loop.restore_or_create(make_init(width), KEY, mesh, checkpoints, Position())
        state = state.replace(step=state.step + step)
        checkpoints.save(state, data_state={"step": step}, description=DESCRIPTION, wait=True)
    return jax.device_get(state)


def restore(directory, mesh, width=4):
    position = Position()
    with Checkpoints(directory, ["classifier"]) as checkpoints:
        state, _ = loop.restore_or_create(make_init(width), KEY, mesh, checkpoints, position)
        return state, position


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint written from eight devices with FSDP."""
    directory = tmp_path_factory.mktemp("saved")
    return directory, save(directory, parallel.make_mesh(fsdp=8))


@pytest.mark.long
def test_restore_returns_the_same_bits_on_another_number_of_devices(saved):
    directory, state = saved
    for mesh in (one_device_mesh(), parallel.make_mesh(fsdp=2), parallel.make_mesh()):
        restored, position = restore(directory, mesh)
        assert position.state == {"step": 7}
        chex.assert_trees_all_equal(jax.device_get(restored), state)
        assert jax.tree.leaves(restored)[0].sharding.mesh.size == mesh.size


def test_load_variables_needs_no_optimizer(saved):
    directory, state = saved
    assert checkpoint.load_description(directory) == DESCRIPTION
    abstract = jax.eval_shape(make_init(), KEY).variables
    chex.assert_trees_all_equal(jax.device_get(checkpoint.load_variables(directory, abstract)), state.variables)


def test_restore_rejects_another_model_with_both_sides(saved):
    directory, _ = saved
    with pytest.raises(UserError, match=r"classifier/params/conv1/bias: checkpoint \(4,\), model \(8,\)") as error:
        restore(directory, one_device_mesh(), width=8)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="generator/.*checkpoint has none"):
        checkpoint.load_variables(directory, {"generator": {"params": {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}}})


@pytest.mark.parametrize("part", ["data", "metadata"])
@pytest.mark.long
def test_restore_reports_a_damaged_checkpoint_in_one_line(tmp_path, part):
    save(tmp_path, one_device_mesh())
    item = tmp_path / "checkpoints" / "7" / "classifier"
    files = [p for p in item.rglob("*") if p.is_file() and p.stat().st_size > 100]
    chosen = [p for p in files if (p.name == "_METADATA") == (part == "metadata")]
    assert chosen
    for path in chosen:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read") as error:
        restore(tmp_path, one_device_mesh())
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_load_description_rejects_a_directory_without_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.load_description(tmp_path)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), TemporaryError, "cannot be read now .*; start again"),
        (MemoryError("of the host"), TemporaryError, "cannot be read now .*; start again"),
        (ValueError("PERMISSION_DENIED: Permission denied"), UserError, "cannot be read .*; make it readable"),
        (RuntimeError("RESOURCE_EXHAUSTED: of a device"), RuntimeError, "RESOURCE_EXHAUSTED"),
    ],
)
def test_errors_of_the_process_are_not_damage(error, kind, message, tmp_path, monkeypatch):
    save(tmp_path, one_device_mesh())

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.Checkpointer, "restore", fail)
        with pytest.raises(kind, match=message):
            restore(tmp_path, one_device_mesh())
    state, position = restore(tmp_path, one_device_mesh())
    assert int(state.step) == position.state["step"] == 7


def test_writer_logs_each_step_of_a_resumed_run_once(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": step})
        writer.image(2, "grid", np.zeros((4, 4, 3), np.uint8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a line cut short by a kill
    with Writer(tmp_path, resumed_step=2) as writer:
        writer.scalars(3, {"loss": 30})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert (tmp_path / "images" / "grid_0000002.png").stat().st_size > 0


def make_config(**changes):
    return ConfigDict({"task": "classifier", "seed": 0, "mesh": {"data": -1}, "attack": {"eps": 1.0}} | changes)


def test_begin_rejects_another_config_by_field(tmp_path):
    Run(make_config(), tmp_path).begin()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"attack.eps \(there 1.0, now 2.0\), seed \(there 0, now 1\)"):
        Run(make_config(seed=1, attack={"eps": 2.0}), tmp_path).begin()
    assert (tmp_path / "config.json").read_bytes() == before
    workdirs.check(make_config(mesh={"data": 8}), tmp_path)  # devices may change
    workdirs.check(make_config(options={}), tmp_path)  # as may fields that are new and empty
    with pytest.raises(UserError, match=r"options.width \(there 'missing', now 0\)"):
        workdirs.check(make_config(options={"width": 0}), tmp_path)


def test_check_rejects_a_workdir_that_is_a_file_or_damaged(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="is a file"):
        workdirs.check(make_config(), file)
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(UserError, match="damaged"):
        workdirs.check(make_config(), tmp_path)


def test_resolve_returns_sibling_stages_and_paths(tmp_path):
    assert workdirs.resolve("stage:encoder", tmp_path / "x" / "inverter") == tmp_path / "x" / "encoder"
    assert workdirs.resolve("runs/a", tmp_path) == pathlib.Path("runs/a")


def test_follow_inverts_relative_through_symbolic_links(tmp_path, monkeypatch):
    encoder, real = tmp_path / "elsewhere" / "encoder", tmp_path / "disk" / "deep" / "runs"
    for folder in (encoder, real / "inverter"):
        folder.mkdir(parents=True)
    (tmp_path / "runs").symlink_to(real)
    (tmp_path / "link").symlink_to(encoder)
    monkeypatch.chdir(tmp_path)
    for workdir in (tmp_path / "runs" / "inverter", pathlib.Path("runs/inverter"), real / "inverter"):
        for target in (encoder, tmp_path / "link", pathlib.Path("runs/../../../elsewhere/encoder")):
            assert workdirs.follow(workdirs.relative(target, workdir), workdir) == encoder


def test_follow_finds_runs_moved_together_or_behind_a_link(tmp_path):
    for name in ("encoder", "inverter"):
        (tmp_path / "exp" / name).mkdir(parents=True)
    reference = workdirs.relative(tmp_path / "exp" / "encoder", tmp_path / "exp" / "inverter")
    (tmp_path / "exp").rename(tmp_path / "moved")
    assert workdirs.follow(reference, tmp_path / "moved" / "inverter") == tmp_path / "moved" / "encoder"
    (tmp_path / "moved" / "inverter").rename(tmp_path / "large_disk")
    (tmp_path / "moved" / "inverter").symlink_to(tmp_path / "large_disk")
    assert workdirs.follow(reference, tmp_path / "moved" / "inverter") == tmp_path / "moved" / "encoder"
    with pytest.raises(UserError, match="large_disk needs the encoder that it was trained on, which is not at .*/enc"):
        workdirs.follow(reference, tmp_path / "large_disk")


@pytest.mark.parametrize(
    "path", ["", " ", "gs://bucket/x", "s3:/bucket", "file:///x", "~no_such_user/x", "a\0b", "a" * 300, None, 3, b"a"]
)
def test_canonical_rejects_what_is_no_local_path(path):
    for function in (paths.canonical, paths.expanded):
        with pytest.raises(UserError, match="^checkpoint"):
            function(path, name="checkpoint")


@pytest.mark.parametrize("path", ["~no_such_user/x", "/" + "a" * 300])
def test_public_functions_name_a_path_that_is_none(path):
    for function in (
        arinv.load,
        data.open_images,
        functools.partial(models.convert.load_torch, encoder="alexnet"),
        *(lambda x, scheme=scheme: data.open_source(f"{scheme}:{x}") for scheme in ("folder", "npz", "volume")),
    ):
        with pytest.raises(UserError, match="is not a path"):
            function(path)


def test_public_functions_expand_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    write_png(tmp_path / "images" / "a.png", np.zeros((8, 8, 3), np.uint8))
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 8, 8, 3), np.uint8), label=np.arange(2))
    assert data.read_image("~/images/a.png").shape == (8, 8, 3) and len(data.open_images("~/images")) == 1
    assert len(data.open_source("folder:~/images", split="all")) == 1
    assert len(data.open_source("npz:~/a.npz", split="all")) == 2
    for path in ("~no_such_user/a.png", "a\0b.png", "~/b.png"):
        with pytest.raises(UserError, match="cannot read image"):
            data.read_image(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\xff"])
def test_read_results_names_a_damaged_file(tmp_path, content):
    (tmp_path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"results.json is damaged \(.*\); delete "):
        workdirs.read_results(tmp_path)


def test_canonical_resolves_home_dots_and_links(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    for path in ("~/a", "a/", "./a//", "link", "link/../a", f"{tmp_path}/a/b/.."):
        assert paths.canonical(path) == tmp_path / "a"
    (tmp_path / "circle").symlink_to("circle")
    for path in ("circle", "circle/x"):
        try:
            paths.canonical(path)  # refused, or left to whoever opens it, by the version of Python
        except UserError as error:
            assert "is not a path" in str(error)


@pytest.mark.long
def test_saved_steps_ignores_other_files(saved, tmp_path):
    directory, _ = saved
    workdir = tmp_path / "run"
    shutil.copytree(directory, workdir)
    checkpoints = workdir / "checkpoints"
    (checkpoints / "999").write_text("a file")
    (checkpoints / "notes.txt").write_text("a file")
    for name in ("00000007", "00000624", "12.orbax-checkpoint-tmp-3", "old", "-1", "1e3", "\u0661\u0662"):
        (checkpoints / name).mkdir()
    assert workdirs.saved_steps(checkpoints) == [7]
    restored, position = restore(workdir, one_device_mesh())
    assert int(restored.step) == 7 and position.state == {"step": 7}
    assert checkpoint.load_description(workdir) == DESCRIPTION
    for step in (1, 2, 3):  # those that are kept are counted without the others
        save(workdir, one_device_mesh(), step=step)
    assert workdirs.saved_steps(checkpoints) == [13, 10]
    assert (checkpoints / "999").is_file() and (checkpoints / "00000624").is_dir()


def test_newest_readable_survives_the_deletion_of_a_checkpoint(saved, tmp_path, capsys):
    directory, _ = saved
    workdir = tmp_path / "run"
    shutil.copytree(directory, workdir)
    checkpoints = workdir / "checkpoints"
    abstract = jax.eval_shape(make_init(), KEY).variables

    def read(path):
        if path.name == "7":  # the run in progress keeps one checkpoint, and saves the next
            path.rename(checkpoints / "8")
        checkpoint.check_same(path, abstract)
        return path.name

    assert checkpoint.newest_readable(checkpoints, read)[0] == "8"
    assert "checkpoints/7 cannot be read" in capsys.readouterr().err


def test_put_aside_reports_a_read_only_directory_in_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / "7").mkdir()
    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(UserError, match=r"7 is damaged and cannot be renamed \(Read-only file system\): make "):
        checkpoint.rename_damaged(tmp_path / "7")


def no_checkpoint(path):
    with pytest.raises(UserError) as error:
        checkpoint.load_description(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"no checkpoint in {path}")
    return str(error.value)


def test_load_description_describes_a_path_that_is_no_run(saved, tmp_path):
    directory, _ = saved
    experiment = tmp_path / "runs" / "exp"
    shutil.copytree(directory, experiment / "encoder")
    (experiment / "evaluation").mkdir()
    (experiment / "evaluation" / "config.json").write_text('{"task": "evaluation", "checkpoint": "stage:encoder"}')
    for level in (experiment, tmp_path / "runs"):
        assert f"it holds 1 run; write one of {experiment}/encoder (classifier)" in no_checkpoint(level)
    for inside in ("checkpoints", "checkpoints/7", "checkpoints/7/classifier"):
        assert f"it is inside the workdir of a run; write {experiment}/encoder" in no_checkpoint(
            experiment / "encoder" / inside
        )
    message = no_checkpoint(experiment / "evaluation")
    assert f"workdir of the task 'evaluation', which saves no checkpoints; it used {experiment}/encoder" in message
    (experiment / "report").mkdir()
    assert f"next to it: {experiment}/encoder (classifier)" in no_checkpoint(experiment / "report")
    assert "does not exist" in no_checkpoint(tmp_path / "none")
    (tmp_path / "weights.pt").write_text("")
    assert "it is a file" in no_checkpoint(tmp_path / "weights.pt")
    with pytest.raises(UserError, match="encoder holds a classifier; name the workdir of an inverter's training"):
        checkpoint.load_description(experiment / "encoder", kind="inverter")
    description = {"kind": "inverter", "encoder_workdir": "../encoder"}
    with Checkpoints(experiment / "deep" / "inverter", ["net"]) as checkpoints:
        state = TrainState(jnp.zeros((), jnp.int32), {"net": {"a": jnp.ones(2)}}, {"net": {"a": jnp.ones(2)}})
        checkpoints.save(state, data_state={}, description=description, wait=True)
    (experiment / "encoder").rename(experiment / "deep" / "encoder")
    with pytest.raises(UserError, match="holds an inverter; name .* a classifier's training, such as .*/deep/encoder"):
        checkpoint.load_description(experiment / "deep" / "inverter", kind="classifier")


def test_check_runs_names_the_field(saved, tmp_path):
    directory, _ = saved
    shutil.copytree(directory, tmp_path / "exp" / "encoder")
    config = make_config(encoder={"checkpoint": str(tmp_path / "exp")})
    with pytest.raises(UserError, match="encoder.checkpoint: no checkpoint in .*exp: it holds 1 run; write one"):
        references.check_runs({tmp_path / "run": config})
    config.encoder.checkpoint = str(tmp_path / "exp" / "encoder")
    references.check_runs({tmp_path / "run": config})


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"kind": 3}'])
def test_descriptions_and_positions_that_are_no_objects_are_damaged(tmp_path, text):
    save(tmp_path, one_device_mesh())
    for name in ("description", "data"):
        (tmp_path / "checkpoints" / "7" / name / "metadata").write_text(text)
    with pytest.raises(UserError, match="description .*no JSON object|description names no kind of network"):
        checkpoint.load_description(tmp_path)
    if text in ("[]", "null"):
        with pytest.raises(UserError, match="data is no JSON object"):
            restore(tmp_path, one_device_mesh())


def test_workdir_of_a_training_without_checkpoints_is_described(tmp_path):
    workdirs.write_config(command_line.load("classifier:smoke=True"), tmp_path / "run")
    text = "it is the workdir of the task 'classifier', whose"
    assert no_checkpoint(tmp_path / "run").endswith(f"{text} training has saved none yet; start it again")
    (tmp_path / "run" / "results.json").write_text("{}")
    assert no_checkpoint(tmp_path / "run").endswith(f"{text} checkpoints are gone; delete it and start it again")


def test_workdir_of_a_report_is_described_whatever_its_texts_are(tmp_path):
    (tmp_path / "report").mkdir()
    texts = {"task": "comparison", "text": 300 * "long ", "note": "~nobody/x", "name": "a\0b"}
    (tmp_path / "report" / "config.json").write_text(json.dumps(texts))
    with pytest.raises(UserError, match="it is the workdir of the task 'comparison', which saves no checkpoints"):
        workdirs.check_run(tmp_path / "report")
