"""The whitening and coloring transform at the three levels of the style pipeline, for images of 224 px.

Ours transforms a batch, by Newton-Schulz iterations or by eigendecompositions. PyTorch takes one image at a time: by
singular value decompositions, as the released code does, and by eigendecompositions, which symmetric matrices allow.
Speeds are compared per image.

Source: Li et al. 2017, section 3; Rojas-Gomez et al. 2022, section 3.3, and its released code.
"""

import dataclasses
import functools

from launch.benchmarks.measurement import Benchmark, Growth, Options, Prepared

# name -> height, width and channels of the features
LEVELS = {"conv1": (27, 27, 64), "conv2": (13, 13, 192), "conv5": (6, 6, 256)}
_TINY = (5, 5, 8)
_BATCH = 32
_SMALLEST = 1e-5  # of the singular values that count


def _features(case: str, options: Options, batch: int):
    """Returns random content and style features [B, h, w, C], not negative, as behind a ReLU."""
    import numpy as np

    shape = _TINY if options.tiny else LEVELS[case]
    rng = np.random.default_rng(0)
    return tuple(np.maximum(rng.normal(size=(batch, *shape)), 0).astype(np.float32) for _ in range(2))


def _ours(case: str, options: Options, *, method: str) -> Prepared:
    import jax

    from arinv.ops import wct
    from launch.benchmarks import jax_steps

    batch = options.batch or _BATCH
    arguments = jax.device_put(_features(case, options, batch))
    transform = functools.partial(wct.wct, method=method)
    return jax_steps.prepare_call(transform, arguments, counted=False, images=batch)


def transform_in_torch(content, style, *, method: str):
    """Returns content features [C, N] with the style's mean and covariance, in PyTorch.

    Args:
      content: [C, N].
      style: [C, N'].
      method: "svd" or "eigh".
    """
    import torch

    def decompose(matrix):
        if method == "eigh":
            return torch.linalg.eigh(matrix)
        _, values, vectors = torch.linalg.svd(matrix)
        return values, vectors.T

    def power(values, vectors, exponent):
        kept = values >= _SMALLEST
        return (vectors[:, kept] * values[kept] ** exponent) @ vectors[:, kept].T

    identity = torch.eye(len(content), device=content.device)
    centered = content - content.mean(1, keepdim=True)
    style_mean = style.mean(1, keepdim=True)
    style_centered = style - style_mean
    covariance = centered @ centered.T / (content.shape[1] - 1) + identity
    style_covariance = style_centered @ style_centered.T / (style.shape[1] - 1) + identity
    whitened = power(*decompose(covariance), -0.5) @ centered
    colored = power(*decompose(style_covariance), 0.5) @ whitened
    return (colored + style_mean).clamp(content.min(), content.max())


def _torch(case: str, options: Options, *, method: str) -> Prepared:
    import torch

    from launch.benchmarks import torch_steps

    setting = torch_steps.Setting("float32", compiled=False)
    content, style = (
        torch.from_numpy(x[0].reshape(-1, x.shape[-1]).T.copy()).to(setting.device) for x in _features(case, options, 1)
    )
    prepared = setting.prepare(lambda: transform_in_torch(content, style, method=method).sum(), {}, 1)
    # Its counter includes products but not decompositions.
    return dataclasses.replace(prepared, facts={k: v for k, v in prepared.facts.items() if k != "flops"})


BENCHMARK = Benchmark(
    cases=tuple(LEVELS),
    variants={
        "newton_schulz": functools.partial(_ours, method="newton_schulz"),
        "eigh": functools.partial(_ours, method="eigh"),
        "torch": functools.partial(_torch, method="svd"),
        "torch_eigh": functools.partial(_torch, method="eigh"),
    },
    optional=("torch", "torch_eigh"),
    asked_with={"torch_eigh": "torch"},
    growth=Growth("conv2", batches=(8, 32, 128)),
)
