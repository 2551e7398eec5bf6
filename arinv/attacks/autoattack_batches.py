"""One batch of one of AutoAttack's attacks, compiled once for each size of batch.

The compiled functions serve all calls with one model function: weights are arguments, as are targets, radius and
numbers of queries.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from arinv.attacks.apgd import RADII, apgd
from arinv.attacks.fab import fab
from arinv.attacks.rows import fold_in
from arinv.attacks.square import SquareSearch, square_continue, square_start
from arinv.types import Array, LogitsFn

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")


class Outcome(NamedTuple):
    """What came of a batch.

    Attributes:
      images: float32 [B, H, W, C], candidates for adversarial images.
      forward: number of images, padding included, that went through the model.
      backward: likewise.
      margins: float32 [B] of the Square Attack, else None.
    """

    images: Array
    forward: int
    backward: int
    margins: Array | None = None


def attack_batch(
    key: Array,
    model: LogitsFn,
    batch: Mapping[str, Array],
    *,
    name: str,
    eps: float,
    norm: str,
    round: int,
    num_steps: int,
    first_query: int,
    num_queries: int,
) -> Outcome:
    """Returns what one round of an attack makes of a batch.

    Args:
      key: of the attack, the same for all its rounds and batches.
      model: a pytree, images -> logits.
      batch: {"image", "label", "index"}, the last the numbers of the images from which their randomness follows;
        "target" for targeted attacks; "found" and "margin", as the round before left them, for Square.
      name: one of ATTACKS.
      eps: radius in units of the images.
      norm: "l1", "l2" or "linf".
      round: number of the restart or target, from 0.
      num_steps: of a gradient attack.
      first_query: of the Square Attack in this round; at 0 it begins.
      num_queries: likewise, how many.

    Returns:
      The outcome.
    """
    if name == "square":
        return _search(key, model, batch, eps, norm, first_query, num_queries)
    key = jax.random.fold_in(key, round)
    if name == "fab-t":
        images = _fab(model, key, batch, eps, norm=norm, num_steps=num_steps)
        return Outcome(images, forward=2 * len(images) * num_steps, backward=len(images) * num_steps)
    images = _apgd(model, key, batch, eps, norm=norm, num_steps=num_steps)
    passes = len(images) * (num_steps + (len(RADII) if norm == "l1" else 1))
    return Outcome(images, forward=passes, backward=passes)


def _search(key: Array, model: LogitsFn, batch: Mapping[str, Array], eps: float, norm: str, first: int, count: int):
    search = SquareSearch(batch["found"], batch["margin"], np.int32(first))
    if first == 0:
        search = _square_start(model, key, batch, eps, norm=norm)
    search = _square_continue(model, key, batch, eps, search, np.int32(count), norm=norm)
    queries = int(search.query) - first + (first == 0)
    return Outcome(search.images, forward=queries * len(search.images), backward=0, margins=search.margins)


def _keyed(attack: Callable) -> Callable:
    """Returns (key, model, batch, ...) -> attack with a key for each image, whatever batch it is in."""

    def keyed(key, model, batch, *arguments, **options):
        return attack(fold_in(key, batch["index"]), model, batch["image"], batch["label"], *arguments, **options)

    return keyed


@functools.partial(jax.jit, static_argnames=("norm", "num_steps"))
def _apgd(model, key, batch, eps, *, norm, num_steps):
    options = {"loss": "dlr_targeted", "targets": batch["target"]} if "target" in batch else {"loss": "ce"}
    options |= {"norm": norm, "num_steps": num_steps, "large_radii": norm == "l1"}
    return _keyed(apgd)(key, model, batch, eps=eps, **options)


@functools.partial(jax.jit, static_argnames=("norm", "num_steps"))
def _fab(model, key, batch, eps, *, norm, num_steps):
    options = {"targets": batch["target"], "norm": norm, "num_steps": num_steps}
    return _keyed(fab)(key, model, batch, eps=eps, **options)


@functools.partial(jax.jit, static_argnames="norm")
def _square_start(model, key, batch, eps, *, norm):
    return _keyed(square_start)(key, model, batch, eps=eps, norm=norm)


@functools.partial(jax.jit, static_argnames="norm")
def _square_continue(model, key, batch, eps, search, count, *, norm):
    return _keyed(square_continue)(key, model, batch, search, eps=eps, norm=norm, num_queries=count)
