"""Plans of training stages: memory, operations, collectives and time, without running them (`--plan`).

Every training stage is compiled from shapes, for the devices at hand or for virtual ones; memory, operations and
collectives are read from the compiled step, the one that training would run. Stages with equal steps are compiled
once. No dataset is opened: sizes are the config's or the published ones. Times are those of a named accelerator, see
arinv.plan.cost, and of the input on this host, see arinv.plan.input_rate.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import _xla, data
from arinv.errors import UserError
from arinv.experiment import workdirs
from arinv.experiment.fields import channels_of
from arinv.experiment.output_files import write_json
from arinv.experiment.run import Run
from arinv.experiment.task import Tasks
from arinv.ops import conv
from arinv.plan import cost, input_rate
from arinv.train import accelerators, flops, loop, training
from arinv.train.accelerators import Accelerator

_DEFAULT_ACCELERATOR = "h100"
_MAX_DEVICES_PER_PROCESS = 8  # where devices are virtual
# Fields of a config that do not affect the compiled step.
_FREE = ("title", "seed", "log", "reference", "num_epochs", "num_steps")
_UNITS = {2**40: "TiB", 2**30: "GiB", 2**20: "MiB", 2**10: "KiB"}
_PREFIXES = {1e18: "E", 1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


class Assumptions(NamedTuple):
    """Assumptions of a plan.

    Attributes:
      accelerator: the device; None for the local device, without times.
      utilization: share of its peak that the convolutions and products reach, 0 to 1.
    """

    accelerator: Accelerator | None = None
    utilization: float = 0.3


def write(
    stages: Mapping[pathlib.Path, ConfigDict],
    workdir: pathlib.Path | None,
    tasks: Tasks,
    *,
    accelerator: str = "",
    utilization: float = 0.3,
) -> Iterator[str]:
    """Plans a run on the devices of JAX while it yields the plan as lines; writes plan.json to the workdir last.

    Args:
      stages: workdir -> config of every stage, as returned by `stages.expand`.
      workdir: directory of the run; None to write no file.
      tasks: the table of tasks, `arinv.tasks.TASKS`.
      accelerator: a key of arinv.train.accelerators; empty for the local device, or an H100 where that is unknown.
      utilization: share of its peak that is reached, 0 to 1.

    Raises:
      UserError: a mistake in the config, or an unknown accelerator.
    """
    name = accelerator or accelerators.name_of(jax.devices()[0].device_kind) or _DEFAULT_ACCELERATOR
    assumptions = Assumptions(accelerators.accelerator(name), utilization)
    stages, plans = _split(stages, tasks), []
    for plan in plan_stages(stages, tasks, assumptions):
        plans.append(plan)
        yield from stage_lines(plan)
    if workdir is not None:
        try:
            write_json(workdir / "plan.json", plans)
        except OSError as error:
            raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error
    others = [folder.name for folder, stage in stages.items() if not tasks[stage.task].is_training]
    yield from summary_lines(plans, others)


def plan_stages(
    stages: Mapping[pathlib.Path, ConfigDict],
    tasks: Tasks,
    assumptions: Assumptions,
) -> Iterator[dict[str, Any]]:
    """Yields the plan of every training stage, plain JSON.

    Args:
      stages: workdir -> config of every stage, in order; nothing is read from or written to the workdirs, except
        checkpoints of encoders that no stage trains.
      tasks: the table of tasks.
      assumptions: assumptions of the times.

    Raises:
      UserError: a mistake in a config.
    """
    stages = _split(stages, tasks)
    runs = [Run(stage, folder, stages, tasks=tasks) for folder, stage in stages.items()]
    runs = [run for run in runs if run.task.is_training]
    for run in runs:
        run.task.check(run.config)
    cache: dict[str, Any] = {}
    for run in runs:
        with conv.plain_forms() if assumptions.accelerator else contextlib.nullcontext():
            plan = _plan(run, assumptions, cache)
        yield plan


def _long(run: Run) -> Run:
    """Returns a run that is long enough for its schedules where the length of an epoch is unknown."""
    config = run.config.copy_and_resolve_references()
    config.num_steps, config.num_epochs = 0, config.num_epochs or 100.0
    return run.with_config(config, run.workdir)


def _split(stages: Mapping[pathlib.Path, ConfigDict], tasks: Tasks) -> dict[pathlib.Path, ConfigDict]:
    """Returns the stages; one that is a training for each class is split into these trainings."""
    trainings = {}
    for folder, stage in stages.items():
        trainings |= tasks[stage.task].split(folder, stage)
    return trainings


def _plan(run: Run, assumptions: Assumptions, cache: dict[str, Any]) -> dict[str, Any]:
    """Returns the plan of one stage; compiled steps and input rates are cached by what determines them."""
    config = run.config
    info = training.published_info(config)
    notes = _data_notes(config, info)
    steps_per_epoch = _steps_per_epoch(config, info)
    frozen = run.task.plan_frozen(run)
    build = run.task.module.build
    setup = build(run, frozen, info, steps_per_epoch) if steps_per_epoch else build(_long(run), frozen, info, 1_000)
    mesh, accelerator = run.mesh, assumptions.accelerator
    key = _step_key(config, setup)
    if key not in cache:
        cache[key] = compile_step(config, setup, mesh)
    step = cache[key]
    seconds = _seconds(config, step, mesh, assumptions)
    input_plan = input_rate.limits(
        _input_rate(config, info, setup, cache),
        num_processes=-(-mesh.size // _MAX_DEVICES_PER_PROCESS),
        batch_size=config.batch_size,
        seconds=seconds,
    )
    input_plan["host_features"] = setup.host_features is not None
    seconds, bottleneck = _with_input(seconds, input_plan["seconds"])
    if accelerator and step.memory.total > accelerator.memory:
        notes.append("does not fit: use more devices, a smaller batch_size, or mesh.fsdp")
    if config.dtype == "bfloat16" and accelerator and jax.default_backend() == "cpu":
        notes.append("XLA for cpu keeps bfloat16 in float32: an accelerator needs less for activations")
    if seconds and seconds["collectives"] is None:
        notes.append(f"no published bandwidth beyond {accelerator.domain} devices")
    return {
        "stage": run.workdir.name,
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
        "flops": _flops(config, step),
        "collectives_per_step": _per_step(cost.by_kind(step.collectives), config.steps_per_call),
        "assumed_utilization": assumptions.utilization,
        "seconds_per_step": seconds,
        "input": input_plan,
        "bottleneck": bottleneck,
        "run": _whole_run(config, setup, steps_per_epoch, seconds, mesh, assumptions),
        "notes": notes,
    }


class Step(NamedTuple):
    """A compiled call of a training, of steps_per_call steps.

    Attributes:
      memory: on each device.
      operations: convolutions and products of all devices together.
      operations_of_twice: the same with twice the batch.
      xla_flops: FLOPs of one device, by XLA's cost analysis.
      collectives: collectives of one device.
      compile_seconds: on this host.
    """

    memory: cost.Memory
    operations: list[flops.Operation]
    operations_of_twice: list[flops.Operation]
    xla_flops: float
    collectives: list[cost.Collective]
    compile_seconds: float


def compile_step(config: ConfigDict, setup: training.TrainSetup, mesh: jax.sharding.Mesh) -> Step:
    """Compiles the call that training would run, from shapes.

    Args:
      config: config of a training task.
      setup: networks and step of the training.
      mesh: the devices.
    """
    print(f"compiling {config.title} for {mesh.size} device(s)", file=sys.stderr, flush=True)
    arguments, twice = (_arguments(config, setup, mesh, factor) for factor in (1, 2))
    call = loop.make_call(setup.step_on(mesh), arguments[0], mesh, num_steps=config.steps_per_call)
    traced = call.trace(*arguments)
    # On a CPU the optimization of machine code is skipped: what the plan reports is known before it.
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
        collectives=cost.collectives(compiled.as_text(), mesh.size),
        compile_seconds=compile_seconds,
    )


def _step_key(config: ConfigDict, setup: training.TrainSetup) -> str:
    """Returns a text that is equal for stages whose steps compile to the same program, except for constants."""
    fields = {name: value for name, value in workdirs.plain(config).items() if name not in _FREE}
    fields["data"] = config.data.image_size, channels_of(config)
    fields.get("encoder", {}).pop("checkpoint", None)
    shapes = jax.tree.map(lambda x: f"{x.dtype}{x.shape}", setup.frozen)
    classes = setup.description.get("num_classes")
    return json.dumps([fields, classes, str(jax.tree.structure(shapes)), jax.tree.leaves(shapes)], sort_keys=True)


def _input_rate(
    config: ConfigDict, info: data.SourceInfo, setup: training.TrainSetup, cache: dict[str, Any]
) -> input_rate.InputRate:
    fields = workdirs.plain(config.data)
    names = ("name", "image_size", "channels", "resize", "resized_crop", "num_workers")
    features = config.encoder.to_dict() if setup.host_features else None
    key = json.dumps([[fields.get(name) for name in names], info.num_examples, features])
    if key not in cache:
        cache[key] = input_rate.measure(config, info.num_examples, host_features=setup.host_features)
    return cache[key]


def _arguments(config, setup, mesh, factor: int = 1, *, single: bool = False) -> tuple:
    size, channels, extra = config.data.image_size, channels_of(config), {}
    if setup.host_features:
        extra = setup.host_features(np.zeros((1, size, size, channels), np.uint8))
    return loop.abstract_arguments(
        setup.init,
        setup.frozen,
        mesh,
        batch_size=factor * config.batch_size,
        image_size=size,
        channels=channels,
        extra={name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype) for name, array in extra.items()},
        num_steps=1 if single else config.steps_per_call,
    )


def _flops(config: ConfigDict, step: Step) -> dict[str, float]:
    per_step = flops.total(step.operations) / config.steps_per_call
    return {
        "per_step": per_step,
        "per_image": per_step / config.batch_size,
        "xla_per_device": step.xla_flops,  # of the whole call; it counts the body of a loop once
    }


def _per_step(kinds: Mapping[str, Mapping[str, float]], calls: int) -> dict[str, dict[str, float]]:
    return {kind: {name: value / calls for name, value in sums.items()} for kind, sums in kinds.items()}


def _seconds(config, step: Step, mesh, assumptions: Assumptions) -> dict[str, float | None] | None:
    accelerator, calls = assumptions.accelerator, config.steps_per_call
    if accelerator is None:
        return None
    options = {"num_devices": mesh.size, "accelerator": accelerator, "dtype": config.dtype}
    compute = cost.compute_seconds(
        step.operations, step.operations_of_twice, utilization=assumptions.utilization, **options
    )
    exchanged = cost.collective_seconds(step.collectives, accelerator)
    total = None if exchanged is None else (compute + exchanged) / calls
    return {"compute": compute / calls, "collectives": exchanged and exchanged / calls, "total": total}


def _with_input(seconds: dict | None, input_seconds: float) -> tuple[dict[str, float | None] | None, str | None]:
    """Returns the seconds of a step with those of its input, which is prepared in parallel, and the bottleneck."""
    if seconds is None:
        return None, None
    parts = {"input": input_seconds, "compute": seconds["compute"], "collectives": seconds["collectives"] or 0.0}
    device = seconds["total"]
    seconds = {**seconds, "input": input_seconds, "step": device if device is None else max(device, input_seconds)}
    if device is not None and input_seconds <= device:
        del parts["input"]
    return seconds, max(parts, key=parts.__getitem__)


def _whole_run(config, setup, steps_per_epoch, seconds, mesh, assumptions) -> dict[str, Any] | None:
    """Returns the length of the whole run; None where the length of an epoch is unknown."""
    if steps_per_epoch is None and not config.num_steps:
        return None
    num_steps = training.total_steps(config, steps_per_epoch or 1)
    plan = {"steps": num_steps, "steps_per_epoch": steps_per_epoch, "evaluation_steps": None, "hours": None}
    if steps_per_epoch and (num_test := _num_test(config)):
        passes = -(-num_steps // training.make_timetable(config, steps_per_epoch).evaluate)
        plan["evaluation_steps"] = passes * -(-num_test // config.batch_size)
    if seconds and seconds["total"] is not None:
        state, batch, key, *frozen = _arguments(config, setup, mesh, single=True)
        evaluation = flops.total(
            flops.operations(jax.make_jaxpr(setup.eval_step)(state.variables, batch, key, *frozen))
        )
        flops_per_second = assumptions.accelerator.peak(config.dtype) * assumptions.utilization * mesh.size
        evaluation_seconds = (plan["evaluation_steps"] or 0) * evaluation / flops_per_second
        plan["hours"] = (num_steps * seconds["step"] + evaluation_seconds) / 3600
        plan["device_hours"] = plan["hours"] * mesh.size
    return plan


def _data_notes(config: ConfigDict, info: data.SourceInfo) -> list[str]:
    """Returns notes on what is assumed of the training images."""
    fields, notes = config.data, []
    if fields.classes and info.num_examples and not fields.num_train:
        notes.append(f"about {info.num_examples:,} images: those of {info.num_classes} classes of {fields.name}")
    if not info.num_examples:
        notes.append(f"the size of {fields.name} {fields.train_split} is unknown: set num_train")
    published = data.published(fields.name, fields.train_split, image_size=fields.image_size)
    if info.num_classes and not fields.classes and not (published and published.num_classes):
        notes.append(f"the classes of {fields.name} are unknown: assuming {info.num_classes}")
    return notes


def _num_test(config: ConfigDict) -> int:
    """Returns the number of test images; 0 where it is unknown."""
    fields = config.data
    info = data.published(fields.name, fields.test_split, image_size=fields.image_size)
    return min(filter(None, (info.num_examples if info else 0, fields.num_test)), default=0)


def _steps_per_epoch(config: ConfigDict, info: data.SourceInfo) -> int | None:
    if info.num_examples:
        data.check_full_batch(config.batch_size, info.num_examples)
    return info.num_examples // config.batch_size or None


def summary_lines(plans: Sequence[Mapping[str, Any]], others: Sequence[str] = ()) -> list[str]:
    """Returns the lines on all stages together.

    Args:
      plans: plans of the training stages, as returned by `plan_stages`.
      others: names of the stages that train nothing.
    """
    if not plans:
        return ["no stage trains anything, so there is nothing to plan"]
    lines = []
    hours = [plan["run"] and plan["run"]["hours"] for plan in plans]
    if len(plans) > 1 and all(hour is not None for hour in hours):
        devices = plans[0]["devices"]
        lines.append(f"all {len(plans)} trainings: {_hours(sum(hours))}, {sum(hours) * devices:,.1f} device-hours")
    if others:
        lines.append(f"not planned, since they train nothing: {', '.join(others)}")
    lines.append(
        f"Memory and collectives are those of XLA for {plans[0]['compiled_for']}. Times are a roofline at the assumed "
        "share of the peak, without overlap of collectives, and the input rate of this host's cores; measure before "
        "relying on them."
    )
    return lines


def stage_lines(plan: Mapping[str, Any]) -> list[str]:
    """Returns the lines on one stage, from its plan."""
    mesh = ", ".join(f"{name}={size}" for name, size in plan["mesh"].items())
    share = plan["batch_size"] / plan["devices"]
    rows = {
        "memory per device": _memory(plan["memory_per_device"], plan["device_memory"]),
        "FLOPs per step": (
            f"{_number(plan['flops']['per_step'])}FLOP, {_number(plan['flops']['per_image'])}FLOP an image"
            f"{', the attack included' if plan['task'] == 'classifier' else ''}"
        ),
        "collectives per step": _collectives(plan["collectives_per_step"]),
        "time per step": _seconds_text(plan),
        "input": _input(plan["input"]),
        "bottleneck": _bottleneck(plan),
        "run": _run_text(plan),
        "compiled in": f"{plan['compile_seconds']:.1f} s here, for {plan['compiled_for']}",
    }
    first = (
        f"{plan['title']} ({plan['task']}): {plan['devices']} x {plan['accelerator']}, mesh {mesh}, {plan['dtype']}, "
        f"batch {plan['batch_size']}, {share:g} on each device"
    )
    notes = [f"  note: {note}" for note in plan["notes"]]
    return [first, *(f"  {name:21} {text}" for name, text in rows.items() if text), *notes, ""]


def _memory(memory: Mapping[str, int], available: float | None) -> str:
    names = {"parameters": "parameters", "optimizer": "optimizer", "frozen": "frozen networks", "batch": "batch"}
    parts = [f"{text} {_bytes(memory[name])}" for name, text in names.items() if memory[name]]
    parts.append(f"activations, gradients and other temporaries {_bytes(memory['temporary'])}")
    total = _bytes(memory["total"]) + (f" of {_bytes(available)}" if available else "")
    return f"{total}: {', '.join(parts)}"


def _collectives(kinds: Mapping[str, Mapping[str, float]]) -> str:
    if not kinds:
        return "none"
    parts = [f"{sums['count']:g} {kind} of {_bytes(sums['bytes'])} together" for kind, sums in kinds.items()]
    sent = sum(sums["bytes_sent"] for sums in kinds.values())
    return f"{', '.join(parts)}; each device sends {_bytes(sent)}"


def _seconds_text(plan: Mapping[str, Any]) -> str:
    seconds = plan["seconds_per_step"]
    if seconds is None:
        return ""
    parts = f"convolutions and products {_milliseconds(seconds['compute'])} at {plan['assumed_utilization']:.0%} MFU"
    if seconds["total"] is None:
        return parts
    if not plan["collectives_per_step"]:
        return f"{parts}: {plan['batch_size'] / seconds['total']:,.0f} images/s"
    return (
        f"{_milliseconds(seconds['total'])}: {parts}, collectives {_milliseconds(seconds['collectives'])}: "
        f"{plan['batch_size'] / seconds['total']:,.0f} images/s"
    )


def _input(rate: Mapping[str, Any]) -> str:
    workers = f"{rate['workers']} workers" if rate["workers"] else f"threads on {rate['cores']} cores"
    if rate["path"] == "memory":
        workers = "images in memory"
    processes = f"{rate['processes']} process{'es' if rate['processes'] > 1 else ''}"
    text = (
        f"{rate['images_per_second']:,.0f} images/s from {processes}, {workers}; "
        f"{rate['per_core']:,.0f} images/s a core here ({rate['stored']})"
    )
    if rate["cores_needed"] is not None:
        text += f", so that the devices never wait: {rate['cores_needed']:,.1f} cores"
    return text


def _bottleneck(plan: Mapping[str, Any]) -> str:
    if plan["bottleneck"] is None:
        return ""
    if plan["bottleneck"] != "input":
        return plan["bottleneck"]
    step = plan["seconds_per_step"]["step"]
    rate = f"{plan['batch_size'] / step:,.0f} images/s" if step else ""
    remedy = " (more cores or hosts, or smaller images: arinv resize)" if plan["input"]["path"] == "stream" else ""
    if plan["input"]["host_features"]:
        remedy = " (the encoder runs on the host, in the process that trains: take more hosts)"
    return f"input, {rate}{remedy}"


def _run_text(plan: Mapping[str, Any]) -> str:
    run = plan["run"]
    if run is None:
        return "unknown number of steps per epoch"
    text = f"{run['steps']:,} steps"
    if run["steps_per_epoch"]:
        text += f", {run['steps'] / run['steps_per_epoch']:g} epochs of {run['steps_per_epoch']:,}"
    if run["hours"] is None:
        return text
    evaluated = ", including evaluations" if run["evaluation_steps"] else ""
    return f"{text}: {_hours(run['hours'])}, {run['device_hours']:,.1f} device-hours{evaluated}"


def _bytes(value: float) -> str:
    for size, unit in _UNITS.items():
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} bytes"


def _number(value: float) -> str:
    for size, prefix in _PREFIXES.items():
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{60 * hours:.3g} minutes" if 60 * hours >= 1 else f"{3600 * hours:.2g} seconds"
