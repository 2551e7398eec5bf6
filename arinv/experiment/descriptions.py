"""Descriptions of trained networks, and checks that a network fits a config, images or classes.

A description is plain JSON saved in every checkpoint: "kind", "image_size", "resize" and whatever else the network is
rebuilt from: of a classifier "encoder", "num_classes" and "class_names", of a network trained on a classifier "encoder"
and the fingerprint of the classifier's weights (`WEIGHTS`), of a GAN or an autoencoder "gan" or "autoencoder".
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from arinv import data, distributed
from arinv.errors import UserError

WEIGHTS = "encoder_weights"

_NETWORKS = {"encoder": str, "image_size": int, "variant": str}
_FIELDS = {  # kind -> what its networks cannot be rebuilt without
    "classifier": {"encoder": str, "options": dict, "num_classes": int, "class_names": list, "image_size": int},
    "inverter": {**_NETWORKS, "layer": str},
    "denoiser": {**_NETWORKS, "pad_side": str},
    "autoencoder": {"autoencoder": dict, "image_size": int},
    "gan": {"gan": dict, "image_size": int},
}
_OPTIONAL = {"attack": dict, "recipe": dict, "resize": str, "variant": str, "weights": str}


class OtherSize(UserError):
    """A network applied to images of another size than it was trained on."""


def check_fields(description: Any, place: pathlib.Path) -> dict[str, Any]:
    """Returns a description that was read, if a network can be rebuilt from it.

    Args:
      description: as it was read.
      place: where, for the message.

    Raises:
      UserError: it does not describe a network, or lacks a field.
    """
    kind = description.get("kind") if isinstance(description, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise UserError(
            f"{place} holds no trained network of arinv; configs/import_torch.py:path=FILE reads PyTorch's weights"
        )
    fields = dict(_FIELDS[kind])
    if kind in ("inverter", "denoiser") and not description.get("initial"):
        fields["encoder_workdir"] = str
    fields |= {name: form for name, form in _OPTIONAL.items() if description.get(name) is not None}
    for name, form in fields.items():
        value = description.get(name)
        if type(value) is not form or (name == "image_size" and value < 1):
            problem = f"lacks {name}" if name not in description else f"has {name}={value!r}"
            raise UserError(f"the description of the {kind} in {place} {problem}; write it again with this version")
    return description


def article(kind: Any) -> str:
    """Returns a kind of network with its indefinite article."""
    return f"{'an' if str(kind)[:1] in 'aeiou' else 'a'} {kind}"


def check_encoder(description: Mapping[str, Any], encoder: str, place: str | pathlib.Path) -> None:
    """Checks that a classifier has the architecture that a config names.

    Args:
      description: description of the classifier.
      encoder: name in the config.
      place: path of the checkpoint, for the message.

    Raises:
      UserError: it has another architecture.
    """
    if description["encoder"] != encoder:
        raise UserError(
            f"{place} is of another model: encoder is {description['encoder']!r} there, {encoder!r} in the config"
        )


def check_weights(description: Mapping[str, Any], weights: str | None, place: pathlib.Path) -> None:
    """Checks that an encoder is the one that a network was trained on, where its fingerprint was recorded.

    Args:
      description: description of the network.
      weights: fingerprint of the encoder's variables.
      place: path of the network's checkpoint, for the message.

    Raises:
      UserError: the encoder has other weights.
    """
    recorded = description.get(WEIGHTS)
    if recorded and weights and recorded != weights:
        raise UserError(
            f"{place} was trained on an encoder of weights {recorded}, but the encoder there now has weights "
            f"{weights}; restore the first, or train again in another directory"
        )


def check_resumed(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Checks that a training resumes on data with the classes that it began with.

    Args:
      saved: description in its checkpoint.
      current: its description now.
      workdir: directory of the training, for the message.

    Raises:
      UserError: the data has other classes.
    """
    for name in ("num_classes", "class_names"):
        if name in saved and saved[name] != current.get(name):
            raise UserError(
                f"{workdir} began its training with {name}={saved[name]}, and the data now has {current.get(name)}; "
                "restore the data, or train again in another directory"
            )


def check_trained_size(
    description: Mapping[str, Any], image_size: int, place: pathlib.Path | str, *, verb: str = "was"
) -> None:
    """Checks that a network is applied to the image size that it was trained on; most run on others, but do worse.

    Args:
      description: description of the network.
      image_size: side of the images, in pixels.
      place: path of the checkpoint, for the message.
      verb: "is" for a network that is not trained yet.

    Raises:
      OtherSize: the sizes differ.
    """
    trained_size = description["image_size"]
    if trained_size != image_size:
        raise OtherSize(
            f"{place} {verb} trained on images of {trained_size} px, but data.image_size is {image_size}; set "
            f"image_size={trained_size}"
        )


def report_size(description: Mapping[str, Any], image_size: int, title: str) -> dict[str, int]:
    """Prints that an encoder is applied to another image size than it was trained on; returns that as results.

    Args:
      description: description of the encoder.
      image_size: side of the images, in pixels.
      title: title of the task.

    Returns:
      {"encoder_image_size": the size it was trained on}; empty where the sizes are equal.
    """
    trained_size = description["image_size"]
    if trained_size == image_size:
        return {}
    distributed.report(
        f"{title}: the encoder was trained on images of {trained_size} px and is applied to {image_size} px"
    )
    return {"encoder_image_size": trained_size}


def resize_of(config: Any, description: Mapping[str, Any]) -> str:
    """Returns how an evaluation resizes images: data.resize, or where that is empty as in the network's training.

    Args:
      config: config of the evaluation.
      description: description of the network.
    """
    return config.data.resize or description.get("resize", "squash")


def check_classes(description: Mapping[str, Any], info: data.SourceInfo) -> None:
    """Checks that a dataset has the classes that a classifier was trained on.

    Raises:
      UserError: it has others, or another number of them.
    """
    if difference := class_difference(description, info):
        raise UserError(f"{difference}; evaluate it on data with the same classes")


def class_difference(description: Mapping[str, Any], info: data.SourceInfo) -> str:
    """Returns how the classes of a dataset differ from those that a classifier was trained on; empty if equal.

    Of a dataset that numbers its classes, as archives do, and of an encoder without names only their number counts.
    """
    classes, trained_classes = list(info.class_names), list(description["class_names"])
    if trained_classes and classes != trained_classes and not _are_numbers(classes):
        return f"{info.name} has classes {classes[:5]}..., but the checkpoint was trained on {trained_classes[:5]}..."
    num_classes = description["num_classes"]
    if len(classes) != num_classes:
        return f"{info.name} has {len(classes)} classes, but the checkpoint was trained on {num_classes}"
    return ""


def assumed_classes(description: Mapping[str, Any], info: data.SourceInfo) -> str:
    """Returns a line where a dataset numbers the classes that an encoder names; empty for any other dataset."""
    names = list(description["class_names"])
    if names in ([], list(info.class_names)) or not _are_numbers(info.class_names):
        return ""
    listed = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    return f"{info.name} numbers its classes, which are taken to be those of the encoder in its order: {listed}"


def shared_classes(description: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Returns those of a dataset's classes that a classifier was trained on, by their names in the dataset."""
    trained_classes = description["class_names"]
    if trained_classes and _are_numbers(names) and len(names) == description["num_classes"]:
        return list(names)
    return sorted({*names} & {*trained_classes})


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name == str(i) for i, name in enumerate(names))


def attack_difference(description: Mapping[str, Any], *, eps: float, norm: str) -> str:
    """Returns how an evaluation's attack differs from that of an encoder's training, since both are fields of configs.

    Args:
      description: description of the encoder.
      eps: radius of the evaluation, 0 for none.
      norm: norm of the radius.

    Returns:
      A line; empty if they are the same, or one of them is without attack.
    """
    trained = description.get("attack") or {}
    trained_eps, trained_norm = trained.get("eps", 0.0), trained.get("norm", norm)
    if not (eps and trained_eps) or (math.isclose(eps, trained_eps, rel_tol=1e-6) and norm == trained_norm):
        return ""
    return (
        f"the encoder was trained with {trained_norm} eps {trained_eps:.5g} and is attacked with {norm} eps {eps:.5g}"
    )
