"""Batches: every example once, equal shares, exact resume, and the same in memory and streamed."""

import contextlib
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arinv import data, parallel
from arinv.errors import TemporaryError, UserError


class Counting:
    """A source whose example i is an image of grey level i with label i."""

    def __init__(self, length, broken=None):
        self.info = data.SourceInfo("counting", "train", length, length, (), 2)
        self.num_skipped = 0
        self._broken = broken

    def __len__(self):
        return self.info.num_examples

    def __getitem__(self, index):
        if index == self._broken:
            raise UserError(f"example {index} is broken")
        return {"image": np.full((2, 2, 3), index % 256, np.uint8), "label": int(index)}

    def read_labels(self):
        return np.arange(len(self), dtype=np.int32)


ROUTES = pytest.mark.parametrize("in_memory", [True, False])


def _take(batches, count):
    return [next(batches) for _ in range(count)]


def _assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys() == {"image", "label", "mask"}
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_load_arrays_keeps_order_and_reports_progress():
    calls = []
    arrays = data.load_arrays(Counting(600), progress=lambda *call: calls.append(call))
    assert arrays["image"].shape == (600, 2, 2, 3) and arrays["image"].dtype == np.uint8
    assert arrays["label"].dtype == np.int32
    np.testing.assert_array_equal(arrays["label"], np.arange(600))
    np.testing.assert_array_equal(arrays["image"][:, 0, 0, 0], np.arange(600) % 256)
    assert calls[-1] == (600, 600) and calls == sorted(calls)


@ROUTES
def test_train_batches_hold_each_example_once_an_epoch(in_memory):
    batches = data.train_batches(Counting(12), batch_size=4, seed=3, in_memory=in_memory)
    assert batches.steps_per_epoch == 3
    epochs = [np.concatenate([b["label"] for b in _take(batches, 3)]) for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0].tolist() != epochs[1].tolist() and epochs[0].tolist() != list(range(12))


@ROUTES
def test_train_batches_keep_images_with_labels_and_masks(in_memory):
    batches = data.train_batches(Counting(10), batch_size=4, seed=0, in_memory=in_memory)
    assert batches.steps_per_epoch == 2  # two of the ten are left over
    for batch in _take(batches, 5):
        assert batch["image"].shape == (4, 2, 2, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32 and batch["mask"].dtype == np.float32
        np.testing.assert_array_equal(batch["image"][:, 1, 1, 2], batch["label"])
        np.testing.assert_array_equal(batch["mask"], np.ones(4))
        assert len(set(batch["label"].tolist())) == 4


def test_train_batches_stream_as_from_memory():
    source = Counting(11)
    memory, stream, arrays = (
        data.train_batches(s, batch_size=4, seed=7, in_memory=m)
        for s, m in ((source, True), (source, False), (data.load_arrays(source), None))
    )
    expected = _take(memory, 7)
    _assert_equal(_take(stream, 7), expected)
    _assert_equal(_take(arrays, 7), expected)


@ROUTES
def test_train_batches_resume_exactly_within_an_epoch(in_memory):
    def start():
        return data.train_batches(Counting(13), batch_size=3, seed=5, in_memory=in_memory)

    whole = _take(start(), 11)
    first = start()
    _assert_equal(_take(first, 6), whole[:6])
    state = json.loads(json.dumps(first.get_state()))
    second = start()
    next(second)
    second.set_state(state)
    _assert_equal(_take(second, 5), whole[6:])
    first.set_state({**state, "step": 1})  # and back
    _assert_equal(_take(first, 2), whole[1:3])


def test_set_state_rejects_state_of_another_run():
    state = data.train_batches(Counting(8), batch_size=4, seed=0).get_state()
    for other in (dict(batch_size=2, seed=0), dict(batch_size=4, seed=1)):
        with pytest.raises(UserError, match="cannot resume the data: (batch_size|seed) was"):
            data.train_batches(Counting(8), **other).set_state(state)
    with pytest.raises(UserError, match="num_examples was 8 and is now 9"):
        data.train_batches(Counting(9), batch_size=4, seed=0).set_state(state)


def rows_of(index, count, batch_size):
    """Returns the rows of a process that has an equal share of each batch."""
    return np.array_split(np.arange(batch_size), count)[index]


@ROUTES
def test_train_batches_are_shared_by_processes(in_memory):
    def share(index, count):
        return data.train_batches(
            Counting(19),
            batch_size=6,
            seed=2,
            rows=rows_of(index, count, 6),
            in_memory=in_memory,
        )

    whole = _take(share(0, 1), 5)
    for count in (2, 3):
        shares = [_take(share(index, count), 5) for index in range(count)]
        for step, batch in enumerate(whole):
            labels = np.concatenate([part[step]["label"] for part in shares])
            np.testing.assert_array_equal(labels, batch["label"])


def test_set_state_works_for_another_number_of_processes():
    one = data.train_batches(Counting(16), batch_size=4, seed=1)
    _take(one, 3)
    two = data.train_batches(Counting(16), batch_size=4, seed=1, rows=rows_of(1, 2, 4))
    two.set_state(one.get_state())
    np.testing.assert_array_equal(next(two)["label"], next(one)["label"][2:])


def _mixed(first_rows, second_rows, in_memory=True):
    options = {"in_memory": in_memory}
    first = data.train_batches(Counting(11), batch_size=5, seed=2, rows=first_rows, **options)
    second = data.train_batches(Counting(7), batch_size=3, seed=2, rows=second_rows, **options)
    return data.MixedBatches(first, second, batch_size=8)


@ROUTES
def test_mixed_batches_have_the_same_rows_for_any_number_of_processes(in_memory):
    """Also for a process that has rows of one source only."""
    whole = _take(_mixed(np.arange(5), np.arange(3)), 6)
    for count in (2, 4, 8):
        parts = []
        for rows in np.arange(8).reshape(count, -1):
            parts.append(_mixed(rows[rows < 5], rows[rows >= 5] - 5, in_memory))
        _take(parts[0], 2)
        for part in parts[1:]:  # resumes where another process stopped
            part.set_state(parts[0].get_state())
        taken = [_take(part, 4) for part in parts]
        for part in parts:
            part.close()
        for step in range(4):
            for name, values in whole[2 + step].items():
                np.testing.assert_array_equal(np.concatenate([part[step][name] for part in taken]), values)


@ROUTES
def test_train_batches_return_any_rows(in_memory):
    """As on a pod whose devices are not in the order of its hosts."""
    source = Counting(13)
    rows = np.array([0, 1, 6, 7])
    whole = _take(data.train_batches(source, batch_size=8, seed=1), 3)
    some = data.train_batches(source, batch_size=8, seed=1, rows=rows, in_memory=in_memory)
    for expected, batch in zip(whole, _take(some, 3), strict=True):
        np.testing.assert_array_equal(batch["label"], expected["label"][rows])
    some.close()
    loaded = data.load_arrays(source) if in_memory else source
    whole, some = (list(data.eval_batches(loaded, batch_size=8, rows=r)) for r in (None, rows))
    for expected, batch in zip(whole, some, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values[rows])


def test_process_rows_of_one_process_are_all():
    for layout in ({}, {"fsdp": 4}):
        rows = parallel.process_rows(24, parallel.make_mesh(**layout))
        np.testing.assert_array_equal(rows, np.arange(24))


class Originals(Counting):
    """A source of images of different heights and widths, each a ramp that shows where a window was cut."""

    def __getitem__(self, index):
        height, width = 40 + index, 70 - index
        rows, columns = np.mgrid[:height, :width]
        return {"image": np.stack([rows, columns, 0 * rows + index], -1).astype(np.uint8), "label": int(index)}


def test_resized_crop_is_the_same_in_memory_streamed_and_resumed():
    crop = {"scale": (0.2, 0.9)}
    options = {"batch_size": 4, "seed": 1, "resized_crop": crop}
    expected = _take(data.train_batches(Originals(10), in_memory=True, **options), 5)
    assert all(batch["image"].shape == (4, 2, 2, 3) for batch in expected)
    for batch in expected:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 2], batch["label"])
    windows = np.concatenate([batch["image"][:, :, :, 0].reshape(4, -1) for batch in expected])
    assert len({tuple(window) for window in windows}) > 15, "an image's next window is another"
    _assert_equal(_take(data.train_batches(Originals(10), in_memory=False, **options), 5), expected)
    batches = data.train_batches(Originals(10), **options)
    _take(batches, 2)
    resumed = data.train_batches(Originals(10), in_memory=False, **options)
    resumed.set_state(json.loads(json.dumps(batches.get_state())))
    _assert_equal(_take(resumed, 3), expected[2:])
    halves = [data.train_batches(Originals(10), rows=rows_of(i, 2, options["batch_size"]), **options) for i in range(2)]
    for batch in expected:
        parts = [next(half) for half in halves]
        np.testing.assert_array_equal(np.concatenate([part["image"] for part in parts]), batch["image"])


def test_resized_crop_rejects_arrays():
    with pytest.raises(UserError, match="resized_crop needs a source opened with"):
        data.train_batches(data.load_arrays(Counting(8)), batch_size=4, seed=0, resized_crop={"scale": (0.1, 1.0)})


def test_train_batches_depend_on_seed():
    first, same, other = (
        next(data.train_batches(Counting(50), batch_size=20, seed=seed))["label"].tolist() for seed in (0, 0, 1)
    )
    assert first == same != other


def test_train_batches_stream_large_sources(monkeypatch):
    from arinv.data import batches

    loaded = []
    load_arrays = batches.load_arrays
    monkeypatch.setattr(batches, "load_arrays", lambda *a, **k: loaded.append(1) or load_arrays(*a, **k))
    data.train_batches(Counting(8), batch_size=4, seed=0)
    assert loaded == [1]
    monkeypatch.setattr(batches, "MAX_BYTES_IN_MEMORY", 8 * 12 - 1)
    data.train_batches(Counting(8), batch_size=4, seed=0)
    assert loaded == [1]


@ROUTES
def test_train_batches_raise_errors_of_the_source(in_memory):
    with pytest.raises(UserError, match="example 3 is broken"):
        _take(data.train_batches(Counting(8, 3), batch_size=4, seed=0, in_memory=in_memory), 2)


def test_train_batches_reject_impossible_sizes():
    with pytest.raises(UserError, match="batch_size=9 is more than the 8"):
        data.train_batches(Counting(8), batch_size=9, seed=0)
    for function, options in ((data.train_batches, {"seed": 0}), (data.eval_batches, {})):
        with pytest.raises(UserError, match="batch_size must be at least 1; got 0"):
            function(Counting(8), batch_size=0, **options)
    with pytest.raises(UserError, match="seed must be at least 0; got -1"):
        data.train_batches(Counting(8), batch_size=4, seed=-1)
    with pytest.raises(UserError, match="num_workers must be -1 .*; got -2"):
        data.train_batches(Counting(8), batch_size=4, seed=0, num_workers=-2)
    for num_workers in (None, "4", 1.5):
        with pytest.raises(UserError, match=f"num_workers must be -1 .*; got {num_workers!r}"):
            data.train_batches(Counting(8), batch_size=4, seed=0, num_workers=num_workers)


@settings(max_examples=25, deadline=None)
@given(
    total=st.integers(1, 30),
    share=st.integers(1, 5),
    count=st.integers(1, 4),
    loaded=st.booleans(),
)
def test_eval_batches_hold_each_example_once(total, share, count, loaded):
    source = data.load_arrays(Counting(total)) if loaded else Counting(total)
    lengths, seen = set(), []
    for index in range(count):
        batches = data.eval_batches(source, batch_size=share * count, rows=rows_of(index, count, share * count))
        received = list(batches)
        lengths.add(len(received))
        assert len(received) == len(batches)
        for batch in received:
            assert batch["image"].shape == (share, 2, 2, 3)
            assert batch["label"].dtype == np.int32 and batch["mask"].dtype == np.float32
            np.testing.assert_array_equal(batch["label"] == -1, batch["mask"] == 0)
            assert (batch["image"][batch["mask"] == 0] == 0).all()
            seen += batch["label"][batch["mask"] == 1].tolist()
    assert len(lengths) == 1 and sorted(seen) == list(range(total))


def test_eval_batches_are_in_order_and_repeatable():
    batches = data.eval_batches(Counting(10), batch_size=4)
    for _ in range(2):
        labels = np.concatenate([batch["label"] for batch in batches])
        assert labels.tolist() == [*range(10), -1, -1]


def test_train_batches_of_real_sources_stream_as_from_memory():
    source = data.open_source("photos", num_examples=40)
    memory = data.train_batches(source, batch_size=16, seed=0)
    stream = data.train_batches(source, batch_size=16, seed=0, in_memory=False)
    _assert_equal(_take(stream, 3), _take(memory, 3))
    assert stream.get_state() == memory.get_state()


_READER = """
import sys
sys.path.insert(0, {tests!r})
import test_data_batches as tests
from arinv import data

if __name__ == "__main__":
    stream = data.train_batches(tests.Counting(64), batch_size=4, seed=0, in_memory=False, num_workers=1)
    next(stream)
    print("reading", flush=True)
    while True:
        next(stream)
"""


def _parents():
    """Returns the processes of this machine with their parents."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            text = path.read_text()
            parents[int(text.split()[0])] = int(text.rpartition(")")[2].split()[1])
    return parents


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "reader.py").write_text(_READER.format(tests=str(pathlib.Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[3])}
    command = [sys.executable, tmp_path / "reader.py"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "reading\n"
        workers = {child for child, parent in _parents().items() if parent == reader.pid}
        assert workers
        reader.kill()
    deadline = time.monotonic() + 60
    while workers & _parents().keys():
        assert time.monotonic() < deadline, "the workers live on"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("num_workers", "cores", "expected"), [(0, 64, 0), (3, 2, 3), (-1, 2, 0), (-1, 12, 0), (-1, 64, 32)]
)
def test_workers_are_counted_by_cores(num_workers, cores, expected):
    assert data.count_workers(num_workers, cores) == expected


def test_num_cores_are_those_of_this_process():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert data.num_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert data.num_cores() == len(allowed)


@pytest.mark.long
def test_train_batches_of_worker_processes_are_those_of_threads():
    source = data.open_source("photos", num_examples=40)
    memory = data.train_batches(source, batch_size=16, seed=0)
    stream = data.train_batches(source, batch_size=16, seed=0, in_memory=False, num_workers=2)
    _assert_equal(_take(stream, 5), _take(memory, 5))
    assert stream.get_state() == memory.get_state()
    resumed = data.train_batches(source, batch_size=16, seed=0, in_memory=False, num_workers=2)
    resumed.set_state(memory.get_state())
    _assert_equal(_take(resumed, 2), _take(memory, 2))
    stream.close()
    resumed.close()


def test_workers_outlive_the_signals_of_their_process_group():
    """The process that started them saves after a step that may need their batches; it reports a killed worker."""
    source = data.open_source("photos", num_examples=40)
    stream = data.train_batches(source, batch_size=16, seed=0, in_memory=False, num_workers=1)
    next(stream)
    (worker,) = (child for child in multiprocessing.active_children() if "grain" in child.name)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(worker.pid, number)
    _assert_equal(_take(stream, 4), _take(data.train_batches(source, batch_size=16, seed=0), 5)[1:])
    worker.kill()
    with pytest.raises(TemporaryError, match=r"was killed \(.* exit code -9.*data.num_workers"):
        _take(stream, 100)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("function", [data.train_batches, data.eval_batches])
def test_batches_of_images_of_other_sizes_are_refused(function, in_memory, tmp_path):
    """Sources that do not resize are for random crops."""
    source = data.open_source("photos", split="train", image_size=32, resize="original")
    options = {"seed": 0} if function is data.train_batches else {}
    with pytest.raises(UserError, match='shape .* batches have .*"original"'):
        next(iter(function(source, batch_size=2, in_memory=in_memory, **options)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0, 9)}, "two positive"),
        ({"scale": (0.5, 2)}, "or less"),
        ({"area": (0.1, 1)}, "scale or ratio"),
        ({"scale": 0.5}, "two positive"),
        ({"ratio": (0.1, "a")}, "two positive"),
        ({"ratio": (1, 2, 3)}, "two positive"),
    ],
)
def test_train_batches_check_the_options_of_crops(options, message):
    source = data.open_source("photos", split="train", image_size=32, resize="original")
    with pytest.raises(UserError, match=message):
        data.train_batches(source, batch_size=2, seed=0, resized_crop=options)


def test_same_dataset_of_unknown_kinds_is_that_of_the_same_name():
    assert not data.same_dataset("foo:a", "foo:b") and data.same_dataset("foo:a", "foo:a")


def test_threads_share_the_decoded_arrays():
    source = data.open_source("photos", split="test", image_size=16)
    with futures.ThreadPoolExecutor(4) as pool:
        results = [task.result() for task in [pool.submit(data.load_arrays, source) for _ in range(4)]]
    assert all(result["image"] is results[0]["image"] for result in results)


def test_arrays_of_a_source_of_sources_are_decoded():
    inner = data.open_source("photos", split="test", image_size=16)

    class Wrapper:
        info = inner.info

        def __len__(self):
            return len(inner)

        def __getitem__(self, index):
            return {"image": data.load_arrays(inner)["image"][index], "label": 0}

    np.testing.assert_array_equal(data.load_arrays(Wrapper())["image"], data.load_arrays(inner)["image"])


@pytest.mark.parametrize(("examples", "message"), [
    ({"image": np.zeros((4, 2, 2, 3), np.uint8)}, r"arrays named image and label; got \['image'\]"),
    (None, "must be a source, of open_source, or arrays named image and label; got NoneType"),
    ({"image": np.zeros((4, 2, 2, 3), np.uint8), "label": np.zeros(3, int)}, "one label for each image; got 3 for 4"),
])  # fmt: skip
def test_batches_reject_what_is_neither_source_nor_arrays(examples, message):
    with pytest.raises(UserError, match=message):
        data.train_batches(examples, batch_size=2, seed=0)
    with pytest.raises(UserError, match=message):
        data.eval_batches(examples, batch_size=2)


@pytest.mark.parametrize("rows", [[0, 4], [-1, 0]])
def test_batches_reject_rows_outside_the_batch(rows):
    arrays = {"image": np.zeros((8, 2, 2, 3), np.uint8), "label": np.zeros(8, np.int32)}
    for make in (functools.partial(data.train_batches, seed=0), data.eval_batches):
        with pytest.raises(UserError, match="rows must be 0 to 3, those of a batch"):
            make(arrays, batch_size=4, rows=np.array(rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([False, False, True, True], "got bool of shape .*: take numpy.flatnonzero of a mask"),
        ([0.5, 1.5], "rows must be whole numbers .*; got float64"),
        (2, "rows must be whole numbers .* of shape"),
        ("0", "rows must be an array of numbers"),
    ],
)
def test_batches_reject_rows_that_are_not_whole_numbers(rows, message):
    arrays = {"image": np.zeros((8, 2, 2, 3), np.uint8), "label": np.zeros(8, np.int32)}
    for make in (functools.partial(data.train_batches, seed=0), data.eval_batches):
        with pytest.raises(UserError, match=message):
            make(arrays, batch_size=4, rows=rows)
