"""Auto-PGD (APGD): projected gradient ascent with adaptive step size in l1, l2 and linf balls.

Images are float32 [B, H, W, C] in [0, 1] and radii are in the same unit. Call it inside `jax.jit`. Each step costs one
forward and one backward pass.

Source: Croce & Hein 2020 (AutoAttack), sections 3 to 5; Croce & Hein 2021 for l1.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arinv.attacks import objectives
from arinv.attacks.rows import Rows, column, first_success, prepare, select, unit_noise
from arinv.errors import UserError, unknown
from arinv.ops import loops, norms
from arinv.ops.channels import flatten_rows
from arinv.ops.inputs import as_images, check_count, check_flag
from arinv.ops.keys import fold_in, row_keys
from arinv.ops.norms import project_l1_ball
from arinv.types import Array, ArrayLike, LogitsFn

LOSSES = {"ce": objectives.cross_entropy, "dlr": objectives.dlr, "dlr_targeted": objectives.targeted_dlr}
RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # multiple of eps, and the share of the steps spent there


def apgd(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    norm: str = "linf",
    loss: str = "ce",
    num_steps: int = 100,
    num_restarts: int = 1,
    targets: ArrayLike | None = None,
    large_radii: bool = False,
    init: ArrayLike | None = None,
    return_losses: bool = False,
) -> Array | tuple[Array, Array]:
    """Returns APGD adversarial images.

    For each example this is the last misclassified iterate, or that of the highest loss where none is misclassified.

    Args:
      key: PRNG key of the random starts, or one per example [B], which makes the result of an example
        independent of the batch it is in.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K]; rows independent.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int [B]; rows labeled -1 are padding and are returned unchanged.
      eps: radius in units of `images`; a number or one per example [B], which may be traced.
      norm: "l1", "l2" or "linf".
      loss: loss to maximize: "ce", "dlr" (3 classes or more) or "dlr_targeted" (4 classes or more, with `targets`).
      num_steps: number of steps, at least 1; the start costs one more forward and backward pass.
      num_restarts: number of random starts. For each example the first that succeeds is returned, and the
        first of all where none does.
      targets: int [B], the classes that "dlr_targeted" approaches; may be traced. -1 is padding as above.
      large_radii: spend 30 % of the steps at 3 eps, then 30 % at 2 eps, then the rest at eps, each from the best
        point before; for "l1" only. Costs two more forward and backward passes.
      init: float [B, H, W, C] in [0, 1], the first start, projected onto the ball; random if None.
      return_losses: also return the highest losses.

    Returns:
      float32 [B, H, W, C] in [0, 1], within `eps` of `images`, as a constant: no gradient flows through. With
      `return_losses` a pair of these and, float32 [B], the highest loss of any iterate of the same start, 0 in padding.

    Raises:
      UserError: invalid inputs as for `attacks.rows.prepare` (images outside [0, 1], labels that the model does not
        have, a model that does not return [B, K]), an unknown loss, too few classes for it, targets without a targeted
        loss and vice versa, `init` of another shape, or flags that are neither true nor false.

    Source: Croce & Hein 2020 (AutoAttack), algorithm 1; Croce & Hein 2021, algorithm 1 and section 4.2.
    """
    rows = prepare(logits_fn, images, labels, eps=eps, norm=norm, targets=targets)
    _check_options(norm, loss, num_steps, targets, large_radii)
    check_flag(return_losses, "return_losses")
    eps, evaluate = rows.eps, _evaluation(loss, rows)
    first = None if init is None else _first_start(init, rows.images, eps * RADII[0][0] if large_radii else eps, norm)
    keys = row_keys(key, batch_size=rows.images.shape[0])

    def attack(restart):
        start = first
        if init is None or num_restarts > 1:
            start = _random_start(fold_in(keys, restart), rows.images, eps * RADII[0][0] if large_radii else eps, norm)
            start = start if init is None else jnp.where(restart == 0, first, start)
        if large_radii:
            run = _run_through_radii(evaluate, rows.images, start, eps, num_steps)
        elif norm == "l1":
            rule = sparse_rule(rows.images, eps=eps, period=_period(num_steps), warm=False)
            run = _run(evaluate, rule, start, num_steps)
        else:
            rule = momentum_rule(rows.images, eps=eps, norm=norm, num_steps=num_steps)
            run = _run(evaluate, rule, start, num_steps)
        return (select(run.broken, run.adversarial, run.best_x), run.best_loss), run.broken | ~rows.real

    like = rows.images, jnp.zeros(keys.shape, jnp.float32)
    adversarial, losses = first_success(attack, like, num_restarts=num_restarts)
    adversarial = jax.lax.stop_gradient(select(rows.real, adversarial, rows.images))
    return (adversarial, jax.lax.stop_gradient(losses)) if return_losses else adversarial


def checkpoints(*, num_steps: int) -> tuple[int, ...]:
    """Returns the numbers of steps after which APGD reviews its step size.

    Args:
      num_steps: total number of steps.

    Returns:
      Increasing numbers of steps: the first gap is 22 % of all, and each following one 3 % shorter down to 6 %.

    Source: Croce & Hein 2020 (AutoAttack), section 3.1, each gap rounded down.
    """
    gap, shortening, shortest = (max(int(part * num_steps), 1) for part in (0.22, 0.03, 0.06))
    places, place = [], gap
    while place <= num_steps:
        places.append(place)
        gap = max(gap - shortening, shortest)
        place += gap
    return tuple(places)


class Rule(NamedTuple):
    """A rule for steps and their size.

    Attributes:
      begin: first images -> state of the rule.
      review: (number of steps taken, state, losses [B] of the iterate, best losses [B] until now, best images)
        -> (state, rows [B] to reset to the best).
      step: (number of steps taken, state, images, images one step ago, gradient) -> images.
    """

    begin: Callable[[Array], Any]
    review: Callable[[Array, Any, Array, Array, Array], tuple[Any, Array]]
    step: Callable[[Array, Any, Array, Array, Array], Array]


class _Momentum(NamedTuple):
    step_size: Array  # [B]
    rises: Array  # steps since the last review that raised the loss [B]
    last_loss: Array  # [B]
    halved: Array  # whether the last review halved the step [B]
    best_loss: Array  # at the last review [B]


def momentum_rule(images: Array, *, eps: ArrayLike | float, norm: str, num_steps: int) -> Rule:
    """Returns the rule for l2 and linf: steepest ascent with momentum and step sizes that are halved without progress.

    Args:
      images: float32 [B, H, W, C] in [0, 1], centers of the balls.
      eps: radius, [] or [B]; the first step is twice as long.
      norm: "l2" or "linf".
      num_steps: total number of steps.

    Returns:
      The rule.

    Source: Croce & Hein 2020 (AutoAttack), algorithm 1 and conditions 1 and 2 of section 3.1.
    """
    gaps = np.zeros(num_steps + 1, np.float32)  # 0 at steps without review
    places = checkpoints(num_steps=num_steps)
    gaps[list(places)] = np.diff((0, *places))

    def inside(x):
        return _into_ball(x - images, images, eps, norm)

    def begin(x):
        zeros = jnp.zeros(x.shape[:1], jnp.float32)
        return _Momentum(zeros + 2.0 * eps, zeros, zeros, zeros == 0, zeros)

    def review(i, state, losses, best_losses, best_images):
        gap, first = jnp.asarray(gaps)[i], i == 0
        # The first step is compared with a loss of 0 instead of that of the start, as in the authors' code.
        rises = state.rises + jnp.where(first, 0.0, (losses > state.last_loss).astype(jnp.float32))
        last_loss = jnp.where(first, 0.0, losses)
        stuck = ~state.halved & (state.best_loss >= best_losses)
        halve = (gap > 0) & ((rises <= 0.75 * gap) | stuck)
        state = _Momentum(
            step_size=jnp.where(halve, 0.5 * state.step_size, state.step_size),
            rises=jnp.where(gap > 0, 0.0, rises),
            last_loss=last_loss,
            halved=jnp.where(gap > 0, halve, state.halved),
            best_loss=jnp.where((gap > 0) | first, best_losses, state.best_loss),
        )
        return state, halve

    def step(i, state, x, previous, gradient):
        direction = norms.steepest_ascent(gradient, norm=norm)
        candidate = inside(x + column(state.step_size) * direction)
        weight = jnp.where(i > 0, 0.75, 1.0)
        return inside(x + weight * (candidate - x) + (1.0 - weight) * (x - previous))

    return Rule(begin, review, step)


class _Sparse(NamedTuple):
    step_size: Array  # [B]
    fraction: Array  # of the values that a step changes [B]
    nonzero: Array  # values that the best perturbation changes, at the last review [B]


def sparse_rule(images: Array, *, eps: ArrayLike | float, period: ArrayLike | int, warm: bool) -> Rule:
    """Returns the rule for l1: equal steps along the coordinates of the largest gradient.

    The number of coordinates follows from the number that the best perturbation changes.

    Args:
      images: float32 [B, H, W, C] in [0, 1], centers of the balls.
      eps: radius, [] or [B]; the step is this long at most and a tenth at least.
      period: number of steps between two reviews; may be traced.
      warm: whether the first images are the result of an earlier run, whose number of coordinates is kept.

    Returns:
      The rule.

    Source: Croce & Hein 2021, section 4.1 and algorithm 1.
    """
    size = float(np.prod(images.shape[1:]))

    def changed(x):
        return jnp.sum(x != images, axis=(1, 2, 3)).astype(jnp.float32)

    def begin(x):
        zeros = jnp.zeros(x.shape[:1], jnp.float32)
        nonzero = changed(x) if warm else zeros + size
        return _Sparse(zeros + eps, nonzero / (1.5 * size) if warm else zeros + 0.2, nonzero)

    def review(i, state, losses, best_losses, best_images):
        due, nonzero = (i > 0) & (i % period == 0), changed(best_images)
        sparser = nonzero < 0.95 * state.nonzero
        step_size = jnp.clip(jnp.where(sparser, eps, state.step_size / 1.5), 0.1 * eps, eps)
        fresh = _Sparse(step_size, nonzero / (1.5 * size), nonzero)
        return _Sparse(*(jnp.where(due, new, old) for new, old in zip(fresh, state, strict=True))), due & sparser

    def step(i, state, x, previous, gradient):
        direction = _sparse_direction(gradient, state.fraction)
        return _into_ball(x + column(state.step_size) * direction - images, images, eps, "l1")

    return Rule(begin, review, step)


def _sparse_direction(gradient: Array, fraction: Array) -> Array:
    """Returns the signs of the largest values, a fraction [B] of all, scaled to an l1 norm of 1."""
    sizes = jnp.abs(flatten_rows(gradient))
    count = sizes.shape[1]
    place = jnp.clip((1.0 - fraction) * count, 0, count - 1).astype(jnp.int32)
    least = jnp.take_along_axis(jnp.sort(sizes, axis=1), place[:, None], axis=1)[:, 0]
    signs = jnp.where(jnp.abs(gradient) >= column(least), jnp.sign(gradient), 0.0)
    return signs / column(jnp.maximum(norms.norm(signs, "l1"), 1.0))


class _Run(NamedTuple):
    x: Array  # the next images to evaluate
    previous: Array  # those one step ago
    best_x: Array
    best_gradient: Array
    best_loss: Array  # [B]
    adversarial: Array  # the last misclassified images; the start where no iterate was
    broken: Array  # whether any iterate was misclassified [B]
    state: Any  # of the step rule


def _evaluation(loss: str, rows: Rows) -> Callable[[Array], tuple[Array, Array, Array]]:
    """Returns images -> (losses [B], whether misclassified [B], gradient)."""
    classes = (rows.labels,) if rows.targets is None else (rows.labels, rows.targets)

    def total(x):
        logits = rows.logits_fn(x)
        losses = jnp.where(rows.real, LOSSES[loss](logits, *classes), 0.0)
        return jnp.sum(losses), (losses, objectives.misclassified(logits, rows.labels))

    def evaluate(x):
        (_, (losses, wrong)), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return losses, wrong, norms.finite_gradient(gradient)

    return evaluate


def _run(evaluate: Callable, rule: Rule, start: Array, num_steps: ArrayLike | int) -> _Run:
    """Evaluates the start and then the images after each step.

    The model is in the program once, at the cost of a last step whose images are not evaluated.
    """

    def iterate(i, run):
        losses, wrong, gradient = evaluate(run.x)
        better = losses > run.best_loss
        best_x = select(better, run.x, run.best_x)
        best_gradient = select(better, gradient, run.best_gradient)
        best_loss = jnp.where(better, losses, run.best_loss)
        state, back = rule.review(i, run.state, losses, best_loss, best_x)
        x = select(back, best_x, run.x)
        next_x = rule.step(i, state, x, run.previous, select(back, best_gradient, gradient))
        adversarial = select(wrong, run.x, run.adversarial)
        return _Run(next_x, x, best_x, best_gradient, best_loss, adversarial, run.broken | wrong, state)

    batch = start.shape[:1]
    begin = _Run(
        x=start,
        previous=start,
        best_x=start,
        best_gradient=jnp.zeros_like(start),
        best_loss=jnp.full(batch, -jnp.inf, jnp.float32),
        adversarial=start,
        broken=jnp.zeros(batch, bool),
        state=rule.begin(start),
    )
    return loops.fori_loop(0, num_steps + 1, iterate, begin)


def _run_through_radii(evaluate: Callable, images: Array, start: Array, eps: Array, num_steps: int) -> _Run:
    counts = [math.ceil(share * num_steps) for _, share in RADII[:-1]]
    counts.append(num_steps - sum(counts))
    periods = jnp.asarray([_period(count) for count in counts], jnp.int32)
    counts = jnp.asarray(counts, jnp.int32)
    radii = jnp.asarray([radius for radius, _ in RADII], jnp.float32)

    def stage(j, start):
        radius = radii[j] * eps
        start = _into_ball(start - images, images, radius, "l1")
        rule = sparse_rule(images, eps=radius, period=periods[j], warm=True)
        return _run(evaluate, rule, start, counts[j])

    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(stage, 0, start))
    nothing = nothing._replace(best_x=start)
    return jax.lax.fori_loop(0, len(RADII), lambda j, run: stage(j, run.best_x), nothing)


def _first_start(init: ArrayLike, images: Array, eps: Array, norm: str) -> Array:
    init = as_images(init, "init")
    if init.shape != images.shape:
        raise UserError(f"init must have the shape of the images {images.shape}; got {init.shape}")
    return _into_ball(jax.lax.stop_gradient(init) - images, images, eps, norm)


def _random_start(keys: Array, images: Array, eps: Array, norm: str) -> Array:
    if norm == "l1":
        noise = jax.vmap(functools.partial(jax.random.normal, shape=images.shape[1:], dtype=jnp.float32))(keys)
        return _into_ball(noise, images, eps, norm)
    noise = unit_noise(keys, images.shape[1:], norm=norm)
    return jnp.clip(images + norms.per_example(eps, images.shape) * noise, 0.0, 1.0)


def _into_ball(delta: Array, images: Array, eps: ArrayLike | float, norm: str) -> Array:
    """Returns images in [0, 1] plus the point of the ball nearest to a perturbation."""
    nearest = project_l1_ball(delta, images, eps=eps) if norm == "l1" else norms.project(delta, eps=eps, norm=norm)
    return jnp.clip(images + nearest, 0.0, 1.0)


def _period(num_steps: int) -> int:
    return max(int(0.04 * num_steps), 1)


def _check_options(norm: str, loss: str, num_steps: int, targets, large_radii: bool) -> None:
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    check_count(num_steps, "num_steps")
    if (targets is not None) != (loss == "dlr_targeted"):
        use = "without targets" if targets is None else "with targets"
        raise UserError(f'loss "{loss}" {use}: targets go with "dlr_targeted", and only with it')
    if check_flag(large_radii, "large_radii") and norm != "l1":
        raise UserError(f'large_radii is for norm "l1"; got "{norm}"')
