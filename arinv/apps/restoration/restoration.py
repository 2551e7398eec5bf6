"""Restoration of degraded images by several methods from the same starts: autoencoder, invertGAN, Generative Encoder.

"autoencoder"         D(E(x+)), one pass of an autoencoder
"invertgan"           the generator's image nearest to x+: the search with the identity as E
"generative_encoder"  the search that compares codes of the autoencoder
NAME of an encoder    the search that compares features of a classifier or an inverter, such as a robust one

Writes results.json and table.md (for each method the means and standard deviations of every metric and seconds an
image), report.html, restored.png, details.png (the centres of the images, enlarged), curve.png (the error during the
search, with those of methods without a search as level lines), curves.npz and per_image.npz ("METHOD/METRIC" [N]).
Every finished batch of every method is saved in parts/, so that a run that was killed resumes.

Source: Generative Encoder, Algorithm 1, sections 4.4 to 5.4.
"""

import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics, parallel
from arinv.apps.restoration.solver import Solution, solve
from arinv.errors import UserError
from arinv.experiment import report
from arinv.experiment.figures import labelled_grid, write_curves
from arinv.experiment.run import Run, check_fields, provenance
from arinv.experiment.trained import AUTOENCODER, CLASSIFIER, GAN, INVERTER, Trained
from arinv.experiment.writer import progress_bar, write_arrays, write_png
from arinv.ops.degradations import Operator, build_operator, image_keys
from arinv.ops.images import to_float
from arinv.ops.inputs import check_count, check_number
from arinv.ops.latents import draw_starts
from arinv.types import Array

PASS, INVERTGAN, SEARCH = "autoencoder", "invertgan", "generative_encoder"
_DEGRADED = "degraded"
_SECONDS = "seconds_per_image"
_METRICS: Mapping[str, Callable[[Array, Array], Array]] = {
    "mse": metrics.mean_squared_error,
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
}
_DEGRADE, _START = range(2)  # PRNG streams

ONE_PROCESS = True


def check(config: ConfigDict) -> None:
    """Checks everything that needs no data and no checkpoint.

    Raises:
      UserError: an unknown name, a number out of range, or no method.
    """
    check_fields(config)
    build_operator(config.operator.name, **config.operator.options.to_dict())
    solver = config.solver
    for name in ("num_steps", "num_starts"):
        check_count(solver[name], f"solver.{name}")
    for name in ("learning_rate", "penalty", "threshold"):
        check_number(solver[name], f"solver.{name}", least=0.0)
    known = (PASS, INVERTGAN, SEARCH, *config.encoders)
    for name in config.methods:
        if name not in known:
            raise UserError(f"unknown method {name!r}; known: {', '.join(known)}")
    if not config.methods:
        raise UserError(f"methods is empty; name some of {', '.join(known)}")
    if not config.gan and set(config.methods) != {PASS}:
        raise UserError("gan is empty; name the workdir of a GAN's training, such as runs/gan/size32")
    if not config.autoencoder and {PASS, SEARCH} & set(config.methods):
        raise UserError("autoencoder is empty; name the workdir of an autoencoder's training")


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the networks exist and are for images of this task's size, or will be.

    Raises:
      UserError: no checkpoint, or one of another kind or image size.
    """
    config = run.config
    kinds = {config.gan: GAN, config.autoencoder: AUTOENCODER}
    kinds |= dict.fromkeys(config.encoders.values(), (INVERTER, CLASSIFIER))
    for reference, kind in kinds.items():
        if reference.startswith("stage:"):
            run.check_planned_size(reference)
        elif reference:
            run.load(reference, kind=kind, image_size=config.data.image_size)


def run(run: Run) -> dict[str, Any]:
    """Degrades the test images, restores them by every method, and returns the results.

    Args:
      run: of configs/restoration.py.

    Raises:
      UserError: a missing network, or images of another size.
    """
    config = run.config
    operator = build_operator(config.operator.name, **config.operator.options.to_dict())
    networks = _load(run)
    arrays = data.load_arrays(run.open_data("test"))
    batches = data.eval_batches(arrays, batch_size=config.batch_size)
    run.begin()
    checksum = str(zlib.crc32(arrays["image"]))
    parts = {}
    for method in config.methods:
        restore = _method(run, method, networks, operator)
        cache = run.cache(f"parts/{method}", *_fingerprints(method, networks), checksum)
        rows = []
        for number, batch in enumerate(progress_bar(batches, f"{config.title}: {method}", unit="batch")):
            part = cache.load(str(number))
            if part is None:
                part = restore(batch, np.arange(number * config.batch_size, (number + 1) * config.batch_size))
                cache.save(str(number), part)
            rows.append({name: value[batch["mask"] > 0] for name, value in part.items() if name != _SECONDS})
            rows[-1][_SECONDS] = np.full(len(rows[-1]["image"]), part[_SECONDS])
        parts[method] = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    images = np.asarray(to_float(arrays["image"]))
    degraded = np.asarray(_degrade(run, operator, images, np.arange(len(images))))
    values = {_DEGRADED: _measure(np.clip(degraded, 0, 1), images)}
    values |= {method: _measure(part["image"], images) for method, part in parts.items()}
    results = _results(run, operator, networks, parts, values)
    _write(run, results, parts, values, images, degraded)
    return run.finish(results)


def _load(run: Run) -> dict[str, Trained]:
    """Returns the networks of the methods: "gan", "autoencoder" and the encoders by name.

    Raises:
      UserError: a missing network, or one of another image size.
    """
    config, size = run.config, run.config.data.image_size
    networks = {}
    if config.gan and set(config.methods) != {PASS}:
        networks[GAN] = run.load(config.gan, kind=GAN, image_size=size)
    if {PASS, SEARCH} & set(config.methods):
        networks[AUTOENCODER] = run.load(config.autoencoder, kind=AUTOENCODER, image_size=size)
    for name, reference in config.encoders.items():
        if name in config.methods:
            networks[name] = run.load(reference, kind=(INVERTER, CLASSIFIER), image_size=size)
    return networks


def _fingerprints(method: str, networks: Mapping[str, Trained]) -> list[str]:
    names = {PASS: [AUTOENCODER], INVERTGAN: [GAN], SEARCH: [AUTOENCODER, GAN]}.get(method, [method, GAN])
    return [networks[name].fingerprint for name in names]


def _encode_fn(method: str, networks: Mapping[str, Trained]) -> Callable[[Array], Array]:
    """Returns E of a search."""
    if method == INVERTGAN:
        return jax.tree_util.Partial(_identity)
    return networks[AUTOENCODER if method == SEARCH else method].encode_fn


def _identity(images: Array) -> Array:
    return images


def _degrade(run: Run, operator: Operator, images: Array, indices: np.ndarray) -> Array:
    keys = image_keys(jax.random.fold_in(run.key, _DEGRADE), jnp.asarray(indices))
    return operator.degrade(keys, jnp.asarray(images))


def _method(run: Run, method: str, networks: Mapping[str, Trained], operator: Operator) -> Callable:
    """Returns (batch, numbers of its images) -> {"image": [B, H, W, 3], "error": [B, T + 1], _SECONDS: []}."""
    solver = run.config.solver
    if method == PASS:
        autoencoder = networks[AUTOENCODER]
        step = jax.jit(
            lambda network, images, indices: network[1](network[0](_degrade(run, operator, images, indices)))
        )
        functions = autoencoder.encode_fn, autoencoder.decode_fn
    else:
        gan = networks[GAN]

        @jax.jit
        def step(functions, images, indices):
            keys = image_keys(jax.random.fold_in(run.key, _DEGRADE), indices)
            starts = draw_starts(
                jax.random.fold_in(run.key, _START),
                indices,
                latent_size=gan.module.latent_size,
                law=gan.module.law,
                num_starts=solver.num_starts,
            )
            return solve(
                functions[1],
                functions[0],
                operator.degrade(keys, images),
                starts if solver.num_starts > 1 else starts[:, 0],
                project_fn=lambda generated: operator.project(keys, generated),
                num_steps=solver.num_steps,
                learning_rate=solver.learning_rate,
                penalty=solver.penalty,
                threshold=solver.threshold,
                truth=images,
            )

        functions = _encode_fn(method, networks), gan.decode_fn
    functions = jax.device_put(functions, parallel.replicated(run.mesh))
    compiled = []

    def restore(batch, indices):
        images = to_float(parallel.place_batch({"image": batch["image"]}, run.mesh)["image"])
        indices = parallel.place_batch({"row": indices.astype(np.int32)}, run.mesh)["row"]
        if not compiled:
            compiled.append(step.lower(functions, images, indices).compile())
        started = time.perf_counter()
        result = jax.block_until_ready(compiled[0](functions, images, indices))
        seconds = np.array((time.perf_counter() - started) / len(indices))
        if isinstance(result, Solution):
            error, steps = np.asarray(result.errors).T, np.asarray(result.num_steps)
            image = np.clip(np.asarray(result.images), 0, 1)
            return {"image": image, "error": error, "num_steps": steps, _SECONDS: seconds}
        return {"image": np.clip(np.asarray(result), 0, 1), _SECONDS: seconds}

    return restore


def _measure(restored: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.asarray(metric(restored, images)) for name, metric in _METRICS.items()}


def _results(
    run: Run,
    operator: Operator,
    networks: Mapping[str, Trained],
    parts: Mapping[str, Mapping[str, np.ndarray]],
    values: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    entries = {name: report.summarize(numbers) for name, numbers in values.items()}
    for entry in entries.values():
        entry["mse_pm1"] = 4 * entry["mse"]
    for method, part in parts.items():
        entries[method][_SECONDS] = float(part[_SECONDS].mean())
        if "num_steps" in part:
            entries[method]["mean_steps"] = float(part["num_steps"].mean())
    return {
        "entries": entries,
        "operator": {**run.config.operator.to_dict(), "formula": operator.formula},
        "solver": run.config.solver.to_dict(),
        "networks": {name: network.fingerprint for name, network in networks.items()},
        "batch_size": run.config.batch_size,
        "num_examples": len(next(iter(values.values()))["mse"]),
        "variants": {
            **{name: metrics.VARIANTS[name] for name in _METRICS},
            "mse_pm1": "mse of images in [-1, 1], 4 times that of images in [0, 1]",
        },
    }


def _write(
    run: Run,
    results: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, np.ndarray]],
    values: Mapping[str, Mapping[str, np.ndarray]],
    images: np.ndarray,
    degraded: np.ndarray,
) -> None:
    workdir, count = run.workdir, min(run.config.log.num_images, len(images))
    write_arrays(
        workdir / "per_image.npz", {f"{n}/{m}": array for n, part in values.items() for m, array in part.items()}
    )
    figures = {}
    if count:
        rows = {"image": images[:count], _DEGRADED: np.clip(degraded[:count], 0, 1)}
        rows |= {method.replace("_", " "): part["image"][:count] for method, part in parts.items()}
        write_png(workdir / "restored.png", labelled_grid(rows))
        quarter = images.shape[1] // 4
        centre = slice(quarter, images.shape[1] - quarter)
        write_png(workdir / "details.png", labelled_grid({n: row[:, centre, centre] for n, row in rows.items()}))
        figures = {"Restored images": workdir / "restored.png", "Their centres": workdir / "details.png"}
    curves = {method: part["error"].mean(axis=0) for method, part in parts.items() if "error" in part}
    if curves:
        write_arrays(workdir / "curves.npz", curves)
        length = len(next(iter(curves.values())))
        positions = sorted({round(i) for i in np.linspace(0, length - 1, min(length, 8))})
        lines = {method: np.log10(curve[positions]) for method, curve in curves.items()}
        level = {name: np.full(len(positions), np.log10(numbers["mse"].mean())) for name, numbers in values.items()}
        lines |= {name: line for name, line in level.items() if name not in curves}
        panels = {"log10 of the mean squared error": lines}
        write_curves(workdir / "curve.png", panels, x=positions, x_label="step of the search", title=run.config.title)
        figures["Error during the search"] = workdir / "curve.png"
    report.write(workdir, run.config.title, [_table(results)], [_note(run, results)], images=figures or None)


def _table(results: Mapping[str, Any]) -> report.Table:
    columns = report.columns([*_METRICS, _SECONDS])
    heading = ["method", *(column.heading for column in columns.values())]
    rows = [
        [name.replace("_", " "), *(column.cell(entry, metric) for metric, column in columns.items())]
        for name, entry in results["entries"].items()
    ]
    return report.Table(heading, rows)


def _note(run: Run, results: Mapping[str, Any]) -> str:
    setting, solver = provenance(run.config), results["solver"]
    return (
        f"{results['num_examples']} test images of {setting['data']}, degraded: {results['operator']['formula']}; "
        f"{report.setting_text(setting)}, batches of {results['batch_size']}, compilation not counted; ± is the "
        f"standard deviation over images. Search: Adam at {solver['learning_rate']:g}, {solver['num_steps']} steps, "
        "the same starts for all methods. Squared errors of images in [-1, 1] are 4 times these."
    )
