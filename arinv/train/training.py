"""Training of networks by a config: the setup (`TrainSetup`), checks of the fields, and the run around the loop."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, models, parallel
from arinv.data.decoding import RESIZE_MODES, crop_options
from arinv.errors import UserError, unknown
from arinv.experiment import checkpoint, descriptions
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.experiment.trained import CLASSIFIER, Trained
from arinv.experiment.writer import TEST, Writer, progress_bar, progress_callback
from arinv.models.encoders.base import Normalization, mean_std
from arinv.ops.augment import check_strengths
from arinv.train import accelerators, loop, optimizers
from arinv.train.feed import Batches, FirstImages, concatenate, evaluate_batches, numbers_of
from arinv.train.speed import Profile, check_steps
from arinv.types import Variables

_MAX_COUNTED = 100_000  # records whose labels are read for the report: about a second
_MAX_LISTED = 6  # classes in a report
_INIT, _TRAIN, _EVALUATE, ENCODER = range(4)  # PRNG streams, folded into the key of the seed


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """What a task trains, and how.

    Attributes:
      networks: name -> (module, shapes of its inputs).
      optimizers: name -> optimizer.
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      eval_step: pure (variables, batch, key, *frozen) -> results per example.
      figure: image results of the first test images -> uint8 [H, W, 3].
      description: what the networks are rebuilt from, plain JSON.
      frozen: variables of networks that are not trained.
      extend: adds to the state at step 0 what the step keeps besides the networks.
      start: puts the weights of earlier trainings into a new state; not called where a run resumes.
      notices: name of a metric -> message for when it is above 0.
      normalization: normalization of the encoder's pixels, for the report.
      host_features: images uint8 [b, S, S, 3] -> further arrays of the batches, by name; None for none.
    """

    networks: Mapping[str, tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]]
    optimizers: Mapping[str, Any]
    train_step: Callable
    eval_step: Callable
    figure: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    description: Mapping[str, Any]
    frozen: tuple = ()
    extend: Callable[[TrainState], TrainState] = lambda state: state
    start: Callable[[TrainState], TrainState] | None = None
    notices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    normalization: Normalization = "none"
    host_features: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None

    def init(self, key: jax.Array) -> TrainState:
        """Returns the state at step 0."""
        return self.extend(TrainState.create(key, self.networks, self.optimizers))

    def step_on(self, mesh: jax.sharding.Mesh) -> Callable:
        """Returns the train step for a state that is placed on a mesh."""
        return loop.gather_first(self.train_step, self.networks, mesh)


def check(config: ConfigDict) -> None:
    """Checks the fields that every training has.

    Raises:
      UserError: number out of range, also of augmentation, unknown optimizer or schedule, or dataset that is unknown or
        does not exist.
    """
    data.check_name(config.data.name)
    if config.num_steps < 0:
        raise UserError(f"num_steps={config.num_steps} must be 0 (num_epochs decides) or more")
    if config.data.extra.name:
        data.check_name(config.data.extra.name)
    crop_options(config.data.get("resized_crop", {}), "data.resized_crop")
    check_strengths(config.augmentation, image_size=config.data.image_size, prefix="augmentation.")
    if config.data.resize not in RESIZE_MODES:
        raise unknown("data.resize", config.data.resize, RESIZE_MODES)
    for name in ("every_steps", "checkpoint_every_steps", "keep_checkpoints", "num_images"):
        if config.log[name] < 1:
            raise UserError(f"log.{name}={config.log[name]} must be 1 or more")
    if not config.log.evaluate_every_epochs > 0:
        raise UserError(f"log.evaluate_every_epochs={config.log.evaluate_every_epochs} must be above 0")
    if not (config.num_steps > 0 or config.num_epochs > 0):
        total_steps(config, 1)
    if config.num_epochs < 0:
        raise UserError(f"num_epochs={config.num_epochs} must be 0 or more")
    for spec in [config.optimizer] if "schedule" in config.optimizer else config.optimizer.values():
        optimizers.make_optimizer(spec.to_dict(), num_steps=10_000, steps_per_epoch=1_000)  # raises for its options
    check_steps(config.log.profile_steps)
    if not 0 <= config.get("ema_decay", 0.0) < 1:
        raise UserError(f"ema_decay must be 0 (none) or more and below 1, such as 0.995; got {config.ema_decay}")
    if config.steps_per_call < 1:
        raise UserError(f"steps_per_call must be 1 or more; got {config.steps_per_call}")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the images of a training can be read and fill a batch.

    Raises:
      UserError: a source that cannot be read, or has fewer images than its part of a batch.
    """
    config, train = run.config, run.open_data("train")
    run.open_data("test")
    extra_size = _extra_size(config)
    data.check_full_batch(config.batch_size - extra_size, len(train))
    if extra_size:
        data.check_full_batch(extra_size, len(run.open_extra(train)))


def published_info(config: ConfigDict) -> data.SourceInfo:
    """Returns what is known of the training images without opening them.

    Args:
      config: config of a training.

    Returns:
      Facts without class names, and with num_examples and num_classes 0 where they are unknown; those of a classifier
      are the published encoder's.
    """
    fields = config.data
    info = data.published(fields.name, fields.train_split, image_size=fields.image_size)
    num_classes, num_examples = (info.num_classes, info.num_examples) if info else (0, 0)
    if fields.classes:
        is_even = num_classes and not fields.get("label")  # classes of an attribute differ in number
        num_examples = round(num_examples * len(fields.classes) / num_classes) if is_even else 0
        num_classes = len(fields.classes)
    if fields.num_train:
        limited = num_examples and not data.split_name(fields.name)[0].selects_examples
        num_examples = min(num_examples, fields.num_train) if limited else fields.num_train
    if not num_classes and config.task == CLASSIFIER:
        num_classes = models.build(config.encoder.name, **config.encoder.options).num_classes
    return data.SourceInfo(fields.name, fields.train_split, num_examples, num_classes, (), fields.image_size)


def train(
    run: Run,
    build: Callable[[Run, Trained | None, data.SourceInfo, int], TrainSetup],
    frozen: Trained | None = None,
    *,
    measure: Callable[[Mapping[str, Variables]], Mapping[str, float]] | None = None,
) -> dict[str, float]:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
      run: a run of a training task.
      build: (run, frozen, info on the training images, steps per epoch) -> what is trained.
      frozen: network that the other is trained on, such as its encoder; None without one.
      measure: variables of the networks -> metrics of the whole test set, which are measured at every evaluation too;
        None for none.

    Returns:
      Means over the test examples and the metrics of the whole set, at the end.

    Raises:
      UserError: data that cannot be read, checkpoints of a run on another encoder, or as `loop.fit`.
    """
    config, mesh = run.config, run.mesh
    train, test = run.open_data("train"), run.open_data("test")
    batches = make_batches(run, train)
    setup = build(run, frozen, train.info, batches.steps_per_epoch)
    batches = _extend(batches, setup)
    description = dict(setup.description)
    if frozen is not None:
        description[descriptions.WEIGHTS] = frozen.fingerprint
    run.begin()
    _report_data(run, train, test, setup.normalization)
    init_key, train_key, evaluate_key = (jax.random.fold_in(run.key, stream) for stream in (_INIT, _TRAIN, _EVALUATE))
    names = jax.eval_shape(setup.init, run.key).variables
    timetable = make_timetable(config, batches.steps_per_epoch)
    frozen_variables = parallel.replicate(setup.frozen, mesh)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run.workdir, names, keep=config.log.keep_checkpoints))
        if checkpoints.latest_step() is not None:
            saved = checkpoint.load_description(run.workdir)
            descriptions.check_weights(saved, description.get(descriptions.WEIGHTS), run.workdir)
            descriptions.check_resumed(saved, description, run.workdir)
        state, log_state = loop.restore_or_create(setup.init, init_key, mesh, checkpoints, batches, start=setup.start)
        options = {"resumed_step": int(state.step), "repeats_evaluation": log_state.get(loop.EVALUATES, False)}
        writer = stack.enter_context(Writer(run.workdir, **options))
        writer.parameters(state.variables)
        evaluate = _make_evaluate(run, setup, frozen_variables, test, writer, evaluate_key, measure)
        state = loop.fit(
            state,
            setup.step_on(mesh),
            batches,
            key=train_key,
            mesh=mesh,
            timetable=timetable,
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=writer,
            description=description,
            title=config.title,
            log_state=log_state,
            frozen=frozen_variables,
            notices=setup.notices,
            peak_flops=_peak_flops(config, mesh),
            profile=Profile(run.workdir / "profile", config.log.profile_steps),
        )
        results = evaluate(state, timetable.num_steps)
        loop.check_finite(results, timetable.num_steps, checkpoints)
        writer.scalars(timetable.num_steps, {f"{TEST}{name}": value for name, value in results.items()})
    return results


def _report_data(run: Run, train: data.Source, test: data.Source, normalization: Normalization) -> None:
    """Prints a line on the data of a training, and warnings about its test split."""
    run.report(_summary(run.config, train, test, normalization))
    run.warn_overlap(train.info, test.info)
    if copies := data.count_copies(train, test):
        run.report(
            f"warning: {copies:,} of {len(test):,} test images are copies of training images: the results are not "
            "those of new images"
        )
    if run.config.task == CLASSIFIER and (text := data.report_absent(test)):
        run.report(text)


def _extend(batches: Any, setup: TrainSetup) -> Any:
    """Returns batches with the features that the host computes."""
    return data.ExtendedBatches(batches, setup.host_features) if setup.host_features else batches


def make_batches(run: Run, source: data.Source) -> Batches:
    """Returns this process's share of the training batches, mixed with those of data.extra where it is set.

    Args:
      run: a run of a training task.
      source: source of the training images.

    Raises:
      UserError: data.extra cannot be read or does not fit, or its share leaves no image of one of the two sources.
    """
    config, rows = run.config, run.rows
    extra_size = _extra_size(config)
    if not extra_size:
        return _batches(config, source, config.batch_size, rows)
    first_size = config.batch_size - extra_size
    # The global batch is the same for any number of processes, so a process may have rows of one source only.
    first = _batches(config, source, first_size, rows[rows < first_size])
    second = _batches(config, run.open_extra(source), extra_size, rows[rows >= first_size] - first_size)
    return data.MixedBatches(first, second, batch_size=config.batch_size)


def _extra_size(config: ConfigDict) -> int:
    """Returns the number of images of a batch that are of data.extra; 0 without it.

    Raises:
      UserError: its share leaves no image of one of the two sources.
    """
    extra = config.data.extra
    if not extra.name:
        return 0
    extra_size = round(extra.share * config.batch_size)
    if not 0 < extra_size < config.batch_size:
        raise UserError(
            f"data.extra.share={extra.share} of a batch of {config.batch_size} leaves one source empty; choose a share "
            "between 0 and 1"
        )
    return extra_size


def _batches(config: ConfigDict, source: data.Source, batch_size: int, rows: np.ndarray) -> Batches:
    return data.train_batches(
        source,
        batch_size=batch_size,
        seed=config.seed,
        rows=rows,
        num_workers=config.data.num_workers,
        resized_crop=crop_options(config.data.get("resized_crop", {}), "data.resized_crop"),
        progress=progress_callback(f"reading {source.info.name}"),
    )


def total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
    """Returns the number of steps of a run: num_steps where it is set, else num_epochs in steps.

    Raises:
      UserError: the run would have no step.
    """
    num_steps = config.num_steps or round(config.num_epochs * steps_per_epoch)
    if num_steps < 1:
        raise UserError(
            f"num_epochs={config.num_epochs}, num_steps={config.num_steps} give a run of 0 steps; set one of them"
        )
    return num_steps


def steps_within(config: ConfigDict, name: str, epochs: float, steps_per_epoch: int) -> int:
    """Returns a number of epochs from the start of a run in steps.

    Args:
      config: config of the training.
      name: name of the field, for the message.
      epochs: its value.
      steps_per_epoch: length of an epoch, in steps.

    Raises:
      UserError: they are longer than the run.
    """
    steps, total = round(epochs * steps_per_epoch), total_steps(config, steps_per_epoch)
    if steps > total:
        raise UserError(
            f"{name}={epochs:g} is {steps:,} steps, beyond the end of the training of {total:,} steps; set it to "
            f"{total / steps_per_epoch:.3g} or less, or train longer"
        )
    return steps


def make_timetable(config: ConfigDict, steps_per_epoch: int) -> loop.Timetable:
    """Returns the steps of a run, and those after which it logs, evaluates and saves.

    Raises:
      UserError: the run would have no step.
    """
    return loop.Timetable(
        num_steps=total_steps(config, steps_per_epoch),
        log=config.log.every_steps,
        evaluate=max(1, round(config.log.evaluate_every_epochs * steps_per_epoch)),
        checkpoint=config.log.checkpoint_every_steps,
        steps_per_call=config.steps_per_call,
    )


def make_optimizers(config: ConfigDict, names: tuple[str, ...], steps_per_epoch: int) -> dict[str, Any]:
    """Returns an optimizer for each network, from config.optimizer or config.optimizer.NAME.

    Raises:
      UserError: as `optimizers.make_optimizer`, or a warm-up that is longer than the run.
    """
    result, num_steps = {}, total_steps(config, steps_per_epoch)
    for name in names:
        prefix = f"optimizer.{name}" if name in config.optimizer else "optimizer"
        spec = config.optimizer[name] if name in config.optimizer else config.optimizer
        warmup = spec.schedule.get("warmup_epochs", 0.0)
        steps_within(config, f"{prefix}.schedule.warmup_epochs", warmup, steps_per_epoch)
        result[name] = optimizers.make_optimizer(spec.to_dict(), num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    return result


def _peak_flops(config: ConfigDict, mesh: jax.sharding.Mesh) -> float | None:
    """Returns the peak operations per second of all devices together; None for an unknown device."""
    peak = accelerators.peak_flops(mesh.devices.flat[0].device_kind, config.dtype)
    return peak and peak * mesh.size


def _make_evaluate(
    run: Run,
    setup: TrainSetup,
    frozen: tuple,
    test: data.Source,
    writer: Writer,
    key: jax.Array,
    measure: Callable[[Mapping[str, Variables]], Mapping[str, float]] | None,
) -> Callable[[TrainState, int], dict[str, float]]:
    """Returns a function of (state, step) that evaluates on the test source and saves a figure."""
    config, mesh = run.config, run.mesh
    eval_step = jax.jit(lambda variables, *others: setup.eval_step(parallel.gather(variables, mesh), *others))
    batches = _extend(data.eval_batches(test, batch_size=config.batch_size, rows=run.rows), setup)

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        numbers, images = [], FirstImages(config.log.num_images)
        bar = progress_bar(batches, f"{config.title}: evaluation", unit="batch", leave=False)
        for batch, results in evaluate_batches(
            lambda batch, key: eval_step(state.variables, batch, key, *frozen), bar, key=key, mesh=mesh
        ):
            numbers.append(numbers_of(batch, results))
            images.add(batch, results)
        writer.image(step, config.task, setup.figure(images.arrays()))
        means = {name: float(np.mean(values, dtype=np.float64)) for name, values in concatenate(numbers).items()}
        return {**means, **(measure(state.variables) if measure else {})}

    return evaluate


def _summary(config: ConfigDict, train: data.Source, test: data.Source, normalization: Normalization) -> str:
    """Returns one line on the data of a training."""
    mean, std = ("/".join(f"{value:g}" for value in values) for values in mean_std(normalization))
    name = f"{normalization}: " if isinstance(normalization, str) else ""
    extra = config.data.extra
    second = f" and {extra.name} ({extra.share:.0%} of each batch)" if extra.name else ""
    return (
        f"{train.info.name}{second}, {_classes(train)}, {len(train):,} training and {len(test):,} test images of "
        f"{train.info.image_size} px, normalization {name}mean {mean}, standard deviation {std}"
    )


def _classes(source: data.Source) -> str:
    """Returns the classes of a source, with the number of images of each where it is quick to count."""
    names = source.info.class_names
    text = f"{len(names):,} class{'' if len(names) == 1 else 'es'}"
    if len(source) > _MAX_COUNTED and data.split_name(source.info.name)[0].slow_labels:
        return text
    counts = np.bincount(source.read_labels(), minlength=len(names)).tolist()
    names = [name[:40] if name.isprintable() else repr(name[:40]) for name in names]
    pairs = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    if len(pairs) > _MAX_LISTED:
        pairs = [*pairs[:3], "...", pairs[-1], f"{min(counts):,} to {max(counts):,} each"]
    return f"{text} ({', '.join(pairs)})"
