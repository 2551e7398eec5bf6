"""Meshes and shardings, schedules and optimizers of training."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from arinv import parallel
from arinv.errors import UserError
from arinv.experiment.state import TrainState
from arinv.train import training
from arinv.train.optimizers import make_optimizer, make_schedule
from configs import gan as gan_config


def test_state_shardings_split_large_arrays_only():
    mesh = parallel.make_mesh(fsdp=8)
    shardings = parallel.state_shardings(
        {"kernel": jax.ShapeDtypeStruct((64, 128), jnp.float32), "bias": jax.ShapeDtypeStruct((128,), jnp.float32)},
        mesh,
    )
    assert not shardings["kernel"].is_fully_replicated
    assert shardings["bias"].is_fully_replicated


@pytest.mark.parametrize("layout", [{"data": 3}, {"fsdp": 3}, {"fsdp": 0}, {"data": 2, "fsdp": 2}])
def test_make_mesh_rejects_sizes_that_do_not_fit(layout):
    with pytest.raises(UserError, match="8 device"):
        parallel.make_mesh(**layout)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Backend 'foo' is not in the list")])
def test_make_mesh_names_a_platform_without_devices(error, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match="no device of JAX_PLATFORMS='cpu'"):
        parallel.make_mesh()


def test_count_devices_reports_flags_that_leave_none(monkeypatch):
    error = RuntimeError("Unable to initialize backend 'cpu': INVALID_ARGUMENT")
    monkeypatch.setattr(jax, "device_count", lambda: (_ for _ in ()).throw(error))
    monkeypatch.setattr(jax, "config", types.SimpleNamespace(jax_platforms=None))
    with pytest.raises(UserError, match=r"no device \(Unable .* correct XLA_FLAGS"):
        parallel.count_devices()


def test_check_batch_size_rejects_a_batch_that_devices_do_not_divide():
    with pytest.raises(UserError, match="batch_size 12 .* use 8"):
        parallel.check_batch_size(12, parallel.make_mesh())


def test_make_schedule_returns_step_and_cosine_rates():
    step = make_schedule(
        {"name": "step", "learning_rate": 0.1, "every_epochs": 30.0, "factor": 0.1}, num_steps=900, steps_per_epoch=10
    )
    np.testing.assert_allclose([step(0), step(299), step(301), step(601)], [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    warm = make_schedule(
        {"name": "cosine", "learning_rate": 1.0, "warmup_epochs": 1.0}, num_steps=100, steps_per_epoch=10
    )
    np.testing.assert_allclose([warm(0), warm(5), warm(10), warm(100)], [0.0, 0.5, 1.0, 0.0], atol=1e-6)


def rates(spec, num_steps=2000):
    """Step -> rate where it changes after the warm-up."""
    schedule = make_schedule({"learning_rate": 1.0, **spec}, num_steps=num_steps, steps_per_epoch=10)
    values = [float(schedule(step)) for step in range(num_steps)]
    return {step: values[step] for step in range(51, num_steps) if values[step] != values[step - 1]}


@pytest.mark.parametrize("warmup", [0.0, 5.0])
def test_milestones_count_from_the_start_of_the_run(warmup):
    milestones = {"name": "milestones", "epochs": (100, 150), "factors": (0.1, 0.1), "warmup_epochs": warmup}
    assert rates(milestones) == pytest.approx({1000: 0.1, 1500: 0.01})
    assert rates({"name": "step", "every_epochs": 50, "warmup_epochs": warmup}) == pytest.approx(
        {500: 0.1, 1000: 0.01, 1500: 0.001}
    )


def test_milestones_at_one_step_multiply_and_steps_of_less_than_one_are_refused():
    assert rates({"name": "milestones", "epochs": (100, 100.01), "factors": (0.1, 0.5)}) == pytest.approx({1000: 0.05})
    for every_epochs in (1e-7, 0.09, 0, -1):
        with pytest.raises(UserError, match=f"every_epochs={every_epochs} must be above 0.* 1/10 of an epoch"):
            rates({"name": "step", "every_epochs": every_epochs})


@pytest.mark.parametrize("name", ["attack_warmup_epochs", "optimizer.schedule.warmup_epochs"])
def test_epochs_beyond_the_steps_of_a_run_are_refused(name):
    config = ConfigDict({"num_steps": 20, "num_epochs": 90.0})
    assert training.steps_within(config, name, 2.0, steps_per_epoch=10) == 20
    with pytest.raises(UserError, match=f"{name}=2.5 is 25 steps, beyond the end .* of 20 steps; set it to 2 or less"):
        training.steps_within(config, name, 2.5, steps_per_epoch=10)


def test_make_schedule_halves_the_rate_down_to_a_floor():
    """The rate of BEGAN, by steps whatever the epochs are, and counted from the start of the run."""
    config = gan_config.get_config("networks=began").stages.gan.optimizer.generator.schedule.to_dict()
    began = make_schedule(config, num_steps=500_000, steps_per_epoch=7)
    rates = [8e-5, 8e-5, 4e-5, 2e-5, 2e-5]
    np.testing.assert_allclose([began(step) for step in (0, 99_999, 100_000, 200_000, 400_000)], rates, rtol=1e-6)
    warm = make_schedule({**config, "every_steps": 10, "warmup_epochs": 1}, num_steps=50, steps_per_epoch=4)
    np.testing.assert_allclose([warm(step) for step in (2, 4, 9, 10, 20)], [4e-5, 8e-5, 8e-5, 4e-5, 2e-5], rtol=1e-6)
    for change, message in (
        ({"every_steps": 0}, "every_steps=0 must be 1"),
        ({"factor": 1.0}, "between 0 and 1"),
        ({"floor": 1.0}, "floor=1"),
    ):
        with pytest.raises(UserError, match=message):
            make_schedule({**config, **change}, num_steps=10, steps_per_epoch=1)


def test_make_schedule_ignores_options_of_other_names_and_rejects_unknown_ones():
    left_over = {"name": "cosine", "learning_rate": 1.0, "every_epochs": 30.0, "factor": 0.1}
    assert make_schedule(left_over, num_steps=10, steps_per_epoch=1)(5) == pytest.approx(0.5)
    with pytest.raises(UserError, match="'step' needs every_epochs"):
        make_schedule({"name": "step", "learning_rate": 1.0}, num_steps=10, steps_per_epoch=1)
    with pytest.raises(UserError, match="unknown option of 'adam' 'beta'; known: b1, b2, weight_decay"):
        spec = {"name": "adam", "beta": 0.5, "schedule": {"name": "constant", "learning_rate": 0.5}}
        make_optimizer(spec, num_steps=2, steps_per_epoch=1)


def test_sgd_adds_weight_decay_before_momentum():
    """Two steps of SGD as torch.optim.SGD defines them, by hand."""
    spec = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1, "schedule": {"name": "constant", "learning_rate": 0.5}}
    optimizer = make_optimizer(spec, num_steps=2, steps_per_epoch=1)
    weight, state, velocity, expected = jnp.ones(()), None, 0.0, 1.0
    state = optimizer.init(weight)
    for gradient in (0.3, -0.2):
        updates, state = optimizer.update(jnp.asarray(gradient), state, weight)
        weight = optax.apply_updates(weight, updates)
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected -= 0.5 * velocity
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_apply_gradients_rejects_gradients_of_another_shape():
    optimizer, params = optax.sgd(0.1), {"a": jnp.ones(2)}
    state = TrainState(jnp.zeros((), jnp.int32), {"net": {"params": params}}, {"net": optimizer.init(params)})
    stepped = state.apply_gradients("net", params, {}, optimizer)
    np.testing.assert_allclose(stepped.variables["net"]["params"]["a"], 0.9)
    with pytest.raises(AssertionError):
        state.apply_gradients("net", {"a": jnp.ones(1)}, {}, optimizer)
