"""The training step of an inverter with a discriminator: AlexNet's conv5 at 224 px, batch 8.

A step is: features of the images and their reconstructions once; the discriminator's loss on both and its
update; then pixel, feature and adversarial loss of the same reconstructions and the generator's update.

Source: Rojas-Gomez et al. 2022, section 3.2 and A3.1, and the order of the released code.
"""

import functools

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared

SIZE, CLASSES = 224, 1000
WEIGHTS = {"pixel": 2e-6, "feature": 1e-2, "adversarial": 100.0, "discriminator": 1.0}
RATES = {"generator": 3e-4, "discriminator": 1.2e-3}
BETAS = (0.0, 0.9)
_BATCH = 8


def make_step(dtype: str):
    """Returns our step (state, batch, key, encoder_variables) -> (state, metrics), init, and the encoder."""
    import jax
    import jax.numpy as jnp

    from arinv import models
    from arinv.experiment.state import TrainState
    from arinv.experiment.trained import DISCRIMINATOR, GENERATOR
    from arinv.train import inverter, optimizers

    dtype = jnp.dtype(dtype)
    encoder = models.build("alexnet", num_classes=CLASSES, dtype=dtype)
    generator = models.build_generator("alexnet", "conv5", dtype=dtype)
    discriminator = models.build_discriminator(image_size=SIZE, dtype=dtype)
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    feature = jax.ShapeDtypeStruct((1, 6, 6, 256), jnp.float32)
    networks = {
        GENERATOR: (generator, (feature,)),
        DISCRIMINATOR: (discriminator, (image, feature)),
    }
    updates = {
        name: optimizers.make_optimizer(
            {"name": "adam", "b1": BETAS[0], "b2": BETAS[1], "schedule": {"name": "constant", "learning_rate": rate}},
            num_steps=1,
            steps_per_epoch=1,
        )
        for name, rate in RATES.items()
    }
    step = inverter.make_train_step(
        encoder,
        generator,
        discriminator,
        updates,
        layer="conv5",
        feature_layer="conv5",
        weights=WEIGHTS,
        augmentation={},
    )
    return step, functools.partial(TrainState.create, networks=networks, optimizers=updates), encoder


def _ours(case: str, options: Options) -> Prepared:
    import jax

    from launch.benchmarks import batches, jax_steps

    step, init, encoder = make_step(options.dtype)
    batch = jax.device_put(batches.random_batch(options.batch or _BATCH, SIZE, CLASSES))
    variables = jax.jit(encoder.init)(jax.random.key(2), batch["image"][:1])
    return jax_steps.prepare(step, init, (batch, jax.random.key(1), variables), networks=("encoder",))


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import torch
    from torch.nn.functional import binary_cross_entropy

    from launch.benchmarks import torch_networks, torch_steps

    setting = torch_steps.Setting(options.dtype, compiled)
    encoder = setting.place(torch_networks.AlexNet(CLASSES)).eval().requires_grad_(False)
    generator = setting.place(torch_networks.Generator())
    discriminator = setting.place(torch_networks.Discriminator())
    encode, generate, discriminate = (setting.forward(m) for m in (encoder.conv5, generator, discriminator))
    optimizers = {
        "generator": torch.optim.Adam(generator.parameters(), lr=RATES["generator"], betas=BETAS),
        "discriminator": torch.optim.Adam(discriminator.parameters(), lr=RATES["discriminator"], betas=BETAS),
    }
    images, _ = setting.random_batch(options.batch or _BATCH, SIZE, CLASSES)
    ones = torch.ones(len(images), device=images.device)

    def step():
        with torch.no_grad():
            features = encode(images)
        reconstructions = generate(features)

        discriminator.requires_grad_(True)
        optimizers["discriminator"].zero_grad()
        loss = binary_cross_entropy(discriminate(images, features), ones)
        loss = loss + binary_cross_entropy(discriminate(reconstructions.detach(), features), 1 - ones)
        (WEIGHTS["discriminator"] * loss).backward()
        optimizers["discriminator"].step()

        discriminator.requires_grad_(False)  # only its image gradient is needed from here on
        optimizers["generator"].zero_grad()
        pixel = (reconstructions - images).abs().sum() / len(images)
        feature = (encode(reconstructions) - features).square().sum() / len(images)
        adversarial = binary_cross_entropy(discriminate(reconstructions, features), ones)
        loss = WEIGHTS["pixel"] * pixel + WEIGHTS["feature"] * feature + WEIGHTS["adversarial"] * adversarial
        loss.backward()
        optimizers["generator"].step()
        return loss

    networks = {"generator": generator, "discriminator": discriminator, "encoder": encoder}
    return setting.prepare(step, networks, len(images))


BENCHMARK = Benchmark(
    cases=("gan_alexnet",),
    variants={"arinv": _ours, "torch": _torch, "torch_compile": functools.partial(_torch, compiled=True)},
    optional=("torch", "torch_compile"),
    growth=Growth("gan_alexnet", batches=(4, 8, 16)),
)
