"""Descriptions of weight files and workdirs in words: the command `arinv info`.

Of a PyTorch checkpoint or a network of Caffe: format, tensors, what wraps the weights, the encoders of the table that
they fit, classes, normalization, and the command that imports it; of Caffe's mean image, the mean. Of a workdir: what
was trained there. Nothing in a file is executed.
"""

import math
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging

from arinv import models, zoo
from arinv.errors import MISTAKE, UserError, user_line
from arinv.experiment import checkpoint, loading, trained, workdirs
from arinv.models import caffe
from arinv.models.encoders.base import mean_std
from arinv.models.pytorch import recognition, weights
from arinv.models.pytorch.convert import class_names
from arinv.models.pytorch.files import TorchFile, open_torch
from arinv.models.pytorch.recognition import Fit
from arinv.paths import expanded
from arinv.zoo import cards

_USAGE = """usage: python -m arinv info PATH ...

Describes weight files (.pt, .pth, .safetensors, .caffemodel): format, tensors, what wraps the weights, the encoders
that they fit, classes, normalization, and the command that imports them; and workdirs of runs. Nothing in a file is
executed."""
_PARENT = ",encoder_checkpoint=WORKDIR_OF_ITS_ENCODER"


def main(argv: Sequence[str]) -> int:
    """Prints the descriptions of files and workdirs, and returns the exit code.

    Args:
      argv: paths, or --help.

    Returns:
      0; 2 where a path is missing, damaged or of another kind, with a line on stderr each, and without a path.
    """
    if {"--help", "-h", "-help"} & {*argv} or not argv:
        print(_USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else MISTAKE
    code = 0
    for path in argv:
        try:
            text = "\n".join(lines(path))
        except (UserError, OSError) as error:
            print(f"arinv: {user_line(error, path) or error}", file=sys.stderr)
            code = MISTAKE
        else:
            print(text)
    return code


def lines(path: str | pathlib.Path) -> list[str]:
    """Returns the description of a weight file, or of the workdir of a run or an experiment, in lines.

    Args:
      path: a .pt, .pth, .safetensors, .caffemodel or .binaryproto file, or the directory of a run.

    Returns:
      Lines of text.

    Raises:
      UserError: missing, damaged, or of another kind.
    """
    path = zoo.resolve(path) if zoo.is_reference(path) else expanded(path)
    if zoo.reference(path):
        return cards.card_text((path if path.is_dir() else path.parent).name).splitlines()
    if path.is_dir():
        return _workdir_lines(path)
    if path.suffix == caffe.MEAN_SUFFIX:
        return _mean_lines(path)
    with open_torch(path) as file:
        return _file_lines(file)


def fits(path: str | pathlib.Path) -> list[Fit]:
    """Returns the encoders that a file fits, as `recognition.recognize`; none of a file that cannot be read.

    Args:
      path: a weight file.
    """
    try:
        with open_torch(path) as file:
            return recognition.recognize(file)
    except UserError:
        return []


def arguments(fit: Fit) -> str:
    """Returns the arguments of configs/import_torch.py for an encoder, without the path.

    Args:
      fit: an encoder that a file fits.

    Returns:
      Text such as "encoder=alexnet_small,options=width:16".
    """
    options = dict(fit.options)
    depths = options.pop("depths", ())
    normalization = options.pop("normalization", "")
    own_size = models.build(fit.encoder).image_size
    parts = {
        "encoder": fit.encoder,
        "options": "+".join(f"{name}:{value}" for name, value in options.items()),
        "depths": "+".join(map(str, depths)),
        "normalization": normalization,
        "image_size": "" if fit.image_size == own_size else str(fit.image_size),
    }
    return ",".join(f"{name}={value}" for name, value in parts.items() if value)


def _file_lines(file: TorchFile) -> list[str]:
    tensors = weights.tensors(file)
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    rows = [("file", f"{file.path}, {file.form}"), ("tensors", f"{len(tensors)} with {numbers:,} numbers")]
    if recognized := recognition.recognize(file):
        return _format([*rows, *_encoder_rows(file, recognized)])
    if generator := _generator(file):
        encoder, layer, variant = generator
        rows.append(("network", f"the generator of {encoder} {layer}, variant {variant}"))
        return _format([*rows, _import_row(file, f"encoder={encoder},layer={layer},variant={variant}", _PARENT)])
    if recognition.is_denoiser(file):
        rows.append(("network", "a denoiser on alexnet"))
        return _format([*rows, _import_row(file, "encoder=alexnet,denoiser=true", _PARENT)])
    if nearest := recognition.explain(file):
        raise UserError(nearest)
    raise UserError(
        f"{file.path} fits no network of arinv: its tensors are {weights.abbreviate(tensors)}; encoders: "
        f"{', '.join(models.ENCODERS)}"
    )


def _generator(file: TorchFile) -> tuple[str, str, str] | None:
    """Returns encoder, layer and variant of the published generator that a file fits, or None."""
    if file.path.suffix != caffe.SUFFIX:
        return recognition.recognize_generator(file)
    for layer in ("conv5", "fc6", "fc8"):
        try:
            models.convert.load_caffe_generator(file.path, "caffenet", layer, variant="deepsim")
        except UserError:  # of another layer
            continue
        return "caffenet", layer, "deepsim"
    return None


def _mean_lines(path: pathlib.Path) -> list[str]:
    mean = "+".join(f"{value:.6g}" for value in caffe.read_mean(path))
    rows = [
        ("file", f"{path}, a mean image of Caffe"),
        ("mean", f"{mean}, of red, green and blue in [0, 1]"),
        ("import", f"with the network, add mean={mean},std=1/255+1/255+1/255"),
    ]
    return _format(rows)


def _encoder_rows(file: TorchFile, recognized: Sequence[Fit]) -> Iterator[tuple[str, str]]:
    fit = recognized[0]
    state_dict = fit.state_dict
    parameters = sum(math.prod(entry.shape) for entry in fit.entries if entry.path[0] == "params")
    yield "wrapped", _wrapping(state_dict)
    for other in recognized:
        options = f" with {_options(other.options)}" if other.options else ""
        yield "encoder", f"{other.encoder}{options}, {parameters:,} parameters"
    names = class_names(file, fit.num_classes)
    yield "classes", f"{fit.num_classes}{f': {weights.abbreviate(names)}' if names else ''}"
    in_file = weights.read_normalization(file, state_dict)
    if in_file:
        name = weights.name_normalization(in_file)
        normalization = name if isinstance(name, str) else "in the file"
        yield "normalization", f"{normalization}, mean {in_file.mean}, standard deviation {in_file.std}: in the file"
    else:
        name = fit.options.get("normalization", models.build(fit.encoder).normalization)
        mean, std = mean_std(name)
        yield (
            "normalization",
            f"{name}, mean {mean}, standard deviation {std}: assumed, as the file has none; if it was trained with "
            "another, add normalization= or mean= and std=",
        )
    unread = [name for name in weights.unread(state_dict, fit.entries) if not name.endswith("num_batches_tracked")]
    if unread := [*unread, *state_dict.others]:
        yield "not read", f"{len(unread)}: {weights.abbreviate(unread)}"
    is_refused = weights.difference(file, state_dict, fit.entries, on_unknown="error")
    yield _import_row(file, arguments(fit) + (",on_unknown=report" if is_refused else ""))


def _import_row(file: TorchFile, parts: str, parent: str = "") -> tuple[str, str]:
    """Returns the command that imports a file; its path is quoted for the config where it contains a comma."""
    path = str(file.path)
    path = f"'{path}'" if "," in path else path
    spec = shlex.quote(f"--config=configs/import_torch.py:{parts},path={path}{parent}")
    workdir = shlex.quote(f"--workdir={pathlib.PurePath('runs', file.path.stem)}")
    return "import", f"python -m arinv {spec} {workdir}"


def _options(options: Mapping[str, Any]) -> str:
    texts = {name: "+".join(map(str, x)) if isinstance(x, list | tuple) else x for name, x in options.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _wrapping(state_dict: weights.StateDict) -> str:
    place = f"under {state_dict.place!r}" if state_dict.place else "a state dict"
    if not state_dict.prefix:
        return place
    parts = state_dict.prefix.rstrip(".").split(".")
    origins = ["DataParallel" if parts[0] == "module" else ""]
    if any(name.removeprefix("module.").startswith("attacker.") for name in state_dict.outside):
        origins.append("AttackerModel of MadryLab's robustness")
    origin = " and ".join(filter(None, origins))
    return f"{place}, names begin with {state_dict.prefix!r}{f' ({origin})' if origin else ''}"


def _workdir_lines(path: pathlib.Path) -> list[str]:
    logging.set_verbosity(logging.FATAL)  # Orbax logs every read
    stages = sorted(child.parent for child in path.glob("*/config.json"))
    if not (path / "config.json").exists() and stages:
        rows = [("experiment", f"{path}, {len(stages)} stages")]
        for stage in stages:
            state = "complete" if workdirs.is_complete(stage) else "not complete"
            rows.append((stage.name, f"{workdirs.read_json(stage / 'config.json').get('task', '')}, {state}"))
        return _format(rows)
    description = checkpoint.load_description(path)
    network = loading.load(path)
    config = workdirs.read_json(path / "config.json") if (path / "config.json").exists() else {}
    state = "complete" if workdirs.is_complete(path) else "not complete"
    count = sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    rows = [("workdir", f"{path}, {state}"), ("kind", f"{network.kind}, {count:,} parameters")]
    has_encoder = network.kind not in (trained.GAN, trained.AUTOENCODER)
    encoder = network.encoder.description if has_encoder else {}
    rows.append(_encoder_row(encoder) if has_encoder else _networks_row(description[network.kind]))
    rows += [(name, str(description[name])) for name in ("layer", "variant") if name in description]
    rows.append(("image size", f"{description['image_size']} px"))
    if attack := encoder.get("attack"):
        eps, norm = attack.get("eps", 0.0), attack.get("norm", "")
        rows.append(("encoder's attack", f"{norm}, eps {eps:g}" if eps else "none"))
    if dataset := config.get("data", {}).get("name"):
        rows.append(("dataset", dataset))
    if length := config.get("num_steps") or config.get("num_epochs"):
        rows.append(("steps" if config.get("num_steps") else "epochs", f"{length:g}"))
    rows += [("fingerprint", network.fingerprint), ("load", f'arinv.load("{path}")')]
    return _format(rows)


def _encoder_row(encoder: Mapping[str, Any]) -> tuple[str, str]:
    options = f" with {_options(encoder['options'])}" if encoder["options"] else ""
    return "encoder", f"{encoder['encoder']}{options}, {encoder['num_classes']} classes"


def _networks_row(spec: Mapping[str, Any]) -> tuple[str, str]:
    options = {"latent_size": spec["latent_size"] or "as published", **spec.get("options", {})}
    return "networks", f"{spec['networks']} with {_options(options)}"


def _format(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {text}" for name, text in rows]
