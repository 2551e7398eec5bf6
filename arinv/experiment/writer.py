"""What a run reports while it works: metrics in JSONL and TensorBoard, images, and progress bars.

Written by process 0 only.
"""

import contextlib
import errno
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from clu import parameter_overview

from arinv.errors import DISK_ADVICE, UserError
from arinv.experiment.output_files import write_atomically, write_png, write_text


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
      workdir: of the run.
      resumed_step: step of the checkpoint that the run resumes from; 0 for a new run.
    """

    def __init__(self, workdir: pathlib.Path, *, resumed_step: int = 0):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._images = workdir / "images"
        self._path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self._complete_lines() if _step_of(line) <= resumed_step]
        write_atomically(self._path, b"".join(line + b"\n" for line in kept))
        self._file = self._path.open("ab", buffering=0)
        import tensorboardX  # imports PyTorch where that is installed, which takes seconds

        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resumed_step + 1, flush_secs=30
        )

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
        try:
            self._path.stat()
            line = (json.dumps({"step": step, **values}) + "\n").encode()
            if self._file.write(line) < len(line):  # the disk is full; a resumed run drops the partial line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except FileNotFoundError as error:
            raise UserError(f"{self._path} has vanished: it was deleted or moved during the run") from error
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {error.strerror}; {DISK_ADVICE}") from error
        if not self._board_is_alive():
            return
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image_u8: np.ndarray) -> None:
        """Saves a uint8 [H, W, 3] image as images/NAME_STEP.png and adds it to TensorBoard."""
        if not self._active:
            return
        write_png(self._images / f"{name}_{step:07d}.png", image_u8)
        if self._board_is_alive():
            self._board.add_image(name, image_u8, step, dataformats="HWC")

    def _board_is_alive(self) -> bool:
        """Returns whether TensorBoard's thread still runs; after a failure, further events would block forever."""
        writer = getattr(self._board.file_writer, "event_writer", None)
        worker = getattr(writer, "_worker", None)
        return worker is None or worker.is_alive()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if not self._active:
            return
        self._file.close()
        if self._board_is_alive():
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self._board.close()


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
        disable=jax.process_index() != 0,
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
