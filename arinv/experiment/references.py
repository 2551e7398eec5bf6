"""References: the earlier runs, files and images that a config names, checked before a run, compared at its resume."""

import contextlib
import enum
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from arinv import data, paths, zoo
from arinv.data.image_files import list_images
from arinv.errors import UserError
from arinv.experiment import workdirs
from arinv.experiment.output_files import write_json


class Role(enum.Enum):
    """What a field of a config names."""

    TRAINING = "a training, whose checkpoint has to exist"
    RUN = "a run, which has to exist"
    FOUND = "a run or a keyword; the task itself checks which"
    FILE = "a file"
    IMAGES = "a file or folder of images, without the prefix folder:"
    TEXT = "a text for readers"
    NOTHING = "no input"


# By the end of the field's name; "GROUP.*" is GROUP and every field in it. The first that fits counts.
FIELDS = {
    "encoder.start": Role.NOTHING,
    "optimization.encoders": Role.NOTHING,
    **dict.fromkeys(("checkpoint", "encoder_checkpoint", "inverter", "denoiser"), Role.TRAINING),
    **dict.fromkeys(("inverters.*", "gans.*"), Role.TRAINING),
    **dict.fromkeys(("attack_from", "detector", "entries.*", "figures.*"), Role.RUN),
    **dict.fromkeys(("encoders.*", "metric_networks.*", "metric_encoder", "start", "comparator"), Role.FOUND),
    **dict.fromkeys(("gan", "autoencoder", "aegan", "restoration", "attribute", "stylized"), Role.FOUND),
    **dict.fromkeys(("path", "mask"), Role.FILE),
    **dict.fromkeys(("images", "anomalous", "content", "style", "content_labels", "style_labels"), Role.IMAGES),
    **dict.fromkeys(("title", "text"), Role.TEXT),
}
_FOLDER, _VOLUME = "folder:", "volume:"
_DATA = ("folder", "npz", "volume")  # schemes of data on disk
_SCHEMES = (f"{name}:" if scheme.location else name for name, scheme in data.SCHEMES.items())
_JOINED = re.compile(rf"\+(?={'|'.join(_SCHEMES)})")  # between data sets; paths may have a + in them
_MAX_READ = 20_000  # larger folders are recognized by names and sizes alone
_WINDOW = 2**16  # bytes
# Number of windows by which an image of a folder, or a single file such as an archive, is recognized.
_WINDOWS_OF_IMAGE, _WINDOWS_OF_FILE = 2, 4096
_INCOMPLETE = "not complete"  # in place of the hash of a run
_hashes: dict[tuple, str] = {}  # of the images that were hashed last, which several stages may name


def role(name: str) -> Role | None:
    """Returns what a field names, of a name such as "encoder.checkpoint"; None for another field."""
    parts = name.split(".")
    for pattern, value in FIELDS.items():
        names = pattern.removesuffix(".*").split(".")
        if parts[-len(names) :] == names or (pattern.endswith(".*") and names[0] in parts):
            return value
    return None


def check_local(config: ConfigDict, *, reads_paths: bool = False) -> None:
    """Checks that no field of a config names a URL, and none of images has the prefix of datasets.

    Args:
      config: config of a task.
      reads_paths: whether data.name is a path of images, see `Task`.

    Raises:
      UserError: a field names a URL, or a folder of images with the prefix "folder:".
    """
    for name, text in texts(config):
        paths.check_local(text, name=name)
        if _names_images(name, reads_paths) and text.startswith(_FOLDER):
            raise UserError(f"{name}={text!r} must be a path without {_FOLDER}; write {text.removeprefix(_FOLDER)}")


def check_runs(stages: Mapping[pathlib.Path, ConfigDict]) -> None:
    """Checks that the workdirs of earlier runs that stages name exist, and that trainings have a checkpoint.

    Args:
      stages: workdir -> config.

    Raises:
      UserError: a workdir or checkpoint is missing.
    """
    places = [
        (name, text, workdirs.resolve(text, workdir))
        for workdir, config in stages.items()
        for name, text in texts(config)
        if role(name) in (Role.TRAINING, Role.RUN) and not text.startswith(workdirs.STAGE)
    ]
    for name, text, place in places:
        if not place.exists():
            raise UserError(f"{name}={text!r} does not exist; name the workdir of an earlier run")
    for name, _, place in places:
        if role(name) == Role.TRAINING:
            workdirs.check_run(place, name=name)


def check_outside(config: ConfigDict, workdir: pathlib.Path, *, reads_paths: bool = False) -> None:
    """Checks that a workdir is not in a folder of images that the task reads, since it writes images itself.

    Args:
      config: config of the task.
      workdir: its directory.
      reads_paths: whether data.name is such a folder, see `Task`.

    Raises:
      UserError: the workdir is in such a folder.
    """
    own = paths.canonical(workdir)
    for name, text in texts(config):
        for part in _JOINED.split(text):
            folder = part.removeprefix(_FOLDER).removeprefix(_VOLUME)
            is_folder = folder and (folder != part or _names_images(name, reads_paths))
            if is_folder and paths.canonical(folder, name=name) in (own, *own.parents):
                raise UserError(
                    f"workdir {workdir} is in the folder of images {folder} that {name} reads, so it would read its "
                    "own outputs; name another --workdir"
                )


def record(config: ConfigDict, workdir: pathlib.Path, *, reads_paths: bool = False) -> str:
    """Writes inputs.json, hashes of what a config names; on process 0 only.

    Args:
      config: config of the task.
      workdir: its directory.
      reads_paths: whether data.name is a path of images, see `Task`.

    Returns:
      A hash of the earlier runs and files; empty for none.

    Raises:
      UserError: the workdir cannot be written.
    """
    runs = _hash_runs(texts(config), workdir)
    try:
        write_json(workdir / "inputs.json", runs | _hash_images(texts(config), reads_paths))
    except OSError as error:
        raise UserError(f"workdir {workdir} cannot be written: {error.strerror}") from error
    contents = [(name.partition("=")[0], value) for name, value in runs.items()]
    return _hash(json.dumps(contents).encode()) if runs else ""


def moved(config: ConfigDict, workdir: pathlib.Path, *, reads_paths: bool = False) -> frozenset[str]:
    """Returns the fields that name the inputs of the run in a workdir by other paths, as after a move.

    Args:
      config: config of the task.
      workdir: its directory.
      reads_paths: whether data.name is a path of images, see `Task`.

    Returns:
      Names of fields that differ from config.json, where each path that differs has the hash of inputs.json.
    """
    files = (workdir / "config.json", workdir / "inputs.json")
    if not all(file.exists() for file in files):
        return frozenset()
    saved, hashes = (workdirs.flatten(workdirs.read_json(file)) for file in files)
    fields = workdirs.flatten(workdirs.plain(config))
    changed = [(name, text) for name, text in texts(config) if name in saved and saved[name] != fields[name]]
    current = _hash_runs(changed, workdir) | _hash_images(changed, reads_paths)

    def have_moved(name: str) -> bool:
        before, now = _parts(saved[name]), _parts(fields[name])
        pairs = [pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]]
        values = [(hashes.get(f"{name}={old}"), current.get(f"{name}={new}")) for old, new in pairs]
        return len(before) == len(now) and all(old == new not in (None, _INCOMPLETE) for old, new in values)

    return frozenset(name for name, _ in changed if have_moved(name))


def _parts(value: str | list[str]) -> list[str]:
    """Returns the parts of a field's value, each of which names something."""
    return [part for text in (value if isinstance(value, list) else [value]) for part in _JOINED.split(str(text))]


def check_unchanged(config: ConfigDict, workdir: pathlib.Path, *, reads_paths: bool = False) -> None:
    """Checks that what a task has used is the same today, where it exists.

    Of a complete task these are earlier runs, files and images; of a training that was stopped files and images, since
    it compares the weights of earlier runs itself. Other tasks that were stopped recognize their finished parts.

    Args:
      config: config of the task.
      workdir: its directory.
      reads_paths: whether data.name is a path of images, see `Task`.

    Raises:
      UserError: naming what has changed.
    """
    path, complete = workdir / "inputs.json", workdirs.is_complete(workdir)
    trainings = (workdir, *workdir.glob("class*"))  # a training of each class has a folder of its own
    is_stopped_training = not complete and any(workdirs.saved_steps(path / workdirs.CHECKPOINTS) for path in trainings)
    if not path.exists() or not (complete or is_stopped_training):
        return
    current = _hash_runs(texts(config), workdir, files_only=not complete) | _hash_images(texts(config), reads_paths)
    saved = workdirs.read_json(path)
    changed = [name for name, value in current.items() if saved.get(name, value) != value]
    if changed:
        state = "is complete" if complete else "holds a stopped run"
        raise UserError(
            f"{workdir} {state}, but its inputs have changed: {', '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; delete {workdir} to run it again, or name another --workdir"
        )


def _hash_runs(fields: Iterable[tuple[str, str]], workdir: pathlib.Path, *, files_only: bool = False) -> dict[str, str]:
    """Returns "field=value" -> a hash of the earlier run or the file that the field of a config names."""
    hashes, own = {}, paths.canonical(workdir)
    for name, text in fields:
        is_file, is_run = role(name) == Role.FILE, role(name) in (Role.TRAINING, Role.RUN, Role.FOUND)
        if zoo.is_reference(text) or not (is_file or is_run and not files_only):
            continue
        with contextlib.suppress(OSError, UserError):  # moved or deleted since, or not readable
            place = workdirs.resolve(text, workdir) if is_run else paths.expanded(text)
            if place.is_file():
                hashes[f"{name}={text}"] = _hash(place.read_bytes())
            elif is_run and paths.canonical(place) not in (own, *own.parents):  # else a word such as edges
                hashes[f"{name}={text}"] = _hash_of_run(place)
    return hashes


def _hash_images(fields: Iterable[tuple[str, str]], reads_paths: bool) -> dict[str, str]:
    """Returns "field=value" -> a hash of the images that the field of a config names."""
    hashes = {}
    for name, text in fields:
        for part in _JOINED.split(text):
            scheme, _, location = part.partition(":")
            is_data = scheme in _DATA and location
            if not is_data and (data.is_photographs(text) or not _names_images(name, reads_paths)):
                continue
            with contextlib.suppress(OSError, UserError):  # moved or deleted since, or not readable
                hashes[f"{name}={part}"] = _hash_of_images(paths.expanded(location if is_data else part))
    return hashes


def _names_images(name: str, reads_paths: bool) -> bool:
    """Returns whether a field names a file or folder of images without the prefix "folder:"."""
    return role(name) == Role.IMAGES or (reads_paths and name == "data.name")


def texts(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each field that may name something."""
    for name, value in workdirs.flatten(workdirs.plain(config)).items():
        if role(name) != Role.TEXT:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and text:
                    yield name, text


def _hash_of_run(place: pathlib.Path) -> str:
    if not place.is_dir():
        raise FileNotFoundError(place)
    return _hash((place / "results.json").read_bytes()) if workdirs.is_complete(place) else _INCOMPLETE


def _hash_of_images(place: pathlib.Path) -> str:
    """Returns a hash of a file, or of the names, sizes, beginnings and ends of the images of a folder.

    Of a file of more than 256 MiB windows that are evenly spread count, the first and the last bytes included; of very
    many images only names and sizes.
    """
    files = [place] if place.is_file() else list_images(place)[0]
    stats = [path.stat() for path in files]
    key = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(files, stats, strict=True))
    if key not in _hashes:
        digest = hashlib.sha256()
        for path, stat in zip(files, stats, strict=True):
            digest.update(os.fsencode(f"{os.path.relpath(path, place)} {stat.st_size}\n"))
            if len(files) <= _MAX_READ:
                _update(digest, path, stat.st_size, _WINDOWS_OF_IMAGE if len(files) > 1 else _WINDOWS_OF_FILE)
        _hashes.clear()
        _hashes[key] = digest.hexdigest()[:16]
    return _hashes[key]


def _update(digest: Any, path: pathlib.Path, size: int, num_windows: int) -> None:
    """Adds a file to a digest: all of it, or as many windows, which begin with its beginning and end with its end."""
    with path.open("rb") as file:
        if size <= num_windows * _WINDOW:
            while content := file.read(2**20):
                digest.update(content)
            return
        for i in range(num_windows):
            file.seek(i * (size - _WINDOW) // (num_windows - 1))
            digest.update(file.read(_WINDOW))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
