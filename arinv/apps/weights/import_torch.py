"""Import of an encoder, a generator or a denoiser from a PyTorch or Caffe file into a workdir like that of a training.

Inverters can be trained on it and evaluations run on it. Nothing in the file is executed. The task reports on stderr
what it read, what it skipped, and which pixel normalization it assumes and why.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import models, parallel
from arinv.apps.weights import info
from arinv.errors import UserError, unknown
from arinv.experiment import descriptions, loading, trained, workdirs
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.experiment.trained import CLASSIFIER, DENOISER, GENERATOR, INVERTER, Trained
from arinv.models import caffe
from arinv.models.encoders.base import mean_std
from arinv.models.pytorch import recognition
from arinv.models.pytorch.weights import ON_UNKNOWN
from arinv.ops import norms
from arinv.types import Variables


def kind(config: ConfigDict) -> str:
    """Returns the kind of the network that a config imports."""
    if config.generator.layer:
        return INVERTER
    return DENOISER if config.denoiser.read else CLASSIFIER


def check(config: ConfigDict) -> None:
    """Checks everything that needs no file.

    Args:
      config: a config of configs/import_torch.py.

    Raises:
      UserError: no path, no encoder's workdir for a generator, or an unknown encoder, layer, option or norm.
    """
    if not config.path:
        raise UserError("path is empty; name a .pt, .pth, .safetensors or .caffemodel file")
    models.build(config.encoder.name, **config.encoder.options)
    norms.check_norm(config.attack.norm)
    if config.on_unknown not in ON_UNKNOWN:
        raise unknown("on_unknown", config.on_unknown, ON_UNKNOWN)
    generator, denoiser = config.generator, config.denoiser
    if generator.layer and denoiser.read:
        raise UserError(f"layer={generator.layer!r} and denoiser=true: import the generator or the denoiser")
    if generator.layer:
        models.build_generator(config.encoder.name, generator.layer, variant=generator.variant or "default")
    if denoiser.read:
        models.build_denoiser(config.encoder.name, pad_side=denoiser.pad_side)
    if (generator.layer or denoiser.read) and not config.encoder_checkpoint:
        raise UserError(
            "a generator or a denoiser needs its encoder: import that first, and name its workdir by "
            "encoder_checkpoint="
        )


def run(run: Run) -> dict[str, Any]:
    """Converts the file, saves a checkpoint in the workdir, and returns its description.

    Args:
      run: a run of configs/import_torch.py: a generator is imported where config.generator.layer is set, a denoiser
        where config.denoiser.read is, else an encoder.

    Returns:
      Results of the run: a description of the network.

    Raises:
      UserError: a file that is damaged, would run a program if PyTorch loaded it, or holds another network.
    """
    read, name = _read_encoder, CLASSIFIER
    if run.config.generator.layer:
        read, name = _read_generator, GENERATOR
    elif run.config.denoiser.read:
        read, name = _read_denoiser, GENERATOR
    description, variables, notes = read(run)
    run.begin()
    with Checkpoints(run.workdir, (name,), keep=1) as checkpoints:
        state = parallel.replicate(
            TrainState(jnp.zeros((), jnp.int32), {name: variables}, {name: {}}), parallel.make_mesh()
        )
        checkpoints.save(state, data_state={}, description=description, wait=True)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    results = {"description": description, "num_parameters": num_parameters, **notes}
    return run.finish(results)


def _read_encoder(run: Run) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns an encoder's description, its variables, and further fields of the results."""
    config = run.config
    path, name, options = pathlib.Path(config.path), config.encoder.name, config.encoder.options.to_dict()
    contents = models.convert.describe_torch(path, name, image_size=config.image_size, **options)
    stored, inferred = contents["normalization"], contents["options"]
    if inferred:
        _check_row(path, name, inferred)
        run.report(f"{path}: {', '.join(f'{option} {value}' for option, value in inferred.items())}: as in the file")
    assumed = inferred.pop("normalization", None)
    options, reason = _choose_normalization(config, {**options, **inferred}, stored, assumed)
    num_classes = config.num_classes or contents["num_classes"]
    try:
        variables = models.convert.load_torch(
            path,
            name,
            image_size=config.image_size,
            check_normalization=config.check_normalization,
            on_unknown=config.on_unknown,
            report=run.report,
            num_classes=num_classes,
            **options,
        )
    except UserError as error:
        fits = info.fits(path)
        if not fits or any(fit.encoder == name for fit in fits):
            raise
        raise UserError(f"{error}; the file has the weights of {info.arguments(fits[0])}") from error
    normalization = models.build(name, **options).normalization
    mean, std = mean_std(normalization)
    label = f"{normalization}, " if isinstance(normalization, str) else ""
    run.report(f"normalization of pixels: {label}mean {mean}, standard deviation {std}: {reason}")
    class_names = list(config.class_names) or contents["class_names"]
    if class_names and len(class_names) != num_classes:
        raise UserError(
            f"class_names has {len(class_names)} names; {path} has {num_classes} classes: name each of them"
        )
    description = {
        "kind": CLASSIFIER,
        "encoder": name,
        "options": options,
        "num_classes": num_classes,
        "class_names": class_names,  # empty if the file has none
        "image_size": config.image_size,
        "resize": config.resize,
        "attack": config.attack.to_dict(),
        "recipe": {"name": "imported", "file": path.name},
        "weights": CLASSIFIER,
    }
    notes = {"normalization_in_file": stored, "normalization_reason": reason, "unread": contents["unread"]}
    return description, variables, notes


def _choose_normalization(
    config: ConfigDict, options: dict[str, Any], stored: Any, assumed: Any
) -> tuple[dict[str, Any], str]:
    """Returns an encoder's options with the normalization of its pixels, and the reason for that.

    Args:
      config: config of the import.
      options: options of the encoder; their own normalization takes precedence.
      stored: normalization in the file; None for none.
      assumed: normalization of the files of this form; None for that of the encoder.
    """
    if "normalization" in options:
        return options, "as in the config; the file has " + ("none" if stored is None else str(stored))
    if stored is not None and config.check_normalization:
        return {**options, "normalization": stored}, "as in the file"
    reason = "the encoder's, as " + ("the file has none" if stored is None else "check_normalization is off")
    return {**options, "normalization": assumed} if assumed else options, reason


def _check_row(path: pathlib.Path, name: str, inferred: Mapping[str, Any]) -> None:
    """Checks that a file whose network differs from an encoder is not one that another row of the table has.

    Args:
      path: the file, for the message.
      name: name of the encoder.
      inferred: options of the file that differ from the encoder's.

    Raises:
      UserError: naming that row.
    """
    better = [fit for fit in info.fits(path) if fit.encoder != name and len(fit.options) < len(inferred)]
    if better and (not better[0].options or inferred.keys() & recognition.STRUCTURE):
        raise UserError(
            f"{path} has the weights of {better[0].encoder}, not of {name}: pass {info.arguments(better[0])}"
        )


def _read_generator(run: Run) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns an inverter's description, the generator's variables, and further fields of the results."""
    config, (source, encoder) = run.config, _load_encoder(run)
    variant = config.generator.variant or models.convert.generator_variant(config.path)
    description = {
        "kind": INVERTER,
        "encoder_workdir": workdirs.relative(source, run.workdir),
        "encoder": config.encoder.name,
        "layer": config.generator.layer,
        "variant": variant,
        "image_size": config.image_size,
        "loss": {"name": "imported", "file": pathlib.Path(config.path).name},
    }
    loading.build_generator(description, encoder, dtype=jnp.float32)  # raises where its images have another size
    place = (config.path, config.encoder.name, config.generator.layer)
    options = {"image_size": config.image_size, "variant": variant, "encoder_options": encoder.description["options"]}
    if pathlib.Path(config.path).suffix == caffe.SUFFIX:
        variables = models.convert.load_caffe_generator(*place, **options)
    else:
        variables = models.convert.load_torch_generator(
            *place, on_unknown=config.on_unknown, report=run.report, **options
        )
    return description, variables, descriptions.report_size(encoder.description, config.image_size, config.title)


def _read_denoiser(run: Run) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns a denoiser's description, its decoder's variables, and no further fields of the results.

    Raises:
      UserError: the file's encoder is not the one in the checkpoint.
    """
    config, (source, encoder) = run.config, _load_encoder(run)
    halves = models.convert.load_torch_denoiser(
        config.path, config.encoder.name, on_unknown=config.on_unknown, report=run.report
    )
    own = trained.convolutions(encoder.variables)
    if not _all_close(own["params"], halves["encoder"]["params"]):
        raise UserError(
            f"{config.path} has other convolutions than the encoder in {source}; import the encoder that this denoiser "
            "was trained on first, and name its workdir by encoder_checkpoint="
        )
    description = {
        "kind": DENOISER,
        "encoder_workdir": workdirs.relative(source, run.workdir),
        descriptions.WEIGHTS: encoder.fingerprint,
        "encoder": config.encoder.name,
        "variant": "default",
        "pad_side": config.denoiser.pad_side,
        "image_size": config.image_size,
        "noise": {},  # of its training, which the file does not hold
        "loss": {"name": "imported", "file": pathlib.Path(config.path).name},
    }
    return description, halves["decoder"], {}


def _load_encoder(run: Run) -> tuple[pathlib.Path, Trained]:
    """Returns the workdir of config.encoder_checkpoint and the encoder in it."""
    source = run.resolve(run.config.encoder_checkpoint)
    encoder = run.load(run.config.encoder_checkpoint, kind=CLASSIFIER)
    descriptions.check_encoder(encoder.description, run.config.encoder.name, source)
    return source, encoder


def _all_close(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Returns whether weights are equal to half precision."""
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=1e-2, atol=1e-4)), own, other))
