"""AutoAttack, standard version: APGD-CE, targeted APGD-DLR, targeted FAB and Square, one after the other.

Images are float32 [N, H, W, C] in [0, 1] on the host, radii in the same unit. Each attack is run on the images that
all earlier attacks failed to break, and each target class of an attack on those that earlier targets failed to break.
They are gathered into batches of a few sizes, each of which is compiled once.

The result of an image depends on the key and its number alone, not on its batch, provided that the model's logits do
not depend on the batch. A run that resumes from a saved state goes through the same batches to the same result.

Source: Croce & Hein 2020 (AutoAttack), section 6; Croce & Hein 2021 for l1; order, constants and bookkeeping as in
the authors' code, version "standard".
"""

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from arinv.attacks.autoattack import checks
from arinv.attacks.autoattack.host_batches import (
    Buckets,
    PlaceFn,
    as_pytree,
    count_classes,
    largest_classes,
    make_buckets,
    rank,
)
from arinv.attacks.autoattack.progress import (
    AUTOATTACK,
    AttackRecord,
    AutoAttackResult,
    AutoAttackState,
    Outcome,
    Progress,
    attack_batch,
)
from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import as_labels, as_radius, check_count, check_images, on_host
from arinv.ops.keys import single_key
from arinv.types import Array, ArrayLike, LogitsFn

_MIN_CLASSES = 2
_MIN_CLASSES_TARGETED = 4  # of apgd-t: its loss uses the four largest logits
_TARGETED = ("apgd-t", "fab-t")
_CE_RESTARTS = {"l1": 5}  # 1 otherwise
_APGD_TARGETS = {"l1": 5}  # 9 otherwise, as for FAB
_COMPARED = 128  # images whose predictions are compared, to detect a state of another model


def count_rounds(
    attacks: Sequence[str] | str, *, norm: str, num_classes: int, num_targets: int, pieces: int
) -> dict[str, int]:
    """Returns the number of rounds of each attack: restarts, targets, or pieces of the search.

    Args:
      attacks: names from AUTOATTACK, or one name.
      norm: "l1", "l2" or "linf".
      num_classes: number of classes of the model.
      num_targets: number of classes to approach, at most the number of other classes.
      pieces: number of pieces that the queries of the Square Attack are split into.

    Returns:
      Attack -> number, in the order of AUTOATTACK.

    Raises:
      UserError: no attack, an unknown one, or too few classes.
    """
    if not attacks or not isinstance(attacks, Sequence):
        raise UserError(f"attacks must be one or more of {', '.join(AUTOATTACK)}; got {attacks!r}")
    attacks = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    for name in attacks:
        if name not in AUTOATTACK:
            raise unknown("attack", name, AUTOATTACK)
    check_num_classes(attacks, num_classes=num_classes, leave_out=lambda others: f"attacks={others}.")
    targets = min(num_targets, num_classes - 1)
    count = {
        "apgd-ce": _CE_RESTARTS.get(norm, 1),
        "apgd-t": min(targets, _APGD_TARGETS.get(norm, targets)),
        "fab-t": targets,
        "square": pieces,
    }
    return {name: count[name] for name in AUTOATTACK if name in attacks}


def check_num_classes(attacks: Sequence[str], *, num_classes: int, leave_out: Callable[[tuple[str, ...]], str]) -> None:
    """Checks that a model has enough classes for attacks.

    Args:
      attacks: names from AUTOATTACK.
      num_classes: number of classes of the model.
      leave_out: (names of the possible attacks) -> the option that selects them, for the message.

    Raises:
      UserError: too few classes.
    """
    if num_classes < _MIN_CLASSES:
        raise UserError(
            f"AutoAttack needs a model of at least {_MIN_CLASSES} classes, this one has {num_classes}: there is no "
            "other class to approach"
        )
    if num_classes < _MIN_CLASSES_TARGETED and "apgd-t" in attacks:
        others = tuple(name for name in AUTOATTACK if name != "apgd-t" and (name in attacks or len(set(attacks)) == 1))
        raise UserError(
            f'the targeted DLR loss of "apgd-t" needs {_MIN_CLASSES_TARGETED} classes, the model has {num_classes}; '
            f"leave it out: {leave_out(others)}"
        )


class _Run(NamedTuple):
    key: Array
    model: Any
    images: np.ndarray
    labels: np.ndarray
    eps: float
    norm: str
    num_steps: int
    num_queries: int
    queries_per_round: int
    rounds: Mapping[str, int]  # attack -> number of rounds
    buckets: Buckets
    group_size: int
    should_stop: Callable[[int, int], bool] | None


def autoattack(
    key: Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    norm: str = "linf",
    attacks: Sequence[str] | str = AUTOATTACK,
    num_steps: int = 100,
    num_targets: int = 9,
    num_queries: int = 5000,
    queries_per_round: int = 500,
    batch_size: int = 128,
    smallest_batch: int = 8,
    multiple_of: int = 1,
    place: PlaceFn | None = None,
    should_stop: Callable[[int, int], bool] | None = None,
    group_size: int = 128,
    state: AutoAttackState | None = None,
    save: Callable[[AutoAttackState], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> AutoAttackResult:
    """Attacks images with AutoAttack, and returns adversarial images and the robust accuracy.

    The defaults are those of the standard version; only they give results that compare with published ones.

    Args:
      key: PRNG key.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], in evaluation mode; rows independent. A
        `jax.tree_util.Partial` of a function and its weights passes the weights instead of compiling them in.
      images: float32 [N, H, W, C] in [0, 1].
      labels: int [N]; images labeled -1 are padding: they are returned unchanged and never count.
      eps: radius in units of `images` (8/255 is eight grey levels), for "l1" and "l2" over H, W and C together.
      norm: "l1", "l2" or "linf".
      attacks: names from AUTOATTACK, whose order they are run in, or one name.
      num_steps: number of steps of each gradient attack, at least 1.
      num_targets: number of classes that APGD and FAB approach, those with the largest logits first:
        at most K - 1, and at most 5 by APGD for "l1".
      num_queries: number of queries of the Square Attack, at least 1.
      queries_per_round: number of queries after which the Square Attack drops broken images and can be saved.
      batch_size: largest batch, see `make_buckets`; the remaining images are split into batches of half, a quarter
        and so on.
      smallest_batch: smallest batch, except for long attacks on CPUs, where padding costs more than a compilation.
      multiple_of: divisor of every batch: the number of devices that `place` splits it over.
      place: moves a host batch {name: [B, ...]} to the devices of one process, split by rows; to the default device
        if None.
      should_stop: (number of robust images, number of attacked images) -> whether to stop. With it the images are
        attacked in groups, and the rest is left out of the result; the images should be in random order. Without it all
        images are attacked at once.
      group_size: number of images in a group.
      state: an argument of `save` to resume from.
      save: called after each batch with the state, which changes afterwards: write or copy it. Any state can be
        resumed from, so calls may be ignored.
      on_progress: called after each batch.

    Returns:
      An `AutoAttackResult`: `.adversarial`, `.robust`, `.robust_accuracy`, `.per_attack`, ... of the images that were
      attacked, all of them unless `should_stop` has ended it.

    Raises:
      UserError: no PRNG key, images outside [0, 1], labels that the model does not have, a model that does not return
        [B, K], an unknown norm or attack, a negative radius, a count below 1, no image, a batch_size that is not a
        multiple of multiple_of, too few classes for an attack, or a state of other settings, images or weights.

    Source: Croce & Hein 2020 (AutoAttack), section 6.
    """
    key = single_key(key)
    norms.check_norm(norm)
    images = np.clip(on_host(check_images(images), "images").astype(np.float32, copy=False), 0.0, 1.0)
    as_radius(eps, batch_size=None, norm=norm)
    _check_counts(
        num_steps=num_steps, num_targets=num_targets, num_queries=num_queries, queries_per_round=queries_per_round
    )
    check_count(group_size, "group_size")
    model = as_pytree(logits_fn)
    buckets = make_buckets(batch_size=batch_size, smallest_batch=smallest_batch, multiple_of=multiple_of, place=place)
    num_classes = count_classes(model, images)
    pieces = -(-num_queries // queries_per_round)
    rounds = count_rounds(attacks, norm=norm, num_classes=num_classes, num_targets=num_targets, pieces=pieces)
    run = _Run(
        key=key,
        model=model,
        images=images,
        labels=_checked_labels(labels, len(images), num_classes),
        eps=float(eps),
        norm=norm,
        num_steps=num_steps,
        num_queries=num_queries,
        queries_per_round=queries_per_round,
        rounds=rounds,
        buckets=buckets,
        group_size=group_size if should_stop else len(images),
        should_stop=should_stop,
    )
    state = _begin(run) if state is None else _resume(run, state)
    for progress in _attack_all(run, state):
        if save:
            save(state)
        if on_progress:
            on_progress(progress)
    if save:
        save(state)
    return _result(run, state)


def _begin(run: _Run) -> AutoAttackState:
    """Returns the state before the first attack."""
    num_targets = max((count for name, count in run.rounds.items() if name in _TARGETED), default=0)
    classes = rank(run.model, run.images, run.buckets, count=1 + num_targets)
    robust = (classes[:, 0] == run.labels) & (run.labels >= 0)
    some = slice(min(len(run.images), 32))
    size = len(run.rounds)
    return AutoAttackState(
        settings=_settings(run),
        messages=checks.inspect_model(run.model, run.images[some], run.labels[some]),
        classes=classes,
        robust=robust,
        adversarial=run.images.copy(),
        predictions=classes[:, 0].copy(),
        margins=np.zeros(len(robust), np.float32),
        group=0,
        attack=0,
        round=0,
        queue=np.flatnonzero(robust[: run.group_size]),
        position=0,
        survivors=np.zeros(size, np.int64),
        seconds=np.zeros(size),
        forward_passes=np.zeros(size, np.int64),
        backward_passes=np.zeros(size, np.int64),
    )


def _resume(run: _Run, state: AutoAttackState) -> AutoAttackState:
    """Returns a copy of a saved state.

    Raises:
      UserError: it is of other settings, images or weights.
    """
    saved, current = json.loads(state.settings), json.loads(_settings(run))
    for name, value in current.items():
        if saved.get(name) != value:
            raise UserError(f"the saved state has {name} {saved.get(name)}, this run {value}; start without it")
    sample = run.images[:_COMPARED]
    other = np.sum(rank(run.model, sample, run.buckets)[:, 0] != state.classes[: len(sample), 0])
    if other > max(1, 0.02 * len(sample)):
        raise UserError(
            f"the saved state is of another model, which classifies {other} of {len(sample)} images differently; start "
            "without it"
        )
    return state.copy()


def _attack_all(run: _Run, state: AutoAttackState) -> Iterator[Progress]:
    """Runs all rounds that remain, and yields the progress after each batch; the state changes in place."""
    while state.attack < len(run.rounds):
        yield from _attack_round(run, state)
        _end_round(run, state)


def _attack_round(run: _Run, state: AutoAttackState) -> Iterator[Progress]:
    """Attacks the rest of the round's queue, and yields the progress after each batch."""
    name = list(run.rounds)[state.attack]
    key = jax.random.fold_in(run.key, AUTOATTACK.index(name))
    while (remaining := len(state.queue) - state.position) > 0:
        started = time.perf_counter()
        size = run.buckets.size(remaining, passes=_passes_of_a_row(run, name) * (run.rounds[name] - state.round))
        rows = state.queue[state.position : state.position + size]
        first = state.round * run.queries_per_round
        outcome = attack_batch(
            key, run.model, _batch(run, state, name, rows, size), name=name, eps=run.eps, norm=run.norm,
            round=state.round, num_steps=run.num_steps, first_query=first,
            num_queries=min(run.queries_per_round, run.num_queries - first),
        )  # fmt: skip
        _record(run, state, rows, outcome)
        state.position += len(rows)
        state.forward_passes[state.attack] += outcome.forward + size
        state.backward_passes[state.attack] += outcome.backward
        state.seconds[state.attack] += time.perf_counter() - started
        robust, count = _robust_and_count(run, state)
        passes = int(state.forward_passes.sum() + state.backward_passes.sum())
        place = (name, state.round + 1, run.rounds[name], state.position, len(state.queue))
        yield Progress(*place, robust / max(count, 1), passes, _passes_left(run, state))


def _group(run: _Run, state: AutoAttackState) -> slice:
    """Returns the images of the current group."""
    return slice(state.group * run.group_size, min((state.group + 1) * run.group_size, len(run.images)))


def _robust_and_count(run: _Run, state: AutoAttackState) -> tuple[int, int]:
    """Returns the number of robust images, and of images without padding, in the groups until now."""
    stop = _group(run, state).stop
    return int(state.robust[:stop].sum()), int(np.sum(run.labels[:stop] >= 0))


def _passes_left(run: _Run, state: AutoAttackState) -> int:
    """Returns the number of passes to come if no further image is broken."""
    costs = [_passes_of_a_row(run, name) for name in run.rounds]
    rounds = [0] * state.attack + list(run.rounds.values())[state.attack :]
    rounds[state.attack] -= state.round + 1
    later_costs = sum(count * cost for count, cost in zip(rounds, costs, strict=True))
    robust = int(state.robust[_group(run, state)].sum())
    return (len(state.queue) - state.position) * costs[state.attack] + robust * later_costs


def _passes_of_a_row(run: _Run, name: str) -> int:
    """Returns the passes, forward and backward, of an image in a round of an attack."""
    return run.queries_per_round if name == "square" else 2 * run.num_steps


def _end_round(run: _Run, state: AutoAttackState) -> None:
    """Starts the next round with the unbroken images, or the next attack, or the first attack of the next group."""
    name, group = list(run.rounds)[state.attack], _group(run, state)
    robust = group.start + np.flatnonzero(state.robust[group])
    state.round += 1
    if state.round == run.rounds[name] or not len(robust):
        state.survivors[state.attack] += len(robust)
        state.adversarial[robust] = run.images[robust]
        state.attack, state.round = state.attack + 1, 0
        if state.attack == len(run.rounds) and _has_another_group(run, state):
            state.group, state.attack = state.group + 1, 0
            group = _group(run, state)
            robust = group.start + np.flatnonzero(state.robust[group])
    state.queue, state.position = robust, 0


def _has_another_group(run: _Run, state: AutoAttackState) -> bool:
    """Whether another group is to be attacked."""
    robust, count = _robust_and_count(run, state)
    return _group(run, state).stop < len(run.images) and not (
        run.should_stop and count and run.should_stop(robust, count)
    )


def _batch(run: _Run, state: AutoAttackState, name: str, rows: np.ndarray, size: int) -> Mapping[str, Array]:
    batch = {"image": run.images[rows], "label": run.labels[rows], "index": rows.astype(np.int32)}
    if name in _TARGETED:
        batch["target"] = state.classes[rows, 1 + state.round]
    if name == "square":
        batch |= {"best": state.adversarial[rows], "margin": state.margins[rows]}
    return run.buckets.put(batch, size)


def _record(run: _Run, state: AutoAttackState, rows: np.ndarray, outcome: Outcome) -> None:
    """Records broken images after classifying them again: the program of the attack may round differently."""
    predictions = largest_classes(run.model, outcome.images, count=state.classes.shape[1])
    candidates, predictions = np.asarray(outcome.images)[: len(rows)], np.asarray(predictions)[: len(rows), 0]
    broken = predictions != run.labels[rows]
    broken &= checks.are_within(candidates, run.images[rows], eps=run.eps, norm=run.norm)
    state.robust[rows[broken]] = False
    state.predictions[rows[broken]] = predictions[broken]
    if outcome.margins is None:
        rows, candidates = rows[broken], candidates[broken]
    else:
        state.margins[rows] = np.asarray(outcome.margins)[: len(rows)]
    state.adversarial[rows] = candidates


def _checked_labels(labels: ArrayLike, count: int, num_classes: int) -> np.ndarray:
    labels = on_host(as_labels(labels, batch_size=count, num_classes=num_classes), "labels")
    if not np.any(labels >= 0):
        raise UserError(f"no image to attack: all {count} labels are -1 (padding)")
    return labels


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        try:
            check_count(count, name)
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')}: to skip an attack, use `attacks`") from None


def _settings(run: _Run) -> str:
    """Returns everything that the result depends on except the model, to compare with a saved state."""
    checksum = zlib.crc32(run.labels.tobytes(), zlib.crc32(np.ascontiguousarray(run.images).tobytes()))
    names = ("eps", "norm", "num_steps", "num_queries", "queries_per_round", "rounds", "group_size")
    settings = {name: getattr(run, name) for name in names}
    key = np.asarray(jax.random.key_data(run.key)).tolist()
    return json.dumps({**settings, "images": list(run.images.shape), "checksum of the images": checksum, "key": key})


def _result(run: _Run, state: AutoAttackState) -> AutoAttackResult:
    stop, (robust, count) = _group(run, state).stop, _robust_and_count(run, state)
    labels = run.labels[:stop]
    clean = (labels >= 0) & (state.classes[:stop, 0] == labels)
    columns = (state.survivors / count, state.seconds, state.forward_passes, state.backward_passes)
    records = [AttackRecord(*(a.item() for a in row)) for row in zip(*columns, strict=True)]
    per_attack = dict(zip(run.rounds, records, strict=True))
    gain = checks.check_square_gain({name: record.robust_accuracy for name, record in per_attack.items()})
    return AutoAttackResult(
        adversarial=state.adversarial[:stop],
        robust=state.robust[:stop],
        clean=clean,
        predictions=state.predictions[:stop],
        clean_accuracy=float(clean.sum() / count),
        robust_accuracy=robust / count,
        per_attack=per_attack,
        messages=[*state.messages, *gain],
    )
