"""What an evaluation of denoisers leaves for readers: a table for each set, every number, and crops to look at."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arinv import metrics
from arinv.tasks import page
from arinv.tasks.picture_windows import short_names
from arinv.tasks.pictures import labelled_grid
from arinv.train.array_files import write_arrays
from arinv.train.writer import write_png

# metric -> (heading, format); a longer name begins with one of these.
_COLUMNS = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "mse": ("MSE", "{:.5f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "robust_lpips": ("robust LPIPS", "{:.3f}"),
    "gram": ("Gram loss", "{:.3g}"),
}


def summarize(per_image: Mapping[str, Mapping[str, np.ndarray]], rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns set -> {"num_images", row -> {metric, metric_std}}.

    Args:
      per_image: set -> metric -> [pictures, rows].
      rows: names of the restorations.
    """
    results = {}
    for name, numbers in per_image.items():
        results[name] = {"num_images": len(numbers["name"])}
        for i, row in enumerate(rows):
            found = {metric: metrics.summary(values[:, i]) for metric, values in numbers.items() if metric != "name"}
            results[name][row] = {metric: summary["mean"] for metric, summary in found.items()}
            results[name][row] |= {f"{metric}_std": summary["std"] for metric, summary in found.items()}
    return results


def write(
    workdir: pathlib.Path,
    title: str,
    results: Mapping[str, Any],
    per_image: Mapping[str, Mapping[str, np.ndarray]],
    windows: Mapping[str, np.ndarray],
    rows: Sequence[str],
) -> None:
    """Writes table.md, per_image.npz and crops.png.

    Args:
      workdir: where to.
      title: heading of the table.
      results: of the evaluation, with "sets", "variants", "noise" and "setting".
      per_image: set -> metric -> [pictures, rows].
      windows: picture -> uint8 [1 + rows, S, S, 3], the first the clean one.
      rows: names of the restorations.
    """
    tables = [_table(name, found, results["variants"]) for name, found in results["sets"].items()]
    page.write(workdir, title, tables, [_note(results)])
    arrays = {f"{name}/{metric}": values for name, part in per_image.items() for metric, values in part.items()}
    write_arrays(workdir / "per_image.npz", arrays | {"rows": np.array(rows)})
    if windows:
        shown = np.stack(list(windows.values()), axis=1)
        grid = labelled_grid(dict(zip(("clean", *rows), shown, strict=True)), columns=short_names(list(windows)))
        write_png(workdir / "crops.png", grid)


def _table(name: str, found: Mapping[str, Any], variants: Mapping[str, str]) -> page.Table:
    columns = {metric: _column(metric) for metric in variants}
    heading = [f"{name} ({found['num_images']} pictures)", *(text for text, _ in columns.values())]
    rows = []
    for row, numbers in found.items():
        if row != "num_images":
            cells = (f"{s.format(numbers[m])} ± {s.format(numbers[f'{m}_std'])}" for m, (_, s) in columns.items())
            rows.append([row, *cells])
    return page.Table(heading, rows)


def _column(metric: str) -> tuple[str, str]:
    """Returns (heading, format)."""
    for known, (heading, style) in _COLUMNS.items():
        if metric == known:
            return heading, style
        if metric.startswith(f"{known}_"):
            return f"{heading} ({metric.removeprefix(f'{known}_')})", style
    return metric.replace("_", " "), "{:.4g}"


def _note(results: Mapping[str, Any]) -> str:
    setting, noise = results["setting"], results["noise"]
    text = (
        f"Noise: {noise['variant']}, sigma {noise['sigma'] * 255:g}/255. {setting['device']}, {setting['dtype']}, "
        f"seed {setting['seed']}; ± is the standard deviation over pictures."
    )
    return f"{text} BM3D: {results['bm3d']}." if "bm3d" in results else text
