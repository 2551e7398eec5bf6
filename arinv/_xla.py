"""Flags and compiler options that depend on the version of XLA, and what it gains from the processor.

JAX is imported inside functions only: XLA reads XLA_FLAGS once, at the first use of a device.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from typing import Any, NamedTuple


class _Version(NamedTuple):
    """Flags for one version of jaxlib, all accepted by it, since an unknown flag ends the process.

    Attributes:
      flags: for every run.
      quick_flags: for runs of a few steps, such as tests, in which compilation takes longer than computation.
    """

    flags: str
    quick_flags: str


# On CPUs, XLA uses a library of kernels for some operations:
#   sums and maxima   fused with matrix products, 0.10.2 returns wrong numbers (jax-ml/jax issue 39103; a chain of four
#                     products in tests/unit/test_compiler.py); 0.11.0 is right.
#   convolutions      take up to twice the time on two cores in every version so far.
_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
_WITHOUT_BOTH = f"{_FUSIONS}=-reduce,-individual_convolution"
_WITHOUT_CONVOLUTIONS = f"{_FUSIONS}=-individual_convolution"
# Quick compilation keeps the slow convolutions: their rounding of an image does not depend on its batch, so that runs
# on other numbers of devices can be compared closely.
_QUICK = f"--xla_backend_optimization_level=0 {_FUSIONS}=-reduce"
_EMITTERS = "--xla_cpu_use_fusion_emitters=false"  # the emitters of fused loops take most of the compilation

# Without the library's convolutions a step of PGD-7 training of ResNet-18 takes 21 instead of 28 processor seconds with
# jaxlib 0.10.2 and 21 instead of 33 with 0.12.0.1; excluding its sums as well makes no difference
# (launch/records/versions_cpu.json). Versions that are not listed get no flag: measure one with
# `python -m launch.benchmarks.versions` and add a row.
_VERSIONS = {
    "0.10.2": _Version(_WITHOUT_BOTH, f"{_EMITTERS} {_QUICK}"),
    "0.11.0": _Version(_WITHOUT_CONVOLUTIONS, f"{_EMITTERS} {_QUICK}"),
    "0.11.1": _Version(_WITHOUT_CONVOLUTIONS, _QUICK),
    "0.11.2": _Version(_WITHOUT_CONVOLUTIONS, _QUICK),
    "0.12.0": _Version(_WITHOUT_CONVOLUTIONS, _QUICK),
    "0.12.0.1": _Version(_WITHOUT_CONVOLUTIONS, _QUICK),
}

# With one of these a program on a GPU returns the same bits each time.
_DETERMINISM = ("--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops")

_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}  # as Linux names them

# Options for a program that runs once or a few times, each passed only to compilers that accept it.
_QUICK_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def set_flags(environment: MutableMapping[str, str], *, jaxlib_version: str) -> None:
    """Adds the flags of the installed version to XLA_FLAGS, unless the user has set them.

    XLA reads the variable once, at its first use.

    Args:
      environment: os.environ.
      jaxlib_version: of the installed jaxlib; a version that is not in the table gets no flag.
    """
    flags = environment.get("XLA_FLAGS", "")
    if jaxlib_version in _VERSIONS and _FUSIONS not in flags:
        environment["XLA_FLAGS"] = f"{flags} {_VERSIONS[jaxlib_version].flags}".strip()


def quick_flags(jaxlib_version: str) -> str:
    """Returns the XLA_FLAGS for runs of a few steps; none for a version that is not in the table.

    Args:
      jaxlib_version: of the installed jaxlib.
    """
    return _VERSIONS[jaxlib_version].quick_flags if jaxlib_version in _VERSIONS else ""


def is_deterministic() -> bool:
    """Returns whether XLA_FLAGS asks for programs that return the same bits each time on a GPU."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return any(f"{name}{value}" in flags for name in _DETERMINISM for value in ("", "=true", "=1"))


@functools.cache
def has_bfloat16_products() -> bool:
    """Returns whether the processor has AVX512-BF16 or AMX, for products of bfloat16; on Linux only."""
    try:
        words = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not _BFLOAT16_INSTRUCTIONS.isdisjoint(words)


def quick_options() -> dict[str, Any]:
    """Returns compiler options for a program that runs once, as far as this version of XLA has them.

    Initializes the backend.
    """
    return supported(_QUICK_OPTIONS)


def supported(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the compiler options that the backend accepts.

    Args:
      options: name -> value, as for `jax.jit(..., compiler_options=...)`.
    """
    return {name: value for name, value in options.items() if _accepts(name, value)}


@functools.cache
def _accepts(name: str, value: Any) -> bool:
    import jax

    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:  # no such option, or no such value
        return False
    return True


with contextlib.suppress(metadata.PackageNotFoundError):  # `import jax` raises a clearer error
    set_flags(os.environ, jaxlib_version=metadata.version("jaxlib"))
