"""The table of encoders, and the generators, denoisers and discriminators that fit them."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.models.encoders.alexnet import AlexNet, AlexNetSmall, CaffeNet
from arinv.models.encoders.base import Encoder, FeatureSpec, mean_std
from arinv.models.encoders.preactivation import PreActResNet, WideResNet
from arinv.models.encoders.resnet import ResNet
from arinv.models.encoders.shallow import Hog, Lbp, Sift
from arinv.models.encoders.vgg import VGG
from arinv.models.generators.discriminator import Discriminator, stem_stride
from arinv.models.generators.mirror import Generator, mirror_plan
from arinv.models.generators.plans import PAPER_PLANS, shorten
from arinv.models.generators.wavelet import (
    PAD_SIDES,
    WaveletDecoder,
    WaveletEncoder,
    WaveletPlans,
    alexnet_plans,
    alexnet_small_plans,
)
from arinv.ops.inputs import as_dtype, check_count, check_flag, check_number


class Architecture(NamedTuple):
    """A row of the table of encoders.

    Attributes:
      module: the class, which states the facts of the encoder.
      options: options that differ from the defaults of the class.
      wavelet: the module -> plans of its denoiser; None where there is none.
    """

    module: type[Encoder]
    options: Mapping[str, Any]
    wavelet: Callable[[Any], WaveletPlans] | None = None


# "vgg16_bn" is Adv-BNN's, for ImageNet-143; torchvision's has head="dense" and normalization="imagenet".
_ADV_BNN = {"batch_norm": True, "head": "pooled", "normalization": "none", "num_classes": 143}
_34, _LARGE = {"depths": (3, 4, 6, 3)}, {"stem": "imagenet", "normalization": "imagenet", "num_classes": 1000}
_BOTTLENECKS = {**_34, "block": "bottleneck"}
_DEEPMIND = {"variant": "deepmind", "activation": "silu", "normalization": "cifar10_pixels"}

ENCODERS: dict[str, Architecture] = {
    "alexnet": Architecture(AlexNet, {}, wavelet=alexnet_plans),
    "alexnet_small": Architecture(AlexNetSmall, {}, wavelet=alexnet_small_plans),
    "caffenet": Architecture(CaffeNet, {}),
    "hog": Architecture(Hog, {}),
    "lbp": Architecture(Lbp, {}),
    "preact_resnet18": Architecture(PreActResNet, {}),
    "preact_resnet18_silu": Architecture(PreActResNet, _DEEPMIND),
    "resnet18": Architecture(ResNet, {}),
    "resnet18_imagenet": Architecture(ResNet, _LARGE),
    "resnet34_imagenet": Architecture(ResNet, {**_LARGE, **_34}),
    "resnet50": Architecture(ResNet, _BOTTLENECKS),
    "resnet50_imagenet": Architecture(ResNet, {**_LARGE, **_BOTTLENECKS}),
    "resnet101_imagenet": Architecture(ResNet, {**_LARGE, **_BOTTLENECKS, "depths": (3, 4, 23, 3)}),
    "sift": Architecture(Sift, {}),
    "sift_skimage": Architecture(Sift, {"library": "skimage"}),
    "vgg16": Architecture(VGG, {}),
    "vgg16_bn": Architecture(VGG, _ADV_BNN),
    "vgg19": Architecture(VGG, {"depths": (2, 2, 4, 4, 4)}),
    "wide_resnet50_2": Architecture(ResNet, {**_LARGE, **_BOTTLENECKS, "bottleneck_width": 2}),
    "wrn28_10": Architecture(WideResNet, {}),
    "wrn28_10_silu": Architecture(WideResNet, _DEEPMIND),
    "wrn34_10": Architecture(WideResNet, {"depth": 34}),
    "wrn70_16_silu": Architecture(WideResNet, {**_DEEPMIND, "depth": 70, "width": 16}),
}

_MINIMUM = {"num_classes": 0, "first_octave": -1}  # of whole numbers; 1 of the others
_MAXIMUM = 1_000_000  # of whole numbers; no memory holds wider or deeper networks


class Denoiser(NamedTuple):
    """The two halves of a denoiser.

    Attributes:
      encoder: images [B, H, W, 3] in [0, 1] -> (features, details), with the convolutions of a classifier.
      decoder: (features["conv5"], details) -> images of the same size.
    """

    encoder: nn.Module
    decoder: nn.Module


def build(name: str, *, num_classes: int | None = None, **options) -> Encoder:
    """Returns an encoder.

    Args:
      name: name of the architecture, a key of ENCODERS.
      num_classes: length of the logits; None for the architecture's own, 0 for the spatial features alone, at any
        image size.
      **options: attributes of the architecture, such as width, normalization (a name, or mean and standard
        deviation of RGB) or dtype.

    Returns:
      A module: images [B, H, W, 3] in [0, 1] -> (logits [B, K], {"conv1": ..., ...}); `Encoder` lists its facts.

    Raises:
      UserError: unknown encoder, option, normalization or dtype, or a number of classes, a width or a depth that is
        not a whole number or too small.
    """
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    if num_classes is not None:
        options["num_classes"] = num_classes
    module, defaults = ENCODERS[name].module, ENCODERS[name].options
    _check_options(f"encoder {name!r}", module, options)
    options = {**defaults, **options}
    if not module.has_weights and options.get("num_classes"):
        raise UserError(
            f"encoder {name!r} has no weights, so it has no classes and is not trained; invert it with "
            f"configs/inverter.py:encoder={name}"
        )
    if "depths" in options:
        options["depths"] = _depths(name, options["depths"], len(module.depths))
    if "normalization" in options:
        pixels = mean_std(options["normalization"])
        options["normalization"] = options["normalization"] if isinstance(options["normalization"], str) else pixels
    return module(**options)


def _check_options(owner: str, module: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Checks that options are attributes of a module, and have their types and ranges.

    Raises:
      UserError: naming the first that is not.
    """
    fields = {field.name: field.type for field in dataclasses.fields(module) if field.name not in ("parent", "name")}
    for option, value in options.items():
        name = f"{option} of {owner}"
        if option not in fields:
            raise unknown(f"option of {owner}", option, fields)
        if option == "dtype":
            as_dtype(value)
        elif option == "dropout":
            if check_number(value, name, minimum=0.0) >= 1:
                raise UserError(f"{name} must be 0 (none) or more and below 1; got {value!r}")
        elif fields[option] is bool:
            check_flag(value, name)
        elif fields[option] is int:
            if check_count(value, name, minimum=_MINIMUM.get(option, 1)) > _MAXIMUM:
                raise UserError(f"{name} must be at most {_MAXIMUM:,}; got {value}")
        elif fields[option] is float:
            check_number(value, name)
        elif fields[option] is str and not isinstance(value, str):
            raise UserError(f"{name} must be text; got {value!r}")


def _depths(name: str, depths: Any, stages: int) -> tuple[int, ...]:
    """Returns the blocks of each stage, hashable also where they come from a file.

    Raises:
      UserError: not one whole number of 1 or more for each stage.
    """
    depths = tuple(depths) if isinstance(depths, list | tuple) else ()
    if len(depths) != stages or not all(isinstance(depth, numbers.Integral) and depth >= 1 for depth in depths):
        raise UserError(f"depths of encoder {name!r} must be {stages} whole numbers of 1 or more; got {depths}")
    return depths


def feature_spec(encoder: str, layer: str, **options) -> FeatureSpec:
    """Returns the place of one named feature in its encoder.

    Args:
      encoder: name of the encoder, a key of ENCODERS.
      layer: name of the feature, such as "conv5".
      **options: options of `build`.

    Returns:
      Resolutions from the image to the feature; `side(image_size)` gives its side.

    Raises:
      UserError: unknown encoder, or a layer that it does not have.
    """
    specs = build(encoder, **options).feature_specs()
    if layer not in specs:
        raise unknown(f"layer of encoder {encoder!r}", layer, specs)
    return specs[layer]


def build_generator(
    encoder: str,
    layer: str,
    *,
    image_size: int | None = None,
    variant: str = "default",
    spectral_norm: bool = True,
    dtype: jax.typing.DTypeLike = jnp.float32,
    encoder_options: dict | None = None,
    latent: bool = False,
) -> Generator:
    """Returns the generator of images from one feature of an encoder.

    Args:
      encoder: name of the encoder.
      layer: name of the feature, such as "conv5".
      image_size: side of the images in pixels, used for vector features and for plans whose output has another side;
        None for the encoder's own.
      variant: "default" (the published plan if there is one, else the mirror rule), "mirror" (the rule), "nearest" (the
        rule with nearest upsampling, which draws no checkerboard), or the name of another published plan, such as
        "table_a4" for AlexNet's conv5, "dosovitskiy_brox" or "deepsim" for CaffeNet's layers.
      spectral_norm: normalize every kernel by its largest singular value, where the plan does.
      dtype: floating-point type of the computation, such as "bfloat16"; parameters stay float32.
      encoder_options: options of `build`; the encoder's width decides the generator's.
      latent: generate from a vector of any length in place of the feature, such as a variational autoencoder's latents;
        published plans are then those of fc6, which begin with dense layers.

    Returns:
      A module: features [B, ...] -> images [B, H, W, 3] in [0, 1].

    Raises:
      UserError: unknown encoder, layer or variant, or flags that are neither true nor false.
    """
    check_flag(spectral_norm, "spectral_norm")
    check_flag(latent, "latent")
    options = _checked_options(encoder_options)
    spec = feature_spec(encoder, layer, **options)
    spec, planned = (dataclasses.replace(spec, is_vector=True), "fc6") if latent else (spec, layer)
    variants = {v for e, name, v in PAPER_PLANS if (e, name) == (encoder, planned)} | {"default", "mirror", "nearest"}
    if variant not in variants:
        raise unknown(f"generator variant for {encoder} {layer}", variant, variants)
    as_dtype(dtype)
    image_size = build(encoder, **options).image_size if image_size is None else check_count(image_size, "image_size")
    upsampling = "nearest" if variant == "nearest" else "transposed"
    plan = PAPER_PLANS.get((encoder, planned, variant))
    plan = shorten(plan, image_size) if plan else mirror_plan(spec, image_size=image_size, upsampling=upsampling)
    return Generator(
        plan,
        is_vector=spec.is_vector,
        spectral_norm=spectral_norm and plan.spectral_norm,
        image_size=image_size if plan.fit else 0,
        dtype=dtype,
    )


def _checked_options(options: dict | None) -> dict:
    if not isinstance(options, Mapping | None):
        raise UserError(f"encoder_options must be options of build by name, such as {{'width': 16}}; got {options!r}")
    return dict(options or {})


def build_denoiser(
    encoder: str = "alexnet",
    *,
    variant: str = "default",
    pad_side: str = "official",
    spectral_norm: bool = True,
    dtype: jax.typing.DTypeLike = jnp.float32,
    encoder_options: dict | None = None,
) -> Denoiser:
    """Returns the two halves of a denoiser.

    Args:
      encoder: name of the encoder whose weights the first half has; "alexnet" or "alexnet_small".
      variant: plan of the second half: "default" (of AlexNet, the released code) or, of AlexNet, "table_a9".
      pad_side: sides on which the second half pads: "official" or "aligned".
      spectral_norm: normalize every kernel of the second half by its largest singular value.
      dtype: floating-point type of the computation, such as "bfloat16"; parameters stay float32.
      encoder_options: options of `build`; the pixel normalization and the width matter.

    Returns:
      A `Denoiser`, two Flax modules.

    Raises:
      UserError: unknown encoder, variant or side, a side of a decoder that does not pad, or `spectral_norm` that is
        neither true nor false.
    """
    check_flag(spectral_norm, "spectral_norm")
    known = [name for name, row in ENCODERS.items() if row.wavelet]
    if encoder not in known:
        raise unknown("encoder of a denoiser", encoder, known)
    module = build(encoder, dtype=dtype, **_checked_options(encoder_options))
    plans = ENCODERS[encoder].wavelet(module)
    if variant not in plans.decoders:
        raise unknown("variant of the denoiser's decoder", variant, plans.decoders)
    if pad_side not in PAD_SIDES:
        raise unknown("pad_side", pad_side, PAD_SIDES)
    plan = plans.decoders[variant]
    if pad_side != "official" and all(step.kind != "pad" for step in plan):
        raise UserError(f"pad_side={pad_side!r} is of decoders that pad, unlike {encoder}'s: leave it 'official'")
    return Denoiser(
        WaveletEncoder(plans.encoder, normalization=module.normalization, dtype=dtype),
        WaveletDecoder(plan, pad_side=pad_side, spectral_norm=spectral_norm, dtype=dtype),
    )


def build_discriminator(*, image_size: int, **options) -> Discriminator:
    """Returns the discriminator for square images.

    Args:
      image_size: side of the images in pixels, at least 24.
      **options: attributes of Discriminator.

    Returns:
      A Flax module, images [B, S, S, 3] -> logits [B].

    Raises:
      UserError: images too small for its five convolutions, an unknown option, or one out of range.
    """
    _check_options("the discriminator", Discriminator, options)
    if check_count(image_size, "image_size") < 24:
        raise UserError(f"image_size of the discriminator must be at least 24 px; got {image_size}")
    return Discriminator(stem_stride=stem_stride(image_size), **options)
