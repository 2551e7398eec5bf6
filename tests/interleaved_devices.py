"""The command arinv with a mesh in which the devices of the processes take turns, as they may on a pod.

    python tests/interleaved_devices.py --config=tests/short_applications.py:folder=untrained --workdir=runs/short

A write of a file by another process than 0 is an error.
"""

import pathlib
import sys

import numpy as np
from jax.sharding import Mesh

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for the configs

from arinv import __main__, distributed, parallel  # noqa: E402
from arinv.experiment import output_files  # noqa: E402

_make_mesh, _replacing = parallel.make_mesh, output_files.replacing


def make_mesh(**sizes):
    """Returns the mesh of `parallel.make_mesh` with its devices in another order."""
    mesh = _make_mesh(**sizes)
    places: dict[int, int] = {}
    turns = {}
    for device in mesh.devices.flat:
        turns[device] = places[device.process_index] = places.get(device.process_index, -1) + 1
    devices = sorted(mesh.devices.flat, key=lambda device: (turns[device], device.process_index))
    return Mesh(np.reshape(devices, mesh.devices.shape), mesh.axis_names, axis_types=mesh.axis_types)


def replacing(path):
    """Refuses to write a file of another process's."""
    if distributed.index() != 0:
        raise AssertionError(f"process {distributed.index()} writes {path}")
    return _replacing(path)


if __name__ == "__main__":
    parallel.make_mesh, output_files.replacing = make_mesh, replacing
    __main__.console()
