"""What a run reports while it works: metrics in JSONL and TensorBoard, images, and progress bars.

Written by process 0 only.
"""

import contextlib
import errno
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from clu import parameter_overview

from arinv import distributed
from arinv.errors import DISK_ADVICE, UserError
from arinv.experiment.output_files import write_atomically, write_png, write_text

TEST = "test/"  # prefix of the metrics of an evaluation
_FLUSH_SECONDS = 10.0  # between the moments at which TensorBoard shows new events


def _is_evaluation(line: bytes) -> bool:
    """Returns whether a line of metrics.jsonl is that of an evaluation on test images."""
    return any(name.startswith(TEST) for name in json.loads(line))


def _step_of(line: bytes) -> int:
    """Returns the step of a line of metrics.jsonl; -1 for a damaged one."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # UnicodeDecodeError among them
        return -1


class Writer:
    """Log of one run: `metrics.jsonl`, TensorBoard event files and images in `images/`. A context manager.

    A resumed run drops the lines after the step it resumes from, so that every step has one line.

    Args:
      workdir: directory of the run.
      resumed_step: step of the checkpoint that the run resumes from; 0 for a new run.
      repeats_evaluation: whether the run begins with the evaluation of that step; its earlier line is dropped.
    """

    def __init__(self, workdir: pathlib.Path, *, resumed_step: int = 0, repeats_evaluation: bool = False):
        self._active = distributed.index() == 0
        if not self._active:
            return
        self._images = workdir / "images"
        self._path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        lines = [line for line in self._complete_lines() if _step_of(line) <= resumed_step]
        if repeats_evaluation:
            lines = [line for line in lines if _step_of(line) < resumed_step or not _is_evaluation(line)]
        write_atomically(self._path, b"".join(line + b"\n" for line in lines))
        self._file = self._path.open("ab", buffering=0)
        again = resumed_step if repeats_evaluation else resumed_step + 1
        with self._reporting(workdir / "tensorboard"):
            self._board = _EventFile(workdir / "tensorboard", purge_step=again)
            for values in map(json.loads, lines):
                if (step := int(values.pop("step"))) >= again:
                    self._board.scalars(step, values)

    def _complete_lines(self) -> list[bytes]:
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().split(b"\n")[:-1]  # a line cut short by a kill has no newline
        good = [line for line in lines if _step_of(line) >= 0]
        if len(good) < len(lines):
            print(f"{self._path}: dropped {len(lines) - len(good)} damaged line(s)", file=sys.stderr, flush=True)
        return good

    def parameters(self, variables: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes names, shapes and counts of the networks' parameters to parameters.txt."""
        if not self._active:
            return
        tables = [
            f"{name}\n{parameter_overview.get_parameter_overview(network['params'], include_stats=False)}\n"
            for name, network in variables.items()
        ]
        write_text(self._path.with_name("parameters.txt"), "\n".join(tables))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Appends named numbers of one step.

        Raises:
          UserError: the log cannot be written, or has vanished.
        """
        if not self._active:
            return
        values = {name: float(value) for name, value in values.items()}
        with self._reporting(self._path):
            self._path.stat()
            line = (json.dumps({"step": step, **values}) + "\n").encode()
            if self._file.write(line) < len(line):  # the disk is full; a resumed run drops the partial line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._reporting(self._board.folder):
            self._board.scalars(step, values)

    def image(self, step: int, name: str, image_u8: np.ndarray) -> None:
        """Saves a uint8 [H, W, 3] image as images/NAME_STEP.png and adds it to TensorBoard."""
        if not self._active:
            return
        path = self._images / f"{name}_{step:07d}.png"
        write_png(path, image_u8)
        with self._reporting(self._board.folder):
            self._board.image(step, name, path.read_bytes(), image_u8.shape)

    def flush(self) -> None:
        """Writes what is buffered, so that a resumed run finds every event before its checkpoint.

        Raises:
          UserError: the log cannot be written.
        """
        if self._active:
            with self._reporting(self._board.folder):
                self._board.flush()

    @contextlib.contextmanager
    def _reporting(self, path: pathlib.Path) -> Iterator[None]:
        """Raises errors of the disk as those of a user."""
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"{path} has vanished: it was deleted or moved during the run") from error
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; {DISK_ADVICE}") from error

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if not self._active:
            return
        self._file.close()
        with contextlib.suppress(OSError) if kind else self._reporting(self._board.folder):
            self._board.close()


class _EventFile:
    """A TensorBoard event file, written in this thread: a writer thread could lose its last events at a kill.

    Attributes:
      folder: folder of the event files.
    """

    def __init__(self, folder: pathlib.Path, *, purge_step: int):
        """Opens the file; events of earlier files from `purge_step` on no longer count."""
        # Imports PyTorch where that is installed, which takes seconds.
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._event, self._summary = folder, event_pb2.Event, summary_pb2.Summary
        self._events = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._flushed = time.monotonic()
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(purge_step, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds named numbers of one step."""
        pairs = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step, summary=self._summary(value=pairs))

    def image(self, step: int, name: str, png: bytes, shape: Sequence[int]) -> None:
        """Adds an encoded image [H, W, 3] of one step."""
        height, width, channels = shape
        image = self._summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
        self._add(step, summary=self._summary(value=[self._summary.Value(tag=name, image=image)]))

    def flush(self) -> None:
        """Writes what is buffered."""
        self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is buffered and closes the file."""
        self._events.close()

    def _add(self, step: int, **content: Any) -> None:
        self._events.write_event(self._event(wall_time=time.time(), step=step, **content))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()


def progress_bar(items: Iterable | None, title: str, **options) -> tqdm.tqdm:
    """Returns a progress bar over `items`, or one to update by hand.

    Args:
      items: iterable, or None.
      title: shown in front of the bar.
      **options: of tqdm, such as total, initial and unit.
    """
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm.tqdm(
        items,
        desc=title,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=True,
        disable=distributed.index() != 0,
        **options,
    )


def progress_callback(title: str) -> Callable[[int, int], None]:
    """Returns a function of (done, total) that shows a progress bar from its first call on."""
    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = progress_bar(None, title, total=total)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show
