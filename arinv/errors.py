"""Errors that a user can fix, each shown as a single line without a traceback, and the exit codes of processes."""

import difflib
import errno
import os
import signal
from collections.abc import Iterable

# Exit codes. Those of signals are the shell's; schedulers restart after LOST and TERMINATED.
MISTAKE = 2  # an error that a user can fix: a restart would fail in the same way
LOST = os.EX_TEMPFAIL  # a process or a machine is gone: a restart resumes from the last checkpoint
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE  # as of a program that writes to a closed pipe
TERMINATED = 128 + signal.SIGTERM
DISK_ADVICE = "files saved earlier are complete: free some space or fix the disk, and start again"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)  # full, read-only or broken


class UserError(ValueError):
    """A wrong config, file, shape or value. The message names it, the allowed values, and the remedy.

    Line breaks in the message are escaped, so that it is one line.
    """

    def __init__(self, message: str = ""):
        super().__init__("\\n".join(str(message).splitlines()))


class TemporaryError(UserError):
    """A lack of the machine or of other processes at the moment: a restart may succeed."""


class RadiusWarning(UserWarning):
    """A radius that reaches every image, so that results of attacks are meaningless."""


def unknown(kind: str, name: object, known: Iterable[str], *, meant: str = "") -> UserError:
    """Returns the error for a name that is not in a table, with the names in the table.

    Args:
      kind: kind of object, such as "encoder".
      name: the unknown name.
      known: the names in the table.
      meant: the name to suggest; empty for the closest one in the table.
    """
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    close = [] if meant else difflib.get_close_matches(str(name).lower(), lower, n=1)
    meant = lower[close[0]] if close else meant
    hint = f" Did you mean {meant!r}?" if meant else ""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(names)}.{hint}")


def first_line(error: BaseException, *, limit: int = 100) -> str:
    """Returns the first line of an error's text, or its kind where it has none, of at most `limit` characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception is a device's lack of memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def user_line(error: BaseException, workdir: str | os.PathLike | None = None) -> str:
    """Returns one line on an error that a user can fix: a UserError, lack of memory, or an error of a disk.

    Args:
      error: any exception.
      workdir: of the run, named where an OSError names no file.

    Returns:
      The line; empty for any other error.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        reason = first_line(error, limit=200)
        return f"out of memory ({reason}): set a smaller batch, fewer or smaller images, or use more devices"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        place = error.filename if isinstance(error.filename, (str, bytes)) else workdir
        line = f"{place}: {error.strerror}" if place else error.strerror
        return f"{line}; {DISK_ADVICE}" if error.errno in _DISK else line
    return ""
