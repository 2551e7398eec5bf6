"""Inversion of pictures of any size, enlarged pictures, and the comparison with optimisation."""
