"""The exception for users' mistakes, which the command prints as one line without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong config, file, shape or value. The message names it, the allowed values, and the remedy.

    Line breaks in the message are escaped, so that it is one line.
    """

    def __init__(self, message: str = ""):
        super().__init__("\\n".join(str(message).splitlines()))


class RadiusWarning(UserWarning):
    """A radius that reaches every image, so that results of attacks are meaningless."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not in a table, with the names in the table.

    Args:
      kind: kind of object, such as "encoder".
      name: the unknown name.
      known: the names in the table.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(names)}.{hint}")
