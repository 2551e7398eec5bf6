"""Checks of the fields that tasks share, and what they stand for: dtype, mesh, channels, attack."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from arinv import attacks, data, distributed, parallel
from arinv.errors import RadiusWarning, UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import check_count, radius_warning

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def check_images(config: ConfigDict) -> None:
    """Checks that config.data.name can name user-supplied images: a file, a folder or photographs.

    Raises:
      UserError: it is empty, or names unknown photographs.
    """
    if not config.data.name:
        raise UserError("images is empty; name an image file, a folder of images, or photos")
    if data.is_photographs(config.data.name):
        data.photograph_names(config.data.name)  # raises


def check_fields(config: ConfigDict) -> None:
    """Checks the fields that every task with data has.

    Raises:
      UserError: unknown dtype, batch size that the devices do not divide, image size out of range, unknown channels
        or window, an unknown split, or a negative seed or number of images.
    """
    dtype_of(config)
    mesh_of(config)
    if not 0 <= config.get("seed", 0) < 2**32:  # JAX silently drops higher bits
        raise UserError(f"seed={config.seed} must be 0 to {2**32 - 1}")
    for name in ("num_train", "num_test"):
        if config.data.get(name, 0) < 0:
            raise UserError(f"data.{name}={config.data[name]} must be 0 (all images) or more")
    for name in ("train_split", "test_split"):
        if split := config.data.get(name):
            data.check_split(config.data.name, split, field=f"data.{name}")
    image_size = config.data.get("image_size", 1)
    if not 1 <= image_size <= data.LARGEST_SIDE:
        raise UserError(f"data.image_size={image_size} must be 1 to {data.LARGEST_SIDE} px")
    channels_of(config)
    if window := config.data.get("window", ()):
        data.check_window(window)
    check_num_images(config)


def channels_of(config: ConfigDict) -> int:
    """Returns the channels of the images of config.data, 1 or 3.

    Raises:
      UserError: another number.
    """
    channels = config.data.get("channels", 3)
    if channels not in (1, 3):
        raise UserError(f"data.channels={channels!r} must be 1 (grey) or 3 (RGB)")
    return channels


def check_num_images(config: ConfigDict) -> None:
    """Checks the number of images that figures show.

    Raises:
      UserError: negative number.
    """
    if config.log.num_images < 0:
        raise UserError(f"num_images={config.log.num_images} must be 0 (no figure) or more")


def attack_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of attacks.make_attack from an attack's config, in which step_size 0 is the attack's default.

    Raises:
      UserError: eps or a step that is negative or not a number, an unknown name or norm, or one that does not go with
        the other.
    """
    options = dict(config)
    for name in ("eps", "step_size"):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise UserError(f"attack.{name} must be a number of 0 or more, in units of [0, 1] images; got {value!r}")
    norms.check_norm(options["norm"])
    report_radius(options["eps"], options["norm"])
    attacks.check_attack(name=options.get("name", "pgd"), norm=options["norm"])
    check_count(options["num_steps"], "attack.num_steps")
    options["step_size"] = options["step_size"] or None
    return options


@functools.cache
def report_radius(eps: float, norm: str) -> None:
    """Warns, once and on process 0, about a radius that includes every image, such as eps=8 in linf.

    Args:
      eps: attack.eps of a config.
      norm: attack.norm.
    """
    if text := radius_warning(eps, norm):
        distributed.report(f"warning: attack.eps={text}")
        warnings.simplefilter("ignore", RadiusWarning)  # already reported


def dtype_of(config: ConfigDict) -> jax.typing.DTypeLike:
    """Returns the dtype of the computation.

    Raises:
      UserError: unknown name.
    """
    if config.dtype not in _DTYPES:
        raise unknown("dtype", config.dtype, _DTYPES)
    return _DTYPES[config.dtype]


def mesh_of(config: ConfigDict) -> jax.sharding.Mesh:
    """Returns the mesh of a config, checked to divide the batch."""
    mesh = parallel.make_mesh(**config.mesh)
    parallel.check_batch_size(config.batch_size, mesh)
    return mesh
