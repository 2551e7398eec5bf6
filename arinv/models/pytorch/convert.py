"""Import and export of weights in PyTorch's formats, without PyTorch.

Reads .pt and .pth of torch.save (the zip and the older format) and .safetensors with the names of torchvision,
MadryLab's robustness library, TRADES, GAIRAT, RobustBench and DeepMind (wide ResNets, PreActResNets), Adv-BNN (VGG-16)
and the released code of Rojas-Gomez et al. 2022 (encoder, generator, discriminator, denoiser). Nothing in a file is
executed. Writes .safetensors that PyTorch loads, with torchvision's names where torchvision has the network.

Everything in the network must be in the file, and everything in the file must be used or on a list of extras: counts
of batches and of averaged models, losses, metrics, optimizers, networks beside the one that is read, and `sub_block1`
of the wide ResNets, which no forward pass uses. A mismatch shows both sides; on_unknown="report" skips tensors that
are only in the file. `describe_torch` lists all tensors that are not read. Of several state dicts that fit, the one
nearest to the top and there at a usual place ("model", "state_dict", ...) is read; two at unusual places are an error.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from arinv.errors import UserError, unknown
from arinv.models import caffe
from arinv.models.encoders.base import mean_std
from arinv.models.pytorch import recognition, weights
from arinv.models.pytorch.files import TorchFile, open_torch
from arinv.models.pytorch.names import (
    Entry,
    denoiser_entries,
    discriminator_entries,
    encoder_entries,
    generator_entries,
    generator_shapes,
    to_torch,
)
from arinv.models.pytorch.weights import StateDict, abbreviate
from arinv.paths import expanded
from arinv.types import Variables

Report = Callable[[str], None]


def load_torch(
    path: str | pathlib.Path,
    encoder: str,
    *,
    image_size: int | None = None,
    check_normalization: bool = True,
    on_unknown: str = "error",
    report: Report | None = None,
    **options,
) -> Variables:
    """Returns an encoder's variables from a PyTorch checkpoint.

    Args:
      path: a .pt, .pth or .safetensors file; it may hold the weights alone, or under "model", "state_dict" or the
        like, also in dictionaries of dictionaries, their names with any prefix.
      encoder: name of the encoder, a key of ENCODERS.
      image_size: side of the images in pixels, where the shape of a weight depends on it; None for the encoder's own.
      check_normalization: whether the file's pixel normalization, if it has one, must be the encoder's. The released
        generators of Rojas-Gomez et al. 2022 belong to an encoder with normalization="pm1", which is not that of its
        training.
      on_unknown: "error" raises for tensors that are neither in the network nor on the list of extras; "report"
        skips them, and `describe_torch` lists them.
      report: called with a line on the tensors that were read, and one on the others.
      **options: options of `build`, such as num_classes; normalization may be the one that `describe_torch` returns.

    Returns:
      {"params": ..., "batch_stats": ...} in float32, for `build(encoder, **options).apply`.

    Raises:
      UserError: a missing or damaged file, one that would run a program if PyTorch loaded it (nothing is run),
        weights that do not fit the encoder (both sides are shown), or another pixel normalization than the encoder's.

    Source: torchvision; Engstrom et al. 2019 (robustness); Croce et al. 2021 (RobustBench).
    """
    module, entries = encoder_entries(encoder, image_size, options)
    with open_torch(path) as file:
        what = f"encoder {encoder!r} of {module.num_classes} classes"
        variables, state_dict = _convert(file, entries, what, on_unknown=on_unknown, report=report)
        if check_normalization:
            weights.check_normalization(file, state_dict, module.normalization)
    return variables


def load_torch_generator(
    path: str | pathlib.Path,
    encoder: str,
    layer: str,
    *,
    on_unknown: str = "error",
    report: Report | None = None,
    **options,
) -> Variables:
    """Returns a generator's variables from a checkpoint of the released code.

    Args:
      path: as for `load_torch`; an autoencoder (generator.gen.0.weight_orig) or its generator alone.
      encoder: name of the encoder whose feature it inverts.
      layer: name of the feature it inverts.
      on_unknown: as for `load_torch`.
      report: as for `load_torch`.
      **options: options of `build_generator`. The released `conv5_tconv` is AlexNet's default, `conv5_interp` its
        variant "interpolation"; weights without spectral normalization need spectral_norm=False.

    Returns:
      {"params": ..., "batch_stats": ..., "spectral": ...} in float32.

    Raises:
      UserError: as for `load_torch`.

    Source: Rojas-Gomez et al. 2022, released code.
    """
    entries = generator_entries(encoder, layer, options)
    with open_torch(path) as file:
        what = f"the generator of {encoder} {layer}"
        return _convert(file, entries, what, on_unknown=on_unknown, report=report)[0]


def load_caffe_generator(path: str | pathlib.Path, encoder: str, layer: str, **options) -> Variables:
    """Returns the variables of one of DeePSiM's generators from a .caffemodel file.

    Layers are matched by their order, not by name. Caffe's images are BGR in 0..255 minus the mean and ours RGB in
    [0, 1]: the last layer is divided by 255 and its channels are reversed. Outputs of a dense layer before a map are
    reordered from channels first to channels last.

    Args:
      path: a .caffemodel file.
      encoder: name of the encoder whose feature it inverts.
      layer: name of the feature it inverts.
      **options: options of `build_generator`, with variant="deepsim".

    Returns:
      {"params": ...} in float32.

    Raises:
      UserError: a missing or damaged file, another number of layers or other shapes, or weights that are not finite.

    Source: Dosovitskiy & Brox 2016b, released weights; Caffe's layouts.
    """
    module, shapes = generator_shapes(encoder, layer, options)
    plan = module.plan
    if plan.streams or plan.batch_norm:
        raise UserError(
            f"generator {options.get('variant', 'default')!r} was not published for Caffe; take variant=deepsim"
        )
    steps = {**{f"{step.kind}{i}": step for i, step in enumerate(plan.steps)}, "rgb": plan.last}
    params = {}
    for (name, step), stored in zip(steps.items(), caffe.weighted(path, len(steps)), strict=True):
        kernel, bias = caffe.kernel_and_bias(stored, step, path)
        if name == "rgb":
            kernel, bias = kernel[..., ::-1] / 255, bias[::-1] / 255
        params[name] = {"kernel": kernel, "bias": bias}
        expected = shapes["params"][name]
        if "bias" not in expected:
            if bias.any():
                raise UserError(f"{path} has a bias in layer {stored.name}, where the network has none")
            del params[name]["bias"]
        for part, array in params[name].items():
            if array.shape != expected[part].shape:
                raise UserError(
                    f"{path} has a {part} of shape {array.shape} in layer {stored.name}, the network {name} of "
                    f"{expected[part].shape}"
                )
            if not np.isfinite(array).all():
                raise UserError(f"{path} has NaN or infinity in layer {stored.name}; take another file")
            params[name][part] = np.ascontiguousarray(array, np.float32)
    return {"params": params}


def generator_variant(path: str | pathlib.Path) -> str:
    """Returns the variant of a generator: that which `export_generator_safetensors` wrote, or Caffe's; else "default".

    Args:
      path: as for `load_torch`.

    Returns:
      Name of a variant of `build_generator`.

    Raises:
      UserError: as for `load_torch`.
    """
    if pathlib.Path(path).suffix == caffe.SUFFIX:
        return "deepsim"
    with open_torch(path) as file:
        return file.metadata.get("variant", "default")


def load_torch_discriminator(
    path: str | pathlib.Path,
    encoder: str = "alexnet",
    layer: str = "conv5",
    *,
    image_size: int | None = None,
    on_unknown: str = "error",
    report: Report | None = None,
    **options,
) -> Variables:
    """Returns a discriminator's variables from a checkpoint of the released code.

    Args:
      path: as for `load_torch`; the released code keeps it in the generator's file.
      encoder: name of the encoder of its features.
      layer: name of that feature.
      image_size: side of the images in pixels; None for the encoder's own.
      on_unknown: as for `load_torch`.
      report: as for `load_torch`.
      **options: attributes of Discriminator, and encoder_options.

    Returns:
      {"params": ..., "spectral": ...} in float32.

    Raises:
      UserError: as for `load_torch`.

    Source: Rojas-Gomez et al. 2022, released code.
    """
    entries = discriminator_entries(encoder, layer, image_size, options)
    with open_torch(path) as file:
        what = f"the discriminator of {encoder} {layer}"
        return _convert(file, entries, what, on_unknown=on_unknown, report=report)[0]


def load_torch_denoiser(
    path: str | pathlib.Path,
    encoder: str = "alexnet",
    *,
    on_unknown: str = "error",
    report: Report | None = None,
    **options,
) -> dict[str, Variables]:
    """Returns the variables of a denoiser's two halves from a checkpoint of the released code.

    The names, as in models/alexnet_skip.py of github.com/renanrojasg/adv_robust_autoencoder at b9ad0c8: in
    `classifier` the convolutions conv1_1, conv2_1, conv3_1, conv3_2 and conv3_3, and in `generator`, of
    upsample_mode="conv5_interp", conv7_1, conv6_1, conv5_1, conv5_2, conv4_1, conv4_2, conv3_1, conv2, conv2_1 and
    conv1, with a normalization bn7_1, ..., bn1 after each, then conv1_1. The constant kernels of the Haar transform
    (pool1.LL to unpool3.HH) are not read.

    Args:
      path: as for `load_torch`.
      encoder: name of the encoder whose convolutions the first half has.
      on_unknown: as for `load_torch`.
      report: as for `load_torch`.
      **options: options of `build_denoiser`; weights without spectral normalization need spectral_norm=False.

    Returns:
      {"encoder": {"params": ...}, "decoder": {"params": ..., "batch_stats": ..., "spectral": ...}} in float32, for
      the modules of `build_denoiser`.

    Raises:
      UserError: as for `load_torch`, or variant="table_a9", which the released code does not have.

    Source: Rojas-Gomez et al. 2022, released code.
    """
    halves = denoiser_entries(encoder, options)
    with open_torch(path) as file:
        return {
            half: _convert(file, entries, f"the denoiser's {half}", on_unknown=on_unknown, report=report)[0]
            for half, entries in halves.items()
        }


def describe_torch(
    path: str | pathlib.Path, encoder: str, *, image_size: int | None = None, **options
) -> dict[str, Any]:
    """Returns the metadata of a PyTorch checkpoint of an encoder.

    Args:
      path: as for `load_torch`.
      encoder: name of the encoder, a key of ENCODERS.
      image_size: as for `load_torch`.
      **options: options of `build`.

    Returns:
      {"num_classes": length of the logits, None if the last layer is missing; "options": options of `build` that the
      names and shapes show and that differ from the encoder's, such as depth and width, without those given;
      "class_names": list, empty if the file has none; "normalization": pixel normalization, a name or (mean, standard
      deviation), None if the file has none; "unread": names of tensors that are not read, and of entries of the file
      with other weights of such a network}.

    Raises:
      UserError: a missing or damaged file, one that would run a program if PyTorch loaded it, or one with several
        networks that fit equally well.
    """
    module, entries = encoder_entries(encoder, image_size, options)
    with open_torch(path) as file:
        state_dict = weights.locate(file, entries)
        differing = recognition.differences(module, state_dict, given=options)
        if differing:
            _, entries = encoder_entries(encoder, image_size, {**options, **differing})
        normalization = weights.read_normalization(file, state_dict)
        num_classes = recognition.num_classes(entries[-1].layer, state_dict)
        return {
            "num_classes": num_classes,
            "options": differing,
            "class_names": class_names(file, num_classes),
            "normalization": weights.name_normalization(normalization) if normalization else None,
            "unread": [*weights.unread(state_dict, entries), *state_dict.others],
        }


def export_safetensors(
    path: str | pathlib.Path,
    encoder: str,
    variables: Variables,
    *,
    image_size: int | None = None,
    class_names: Sequence[str] = (),
    **options,
) -> None:
    """Writes an encoder with torchvision's names, or with its origin's where torchvision has no such network.

    Args:
      path: the .safetensors file to write; replaced if it exists.
      encoder: name of the encoder, a key of ENCODERS.
      variables: variables of the encoder, as `load_torch` returns them.
      image_size: side of the images in pixels, where the shape of a weight depends on it; None for the encoder's own.
      class_names: names of the classes, stored in the file's header.
      **options: options of `build`.

    Raises:
      UserError: variables of another network (both sides are shown), or a path that cannot be written.
    """
    module, entries = encoder_entries(encoder, image_size, options)
    mean, std = mean_std(module.normalization)
    metadata = {"encoder": encoder, "mean": json.dumps(mean), "std": json.dumps(std)}
    if class_names:
        metadata["class_names"] = json.dumps(list(class_names))
    _write(path, variables, entries, metadata, f"encoder {encoder!r} of {module.num_classes} classes")


def export_generator_safetensors(
    path: str | pathlib.Path, encoder: str, layer: str, variables: Variables, **options
) -> None:
    """Writes a generator with the names of the released code of Rojas-Gomez et al. 2022.

    Args:
      path: the .safetensors file to write; replaced if it exists.
      encoder: name of the encoder whose feature it inverts.
      layer: name of the feature it inverts.
      variables: variables of the generator, as `load_torch_generator` returns them.
      **options: options of `build_generator`.

    Raises:
      UserError: as for `export_safetensors`.
    """
    entries = generator_entries(encoder, layer, options)
    metadata = {"encoder": encoder, "layer": layer, "variant": options.get("variant", "default")}
    _write(path, variables, entries, metadata, f"the generator of {encoder} {layer}")


LPIPS_VARIANTS = ("alex", "vgg")
_NUM_LAYERS = 5


def load_lpips_heads(variant: str) -> tuple[np.ndarray, ...]:
    """Returns the weights of the channels of each layer of LPIPS.

    Args:
      variant: "alex" or "vgg".

    Returns:
      For each of five layers float32 [K], 0 or more.

    Raises:
      UserError: unknown variant, the package lpips is not installed, or its file has other contents.
    """
    if variant not in LPIPS_VARIANTS:
        raise unknown("variant of LPIPS", variant, LPIPS_VARIANTS)
    package = importlib.util.find_spec("lpips")  # locates the package without running it
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "LPIPS needs the weights in the package lpips, which is not installed; "
            'pip install "arinv[lpips]", or measure robust_lpips, which needs none'
        )
    path = pathlib.Path(next(iter(package.submodule_search_locations))) / "weights" / "v0.1" / f"{variant}.pth"
    names = [f"lin{i}.model.1.weight" for i in range(_NUM_LAYERS)]
    with open_torch(path) as file:
        shapes = {name: tuple(getattr(tensor, "shape", ())) for name, tensor in file.content.items()}
        if sorted(shapes) != names or any(shape[:1] + shape[2:] != (1, 1, 1) for shape in shapes.values()):
            raise UserError(f"{path} should hold {', '.join(names)}, each (1, K, 1, 1), but holds {shapes}")
        return tuple(file.array(file.content[name]).astype(np.float32).reshape(-1) for name in names)


def _convert(
    file: TorchFile, entries: Sequence[Entry], what: str, *, on_unknown: str, report: Report | None
) -> tuple[Variables, StateDict]:
    """Returns a network's variables and their state dict, and reports which tensors were read."""
    state_dict = weights.locate(file, entries)
    variables = weights.convert(file, state_dict, entries, what=what, on_unknown=on_unknown)
    if report:
        num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        place = f" under {state_dict.place!r}" if state_dict.place else ""
        place += f" whose names begin with {state_dict.prefix!r}" if state_dict.prefix else ""
        report(f"{file.path}: {what}, {num_parameters:,} parameters, from {len(entries)} tensors{place}")
        ignored = [*weights.unread(state_dict, entries), *state_dict.others]
        if ignored := [name for name in ignored if not name.endswith("num_batches_tracked")]:
            report(f"{file.path}: {len(ignored)} not read: {weights.abbreviate(ignored)}")
    return jax.tree.map(jnp.asarray, variables), state_dict


_CLASS_NAMES = ("class_names", "classes")  # entries of a file that list them


def class_names(file: TorchFile, num_classes: int | None) -> list[str]:
    """Returns the class names of a file; an empty list if it has none that fit.

    Args:
      file: an open checkpoint, from `open_torch`.
      num_classes: expected number of names.
    """
    places = dict(file.content) if isinstance(file.content, dict) else {}
    if "class_names" in file.metadata:
        with contextlib.suppress(ValueError):
            places = {"class_names": json.loads(file.metadata["class_names"])}
    numbers = places.get("class_to_idx")
    if isinstance(numbers, dict) and all(isinstance(number, int) for number in numbers.values()):
        if sorted(numbers.values()) == list(range(len(numbers))):
            places["classes"] = sorted(numbers, key=numbers.__getitem__)
    for place in _CLASS_NAMES:
        names = places.get(place)
        is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if is_list and len(names) == num_classes:
            return list(names)
    return []


def _write(path, variables: Variables, entries: Sequence[Entry], metadata: Mapping[str, str], what: str) -> None:
    flat = traverse_util.flatten_dict(dict(variables))
    _check(flat, entries, what)
    arrays = {}
    for entry in entries:
        array = np.asarray(jax.device_get(flat[entry.path]), np.float32)
        arrays[entry.names[0]] = np.ascontiguousarray(to_torch(entry, array))
        if entry.path[0] == "batch_stats":  # PyTorch counts batches
            arrays[f"{entry.names[0].rpartition('.')[0]}.num_batches_tracked"] = np.zeros((), np.int64)
    path = expanded(path)
    temporary = path.with_name(f".tmp-{os.urandom(6).hex()}")
    try:
        safetensors.numpy.save_file(arrays, temporary, {"format": "pt", **metadata})
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error}") from error


def _check(flat: Mapping[tuple[str, ...], object], entries: Sequence[Entry], what: str) -> None:
    """Checks the names and shapes of variables against those of the network."""
    shapes = {entry.path: entry.shape for entry in entries}
    differences = [
        f"{'/'.join(name)}: {getattr(flat.get(name), 'shape', 'none')} in the variables, {shapes.get(name, 'none')} in "
        "the network"
        for name in sorted({*shapes, *flat})
        if name not in flat or name not in shapes or tuple(flat[name].shape) != shapes[name]
    ]
    if differences:
        raise UserError(f"these variables do not fit {what}; {abbreviate(differences, separator='; ')}")
