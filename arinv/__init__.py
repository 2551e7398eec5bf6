"""Adversarially robust networks and their inversion into images, in JAX."""

__version__ = "0.1.0"
