"""Our training steps made ready to be timed, as the training loop runs them."""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import jax

from arinv.train.flops import count_flops
from launch.benchmarks.devices import cpu_name, cpu_threads
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
    parameters = {name: _size(variables["params"]) for name, variables in counted.items()}
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
    return Prepared(run, {**known, **facts()})


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
