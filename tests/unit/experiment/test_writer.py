"""Arrays in files: round trips, damage, and no unpickling."""

import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from arinv import distributed
from arinv.errors import UserError
from arinv.experiment import output_files
from arinv.experiment.output_files import read_arrays, write_arrays, write_csv
from arinv.experiment.writer import Writer


@pytest.mark.parametrize("compressed", [True, False])
def test_read_arrays_returns_what_write_arrays_wrote(tmp_path, compressed):
    arrays = {"numbers": np.arange(6, dtype=np.float32).reshape(2, 3), "set/name": np.array(["a", "bc"])}
    write_arrays(tmp_path / "new" / "x.npz", arrays, compressed=compressed)
    loaded = read_arrays(tmp_path / "new" / "x.npz")
    assert loaded.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(loaded[name], values)
        assert loaded[name].dtype == values.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.npz"]


@pytest.mark.parametrize(
    ("write", "value"),
    [
        (output_files.write_text, "text"),
        (output_files.write_json, {"a": 1}),
        (output_files.write_csv, [["a", 1]]),
        (output_files.write_png, np.zeros((2, 2, 3), np.uint8)),
        (output_files.write_arrays, {"a": np.zeros(2)}),
    ],
)
def test_process_0_alone_writes(tmp_path, monkeypatch, write, value):
    for index in (1, 0):
        monkeypatch.setattr(distributed, "index", lambda index=index: index)
        write(tmp_path / "file", value)
        assert len(list(tmp_path.iterdir())) == (index == 0)


def test_read_arrays_rejects_missing_damaged_and_pickled_files(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match="x.npz cannot be read"):
        read_arrays(path)
    write_arrays(path, {"a": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match="x.npz cannot be read .*delete it"):
        read_arrays(path)
    write_arrays(path, {"a": np.arange(1000)})
    content = bytearray(path.read_bytes())
    content[60:200] = b"\xff" * 140  # of the compressed stream
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.npz cannot be read .error:.*delete it"):
        read_arrays(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="x.npz cannot be read .*delete it"):
        read_arrays(path)
    np.savez(path, a=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(UserError, match="cannot be read .*allow_pickle"):
        read_arrays(path)


def test_damaged_lines_of_the_log_are_dropped(tmp_path, capsys):
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b'{"step": 1, "a": 2}\n\0\0\0\n{"step": "x"}\n[1]\n{"step": 2}\n{"step": 3}\n{"step"')
    with Writer(tmp_path, resumed_step=2):
        pass
    assert log.read_text() == '{"step": 1, "a": 2}\n{"step": 2}\n'
    assert f"{log}: dropped 3 damaged line(s)" in capsys.readouterr().err


def test_an_evaluation_that_is_repeated_has_one_line(tmp_path):
    log, lines = tmp_path / "metrics.jsonl", [{"train/loss": 3.0}, {"test/loss": 2.0}]
    with Writer(tmp_path) as writer:
        for step in (1, 2):
            for values in lines:
                writer.scalars(step, values)
    before = log.read_text()
    with Writer(tmp_path, resumed_step=2, repeats_evaluation=True) as writer:
        writer.scalars(2, lines[1])
    assert log.read_text() == before
    newest = max((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    # What TensorBoard has read of step 2 no longer counts.
    assert read_events(newest) == [(2, "train/loss", 3.0), (2, "test/loss", 2.0)]
    with Writer(tmp_path, resumed_step=2):
        pass
    assert log.read_text() == before


def read_events(place):
    """Returns (step, name, value or size of the image) of all events in a file or a folder of TensorBoard's."""
    events = []
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found = (value.image.height, value.image.width) if value.HasField("image") else value.simple_value
                events.append((event.step, value.tag, found))
    return events


def test_tensorboard_has_every_event_before_a_flush(tmp_path):
    """A run that is killed at its checkpoint has lost none."""
    writer = Writer(tmp_path)
    for step in range(1, 31):
        writer.scalars(step, {f"train/{i}": i for i in range(20)})
    writer.image(30, "grid", np.zeros((4, 6, 3), np.uint8))
    writer.flush()
    events = read_events(tmp_path / "tensorboard")
    with writer:  # closes it
        pass
    expected = [(step, f"train/{i}", float(i)) for step in range(1, 31) for i in range(20)]
    assert events == [*expected, (30, "grid", (4, 6))]


def test_files_of_the_longest_names_are_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".csv")
    write_csv(path, [["a"], [1]])
    assert path.read_text() == "a\n1\n" and [p.name for p in tmp_path.iterdir()] == [path.name]
