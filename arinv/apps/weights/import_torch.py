"""Takes an encoder, a generator or a denoiser from a PyTorch checkpoint into a directory like a training's.

So inverters can be trained on it and evaluations run on it. Nothing in the file is executed. What was read, which pixel
normalisation is assumed and why, and what was not read is reported on stderr.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import models, parallel
from arinv.errors import UserError, unknown
from arinv.experiment import descriptions, trained, workdirs
from arinv.experiment.cache import fingerprint
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.experiment.trained import CLASSIFIER, GENERATOR, Trained
from arinv.models.layers import mean_std
from arinv.models.pytorch.weights import ON_UNKNOWN
from arinv.ops import norms
from arinv.types import Variables


def check(config: ConfigDict) -> None:
    """Checks all that can be seen without reading the file.

    Raises:
      UserError: no path, an unknown encoder, layer, option or norm.
    """
    if not config.path:
        raise UserError("path is empty; name a .pt, .pth or .safetensors file")
    models.build(config.encoder.name, **config.encoder.options)
    norms.check_norm(config.attack.norm)
    if config.on_unknown not in ON_UNKNOWN:
        raise unknown("on_unknown", config.on_unknown, ON_UNKNOWN)
    generator, denoiser = config.generator, config.denoiser
    if generator.layer and denoiser.read:
        raise UserError(f"layer={generator.layer!r} and denoiser=true: import the generator or the denoiser")
    if generator.layer:
        models.build_generator(config.encoder.name, generator.layer, variant=generator.variant)
    if denoiser.read:
        models.build_denoiser(config.encoder.name, pad_side=denoiser.pad_side)
    if (generator.layer or denoiser.read) and not config.encoder_checkpoint:
        raise UserError(
            "a generator or a denoiser needs its encoder: import that first, and name its workdir in checkpoint"
        )


def run(run: Run) -> dict[str, Any]:
    """Converts the file, saves a checkpoint in `workdir`, and returns what was found.

    Args:
      run: of configs/import_torch.py; a generator where config.generator.layer is set, a denoiser where
        config.denoiser.read is, else an encoder.

    Raises:
      UserError: a file that is damaged, would run a program if PyTorch loaded it, or holds another network.
    """
    config, workdir = run.config, run.workdir
    read, name = _encoder, CLASSIFIER
    if config.generator.layer:
        read, name = _generator, GENERATOR
    elif config.denoiser.read:
        read, name = _denoiser, GENERATOR
    description, variables, notes = read(config, workdir)
    run.begin()
    with Checkpoints(workdir, (name,), keep=1) as checkpoints:
        state = parallel.replicate(
            TrainState(jnp.zeros((), jnp.int32), {name: variables}, {name: {}}), parallel.make_mesh()
        )
        checkpoints.save(state, data_state={}, description=description, wait=True)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    results = {"description": description, "num_parameters": num_parameters, **notes}
    return run.finish(results)


def _report(line: str) -> None:
    if jax.process_index() == 0:
        print(f"import: {line}", file=sys.stderr, flush=True)


def _encoder(config: ConfigDict, _: pathlib.Path) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns an encoder's description, its variables, and what else is known of the file."""
    path, name, options = pathlib.Path(config.path), config.encoder.name, config.encoder.options.to_dict()
    described = models.convert.describe_torch(path, name, image_size=config.image_size, **options)
    carried = described["normalization"]
    if "normalization" in options:
        reason = "as the config says; the file carries " + ("none" if carried is None else str(carried))
    elif carried is not None and config.check_normalization:
        options["normalization"], reason = carried, "as the file says"
    else:
        reason = "the encoder's, as " + (
            "the file carries none" if carried is None else "the file's is not to be checked"
        )
    num_classes = config.num_classes or described["num_classes"]
    variables = models.convert.load_torch(
        path,
        name,
        image_size=config.image_size,
        check_normalization=config.check_normalization,
        on_unknown=config.on_unknown,
        report=_report,
        num_classes=num_classes,
        **options,
    )
    normalization = models.build(name, **options).normalization
    mean, std = mean_std(normalization)
    label = f"{normalization}, " if isinstance(normalization, str) else ""
    _report(f"normalisation of pixels: {label}mean {mean}, standard deviation {std}: {reason}")
    class_names = list(config.class_names) or described["class_names"]
    if class_names and len(class_names) != num_classes:
        raise UserError(f"{len(class_names)} names of classes for the {num_classes} classes of {path}")
    description = {
        "kind": CLASSIFIER,
        "encoder": name,
        "options": options,
        "num_classes": num_classes,
        "class_names": class_names,  # empty: not known
        "image_size": config.image_size,
        "resize": config.resize,
        "attack": config.attack.to_dict(),
        "recipe": {"name": "imported", "file": path.name},
        "weights": CLASSIFIER,
    }
    notes = {"normalization_in_file": carried, "normalization_reason": reason, "unread": described["unread"]}
    return description, variables, notes


def _load_encoder(config: ConfigDict, workdir: pathlib.Path) -> tuple[pathlib.Path, Trained]:
    source = workdirs.resolve(config.encoder_checkpoint, workdir)
    encoder = trained.load(source, kind="classifier")
    descriptions.check_encoder(encoder.description, config.encoder.name, source)
    return source, encoder


def _generator(config: ConfigDict, workdir: pathlib.Path) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns an inverter's description, the generator's variables, and nothing else."""
    source, encoder = _load_encoder(config, workdir)
    description = {
        "kind": "inverter",
        "encoder_workdir": workdirs.relative(source, workdir),
        "encoder": config.encoder.name,
        "layer": config.generator.layer,
        "variant": config.generator.variant,
        "image_size": config.image_size,
        "loss": {"name": "imported", "file": pathlib.Path(config.path).name},
    }
    trained.build_generator(description, encoder, dtype=jnp.float32)  # does it lead back to the image?
    variables = models.convert.load_torch_generator(
        config.path,
        config.encoder.name,
        config.generator.layer,
        on_unknown=config.on_unknown,
        report=_report,
        image_size=config.image_size,
        variant=config.generator.variant,
        encoder_options=encoder.description["options"],
    )
    return description, variables, descriptions.report_size(encoder.description, config.image_size, config.title)


def _denoiser(config: ConfigDict, workdir: pathlib.Path) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns a denoiser's description, its decoder's variables, and nothing else.

    Raises:
      UserError: the file's encoder is not the one in the checkpoint.
    """
    source, encoder = _load_encoder(config, workdir)
    halves = models.convert.load_torch_denoiser(
        config.path, config.encoder.name, on_unknown=config.on_unknown, report=_report
    )
    own = trained.convolutions(encoder.variables)
    if not _is_same(own["params"], halves["encoder"]["params"]):
        raise UserError(
            f"{config.path} has other convolutions than the encoder in {source}; import the encoder that this denoiser "
            "was trained on first, and name its workdir in checkpoint"
        )
    description = {
        "kind": trained.DENOISER,
        "encoder_workdir": workdirs.relative(source, workdir),
        descriptions.WEIGHTS: fingerprint(encoder.variables),
        "encoder": config.encoder.name,
        "variant": "default",
        "pad_side": config.denoiser.pad_side,
        "image_size": config.image_size,
        "noise": {},  # of its training: the file does not say
        "loss": {"name": "imported", "file": pathlib.Path(config.path).name},
    }
    return description, halves["decoder"], {}


def _is_same(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Returns whether the weights are the same as far as half precision holds them."""
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.allclose(a, b, rtol=1e-2, atol=1e-4)), own, other))
