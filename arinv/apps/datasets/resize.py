"""The command `arinv resize`: writes a copy of a dataset with smaller images, in TFDS's layout of array_record files.

Training on photographs decodes every image in every epoch. A core decodes several times as many images a second once
they are reduced, and record files are read faster than a folder of a million files. The result is opened as
"tfds:NAME", without TensorFlow.
"""

import argparse
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from PIL import Image

from arinv import data
from arinv.errors import MISTAKE, UserError, user_line
from arinv.experiment.output_files import TEMPORARY, replacing, write_json, write_text
from arinv.experiment.run import report_source
from arinv.experiment.writer import progress_bar, progress_callback
from arinv.paths import expanded

VERSION = "1.0.0"
_SHARD = 4096  # examples a file
_LONGEST_JPEG = 65_500  # px a side
_FEATURES = "tensorflow_datasets.core.features"
_FILE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SETTINGS = "resize.json"
_COMPARED = 64  # images by which a source is recognized


def main(argv: Sequence[str]) -> int:
    """Writes a dataset, and returns the exit code.

    Args:
      argv: the arguments of the command.

    Returns:
      0, or 2 for invalid input, with a line on stderr.
    """
    args = _arguments(argv)
    splits = {"train": args.train_split, "test": args.test_split}
    try:
        folder = resize(
            args.source,
            args.name,
            out_dir=args.out_dir or args.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets",
            splits={name: split for name, split in splits.items() if split},
            side=args.side,
            quality=args.quality,
            data_dir=args.data_dir or None,
            on_bad_image=args.on_bad_image,
        )
    except (UserError, OSError) as error:
        print(f"arinv: {user_line(error) or error}", file=sys.stderr)
        return MISTAKE
    print(f"{folder}\nOpen it with dataset=tfds:{args.name},data_dir={folder.parents[1]}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m arinv resize",
        description="Writes a copy of a dataset with smaller images, as array_record files, which are read without "
        "TensorFlow. Resumes where it stopped when it is started again.",
    )
    parser.add_argument("source", help="source dataset, such as folder:/data/imagenet or tfds:imagenet2012")
    parser.add_argument("name", help="name of the new dataset, such as imagenet256, opened as tfds:imagenet256")
    parser.add_argument("--side", type=int, default=256, help="length of the shorter side in pixels (%(default)s)")
    parser.add_argument("--quality", type=int, default=95, help="quality of the JPEG files, 1 to 100 (%(default)s)")
    parser.add_argument(
        "--train_split", default="train", help="training split of the source; empty: none (%(default)s)"
    )
    parser.add_argument(
        "--test_split",
        default="test",
        help="split of the source to test on, such as validation; empty: none (%(default)s)",
    )
    parser.add_argument("--data_dir", default="", help="directory of TFDS datasets (TFDS_DATA_DIR, else its default)")
    parser.add_argument("--out_dir", default="", help="directory that the dataset is written to (data_dir)")
    parser.add_argument(
        "--on_bad_image", default="error", help="at damaged images of a folder: error or skip (%(default)s)"
    )
    return parser.parse_args(argv)


def resize(
    source: str,
    name: str,
    *,
    out_dir: str | os.PathLike,
    splits: dict[str, str],
    side: int = 256,
    quality: int = 95,
    data_dir: str | os.PathLike | None = None,
    on_bad_image: str = "error",
) -> pathlib.Path:
    """Writes the images of a dataset, reduced, with their labels.

    Images whose shorter side is longer than `side` are reduced by bilinear interpolation with antialiasing and stored
    as JPEG without subsampling of colors; others are stored as PNG, unchanged. Existing files of the same settings are
    kept, so that a stopped run resumes.

    Args:
      source: name of a dataset, see `data.open_source`.
      name: name of the new dataset, in lowercase letters, digits and "_".
      out_dir: directory in which the folder NAME/1.0.0 is written.
      splits: name of the new split -> split of the source.
      side: largest length of the shorter side, in pixels.
      quality: quality of the JPEG files, 1 to 100.
      data_dir: directory of TFDS datasets.
      on_bad_image: see `data.open_source`.

    Returns:
      The folder of the dataset.

    Raises:
      UserError: a number or name out of range, a source that cannot be opened, splits of different classes or with
        images in common, names of classes that a dataset of TFDS cannot have, or a folder that holds another dataset.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"name must be lowercase letters, digits and '_', such as imagenet256; got {name!r}")
    if side < 1:
        raise UserError(f"side must be 1 pixel or more; got {side}")
    if not 1 <= quality <= 100:
        raise UserError(f"quality must be from 1 to 100; got {quality}")
    if not splits:
        raise UserError("both splits are empty; name one of the source, such as train_split=train")
    options = {"image_size": side, "resize": data.ORIGINAL, "data_dir": data_dir, "on_bad_image": on_bad_image}
    sources = {
        new: data.open_source(source, split=old, progress=progress_callback(f"checking {source} {old}"), **options)
        for new, old in splits.items()
    }
    for opened in sources.values():
        report_source(opened)
    for first, second in itertools.combinations(sources.values(), 2):
        if data.share_images(first.info, second.info):
            raise UserError(
                f"the splits {first.info.split} and {second.info.split} of {source} have images in common; name splits "
                "that have none"
            )
    classes = [source.info.class_names for source in sources.values()]
    if any(names != classes[0] for names in classes):
        raise UserError(
            f"the splits {', '.join(splits.values())} of {source} have different classes; write one of them"
        )
    _check_class_names(source, classes[0])

    folder = expanded(out_dir) / name / VERSION
    settings = {"source": source, "splits": splits, "side": side, "quality": quality}
    settings["images"] = {new: _fingerprint(opened) for new, opened in sources.items()}
    _check_folder(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(f"{TEMPORARY}*"), *folder.glob(f".{name}-*")):  # of a run that was killed
        leftover.unlink()
    write_json(folder / _SETTINGS, settings)
    infos = [_write_split(opened, folder, name, new, side, quality) for new, opened in sources.items()]
    _write_facts(folder, name, source, classes[0], infos)
    return folder


def _check_class_names(source: str, names: Sequence[str]) -> None:
    """Checks that TFDS reads the names of classes as they are written, one line each.

    Raises:
      UserError: a name with a line break, with blanks around it, or that is not UTF-8.
    """
    for name in names:
        if name != name.strip() or len(name.splitlines()) != 1 or name != name.encode(errors="replace").decode():
            raise UserError(
                f"class {name!r} of {source} cannot be written: a file of TFDS has one line of UTF-8 for each class, "
                "without blanks around it; rename its folder"
            )


def _fingerprint(source: data.Source) -> str:
    """Returns a hash of the labels of a source, of some of its images, and of the sizes and times of its files."""
    digest = hashlib.sha256(source.read_labels().tobytes())
    count = min(len(source), _COMPARED)
    for i in range(count):
        digest.update(np.ascontiguousarray(source[i * len(source) // count]["image"]))
    for path in getattr(source, "files", ()):
        stat = path.stat()
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return f"{len(source)} {digest.hexdigest()[:16]}"


def _check_folder(folder: pathlib.Path, settings: dict) -> None:
    """Checks that a folder is new, or that of a run with the same settings.

    Raises:
      UserError: it holds something else.
    """
    facts = [*folder.parent.glob("*/dataset_info.json"), *folder.parent.glob("*/*/dataset_info.json")]
    others = sorted({path.relative_to(folder.parent).parts[0] for path in facts} - {folder.name})
    if others:  # TFDS would open one of these
        raise UserError(f"{folder.parent} holds {', '.join(others[:5])} of another dataset; give another name")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        saved = json.loads((folder / _SETTINGS).read_text())
    except (OSError, ValueError):
        raise UserError(f"{folder} holds a dataset of another origin; give another name") from None
    if changes := [name for name in settings if saved.get(name) != settings[name]]:
        raise UserError(
            f"{folder} was written with another {' and '.join(changes)}: give another name, or remove the folder"
        )


def _write_split(
    source: data.Source, folder: pathlib.Path, name: str, split: str, side: int, quality: int
) -> dict[str, object]:
    """Writes the files of a split that do not exist yet, and returns its entry of dataset_info.json."""
    # Imported by this thread alone: modules that load when they are first used block each other in the pool.
    from tensorflow_datasets.proto import tf_example_pb2

    def make(index: int) -> bytes:
        return _record(tf_example_pb2.Example(), source, index, side, quality)

    tf_example_pb2.Example()
    total = len(source)
    starts = range(0, total, _SHARD)
    lengths = [min(_SHARD, total - start) for start in starts]
    paths = [folder / f"{name}-{split}.array_record-{i:05d}-of-{len(starts):05d}" for i in range(len(starts))]
    done = sum(length for length, path in zip(lengths, paths, strict=True) if path.exists())
    with (
        progress_bar(None, f"{name} {split}", total=total, initial=done, unit="image") as bar,
        futures.ThreadPoolExecutor(data.num_cores()) as pool,
    ):
        for start, length, path in zip(starts, lengths, paths, strict=True):
            if path.exists():
                continue
            numbers = iter(range(start, start + length))
            with replacing(path) as temporary:
                _write_records(temporary, _in_order(pool, make, numbers, bar))
    return {
        "name": split,
        "filepathTemplate": _FILE,
        "numBytes": str(sum(path.stat().st_size for path in paths)),
        "shardLengths": list(map(str, lengths)),
    }


def _in_order(pool: futures.Executor, make, numbers: Iterator[int], bar) -> Iterator[bytes]:
    """Yields what `make` returns for each number, a bounded number of them ahead."""
    ahead = [pool.submit(make, i) for i in itertools.islice(numbers, 4 * data.num_cores())]
    while ahead:
        yield ahead.pop(0).result()
        bar.update()
        ahead += [pool.submit(make, i) for i in itertools.islice(numbers, 1)]


def _write_records(path: pathlib.Path, records: Iterator[bytes]) -> None:
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")  # groups: random access
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()


def _record(record: Any, source: data.Source, index: int, side: int, quality: int) -> bytes:
    """Returns an example as TFDS stores it, in an empty record."""
    example = source[index]
    record.features.feature["image"].bytes_list.value.append(encode(example["image"], side, quality))
    record.features.feature["label"].int64_list.value.append(int(example["label"]))
    return record.SerializeToString(deterministic=True)


def encode(image: np.ndarray, side: int, quality: int) -> bytes:
    """Returns an image as a file: JPEG of a reduced image, PNG of one that is small enough or too long for JPEG.

    Args:
      image: uint8 [H, W, C], C 1 or 3.
      side: largest length of the shorter side, in pixels.
      quality: JPEG quality, 1 to 100.

    Returns:
      The bytes of the file.
    """
    height, width = image.shape[:2]
    picture, file = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), io.BytesIO()
    if min(height, width) > side:
        factor = side / min(height, width)
        size = (max(side, round(width * factor)), max(side, round(height * factor)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        if max(size) <= _LONGEST_JPEG:
            picture.save(file, "JPEG", quality=quality, subsampling=0)
            return file.getvalue()
    picture.save(file, "PNG")
    return file.getvalue()


def _write_facts(folder: pathlib.Path, name: str, source: str, classes: Sequence[str], splits: list[dict]) -> None:
    """Writes the files that describe the dataset; dataset_info.json, which makes it one, last."""
    image = {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"}
    features = {
        "image": {"pythonClassName": f"{_FEATURES}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(classes))},
        },
    }
    tree = {"pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    write_text(folder / "label.labels.txt", "".join(f"{label}\n" for label in classes))
    write_json(folder / "features.json", tree)
    facts = {"name": name, "version": VERSION, "fileFormat": "array_record", "splits": splits}
    write_json(folder / "dataset_info.json", {**facts, "description": f"{source}, with smaller images."})
