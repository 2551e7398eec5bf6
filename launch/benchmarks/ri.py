"""Representation inversion: the search for the pixels of images with given features, AlexNet's conv5 at 224 px.

A step is: conv5 of the images, the relative distance to the targets, the images' gradient, normalized, and a step of
length 1 within [0, 1]. Both take as many images at once as the case says. Of the published 10,000 steps 20 are taken.
The weights are random.

Source: Engstrom et al. 2019 and their released code; Rojas-Gomez et al. 2022, section 4.4.
"""

import functools

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared, summarize_best

STEP_SIZE = 1.0
_BATCHES = (1, 8)


def _size_and_steps(options: Options) -> tuple[int, int]:
    return (64, 2) if options.tiny else (options.size or 224, 20)


def make_search(dtype: str, num_steps: int):
    """Returns our search (encoder variables, images, starts) -> images, and the encoder."""
    import jax.numpy as jnp

    from arinv import models
    from arinv.apps.inversion import invert_by_optimization
    from arinv.experiment.trained import make_features_fn

    encoder = models.build("alexnet", num_classes=0, dtype=jnp.dtype(dtype))

    def search(encoder_variables, images, starts):
        features_fn = make_features_fn(encoder, encoder_variables)
        targets = features_fn(images)["conv5"]
        options = {"layer": "conv5", "num_steps": num_steps, "step_size": STEP_SIZE}
        return invert_by_optimization(features_fn, starts, targets, **options)

    return search, encoder


def _starts(images):
    """Returns grey images with noise, the same for every variant."""
    import numpy as np

    noise = np.random.default_rng(1).normal(size=images.shape) / 20
    return np.clip(0.5 + noise, 0, 1).astype(np.float32)


def _batch(case: str, options: Options) -> int:
    return options.batch or int(case.removeprefix("batch"))


def _ours(case: str, options: Options) -> Prepared:
    import jax

    from launch.benchmarks import batches, jax_steps
    from launch.benchmarks.random_weights import random_variables

    size, steps = _size_and_steps(options)
    search, encoder = make_search(options.dtype, steps)
    images = batches.random_batch(_batch(case, options), size, 1)["image"]
    variables = random_variables(encoder, images[:1])
    arguments = jax.device_put((variables, images, _starts(images)))
    parameters = jax_steps.count_parameters(encoder=variables)
    return jax_steps.prepare_call(search, arguments, images=len(images), parameters=parameters)


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import torch

    from launch.benchmarks import batches, torch_networks, torch_steps

    size, steps = _size_and_steps(options)
    setting = torch_steps.Setting(options.dtype, compiled)
    encoder = setting.place(torch_networks.AlexNet(1).conv5).eval().requires_grad_(False)
    encode = setting.forward(encoder)
    batch = _batch(case, options)
    images, _ = setting.random_batch(batch, size, 1)
    starts = _starts(batches.random_batch(batch, size, 1)["image"])
    starts = torch.from_numpy(starts).permute(0, 3, 1, 2).to(images.device).contiguous()

    def step():
        with torch.no_grad():
            targets = encode(images).flatten(1)
        lengths, x = targets.norm(dim=1), starts
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            distances = (encode(x).flatten(1) - targets).norm(dim=1) / lengths
            (gradient,) = torch.autograd.grad(distances.sum(), x)
            norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
            x = (x.detach() - STEP_SIZE * gradient / (norms + 1e-10)).clamp(0, 1)
        return x.sum()

    return setting.prepare(step, {"encoder": encoder}, batch)


BENCHMARK = Benchmark(
    cases=tuple(f"batch{batch}" for batch in _BATCHES),
    variants={"arinv": _ours, "torch": _torch, "torch_compile": functools.partial(_torch, compiled=True)},
    optional=("torch", "torch_compile"),
    summarize=summarize_best,
    growth=Growth("batch8", batches=(1, 4, 16), sizes=(128, 224, 320)),
)
