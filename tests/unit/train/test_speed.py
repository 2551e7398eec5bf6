"""Speed of the loop: several steps in a call, batches sent ahead, rates in the log, and a profile."""

import functools
import json
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import main, models, parallel
from arinv.errors import UserError
from arinv.experiment import loading
from arinv.experiment.state import TrainState
from arinv.train import accelerators, feed, flops, loop, speed
from arinv.train import classifier as classifier_steps
from arinv.train.optimizers import make_optimizer
from arinv.train.speed import Profile, check_steps
from configs import classifier

pytestmark = pytest.mark.long  # whole steps are compiled

PEAK = 1e12  # operations in a second of a device that does not exist


def train(workdir, steps_per_call, **changes):
    """Trains seven steps, with something due after every third and every fourth."""
    config = classifier.get_config("smoke=True,options=width:4,image_size=16")
    intervals = {"log.every_steps": 4, "log.checkpoint_every_steps": 3, "log.evaluate_every_epochs": 9.0}
    config.update_from_flattened_dict({"num_steps": 7, "steps_per_call": steps_per_call, **intervals, **changes})
    main.run(config, workdir)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of single steps, and one of two steps in a call with all rates: (workdir, log) each."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    single = train(one, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerators, "peak_flops", lambda device, dtype: PEAK)
        patch.setattr(speed, "device_memory", lambda: {"peak_memory_bytes": 2.0**31, "memory_limit_bytes": 2.0**33})
        several = train(two, 2, **{"log.profile_steps": (5, 6)})
    return (one, single), (two, several)


def without_speed(log):
    return [{name: value for name, value in line.items() if not name.startswith("speed/")} for line in log]


def test_several_steps_in_a_call_return_the_same_bits(runs):
    (one, single), (two, several) = runs
    assert without_speed(single) == without_speed(several)
    assert (one / "results.json").read_bytes() == (two / "results.json").read_bytes()
    a, b = (loading.load(path, kind="classifier").variables for path in (one, two))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
    assert [line["step"] for line in single] == [3, 4, 6, 7, 7]


def test_log_has_images_per_second_and_mfu(runs):
    _, (_, several) = runs
    lines = [line for line in several if "speed/mfu" in line]
    assert lines, "at least one line is of steps that were compiled before"
    for line in lines:
        assert line["speed/images_per_second"] > 0 and 0 <= line["speed/waiting_for_input"] <= 1
        assert line["speed/peak_memory_bytes"] == 2.0**31
    ratios = {round(line["speed/mfu"] / line["speed/images_per_second"], 20) for line in lines}
    per_image = ratios.pop() * 8 * PEAK  # of eight devices
    assert not ratios and 1e5 < per_image < 1e8


def test_log_has_no_mfu_of_unknown_devices(runs):
    (_, single), _ = runs
    assert any("speed/images_per_second" in line for line in single)
    assert not any("speed/mfu" in line for line in single)


def test_profile_is_written_only_if_configured(runs):
    (one, _), (two, _) = runs
    assert list((two / "profile").rglob("*.xplane.pb"))
    assert not (one / "profile").exists()


@pytest.mark.parametrize("steps", [(3,), (3, 2), (0, 2), (1.0, 2), (1, 2, 3)])
def test_check_steps_rejects_wrong_steps(steps, tmp_path):
    with pytest.raises(UserError, match="profile_steps"):
        check_steps(steps)
    with pytest.raises(UserError, match="profile_steps"):
        Profile(tmp_path, steps)


def test_check_rejects_wrong_steps_per_call_before_writing(tmp_path):
    config = classifier.get_config("smoke=True,options=width:4")
    config.steps_per_call = 0
    with pytest.raises(UserError, match="steps_per_call must be 1 or more; got 0"):
        main.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 4), (4, 4), (8, 1), (9, 1), (10, 4), (14, 4), (18, 1), (20, 4), (21, 1), (24, 1)],
)
def test_call_length_ends_where_something_is_due(step, expected):
    """Every 10 and 24 steps of 25, in calls of 4."""
    timetable = loop.Timetable(num_steps=25, log=10, evaluate=24, checkpoint=100, steps_per_call=4)
    assert timetable.call_length(step) == expected


class Numbers:
    """Batches that say their number."""

    steps_per_epoch = 10

    def __init__(self):
        self.count = 0

    def __next__(self):
        self.count += 1
        return {"image": np.full((8, 2, 2, 3), self.count, np.uint8), "label": np.arange(8), "mask": np.ones(8)}

    def get_state(self):
        return {"step": self.count}


def test_prepare_returns_batches_in_order_with_their_position():
    mesh, batches = parallel.make_mesh(), Numbers()
    one, three = feed.prepare(batches, 1, mesh), feed.prepare(batches, 3, mesh)
    assert (one.num_images, three.num_images) == (8, 24)
    assert (one.position, three.position) == ({"step": 1}, {"step": 4})
    assert np.array_equal(three.batch["image"][:, 0, 0, 0, 0], [2, 3, 4])
    assert len(one.batch["image"].sharding.device_set) == 8
    assert three.batch["image"].sharding.shard_shape(three.batch["image"].shape) == (3, 1, 2, 2, 3)


class Later:
    """A result that is there after a while."""

    def __init__(self, seconds):
        self.seconds = seconds

    def block_until_ready(self):
        time.sleep(self.seconds)
        return self


def prepared(began, ended, num_images=10):
    return feed.Prepared({}, 1, num_images, {}, began, ended)


def test_speed_counts_waiting_from_the_end_of_the_step():
    with speed.Speed() as watch:
        watch.step(prepared(0, 0), Later(0.0))
        watch._ends[-1].result()
        end = watch._ends[-1].result()
        watch.fed(prepared(end - 5.0, end + 1.0))  # one second after the devices had finished
        watch._since -= 10.0
        rates = watch.rates()
        assert rates["waiting_for_input"] == pytest.approx(0.1, abs=0.01)
        assert rates["images_per_second"] == pytest.approx(1.0, abs=0.05) and "mfu" not in rates
        watch.step(prepared(0, 0), Later(0.3))
        now = time.perf_counter()
        watch.fed(prepared(now - 9.0, now))  # the devices are still at work
        assert watch.rates()["waiting_for_input"] == 0.0
        assert watch.rates() == {}


def test_speed_excludes_evaluations():
    times = iter([0.0, 2.0, 50.0, 53.0, 54.0])
    watch = speed.Speed(PEAK, clock=lambda: next(times))  # begins at 0
    watch.set_flops(PEAK / 100)
    watch._images = 50
    with watch.paused():  # from 2 to 50
        pass
    assert watch.rates() == {"images_per_second": 10.0, "waiting_for_input": 0.0, "mfu": 0.1}  # at 53


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ([0.9, 0.5, 0.56, 0.9, 0.9, 0.9], "step 3: the input is the bottleneck: the devices wait for it 56%"),
        ([0.9, 0.9, 0.3, 0.9, 0.9], ""),
    ],
)
def test_input_that_is_the_bottleneck_is_named_once(shares, shown, capsys):
    bar = types.SimpleNamespace(n=0, set_postfix_str=lambda *_, **__: None)
    log = loop._Log("inverter", bar, types.SimpleNamespace(scalars=lambda *_: None), None, {})
    for step, share in enumerate(shares, 1):
        log(step, {}, {"images_per_second": 1.0, "waiting_for_input": share})
    errors = capsys.readouterr().err
    assert errors.count("bottleneck") == bool(shown) and shown in errors
    assert not shown or "data.num_workers), smaller images (arinv resize), fewer px (data.image_size)" in errors


@pytest.mark.parametrize(
    ("psnrs", "steps"),
    [
        ([-1.0, 9.55, -2.8, -45.6], [3]),
        ([-3.0, -1.0, 0.0, 5.0], []),
        ([5.0, -1.0, 2.0, -2.0], [2, 4]),
        ([None, None], []),
    ],
)
def test_a_training_that_diverges_is_named(psnrs, steps, capsys):
    bar = types.SimpleNamespace(n=0, set_postfix_str=lambda *_, **__: None)
    log = loop._Log("inverter", bar, types.SimpleNamespace(scalars=lambda *_: None), None, {})
    for step, psnr in enumerate(psnrs, 1):
        log(step, {} if psnr is None else {"psnr": psnr}, {})
    errors = capsys.readouterr().err
    assert errors.count("diverges") == len(steps)
    assert all(f"inverter, step {step}: psnr fell to {psnrs[step - 1]:.4g} dB" in errors for step in steps)


def test_show_formats_rates_and_memory():
    rates = {"images_per_second": 12345.6, "waiting_for_input": 0.0123, "mfu": 0.316}
    assert speed.show(rates) == "12,346 images/s, 32% MFU, 1.2% waiting"
    assert speed.show_memory({"peak_memory_bytes": 2.0**31}) == "2.00 GiB"


def test_bfloat16_step_keeps_state_and_metrics_in_float32():
    encoder = models.build("alexnet_small", num_classes=5, width=4, dtype=jnp.bfloat16)
    spec = {"name": "sgd", "momentum": 0.9, "schedule": {"name": "constant", "learning_rate": 0.1}}
    optimizer = make_optimizer(spec, num_steps=1, steps_per_epoch=1)
    attack = {"eps": 0.5, "norm": "l2", "num_steps": 2, "step_size": None, "random_start": True}
    step = classifier_steps.make_train_step(encoder, optimizer, attack=attack, augmentation={"flip": True})
    struct = loading.image_struct(32)
    init = functools.partial(
        TrainState.create, networks={"classifier": (encoder, (struct,))}, optimizers={"classifier": optimizer}
    )
    arguments = loop.abstract_arguments(init, (), parallel.make_mesh(), batch_size=8, image_size=32)
    jaxpr, (state, metrics) = jax.make_jaxpr(step, return_shape=True)(*arguments)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves((state, metrics))}
    assert kinds == {"float32", "int32"}, "int32 are the counts of steps"
    assert "bf16" in str(jaxpr) and flops.total(flops.operations(jaxpr)) > 0


@pytest.mark.parametrize(
    ("calls", "traced"), [([(1, 4), (5, 8)], [(5, 8)]), ([(1, 5), (6, 6), (7, 7), (8, 8)], [(6, 7)])]
)
def test_profile_starts_with_the_call_that_has_its_first_step(tmp_path, monkeypatch, calls, traced):
    starts, stops = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: starts.append(first))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: stops.append(last))
    with Profile(tmp_path, (6, 7)) as profile:
        for first, last in calls:
            profile.before(first, last)
            profile.after(last, ())
    assert list(zip(starts, stops, strict=True)) == traced
