"""Encoders, the generators that invert them, and the discriminator. The door to flax linen."""

from arinv.models import convert
from arinv.models.features import FeatureSpec, Stage
from arinv.models.lpips_heads import load_lpips_heads
from arinv.models.registry import ENCODERS, build, build_discriminator, build_generator, feature_spec

__all__ = [
    "ENCODERS",
    "FeatureSpec",
    "Stage",
    "build",
    "build_discriminator",
    "build_generator",
    "convert",
    "feature_spec",
    "load_lpips_heads",
]
