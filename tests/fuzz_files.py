"""Endless random calls with files and folders as users may have them: damaged, hostile, or merely odd.

Each call must return, with finite values, or raise UserError on one line. Pickles that would run a program leave a file
called MARK where they are run; it must never be there.
"""

import io
import os
import pathlib
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
import safetensors.numpy
from PIL import Image
from torch_streams import call, name, number, row, state, table, tensor, text, write_legacy, write_zip

from arinv import data
from arinv.data.folder import class_advice
from arinv.models.pytorch.convert import describe_torch, load_torch
from arinv.models.pytorch.files import open_torch
from arinv.models.pytorch.names import encoder_entries
from arinv.models.pytorch.pickles import Tensor

MARK = "mark"
_TINY = {"depth": 10, "width": 1, "num_classes": 2}
Case = tuple[str, Callable[[], None]]


class _Harmful:
    """Runs a program when Python's own machine loads it."""

    def __init__(self, call_of: tuple):
        self._call_of = call_of

    def __reduce__(self):
        return self._call_of


def _harmful(rng: np.random.Generator, mark: pathlib.Path) -> bytes:
    """Returns instructions of protocol 2, without its head and its end, that leave a file when they are run."""
    command = f"touch {mark}"
    streams = [
        call(name("os", "system"), text(command)),
        call(name("builtins", "exec"), text(f"open({str(mark)!r}, 'w').close()")),
        call(name("__builtin__", "eval"), text(f"open({str(mark)!r}, 'w').close()")),
        b"(" + text(command) + b"ios\nsystem\n",
        call(call(name("functools", "partial"), name("os", "system")), text(command)),
        call(
            call(name("builtins", "getattr"), call(name("importlib", "import_module"), text("os")), text("system")),
            text(command),
        ),
        call(name("subprocess", "getoutput"), text(command)),
        name("argparse", "Namespace")
        + b")\x81"
        + table(__setstate__=name("os", "system"))
        + b"b"
        + text(command)
        + b"b",
    ]
    if rng.random() < 0.3:
        reduced = pickle.dumps(_Harmful((pathlib.Path.touch, (mark,))), protocol=2)
        return reduced[2:-1]
    return streams[rng.integers(len(streams))]


def _foreign(rng: np.random.Generator) -> bytes:
    """Returns instructions for something that is no tensor."""
    streams = [
        call(name("somebody.code", "Runner"), text("a")),
        call(name("collections", "defaultdict"), name("__builtin__", "long")),
        call(name("__builtin__", "xrange"), number(0), number(9), number(1)),
        name("typing", "Any"),
        name("omegaconf.dictconfig", "DictConfig") + b")\x81" + table(_content=table(lr=number(1))) + b"b",
        call(name("torch._utils", "_rebuild_qtensor"), text("a")),
        name("models.vgg", "VGG") + b")\x81" + table(training=b"\x88") + b"b",
        tensor(shape=(2, 3), strides=(int(rng.integers(0, 9)), int(rng.integers(0, 9)))),
        row(*(number(int(x)) for x in rng.integers(-5, 5, 3))),
        b"]q\x05h\x05a",
        b"N",
        b"\x88",
    ]
    return streams[rng.integers(len(streams))]


def _weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the arrays of a small wide ResNet, with some of what lies beside them elsewhere."""
    prefix = rng.choice(["", "model.", "module.", "module.model."])
    dtype = rng.choice(["<f4", "<f2"])
    arrays = {}
    for entry in encoder_entries("wrn28_10", None, _TINY)[1]:
        scale = 0.05 if entry.names[0].endswith("weight") else 1.0
        arrays[prefix + entry.names[0]] = (scale * np.abs(rng.standard_normal(entry.torch_shape))).astype(dtype)
    if rng.random() < 0.3:
        arrays["mu"], arrays["sigma"] = np.zeros((1, 3, 1, 1), dtype), np.ones((1, 3, 1, 1), dtype)
    if rng.random() < 0.3:
        arrays["criterion.weight"] = np.ones(2, dtype)
    if rng.random() < 0.2:  # one that does not fit
        key = rng.choice(list(arrays))
        odd = [np.full(arrays[key].shape, np.nan, dtype), arrays[key][..., :1], np.zeros(0, dtype), np.arange(3)]
        arrays[str(key)] = odd[rng.integers(len(odd))]
    return arrays


def _weight_file(rng: np.random.Generator, directory: pathlib.Path, mark: pathlib.Path) -> pathlib.Path:
    """Writes a checkpoint of one of the formats, maybe hostile."""
    path, arrays = directory / "weights.pt", _weights(rng)
    kind = "HalfStorage" if next(iter(arrays.values())).dtype == np.float16 else "FloatStorage"
    if rng.random() < 0.3:
        safetensors.numpy.save_file(arrays, path, {"title": "x" * int(rng.integers(0, 200))})
        return path
    stream, storages = state(arrays, kind=kind)
    beside = {f"a{i}": _foreign(rng) for i in range(rng.integers(0, 4))}
    if rng.random() < 0.3:
        beside["harm"] = _harmful(rng, mark)
    wraps = [
        stream,
        table(model=stream, **beside),
        table(**beside, state=table(state_dict=stream)),
        table(x=b"](" + stream + b"e", **beside),
        _foreign(rng),
        _harmful(rng, mark),
    ]
    whole = wraps[rng.integers(len(wraps))]
    if rng.random() < 0.15:
        return write_legacy(path, whole, storages=storages)
    return write_zip(path, whole, storages=storages)


def _damage(rng: np.random.Generator, path: pathlib.Path) -> None:
    """Flips bits, cuts the end, or puts bytes in or out; or leaves the file alone."""
    content = bytearray(path.read_bytes())
    kind = rng.integers(5)
    if kind == 0:
        for place in rng.integers(0, max(1, len(content)), rng.integers(1, 9)):
            if place < len(content):
                content[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        content = content[: rng.integers(0, len(content) + 1)]
    elif kind == 2:  # near the head, where formats keep what is where
        for place in rng.integers(0, max(1, min(200, len(content))), 3):
            content[place : place + 1] = rng.bytes(rng.integers(0, 4))
    elif kind == 3:
        place = rng.integers(0, len(content) + 1)
        content[place:place] = rng.bytes(rng.integers(1, 40))
    path.write_bytes(content)


def _pickle_damage(rng: np.random.Generator, path: pathlib.Path) -> None:
    """Changes the pickle of a zip file, whose checksum would otherwise refuse any change."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except zipfile.BadZipFile:
        return
    for key in members:
        if key.endswith("data.pkl"):
            stream = bytearray(members[key])
            for place in rng.integers(0, len(stream), rng.integers(1, 6)):
                stream[place] ^= 1 << rng.integers(8)
            members[key] = bytes(stream)
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in members.items():
            archive.writestr(key, value)


def _read_weights(path: pathlib.Path, mark: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in text
        try:
            with open_torch(path) as file:
                values = file.content.values() if isinstance(file.content, dict) else ()
                for value in values:
                    if isinstance(value, Tensor):
                        file.array(value)
            options = {name: value for name, value in _TINY.items() if name != "num_classes"}
            found = describe_torch(path, "wrn28_10", **options)
            variables = load_torch(path, "wrn28_10", normalization=found["normalization"] or "none", **_TINY)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
        finally:
            assert not mark.exists(), "a program was run"


def _weight_case(rng: np.random.Generator, directory: pathlib.Path) -> Case:
    mark = directory / MARK
    path = _weight_file(rng, directory, mark)
    if rng.random() < 0.3:
        _pickle_damage(rng, path)
    elif rng.random() < 0.6:
        _damage(rng, path)
    return "weights", lambda: _read_weights(path, mark)


def _image_bytes(rng: np.random.Generator) -> tuple[bytes, str]:
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(
            (pixels[..., 0].astype(np.float64) * rng.choice([1, 257, -3])).astype(np.int64).astype(dtype)
        )
    else:
        image = image.convert(str(mode))
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))
    for kind in rng.permutation(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "JPEG2000", "PPM", "TGA"]):
        buffer = io.BytesIO()
        try:
            image.save(buffer, str(kind), **({"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}))
        except (OSError, ValueError, KeyError):  # a mode that the format does not have
            continue
        return buffer.getvalue(), str(kind).lower()
    return b"", "none"


def _transparent_png(rng: np.random.Generator) -> bytes:
    """Returns a PNG of odd depth with a transparent color, or a palette shorter than its entries."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    depth, color = [(1, 0), (2, 0), (4, 0), (16, 0), (16, 2), (8, 3), (4, 3), (16, 4), (16, 6)][rng.integers(9)]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    width, height = 5, 3
    rows = b"".join(b"\0" + rng.bytes(-(-width * depth * channels // 8)) for _ in range(height))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))]
    if color == 3:
        parts.append(chunk(b"PLTE", rng.bytes(3 * int(rng.integers(1, 20)))))
    if color in (0, 2, 3):
        parts.append(chunk(b"tRNS", rng.bytes(int(rng.choice([2, 6, 1])))))
    if rng.random() < 0.3:
        parts.append(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(rng.bytes(40))))
    if rng.random() < 0.3:
        parts.append(chunk(b"eXIf", rng.bytes(30)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _image_case(rng: np.random.Generator, directory: pathlib.Path) -> Case:
    content, kind = _image_bytes(rng) if rng.random() < 0.7 else (_transparent_png(rng), "png by hand")
    path = directory / "image.png"
    path.write_bytes(content)
    if rng.random() < 0.7:
        _damage(rng, path)

    def read() -> None:
        image = data.read_image(path, min_side=None if rng.random() < 0.5 else 8)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        assert data.resize_u8(image, 8, "crop").shape == (8, 8, 3)

    return f"image {kind}", read


_NAMES = (
    *("train", "Train", "test", "TEST", "val", "validation", "tr", "te", "dev", "training_set", "seg_train", "my test"),
    *("cat", "dog", "katze ü", "a+b", "@eaDir", "__MACOSX", ".hidden", "lost+found", "$RECYCLE.BIN", "0", "1", "10"),
)
_FILES = (
    "a.png",
    "b.PNG",
    "c.jfif",
    "d.jpg",
    "e.tif",
    "._a.png",
    "notes.txt",
    "Thumbs.db",
    "f.heic",
    "noending",
    "g.webp",
)


def _fill(rng: np.random.Generator, folder: pathlib.Path, depth: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(rng.integers(0, 5)):
        path = folder / f"{i}{rng.choice(_FILES)}"
        kind = rng.integers(8)
        if kind == 0:
            path.symlink_to(rng.choice([".", "..", "nowhere.png", path.name]))
        elif kind == 1:
            path.write_bytes(rng.bytes(rng.integers(0, 50)))
        elif kind == 2:
            path.mkdir()
        else:
            content, _ = _image_bytes(rng)
            path.write_bytes(content)
            if rng.random() < 0.1:
                _damage(rng, path)
    if depth:
        for inner in rng.choice(_NAMES, rng.integers(0, 4), replace=False):
            _fill(rng, folder / str(inner), depth - 1)


def _folder_case(rng: np.random.Generator, directory: pathlib.Path) -> Case:
    root = directory / "images"
    _fill(rng, root, int(rng.integers(0, 4)))
    split, skip = rng.choice(["train", "test", "val", "all"]), "skip" if rng.random() < 0.8 else "error"

    def read() -> None:
        assert class_advice(root)
        if rng.random() < 0.3:
            assert len(data.open_images(root, on_bad_image=skip)) > 0
            return
        source = data.open_source(f"folder:{root}", split=str(split), image_size=8, on_bad_image=skip)
        _check_source(source)

    return f"folder {split}", read


def _check_source(source: data.Source) -> None:
    labels = source.read_labels()
    assert len(source) == len(labels) > 0 and len(source.info.class_names) == source.info.num_classes
    assert labels.min() >= 0 and labels.max() < source.info.num_classes <= 100_000
    for i in (0, len(source) - 1):
        example = source[i]
        assert example["image"].shape == (8, 8, 3) and example["image"].dtype == np.uint8
        assert example["label"] == labels[i]


def _npz_case(rng: np.random.Generator, directory: pathlib.Path) -> Case:
    count = int(rng.integers(0, 12))
    labels = [
        rng.integers(0, 3, count),
        rng.integers(0, 2**40, count),
        rng.integers(-2, 3, count),
        rng.integers(0, 3, count).astype(np.float64),
        rng.standard_normal(count),
        np.eye(4)[rng.integers(0, 4, count)],
        rng.integers(0, 3, (count, 1)),
        np.full(count, np.nan),
        np.full(count, 2**63, np.uint64),
        rng.random(count) < 0.5,
        np.array(["cat", "dög", ""])[rng.integers(0, 3, count)],
        np.array([b"a"] * count),
        np.array([object()] * count),
        np.zeros((count, 0)),
        np.zeros(()),
        np.full(count, 1e300),
        np.array([1j] * count),
        rng.integers(0, 3, count + 1),
        np.array(["2020-01-01"] * count, "datetime64[D]"),
    ]
    images = [
        rng.integers(0, 256, (count, 6, 5, 3), np.uint8),
        rng.integers(0, 256, (count, 6, 5), np.uint8),
        rng.random((count, 6, 5, 3)),
        np.zeros((count, 0, 5, 3), np.uint8),
        np.zeros((), np.uint8),
    ]
    names = ("image", "label") if rng.random() < 0.9 else ("images", "y")
    image = images[0] if rng.random() < 0.7 else images[rng.integers(len(images))]
    label = labels[rng.choice([0, 1, 3, 5, 6, 10])] if rng.random() < 0.5 else labels[rng.integers(len(labels))]
    path = directory / "arrays.npz"
    save = np.savez if rng.random() < 0.5 else np.savez_compressed
    save(path, **dict(zip(names, (image, label), strict=True)))
    if rng.random() < 0.3:
        _damage(rng, path)
    split = rng.choice(["train", "test", "all"])
    return f"npz {split}", lambda: _check_source(data.open_source(f"npz:{path}", split=str(split), image_size=8))


def cases(rng: np.random.Generator, directory: pathlib.Path) -> Iterator[Case]:
    """Yields (description, call) without end.

    Args:
      rng: decides everything.
      directory: an empty one; every case has a folder of its own in it.
    """
    makers = (_weight_case, _weight_case, _image_case, _folder_case, _npz_case)
    number_of = 0
    while True:
        place = directory / f"case{number_of}"
        place.mkdir()
        title, function = makers[rng.integers(len(makers))](rng, place)
        yield f"{number_of}: {title} in {os.fspath(place)}", function
        number_of += 1
