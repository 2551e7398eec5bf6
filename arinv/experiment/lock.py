"""Lock of a workdir: one run at a time, released when a run is killed, also on network file systems.

The file .lock names its owner. The kernel's lock on it (flock) ends with the process. On some network file systems
that lock holds on one machine only; there a heartbeat, a counter in the file, distinguishes a running owner from a
dead one.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from arinv import distributed
from arinv.errors import UserError

_NAME = ".lock"
_BEAT_SECONDS = 10.0
_PATIENCE_SECONDS = 3 * _BEAT_SECONDS  # without a heartbeat, until a lock from another machine counts as dead
_SHARED_SECONDS = 20.0  # for a file to become visible on all machines
_STARTED = time.strftime("%Y-%m-%d %H:%M:%S")
_SIZE = 512  # of the file, constant so that heartbeats need no space on a full disk


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Locks a directory for this run.

    Args:
      workdir: created if it does not exist, and deleted again if it is still empty at the end.

    Raises:
      UserError: another run has locked it, it cannot be written, or the processes do not share it.
    """
    lock, problem = None, None
    if distributed.index() == 0:
        try:
            lock = _Lock(workdir)
        except UserError as error:
            problem = str(error)
    if problem := distributed.broadcast(problem):
        raise UserError(problem)
    try:
        _check_shared(workdir, distributed.broadcast(lock and lock.token))
        yield
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    """A lock, held from construction to release."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / _NAME
        self._created = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
        self.token = uuid.uuid4().hex
        try:
            self._file = _take(self._path)
            self._beats = 0
            self._write()
        except OSError as error:
            raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        value = _identity() | {"token": self.token, "beats": self._beats}
        os.pwrite(self._file, json.dumps(value).encode().ljust(_SIZE), 0)
        os.fsync(self._file)

    def _beat(self) -> None:
        while not self._end.wait(_BEAT_SECONDS):
            self._beats += 1
            with contextlib.suppress(OSError):  # the run itself reports a broken disk
                self._write()

    def release(self) -> None:
        """Releases the lock, and deletes directories that were created for it and are empty."""
        self._end.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _is_at(self._path, self._file):
                self._path.unlink()
            for folder in self._created:
                folder.rmdir()  # raises if the run has written something
        os.close(self._file)


def _identity() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "boot": _boot(), "started": _STARTED}


def _boot() -> str:
    """Returns an id of the machine's current boot; empty where the system has none."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _take(path: pathlib.Path) -> int:
    """Returns the descriptor of the lock file, locked.

    Raises:
      UserError: a running process has locked it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # the previous run deletes one that it left empty
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            has_kernel_lock = _flock(file)
            if has_kernel_lock is None:
                raise UserError(_busy(path))
            if not _is_at(path, file):  # the previous run has just deleted it
                os.close(file)
                continue
            owner = _read(path)
            if owner and not (has_kernel_lock and owner.get("boot") == _boot() != ""):
                _await_silence(path, owner)
                if not _is_at(path, file):  # the owner has released and deleted it meanwhile
                    os.close(file)
                    continue
            return file
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise


def _flock(file: int) -> bool | None:
    """Returns True if the kernel's lock is ours, None if another process has it, False where it is not supported."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def _is_at(path: pathlib.Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except OSError:
        return False


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of the lock file; empty where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _await_silence(path: pathlib.Path, owner: dict[str, Any]) -> None:
    """Waits until a lock from another machine has had no heartbeat for long enough.

    Raises:
      UserError: there was a heartbeat.
    """
    print(
        f"{path.parent} was locked by {_name(owner)}; waiting {_PATIENCE_SECONDS:.0f} s for a heartbeat",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, _BEAT_SECONDS))
        current = _read(path)
        if not current:  # released
            return
        if (current.get("token"), current.get("beats")) != (owner.get("token"), owner.get("beats")):
            raise UserError(_busy(path))


def _busy(path: pathlib.Path) -> str:
    return (
        f"workdir {path.parent} is in use by another run: {_name(_read(path))}; wait for it or stop it, or use "
        "another --workdir"
    )


def _name(owner: dict[str, Any]) -> str:
    if not owner:
        return "an unknown process"
    return f"process {owner.get('pid')} on {owner.get('host')}, started {owner.get('started')}"


def _check_shared(workdir: pathlib.Path, token: str) -> None:
    """Checks that all processes share the directory that process 0 has locked.

    Raises:
      UserError: names the processes that do not.
    """
    deadline = time.monotonic() + _SHARED_SECONDS
    while not (is_shared := _read(workdir / _NAME).get("token") == token) and time.monotonic() < deadline:
        time.sleep(0.1)
    answers = distributed.gather([is_shared, platform.node()])
    others = [f"process {i} ({host})" for i, (is_shared, host) in enumerate(answers) if not is_shared]
    if others:
        raise UserError(
            f"workdir {workdir} of process 0 is not visible to {', '.join(others[:8])}: all hosts need one directory, "
            "on a network file system"
        )
