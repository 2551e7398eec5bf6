"""What another evaluation has measured of the same encoder, so that several inverters of one need one attack."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from arinv.errors import UserError
from arinv.tasks import workdir as workdirs
from arinv.train.array_files import read_arrays

_DECISIVE = ("attack", "batch_size", "data", "dtype", "seed")  # fields that the figures depend on
_FREE = ("data_dir", "num_workers")  # of the data


def encoder_figures(config: ConfigDict, workdir: pathlib.Path, weights: str, resize: str = "") -> dict[str, np.ndarray]:
    """Returns the accuracies of each image from config.attack_from, once nothing that decides them differs.

    Args:
      config: of this evaluation; attack_from is the workdir of the other, or "stage:NAME".
      workdir: of this evaluation.
      weights: fingerprint of the encoder's variables.
      resize: how its images are brought to size; empty for data.resize.

    Raises:
      UserError: no finished evaluation there, or one of another encoder, attack, data, precision or seed.
    """
    source = workdirs.resolve(config.attack_from, workdir)
    results = workdirs.read_results(source)
    there, here = _decisive(workdirs.read_json(source / "config.json")), _decisive(workdirs.plain(config))
    if resize:
        there["data.resize"], here["data.resize"] = results.get("resize"), resize
    there["the encoder's weights"], here["the encoder's weights"] = results.get("encoder_weights"), weights
    differing = [
        f"{name} (there {there.get(name)!r}, now {here[name]!r})" for name in here if there.get(name) != here[name]
    ]
    if differing:
        raise UserError(
            f"attack_from={config.attack_from} measured something else: {', '.join(differing)}; leave it empty"
        )
    arrays = read_arrays(source / "per_image.npz")
    return {name: arrays[name] for name in results["encoder_figures"]}


def _decisive(config: dict) -> dict:
    """Returns the fields that decide an encoder's figures, one level deep, as {"attack.eps": 1.0}."""
    found = {}
    for name in _DECISIVE:
        value = config.get(name)
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        found |= {name if part is None else f"{name}.{part}": x for part, x in parts if part not in _FREE}
    return found
