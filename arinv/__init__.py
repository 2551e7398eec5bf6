"""Adversarially robust networks and their inversion into images, in JAX.

Import it before the first computation of a program: it sets the XLA_FLAGS that the installed jaxlib needs on CPUs
(`arinv._xla`), and XLA reads them once.
"""

from arinv import _xla  # noqa: F401

__version__ = "0.1.0"
