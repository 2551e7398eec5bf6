"""Denoising by the wavelet AlexNet and its decoder, at 512 x 512 pixels: seconds for a megapixel.

PyTorch takes one image at a time, as the released code does; speeds are compared per image. The weights are random.

Source: Rojas-Gomez et al. 2022, section 3.3, Tables A8 and A9.
"""

import functools

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared


def _size(options: Options) -> int:
    return 64 if options.tiny else options.size or 512


def _ours(case: str, options: Options) -> Prepared:
    import jax
    import jax.numpy as jnp

    from arinv import models
    from launch.benchmarks import batches, jax_steps
    from launch.benchmarks.random_weights import random_variables

    encoder, decoder = models.build_denoiser(dtype=jnp.dtype(options.dtype))
    size, batch = _size(options), options.batch or 1
    images = jax.device_put(batches.random_batch(batch, size, 1)["image"])
    encoder_variables = random_variables(encoder, images)
    features, details = jax.eval_shape(encoder.apply, encoder_variables, images)
    decoder_variables = random_variables(decoder, features["conv5"], details, seed=1)

    def denoise(images, encoder_variables, decoder_variables):
        features, details = encoder.apply(encoder_variables, images)
        return decoder.apply(decoder_variables, features["conv5"], details, train=False)

    parameters = jax_steps.count_parameters(encoder=encoder_variables, decoder=decoder_variables)
    arguments = (images, encoder_variables, decoder_variables)
    known = {"images": batch, "megapixels": batch * size**2 / 1e6, "parameters": parameters}
    return jax_steps.prepare_call(denoise, arguments, **known)


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import dataclasses

    import torch

    from launch.benchmarks import torch_denoiser, torch_steps

    setting = torch_steps.Setting(options.dtype, compiled)
    encoder = setting.place(torch_denoiser.WaveletAlexNet()).eval().requires_grad_(False)
    decoder = setting.place(torch_denoiser.WaveletDecoder()).eval().requires_grad_(False)
    denoise = setting.forward(torch_denoiser.Denoiser(encoder, decoder))
    image, _ = setting.random_batch(1, _size(options), 1)

    def step():
        with torch.no_grad():
            return denoise(image).mean()

    prepared = setting.prepare(step, {"encoder": encoder, "decoder": decoder}, 1)
    return dataclasses.replace(prepared, facts={**prepared.facts, "megapixels": _size(options) ** 2 / 1e6})


BENCHMARK = Benchmark(
    cases=("denoise",),
    variants={"arinv": _ours, "torch": _torch, "torch_compile": functools.partial(_torch, compiled=True)},
    optional=("torch", "torch_compile"),
    growth=Growth("denoise", batches=(1, 2, 4), sizes=(256, 512, 1024)),
)
