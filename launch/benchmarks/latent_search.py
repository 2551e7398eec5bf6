"""Latent search for anomaly scores: AlexNet's conv5 generator at 224 px, 100 steps, many images at once or one.

A step is: images of the latents, their conv5, pixel and feature loss, the latents' gradient and an update by SGD with
momentum. The case says how many images ours searches for at once; PyTorch takes one image at a time, as the released
code does, and speeds are compared per image. The weights are random.

Source: Rojas-Gomez et al. 2022, sections 3.3 and A3.2.
"""

import functools

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared, summarize_best

WEIGHTS = {"pixel": 2e-3, "feature": 1e-2}
FIRST_RATE, LAST_RATE, MOMENTUM = 0.1, 0.001, 0.9
_BATCHES = (1, 8)


def _size_and_steps(options: Options) -> tuple[int, int]:
    return (64, 3) if options.tiny else (options.size or 224, 100)


def make_search(dtype: str, num_steps: int):
    """Returns our search (key, images, generator_variables, comparator_variables) -> scores [B], and both networks."""
    import jax.numpy as jnp

    from arinv import models
    from arinv.apps import anomaly
    from arinv.experiment.trained import make_features_fn

    dtype = jnp.dtype(dtype)
    comparator = models.build("alexnet", num_classes=0, dtype=dtype)
    generator = models.build_generator("alexnet", "conv5", dtype=dtype)

    def search(key, images, generator_variables, comparator_variables):
        side = images.shape[1] // 32 - 1
        return anomaly.latent_search(
            key,
            lambda latents: generator.apply(generator_variables, latents, train=False),
            make_features_fn(comparator, comparator_variables),
            images,
            latent_shape=(side, side, 256),
            layer="conv5",
            pixel_weight=WEIGHTS["pixel"],
            feature_weight=WEIGHTS["feature"],
            num_steps=num_steps,
            learning_rate=FIRST_RATE,
            end_learning_rate=LAST_RATE,
            momentum=MOMENTUM,
        ).scores

    return search, generator, comparator


def _ours(case: str, options: Options) -> Prepared:
    import jax

    from launch.benchmarks import batches, jax_steps
    from launch.benchmarks.random_weights import random_variables

    size, steps = _size_and_steps(options)
    search, generator, comparator = make_search(options.dtype, steps)
    batch = options.batch or int(case.removeprefix("batch"))
    images = jax.device_put(batches.random_batch(batch, size, 1)["image"])
    comparator_variables = random_variables(comparator, images)
    latents = jax.ShapeDtypeStruct((1, size // 32 - 1, size // 32 - 1, 256), "float32")
    generator_variables = random_variables(generator, latents, seed=1)
    parameters = jax_steps.count_parameters(generator=generator_variables, comparator=comparator_variables)
    arguments = (jax.random.key(0), images, generator_variables, comparator_variables)
    # Our last step computes no gradient, which shows in the count for three steps, but not for a hundred.
    return jax_steps.prepare_call(search, arguments, counted=not options.tiny, images=batch, parameters=parameters)


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import torch

    from launch.benchmarks import torch_networks, torch_steps

    size, steps = _size_and_steps(options)
    setting = torch_steps.Setting(options.dtype, compiled)
    comparator = setting.place(torch_networks.AlexNet(1).conv5).eval().requires_grad_(False)
    generator = setting.place(torch_networks.Generator()).eval().requires_grad_(False)
    encode, generate = setting.forward(comparator), setting.forward(generator)
    image, _ = setting.random_batch(1, size, 1)

    def step():
        with torch.no_grad():
            target = encode(image)
        latent = torch.randn(1, 256, size // 32 - 1, size // 32 - 1, device=image.device, requires_grad=True)
        optimizer = torch.optim.SGD([latent], lr=FIRST_RATE, momentum=MOMENTUM)
        for i in range(steps):
            optimizer.param_groups[0]["lr"] = FIRST_RATE + (LAST_RATE - FIRST_RATE) * i / (steps - 1)
            optimizer.zero_grad()
            reconstruction = generate(latent)
            pixel = (reconstruction - image).abs().sum()
            feature = (encode(reconstruction) - target).square().sum()
            loss = WEIGHTS["pixel"] * pixel + WEIGHTS["feature"] * feature
            loss.backward()
            optimizer.step()
        return loss

    return setting.prepare(step, {"generator": generator, "comparator": comparator}, 1)


BENCHMARK = Benchmark(
    cases=tuple(f"batch{batch}" for batch in _BATCHES),
    variants={"arinv": _ours, "torch": _torch, "torch_compile": functools.partial(_torch, compiled=True)},
    optional=("torch", "torch_compile"),
    summarize=summarize_best,
    growth=Growth("batch1", batches=(1, 8, 32), sizes=(128, 224, 320)),
)
