"""Takes an encoder, or the generator of an inverter, from a PyTorch checkpoint into a directory like a training's.

So inverters can be trained on it and evaluations run on it. Nothing in the file is executed.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from arinv import models, parallel
from arinv.errors import UserError
from arinv.ops import norms
from arinv.tasks import networks
from arinv.tasks import workdir as workdirs
from arinv.train import classifier, inverter
from arinv.train.checkpoint import Checkpoints
from arinv.train.state import TrainState
from arinv.types import Variables


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading the file.

    Raises:
      UserError: no path, an unknown encoder, layer, option or norm.
    """
    if not config.path:
        raise UserError("path is empty; name a .pt, .pth or .safetensors file")
    models.build(config.encoder.name, **config.encoder.options)
    norms.check_norm(config.attack.norm)
    generator = config.generator
    if generator.layer:
        models.build_generator(config.encoder.name, generator.layer, variant=generator.variant)
        if not generator.encoder_checkpoint:
            raise UserError("a generator needs its encoder: import that first, and name its workdir in checkpoint")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Converts the file, saves a checkpoint in `workdir`, and returns what was found.

    Args:
      config: as made by configs/import_torch.py; a generator where config.generator.layer is set, else an encoder.
      workdir: of the network, for `checkpoint` in other configs.

    Raises:
      UserError: a file that is damaged, could run a program, or holds another network.
    """
    description, variables, notes = (_generator if config.generator.layer else _encoder)(config, workdir)
    workdirs.open_workdir(config, workdir)
    name = inverter.GENERATOR if config.generator.layer else classifier.NAME
    with Checkpoints(workdir, (name,), keep=1) as checkpoints:
        state = parallel.replicate(
            TrainState(jnp.zeros((), jnp.int32), {name: variables}, {name: {}}), parallel.make_mesh()
        )
        checkpoints.save(state, data_state={}, description=description, wait=True)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    results = {"description": description, "num_parameters": num_parameters, **notes}
    workdirs.write_results(workdir, results)
    return results


def _encoder(config: ConfigDict, _: pathlib.Path) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns an encoder's description, its variables, and what else the file says."""
    path, name, options = pathlib.Path(config.path), config.encoder.name, config.encoder.options.to_dict()
    described = models.convert.describe_torch(path, name, image_size=config.image_size, **options)
    num_classes = config.num_classes or described["num_classes"]
    variables = models.convert.load_torch(
        path,
        name,
        image_size=config.image_size,
        check_normalization=config.check_normalization,
        num_classes=num_classes,
        **options,
    )
    class_names = list(config.class_names) or described["class_names"]
    if class_names and len(class_names) != num_classes:
        raise UserError(f"{len(class_names)} names of classes for the {num_classes} classes of {path}")
    description = {
        "kind": classifier.NAME,
        "encoder": name,
        "options": options,
        "num_classes": num_classes,
        "class_names": class_names,  # empty: not known
        "image_size": config.image_size,
        "resize": config.resize,
        "attack": config.attack.to_dict(),
        "recipe": {"name": "imported", "file": path.name},
        "weights": classifier.NAME,
    }
    return description, variables, {"normalization_in_file": described["normalization"], "unread": described["unread"]}


def _generator(config: ConfigDict, workdir: pathlib.Path) -> tuple[dict[str, Any], Variables, dict[str, Any]]:
    """Returns an inverter's description, the generator's variables, and nothing else."""
    source = workdirs.resolve(config.generator.encoder_checkpoint, workdir)
    encoder = networks.load_encoder(source)
    networks.check_name(encoder, config.encoder.name, source)
    description = {
        "kind": "inverter",
        "encoder_workdir": workdirs.relative(source, workdir),
        "encoder": config.encoder.name,
        "layer": config.generator.layer,
        "variant": config.generator.variant,
        "image_size": config.image_size,
        "loss": {"name": "imported", "file": pathlib.Path(config.path).name},
    }
    networks.build_generator(description, encoder, dtype=jnp.float32)  # does it lead back to the image?
    variables = models.convert.load_torch_generator(
        config.path,
        config.encoder.name,
        config.generator.layer,
        image_size=config.image_size,
        variant=config.generator.variant,
        encoder_options=encoder.description["options"],
    )
    return description, variables, networks.report_size(encoder, config.image_size, config.title)
