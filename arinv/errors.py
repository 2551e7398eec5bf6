"""The one exception that stands for a user's mistake: a single clear line, shown without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong config, file, shape or value. The message names it, what is allowed, and what to do.

    It is one line, also where it shows a name with line breaks.
    """

    def __init__(self, message: str = ""):
        super().__init__("\\n".join(str(message).splitlines()))


class RadiusWarning(UserWarning):
    """A radius that reaches every image: whatever is attacked there, no result says anything."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not in a table, listing those that are.

    Args:
      kind: what the name stands for, such as "encoder".
      name: what was asked for.
      known: the names that exist.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(names)}.{hint}")
