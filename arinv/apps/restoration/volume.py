"""A volume restored slice by slice: the slices of a finished restoration stacked, and cut across another axis.

Writes results.json and table.md (for each method porosity and its error, invented and lost pores as voxels, shares and
connected pores), report.html, cuts.png (cuts across config.axis of the true volume and of each method's, and with
invented pores in red, lost ones in blue) and volumes.npz ("image" and each method, uint8 [D, H, W]).

Source: Generative Encoder, section 5.3 and Figure 12.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from arinv.apps.restoration import pores
from arinv.apps.restoration.truth_table import check_restored, read_restored
from arinv.errors import UserError
from arinv.experiment import report, workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.figures import labeled_grid
from arinv.experiment.output_files import write_arrays, write_png
from arinv.experiment.run import Run
from arinv.ops.images import to_uint8
from arinv.ops.inputs import check_number

_VARIANTS = {
    "porosity": "porosity: share of the voxels that are darker than the threshold",
    "porosity_error": "porosity_error: porosity less that of the true volume",
    "invented_share": "invented_share: share of the voxels that are pores in the restored volume alone",
    "lost_share": "lost_share: share of the voxels that are pores in the true volume alone",
}


def check(config: ConfigDict) -> None:
    """Checks everything that needs no finished run.

    Raises:
      UserError: no method, or an axis or a threshold out of range.
    """
    check_fields(config)
    if not config.methods:
        raise UserError("methods is empty; name methods of the restoration")
    if not config.restoration:
        raise UserError("restoration is empty; name the workdir of a finished restoration of slices")
    if config.axis not in (1, 2):
        raise UserError(f"axis={config.axis!r} must be 1 or 2; the slices were cut across axis 0")
    check_number(config.threshold, "threshold", minimum=0.0, maximum=1.0)


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that the restoration exists or is a stage.

    Raises:
      UserError: it is not finished, or lacks a method.
    """
    check_restored(run, run.config.restoration, run.config.methods)


def run(run: Run) -> dict[str, Any]:
    """Stacks the slices, compares their pores, and returns the results.

    Args:
      run: a run of configs/volume.py.

    Raises:
      UserError: a restoration that is not finished, lacks a method, or is of images in color.
    """
    config = run.config
    images = read_restored(run, config.restoration, config.methods)
    if images["image"].shape[-1] != 1:
        raise UserError(f"{config.restoration} restored images in color; a volume is stacked from grey slices")
    run.begin()
    volumes = {name: array[..., 0] for name, array in images.items()}
    true = volumes["image"]
    comparisons = {
        name: pores.compare_pores(volumes[name], true, threshold=config.threshold) for name in config.methods
    }
    write_arrays(run.workdir / "volumes.npz", {name: np.asarray(to_uint8(array)) for name, array in volumes.items()})
    results = {
        "entries": {name: _entry(result) for name, result in comparisons.items()},
        "variants": _VARIANTS,
        "num_images": len(true),
        "shape": list(true.shape),
        "axis": config.axis,
        "threshold": config.threshold,
        "restoration": workdirs.relative(run.resolve(config.restoration), run.workdir),
    }
    figures = _write_figure(run, volumes)
    return run.finish(results, tables=[_table(comparisons)], notes=[_note(config, true.shape)], figures=figures)


def _entry(result: pores.Pores) -> dict[str, float]:
    shares = {"invented_share": result.invented / result.voxels, "lost_share": result.lost / result.voxels}
    return {**result._asdict(), "porosity_error": result.error, **shares}


def _table(comparisons: Mapping[str, pores.Pores]) -> report.Table:
    heading = ["", "porosity", "error", "invented voxels", "lost voxels", "invented pores", "lost pores"]
    first = next(iter(comparisons.values()))
    rows = [["true volume", f"{first.true_porosity:.2%}", *["-"] * 5]]
    for name, result in comparisons.items():
        shares = (f"{count:,} ({count / result.voxels:.2%})" for count in (result.invented, result.lost))
        numbers = f"{result.porosity:.2%}", f"{100 * result.error:+.2f} points"
        rows.append([name.replace("_", " "), *numbers, *shares, f"{result.invented_pores:,}", f"{result.lost_pores:,}"])
    return report.Table(heading, rows)


def _note(config: ConfigDict, shape: Sequence[int]) -> str:
    sides = " x ".join(map(str, shape))
    note = (
        f"{sides} voxels of {config.data.name}, restored slice by slice across axis 0; pores are darker than "
        f"{config.threshold:g}. Invented: pores of the restored volume alone; connected pores count where no voxel of "
        "theirs is a pore in the other volume."
    )
    if config.data.name == "blobs":
        note += " The volume is synthetic, a thresholded Gaussian random field, not a scan."
    return note


def _write_figure(run: Run, volumes: Mapping[str, np.ndarray]) -> dict[str, pathlib.Path]:
    """Writes the cuts, and returns the heading of the figure -> its file; empty for none."""
    config = run.config
    if not config.log.num_images:
        return {}
    cuts = {name: pores.cut(volume, axis=config.axis, count=config.log.num_images) for name, volume in volumes.items()}
    grid = {name.replace("_", " "): array[..., None] for name, array in cuts.items()}
    grid |= {
        f"{name.replace('_', ' ')}, marked": pores.mark(cuts[name], cuts["image"], threshold=config.threshold)
        for name in config.methods
    }
    write_png(run.workdir / "cuts.png", labeled_grid(grid))
    return {f"Cuts across axis {config.axis}; invented pores red, lost pores blue": run.workdir / "cuts.png"}
