"""Degradations of images: noise of denoisers by two protocols, and the operators of inverse problems.

Images are float32 [B, H, W, C] in [0, 1], noise levels in the same unit: 50/255 is fifty grey levels. Published tables
of denoisers differ in whether the noisy image is clipped to [0, 1], which changes every result, so results record the
name of the protocol.

"clipped"    clip(x + sigma N(0, 1), 0, 1), as Rojas-Gomez et al. 2022, section 3.3
"unclipped"  x + sigma N(0, 1), as most tables of denoisers; values leave [0, 1]

An operator has two maps: `degrade`, x+ = degrade(x), and `project`, S, which is applied to a generator's images before
they are compared with x+. S is the identity for degradations that it does not model, such as noise. Each
image has its own PRNG key, so that its noise or mask does not depend on its batch; S with the same keys uses the same
masks.

Source of the operators: Generative Encoder, sections 3.2 and 4.3; multiplicative noise and compressed sensing are named
there without an experiment, and their strengths are ours. The paper states its noise in units of its images, probably
[-1, 1], where sigma 0.5 is 0.25 here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dm_pix
import jax
import jax.numpy as jnp

from arinv.errors import UserError, unknown
from arinv.ops import pooling
from arinv.ops.channels import flatten_rows
from arinv.ops.inputs import LOOSE_BOUNDS, as_images, as_indices, check_count, check_number
from arinv.ops.keys import fold_in, row_keys, single_key
from arinv.types import Array, ArrayLike

NOISE_PROTOCOLS = {
    "clipped": "clip(x + sigma N(0, 1), 0, 1), not rounded",
    "unclipped": "x + sigma N(0, 1), neither clipped nor rounded",
}


def check_noise(*, sigma: float, protocol: str) -> None:
    """Checks a noise level and the name of a protocol.

    Args:
      sigma: standard deviation of the noise, in units of [0, 1] images.
      protocol: "clipped" or "unclipped".

    Raises:
      UserError: a level outside [0, 1], such as one in grey levels, or an unknown protocol.
    """
    try:
        check_number(sigma, "sigma", minimum=0.0, maximum=1.0)
    except UserError:
        raise UserError(
            f"sigma must be 0 to 1, in units of [0, 1] images; got {sigma!r}: fifty grey levels are 50/255"
        ) from None
    if protocol not in NOISE_PROTOCOLS:
        raise unknown("noise protocol", protocol, NOISE_PROTOCOLS)


def add_gaussian_noise(key: Array, images: Array, *, sigma: float, protocol: str = "clipped") -> Array:
    """Returns images with white Gaussian noise, independent for every pixel and channel.

    Args:
      key: PRNG key.
      images: floating point [B, H, W, C] or one image [H, W, C], in [0, 1].
      sigma: standard deviation of the noise, in units of the images.
      protocol: "clipped" or "unclipped", see the module.

    Returns:
      float32, of the same shape; in [0, 1] with "clipped".

    Raises:
      UserError: images of another layout, dtype or (where values are known) range, a level out of range, an unknown
        protocol, or not a key.

    Source: Rojas-Gomez et al. 2022, section 3.3, where sigma is 50/255.
    """
    check_noise(sigma=sigma, protocol=protocol)
    shape = jnp.shape(images)
    images = as_images(images if len(shape) != 3 else jnp.asarray(images)[None], finite=False).reshape(shape)
    noisy = images + sigma * jax.random.normal(single_key(key), images.shape, jnp.float32)
    return jnp.clip(noisy, 0.0, 1.0) if protocol == "clipped" else noisy


Map = Callable[[Array, Array], Array]  # (keys [B], images [B, H, W, C]) -> images of the same shape


class Operator(NamedTuple):
    """A degradation, and what is known of it.

    Attributes:
      degrade: (keys [B], images [B, H, W, C] in [0, 1]) -> x+ of the same shape, which may leave [0, 1].
      project: (keys [B], images [B, H, W, C] near [0, 1]) -> S(images) of the same shape, differentiable.
      formula: the degradation as text, for results files.
    """

    degrade: Map
    project: Map
    formula: str


def build_operator(name: str, **options: Any) -> Operator:
    """Returns an operator.

    Args:
      name: a key of OPERATORS.
      **options: options of that operator, such as sigma.

    Returns:
      Its functions, on images float32 [B, H, W, C] in [0, 1], which raise UserError for others.

    Raises:
      UserError: unknown operator or option, or a number out of range.
    """
    if not isinstance(name, str) or name not in OPERATORS:
        raise unknown("operator", name, OPERATORS)
    function, defaults = OPERATORS[name]
    for option in options:
        if option not in defaults:
            raise unknown(f"option of operator {name!r}", option, defaults)
    operator = function(**{**defaults, **options})
    return operator._replace(
        degrade=_checked(operator.degrade), project=_checked(operator.project, bounds=LOOSE_BOUNDS)
    )


def check_size(operator: Operator, *, image_size: int, channels: int = 3) -> None:
    """Checks that an operator takes images of a size, without computing anything.

    Args:
      operator: an operator, from `build_operator`.
      image_size: side of the images, in pixels.
      channels: number of channels of the images, 1 or 3.

    Raises:
      UserError: images of this size or number of channels cannot be degraded.
    """
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    jax.eval_shape(operator.degrade, keys, images)
    jax.eval_shape(operator.project, keys, images)


def _checked(function: Map, **options: Any) -> Map:
    """Returns a map that checks its keys and its images; `options` are those of `as_images`."""

    def call(keys: Array, images: ArrayLike) -> Array:
        images = as_images(images, **options)
        return function(row_keys(keys, batch_size=images.shape[0]), images)

    return call


def image_keys(key: Array, indices: Array) -> Array:
    """Returns a key for each image.

    Args:
      key: PRNG key.
      indices: integer [B], the images' numbers in the dataset.

    Returns:
      Keys [B].

    Raises:
      UserError: not a key, or indices that are not integers.
    """
    return fold_in(single_key(key), as_indices(indices))


def _unchanged(keys: Array, images: Array) -> Array:
    return images


def _normal(keys: Array, shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def _identity() -> Operator:
    return Operator(_unchanged, _unchanged, "x")


def _noise(*, sigma: float) -> Operator:
    check_number(sigma, "sigma", minimum=0.0, maximum=1.0)

    def degrade(keys, images):
        return images + sigma * _normal(keys, images.shape[1:])

    return Operator(degrade, _unchanged, f"x + {sigma:g} N(0, 1), not clipped")


def _multiplicative_noise(*, sigma: float) -> Operator:
    check_number(sigma, "sigma", minimum=0.0, maximum=1.0)

    def degrade(keys, images):
        return images * (1 + sigma * _normal(keys, images.shape[1:]))

    return Operator(degrade, _unchanged, f"x (1 + {sigma:g} N(0, 1)), not clipped")


def _mask(*, share: float) -> Operator:
    check_number(share, "share", minimum=0.0, maximum=1.0)

    def apply(keys, images):
        return images * (1 - _blocks(keys, images.shape, share))

    return Operator(apply, apply, f"0 in a block of {share:g} of the sides at a random place")


def _blocks(keys: Array, shape: tuple[int, ...], share: float) -> Array:
    """Returns 1 inside each image's block and 0 outside, [B, H, W, 1]."""
    sizes = jnp.array(shape[1:3])
    sides = jnp.maximum(1 if share > 0 else 0, jnp.round(share * sizes)).astype(jnp.int32)

    def block(key):
        corner = jax.random.randint(key, (2,), 0, sizes - sides + 1)
        rows, columns = (
            (jnp.arange(size) >= corner[axis]) & (jnp.arange(size) < corner[axis] + sides[axis])
            for axis, size in enumerate(shape[1:3])
        )
        return (rows[:, None] & columns[None, :]).astype(jnp.float32)[..., None]

    return jax.vmap(block)(keys)


def _blur(*, sigma: float, window: int) -> Operator:
    check_number(sigma, "sigma", minimum=1e-3)
    check_count(window, "window")
    if window % 2 == 0:
        raise UserError(f"window must be odd, for a symmetric filter; got {window}")
    radius = window // 2

    def degrade(keys, images):
        if min(images.shape[1:3]) <= radius:
            raise UserError(f"images of {images.shape[1]}x{images.shape[2]} px are too small for a blur of {window} px")
        padded = jnp.pad(images, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="reflect")
        with jax.default_matmul_precision("highest"):  # the same images on any device
            return dm_pix.gaussian_blur(padded, sigma, window, padding="VALID")

    return Operator(degrade, _unchanged, f"Gaussian filter of {window} px, sigma {sigma:g}, edges reflected")


def _downsample(*, factor: int) -> Operator:
    check_count(factor, "factor", minimum=2)

    def apply(keys, images):
        if images.shape[1] % factor or images.shape[2] % factor:
            raise UserError(f"images of {images.shape[1]}x{images.shape[2]} px cannot be reduced {factor} times")
        return pooling.upsample_nearest(pooling.avg_pool(images, factor, factor), factor)

    return Operator(apply, apply, f"means of {factor}x{factor} pixels, repeated")


def _sensing(*, share: float, sigma: float, seed: int) -> Operator:
    check_number(share, "share", minimum=1e-6, maximum=1.0)
    check_number(sigma, "sigma", minimum=0.0)
    check_count(seed, "seed", minimum=0)

    def matrix(images):
        size = math.prod(images.shape[1:])
        if size > _MAX_SENSED:
            raise UserError(f"an image of {size:,} values needs too large a matrix; at most {_MAX_SENSED:,} are sensed")
        entries = jax.random.normal(jax.random.key(seed), (size, max(1, round(share * size))), jnp.float32)
        return jnp.linalg.qr(entries)[0]  # orthonormal, so that its transpose is the inverse on what it measures

    def project(keys, images):
        columns = matrix(images)
        with jax.default_matmul_precision("highest"):  # a second projection then changes nothing, on any device
            return (flatten_rows(images) @ columns @ columns.T).reshape(images.shape)

    def degrade(keys, images):
        columns = matrix(images)
        with jax.default_matmul_precision("highest"):
            measured = flatten_rows(images) @ columns + sigma * _normal(keys, columns.shape[1:])
            return (measured @ columns.T).reshape(images.shape)

    return Operator(degrade, project, f"A^T (A x + {sigma:g} N(0, 1)), {share:g} random orthonormal rows a value")


_MAX_SENSED = 64 * 64 * 3

# name -> (function, its options with their defaults: the paper's where it states them)
OPERATORS: Mapping[str, tuple[Callable[..., Operator], Mapping[str, Any]]] = {
    "identity": (_identity, {}),
    "noise": (_noise, {"sigma": 0.25}),
    "multiplicative_noise": (_multiplicative_noise, {"sigma": 0.25}),
    "mask": (_mask, {"share": 0.5}),
    "blur": (_blur, {"sigma": 3.0, "window": 15}),
    "downsample": (_downsample, {"factor": 4}),
    "sensing": (_sensing, {"share": 0.25, "sigma": 0.01, "seed": 0}),
}
