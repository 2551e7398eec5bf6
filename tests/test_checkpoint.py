"""Checkpoints: onto other devices, of another model, damaged; the log and the work directory beside them."""

import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from arinv import models, parallel
from arinv.errors import UserError
from arinv.tasks import workdir as workdirs
from arinv.train import checkpoint, loop
from arinv.train import state as train_state
from arinv.train.checkpoint import Checkpoints
from arinv.train.writer import Writer

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
        train_state.create, networks={"classifier": (encoder, image)}, optimizers={"classifier": optax.adam(1e-3)}
    )


def one_device_mesh():
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=auto, devices=jax.devices()[:1])


def save(directory, mesh, step=7, width=4):
    with Checkpoints(directory, ["classifier"]) as checkpoints:
        state = loop.restore_or_create(make_init(width), KEY, mesh, checkpoints, Position())
        state = state.replace(step=state.step + step)
        checkpoints.save(state, data_state={"step": step}, description=DESCRIPTION, wait=True)
    return jax.device_get(state)


def restore(directory, mesh, width=4):
    position = Position()
    with Checkpoints(directory, ["classifier"]) as checkpoints:
        return loop.restore_or_create(make_init(width), KEY, mesh, checkpoints, position), position


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint written from eight devices with FSDP."""
    directory = tmp_path_factory.mktemp("saved")
    return directory, save(directory, parallel.make_mesh(fsdp=8))


def test_restores_the_same_bits_on_another_number_of_devices(saved):
    directory, state = saved
    for mesh in (one_device_mesh(), parallel.make_mesh(fsdp=2), parallel.make_mesh()):
        restored, position = restore(directory, mesh)
        assert position.state == {"step": 7}
        chex.assert_trees_all_equal(jax.device_get(restored), state)
        assert jax.tree.leaves(restored)[0].sharding.mesh.size == mesh.size


def test_networks_are_read_without_their_optimiser(saved):
    directory, state = saved
    assert checkpoint.load_description(directory) == DESCRIPTION
    abstract = jax.eval_shape(make_init(), KEY).variables
    chex.assert_trees_all_equal(jax.device_get(checkpoint.load_variables(directory, abstract)), state.variables)


def test_another_model_is_refused_with_both_sides(saved):
    directory, _ = saved
    with pytest.raises(UserError, match=r"classifier/params/conv1/bias: checkpoint \(4,\), model \(8,\)") as error:
        restore(directory, one_device_mesh(), width=8)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="generator/.*checkpoint has none"):
        checkpoint.load_variables(directory, {"generator": {"params": {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}}})


@pytest.mark.parametrize("part", ["data", "metadata"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, part):
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


def test_a_directory_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.load_description(tmp_path)


def test_the_log_of_a_resumed_run_tells_no_step_twice(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": step})
        writer.picture(2, "grid", np.zeros((4, 4, 3), np.uint8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a line cut short by a kill
    with Writer(tmp_path, resumed_step=2) as writer:
        writer.scalars(3, {"loss": 30})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert (tmp_path / "pictures" / "grid_0000002.png").stat().st_size > 0


def make_config(**changes):
    return ConfigDict({"task": "classifier", "seed": 0, "mesh": {"data": -1}, "attack": {"eps": 1.0}} | changes)


def test_a_workdir_of_another_config_is_refused_by_field(tmp_path):
    workdirs.open_workdir(make_config(), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"attack.eps \(there 1.0, now 2.0\), seed \(there 0, now 1\)"):
        workdirs.open_workdir(make_config(seed=1, attack={"eps": 2.0}), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    workdirs.check(make_config(mesh={"data": 8}), tmp_path)  # devices may change


def test_a_workdir_that_is_a_file_or_damaged_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="is a file"):
        workdirs.check(make_config(), file)
    (tmp_path / "config.json").write_text('{"task": ')
    with pytest.raises(UserError, match="damaged"):
        workdirs.check(make_config(), tmp_path)


def test_stages_find_each_other(tmp_path):
    assert workdirs.resolve("stage:encoder", tmp_path / "x" / "inverter") == tmp_path / "x" / "encoder"
    assert workdirs.resolve("runs/a", tmp_path) == pathlib.Path("runs/a")
