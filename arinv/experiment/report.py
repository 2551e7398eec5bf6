"""Reports of results: tables as Markdown, an HTML page with figures, and the texts that the reports of tasks share."""

import base64
import html
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from arinv import metrics
from arinv.experiment.output_files import write_text
from arinv.types import ArrayLike

# metric -> (heading, format), in the order of the columns. A longer name, such as robust_lpips_resnet18, has one of
# these before its "_"; the rest goes into the heading.
_COLUMNS = {
    "clean_accuracy": ("clean accuracy", "{:.1%}"),
    "pgd_accuracy": ("PGD accuracy", "{:.1%}"),
    "autoattack_accuracy": ("AutoAttack accuracy", "{:.1%}"),
    "auroc": ("AUROC", "{:.4f}"),
    "parameters": ("trained parameters", "{:,.0f}"),
    "seconds_per_image": ("seconds an image", "{:.3g}"),
}


# What results side by side should share, beside the options of their attack.
_SHARED: dict[str, Callable[[Mapping], Any]] = {
    "number of images": lambda results: results["num_images"],
    "dataset": lambda results: results["setting"]["data"],
    "dtype": lambda results: results["setting"]["dtype"],
    "seed": lambda results: results["setting"]["seed"],
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .35rem .9rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; image-rendering: pixelated; }}
.note {{ color: #666; font-size: .9rem; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


class Table(NamedTuple):
    """A table of text cells.

    Attributes:
      heading: of the columns; the first column holds the names of the rows.
      rows: each as long as the heading.
    """

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Returns the table as Markdown, with right-aligned numbers."""
        lines = [self.heading, ["---", *["---:"] * (len(self.heading) - 1)], *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def html(self) -> str:
        """Returns the table as HTML."""
        lines = [_line("th", self.heading), *(_line("td", row) for row in self.rows)]
        return f"<table>{''.join(lines)}</table>"


def write_report(
    workdir: pathlib.Path,
    title: str,
    tables: Sequence[Table],
    *,
    notes: Sequence[str] = (),
    figures: Mapping[str, pathlib.Path] = MappingProxyType({}),
    text: str = "",
) -> pathlib.Path:
    """Writes table.md and report.html, the same tables above the figures, and returns the path of the second.

    Args:
      workdir: directory of both files.
      title: heading of both.
      tables: in order.
      notes: paragraphs below the tables.
      figures: heading -> PNG file, in report.html only.
      text: a paragraph above the tables, in report.html only.
    """
    blocks = [f"# {title}", *(table.markdown().rstrip("\n") for table in tables), *notes]
    write_text(workdir / "table.md", "\n\n".join(blocks) + "\n")
    body = [f"<p>{html.escape(text)}</p>" if text else "", *(table.html() for table in tables)]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    body += [_figure(heading, path) for heading, path in figures.items()]
    path = workdir / "report.html"
    write_text(path, _PAGE.format(title=html.escape(title), body="\n".join(body)))
    return path


class Column(NamedTuple):
    """How a metric is shown in tables.

    Attributes:
      place: position of the column among the others.
      heading: with the rest of a longer name in brackets.
      style: format of a number, such as "{:.2f}".
    """

    place: int
    heading: str
    style: str

    def cell(self, results: Mapping[str, Any], metric: str) -> str:
        """Returns "mean ± standard deviation" of a metric, the mean alone without NAME_std, "-" without either."""
        if metric not in results:
            return "-"
        text = self.style.format(results[metric])
        return f"{text} ± {self.style.format(results[f'{metric}_std'])}" if f"{metric}_std" in results else text


def column(metric: str) -> Column:
    """Returns how a metric is shown in tables."""
    known = _COLUMNS | {name: (row.heading, row.format) for name, row in metrics.METRICS.items()}
    if metric in known:
        return Column(list(known).index(metric), *known[metric])
    for place, (name, (heading, style)) in enumerate(known.items()):
        if metric.startswith(f"{name}_"):
            return Column(place, f"{heading} ({metric.removeprefix(f'{name}_')})", style)
    heading = metric.replace("_", " ")
    return Column(1, heading, "{:.1%}") if "_accuracy" in metric else Column(len(known), heading, "{:.4g}")


def columns(names: Sequence[str]) -> dict[str, Column]:
    """Returns the columns of metrics, in the order of tables."""
    return dict(sorted(((name, column(name)) for name in names), key=lambda item: (item[1].place, item[0])))


def metric_table(first: str, columns: Mapping[str, Column], entries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table with a row for each entry and a column for each metric.

    Args:
      first: heading of the first column, which holds the names of the entries.
      columns: metric -> its column.
      entries: name -> results with the metrics.
    """
    heading = [first, *(column.heading for column in columns.values())]
    rows = [
        [name, *(column.cell(entry, metric) for metric, column in columns.items())] for name, entry in entries.items()
    ]
    return Table(heading, rows)


def summarize(values: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Returns metric -> mean and metric_std -> standard deviation of the values [N] of each metric."""
    results = {}
    for name, numbers in values.items():
        summary = metrics.summary(numbers)
        results |= {name: summary["mean"], f"{name}_std": summary["std"]}
    return results


def setting_text(setting: Mapping[str, Any]) -> str:
    """Returns device, dtype and seed of results["setting"], for a note below a table."""
    return f"{setting['device']}, {setting['dtype']}, seed {setting['seed']}"


def weights_note(weights: Mapping[str, Mapping[str, str]]) -> str:
    """Returns a warning for each metric whose entries were measured with different networks; empty for none.

    Args:
      weights: entry -> metric -> fingerprint of the network whose features the metric compares.
    """
    by_metric: dict[str, set[str]] = {}
    for fingerprints in weights.values():
        for metric, fingerprint in fingerprints.items():
            by_metric.setdefault(metric, set()).add(fingerprint)
    return "".join(
        f" {column(metric).heading} was measured through networks of different weights: its values cannot be compared."
        for metric, fingerprints in by_metric.items()
        if len(fingerprints) > 1
    )


def differences(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a sentence for everything that results side by side should share and do not.

    Args:
      results: entry -> results of an evaluation.
    """
    shared = {name: {entry: of(result) for entry, result in results.items()} for name, of in _SHARED.items()}
    attacks = {entry: result["attack"] for entry, result in results.items() if result["attack"]}
    shared["attack"] = {entry: "yes" if entry in attacks else "none" for entry in results}
    for option in dict.fromkeys(option for attack in attacks.values() for option in attack):
        shared[f"{option} of the attack"] = {entry: attack.get(option, "none") for entry, attack in attacks.items()}
    text = ""
    for name, values in shared.items():
        if len({str(value) for value in values.values()}) > 1:
            pairs = ", ".join(f"{entry}: {_value_text(value)}" for entry, value in values.items())
            text += f" The {name} is not the same in all rows: {pairs}."
    return text


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in cells) + "</tr>"


def _figure(heading: str, path: pathlib.Path) -> str:
    heading, encoded = html.escape(heading), base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{heading}</h2>\n<p><img alt="{heading}" src="data:image/png;base64,{encoded}"></p>'
