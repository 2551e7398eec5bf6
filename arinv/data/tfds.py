"""TFDS datasets in array_record files, read without TensorFlow.

Records are parsed as protocol buffers and decoded with Pillow, two to three times faster than TFDS's
feature decoders for small images. Images are uint8 RGB, resized to a fixed size on the host.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from arinv.data import decoding
from arinv.data.source import Published, SourceInfo, check_index
from arinv.errors import UserError, unknown

PUBLISHED = {
    # Two classes of an attribute; without a label one.
    "celeb_a": Published(2, {"train": 162_770, "validation": 19_867, "test": 19_962}),
    "lsun/church_outdoor": Published(1, {"train": 126_227, "validation": 300}),
    "cats_vs_dogs": Published(2, {"train": 23_262}),
    "cifar10": Published(10, {"train": 50_000, "test": 10_000}, side=32),
    "cifar100": Published(100, {"train": 50_000, "test": 10_000}, side=32),
    "food101": Published(101, {"train": 75_750, "validation": 25_250}),
    "imagenet2012": Published(1000, {"train": 1_281_167, "validation": 50_000}),
    "stl10": Published(10, {"train": 5_000, "test": 8_000}, side=96),
    "svhn_cropped": Published(10, {"train": 73_257, "test": 26_032}, side=32),
}
_BLOCK = 1024  # records that are read together
UNLABELED = "none"  # the label of datasets without labels


class Tfds:
    """One split of a TFDS dataset that is prepared on this machine."""

    def __init__(
        self,
        name: str,
        split: str,
        *,
        image_size: int,
        resize: str,
        data_dir: str | os.PathLike | None,
        window: tuple[int, ...] = (),
        label: str = "",
    ):
        """Opens the record files.

        Args:
          name: name of the dataset, such as "cifar10", "imagenet2012:5.1.0" or "cifar10_corrupted/fog_1".
          split: a split of the dataset or a slice of it, such as "test" or "train[:80%]".
          image_size: side of the images, in pixels.
          resize: see `decoding.resize_u8`.
          data_dir: the directory of prepared datasets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
          window: see `decoding.crop_window`; empty for whole images.
          label: name of the feature with the label, such as "attributes/Eyeglasses"; empty for "label" or "labels";
            "none" for images without labels, which form one class.

        Raises:
          UserError: a dataset that is missing, not in array_record files or without readable images or labels,
            or an unknown split.
        """
        import tensorflow_datasets as tfds  # slow to import

        builder = _open_builder(name, data_dir)
        splits = [str(key) for key in builder.info.splits]
        features = builder.info.features
        self._shape = _stored_shape(name, features)
        self._label_name = _label_name(name, features, label)
        _check_split(name, split, splits)
        parts = _parts(name, split, builder.info.splits)
        try:
            records = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        except NotImplementedError:
            raise UserError(
                f"tfds:{name} in {builder.data_dir} is not stored as array_record; prepare it "
                f"again with `tfds build {name} --file_format=array_record`"
            ) from None
        except ValueError as error:
            raise UserError(f"tfds:{name} split {split!r} cannot be opened ({_reason(error)})") from None
        self._records = records.data_source
        self._resize, self._window = resize, window
        self._min_side = None if window else decoding.decoded_side(image_size, resize)
        self._numbers, class_names = _classes(builder, splits, features, self._label_name)
        self.info = SourceInfo(
            f"tfds:{name}",
            split,
            len(self._records),
            len(class_names),
            tuple(class_names),
            image_size,
            parts=parts,
        )
        self.num_skipped = 0

    def __len__(self) -> int:
        return self.info.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several examples; reading their records together is faster."""
        indices = [check_index(index, len(self)) for index in indices]
        records = read_records(self._records, indices, self.info.name)
        return [self._decode(i, record) for i, record in zip(indices, records, strict=True)]

    def _decode(self, index: int, record: bytes) -> dict[str, Any]:
        features = _parse(record)
        name = f"example {index} of {self.info.name} {self.info.split}"
        if self._shape:
            image = _stored_image(features["image"], self._shape, name)
        else:
            file = _value(features["image"].bytes_list.value, name, "image")
            image = decoding.decode_image(file, name=name, min_side=self._min_side)
        if self._window:
            image = decoding.crop_window(image, self._window, name=name)
        image = decoding.resize_u8(image, self.info.image_size, self._resize)
        return {"image": image, "label": self._label(features, name)}

    def read_labels(self) -> np.ndarray:
        """Returns all labels, int32 [N]; reads every record, once (minutes, for a large dataset)."""
        return self._labels

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        labels = np.zeros(len(self), np.int32)
        if self._label_name:
            for index, features in enumerate(_read_all(self._records, self.info.name)):
                labels[index] = self._label(features, f"example {index} of {self.info.name}")
        labels.setflags(write=False)
        return labels

    def _label(self, features, name: str) -> int:
        if not self._label_name:
            return 0
        label = _value(features[self._label_name].int64_list.value, name, self._label_name)
        if label not in self._numbers:
            raise UserError(f"{name} has the label {label}, which is not one of the {len(self._numbers)} classes")
        return self._numbers[label]


def class_advice(name: str) -> str:
    """Returns what to do about a dataset with a single class.

    Args:
      name: name of the dataset.
    """
    return f"name the feature of {name} that is the label by data.label, such as attributes/Eyeglasses of celeb_a"


def read_records(records: Any, indices: Sequence[int], name: str) -> Sequence[bytes]:
    """Returns records of a dataset.

    Args:
      records: array_record data source to read from.
      indices: indices of the records.
      name: name of the dataset, for messages.

    Returns:
      The records, serialized protocol buffers, in the order of `indices`.

    Raises:
      UserError: a file that is missing or damaged.
    """
    try:
        values = records.__getitems__(indices)
    except (RuntimeError, ValueError, OSError) as error:  # array_record has no error of its own
        raise UserError(f"{name}: a record file is missing or damaged ({_reason(error)}); prepare it again") from None
    if not all(values):
        raise UserError(f"{name}: a record file is damaged, which has empty records; prepare it again")
    return values


def _value(values: Sequence, name: str, field: str) -> Any:
    """Returns the single value of a field of a record.

    Raises:
      UserError: no value, or several.
    """
    if len(values) != 1:
        raise UserError(f"{name} has {len(values)} values of {field!r}; expected one")
    return values[0]


def _stored_shape(name: str, features: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the shape of images that are stored as pixels; () for images that are stored as files.

    Raises:
      UserError: no images, or pixels other than uint8 [H, W, 3].
    """
    if "image" not in features:
        raise UserError(f"tfds:{name} has no feature 'image'; it has: {', '.join(sorted(features))}")
    feature = features["image"]
    if type(feature).__name__ == "Image":
        return ()
    shape, dtype = getattr(feature, "shape", None), np.dtype(getattr(feature, "np_dtype", object))
    if not (shape and len(shape) == 3 and all(shape) and shape[-1] in (1, 3) and dtype == np.uint8):
        raise UserError(
            f"tfds:{name} stores 'image' as {type(feature).__name__} of {dtype} {shape}; expected images, or uint8 "
            "tensors [H, W, 3]: prepare it again with tfds.features.Image"
        )
    return shape


def _stored_image(field: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Returns an image that is stored as pixels, as uint8 RGB."""
    pixels = np.array(field.int64_list.value, np.int64)
    if pixels.size != np.prod(shape) or pixels.min() < 0 or pixels.max() > 255:
        raise UserError(f"{name} has {pixels.size} pixel values of a tensor {shape}; prepare the dataset again")
    image = pixels.astype(np.uint8).reshape(shape)
    return image if shape[-1] == 3 else np.repeat(image, 3, axis=-1)


def _label_name(name: str, features: Mapping[str, Any], label: str) -> str:
    """Returns the name of the feature with the label, with a slash before each part of a nested one; empty for none.

    Raises:
      UserError: no such feature, or one that is not an integer.
    """
    if label == UNLABELED:
        return ""
    known = _flat(features)
    label_name = label or next((key for key in ("label", "labels") if key in known), None)
    if label and label not in known:
        raise unknown(f"label of tfds:{name}", label, known)
    if label_name is None:
        raise UserError(
            f"tfds:{name} has no feature 'label' or 'labels'; it has: {', '.join(sorted(known))}; name one by "
            f"data.label, or set data.label={UNLABELED} for images without labels"
        )
    feature = known[label_name]
    dtype = np.dtype(getattr(feature, "np_dtype", object))
    if getattr(feature, "shape", None) != () or dtype.kind not in "biu":
        raise UserError(
            f"tfds:{name} has {type(feature).__name__} as {label_name!r}; expected one integer or class an image"
        )
    return label_name


def _flat(features: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns features by name, those of nested features as "outer/inner", as records store them."""
    flat = {}
    for name, feature in features.items():
        nested = type(feature).__name__ == "FeaturesDict"
        flat |= _flat(feature, f"{prefix}{name}/") if nested else {f"{prefix}{name}": feature}
    return flat


def _classes(
    builder: Any, splits: Sequence[str], features: Mapping[str, Any], label_name: str
) -> tuple[dict[int, int], Sequence[str]]:
    """Returns stored label -> class number, and the names of the classes."""
    if not label_name:
        return {}, ["image"]
    label = _flat(features)[label_name]
    if getattr(label, "num_classes", None):
        return {number: number for number in range(len(label.names))}, label.names
    if np.dtype(label.np_dtype).kind == "b":
        attribute = label_name.rpartition("/")[2]
        return {0: 0, 1: 1}, [f"no {attribute}", attribute]
    numbers = _number_labels(builder, splits, label_name)
    return numbers, [str(number) for number in numbers]


def _number_labels(builder: Any, splits: Sequence[str], label_name: str) -> dict[int, int]:
    """Returns stored label -> class number, from 0 without gaps over all splits; reads every record."""
    import tensorflow_datasets as tfds

    raw, labels = tfds.decode.DeserializeMethod.RAW_BYTES, set()
    for split in splits:
        records = builder.as_data_source(split=split, deserialize_method=raw).data_source
        for features in _read_all(records, f"tfds:{builder.info.name}"):
            labels.update(features[label_name].int64_list.value[:1])
    return {label: number for number, label in enumerate(sorted(labels))}


def _read_all(records: Any, name: str) -> Iterator[Any]:
    """Yields the features of all records of a data source, in order."""
    for start in range(0, len(records), _BLOCK):
        indices = list(range(start, min(start + _BLOCK, len(records))))
        yield from map(_parse, read_records(records, indices, name))


def _parse(record: bytes):
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _open_builder(name: str, data_dir: str | os.PathLike | None):
    """Returns the builder of a prepared dataset.

    Raises:
      UserError: none of this name, version or config; the message says how to prepare it.
    """
    from etils import epath  # also reads gs:// and s3://
    from tensorflow_datasets.core import read_only_builder

    root = epath.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    advice = (
        f"looked in {root}; prepare it once with `tfds build {name} --file_format=array_record "
        f"--data_dir={root}` (that step alone needs tensorflow), or set data_dir"
    )
    datasets = sorted(p.name for p in root.iterdir() if _is_prepared(p)) if root.is_dir() else []
    own = re.split(r"[/:]", name)[0]
    if own not in datasets:
        folders = [root] * (root.name == own) + sorted(root.glob(f"*/{own}"))
        if place := next((folder.parent for folder in folders if _is_prepared(folder)), None):
            raise UserError(f"tfds:{name} is not in {root} but in {place}: set data_dir={place}")
        if not datasets:
            raise UserError(f"tfds:{name} is not on this machine: {advice}")
        raise UserError(f"{unknown('TFDS dataset', name, datasets)} ({advice})")
    try:
        return read_only_builder.builder_from_files(name, data_dir=str(root))
    except Exception:  # TFDS has no common error for a missing version or config
        folder = root / own
        prepared = [*folder.glob("*/dataset_info.json"), *folder.glob("*/*/dataset_info.json")]
        versions = ", ".join(sorted(str(p.parent.relative_to(root)) for p in prepared))
        raise UserError(f"tfds:{name} cannot be opened; found {versions} ({advice})") from None


def _is_prepared(folder) -> bool:
    return folder.is_dir() and (any(folder.glob("*/dataset_info.json")) or any(folder.glob("*/*/dataset_info.json")))


def _reason(error: Exception) -> str:
    """Returns the last line of a message of TFDS; the lines before it are context."""
    return (str(error).splitlines() or [type(error).__name__])[-1][:160]


def _parts(name: str, split: str, infos) -> tuple[tuple[str, int, int], ...]:
    """Returns the ranges of stored splits that a split consists of, as `SourceInfo.parts`.

    Raises:
      UserError: slices that cannot be parsed, that run backwards, or that are all empty.
    """
    from tensorflow_datasets.core import splits as tfds_splits

    try:
        parts = tfds_splits.AbstractSplit.from_spec(split).to_absolute(infos)
    except Exception as error:  # TFDS has no common error for them
        raise UserError(
            f"tfds:{name} cannot parse split {split!r} ({_reason(error)}); write it as in 'train' or 'train[:80%]'"
        ) from None
    parts = [(part.splitname, part.from_ or 0, part.to) for part in parts]
    parts = [(key, first, infos[key].num_examples if last is None else last) for key, first, last in parts]
    lengths = [last - first for _, first, last in parts]
    if min(lengths) < 0 or not sum(lengths):
        text = ", ".join(f"{first} to {last}" for _, first, last in parts)
        raise UserError(f"tfds:{name} split {split!r} has no example ({text}); take a larger slice")
    return tuple(parts)


def _check_split(name: str, split: str, splits: list[str]) -> None:
    for part in split.split("+"):
        base = part.split("[")[0].strip()
        if base not in splits and base != "all":
            first = splits[0] if splits else "train"
            raise UserError(
                f"tfds:{name} has no split {base!r}; it has: {', '.join(splits)}. "
                f"Name one, or a slice such as {first}[80%:] (and train on {first}[:80%])"
            )
