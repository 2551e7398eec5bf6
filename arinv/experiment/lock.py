"""One run at a time in a directory: a lock that a killed run leaves open, also on network file systems.

.lock holds who has it. The kernel lock on it (flock) ends with its process. Some network file systems keep that lock
to one machine only; there a sign of life in the file, a number that grows, tells a run from what is left of one.
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
_PATIENCE_SECONDS = 3 * _BEAT_SECONDS  # without a sign of life, after which a lock from another machine is taken over
_SHARED_SECONDS = 20.0  # for a file to become visible on all machines
_STARTED = time.strftime("%Y-%m-%d %H:%M:%S")
_SIZE = 512  # of the file, always: beats need no room on a full disk


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a directory.

    Args:
      workdir: is made where it does not exist, and taken away again where nothing came into it.

    Raises:
      UserError: another run has it, it cannot be written, or it is not one directory for all processes.
    """
    lock, problem = None, None
    if distributed.index() == 0:
        try:
            lock = _Lock(workdir)
        except UserError as error:
            problem = str(error)
    if problem := distributed.first(problem):
        raise UserError(problem)
    try:
        _check_shared(workdir, distributed.first(lock and lock.token))
        yield
    finally:
        if lock is not None:
            lock.release()


class _Lock:
    """A lock that is held from its construction to its release."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / _NAME
        self._made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
        self.token = uuid.uuid4().hex
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = _take(self._path)
            self._beats = 0
            self._write()
        except OSError as error:
            raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def _write(self) -> None:
        value = _about() | {"token": self.token, "beats": self._beats}
        os.pwrite(self._file, json.dumps(value).encode().ljust(_SIZE), 0)
        os.fsync(self._file)

    def _beat(self) -> None:
        while not self._end.wait(_BEAT_SECONDS):
            self._beats += 1
            with contextlib.suppress(OSError):  # the run will meet what is wrong with the disk by itself
                self._write()

    def release(self) -> None:
        """Lets others in."""
        self._end.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _is_at(self._path, self._file):
                self._path.unlink()
            for folder in self._made:
                folder.rmdir()  # fails, as it should, where the run has written something
        os.close(self._file)


def _about() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "boot": _boot(), "started": _STARTED}


def _boot() -> str:
    """Returns what tells one start of a machine from all others; empty where the system does not say."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _take(path: pathlib.Path) -> int:
    """Returns the descriptor of the lock's file, locked.

    Raises:
      UserError: a living run has it.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            is_authority = _flock(file)
            if is_authority is None:
                raise UserError(_busy(path))
            if not _is_at(path, file):  # the run before has just put it away
                os.close(file)
                continue
            about = _read(path)
            if about and not (is_authority and about.get("boot") == _boot() != ""):
                _await_silence(path, about)
            return file
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise


def _flock(file: int) -> bool | None:
    """Returns whether the kernel's lock is ours, None where another has it; False where there is no such thing."""
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
    """Returns what the file says, empty where it says nothing."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _await_silence(path: pathlib.Path, before: dict[str, Any]) -> None:
    """Waits until a lock from another machine has been silent for long enough.

    Raises:
      UserError: it gave a sign of life.
    """
    print(
        f"{path.parent} was locked by {_owner(before)}; waiting {_PATIENCE_SECONDS:.0f} s for a sign of life",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, _BEAT_SECONDS))
        now = _read(path)
        if not now:  # it has ended properly
            return
        if (now.get("token"), now.get("beats")) != (before.get("token"), before.get("beats")):
            raise UserError(_busy(path))


def _busy(path: pathlib.Path) -> str:
    return (
        f"workdir {path.parent} is in use by another run: {_owner(_read(path))}; wait for it or stop it, or use "
        "another --workdir"
    )


def _owner(about: dict[str, Any]) -> str:
    if not about:
        return "an unknown process"
    return f"process {about.get('pid')} on {about.get('host')}, started {about.get('started')}"


def _check_shared(workdir: pathlib.Path, token: str) -> None:
    """Checks that all processes see the directory that process 0 has locked.

    Raises:
      UserError: names the processes that do not.
    """
    deadline = time.monotonic() + _SHARED_SECONDS
    while not (sees := _read(workdir / _NAME).get("token") == token) and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = distributed.gather([sees, platform.node()])
    blind = [f"process {i} ({host})" for i, (sees, host) in enumerate(seen) if not sees]
    if blind:
        raise UserError(
            f"workdir {workdir} of process 0 is not seen by {', '.join(blind[:8])}: all hosts need one directory, on a "
            "network file system"
        )
