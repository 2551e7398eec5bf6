"""What a run would cost, without running it: `--plan`.

Every training stage is compiled from shapes alone, for the devices at hand or for virtual ones, and its memory,
operations and collectives are read from the compiled step, the one that training would run; stages whose steps are the
same are compiled once. No data is opened: sizes are the config's or the published ones. Times are of a named
accelerator, see arinv.train.cost, and of the input as this host prepares it, see arinv.tasks.input_rate.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from arinv import _xla, data, models
from arinv.data.published import published
from arinv.ops import conv
from arinv.tasks import classifier, input_rate, inverter, networks, setting, training
from arinv.tasks import workdir as workdirs
from arinv.tasks.denoising import denoiser
from arinv.train import checkpoint, collectives, cost, dispatch, flops
from arinv.train.accelerators import Accelerator

TRAINING = {"classifier": classifier, "inverter": inverter, "denoiser": denoiser}
_DEVICES_OF_A_PROCESS = 8  # at most, where devices are virtual
# What of a config decides nothing about the step that is compiled.
_FREE = ("title", "seed", "log", "reference", "mesh", "watch", "num_epochs", "num_steps")
_STAGE = "stage:"


class Assumptions(NamedTuple):
    """What a plan cannot know.

    Attributes:
      accelerator: the device; None for whichever is here, of which no time is told.
      utilization: share of its peak that the convolutions and products reach, 0 to 1.
    """

    accelerator: Accelerator | None = None
    utilization: float = 0.3


def run(
    stages: Mapping[pathlib.Path, ConfigDict],
    assumptions: Assumptions,
    show: Callable[[dict[str, Any]], None] = lambda plan: None,
) -> list[dict[str, Any]]:
    """Returns the plan of every training stage, plain JSON.

    Args:
      stages: workdir -> config of its task, in order; nothing is read or written there, but for the checkpoint of an
        encoder that no stage trains.
      assumptions: of the times.
      show: called with the plan of each stage as soon as it is there.

    Raises:
      UserError: a mistake in a config.
    """
    trained = {folder: stage for folder, stage in stages.items() if stage.task in TRAINING}
    for stage in trained.values():
        TRAINING[stage.task].validate(stage)
    plans, measured = [], _Measured()
    with _forms_of(assumptions.accelerator):
        for folder in trained:
            plans.append(_plan(folder, stages, assumptions, measured))
            show(plans[-1])
    return plans


class _Measured:
    """Compiled steps and rates of inputs by what decides them, each found once."""

    def __init__(self):
        self._found: dict[str, Any] = {}

    def get(self, key: str, find: Callable[[], Any]) -> Any:
        """Returns what was found for a key, finding it the first time."""
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


def _step_key(config: ConfigDict, trainee: training.Trainee) -> str:
    """Returns a text that is the same for stages whose steps compile to the same program, but for constants."""
    fields = {name: value for name, value in workdirs.plain(config).items() if name not in _FREE}
    fields["data"] = config.data.image_size
    fields["encoder"].pop("checkpoint", None)
    shapes = jax.tree.map(lambda x: f"{x.dtype}{x.shape}", trainee.frozen)
    classes = trainee.description.get("num_classes")
    return json.dumps([fields, classes, str(jax.tree.structure(shapes)), jax.tree.leaves(shapes)], sort_keys=True)


def _input_rate(config: ConfigDict, info: data.SourceInfo, measured: "_Measured") -> input_rate.InputRate:
    fields = workdirs.plain(config.data)
    names = ("name", "image_size", "resize", "resized_crop", "num_workers")
    key = json.dumps([[fields.get(name) for name in names], info.num_examples])
    return measured.get(key, lambda: input_rate.measure(config, info.num_examples))


@contextlib.contextmanager
def _forms_of(accelerator: Accelerator | None) -> Iterator[None]:
    """Chooses the forms of the convolutions that the accelerator would run, wherever this is compiled."""
    if accelerator is None or not conv.use_rewrites():
        yield
        return
    conv.set_rewrites(False)
    try:
        yield
    finally:
        conv.set_rewrites(None)


def _plan(
    folder: pathlib.Path,
    stages: Mapping[pathlib.Path, ConfigDict],
    assumptions: Assumptions,
    measured: _Measured,
) -> dict[str, Any]:
    config = stages[folder]
    info, notes = _train_info(config)
    steps_per_epoch = _steps_per_epoch(config, info)
    if config.task == "classifier":
        trainee = classifier.build(config, info, steps_per_epoch or 1)
    else:
        trainee = TRAINING[config.task].build(config, folder, _encoder(folder, stages), steps_per_epoch or 1)
    mesh, accelerator = setting.mesh(config), assumptions.accelerator
    step = measured.get(_step_key(config, trainee), lambda: compile_step(config, trainee, mesh))
    seconds = _seconds(config, step, mesh, assumptions)
    delivered = input_rate.limits(
        _input_rate(config, info, measured),
        num_processes=max(jax.process_count(), -(-mesh.size // _DEVICES_OF_A_PROCESS)),
        batch_size=config.batch_size,
        seconds=seconds,
    )
    seconds, bottleneck = _with_input(seconds, delivered["seconds"])
    if accelerator and step.memory.total > accelerator.memory:
        notes.append("does not fit: use more devices, a smaller batch_size, or mesh.fsdp")
    if config.dtype == "bfloat16" and accelerator and jax.default_backend() == "cpu":
        notes.append("XLA for cpu keeps bfloat16 in float32: an accelerator needs less for activations")
    if seconds and seconds["collectives"] is None:
        notes.append(f"no published bandwidth beyond {accelerator.domain} devices")
    return {
        "stage": folder.name,
        "title": config.title,
        "task": config.task,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "accelerator": accelerator.title if accelerator else jax.devices()[0].device_kind,
        "device_memory": accelerator.memory if accelerator else None,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "compiled_for": jax.devices()[0].platform,
        "compile_seconds": step.compile_seconds,
        "memory_per_device": step.memory._asdict(),
        "flops": _flops(config, step, mesh),
        "collectives_per_step": _per_step(cost.by_kind(step.collectives), training.steps_per_call(config)),
        "assumed_utilization": assumptions.utilization,
        "seconds_per_step": seconds,
        "input": delivered,
        "bottleneck": bottleneck,
        "run": _run(config, trainee, step, steps_per_epoch, seconds, mesh, assumptions),
        "notes": notes,
    }


class Step(NamedTuple):
    """A compiled call of a training, of steps_per_call steps.

    Attributes:
      memory: on each device.
      operations: convolutions and products of all devices together.
      operations_of_twice: those with twice the batch.
      xla_flops: of one device, as XLA's cost analysis counts.
      collectives: of one device.
      compile_seconds: what it took here.
    """

    memory: cost.Memory
    operations: list[flops.Operation]
    operations_of_twice: list[flops.Operation]
    xla_flops: float
    collectives: list[collectives.Collective]
    compile_seconds: float


def compile_step(config: ConfigDict, trainee: training.Trainee, mesh: jax.sharding.Mesh) -> Step:
    """Compiles the call that training would make, from shapes.

    Args:
      config: of a training task.
      trainee: as the task builds it.
      mesh: the devices.
    """
    if jax.process_index() == 0:
        print(f"compiling {config.title} for {mesh.size} device(s)", file=sys.stderr, flush=True)
    arguments, twice = (_arguments(config, trainee, mesh, factor) for factor in (1, 2))
    call = dispatch.make_call(trainee.step_on(mesh), arguments[0], mesh, num_steps=training.steps_per_call(config))
    traced = call.trace(*arguments)
    # On a CPU the machine code is not used: all that is reported is decided before it is generated.
    options = _xla.supported({"xla_backend_optimization_level": 0}) if jax.default_backend() == "cpu" else None
    started = time.perf_counter()
    compiled = traced.lower().compile(compiler_options=options)
    compile_seconds = time.perf_counter() - started
    state, batch, _, *frozen = arguments
    return Step(
        memory=cost.memory(compiled, state, batch, frozen),
        operations=flops.operations(traced.jaxpr),
        operations_of_twice=flops.operations(call.trace(*twice).jaxpr),
        xla_flops=(compiled.cost_analysis() or {}).get("flops", 0.0),
        collectives=collectives.collectives(compiled.as_text(), mesh.size),
        compile_seconds=compile_seconds,
    )


def _arguments(config, trainee, mesh, factor: int = 1, *, single: bool = False) -> tuple:
    return dispatch.abstract_arguments(
        trainee.init,
        trainee.frozen,
        mesh,
        batch_size=factor * config.batch_size,
        image_size=config.data.image_size,
        num_steps=1 if single else training.steps_per_call(config),
    )


def _flops(config: ConfigDict, step: Step, mesh: jax.sharding.Mesh) -> dict[str, float]:
    calls = training.steps_per_call(config)
    per_step = flops.total(step.operations) / calls
    return {
        "per_step": per_step,
        "per_image": per_step / config.batch_size,
        # In XLA's way of counting, beside what it found in the compiled step.
        "as_xla_counts_per_device": cost.flops_as_xla(step.operations, step.operations_of_twice, mesh.size),
        "xla_per_device": step.xla_flops,
    }


def _per_step(kinds: Mapping[str, Mapping[str, float]], calls: int) -> dict[str, dict[str, float]]:
    return {kind: {name: value / calls for name, value in sums.items()} for kind, sums in kinds.items()}


def _seconds(config, step: Step, mesh, assumptions: Assumptions) -> dict[str, float | None] | None:
    accelerator, calls = assumptions.accelerator, training.steps_per_call(config)
    if accelerator is None:
        return None
    options = {"num_devices": mesh.size, "accelerator": accelerator, "dtype": config.dtype}
    compute = cost.compute_seconds(
        step.operations, step.operations_of_twice, utilization=assumptions.utilization, **options
    )
    exchanged = cost.collective_seconds(step.collectives, accelerator)
    total = None if exchanged is None else (compute + exchanged) / calls
    return {"compute": compute / calls, "collectives": exchanged and exchanged / calls, "total": total}


def _with_input(seconds: dict | None, of_input: float) -> tuple[dict[str, float | None] | None, str | None]:
    """Returns the seconds of a step with those of the input, prepared meanwhile, and what takes the longest."""
    if seconds is None:
        return None, None
    parts = {"input": of_input, "compute": seconds["compute"], "collectives": seconds["collectives"] or 0.0}
    device = seconds["total"]
    seconds = {**seconds, "input": of_input, "step": device if device is None else max(device, of_input)}
    if device is not None and of_input <= device:
        del parts["input"]
    return seconds, max(parts, key=parts.__getitem__)


def _run(config, trainee, step: Step, steps_per_epoch, seconds, mesh, assumptions) -> dict[str, Any] | None:
    """Returns the length of the whole run, None where nobody knows what an epoch is."""
    if steps_per_epoch is None and not config.num_steps:
        return None
    num_steps = training.length(config, steps_per_epoch or 1)
    found = {"steps": num_steps, "steps_per_epoch": steps_per_epoch, "evaluation_steps": None, "hours": None}
    if steps_per_epoch and (num_test := _num_test(config)):
        passes = -(-num_steps // training.intervals(config, steps_per_epoch).evaluate)
        found["evaluation_steps"] = passes * -(-num_test // config.batch_size)
    if seconds and seconds["total"] is not None:
        state, batch, key, *frozen = _arguments(config, trainee, mesh, single=True)
        evaluation = flops.total(
            flops.operations(jax.make_jaxpr(trainee.eval_step)(state.variables, batch, key, *frozen))
        )
        reached = assumptions.accelerator.peak(config.dtype) * assumptions.utilization * mesh.size
        evaluations = (found["evaluation_steps"] or 0) * evaluation / reached
        found["hours"] = (num_steps * seconds["step"] + evaluations) / 3600
        found["device_hours"] = found["hours"] * mesh.size
    return found


def _train_info(config: ConfigDict) -> tuple[data.SourceInfo, list[str]]:
    """Returns what is known of the training images, num_examples 0 where that is not, and what had to be assumed."""
    fields, notes = config.data, []
    known = published(fields.name, fields.train_split, image_size=fields.image_size)
    num_classes, num_examples = (known.num_classes, known.num_examples) if known else (0, 0)
    if fields.classes:
        num_examples = num_classes and round(num_examples * len(fields.classes) / num_classes)
        num_classes = len(fields.classes)
        if num_examples:
            notes.append(f"about {num_examples:,} images: those of {num_classes} classes of {fields.name}")
    if fields.num_train:
        limited = num_examples and fields.name != "photos"  # of which there are as many as one wants
        num_examples = min(num_examples, fields.num_train) if limited else fields.num_train
    if not num_examples:
        notes.append(f"the size of {fields.name} {fields.train_split} is not known: give num_train")
    if not num_classes and config.task == "classifier":
        num_classes = models.build(config.encoder.name, **config.encoder.options).num_classes
        notes.append(f"the classes of {fields.name} are not known: {num_classes} assumed")
    info = data.SourceInfo(fields.name, fields.train_split, num_examples, num_classes, (), fields.image_size)
    return info, notes


def _num_test(config: ConfigDict) -> int:
    """Returns the number of test images, 0 where it is not known."""
    fields = config.data
    known = published(fields.name, fields.test_split, image_size=fields.image_size)
    return min(filter(None, (known.num_examples if known else 0, fields.num_test)), default=0)


def _steps_per_epoch(config: ConfigDict, info: data.SourceInfo) -> int | None:
    return max(1, info.num_examples // config.batch_size) if info.num_examples else None


def _encoder(folder: pathlib.Path, stages: Mapping[pathlib.Path, ConfigDict]) -> networks.Encoder:
    """Returns the encoder of an inverter or a denoiser with the shapes of its weights, trained or not."""
    config = stages[folder]
    reference, dtype = config.encoder.checkpoint, setting.dtype(config)
    source = workdirs.resolve(reference, folder)
    stage = stages.get(source) if reference.startswith(_STAGE) else None
    if stage is not None and stage.task == "classifier":
        return networks.abstract_encoder(classifier.describe(stage, _train_info(stage)[0]), dtype=dtype)
    return networks.abstract_encoder(checkpoint.load_description(source), dtype=dtype)
