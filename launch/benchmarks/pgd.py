"""The robust training step of a classifier by PGD of seven l2 steps: ResNet-18 for 32 px, AlexNet for 224 px.

A step is seven forwards with their image gradients and one forward more (for the loss of the last iterate) in
evaluation mode, then one forward with the parameters' gradient in training mode and an update by SGD.

Source: Madry et al. 2018, section 2.1; radii and recipes of Rojas-Gomez et al. 2022, sections A1.3 and A3.1.
"""

import dataclasses
import functools

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared

STEPS = 7
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, its images and its attack."""

    size: int
    num_classes: int
    batch: int
    eps: float
    step_size: float


CASES = {"resnet18": Case(32, 10, 64, 1.0, 2.5 / STEPS), "alexnet": Case(224, 1000, 16, 3.0, 0.5)}


def make_step(name: str, dtype: str, size: int = 0):
    """Returns our step (state, batch, key) -> (state, metrics), and init, key -> state.

    Args:
      name: name of CASES.
      dtype: dtype of the computation.
      size: size of the images, in pixels; 0 for the case's own.
    """
    import jax
    import jax.numpy as jnp

    from arinv import models
    from arinv.experiment.state import TrainState
    from arinv.experiment.trained import CLASSIFIER
    from arinv.train import classifier, optimizers

    case = CASES[name]
    encoder = models.build(name, num_classes=case.num_classes, dtype=jnp.dtype(dtype))
    schedule = {"name": "constant", "learning_rate": RATE}
    recipe = {"name": "sgd", "momentum": MOMENTUM, "weight_decay": DECAY, "schedule": schedule}
    optimizer = optimizers.make_optimizer(recipe, num_steps=1, steps_per_epoch=1)
    attack = {
        "eps": case.eps,
        "norm": "l2",
        "num_steps": STEPS,
        "step_size": case.step_size,
        "random_start": False,
        "use_best": True,
    }
    step = classifier.make_train_step(encoder, optimizer, attack=attack, augmentation={})
    side = size or case.size
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    networks = {CLASSIFIER: (encoder, (image,))}
    optimizers = {CLASSIFIER: optimizer}
    return step, functools.partial(TrainState.create, networks=networks, optimizers=optimizers)


def _shape(case: str, options: Options) -> tuple[int, int, int]:
    """Returns batch, side of the images and number of classes."""
    facts = CASES[case]
    return options.batch or (2 if options.tiny else facts.batch), options.size or facts.size, facts.num_classes


def _ours(case: str, options: Options) -> Prepared:
    import jax

    from launch.benchmarks import batches, jax_steps

    step, init = make_step(case, options.dtype, options.size)
    batch = jax.device_put(batches.random_batch(*_shape(case, options)))
    return jax_steps.prepare(step, init, (batch, jax.random.key(1)))


def _torch(case: str, options: Options, *, compiled: bool = False) -> Prepared:
    import torch
    from torch.nn.functional import cross_entropy

    from launch.benchmarks import torch_networks, torch_steps

    facts = CASES[case]
    setting = torch_steps.Setting(options.dtype, compiled)
    network = {"resnet18": torch_networks.ResNet18, "alexnet": torch_networks.AlexNet}[case]
    model = setting.place(network(facts.num_classes))
    forward = setting.forward(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    images, labels = setting.random_batch(*_shape(case, options))

    def attack():
        x = images
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
                delta = x.detach() + facts.step_size * gradient / (norms + 1e-10) - images
                x = (images + delta.renorm(2, 0, facts.eps)).clamp(0, 1)
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
    cases=tuple(CASES),
    variants={"arinv": _ours, "torch": _torch, "torch_compile": functools.partial(_torch, compiled=True)},
    optional=("torch", "torch_compile"),
    growth=Growth("resnet18", batches=(16, 32, 64), sizes=(32, 48, 64)),
)
