"""What a compiled training step costs: memory on each device, operations, exchanges, and the time they take at best.

The time is a roofline: a convolution or product takes as long as its operations at the assumed share of the peak, or
as moving its inputs and outputs between the device and its memory, whichever is longer; the exchanges come on top, at
the bandwidth of the links, as if nothing hid them. Latencies, and what lies between the products, are part of the
assumed share.

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

_WIDTH = {"pred": 1, "c64": 8, "c128": 16}  # the other types say their bits
_SHAPE = re.compile(r"\b([a-z]+\d*)[a-z0-9]*\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) ?\(.*->.*\{$")
_CALLED = re.compile(r"(?:to_apply|calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_GROUP = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")


class Collective(NamedTuple):
    """One kind of exchange at one place of a program.

    Attributes:
      kind: one of KINDS.
      size: bytes of the whole array on each device: what is reduced, or gathered, or sent.
      group: numbers of the devices that take part together, those of the first group.
      rounds: how often it is executed in one call of the program.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    rounds: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one execution, at the least."""
        if self.kind == "collective-permute":
            return float(self.size)
        share = (len(self.group) - 1) / len(self.group)
        return self.size * share * (2 if self.kind == "all-reduce" else 1)


def collectives(hlo: str, num_devices: int) -> list[Collective]:
    """Returns the collectives of a program in the order of their execution.

    Args:
      hlo: text of the compiled, partitioned program, as `compiled.as_text()` returns it.
      num_devices: that it runs on.
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
    found: dict[str, list[Collective]] = {}

    def walk(name: str) -> list[Collective]:
        if name not in found:
            found[name] = [part for line in bodies.get(name, ()) for part in _of_line(line, num_devices, walk)]
        return found[name]

    return walk(entry)


def _of_line(line: str, num_devices: int, walk) -> list[Collective]:
    kind, shapes = _split(line)
    if kind.endswith(("-done", "-update")):  # the ends of what a start has begun
        return []
    if kind.removesuffix("-start") in KINDS:
        group = _group(line, num_devices)
        size = _size(shapes)
        if kind == "all-gather-start":  # its type is the parts and the whole
            size = size * len(group) // (len(group) + 1)
        if kind == "collective-permute-start":  # both ends
            size //= 2
        if kind == "reduce-scatter":  # its type is a part
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
    return sum(_width(kind) * math.prod(map(int, filter(None, sides.split(",")))) for kind, sides in _found(shapes))


def _found(shapes: str) -> list[tuple[str, str]]:
    return _SHAPE.findall(re.sub(r"/\*.*?\*/", "", shapes))


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
    """Bytes on each device while a step runs.

    Attributes:
      parameters: of the networks that are trained, with their statistics and copies such as averages.
      optimizer: state of the optimisers.
      frozen: networks that are not trained.
      batch: images, labels and mask.
      temporary: activations, gradients and everything else that lives within the step.
      total: what the step needs at once, its results included.
    """

    parameters: int
    optimizer: int
    frozen: int
    batch: int
    temporary: int
    total: int


def memory(compiled: Any, state: Any, batch: Any, frozen: Any) -> Memory:
    """Returns the memory of a compiled step; temporary and total are XLA's figures.

    Args:
      compiled: the executable.
      state: train state, as arrays or shapes with a placement.
      batch: the same.
      frozen: the same.
    """
    stats = compiled.memory_analysis()
    arguments, results = stats.argument_size_in_bytes, stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        parameters=_on_each_device(state.variables),
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
    """Returns the time of the convolutions and products of a step whose batch is split over devices.

    Tracing with two sizes of the batch tells what of an operation's bytes grows with it, and is split, from the
    weights, which every device reads whole.

    Args:
      at_batch: operations of the step with the global batch.
      at_twice: those with twice the batch, in the same order.
      num_devices: that share the batch.
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


def flops_as_xla(at_batch: Sequence[Operation], at_twice: Sequence[Operation], num_devices: int) -> float:
    """Returns the operations of each device as XLA's cost analysis has them; arguments as of compute_seconds."""
    pairs = zip(at_batch, at_twice, strict=True)
    return sum(_share(one.as_xla, two.as_xla, num_devices) for one, two in pairs)


def _share(at_batch: float, at_twice: float, num_devices: int) -> float:
    """Returns each device's share: what grows with the batch is split, the rest is everyone's."""
    growing = at_twice - at_batch
    return at_batch - growing + growing / num_devices


def bandwidth(group: Sequence[int], accelerator: Accelerator) -> float | None:
    """Returns the bytes in a second that each device of a group can send; None where the table does not know.

    Devices are numbered through, domain by domain. Those of a group that share a domain share its way out.
    """
    domains = {device // accelerator.domain for device in group}
    if len(domains) == 1:
        return accelerator.link_bandwidth
    if accelerator.network_bandwidth is None:
        return None
    return min(accelerator.link_bandwidth, len(group) / len(domains) * accelerator.network_bandwidth)


def collective_seconds(found: Sequence[Collective], accelerator: Accelerator) -> float | None:
    """Returns the time of all exchanges, one after the other; None where a bandwidth is not known."""
    seconds = 0.0
    for one in found:
        speed = bandwidth(one.group, accelerator)
        if speed is None:
            return None
        seconds += one.rounds * one.sent / speed
    return seconds


def by_kind(found: Sequence[Collective]) -> Mapping[str, dict[str, float]]:
    """Returns kind -> {"count", "bytes", "bytes_sent"} of one call, largest first.

    "bytes" are those of the whole arrays, "bytes_sent" what each device sends at the least.
    """
    sums = {}
    for kind in KINDS:
        parts = [c for c in found if c.kind == kind]
        if parts:
            sums[kind] = {
                "count": sum(c.rounds for c in parts),
                "bytes": sum(c.rounds * c.size for c in parts),
                "bytes_sent": sum(c.rounds * c.sent for c in parts),
            }
    return dict(sorted(sums.items(), key=lambda item: -item[1]["bytes_sent"]))
