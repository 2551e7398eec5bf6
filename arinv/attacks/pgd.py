"""Projected gradient descent (PGD) and the fast gradient sign method (FGSM) in l2 and linf balls.

Images are float32 [B, H, W, C] in [0, 1] and radii are in the same unit. The model is a function from images to
logits, with its normalization inside and in evaluation mode (no dropout, no batch statistics), so that each row
depends on its own image only.

Call an attack inside `jax.jit`, or every call compiles again: in a training step, or by itself as

    attack = jax.jit(lambda key, x, y: pgd(key, logits_fn, x, y, eps=3.0, num_steps=7))

Source: Madry et al. 2018, section 2.1; Wong et al. 2020.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arinv.attacks.objectives import cross_entropy, misclassified
from arinv.attacks.rows import Rows, first_success, prepare, select
from arinv.errors import UserError
from arinv.ops import loops, norms
from arinv.ops.inputs import as_array, as_radius, check_callable, check_count, check_flag, check_number, is_concrete
from arinv.ops.keys import single_key
from arinv.types import Array, ArrayLike, LogitsFn

# (logits [B, K], labels [B]) -> losses [B]
LossFn = Callable[[Array, Array], Array]


def pgd(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    num_steps: int,
    step_size: ArrayLike | float | None = None,
    norm: str = "l2",
    random_start: bool = False,
    use_best: bool = True,
    num_restarts: int = 1,
    targets: ArrayLike | None = None,
    loss_fn: LossFn | None = None,
) -> Array:
    """Returns PGD adversarial images.

    The defaults are those of robust training in the papers that arinv reproduces: start at the image,
    keep the worst iterate. To measure robustness use `random_start=True` with several restarts, or
    AutoAttack.

    Args:
      key: PRNG key of the random starts; without them the result does not depend on it.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K]; rows independent.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int [B]; rows labeled -1 are padding and are returned unchanged.
      eps: radius in units of `images` (8/255 is eight grey levels), for "l2" over H, W and C
        together; a number or one per example [B], which may be traced. 0 returns the images.
      num_steps: number of gradient steps, at least 1; each costs one forward and backward pass.
      step_size: length of a step, in units and shape of `eps`; 2.5 * eps / num_steps if None.
      norm: "l2" or "linf".
      random_start: start from a random point of the ball (for "l2", of its surface).
      use_best: return, for each example, the iterate with the worst loss, first and last included,
        instead of the last one. Costs one forward pass in all.
      num_restarts: number of random starts. For each example the first that succeeds (another class
        than the label, or the target class) is returned, and the first of all where none does.
      targets: int [B], classes to approach instead of moving away from the labels; -1 is padding as above.
      loss_fn: (logits, labels or targets) -> losses [B], raised for labels and lowered for targets;
        cross-entropy if None. Rows of padding have label 0, and their losses are ignored.

    Returns:
      float32 [B, H, W, C] in [0, 1], within `eps` of `images`, as a constant: no gradient flows
      through the attack.

    Raises:
      UserError: invalid inputs as for `attacks.rows.prepare` (images outside [0, 1], labels that the model does not
        have, a model that does not return [B, K]), a negative step size (where its value is concrete), a loss that is
        no function or not one number per example, restarts without `random_start`, or flags that are neither true nor
        false.

    Source: Madry et al. 2018, section 2.1; step size as recommended by Engstrom et al. 2019.
    """
    check_count(num_steps, "num_steps")
    check_flag(use_best, "use_best")
    num_restarts = check_count(num_restarts, "num_restarts")
    if not check_flag(random_start, "random_start") and num_restarts > 1:
        raise UserError(f"num_restarts={num_restarts} needs random_start=True, or every start is the same")
    key = single_key(key) if random_start else None
    rows = prepare(logits_fn, images, labels, eps=eps, norm=norm, targets=targets)
    images, goals = rows.images, rows.labels if targets is None else rows.targets
    if loss_fn is None:
        loss_fn = cross_entropy
    check_callable(loss_fn, "loss_fn", of="logits and labels")
    losses_fn = _objective(rows, loss_fn, goals, 1.0 if targets is None else -1.0)

    def attack(restart):
        start = images
        if random_start:
            start_key = jax.random.fold_in(key, restart)
            noise = norms.random_perturbation(start_key, images.shape, eps=rows.eps, norm=norm)
            start = jnp.clip(images + noise, 0.0, 1.0)
        options = {"eps": rows.eps, "step_size": step_size, "num_steps": num_steps, "norm": norm}
        adversarial = projected_ascent(losses_fn, start, images, use_best=use_best, **options)
        if num_restarts == 1:  # its success costs a forward pass and decides nothing
            return adversarial, rows.real
        other_class = misclassified(rows.logits_fn(adversarial), goals)
        return adversarial, (other_class if targets is None else ~other_class) | ~rows.real

    adversarial = first_success(attack, images, num_restarts=num_restarts)
    return jax.lax.stop_gradient(select(rows.real, adversarial, images))


def fgsm(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: ArrayLike | float,
    step_size: ArrayLike | float | None = None,
    norm: str = "linf",
    noise: float = 0.0,
    project: bool = True,
) -> Array:
    """Returns images after noise and one step of steepest ascent of the cross-entropy.

    FGSM is `noise=0`; with a random start as Wong et al. recommend, `noise=1, step_size=1.25 * eps`; N-FGSM is
    `noise=2, step_size=eps, project=False`.

    Args:
      key: PRNG key of the noise.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K]; rows independent.
      images: float32 [B, H, W, C] in [0, 1].
      labels: int [B]; rows labeled -1 are padding and are returned unchanged.
      eps: radius in units of `images`; a number or one per example [B], which may be traced.
      step_size: length of the step, in units and shape of `eps`; eps if None.
      norm: "l2" or "linf".
      noise: radius of the noise before the step, as a multiple of eps.
      project: project the result onto the ball of radius eps; without it, the result may be outside by the noise.

    Returns:
      float32 [B, H, W, C] in [0, 1], as a constant: no gradient flows through the attack.

    Raises:
      UserError: invalid inputs as for `attacks.rows.prepare`, `project` that is neither true nor false, or a negative
        step or noise where values are concrete.

    Source: Wong et al. 2020, algorithm 3; de Jorge et al. 2022, algorithm 1, but clipped to [0, 1].
    """
    check_flag(project, "project")
    rows = prepare(logits_fn, images, labels, eps=eps, norm=norm)
    images = rows.images
    step_size = rows.eps if step_size is None else as_radius(step_size, batch_size=len(images), name="step_size")
    noise = check_number(noise, "noise", minimum=0.0, maximum=1e6)

    def loss(x):
        losses = cross_entropy(rows.logits_fn(x), rows.labels)
        return jnp.sum(jnp.where(rows.real, losses, 0.0))

    start = images
    if not is_concrete(noise) or noise > 0:
        radius = noise * rows.eps
        perturbation = norms.random_perturbation(single_key(key), images.shape, eps=radius, norm=norm)
        start = jnp.clip(images + perturbation, 0.0, 1.0)
    step = norms.per_example(step_size, images.shape) * norms.steepest_ascent(jax.grad(loss)(start), norm=norm)
    delta = start + step - images
    if project:
        delta = norms.project(delta, eps=rows.eps, norm=norm)
    adversarial = jnp.clip(images + delta, 0.0, 1.0)
    return jax.lax.stop_gradient(select(rows.real, adversarial, images))


def projected_ascent(
    losses_fn: Callable[[Array], Array],
    start: Array,
    images: Array,
    *,
    eps: ArrayLike | float,
    step_size: ArrayLike | float | None,
    num_steps: int,
    norm: str,
    use_best: bool,
    has_aux: bool = False,
) -> Array | tuple[Array, Array]:
    """Returns images near `images` at which a loss is high: the loop of PGD, for any objective.

    Every step moves along the steepest ascent, projects onto the ball and clips to [0, 1]. Where a gradient is not
    finite, the step follows the rest of it (see `ops.norms.finite_gradient`): every iterate is finite.

    Args:
      losses_fn: images [B, H, W, C] -> losses [B]; rows independent. NaN is never the highest.
      start: float32 [B, H, W, C] in [0, 1], the first iterate.
      images: float32 [B, H, W, C] in [0, 1], the centers of the balls.
      eps: radius, a number or [B].
      step_size: length of a step, a number or [B]; `default_step_size` if None.
      num_steps: number of gradient steps.
      norm: "l2" or "linf".
      use_best: per example the iterate with the highest loss, first and last included; else the
        last one.
      has_aux: losses_fn returns (losses [B], tallies [B]); the tallies of the iterates from which a step was
        taken, the first included and the last not, are summed, such as how often a class was right.

    Returns:
      float32 [B, H, W, C]; with `has_aux` a pair of these and, float32 [B], the sums of the tallies.

    Raises:
      UserError: unknown norm, or a negative radius or step size where values are concrete.

    Source: Madry et al. 2018, section 2.1.
    """
    check_callable(losses_fn, "losses_fn", of="images [B, H, W, C]")
    if step_size is None:
        step_size = default_step_size(jnp.asarray(eps, jnp.float32), num_steps=num_steps)
    step_size = norms.per_example(step_size, images.shape, "step_size")

    def total(x):
        losses, tally = losses_fn(x) if has_aux else (losses_fn(x), jnp.zeros(x.shape[:1], jnp.float32))
        losses = _check_losses(losses, x.shape[:1])
        return jnp.sum(losses), (losses, tally)  # rows are independent: the sum's gradient is each row's own

    def keep_best(best, x, losses):
        best_x, best_losses = best
        higher = losses > best_losses
        return select(higher, x, best_x), jnp.where(higher, losses, best_losses)

    def step(_, carry):
        x, best, tallies = carry
        (_, (losses, tally)), gradient = jax.value_and_grad(total, has_aux=True)(x)
        if use_best:
            best = keep_best(best, x, losses)
        candidate = x + step_size * norms.steepest_ascent(gradient, norm=norm)
        delta = norms.project(candidate - images, eps=eps, norm=norm)
        return jnp.clip(images + delta, 0.0, 1.0), best, tallies + tally

    best = (start, jnp.full(images.shape[:1], -jnp.inf, jnp.float32)) if use_best else None
    tallies = jnp.zeros(images.shape[:1], jnp.float32)
    x, best, tallies = loops.fori_loop(0, num_steps, step, (start, best, tallies))
    if use_best:
        x = keep_best(best, x, total(x)[1][0])[0]
    return (x, tallies) if has_aux else x


def default_step_size(eps: ArrayLike | float, *, num_steps: int) -> ArrayLike | float:
    """Returns the length of a step of PGD where none is given: 2.5 * eps / num_steps.

    The steps can cross the ball, and move along its border after that.

    Args:
      eps: radius, a number or one per example [B].
      num_steps: number of gradient steps, at least 1.

    Returns:
      The length, in units and shape of `eps`.

    Raises:
      UserError: a number of steps below 1, or a radius that is no number.

    Source: Engstrom et al. 2019.
    """
    eps = eps if isinstance(eps, int | float) else as_array(eps, "eps")
    return eps * (2.5 / check_count(num_steps, "num_steps"))


def _objective(rows: Rows, loss_fn: LossFn, goals: Array, sign: float) -> Callable[[Array], Array]:
    def losses_fn(x):
        losses = _check_losses(loss_fn(rows.logits_fn(x), goals), goals.shape)
        return jnp.where(rows.real, sign * losses, 0.0)

    return losses_fn


def _check_losses(losses: Array, shape: tuple[int, ...]) -> Array:
    if getattr(losses, "shape", None) != shape or not jnp.issubdtype(losses.dtype, jnp.floating):
        actual = f"{losses.shape} of {losses.dtype}" if hasattr(losses, "shape") else type(losses).__name__
        raise UserError(f"the loss must be one number per example {shape}; got {actual}: return it without the mean")
    return losses.astype(jnp.float32)
