"""Small TFDS datasets in array_record files, written without TensorFlow."""

import io
import json

import numpy as np
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

_PACKAGE = "tensorflow_datasets.core.features"


def picture(index):
    return np.full((6, 8, 3), index * 20, np.uint8)


LABEL = {"pythonClassName": f"{_PACKAGE}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "3"}}
IMAGE = {
    "pythonClassName": f"{_PACKAGE}.image_feature.Image",
    "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8"},
}


def tensor_feature(*shape, dtype):
    dimensions = {"dimensions": [str(side) for side in shape]} if shape else {}
    return {
        "pythonClassName": f"{_PACKAGE}.tensor_feature.Tensor",
        "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"},
    }


def png(index):
    buffer = io.BytesIO()
    Image.fromarray(picture(index)).save(buffer, "PNG")
    return buffer.getvalue()


def prepare(root, name, features, write, count=10, splits=("train",)):
    """Leaves a prepared set: `write` fills the features of an example, by its number."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    facts = []
    for split in splits:
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for index in range(count):
            example = tf_example_pb2.Example()
            write(example.features.feature, index)
            writer.write(example.SerializeToString())
        writer.close()
        fact = {"name": split, "numBytes": "1000", "shardLengths": [str(count)]}
        facts.append(fact | {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": facts}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    tree = {"pythonClassName": f"{_PACKAGE}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(tree))
    return folder


def prepare_faces(root, name, png_of, count=10, splits=("train",)):
    """Leaves a set with the features of celeb_a, and eyeglasses in every second image."""

    def write(fields, index):
        fields["image"].bytes_list.value.append(png_of(index))
        fields["attributes/Eyeglasses"].int64_list.value.append(index % 2)
        fields["attributes/Smiling"].int64_list.value.append(0)

    attributes = {attribute: tensor_feature(dtype="bool") for attribute in ("Eyeglasses", "Smiling")}
    nested = {"pythonClassName": f"{_PACKAGE}.features_dict.FeaturesDict", "featuresDict": {"features": attributes}}
    return prepare(root, name, {"image": IMAGE, "attributes": nested}, write, count, splits)
