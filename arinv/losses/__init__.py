"""Losses: one number per example, float32 [B]; the caller reduces and applies weights."""

from arinv.losses.adversarial import equilibrium_loss, gradient_penalty, update_balance, wasserstein_loss
from arinv.losses.classification import (
    WEIGHTINGS,
    cross_entropy,
    divergence_share,
    gair_rst_loss,
    geometry_weights,
    kl_divergence,
    margin_loss,
    trades_loss,
)
from arinv.losses.reconstruction import (
    discriminator_loss,
    feature_loss,
    generator_loss,
    pixel_loss,
    prior_divergence,
)

__all__ = [
    "WEIGHTINGS",
    "cross_entropy",
    "discriminator_loss",
    "divergence_share",
    "equilibrium_loss",
    "feature_loss",
    "gair_rst_loss",
    "generator_loss",
    "geometry_weights",
    "gradient_penalty",
    "kl_divergence",
    "margin_loss",
    "pixel_loss",
    "prior_divergence",
    "trades_loss",
    "update_balance",
    "wasserstein_loss",
]
