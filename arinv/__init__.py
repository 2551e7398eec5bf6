"""Adversarially robust networks and their inversion into images, in JAX.

Import it before the first computation of a program: it keeps known faults of XLA away, see `avoid_faults_of_xla`.
"""

import os
from collections.abc import MutableMapping
from importlib import metadata

__version__ = "0.1.0"

_FUSIONS, _WITHOUT = "--xla_cpu_experimental_ynn_fusion_type", "-reduce,-individual_convolution"
_FAULTY = ("0.10.2", "0.11.0")


def avoid_faults_of_xla(environment: MutableMapping[str, str], *, jaxlib_version: str) -> None:
    """Adds to XLA_FLAGS what the installed compiler must not do; a choice of the user's own stays.

    Two versions hand work on CPUs to a library of kernels, of which two kinds are left out:

        sums and maxima   where they meet products of matrices in one kernel, it returns wrong numbers without a word
                          (jax-ml/jax issue 39103; a chain of four products in tests/test_compiler.py)
        convolutions      take twice the time on two cores: a forward pass of ResNet-18 181 against 91 ms, its image
                          gradient 481 against 236 (16 images of 32 px, float32)

    XLA reads the variable when it is first used, not again.

    Args:
      environment: os.environ.
      jaxlib_version: of the installed jaxlib; other versions get no flag, as one that they do not know ends the
        process.
    """
    flags = environment.get("XLA_FLAGS", "")
    if jaxlib_version in _FAULTY and _FUSIONS not in flags:
        environment["XLA_FLAGS"] = f"{flags} {_FUSIONS}={_WITHOUT}".strip()


avoid_faults_of_xla(os.environ, jaxlib_version=metadata.version("jaxlib"))
