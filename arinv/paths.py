"""Canonical forms of paths in configs and flags."""

import contextlib
import hashlib
import os
import pathlib
import re

from arinv.errors import UserError

_LONGEST_STEM = 251  # bytes of a file name without a suffix of four bytes
# gs://bucket, and gs:/bucket, its form in pathlib.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")
_URL_INSIDE = re.compile(r"(?:^|[:+])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")


def canonical(path: str | os.PathLike, *, name: str = "path") -> pathlib.Path:
    """Returns the absolute path with `~`, `..` and symbolic links resolved.

    Args:
      path: relative to the current directory, or absolute; it does not have to exist.
      name: the flag or field of the path, for messages.

    Raises:
      UserError: no path, an empty one, a URL, an unknown user's home, a name that is too long, or links that form a
        circle.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{name} must be the path of a file or a directory; got {path!r}")
    text = os.fspath(path)
    if not text.strip():
        raise UserError(f"{name} is empty; name a path")
    if match := _URL.match(text):
        raise _no_url(name, text, match["scheme"])
    try:
        place = pathlib.Path(text).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            place.lstat()
        return place
    except (RuntimeError, OSError, ValueError) as error:  # no such user, a circle of links, a null character
        raise UserError(f"{name}={text!r} is not a path: {getattr(error, 'strerror', None) or error}") from None


def expanded(path: str | os.PathLike, *, name: str = "path") -> pathlib.Path:
    """Returns the path with `~` expanded, otherwise as the user wrote it.

    Args:
      path: see `canonical`.
      name: see `canonical`.

    Raises:
      UserError: as `canonical`.
    """
    canonical(path, name=name)
    return pathlib.Path(path).expanduser()


def is_url(text: str) -> bool:
    """Returns whether a text is a URL."""
    return _URL.match(text) is not None


def check_local(text: str, *, name: str) -> None:
    """Checks that a value names no URL, also after a prefix as in "folder:gs://bucket".

    Args:
      text: the value of a field.
      name: of the field, for the message.

    Raises:
      UserError: it names one.
    """
    if match := _URL_INSIDE.search(text):
        raise _no_url(name, text, match["scheme"])


def _no_url(name: str, text: str, scheme: str) -> UserError:
    advice = "write the path alone" if scheme.lower() == "file" else "mount it, or copy it to or from a local directory"
    return UserError(f"{name}={text!r} is a URL ({scheme}:), but only local paths are read and written: {advice}")


def shortened(name: str) -> str:
    """Returns a file name without its suffix; a hash replaces the end of a name that is too long for file systems."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST_STEM:
        return name
    return f"{os.fsdecode(content[:200])}_{hashlib.sha256(content).hexdigest()[:16]}"
