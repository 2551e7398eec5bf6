"""Signs that a robust accuracy cannot be trusted, and a second count of it.

Each function returns what it found as lines of text to show: an empty list is good news. Images are float32
[N, H, W, C] in [0, 1], labels int [N] with -1 for padding.

Source: after the flags of the AutoAttack code (Croce & Hein 2020); Carlini et al. 2019 (On Evaluating).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.attacks import objectives
from arinv.attacks.apgd import apgd
from arinv.attacks.buckets import Buckets, as_pytree, rank
from arinv.attacks.fab import fab
from arinv.attacks.square import square
from arinv.ops import norms
from arinv.ops.images import to_float, to_uint8
from arinv.types import Array, ArrayLike, LogitsFn

_SAME = 1e-4  # relative difference of logits between two runs of one program
_ALIKE = 5e-2  # between two compilations, which may round otherwise, also in bfloat16
_BALL_TOLERANCE = 1e-5
_SQUARE_GAIN = 0.002


class Rescored(NamedTuple):
    """A second count.

    Attributes:
      correct: bool [N], the stored images classified as labelled; False in padding and where a logit is NaN.
      correct_8bit: bool [N], the same after rounding to 256 levels.
      distances: float32 [N], from the originals.
      messages: what is wrong with them.
    """

    correct: np.ndarray
    correct_8bit: np.ndarray
    distances: np.ndarray
    messages: list[str]


def inspect_model(logits_fn: LogitsFn, images: ArrayLike, labels: ArrayLike) -> list[str]:
    """Returns why attacks on a model may mislead: its logits are not what attacks take them for.

    Looks for randomness, rows that depend on one another, probabilities in the place of logits, values that
    are not finite, and gradients that are exactly zero.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K].
      images: some dozen are enough.
      labels: theirs.

    Returns:
      Messages.
    """
    model, x = as_pytree(logits_fn), jnp.asarray(images)
    programs = [jax.jit(lambda model, x: model(x).astype(jnp.float32)) for _ in range(2)]  # each traced afresh
    logits = np.asarray(programs[0](model, x))
    if not np.isfinite(logits).all():
        return ["some logits are not finite (NaN or infinity): no attack can follow them."]
    messages = []
    again, traced_again = np.asarray(programs[0](model, x)), np.asarray(programs[1](model, x))
    if _difference(logits, again) > _SAME or _difference(logits, traced_again) > _ALIKE:
        messages.append(
            "the same images gave other logits the second time: the model is randomised, and a single gradient "
            "says little. Evaluate it without randomness, or average over it."
        )
    elif len(images) > 1:
        half = len(images) // 2
        among_others = np.asarray(programs[0](model, x.at[half:].set(x[:1])))
        if _difference(logits[:half], among_others[:half]) > _SAME:
            messages.append(
                "the logits of an image change with the others of its batch: use evaluation mode "
                "(running averages in batch normalisation)."
            )
    probable = logits.min() > -1e-5 and logits.max() < 1 + 1e-5 and np.allclose(logits.sum(1), 1, atol=1e-5)
    if probable:
        messages.append(
            "the logits are numbers from 0 to 1 that sum to 1: these seem to be probabilities. Leave the softmax "
            "away, or the gradients of the cross-entropy vanish."
        )
    return messages + _zero_gradients(model, x, jnp.asarray(labels), logits.shape[1])


def square_gain(accuracies: Mapping[str, float]) -> list[str]:
    """Returns a message if the Square Attack, which sees no gradient, breaks what the others could not.

    Args:
      accuracies: attack -> robust accuracy after it, in 0 to 1.

    Returns:
      Messages.
    """
    others = [value for name, value in accuracies.items() if name != "square"]
    if "square" not in accuracies or not others:
        return []
    gain = min(others) - accuracies["square"]
    if gain <= _SQUARE_GAIN:
        return []
    return [
        f"the Square Attack lowered the robust accuracy by {100 * gain:.2f} points after the attacks that use "
        "gradients: these seem to be masked. Attack with more queries, or with an attack made for this model."
    ]


def unmoved_at_radius_zero(
    key: Array, logits_fn: LogitsFn, images: ArrayLike, labels: ArrayLike, *, norm: str
) -> list[str]:
    """Returns a message for each attack that changes an image within a radius of 0.

    Robust accuracy at radius 0 is then the clean accuracy, to the last image.

    Args:
      key: PRNG key.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], K at least 2.
      images: as above; a few.
      labels: theirs.
      norm: "l1", "l2" or "linf".

    Returns:
      Messages.
    """
    model, labels = as_pytree(logits_fn), np.asarray(labels)
    targets = np.where(labels < 0, -1, np.where(labels == 0, 1, 0))
    options = {"eps": 0.0, "norm": norm}
    attacks = {
        "APGD": lambda model, x: apgd(key, model, x, labels, num_steps=2, **options),
        "FAB": lambda model, x: fab(key, model, x, labels, targets=targets, num_steps=2, **options),
        "Square Attack": lambda model, x: square(key, model, x, labels, num_queries=2, **options),
    }
    return [
        f"{name} in {norm} moved an image within a radius of 0."
        for name, attack in attacks.items()
        if not np.array_equal(jax.jit(attack)(model, images), images)
    ]


def rescore(
    logits_fn: LogitsFn,
    images: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    *,
    eps: float,
    norm: str,
    buckets: Buckets,
) -> Rescored:
    """Returns how a model classifies stored adversarial images, as they are and rounded to 8 bits.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K].
      images: the originals.
      adversarial: of the same shape.
      labels: theirs.
      eps: the radius they must keep to.
      norm: "l1", "l2" or "linf".
      buckets: sizes of batches.

    Returns:
      The second count.
    """
    model, labels = as_pytree(logits_fn), np.asarray(labels)
    rounded = np.asarray(to_float(to_uint8(adversarial)))
    predictions = (rank(model, x, buckets)[:, 0] for x in (adversarial, rounded))
    correct, correct_8bit = ((classes == labels) & (labels >= 0) for classes in predictions)  # -1 is NaN, or padding
    distances = np.asarray(norms.norm(np.asarray(adversarial) - np.asarray(images), norm))
    messages = []
    if not np.isfinite(distances).all():
        messages.append("some adversarial images are not finite.")
    elif distances.size and distances.max() > eps * (1 + _BALL_TOLERANCE) + _BALL_TOLERANCE:
        messages.append(f"an adversarial image lies {distances.max():.6g} from its original, more than {eps:.6g}.")
    elif adversarial.size and not (adversarial.min() >= 0 and adversarial.max() <= 1):
        messages.append("some adversarial images leave the range 0 to 1.")
    return Rescored(correct, correct_8bit, distances, messages)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) + 1e-10)) if a.size else 0.0


def _zero_gradients(model: LogitsFn, images: Array, labels: Array, num_classes: int) -> list[str]:
    if num_classes < 2:
        return []
    loss = objectives.dlr if num_classes > 2 else objectives.margin
    real = labels >= 0

    def total(x, model):
        return jnp.sum(jnp.where(real, loss(model(x), jnp.where(real, labels, 0)), 0.0))

    gradient = jax.jit(jax.grad(total))(images, model)
    count = int(jnp.sum(real & (norms.norm(gradient, "linf") == 0)))
    if not count:
        return []
    return [
        f"the gradient of {count} of {len(labels)} images is exactly zero: attacks that follow it stand still there. "
        "The model saturates or is not differentiable."
    ]
