"""Losses: float32 [B], one number per example; the caller takes the mean and applies weights."""

from arinv.losses.adversarial import discriminator_loss, generator_loss
from arinv.losses.classification import cross_entropy
from arinv.losses.reconstruction import feature_loss, pixel_loss
from arinv.losses.robust import (
    WEIGHTINGS,
    divergence_share,
    gair_rst_loss,
    geometry_weights,
    kl_divergence,
    margin_loss,
    trades_loss,
)

__all__ = [
    "WEIGHTINGS",
    "cross_entropy",
    "discriminator_loss",
    "divergence_share",
    "feature_loss",
    "gair_rst_loss",
    "generator_loss",
    "geometry_weights",
    "kl_divergence",
    "margin_loss",
    "pixel_loss",
    "trades_loss",
]
