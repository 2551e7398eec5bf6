"""State, progress and result of AutoAttack, and one round of an attack on a batch.

An attack has rounds: a restart, a target class, or some hundred queries. A round has a queue of the images that were
classified correctly at its start, and attacks it batch by batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from arinv.attacks.apgd import RADII, apgd
from arinv.attacks.fab import fab
from arinv.attacks.square import SquareSearch, square_continue, square_start
from arinv.errors import UserError
from arinv.ops.keys import fold_in
from arinv.types import Array, LogitsFn


@dataclasses.dataclass
class AutoAttackState:
    """The resumable state of AutoAttack: NumPy arrays, numbers and text.

    Attributes:
      settings: settings of the run, as text; a resumed run must have the same.
      messages: reasons to doubt the result, from the checks of the model.
      classes: int32 [N, R], the classes of the largest logits of the images, the prediction first.
      robust: bool [N], whether no attack has succeeded; False where the clean image is misclassified, and in padding.
      adversarial: float32 [N, H, W, C], the image where none has succeeded; while the Square Attack runs, its
        best until now.
      predictions: int32 [N], the classes of `adversarial`.
      margins: float32 [N], the smallest margins found by the Square Attack.
      group: number of the current group of images.
      attack: number of the current attack; the number of attacks when done.
      round: number of the current round.
      queue: int64 [M], the images of this round.
      position: number of images of the queue that are done.
      survivors: int64 [A], the number of images of all groups until now that are robust after each attack.
      seconds: float64 [A], duration of each attack, compilation included.
      forward_passes: int64 [A], forward passes of each attack, counted in images, padding included.
      backward_passes: int64 [A], backward passes of each attack, counted in images, padding included.
    """

    settings: str
    messages: list[str]
    classes: np.ndarray
    robust: np.ndarray
    adversarial: np.ndarray
    predictions: np.ndarray
    margins: np.ndarray
    group: int
    attack: int
    round: int
    queue: np.ndarray
    position: int
    survivors: np.ndarray
    seconds: np.ndarray
    forward_passes: np.ndarray
    backward_passes: np.ndarray

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns copies of the state as arrays for `numpy.savez`."""
        arrays = {name: np.array(value) for name, value in vars(self).items()}
        return arrays | {"messages": np.array(self.messages, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "AutoAttackState":
        """Returns the state of the arrays of `to_arrays`.

        Args:
          arrays: arrays by name, as `numpy.load` returns them.

        Raises:
          UserError: missing arrays.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in arrays]:
            raise UserError(f"this is not a state of AutoAttack: {', '.join(missing)} missing")
        values = {name: np.array(arrays[name]) for name in names}
        values |= {name: int(values[name]) for name in ("group", "attack", "round", "position")}
        return cls(**values | {"settings": str(values["settings"]), "messages": values["messages"].tolist()})

    def copy(self) -> "AutoAttackState":
        """Returns a deep copy."""
        return self.from_arrays(self.to_arrays())


@dataclasses.dataclass(frozen=True)
class AttackRecord:
    """The record of one attack.

    Attributes:
      robust_accuracy: robust accuracy after this attack and those before it, in 0 to 1.
      seconds: duration, compilation and all parts of an interrupted run included.
      forward_passes: forward passes, counted in images, padding included.
      backward_passes: backward passes, counted in images, padding included.
    """

    robust_accuracy: float
    seconds: float
    forward_passes: int
    backward_passes: int


@dataclasses.dataclass(frozen=True)
class AutoAttackResult:
    """The result of AutoAttack on the first N images, those that were attacked.

    Attributes:
      adversarial: float32 [N, H, W, C] in [0, 1], the image itself where no attack succeeded.
      robust: bool [N], classified correctly and broken by no attack; False in padding.
      clean: bool [N], classified correctly without attack; False in padding.
      predictions: int32 [N], the classes of `adversarial`.
      clean_accuracy: accuracy without attack, in 0 to 1, without padding.
      robust_accuracy: accuracy after all attacks, in 0 to 1, without padding.
      per_attack: name -> record, in the order of the attacks.
      messages: reasons to doubt the robust accuracy; empty for none.
    """

    adversarial: np.ndarray
    robust: np.ndarray
    clean: np.ndarray
    predictions: np.ndarray
    clean_accuracy: float
    robust_accuracy: float
    per_attack: Mapping[str, AttackRecord]
    messages: list[str]

    def __repr__(self) -> str:
        """Returns the accuracies, without the arrays."""
        attacks = ", ".join(f"{name} {record.robust_accuracy:.1%}" for name, record in self.per_attack.items())
        messages = f"; {len(self.messages)} messages" if self.messages else ""
        shape = "x".join(map(str, self.adversarial.shape))
        return (
            f"AutoAttackResult({shape} images; clean {self.clean_accuracy:.1%}, robust {self.robust_accuracy:.1%} "
            f"(after {attacks}){messages})"
        )


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of AutoAttack after a batch.

    Attributes:
      attack: name of the current attack.
      round: number of the restart, target or piece of the search, from 1.
      rounds: number of rounds of this attack.
      done: number of images of this round that are done.
      total: number of images of this round.
      robust_accuracy: robust accuracy of the images attacked so far, in 0 to 1.
      passes: forward and backward passes of the model until now.
      passes_left: largest number of passes to come in this group of images, if no further image is broken.
    """

    attack: str
    round: int
    rounds: int
    done: int
    total: int
    robust_accuracy: float
    passes: int
    passes_left: int


AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")


class Outcome(NamedTuple):
    """The outcome of a batch.

    Attributes:
      images: float32 [B, H, W, C], candidates for adversarial images.
      forward: forward passes, counted in images, padding included.
      backward: backward passes, counted in images, padding included.
      margins: float32 [B], margins of the Square Attack; None for other attacks.
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
    """Attacks a batch in one round of an attack.

    Args:
      key: PRNG key of the attack, the same for all its rounds and batches.
      model: a pytree, images -> logits.
      batch: {"image", "label", "index"}, the last the numbers of the images, which decide their randomness;
        "target" for targeted attacks; "best" and "margin" of the round before for Square.
      name: one of AUTOATTACK.
      eps: radius in units of the images.
      norm: "l1", "l2" or "linf".
      round: number of the restart or target, from 0.
      num_steps: number of steps of a gradient attack.
      first_query: number of the first query of the Square Attack in this round; 0 starts a search.
      num_queries: number of queries of the Square Attack in this round.

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
    search = SquareSearch(batch["best"], batch["margin"], np.int32(first))
    if first == 0:
        search = _square_start(model, key, batch, eps, norm=norm)
    search = _square_continue(model, key, batch, eps, search, np.int32(count), norm=norm)
    queries = int(search.query) - first + (first == 0)
    return Outcome(search.images, forward=queries * len(search.images), backward=0, margins=search.margins)


def _keyed(attack: Callable) -> Callable:
    """Returns (key, model, batch, ...) -> attack with a key for each image, independent of its batch."""

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
