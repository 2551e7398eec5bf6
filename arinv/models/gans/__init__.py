"""Generators of images from noise, and the discriminators they are trained against."""
