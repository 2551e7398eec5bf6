"""Checkpoints made by hand, byte for byte, without PyTorch: the instructions of pickle protocol 2, and the files."""

import pickle
import struct
import zipfile

import numpy as np

STOP = b"."


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def row(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(function, *args):
    return function + row(*args) + b"R"


def table(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


ORDERED = call(name("collections", "OrderedDict"))


def storage(key="0", size=6, kind="FloatStorage"):
    return row(text("storage"), name("torch", kind), text(key), text("cpu"), number(size)) + b"Q"


def legacy_storage(key="0", size=6, kind="FloatStorage"):
    return row(text("storage"), name("torch", kind), text(key), text("cpu"), number(size), b"N") + b"Q"


def tensor(of=None, *, offset=0, shape=(2, 3), strides=(3, 1)):
    sizes = (row(*map(number, values)) for values in (shape, strides))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, storage() if of is None else of, number(offset), *sizes, b"\x89", ORDERED)


def state(arrays, *, kind="FloatStorage", first=0):
    """A dictionary of arrays as torch.save pickles a state_dict, and their storages for write_zip."""
    stream, storages = b"}(", {}
    for i, (key, array) in enumerate(arrays.items(), first):
        array = np.array(array, order="C")
        strides = [int(step) // array.itemsize for step in array.strides]
        of = storage(str(i), array.size, "LongStorage" if array.dtype.kind == "i" else kind)
        stream += text(key) + tensor(of, shape=array.shape, strides=strides)
        storages[str(i)] = array
    return stream + b"u", storages


def write_zip(path, stream, *, storages=None, root="archive/", **files):
    """Writes what torch.save writes; stream is the pickle without its first two bytes and its end."""
    storages = {"0": np.arange(6, dtype="<f4")} if storages is None else storages
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}data.pkl", b"\x80\x02" + stream + STOP)
        archive.writestr(f"{root}version", b"3\n")
        for key, numbers in storages.items():
            archive.writestr(f"{root}data/{key}", numbers.tobytes())
        for file, content in files.items():
            archive.writestr(root + file, content)
    return path


def write_legacy(path, stream, *, storages=None):
    """Writes what torch.save wrote before 1.6."""
    storages = {"0": np.arange(6, dtype="<f4")} if storages is None else storages
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(part, protocol=2) for part in head] + [b"\x80\x02" + stream + STOP]
    parts.append(pickle.dumps(list(storages), protocol=2))
    parts += [struct.pack("<q", numbers.size) + numbers.tobytes() for numbers in storages.values()]
    path.write_bytes(b"".join(parts))
    return path
