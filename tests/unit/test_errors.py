"""Errors that a user can fix, as one line."""

import errno

import pytest

from arinv.errors import UserError, user_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("eps=-1\nmust be positive"), "eps=-1\\nmust be positive"),
        (MemoryError(), "out of memory (MemoryError): set a smaller batch"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nmore"), "out of memory (RESOURCE_EXHAUSTED: 9 GiB): set a smaller"),
        (OSError(errno.ENOSPC, "No space left"), "runs/x: No space left; files saved earlier are complete: free some"),
        (PermissionError(errno.EACCES, "Permission denied", "data.npz"), "data.npz: Permission denied"),
        (ValueError("a bug"), ""),
    ],
)
def test_user_line_names_what_a_user_can_fix(error, line):
    result = user_line(error, "runs/x")
    assert result.startswith(line) and bool(result) == bool(line)
