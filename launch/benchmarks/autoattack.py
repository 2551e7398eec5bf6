"""Compares AutoAttack with its public PyTorch code: verdicts, seconds and passes through the model, as JSON.

    python -m launch.benchmarks.autoattack --checkpoint zoo:alexnet_small_l2_1 --images 256 --out aa.json

The checkpoint is an alexnet_small of the zoo or of a run of yours; its weights go into the same network written in
PyTorch, and both attack the same test images. It needs PyTorch and the package `autoattack` of
github.com/fra31/auto-attack, which are no dependencies: install them yourself. Random starts and windows differ, so
that a few verdicts may, too.

`launch/benchmark --only autoattack` measures the speed and the memory of both on a few patches of photographs, with the
zoo's network and its own predictions as labels. PyTorch's memory has JAX in it, which reads the weights.
"""

import argparse
import fractions
import functools
import importlib.util
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np

from arinv.errors import MISTAKE, UserError
from launch.benchmarks.devices import cpu_name, provenance
from launch.benchmarks.measurement import Benchmark, Options, Prepared

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_CASES = ("linf:8/255", "l2:0.5")
_LOGITS_TOLERANCE = 1e-3
_CHECKPOINT, _IMAGES = "zoo:alexnet_small_l2_1", 16


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch.benchmarks.autoattack", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default=_CHECKPOINT, metavar="RUN",
                        help="workdir or zoo:NAME of an alexnet_small (%(default)s)")  # fmt: skip
    parser.add_argument(
        "--data", default="tfds:cifar10", metavar="SOURCE", help="whose test split is attacked (%(default)s)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where TFDS sets lie")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--cases", nargs="+", default=_CASES, metavar="NORM:EPS", help="balls (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="largest batch of both (%(default)s)")
    parser.add_argument("--targets", type=int, default=9, metavar="N", help="other than the standard says")
    parser.add_argument("--queries", type=int, default=5000, metavar="N", help="other than the standard says")
    parser.add_argument("--again", action="store_true", help="time ours a second time, when all is compiled")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE.json", help="write the figures here too")
    return parser.parse_args(argv)


class Ours:
    """Our AutoAttack on a checkpoint.

    Attributes:
      encoder: as `load_encoder` returns it.
    """

    def __init__(self, checkpoint: str):
        import jax

        from arinv.experiment import loading

        self.encoder = loading.load(checkpoint, kind="classifier")
        module = self.encoder.module
        self._model = jax.tree_util.Partial(lambda variables, x: module.apply(variables, x)[0], self.encoder.variables)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns logits [N, K] of images [N, H, W, 3] in [0, 1]."""
        import jax

        return np.asarray(jax.jit(lambda model, x: model(x))(self._model, images))

    def attack(self, images, labels, *, norm: str, eps: float, arguments: argparse.Namespace) -> dict[str, Any]:
        """Returns the verdicts [N] as "robust", "clean_accuracy", and "per_attack"."""
        import jax

        from arinv import attacks

        result = attacks.autoattack(
            jax.random.key(0), self._model, images, labels, eps=eps, norm=norm, batch_size=arguments.batch,
            num_targets=arguments.targets, num_queries=arguments.queries,
        )  # fmt: skip
        per_attack, entered = {}, int(result.clean.sum())
        for name, record in result.per_attack.items():
            passes = record.forward_passes, record.backward_passes
            per_attack[name] = _record(entered, record.robust_accuracy, record.seconds, passes)
            entered = round(record.robust_accuracy * len(labels))
        return {"robust": result.robust, "clean_accuracy": result.clean_accuracy, "per_attack": per_attack}


class Torch:
    """The public PyTorch code on the same weights, with a count of what goes through the model."""

    def __init__(self, encoder):
        import torch

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = make_network(encoder).to(self._device).eval()
        self._forward, self._backward = 0, 0
        self.versions = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": str(self._device)}

    def _model(self, images):
        self._forward += len(images)
        self._backward += len(images) if images.requires_grad else 0  # their attacks ask for it once
        return self._network(images)

    def _tensors(self, images: np.ndarray, labels: np.ndarray):
        import torch

        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return x.to(self._device), torch.from_numpy(labels).long().to(self._device)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns logits [N, K] of images [N, H, W, 3] in [0, 1]."""
        import torch

        with torch.no_grad():
            return self._network(self._tensors(images, np.zeros(len(images), int))[0]).cpu().numpy()

    def attack(self, images, labels, *, norm: str, eps: float, arguments: argparse.Namespace) -> dict[str, Any]:
        """Returns the verdicts [N] as "robust", "clean_accuracy", and "per_attack".

        The attacks are called one by one on what is left, as the standard version does, so that each has its time.
        """
        import autoattack

        adversary = autoattack.AutoAttack(
            self._model, norm=_NORMS[norm], eps=eps, seed=0, verbose=False, device=self._device
        )
        for attack in (adversary.apgd_targeted, adversary.fab):
            attack.n_target_classes = min(attack.n_target_classes, arguments.targets)
        adversary.square.n_queries = arguments.queries
        names, x, y = list(adversary.attacks_to_run), *self._tensors(images, labels)
        robust = self.logits(images).argmax(1) == labels
        clean_accuracy, per_attack = float(robust.mean()), {}
        for name in names:
            rows, self._forward, self._backward = np.flatnonzero(robust), 0, 0
            started = time.perf_counter()
            if len(rows):
                adversary.attacks_to_run = [name]
                adversarial = adversary.run_standard_evaluation(x[rows], y[rows], bs=arguments.batch)
                seconds, passes = time.perf_counter() - started, (self._forward, self._backward)
                robust[rows] = self.logits(adversarial.cpu().numpy().transpose(0, 2, 3, 1)).argmax(1) == labels[rows]
                per_attack[name] = _record(len(rows), float(robust.mean()), seconds, passes)
        return {"robust": robust, "clean_accuracy": clean_accuracy, "per_attack": per_attack}


def _record(entered: int, accuracy: float, seconds: float, passes: tuple[int, int]) -> dict[str, Any]:
    """Returns the record of an attack; passes are (forward, backward), in images."""
    return {
        "images": entered,
        "robust_accuracy": accuracy,
        "seconds": seconds,
        "forward_passes_per_image": passes[0] / max(entered, 1),
        "backward_passes_per_image": passes[1] / max(entered, 1),
    }


def make_network(encoder):
    """Returns an alexnet_small in PyTorch with the weights of ours: images [N, 3, H, W] in [0, 1] -> logits.

    Args:
      encoder: as `load_encoder` returns it.
    """
    import torch
    from torch import nn

    from arinv.models.encoders.base import mean_std

    mean, std = (torch.tensor(v)[:, None, None] for v in mean_std(encoder.module.normalization))
    parameters, layers = encoder.variables["params"], []
    for i in range(1, 6):
        kernel = np.asarray(parameters[f"conv{i}"]["kernel"]).transpose(3, 2, 0, 1)
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same")
        layers += [_filled(conv, kernel, parameters[f"conv{i}"]), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i in (1, 2, 5) else []
    layers.append(nn.Flatten())
    channels = kernel.shape[0]
    for name in ("fc6", "fc7", "fc8"):
        kernel = np.asarray(parameters[name]["kernel"])
        if name == "fc6":  # flattened as (row, column, channel) here, as (channel, row, column) there
            side = int((kernel.shape[0] // channels) ** 0.5)
            kernel = kernel.reshape(side * side, channels, -1).transpose(1, 0, 2).reshape(kernel.shape)
        layers.append(_filled(nn.Linear(*kernel.shape), kernel.T, parameters[name]))
        layers += [nn.ReLU()] if name != "fc8" else []
    body = nn.Sequential(*layers)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, x):
            return self.body((x - self.mean) / self.std)

    return Network().requires_grad_(False)


def _filled(layer, weight: np.ndarray, parameters):
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        layer.bias.copy_(torch.from_numpy(np.array(parameters["bias"])))
    return layer


def _prepare(case: str, options: Options, *, library: str = "arinv") -> Prepared:
    """Attacks a few images once, compilation included, and returns the attack ready to be timed.

    Raises:
      ValueError: another dtype than float32.
    """
    from arinv import data
    from launch.benchmarks import jax_steps

    if options.dtype != "float32":
        raise ValueError(f"autoattack is measured in float32; got {options.dtype}")
    ours = Ours(_CHECKPOINT)
    side = ours if library == "arinv" else Torch(ours.encoder)
    count, size = options.batch or (2 if options.tiny else _IMAGES), ours.encoder.description["image_size"]
    source = data.open_source("photos", split="test", image_size=size, num_examples=count)
    images = data.load_arrays(source)["image"].astype(np.float32) / 255
    labels = ours.logits(images).argmax(1).astype(np.int32)
    norm, _, radius = case.partition(":")
    limits = {"targets": 1, "queries": 5} if options.tiny else {"targets": 9, "queries": 5000}
    settings = {
        "norm": norm,
        "eps": float(fractions.Fraction(radius)),
        "arguments": argparse.Namespace(batch=len(images), **limits),
    }

    def run(n: int) -> None:
        for _ in range(n):
            side.attack(images, labels, **settings)

    started = time.perf_counter()
    run(1)
    facts = {**jax_steps.facts(), "images": len(images), "compile_seconds": time.perf_counter() - started}
    if library != "arinv":
        facts |= {"versions": {"torch": side.versions["torch"]}, "threads": side.versions["threads"]}
    return Prepared(run, facts)


def compare(ours: Ours, theirs: Torch, images, labels, *, case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the results of both in one ball, and the images whose verdicts differ.

    Args:
      ours: the one.
      theirs: the other.
      images: float32 [N, H, W, 3] in [0, 1].
      labels: int [N].
      case: such as "linf:8/255".
      arguments: arguments of the command line.
    """
    norm, _, radius = case.partition(":")
    options = {"norm": norm, "eps": float(fractions.Fraction(radius)), "arguments": arguments}
    attacks = {"arinv": ours, **({"arinv again": ours} if arguments.again else {}), "torch": theirs}
    results = {}
    for name, side in attacks.items():
        print(f"{case}: {name} attacks {len(images)} images", file=sys.stderr, flush=True)
        results[name] = side.attack(images, labels, **options)
    robust = {name: result.pop("robust") for name, result in results.items()}
    verdicts = {
        "agreement": float(np.mean(robust["arinv"] == robust["torch"])),
        "robust to both": int(np.sum(robust["arinv"] & robust["torch"])),
        "broken by arinv only": int(np.sum(~robust["arinv"] & robust["torch"])),
        "broken by torch only": int(np.sum(robust["arinv"] & ~robust["torch"])),
    }
    return {"case": case, "verdicts": verdicts, **results}


def main(argv: list[str] | None = None) -> int:
    """Makes the comparison that the command line asks for; returns the exit code."""
    arguments = _arguments(argv)
    missing = [name for name in ("torch", "autoattack") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"arinv: install {' and '.join(missing)} first; see the top of this file", file=sys.stderr)
        return 2
    import jax

    from arinv import data
    from arinv.ops.images import to_float

    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    ours = Ours(arguments.checkpoint)
    description = ours.encoder.description
    if description["encoder"] != "alexnet_small":
        print(f"arinv: the checkpoint holds {description['encoder']}; name one of alexnet_small", file=sys.stderr)
        return 2
    source = data.open_source(arguments.data, split="test", image_size=description["image_size"],
                              num_examples=arguments.images, data_dir=arguments.data_dir)  # fmt: skip
    arrays = data.load_arrays(source)
    images, labels = np.asarray(to_float(arrays["image"])), np.asarray(arrays["label"], np.int32)
    theirs = Torch(ours.encoder)
    difference = float(np.abs(ours.logits(images) - theirs.logits(images)).max())
    if difference > _LOGITS_TOLERANCE:
        print(f"arinv: the two networks differ by {difference:.3g} in a logit", file=sys.stderr)
        return 1
    cases = [compare(ours, theirs, images, labels, case=case, arguments=arguments) for case in arguments.cases]
    setting = {"checkpoint": dict(description), "data": arguments.data, "images": len(images), "cpu": cpu_name(),
               "batch": arguments.batch, "targets": arguments.targets, "queries": arguments.queries,
               "largest difference of a logit": difference, **theirs.versions}  # fmt: skip
    text = json.dumps({**provenance(), "setting": setting, "cases": cases}, indent=1, default=str)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    return 0


BENCHMARK = Benchmark(
    cases=_CASES,
    variants={"arinv": _prepare, "torch": functools.partial(_prepare, library="torch")},
    optional=("torch",),
)

if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"arinv: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
