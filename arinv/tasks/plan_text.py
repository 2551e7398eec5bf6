"""A plan in words, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = {2**40: "TiB", 2**30: "GiB", 2**20: "MiB", 2**10: "KiB"}
_PREFIXES = {1e18: "E", 1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


def lines(plans: Sequence[Mapping[str, Any]], others: Sequence[str] = ()) -> list[str]:
    """Returns the lines that tell of the plans of all stages, and of their sum.

    Args:
      plans: as tasks.plan.run returns them.
      others: names of the stages that train nothing.
    """
    return [line for plan in plans for line in stage_lines(plan)] + summary_lines(plans, others)


def summary_lines(plans: Sequence[Mapping[str, Any]], others: Sequence[str] = ()) -> list[str]:
    """Returns the lines below the stages; arguments as of `lines`."""
    if not plans:
        return ["nothing is trained here: there is nothing to plan"]
    found = []
    hours = [plan["run"] and plan["run"]["hours"] for plan in plans]
    if len(plans) > 1 and all(hour is not None for hour in hours):
        devices = plans[0]["devices"]
        found.append(f"all {len(plans)} trainings: {_hours(sum(hours))}, {sum(hours) * devices:,.1f} device-hours")
    if others:
        found.append(f"not planned, since nothing is trained there: {', '.join(others)}")
    found.append(
        f"Memory and collectives are those of XLA for {plans[0]['compiled_for']}. Times are a roofline, of the "
        "assumed share of the peak and of collectives that nothing hides, beside an input at the rate of this host's "
        "cores; measure before you rely on them."
    )
    return found


def stage_lines(plan: Mapping[str, Any]) -> list[str]:
    """Returns the lines of one stage."""
    mesh = ", ".join(f"{name}={size}" for name, size in plan["mesh"].items())
    share = plan["batch_size"] / plan["devices"]
    rows = {
        "memory per device": _memory(plan["memory_per_device"], plan["device_memory"]),
        "FLOPs per step": (
            f"{_number(plan['flops']['per_step'])}FLOP, {_number(plan['flops']['per_image'])}FLOP an image, "
            "the attack included"
        ),
        "collectives per step": _collectives(plan["collectives_per_step"]),
        "time per step": _seconds(plan),
        "input": _input(plan["input"]),
        "bottleneck": _bottleneck(plan),
        "run": _run(plan),
        "compiled in": f"{plan['compile_seconds']:.1f} s here, for {plan['compiled_for']}",
    }
    first = (
        f"{plan['title']} ({plan['task']}): {plan['devices']} x {plan['accelerator']}, mesh {mesh}, {plan['dtype']}, "
        f"batch {plan['batch_size']}, {share:g} on each device"
    )
    notes = [f"  note: {note}" for note in plan["notes"]]
    return [first, *(f"  {name:21} {text}" for name, text in rows.items() if text), *notes, ""]


def _memory(memory: Mapping[str, int], available: float | None) -> str:
    names = {"parameters": "parameters", "optimizer": "optimiser", "frozen": "frozen networks", "batch": "batch"}
    parts = [f"{text} {_bytes(memory[name])}" for name, text in names.items() if memory[name]]
    parts.append(f"activations, gradients and other temporaries {_bytes(memory['temporary'])}")
    whole = _bytes(memory["total"]) + (f" of {_bytes(available)}" if available else "")
    return f"{whole}: {', '.join(parts)}"


def _collectives(kinds: Mapping[str, Mapping[str, float]]) -> str:
    if not kinds:
        return "none"
    parts = [f"{sums['count']:g} {kind} of {_bytes(sums['bytes'])} together" for kind, sums in kinds.items()]
    sent = sum(sums["bytes_sent"] for sums in kinds.values())
    return f"{', '.join(parts)}; each device sends {_bytes(sent)}"


def _seconds(plan: Mapping[str, Any]) -> str:
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


def _input(found: Mapping[str, Any]) -> str:
    workers = f"{found['workers']} workers" if found["workers"] else f"threads on {found['cores']} cores"
    if found["path"] == "memory":
        workers = "images in memory"
    text = (
        f"{found['images_per_second']:,.0f} images/s from {found['processes']} process(es), {workers}; "
        f"{found['per_core']:,.0f} images/s a core here ({found['stored']})"
    )
    if found["cores_needed"] is not None:
        text += f", so that the devices never wait: {found['cores_needed']:,.1f} cores"
    return text


def _bottleneck(plan: Mapping[str, Any]) -> str:
    if plan["bottleneck"] is None:
        return ""
    if plan["bottleneck"] != "input":
        return plan["bottleneck"]
    step = plan["seconds_per_step"]["step"]
    rate = f"{plan['batch_size'] / step:,.0f} images/s" if step else ""
    remedy = " (raise data.num_workers, or take more hosts)" if plan["input"]["path"] == "stream" else ""
    return f"input, {rate}{remedy}"


def _run(plan: Mapping[str, Any]) -> str:
    run = plan["run"]
    if run is None:
        return "steps per epoch unknown"
    text = f"{run['steps']:,} steps"
    if run["steps_per_epoch"]:
        text += f", {run['steps'] / run['steps_per_epoch']:g} epochs of {run['steps_per_epoch']:,}"
    if run["hours"] is None:
        return text
    evaluated = ", evaluations on the way included" if run["evaluation_steps"] else ""
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
