"""Encoders, generators that invert them, denoisers, discriminators, GANs and autoencoders, as Flax Linen modules."""

from arinv.models.autoencoders import (
    AUTOENCODERS,
    LATENT,
    Autoencoder,
    LayerAutoencoder,
    VariationalAutoencoder,
    VariationalEncoder,
    build_autoencoder,
    variational_encoder,
)
from arinv.models.encoders.base import Encoder, FeatureSpec, Stage, TorchLayer, spatial_layers
from arinv.models.gans import GANS, Gan, build_gan
from arinv.models.pytorch import convert
from arinv.models.pytorch.convert import load_lpips_heads, load_torch
from arinv.models.registry import (
    ENCODERS,
    Denoiser,
    build,
    build_denoiser,
    build_discriminator,
    build_generator,
    feature_spec,
)

__all__ = [
    "AUTOENCODERS",
    "ENCODERS",
    "GANS",
    "LATENT",
    "Autoencoder",
    "Denoiser",
    "Encoder",
    "FeatureSpec",
    "Gan",
    "LayerAutoencoder",
    "Stage",
    "TorchLayer",
    "VariationalAutoencoder",
    "VariationalEncoder",
    "build",
    "build_autoencoder",
    "build_denoiser",
    "build_discriminator",
    "build_gan",
    "build_generator",
    "convert",
    "feature_spec",
    "load_lpips_heads",
    "load_torch",
    "spatial_layers",
    "variational_encoder",
]
