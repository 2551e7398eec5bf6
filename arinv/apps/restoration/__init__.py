"""Inverse problems with a generator: restoration of degraded images by a search in its latent space."""
