"""Scores of images by the GAN of one class, ADGAN, for one-vs-all evaluations.

Source: Deecke et al. 2018; see `arinv.apps.anomaly.adgan`.
"""

import functools
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import models, parallel
from arinv.apps import anomaly
from arinv.apps.anomaly.scorer import Batching, batches
from arinv.errors import UserError
from arinv.experiment.run import Run
from arinv.experiment.trained import GAN
from arinv.experiment.writer import progress_bar
from arinv.ops.inputs import check_count, check_number
from arinv.types import Array, Variables

VARIANT = (
    "mean over random starts of the squared error, a mean over pixels and RGB, after Adam on the latent and a copy of "
    "the generator's weights (Deecke et al. 2018)"
)


def check(config: ConfigDict) -> None:
    """Checks config.gans and config.adgan, where they are set.

    Raises:
      UserError: a class without a GAN, or a number out of range.
    """
    if not config.get("gans"):
        return
    if missing := [label for label in config.classes if f"class{label}" not in config.gans]:
        raise UserError(f"gans has no workdir for the classes {missing}")
    for name in ("num_seeds", "num_steps", "chunk_size"):
        check_count(config.adgan[name], f"adgan.{name}")
    for name in ("latent_rate", "weight_rate"):
        check_number(config.adgan[name], f"adgan.{name}", minimum=0.0)


def score(run: Run, label: int, images_u8: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores of images by the GAN of a class, and the seconds that each took.

    Args:
      run: a run of a one-vs-all evaluation.
      label: label of the normal class.
      images_u8: uint8 [N, S, S, 3].

    Returns:
      {"adgan": float32 [N], "seconds": float64 [N]}.

    Raises:
      UserError: no usable GAN, or one of another image size.
    """
    config, place = run.config, f"class{label}"
    network = run.load(config.gans[place], kind=GAN, image_size=config.data.image_size)
    cache = run.cache("", network.fingerprint, images_u8).rows(f"adgan_{label}")
    batching = Batching(run.mesh, config.batch_size)
    variables = parallel.replicate(network.variables, run.mesh)
    key = parallel.replicate(run.key, run.mesh)
    options, compiled = tuple(sorted(config.adgan.to_dict().items())), None
    count = len(images_u8)
    with progress_bar(None, f"ADGAN of {place}", total=count, initial=cache.count, unit="image") as bar:
        for batch, size in batches(images_u8.__getitem__, count, batching, first=cache.count):
            arguments = key, variables, batch["image"], batch["id"]
            if compiled is None:
                compiled = _search.lower(network.module, options, *arguments).compile()
            started = time.perf_counter()
            scores = parallel.to_host(compiled(*arguments))
            seconds = (time.perf_counter() - started) / batching.batch_size
            cache.append({"adgan": scores[:size], "seconds": np.full(size, seconds)})
            bar.update(size)
    cache.save()
    return cache.arrays()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(
    gan: models.Gan, options: tuple[tuple[str, Any], ...], key: Array, variables: Variables, images: Array, ids: Array
) -> Array:
    """Returns the scores of images [B, S, S, 3] in [0, 1] with ids [B]."""
    rest = {name: value for name, value in variables.items() if name != "params"}

    def generate(params, latents):
        return gan.generator.apply({**rest, "params": params}, latents, train=False)

    result = anomaly.adgan_search(
        key, generate, variables["params"], images, sample_fn=gan.draw, indices=ids, **dict(options)
    )
    return result.scores
