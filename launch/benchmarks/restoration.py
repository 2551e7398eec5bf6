"""The search of the Generative Encoder: many images in one program, one after the other, or in plain PyTorch.

A step is: images of the latents, their mask, their codes, the squared distance from the codes of the masked images, the
latents' gradient and an update by Adam. The generator is a narrow progressive one of 32 px (base_width 1024, max_width
128), the encoder the published one. The case says how many images ours searches for at once; one_by_one is ours in
batches of one, PyTorch takes one image at a time, and speeds are compared per image. Of the published 1,400 steps 20
are taken. The weights are random.

Source: Generative Encoder, Algorithm 1 and section 4.4.
"""

import functools
from typing import Any

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared, summarize_best

RATE = 0.1
WIDTHS = {"base_width": 1024, "max_width": 128}
LATENT = 512
_BATCHES = (8, 32, 64)


def _size_and_steps(options: Options) -> tuple[int, int]:
    return (16, 2) if options.tiny else (options.size or 32, 20)


def make_search(dtype: str, size: int, num_steps: int):
    """Returns our search (both variables, images, masks, starts) -> losses [B], the generator and the encoder."""
    import jax.numpy as jnp

    from arinv import models
    from arinv.apps.restoration.solver import solve

    dtype = jnp.dtype(dtype)
    generator = models.build_gan("progressive", image_size=size, dtype=dtype, **WIDTHS).generator
    encoder = models.build_autoencoder("conv", image_size=size, dtype=dtype).encoder

    def search(generator_variables, encoder_variables, images, masks, starts):
        return solve(
            lambda latents: generator.apply(generator_variables, latents),
            lambda images: encoder.apply(encoder_variables, images),
            images * masks,
            starts,
            project_fn=lambda images: images * masks,
            num_steps=num_steps,
            learning_rate=RATE,
        ).losses

    return search, generator, encoder


def _ours(case: str, options: Options, *, one_by_one: bool = False) -> Prepared:
    import jax
    import numpy as np

    from launch.benchmarks import batches, jax_steps
    from launch.benchmarks.random_weights import random_variables

    size, steps = _size_and_steps(options)
    search, generator, encoder = make_search(options.dtype, size, steps)
    batch = 1 if one_by_one else options.batch or int(case.removeprefix("batch"))
    images = jax.device_put(batches.random_batch(batch, size, 1)["image"])
    masks = jax.device_put(np.broadcast_to(block_mask(size)[None, :, :, None], (batch, size, size, 1)))
    starts = jax.random.normal(jax.random.key(0), (batch, LATENT))
    generator_variables = random_variables(generator, starts[:1], seed=1)
    encoder_variables = random_variables(encoder, images[:1])
    parameters = jax_steps.count_parameters(generator=generator_variables, encoder=encoder_variables)
    arguments = (generator_variables, encoder_variables, images, masks, starts)
    return jax_steps.prepare_call(search, arguments, images=batch, parameters=parameters)


def block_mask(size: int) -> Any:
    """Returns 0 in a block of half the sides in the center and 1 elsewhere, float32 [size, size]."""
    import numpy as np

    mask = np.ones((size, size), np.float32)
    mask[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 0
    return mask


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import torch

    from launch.benchmarks import torch_restoration, torch_steps

    size, steps = _size_and_steps(options)
    setting = torch_steps.Setting(options.dtype, compiled)
    generator = setting.place(torch_restoration.Generator(size, LATENT, **WIDTHS)).eval().requires_grad_(False)
    encoder = setting.place(torch_restoration.Encoder(size)).eval().requires_grad_(False)
    generate, encode = setting.forward(generator), setting.forward(encoder)
    image, _ = setting.random_batch(1, size, 1)
    mask = torch.from_numpy(block_mask(size)).to(image.device)

    def step():
        with torch.no_grad():
            target = encode(image * mask)
        latent = torch.randn(1, LATENT, device=image.device, requires_grad=True)
        optimizer = torch.optim.Adam([latent], lr=RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (encode(generate(latent) * mask) - target).square().sum()
            loss.backward()
            optimizer.step()
        with torch.no_grad():  # as ours, which returns the loss after the last update
            return (encode(generate(latent) * mask) - target).square().sum()

    return setting.prepare(step, {"generator": generator, "encoder": encoder}, 1)


BENCHMARK = Benchmark(
    cases=tuple(f"batch{batch}" for batch in _BATCHES),
    variants={
        "arinv": _ours,
        "one_by_one": functools.partial(_ours, one_by_one=True),
        "torch": _torch,
        "torch_compile": functools.partial(_torch, compiled=True),
    },
    optional=("torch", "torch_compile"),
    summarize=summarize_best,
    growth=Growth("batch8", batches=(8, 32, 128), sizes=(16, 32, 64)),
)
