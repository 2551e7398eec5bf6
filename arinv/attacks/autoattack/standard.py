"""AutoAttack, standard version: APGD-CE, targeted APGD-DLR, targeted FAB and Square, one after the other.

Images are float32 [N, H, W, C] in [0, 1] on the host, radii in the same unit. Each attack gets the images that
all before it left standing, and within an attack each target class those that the targets before it left. They
are gathered into batches of a few sizes, each of which is compiled once.

The result of an image follows from the key and its number alone, not from the batch it lands in, as far as the
model's logits do not depend on the batch. A run that is cut short goes on from its last saved state, with the
same batches, to the same result.

Source: Croce & Hein 2020 (AutoAttack), section 6; Croce & Hein 2021 for l1; order, constants and bookkeeping as in
the authors' code, version "standard".
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from arinv.attacks.autoattack import checks
from arinv.attacks.autoattack.progress import (
    AUTOATTACK,
    AttackRecord,
    AutoAttackResult,
    AutoAttackState,
    Outcome,
    Progress,
    attack_batch,
)
from arinv.attacks.rows import (
    Buckets,
    PlaceFn,
    as_pytree,
    count_classes,
    largest_classes,
    make_buckets,
    rank,
    single_key,
)
from arinv.errors import UserError, unknown
from arinv.ops import norms
from arinv.ops.inputs import as_labels, as_radius, check_count, check_images
from arinv.types import Array, ArrayLike, LogitsFn

_LEAST = 2
_LEAST_TARGETED = 4  # of apgd-t: its loss looks at the four largest logits
_CE_RESTARTS = {"l1": 5}  # 1 otherwise
_APGD_TARGETS = {"l1": 5}  # 9 otherwise, as for FAB


def count_rounds(
    attacks: Sequence[str] | str, *, norm: str, num_classes: int, num_targets: int, pieces: int
) -> dict[str, int]:
    """Returns the number of rounds of each attack: restarts, targets, or pieces of the search.

    Args:
      attacks: names from AUTOATTACK, or one name.
      norm: "l1", "l2" or "linf".
      num_classes: of the model.
      num_targets: classes to approach, as far as there are so many.
      pieces: of the Square Attack.

    Returns:
      Attack -> number, in the order of AUTOATTACK.

    Raises:
      UserError: an unknown attack, or too few classes.
    """
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
    """Checks that a model has the classes that attacks need.

    Args:
      attacks: names from AUTOATTACK.
      num_classes: of the model.
      leave_out: the attacks that are possible -> how a caller asks for only these, for the message.

    Raises:
      UserError: it has too few.
    """
    if num_classes < _LEAST:
        raise UserError(
            f"AutoAttack needs a model of at least {_LEAST} classes, this one has {num_classes}: there is no "
            "other class to lead an image to."
        )
    if num_classes < _LEAST_TARGETED and "apgd-t" in attacks:
        others = tuple(name for name in AUTOATTACK if name != "apgd-t" and (name in attacks or len(set(attacks)) == 1))
        raise UserError(
            f'the targeted DLR loss of "apgd-t" needs {_LEAST_TARGETED} classes, the model has {num_classes}; '
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
    state: AutoAttackState | None = None,
    save: Callable[[AutoAttackState], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> AutoAttackResult:
    """Returns which images withstand AutoAttack, and adversarial images for those that do not.

    The defaults are those of the standard version; only they give figures that compare with published ones.

    Args:
      key: PRNG key.
      logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], in evaluation mode; rows independent. A
        `jax.tree_util.Partial` of a function and its weights passes the weights instead of compiling them in.
      images: float32 [N, H, W, C] in [0, 1].
      labels: int [N]; images labelled -1 are padding: they come back unchanged and never count.
      eps: radius in units of `images` (8/255 is eight grey levels), for "l1" and "l2" over H, W and C together.
      norm: "l1", "l2" or "linf".
      attacks: which, in the order of AUTOATTACK, or the name of one.
      num_steps: of each gradient attack.
      num_targets: classes that APGD and FAB approach one after the other, those with the largest logits first:
        at most K - 1, and at most 5 by APGD for "l1".
      num_queries: of the Square Attack.
      queries_per_round: after so many queries, the Square Attack leaves out what it has broken, and can be saved.
      batch_size: the largest batch; what is left over goes into batches of half, a quarter and so on.
      smallest_batch: no smaller batch than this.
      multiple_of: each batch is a multiple of this: of the number of devices that `place` splits it over.
      place: puts a host batch {name: [B, ...]} on devices, split by rows, of one process; to the default device
        if None.
      state: from which to go on; what was given to `save`.
      save: called after each batch with the state. It keeps changing afterwards: write or copy what is to be
        kept. Calls may be skipped: any state can be continued from.
      on_progress: called after each batch.

    Returns:
      The result.

    Raises:
      UserError: no PRNG key, images outside [0, 1], labels that the model does not have, a model that does not return
        [B, K], an unknown norm or attack, a negative radius, a count below 1, no image, a batch_size that is no
        multiple of multiple_of, too few classes for an attack, or a state of other settings, images or weights.

    Source: Croce & Hein 2020 (AutoAttack), section 6.
    """
    key = single_key(key)
    norms.check_norm(norm)
    images = np.clip(np.asarray(check_images(images), np.float32), 0.0, 1.0)
    as_radius(eps, batch_size=None, norm=norm)
    _check_counts(
        num_steps=num_steps, num_targets=num_targets, num_queries=num_queries, queries_per_round=queries_per_round
    )
    model, buckets = as_pytree(logits_fn), make_buckets(
        batch_size=batch_size, smallest_batch=smallest_batch, multiple_of=multiple_of, place=place
    )  # fmt: skip
    num_classes = count_classes(model, images)
    pieces = -(-num_queries // queries_per_round)
    rounds = count_rounds(attacks, norm=norm, num_classes=num_classes, num_targets=num_targets, pieces=pieces)
    labels = _checked_labels(labels, len(images), num_classes)
    run = _Run(key, model, images, labels, float(eps), norm, num_steps, num_queries, queries_per_round, rounds,
               buckets)  # fmt: skip
    count = 1 + max((n for name, n in rounds.items() if name in ("apgd-t", "fab-t")), default=0)
    state = _begin(run, count) if state is None else _resume(run, state)
    while state.attack < len(rounds):
        for progress in _go_round(run, state):
            if save:
                save(state)
            if on_progress:
                on_progress(progress)
        _end_round(run, state)
    if save:
        save(state)
    return _result(run, state)


def _begin(run: _Run, count: int) -> AutoAttackState:
    classes = rank(run.model, run.images, run.buckets, count=count)
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
        attack=0,
        round=0,
        queue=np.flatnonzero(robust),
        position=0,
        accuracies=np.full(size, np.nan),
        seconds=np.zeros(size),
        forward_passes=np.zeros(size, np.int64),
        backward_passes=np.zeros(size, np.int64),
    )


def _resume(run: _Run, state: AutoAttackState) -> AutoAttackState:
    saved, wanted = json.loads(state.settings), json.loads(_settings(run))
    for name, value in wanted.items():
        if saved.get(name) != value:
            raise UserError(f"the state to go on from has {name} {saved.get(name)}, this run {value}; start anew.")
    some = run.images[: run.buckets.sizes[0]]
    other = np.sum(rank(run.model, some, run.buckets)[:, 0] != state.classes[: len(some), 0])
    if other > max(1, 0.02 * len(some)):
        raise UserError(
            f"the state to go on from is of another model: it classifies {other} of {len(some)} images otherwise; "
            "start anew."
        )
    return state.copy()


def _go_round(run: _Run, state: AutoAttackState):
    """Attacks what is left of the round's queue, and yields after each batch."""
    name = list(run.rounds)[state.attack]
    key = jax.random.fold_in(run.key, AUTOATTACK.index(name))
    while (remaining := len(state.queue) - state.position) > 0:
        started = time.perf_counter()
        size = run.buckets.size(remaining)
        rows = state.queue[state.position : state.position + size]
        first = state.round * run.queries_per_round
        outcome = attack_batch(
            key, run.model, _batch(run, state, name, rows, size), name=name, eps=run.eps, norm=run.norm,
            round=state.round, num_steps=run.num_steps, first_query=first,
            num_queries=min(run.queries_per_round, run.num_queries - first),
        )  # fmt: skip
        _take(run, state, rows, outcome)
        state.position += len(rows)
        state.forward_passes[state.attack] += outcome.forward + size
        state.backward_passes[state.attack] += outcome.backward
        state.seconds[state.attack] += time.perf_counter() - started
        accuracy = float(state.robust.sum() / np.sum(run.labels >= 0))
        passes = int(state.forward_passes.sum() + state.backward_passes.sum())
        where = (name, state.round + 1, run.rounds[name], state.position, len(state.queue))
        yield Progress(*where, accuracy, passes, _passes_left(run, state))


def _passes_left(run: _Run, state: AutoAttackState) -> int:
    """Returns how many passes are to come if all images that stand now withstand them."""
    costs = [run.queries_per_round if name == "square" else 2 * run.num_steps for name in run.rounds]
    rounds = [0] * state.attack + list(run.rounds.values())[state.attack :]
    rounds[state.attack] -= state.round + 1
    later = sum(count * cost for count, cost in zip(rounds, costs, strict=True))
    return (len(state.queue) - state.position) * costs[state.attack] + int(state.robust.sum()) * later


def _end_round(run: _Run, state: AutoAttackState) -> None:
    """Starts the next round, with the images that are still standing, or the next attack."""
    name = list(run.rounds)[state.attack]
    state.round += 1
    if state.round == run.rounds[name] or not state.robust.any():
        state.accuracies[state.attack] = state.robust.sum() / np.sum(run.labels >= 0)
        state.adversarial[state.robust] = run.images[state.robust]
        state.attack, state.round = state.attack + 1, 0
    state.queue, state.position = np.flatnonzero(state.robust), 0


def _batch(run: _Run, state: AutoAttackState, name: str, rows: np.ndarray, size: int) -> Mapping[str, Array]:
    batch = {"image": run.images[rows], "label": run.labels[rows], "index": rows.astype(np.int32)}
    if name in ("apgd-t", "fab-t"):
        batch["target"] = state.classes[rows, 1 + state.round]
    if name == "square":
        batch |= {"found": state.adversarial[rows], "margin": state.margins[rows]}
    return run.buckets.put(batch, size)


def _take(run: _Run, state: AutoAttackState, rows: np.ndarray, outcome: Outcome) -> None:
    """Notes which images are broken, by a count of its own: the program of the attack may round otherwise."""
    predictions = largest_classes(run.model, outcome.images, count=state.classes.shape[1])
    found, predictions = np.asarray(outcome.images)[: len(rows)], np.asarray(predictions)[: len(rows), 0]
    broken = predictions != run.labels[rows]
    broken &= checks.are_within(found, run.images[rows], eps=run.eps, norm=run.norm)  # whatever an attack returns
    state.robust[rows[broken]] = False
    state.predictions[rows[broken]] = predictions[broken]
    if outcome.margins is None:
        rows, found = rows[broken], found[broken]
    else:
        state.margins[rows] = np.asarray(outcome.margins)[: len(rows)]
    state.adversarial[rows] = found


def _checked_labels(labels: ArrayLike, count: int, num_classes: int) -> np.ndarray:
    labels = np.asarray(as_labels(labels, batch_size=count, num_classes=num_classes))
    if not np.any(labels >= 0):
        raise UserError(f"no image to attack: all {count} labels are -1 (padding).")
    return labels


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        try:
            check_count(count, name)
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')}; an attack is left out with `attacks`.") from None


def _settings(run: _Run) -> str:
    """Returns all that the result depends on but the model, to compare with that of a saved state."""
    checksum = zlib.crc32(run.labels.tobytes(), zlib.crc32(np.ascontiguousarray(run.images).tobytes()))
    names = ("eps", "norm", "num_steps", "num_queries", "queries_per_round", "rounds")
    settings = {name: getattr(run, name) for name in names}
    key = np.asarray(jax.random.key_data(run.key)).tolist()
    return json.dumps({**settings, "images": list(run.images.shape), "checksum of the images": checksum, "key": key})


def _result(run: _Run, state: AutoAttackState) -> AutoAttackResult:
    real = run.labels >= 0
    clean = real & (state.classes[:, 0] == run.labels)
    columns = (state.accuracies, state.seconds, state.forward_passes, state.backward_passes)
    records = [AttackRecord(*(a.item() for a in row)) for row in zip(*columns, strict=True)]
    per_attack = dict(zip(run.rounds, records, strict=True))
    gain = checks.square_gain({name: record.robust_accuracy for name, record in per_attack.items()})
    return AutoAttackResult(
        adversarial=state.adversarial,
        robust=state.robust,
        clean=clean,
        predictions=state.predictions,
        clean_accuracy=float(clean.sum() / real.sum()),
        robust_accuracy=float(state.robust.sum() / real.sum()),
        per_attack=per_attack,
        messages=[*state.messages, *gain],
    )
