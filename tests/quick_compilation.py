"""XLA's flags for programs that are compiled to run a few steps, for this process and for those it starts."""

from importlib import metadata

from arinv._xla import quick_flags

FLAGS = quick_flags(metadata.version("jaxlib"))
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
