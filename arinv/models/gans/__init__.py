"""Generative adversarial networks: a generator from latents of a known law, and its discriminator."""
