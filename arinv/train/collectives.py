"""The collectives of a compiled program, read from its HLO text: which, of how many bytes, how often, among whom.

Source of the bytes that a device sends: ring algorithms, Patarasuk & Yuan 2009.
"""

import math
import re
from typing import NamedTuple

import numpy as np

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
