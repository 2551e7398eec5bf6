"""What the training tasks share: from a config and its parts to a finished run with its results."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, parallel
from arinv.data.image_files import RESIZE_MODES
from arinv.errors import UserError, unknown
from arinv.experiment import checkpoint, trained
from arinv.experiment import state as train_state
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.run import Run, batch_rows, open_extra
from arinv.experiment.state import TrainState
from arinv.experiment.trained import Trained
from arinv.experiment.writer import Writer, progress_callback
from arinv.models.encoders.base import Normalization, mean_std
from arinv.train import accelerators, loop, optimizers
from arinv.train.feed import Batches, collect
from arinv.train.speed import Profile, check_steps

_MOST_COUNTED = 100_000  # records whose labels are read for the report: about a second
_SHOWN = 6  # classes


def check_classes(config: ConfigDict, train: data.Source, test: data.Source) -> None:
    """Checks that a classifier can learn the classes that it is tested on.

    Raises:
      UserError: a single class, or classes of the test that the training images lack.
    """
    info = train.info
    scheme, location = data.split_name(info.name)
    if info.num_classes < 2:
        advice = "take a data set of several, or leave out classes="
        if scheme.class_advice and not config.data.classes:
            advice = scheme.class_advice(location)
        raise UserError(
            f"{info.name} has one class, {', '.join(info.class_names)!r}: a classifier learns nothing from it; {advice}"
        )
    if not scheme.user_data or config.data.num_train or config.data.extra.name:
        return  # few of the images may well lack a class, and a second source may have it
    lacking = sorted(set(test.read_labels().tolist()) - set(train.read_labels().tolist()))
    if lacking:
        names = ", ".join(test.info.class_names[label] for label in lacking[:_SHOWN])
        raise UserError(
            f"{info.name} has no training image of {len(lacking)} of the classes in its test: {names}; add some, or "
            "remove them"
        )


def report(config: ConfigDict, train: data.Source, test: data.Source, normalization: Normalization) -> None:
    """Prints on stderr, in one line, what is about to be learnt; process 0 does.

    Args:
      config: of the training.
      train: its training images.
      test: its test images.
      normalization: of the encoder's pixels.
    """
    if jax.process_index() == 0:
        print(f"{config.title}: {_text(config, train, test, normalization)}", file=sys.stderr, flush=True)


def _text(config: ConfigDict, train: data.Source, test: data.Source, normalization: Normalization) -> str:
    mean, std = mean_std(normalization)
    name = f"{normalization}: " if isinstance(normalization, str) else ""
    extra = config.data.extra
    second = f" and {extra.name} ({extra.share:.0%} of each batch)" if extra.name else ""
    return (
        f"{train.info.name}{second}, {_classes(train)}, {len(train):,} training and {len(test):,} test images of "
        f"{train.info.image_size} px, normalisation {name}mean {_joined(mean)}, standard deviation {_joined(std)}"
    )


def _classes(source: data.Source) -> str:
    names = source.info.class_names
    text = f"{len(names):,} class{'' if len(names) == 1 else 'es'}"
    if len(source) > _MOST_COUNTED and data.split_name(source.info.name)[0].slow_labels:
        return text
    counts = np.bincount(source.read_labels(), minlength=len(names)).tolist()
    names = [name[:40] if name.isprintable() else repr(name[:40]) for name in names]
    pairs = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    if len(pairs) > _SHOWN:
        pairs = [*pairs[:3], "...", pairs[-1], f"{min(counts):,} to {max(counts):,} each"]
    return f"{text} ({', '.join(pairs)})"


def _joined(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)


_INIT, _TRAIN, _EVALUATE = range(3)  # what the keys folded from the seed are for


def check(config: ConfigDict) -> None:
    """Checks the fields that every training has.

    Raises:
      UserError: a number out of range, an unknown optimiser or schedule, or a data set of unknown kind or that is not
        there.
    """
    data.check_name(config.data.name)
    if config.data.extra.name:
        data.check_name(config.data.extra.name)
    _resized_crop(config)
    if config.data.resize not in RESIZE_MODES:
        raise unknown("data.resize", config.data.resize, RESIZE_MODES)
    for name in ("every_steps", "checkpoint_every_steps", "keep_checkpoints", "num_pictures"):
        if config.log[name] < 1:
            raise UserError(f"log.{name}={config.log[name]} must be 1 or more")
    if not config.log.evaluate_every_epochs > 0:
        raise UserError(f"log.evaluate_every_epochs={config.log.evaluate_every_epochs} must be above 0")
    if not (config.num_steps > 0 or config.num_epochs > 0):
        length(config, 1)
    for spec in [config.optimizer] if "schedule" in config.optimizer else config.optimizer.values():
        optimizers.make_optimizer(spec.to_dict(), num_steps=1000, steps_per_epoch=10)  # tells what it does not know
    check_steps(config.log.get("profile_steps", ()))
    if steps_per_call(config) < 1:
        raise UserError(f"steps_per_call must be 1 or more; got {steps_per_call(config)}")


def steps_per_call(config: ConfigDict) -> int:
    """Returns how many steps are sent to the devices together."""
    return config.get("steps_per_call", 1)


def make_batches(config: ConfigDict, source: data.Source) -> Batches:
    """Returns this process's share of the training batches, with those of a second source where there is one.

    Raises:
      UserError: a second source that cannot be read or does not fit, or a share of it that leaves one of both empty.
    """
    extra, rows = config.data.extra, batch_rows(config)["rows"]
    if not extra.name:
        return _batches(config, source, config.batch_size, rows)
    second_size = round(extra.share * config.batch_size)
    first_size = config.batch_size - second_size
    if not 0 < second_size < config.batch_size:
        raise UserError(f"data.extra.share={extra.share} of a batch of {config.batch_size} leaves one source empty")
    # The global batch is the same for any number of processes, so one of them may have rows of one source only.
    first = _batches(config, source, first_size, rows[rows < first_size])
    second = _batches(config, open_extra(config, source), second_size, rows[rows >= first_size] - first_size)
    return data.MixedBatches(first, second, batch_size=config.batch_size)


def _batches(config: ConfigDict, source: data.Source, batch_size: int, rows: np.ndarray) -> Batches:
    return data.train_batches(
        source,
        batch_size=batch_size,
        seed=config.seed,
        rows=rows,
        num_workers=config.data.num_workers,
        resized_crop=_resized_crop(config),
        progress=progress_callback(f"reading {source.info.name}"),
    )


def _resized_crop(config: ConfigDict) -> dict[str, tuple[float, float]]:
    """Returns options of data.train_batches.

    Raises:
      UserError: areas or shapes of windows that are not two positive numbers, the first not the larger.
    """
    options = {name: tuple(limits) for name, limits in config.data.get("resized_crop", {}).items()}
    for name, limits in options.items():
        if name not in ("scale", "ratio") or len(limits) != 2 or not 0 < limits[0] <= limits[1]:
            raise UserError(
                f"data.resized_crop.{name}={limits} must be scale or ratio with two positive numbers, the lower first"
            )
    if options and options.get("scale", (1.0, 1.0))[1] > 1:
        raise UserError(f"data.resized_crop.scale={options['scale']} are shares of the image's area; must be 1 or less")
    return options


def length(config: ConfigDict, steps_per_epoch: int) -> int:
    """Returns the number of steps of a run: num_steps where it is set, else num_epochs.

    Raises:
      UserError: the run would have no step.
    """
    num_steps = config.num_steps or round(config.num_epochs * steps_per_epoch)
    if num_steps < 1:
        raise UserError(f"num_epochs={config.num_epochs}, num_steps={config.num_steps} make no step; set one of them")
    return num_steps


def intervals(config: ConfigDict, steps_per_epoch: int) -> loop.Intervals:
    """Returns how often a run is logged, evaluated and saved, in steps."""
    return loop.Intervals(
        log=config.log.every_steps,
        evaluate=max(1, round(config.log.evaluate_every_epochs * steps_per_epoch)),
        checkpoint=config.log.checkpoint_every_steps,
    )


def make_optimizers(config: ConfigDict, names: tuple[str, ...], steps_per_epoch: int) -> dict[str, Any]:
    """Returns an optimiser for each network, from config.optimizer or config.optimizer.NAME."""
    num_steps = length(config, steps_per_epoch)
    return {
        name: optimizers.make_optimizer(
            (config.optimizer[name] if name in config.optimizer else config.optimizer).to_dict(),
            num_steps=num_steps,
            steps_per_epoch=steps_per_epoch,
        )
        for name in names
    }


def check_loss(loss: ConfigDict) -> None:
    """Checks the weights of a loss of reconstructions.

    Raises:
      UserError: a negative one, none that compares with the image, or an unknown order.
    """
    for name in ("pixel", "feature", "adversarial"):
        if not loss[name] >= 0:
            raise UserError(f"loss.{name} must be 0 or more; got {loss[name]!r}")
    if not any(loss[name] > 0 for name in ("pixel", "feature")):
        raise UserError("loss.pixel and loss.feature are both 0: there is nothing to reconstruct by")
    if loss.pixel_order not in (1, 2):
        raise UserError(f"loss.pixel_order={loss.pixel_order!r} must be 1 (absolute) or 2 (squared differences)")


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """What a training task trains, and how.

    Attributes:
      networks: name -> (module, shapes of its inputs).
      optimizers: name -> optimiser.
      train_step: pure (state, batch, key, *frozen) -> (state, metrics).
      eval_step: pure (variables, batch, key, *frozen) -> results per example.
      picture: image results of the first test images -> uint8 [H, W, 3].
      description: what the networks are rebuilt from, plain JSON.
      frozen: variables of networks that are not trained.
      extend: state at step 0 -> the same with what the step keeps beside the networks.
      notices: name of a metric -> what to say when it is above 0.
      normalization: of the encoder's pixels, for the report of what is learnt.
    """

    networks: Mapping[str, tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]]
    optimizers: Mapping[str, Any]
    train_step: Callable
    eval_step: Callable
    picture: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    description: Mapping[str, Any]
    frozen: tuple = ()
    extend: Callable[[TrainState], TrainState] = lambda state: state
    notices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    normalization: Normalization = "none"

    def init(self, key: jax.Array) -> TrainState:
        """Returns the state at step 0."""
        return self.extend(train_state.create(key, self.networks, self.optimizers))

    def step_on(self, mesh: jax.sharding.Mesh) -> Callable:
        """Returns the train step for a state that lives on a mesh."""
        return loop.gather_first(self.train_step, self.networks, mesh)


def train(
    run: Run,
    build: Callable[[Run, Trained | None, data.SourceInfo, int], TrainSetup],
    *,
    encoder: Trained | None = None,
    check_data: Callable[[ConfigDict, data.Source, data.Source], None] = lambda config, train, test: None,
) -> dict[str, float]:
    """Reads the data, reports what is learnt, and trains to the end, from the newest checkpoint if there is one.

    Args:
      run: of a training task.
      build: (run, encoder, training images, steps of an epoch) -> what is trained.
      encoder: frozen, for what is trained on one.
      check_data: called with config, training and test images.

    Returns:
      Means over the test examples, at the end.

    Raises:
      UserError: data that cannot be read, checkpoints of a run on another encoder, or as `loop.fit`.
    """
    config, mesh = run.config, run.mesh
    train, test = run.open_data("train"), run.open_data("test")
    check_data(config, train, test)
    batches = make_batches(config, train)
    setup = build(run, encoder, train.info, batches.steps_per_epoch)
    description = dict(setup.description)
    if encoder is not None:
        description[trained.WEIGHTS] = encoder.fingerprint
    run.begin()
    report(config, train, test, setup.normalization)
    init_key, train_key, evaluate_key = (jax.random.fold_in(run.key, number) for number in (_INIT, _TRAIN, _EVALUATE))
    names = train_state.abstract(setup.init, run.key).variables
    num_steps = length(config, batches.steps_per_epoch)
    frozen = parallel.replicate(setup.frozen, mesh)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(run.workdir, names, keep=config.log.keep_checkpoints))
        if checkpoints.latest_step() is not None:
            saved = checkpoint.load_description(run.workdir)
            trained.check_weights(saved, description.get(trained.WEIGHTS), run.workdir)
        state = loop.restore_or_create(setup.init, init_key, mesh, checkpoints, batches)
        writer = stack.enter_context(Writer(run.workdir, resumed_step=int(state.step)))
        writer.parameters(state.variables)
        evaluate = _make_evaluate(config, setup, frozen, test, mesh, writer, evaluate_key)
        state = loop.fit(
            state,
            setup.step_on(mesh),
            batches,
            key=train_key,
            mesh=mesh,
            num_steps=num_steps,
            every=intervals(config, batches.steps_per_epoch),
            evaluate=evaluate,
            checkpoints=checkpoints,
            writer=writer,
            description=description,
            title=config.title,
            frozen=frozen,
            notices=setup.notices,
            steps_per_call=steps_per_call(config),
            peak_flops=_peak_flops(config, mesh),
            profile=Profile(run.workdir / "profile", config.log.get("profile_steps", ())),
        )
        results = evaluate(state, num_steps)
        writer.scalars(num_steps, {f"test/{name}": value for name, value in results.items()})
    return results


def _peak_flops(config: ConfigDict, mesh: jax.sharding.Mesh) -> float | None:
    """Returns the operations in a second that all devices together are made for, None where nobody knows."""
    peak = accelerators.peak_flops(mesh.devices.flat[0].device_kind, config.dtype)
    return peak and peak * mesh.size


def _make_evaluate(config, setup, frozen, test, mesh, writer, key) -> Callable[[TrainState, int], dict[str, float]]:
    """Returns a function of (state, step) that evaluates on the test source and saves a picture."""
    eval_step = jax.jit(lambda variables, *others: setup.eval_step(parallel.gather(variables, mesh), *others))
    batches = data.eval_batches(data.load_arrays(test), batch_size=config.batch_size, **batch_rows(config))

    def evaluate(state: TrainState, step: int) -> dict[str, float]:
        results, pictures = collect(
            lambda batch, key: eval_step(state.variables, batch, key, *frozen),
            batches,
            key=key,
            mesh=mesh,
            num_pictures=config.log.num_pictures,
        )
        writer.picture(step, config.task, setup.picture(pictures))
        return {name: float(np.mean(values, dtype=np.float64)) for name, values in results.items()}

    return evaluate
