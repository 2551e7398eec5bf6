"""Checks of a robust accuracy: signs of a model that misleads attacks, and a recount of stored images.

Each function returns messages, one line each; an empty list means that no problem was detected. Images are float32
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
from arinv.attacks.autoattack.host_batches import Buckets, as_pytree, count_classes, rank
from arinv.attacks.fab import fab
from arinv.attacks.square import square
from arinv.errors import UserError
from arinv.ops import norms
from arinv.ops.images import to_float, to_uint8
from arinv.ops.inputs import as_array, as_images, as_labels, as_logits, as_radius, call, check_images, on_host
from arinv.types import Array, ArrayLike, LogitsFn

_SMALLEST = 1e-12  # logits that are scaled to 1
_SAME = 1e-4  # relative difference of logits between two runs of one program
_SIMILAR = 5e-2  # between two compilations, which may round differently, also in bfloat16
_BALL_TOLERANCE = 1e-5
_ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
_SQUARE_GAIN = 0.002


class Rescored(NamedTuple):
    """A second count.

    Attributes:
      correct: bool [N], the stored images classified as labeled; False in padding and where a logit is NaN.
      correct_8bit: bool [N], the same after rounding to 256 levels.
      distances: float32 [N], distances from the originals.
      messages: messages about invalid adversarial images.
    """

    correct: np.ndarray
    correct_8bit: np.ndarray
    distances: np.ndarray
    messages: list[str]


def inspect_model(logits_fn: LogitsFn, images: ArrayLike, labels: ArrayLike) -> list[str]:
    """Returns messages on properties of a model that mislead attacks.

    Checks for randomness, rows that depend on one another, probabilities instead of logits, logits and gradients
    that are not finite, and gradients that are exactly zero.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K].
      images: float [B, H, W, C] in [0, 1]; a few dozen are enough.
      labels: int [B]; -1 is padding.

    Returns:
      Messages.

    Raises:
      UserError: images outside [0, 1], labels that the model does not have, or a model that does not return [B, K].
    """
    model, x = as_pytree(logits_fn), as_images(images)
    on_host(x, "images")  # raises
    labels = as_labels(labels, batch_size=len(x), num_classes=count_classes(model, x))
    if not len(x):
        return []

    def program():  # traced by every call
        return jax.jit(lambda model, x: as_logits(call(model, x, "logits_fn"), batch_size=len(x)))

    programs = [program(), program()]
    logits = np.asarray(programs[0](model, x))
    if not np.isfinite(logits).all():
        return ["some logits are not finite (NaN or infinity): attacks cannot follow them."]
    messages = []
    repeated_logits, retraced_logits = (np.asarray(compiled(model, x)) for compiled in programs)
    if _difference(logits, repeated_logits) > _SAME or _difference(logits, retraced_logits) > _SIMILAR:
        messages.append(
            "the same images gave other logits the second time: the model is randomized, and a single gradient is "
            "not informative. Evaluate it without randomness, or average over it."
        )
    elif len(x) > 1:
        half = len(x) // 2
        other_batch = np.asarray(programs[0](model, x.at[half:].set(x[:1])))
        if _difference(logits[:half], other_batch[:half]) > _SAME:
            messages.append(
                "the logits of an image change with the other images of its batch: use evaluation mode "
                "(running averages in batch normalization)."
            )
    probable = logits.min() > -1e-5 and logits.max() < 1 + 1e-5 and np.allclose(logits.sum(1), 1, atol=1e-5)
    if probable:
        messages.append(
            "the logits are numbers from 0 to 1 that sum to 1: these seem to be probabilities. Remove the softmax, "
            "or the gradients of the cross-entropy vanish."
        )
    return messages + _unusable_gradients(model, x, labels, logits.shape[1])


def check_square_gain(accuracies: Mapping[str, float]) -> list[str]:
    """Returns a message if the Square Attack, which uses no gradient, breaks images that the others did not.

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


def check_radius_zero(key: Array, logits_fn: LogitsFn, images: ArrayLike, labels: ArrayLike, *, norm: str) -> list[str]:
    """Returns a message for each attack that changes an image within a radius of 0.

    Robust accuracy at radius 0 is then the clean accuracy, to the last image.

    Args:
      key: PRNG key.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], K at least 2.
      images: float [B, H, W, C] in [0, 1]; a few.
      labels: int [B]; -1 is padding.
      norm: "l1", "l2" or "linf".

    Returns:
      Messages.
    """
    model, images = (
        as_pytree(logits_fn),
        np.clip(on_host(check_images(images), "images").astype(np.float32, copy=False), 0.0, 1.0),
    )
    labels = on_host(as_labels(labels, batch_size=len(images), num_classes=count_classes(model, images)), "labels")
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


def reclassify(
    logits_fn: LogitsFn,
    images: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    *,
    eps: float,
    norm: str,
    buckets: Buckets,
) -> Rescored:
    """Returns the classification of stored adversarial images, as they are and rounded to 8 bits.

    Images that are not finite or outside the ball or [0, 1] are not adversarial images: the messages report them, and
    their originals are counted instead.

    Args:
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K].
      images: the originals.
      adversarial: adversarial images of the same shape.
      labels: int [N]; -1 is padding.
      eps: radius of the ball.
      norm: "l1", "l2" or "linf".
      buckets: sizes of batches.

    Returns:
      The second count.

    Raises:
      UserError: an unknown norm, images outside [0, 1], labels that the model does not have, or adversarial images of
        another shape.
    """
    norms.check_norm(norm)
    model, images = as_pytree(logits_fn), on_host(check_images(images), "images").astype(np.float32, copy=False)
    labels = on_host(as_labels(labels, batch_size=len(images), num_classes=count_classes(model, images)), "labels")
    eps, adversarial = float(as_radius(eps, batch_size=None)), as_array(adversarial, "adversarial")
    adversarial = on_host(adversarial, "adversarial").astype(np.float32, copy=False)
    if adversarial.shape != images.shape:
        raise UserError(f"adversarial must have the shape of the images {images.shape}; got {adversarial.shape}")
    within = are_within(adversarial, images, eps=eps, norm=norm)
    counted = np.where(within[:, None, None, None], adversarial, images)
    rounded = np.asarray(to_float(to_uint8(counted)))
    predictions = (rank(model, x, buckets)[:, 0] for x in (counted, rounded))
    correct, correct_8bit = ((classes == labels) & (labels >= 0) for classes in predictions)  # -1 is NaN, or padding
    distances = np.asarray(norms.norm(adversarial - images, norm))
    messages = []
    if not np.isfinite(distances).all():
        messages.append("some adversarial images are not finite.")
    elif distances.size and distances.max() > eps * (1 + _BALL_TOLERANCE) + _BALL_TOLERANCE:
        messages.append(f"an adversarial image is {distances.max():.6g} from its original, more than {eps:.6g}.")
    elif adversarial.size and not (adversarial.min() >= 0 and adversarial.max() <= 1):
        messages.append("some adversarial images are outside the range 0 to 1.")
    return Rescored(correct, correct_8bit, distances, messages)


def are_within(adversarial: np.ndarray, images: np.ndarray, *, eps: float, norm: str) -> np.ndarray:
    """Returns whether images are finite, in [0, 1] and within a radius of their originals, up to rounding.

    Args:
      adversarial: float32 [N, H, W, C].
      images: float32 [N, H, W, C], their originals.
      eps: the radius.
      norm: "l1", "l2" or "linf".

    Returns:
      bool [N].
    """
    with np.errstate(invalid="ignore"):
        moves = (adversarial - images).reshape(len(images), -1).astype(np.float64)
        distances = np.linalg.norm(moves, ord=_ORDERS[norm], axis=1)
        in_range = np.all((adversarial >= 0) & (adversarial <= 1), axis=(1, 2, 3))  # NaN is not
        rounding = moves.shape[1] * 2.0**-25 if norm == "l1" else 0.0  # of the images, which l1 sums
        return in_range & (distances <= eps * (1 + _BALL_TOLERANCE) + _BALL_TOLERANCE + rounding)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a - b)) / (np.max(np.abs(a)) + 1e-10)) if a.size else 0.0


def _unusable_gradients(model: LogitsFn, images: Array, labels: Array, num_classes: int) -> list[str]:
    if num_classes < 2:
        return []
    real = labels >= 0

    def total(x, model):
        # Not the DLR loss, which is 1 wherever the label ranks third. Scaled, as logits may be huge.
        logits = as_logits(call(model, x, "logits_fn"))
        scale = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(logits), axis=1, keepdims=True), _SMALLEST))
        return jnp.sum(jnp.where(real, objectives.margin(logits / scale, jnp.where(real, labels, 0)), 0.0))

    largest = norms.norm(jax.jit(jax.grad(total))(images, model), "linf")
    zero, undefined = (int(jnp.sum(real & mask)) for mask in (largest == 0, ~jnp.isfinite(largest)))
    messages = []
    if zero:
        messages.append(
            f"the gradient of {zero} of {len(labels)} images is exactly zero: attacks that follow it do not move "
            "them. The model saturates or is not differentiable."
        )
    if undefined:
        messages.append(
            f"the gradient of {undefined} of {len(labels)} images is not finite (NaN or infinity): attacks follow "
            "its finite part, and may miss much. Look for roots, powers and logarithms at 0 in the model."
        )
    return messages
