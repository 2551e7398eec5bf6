"""Optimizers and learning-rate schedules by name, with PyTorch's meaning of weight decay and momentum."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from arinv.errors import UserError, unknown
from arinv.ops.inputs import keyword_options

# A schedule's function takes the rate, the steps of the run, those of its warm-up, and those of an epoch, and returns
# the rate as a function of the step after the warm-up. Epochs count from the start of the run.


def _step_decay(rate: float, total: int, warmup: int, per_epoch: int, *, every_epochs: float, factor: float = 0.1):
    if not every_epochs * per_epoch >= 1:
        raise UserError(
            f"schedule.every_epochs={every_epochs} must be above 0, epochs between steps of the rate, and at least "
            f"one step of the training, 1/{per_epoch} of an epoch"
        )
    _check_factors([factor])
    epochs = [every_epochs]
    while epochs[-1] * per_epoch < total:
        epochs.append(epochs[-1] + every_epochs)
    return _piecewise(rate, warmup, per_epoch, epochs[:-1], [factor] * (len(epochs) - 1))


def _piecewise(rate: float, warmup: int, per_epoch: int, epochs: Sequence[float], factors: Sequence[float]):
    boundaries: dict[int, float] = {}
    for epoch, factor in zip(epochs, factors, strict=True):
        step = round(epoch * per_epoch) - warmup
        boundaries[step] = boundaries.get(step, 1.0) * factor  # several may round to one step
    return optax.piecewise_constant_schedule(rate, boundaries)


def _check_factors(factors: Sequence[float]) -> None:
    if not all(factor >= 0 for factor in factors):
        raise UserError(f"factors of the learning rate must be 0 or more; got {tuple(factors)}")


def _milestones(rate: float, total: int, warmup: int, per_epoch: int, *, epochs, factors):
    if len(epochs) != len(factors) or not all(epoch > 0 for epoch in epochs):
        raise UserError(
            f"schedule.epochs={tuple(epochs)} and schedule.factors={tuple(factors)} must be equally many, with epochs "
            "above 0"
        )
    _check_factors(factors)
    return _piecewise(rate, warmup, per_epoch, epochs, factors)


def _cosine(rate: float, total: int, warmup: int, per_epoch: int):
    return optax.cosine_decay_schedule(rate, max(1, total - warmup))


def _staircase(
    rate: float, total: int, warmup: int, per_epoch: int, *, every_steps: int, factor: float = 0.5, floor: float = 0.0
):
    if every_steps < 1:
        raise UserError(f"schedule.every_steps={every_steps} must be 1 or more")
    if not (0 < factor < 1 and 0 <= floor <= rate):
        raise UserError(
            f"schedule.factor={factor} must be between 0 and 1, and schedule.floor={floor} at least 0 and at most the "
            f"rate, {rate:g}"
        )
    schedule = optax.exponential_decay(rate, every_steps, factor, staircase=True, end_value=floor)
    return lambda step: schedule(step + warmup)


def _constant(rate: float, total: int, warmup: int, per_epoch: int):
    return optax.constant_schedule(rate)


_SCHEDULES = {
    "step": _step_decay,
    "milestones": _milestones,
    "staircase": _staircase,
    "cosine": _cosine,
    "constant": _constant,
}


def make_schedule(spec: Mapping, *, num_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns learning rate as a function of the step.

    Args:
      spec: {"name": "step" | "milestones" | "staircase" | "cosine" | "constant", "learning_rate": peak,
        "warmup_epochs": linear rise from 0; for "step" "every_epochs" and "factor", for "milestones" "epochs" and
        "factors", for "staircase" "every_steps", "factor" and "floor", the least rate}.
      num_steps: number of steps of the whole run, warm-up included.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: unknown name, a learning rate that is not positive, a negative warm-up, or an option that is unknown or
        missing.
    """
    spec = dict(spec)
    name, rate = spec.pop("name"), float(spec.pop("learning_rate"))
    warmup_epochs = spec.pop("warmup_epochs", 0)
    if warmup_epochs < 0:
        raise UserError(f"warmup_epochs must be 0 (none) or more; got {warmup_epochs}")
    warmup = round(warmup_epochs * steps_per_epoch)
    if name not in _SCHEDULES:
        raise unknown("learning-rate schedule", name, _SCHEDULES)
    if rate <= 0:
        raise UserError(f"learning_rate must be positive; got {rate}")
    options = _own_options(name, spec, _SCHEDULES)
    schedule = _SCHEDULES[name](rate, num_steps, warmup, steps_per_epoch, **options)
    if warmup:
        schedule = optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), schedule], [warmup])
    return schedule


def _own_options(name: str, spec: Mapping[str, Any], choices: Mapping[str, Callable]) -> dict[str, Any]:
    """Returns the options of one choice.

    Options that only other choices have are ignored, so that a config can switch between them by `name` alone.

    Raises:
      UserError: an option that no choice has, or a missing one.
    """
    options = {choice: keyword_options(function) for choice, function in choices.items()}
    for option in spec:
        if not any(option in others for others in options.values()):
            raise unknown(f"option of {name!r}", option, options[name])
    for option, default in options[name].items():
        if default is inspect.Parameter.empty and option not in spec:
            raise UserError(f"{name!r} needs {option}; known options: {', '.join(options[name])}")
    return {option: value for option, value in spec.items() if option in options[name]}


def _sgd(schedule, *, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0):
    sgd = optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov)
    # Weight decay is added to the gradient before momentum, as in torch.optim.SGD.
    return optax.chain(optax.add_decayed_weights(weight_decay), sgd) if weight_decay else sgd


def _adam(schedule, *, b1: float = 0.9, b2: float = 0.999, weight_decay: float = 0.0):
    adam = optax.adam(schedule, b1=b1, b2=b2, eps=1e-8)
    return optax.chain(optax.add_decayed_weights(weight_decay), adam) if weight_decay else adam


_OPTIMIZERS = {"sgd": _sgd, "adam": _adam}


def make_optimizer(spec: Mapping, *, num_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """Returns an optimizer.

    Args:
      spec: {"name": "sgd" | "adam", "schedule": see make_schedule, "max_gradient_norm": clips the global
        norm where it is positive, and the optimizer's own options: momentum, nesterov, b1, b2,
        weight_decay}.
      num_steps: number of steps of the whole run.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: unknown name, or an option that is unknown, missing or out of range.
    """
    spec = dict(spec)
    name, schedule, clip = spec.pop("name"), spec.pop("schedule"), spec.pop("max_gradient_norm", 0.0)
    if name not in _OPTIMIZERS:
        raise unknown("optimizer", name, _OPTIMIZERS)
    if not clip >= 0:
        raise UserError(f"max_gradient_norm must be 0 (none) or more; got {clip}")
    options = _own_options(name, spec, _OPTIMIZERS)
    for option, value in options.items():
        if option == "weight_decay" and value < 0:
            raise UserError(f"{option} must be 0 (none) or more; got {value}")
        if option in ("momentum", "b1", "b2") and not 0 <= value < 1:
            raise UserError(f"{option} must be 0 or more and below 1; got {value}")
    schedule = make_schedule(schedule, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    optimizer = _OPTIMIZERS[name](schedule, **options)
    return optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip > 0 else optimizer
