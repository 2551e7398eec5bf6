"""Costs of a compiled training step: memory on each device, operations, collectives, and a roofline of their time.

The time of a convolution or product is that of its operations at the assumed share of the peak, or of moving its
inputs and outputs between the device and its memory, whichever is longer. Collectives are added at the bandwidth of
the links, without overlap. Latencies and element-wise operations are part of the assumed share.

Source: Williams et al. 2009 (roofline).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from arinv.train.accelerators import Accelerator
from arinv.train.flops import Operation

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_WIDTH = {"pred": 1, "c64": 8, "c128": 16}  # bytes; the names of other types contain their bits
_SHAPE = re.compile(r"\b([a-z]+\d*)[a-z0-9]*\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) ?\(.*->.*\{$")
_CALLED = re.compile(r"(?:to_apply|calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_GROUP = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")


class Collective(NamedTuple):
    """A collective operation at one place of a program.

    Attributes:
      kind: one of KINDS.
      size: bytes of the whole array on each device that is reduced, gathered or sent.
      group: numbers of the devices in the first group.
      rounds: number of executions in one call of the program.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    rounds: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one execution, at least."""
        if self.kind == "collective-permute":
            return float(self.size)
        share = (len(self.group) - 1) / len(self.group)
        return self.size * share * (2 if self.kind == "all-reduce" else 1)


def collectives(hlo: str, num_devices: int) -> list[Collective]:
    """Returns the collectives of a program in the order of execution.

    Args:
      hlo: text of the compiled, partitioned program, as `compiled.as_text()` returns it.
      num_devices: number of devices of the program.
    """
    bodies: dict[str, list[str]] = {}
    entry, body = "", []
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            body = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith(" "):
            body.append(line)
    cache: dict[str, list[Collective]] = {}

    def walk(name: str) -> list[Collective]:
        if name not in cache:
            cache[name] = [part for line in bodies.get(name, ()) for part in _of_line(line, num_devices, walk)]
        return cache[name]

    return walk(entry)


def _of_line(line: str, num_devices: int, walk) -> list[Collective]:
    kind, shapes = _split(line)
    if kind.endswith(("-done", "-update")):  # counted at the -start
        return []
    if kind.removesuffix("-start") in KINDS:
        group = _group(line, num_devices)
        size = _size(shapes)
        if kind == "all-gather-start":  # its type has the input and the output
            size = size * len(group) // (len(group) + 1)
        if kind == "collective-permute-start":  # likewise
            size //= 2
        if kind == "reduce-scatter":  # its type is the output
            size *= len(group)
        return [Collective(kind.removesuffix("-start"), size, group)] if len(group) > 1 else []
    if branches := _BRANCHES.search(line):
        parts = [walk(name.strip(" %")) for name in branches[1].split(",")]
        return max(parts, key=lambda part: sum(c.size * c.rounds for c in part))
    rounds = int(trips[1]) if kind == "while" and (trips := _TRIPS.search(line)) else 1
    parts = [part for name in _CALLED.findall(line) for part in walk(name)]
    return [part._replace(rounds=part.rounds * rounds) for part in parts]


def _split(line: str) -> tuple[str, str]:
    """Returns the opcode and the text of the result's type."""
    _, _, text = line.partition(" = ")
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            return text[i + 1 :].partition("(")[0], text[:i]
    return "", ""


def _size(shapes: str) -> int:
    pairs = _SHAPE.findall(re.sub(r"/\*.*?\*/", "", shapes))
    return sum(_width(kind) * math.prod(map(int, filter(None, sides.split(",")))) for kind, sides in pairs)


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return _WIDTH.get(kind) or (max(1, int(bits[0]) // 8) if bits else 0)


def _group(line: str, num_devices: int) -> tuple[int, ...]:
    if iota := _IOTA.search(line):
        count, size = int(iota[1]), int(iota[2])
        ids = np.arange(count * size).reshape([int(n) for n in iota[3].split(",")])
        if iota[4]:
            ids = ids.transpose([int(axis) for axis in iota[4].split(",")])
        return tuple(int(i) for i in ids.reshape(count, size)[0])
    listed = _GROUP.search(line)
    if listed and listed[1]:
        return tuple(int(i) for i in listed[1].split(","))
    return tuple(range(num_devices))


class Memory(NamedTuple):
    """Bytes on each device during a step.

    Attributes:
      parameters: of the trained networks, with their statistics, averages, and what else a step keeps.
      optimizer: state of the optimizers.
      frozen: networks that are not trained.
      batch: images, labels and mask.
      temporary: activations, gradients and other temporaries of the step.
      total: peak of the step, results included.
    """

    parameters: int
    optimizer: int
    frozen: int
    batch: int
    temporary: int
    total: int


def memory(compiled: Any, state: Any, batch: Any, frozen: Any) -> Memory:
    """Returns the memory of a compiled step; temporary and total are from XLA's memory analysis.

    Args:
      compiled: the executable.
      state: train state, as arrays or shapes with a placement.
      batch: likewise.
      frozen: likewise.
    """
    stats = compiled.memory_analysis()
    arguments, results = stats.argument_size_in_bytes, stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        parameters=_on_each_device((state.variables, state.extra)),
        optimizer=_on_each_device(state.opt_states),
        frozen=_on_each_device(frozen),
        batch=_on_each_device(batch),
        temporary=stats.temp_size_in_bytes,
        total=arguments + results + stats.temp_size_in_bytes,
    )


def _on_each_device(tree: Any) -> int:
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for side in leaf.sharding.shard_shape(leaf.shape):
            size *= side
        total += size
    return total


def compute_seconds(
    at_batch: Sequence[Operation],
    at_twice: Sequence[Operation],
    *,
    num_devices: int,
    accelerator: Accelerator,
    dtype: str,
    utilization: float,
) -> float:
    """Returns the time of the convolutions and products of a step whose batch is split over devices, in seconds.

    The operations at two batch sizes separate bytes that grow with the batch, and are split, from those of weights,
    which every device reads as a whole.

    Args:
      at_batch: operations of the step with the global batch.
      at_twice: the same with twice the batch, in the same order.
      num_devices: that the batch is split over.
      accelerator: the device.
      dtype: "float32" or "bfloat16".
      utilization: assumed share of the peak, 0 to 1.
    """
    speed = accelerator.peak(dtype) * utilization
    seconds = 0.0
    for one, two in zip(at_batch, at_twice, strict=True):
        size = _share(one.size, two.size, num_devices)
        seconds += one.rounds * max(one.flops / num_devices / speed, size / accelerator.memory_bandwidth)
    return seconds


def _share(at_batch: float, at_twice: float, num_devices: int) -> float:
    """Returns each device's share: the part that grows with the batch is split, the rest replicated."""
    growing = at_twice - at_batch
    return at_batch - growing + growing / num_devices


def bandwidth(group: Sequence[int], accelerator: Accelerator) -> float | None:
    """Returns the bytes per second that each device of a group can send; None where that is not published.

    Devices are numbered domain by domain. Those of a group that are in one domain share its network links.
    """
    domains = {device // accelerator.domain for device in group}
    if len(domains) == 1:
        return accelerator.link_bandwidth
    if accelerator.network_bandwidth is None:
        return None
    return min(accelerator.link_bandwidth, len(group) / len(domains) * accelerator.network_bandwidth)


def collective_seconds(collectives: Sequence[Collective], accelerator: Accelerator) -> float | None:
    """Returns the time of all collectives, one after the other, in seconds; None where a bandwidth is unknown."""
    seconds = 0.0
    for one in collectives:
        speed = bandwidth(one.group, accelerator)
        if speed is None:
            return None
        seconds += one.rounds * one.sent / speed
    return seconds


def by_kind(collectives: Sequence[Collective]) -> Mapping[str, dict[str, float]]:
    """Returns kind -> {"count", "bytes", "bytes_sent"} of one call, largest first.

    "bytes" are those of the whole arrays, "bytes_sent" what each device sends at least.
    """
    sums = {}
    for kind in KINDS:
        parts = [c for c in collectives if c.kind == kind]
        if parts:
            sums[kind] = {
                "count": sum(c.rounds for c in parts),
                "bytes": sum(c.rounds * c.size for c in parts),
                "bytes_sent": sum(c.rounds * c.sent for c in parts),
            }
    return dict(sorted(sums.items(), key=lambda item: -item[1]["bytes_sent"]))
