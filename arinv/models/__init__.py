"""Encoders, their inverting generators, the denoiser and the discriminator, as flax linen modules."""

from arinv.models.encoders.base import Encoder, FeatureSpec, Stage, TorchLayer
from arinv.models.pytorch import convert
from arinv.models.pytorch.convert import load_lpips_heads
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
    "ENCODERS",
    "Denoiser",
    "Encoder",
    "FeatureSpec",
    "Stage",
    "TorchLayer",
    "build",
    "build_denoiser",
    "build_discriminator",
    "build_generator",
    "convert",
    "feature_spec",
    "load_lpips_heads",
]
