"""Encoders: images in [0, 1] to logits and named features."""
