"""Our training steps and applications made ready to be timed, as they are run."""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import jax

from arinv.train.flops import count_flops
from launch.benchmarks.devices import cpu_name, cpu_threads, peak_bytes
from launch.benchmarks.measurement import Prepared


def facts() -> dict[str, Any]:
    """Returns what the times depend on."""
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    return {
        "device": cpu_name() if on_cpu else device.device_kind,
        "platform": device.platform,
        "threads": cpu_threads() if on_cpu else None,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
    }


def prepare(step: Callable, init: Callable, arguments: tuple, networks: tuple[str, ...] = ()) -> Prepared:
    """Compiles a training step.

    Args:
      step: (state, batch, *arguments) -> (state, metrics), pure; its second argument holds the images.
      init: key -> state.
      arguments: what comes after the state.
      networks: names of frozen networks, whose variables are the last of the arguments.
    """
    state = jax.jit(init)(jax.random.key(0))
    counted = {**state.variables, **dict(zip(networks, arguments[len(arguments) - len(networks) :], strict=True))}
    parameters = count_parameters(**counted)
    flops = count_flops(step, state, *arguments)
    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, *arguments).compile()
    compile_seconds = time.perf_counter() - started

    def run(n: int) -> None:
        nonlocal state
        for _ in range(n):
            state, metrics = compiled(state, *arguments)
        jax.block_until_ready((state, metrics))

    images = len(arguments[0]["image"])
    known = {"images": images, "parameters": parameters, "flops": flops, "compile_seconds": compile_seconds}
    return Prepared(run, {**known, **facts()}, _peak_bytes)


def _peak_bytes() -> int | None:
    """Returns the peak memory of the device, which counts from the start of the process, or that of the process."""
    device = jax.devices()[0]
    return peak_bytes() if device.platform == "cpu" else (device.memory_stats() or {}).get("peak_bytes_in_use")


def prepare_call(function: Callable, arguments: tuple, *, counted: bool = True, **known: Any) -> Prepared:
    """Compiles an application.

    Args:
      function: a function of arrays, pure.
      arguments: arguments of it.
      counted: whether its floating-point operations are counted, which are those of convolutions and products.
      **known: facts about a call, such as images.
    """
    if counted:
        known["flops"] = count_flops(function, *arguments)
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - started

    def run(n: int) -> None:
        for _ in range(n):
            result = compiled(*arguments)
        if not all(bool(jax.numpy.isfinite(x).all()) for x in jax.tree.leaves(result)):
            raise FloatingPointError("the result is not finite")

    return Prepared(run, {**known, "compile_seconds": compile_seconds, **facts()}, _peak_bytes)


def count_parameters(**networks: Any) -> dict[str, int]:
    """Returns the number of parameters of networks, given their variables."""
    return {name: _size(variables["params"]) for name, variables in networks.items()}


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
