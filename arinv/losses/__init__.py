"""Losses: float32 [B], one number per example; the caller takes the mean and applies weights."""

from arinv.losses.adversarial import discriminator_loss, generator_loss
from arinv.losses.classification import cross_entropy
from arinv.losses.reconstruction import feature_loss, pixel_loss

__all__ = ["cross_entropy", "discriminator_loss", "feature_loss", "generator_loss", "pixel_loss"]
