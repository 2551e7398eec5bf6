"""The fast adaptive boundary attack (FAB): the nearest misclassified image, towards a target class.

Images are float32 [B, H, W, C] in [0, 1] and distances are in the same unit. Call it inside `jax.jit`. Each step costs
two forward passes and one backward pass.

Source: Croce & Hein 2020 (FAB); Croce & Hein 2020 (AutoAttack), section 5 for the targeted form.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv.attacks.objectives import logit_difference, misclassified, runner_up
from arinv.attacks.rows import Rows, column, first_success, prepare, select, unit_noise
from arinv.ops import loops, norms
from arinv.ops.inputs import check_count, check_number
from arinv.ops.keys import fold_in, row_keys
from arinv.ops.norms import move_to_hyperplane
from arinv.types import Array, ArrayLike, LogitsFn

_MIN_LENGTH = 1e-8


class _Run(NamedTuple):
    x: Array
    nearest: Array  # the nearest misclassified images until now
    distance: Array  # theirs [B], infinite before the first


def fab(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    targets: ArrayLike | None = None,
    norm: str = "linf",
    num_steps: int = 100,
    num_restarts: int = 1,
    max_bias: float = 0.1,
    overshoot: float = 1.05,
    backward_step: float = 0.9,
) -> Array:
    """Returns the nearest misclassified images that FAB visits.

    Each step moves to the plane on which label and target have equal logits in the linearized model, biased towards the
    point of that plane nearest to the image. A misclassified iterate then moves part of the way back to the image.

    Args:
      key: PRNG key of the random starts, or one per example [B]; the first restart starts at the image.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K]; rows independent.
      images: float32 [B, H, W, C] in [0, 1], classified as `labels`.
      labels: int [B]; rows labeled -1 are padding and are returned unchanged.
      eps: the largest distance that counts, in units of `images`; a number or one per example [B], which may
        be traced.
      targets: int [B], the classes to approach; may be traced. -1 is padding as above. None for the class of the
        largest other logit, at the cost of one forward pass.
      norm: norm of the distance: "l1", "l2" or "linf".
      num_steps: number of steps, at least 1.
      num_restarts: number of starts: the image, then random points at half of `eps` from it. For each example the
        first that succeeds is returned.
      max_bias: largest weight of the image against the iterate, 0 to 1.
      overshoot: length of a step, in units of the distance to the linearized boundary.
      backward_step: the distance from the image after a step back, as a fraction of that before.

    Returns:
      float32 [B, H, W, C] in [0, 1], as a constant: no gradient flows through. Examples without a misclassified
      image within `eps` are returned unchanged.

    Raises:
      UserError: invalid inputs as for `attacks.rows.prepare` (images outside [0, 1], labels that the model does not
        have, a model that does not return [B, K]), fewer than 1 step, or a constant out of range.

    Source: Croce & Hein 2020 (FAB), algorithm 1.
    """
    check_count(num_steps, "num_steps")
    constants = (
        check_number(max_bias, "max_bias", minimum=0.0, maximum=1.0),
        check_number(overshoot, "overshoot", minimum=0.0),
        check_number(backward_step, "backward_step", minimum=0.0, maximum=1.0),
    )
    rows = prepare(logits_fn, images, labels, eps=eps, norm=norm, targets=targets, any_radius=True)
    if targets is None:
        rows = rows._replace(targets=runner_up(rows.logits_fn(rows.images), rows.labels))
    eps, step = rows.eps, _step(rows, norm, constants)
    keys = row_keys(key, batch_size=rows.images.shape[0])

    def attack(restart):
        start = rows.images
        if num_restarts > 1:
            noise = unit_noise(fold_in(keys, restart), rows.images.shape[1:], norm=norm)
            radius = jnp.where(restart > 0, 0.5, 0.0) * jnp.broadcast_to(eps, rows.labels.shape)
            start = jnp.clip(rows.images + column(radius) * noise, 0.0, 1.0)
        begin = _Run(start, rows.images, jnp.full(rows.labels.shape, jnp.inf, jnp.float32))
        run = loops.fori_loop(0, num_steps, lambda _, run: step(run), begin)
        near = run.distance <= eps
        return select(near, run.nearest, rows.images), near | ~rows.real

    adversarial = first_success(attack, rows.images, num_restarts=num_restarts)
    return jax.lax.stop_gradient(select(rows.real, adversarial, rows.images))


def _step(rows: Rows, norm: str, constants: tuple[float, float, float]) -> Callable[[_Run], _Run]:
    images, labels, logits_fn = rows.images, rows.labels, rows.logits_fn
    max_bias, overshoot, backward_step = constants

    def total(x):
        differences = logit_difference(logits_fn(x), labels, rows.targets)
        return jnp.sum(differences), differences

    def step(run):
        (_, differences), gradient = jax.value_and_grad(total, has_aux=True)(run.x)
        gradient = norms.finite_gradient(gradient)
        # The residual of the plane at the image, without the cancellation of a common offset.
        from_image = differences + jnp.sum(gradient * (images - run.x), axis=(1, 2, 3))

        def move(points, residuals):
            return move_to_hyperplane(points, gradient, residuals, norm=norm)

        points, residuals = jnp.stack([run.x, images]), jnp.stack([differences, from_image])
        x_move, image_move = jax.vmap(move)(points, residuals)
        x_length, image_length = (jnp.maximum(norms.norm(d, norm), _MIN_LENGTH) for d in (x_move, image_move))
        bias = column(jnp.minimum(x_length / (x_length + image_length), max_bias))
        x = (1 - bias) * (run.x + overshoot * x_move) + bias * (images + overshoot * image_move)
        x = jnp.where(jnp.isfinite(x), jnp.clip(x, 0.0, 1.0), run.x)  # differences of logits may not be finite

        wrong = misclassified(logits_fn(x), labels)
        distance = norms.norm(x - images, norm)
        nearer = wrong & (distance < run.distance)
        back = images + backward_step * (x - images)
        nearest = select(nearer, x, run.nearest)
        return _Run(select(wrong, back, x), nearest, jnp.where(nearer, distance, run.distance))

    return step
