"""XLA's flags for programs that are compiled to run a few steps, for this process and for those it starts."""

import os
from importlib import metadata

_given = os.environ.get("XLA_FLAGS")

from arinv._xla import quick_flags  # noqa: E402

# The import adds the flags of ordinary runs, and of a flag that is given twice XLA heeds both.
if _given is None:
    os.environ.pop("XLA_FLAGS", None)
else:
    os.environ["XLA_FLAGS"] = _given

FLAGS = quick_flags(metadata.version("jaxlib"))
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
