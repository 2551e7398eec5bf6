"""What a reader sees of an evaluated style transfer: numbers of every pair, a table, a page with the contact sheets."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arinv.tasks import page
from arinv.train.array_files import write_arrays
from arinv.train.writer import write_text


def write_pairs(
    workdir: pathlib.Path,
    contents: Sequence[str],
    styles: Sequence[str],
    pairs: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Writes the numbers of every pair to per_pair.csv and per_pair.npz.

    Args:
      workdir: where they go.
      contents: names of the contents.
      styles: names of the styles.
      pairs: entry -> metric -> [contents, styles].
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = list(next(iter(pairs.values())))
    lines.writerow(["encoder", "content", "style", *names])
    for entry, values in pairs.items():
        for i, content in enumerate(contents):
            for j, style in enumerate(styles):
                numbers = [f"{values[name][i, j]:.6g}" for name in names]
                lines.writerow([entry, content, style, *numbers])
    write_text(workdir / "per_pair.csv", text.getvalue())
    arrays = {f"{entry}/{name}": one for entry, values in pairs.items() for name, one in values.items()}
    names = {"contents": np.array(contents), "styles": np.array(styles)}
    write_arrays(workdir / "per_pair.npz", arrays | names)


def write_page(title: str, workdir: pathlib.Path, source: pathlib.Path, results: Mapping[str, Any], key: str) -> None:
    """Writes the table of the entries, and a page of the table with the contact sheets.

    Args:
      title: heading of both.
      workdir: where table.md and report.html go.
      source: workdir of the stylization.
      results: of the evaluation.
      key: name of the Gram loss.
    """
    heading = ["encoder", f"Gram loss ({key.removeprefix('gram_')})", "SSIM"]
    rows = [
        [entry, _text(values, key, ".4g"), _text(values, "ssim", ".3f")] for entry, values in results["entries"].items()
    ]
    note = (
        f"{results['num_contents']} contents x {results['num_styles']} styles; means ± standard deviations over pairs. "
        f"The Gram loss is to the style (lower is closer to it), SSIM to the content (1 for the content itself). "
        f"{results['variants'][key]}; {results['setting']['device']}, {results['setting']['dtype']}."
    )
    sheets = [path for path in (source / "side_by_side.png", *sorted(source.glob("sheet_*.png"))) if path.exists()]
    shown = {path.stem.replace("_", " "): path for path in sheets}
    page.write(workdir, title, [page.Table(heading, rows)], [note], pictures=shown)


def _text(values: Mapping[str, float], name: str, style: str) -> str:
    return f"{values[name]:{style}} ± {values[f'{name}_std']:{style}}"
