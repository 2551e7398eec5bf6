"""The robust training step of a classifier: ResNet-18 for 32 px, batch 64, PGD of seven l2 steps.

A step is seven forwards with their image gradients and one forward more (for the loss of the last iterate) in
evaluation mode, then one forward with the parameters' gradient in training mode and an update by SGD.

Source: Madry et al. 2018, section 2.1; radius and recipe of Rojas-Gomez et al. 2022, section A1.3.
"""

import functools

from launch.benchmarks.measurement import Benchmark, Options, Prepared

SIZE, CLASSES = 32, 10
EPS, STEPS = 1.0, 7
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
_BATCH = 64


def make_step(dtype: str):
    """Returns our step (state, batch, key) -> (state, metrics), and init, key -> state."""
    import jax
    import jax.numpy as jnp

    from arinv import models
    from arinv.experiment.state import TrainState
    from arinv.experiment.trained import CLASSIFIER
    from arinv.train import classifier, optimizers

    encoder = models.build("resnet18", num_classes=CLASSES, dtype=jnp.dtype(dtype))
    schedule = {"name": "constant", "learning_rate": RATE}
    recipe = {"name": "sgd", "momentum": MOMENTUM, "weight_decay": DECAY, "schedule": schedule}
    optimizer = optimizers.make_optimizer(recipe, num_steps=1, steps_per_epoch=1)
    attack = {"eps": EPS, "norm": "l2", "num_steps": STEPS, "random_start": False, "use_best": True}
    step = classifier.make_train_step(encoder, optimizer, attack=attack, augmentation={})
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    networks = {CLASSIFIER: (encoder, (image,))}
    optimizers = {CLASSIFIER: optimizer}
    return step, functools.partial(TrainState.create, networks=networks, optimizers=optimizers)


def _ours(case: str, options: Options) -> Prepared:
    import jax

    from launch.benchmarks import batches, jax_steps

    step, init = make_step(options.dtype)
    batch = jax.device_put(batches.random_batch(options.batch or _BATCH, SIZE, CLASSES))
    return jax_steps.prepare(step, init, (batch, jax.random.key(1)))


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import torch
    from torch.nn.functional import cross_entropy

    from launch.benchmarks import torch_networks, torch_steps

    setting = torch_steps.Setting(options.dtype, compiled)
    model = setting.place(torch_networks.ResNet18(CLASSES))
    forward = setting.forward(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    images, labels = setting.random_batch(options.batch or _BATCH, SIZE, CLASSES)

    def attack():
        x, step = images, 2.5 * EPS / STEPS
        best, best_losses = images, torch.full_like(images[:, 0, 0, 0], -torch.inf)
        for i in range(STEPS + 1):
            x = x.detach().requires_grad_(i < STEPS)
            with torch.set_grad_enabled(i < STEPS):
                losses = cross_entropy(forward(x), labels, reduction="none")
            higher = losses.detach() > best_losses
            best = torch.where(higher[:, None, None, None], x.detach(), best)
            best_losses = torch.where(higher, losses.detach(), best_losses)
            if i < STEPS:
                (gradient,) = torch.autograd.grad(losses.sum(), x)  # of the image alone
                norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
                delta = x.detach() + step * gradient / (norms + 1e-10) - images
                x = (images + delta.renorm(2, 0, EPS)).clamp(0, 1)
        return best

    def step():
        model.eval()
        adversarial = attack()
        model.train()
        optimizer.zero_grad()
        loss = cross_entropy(forward(adversarial), labels)
        loss.backward()
        optimizer.step()
        return loss

    return setting.prepare(step, {"classifier": model}, len(images))


BENCHMARK = Benchmark(
    cases=("pgd_resnet18",),
    variants={"arinv": _ours, "torch": _torch, "torch_compile": functools.partial(_torch, compiled=True)},
    optional=("torch", "torch_compile"),
)
