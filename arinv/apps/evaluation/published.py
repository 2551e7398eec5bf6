"""Published figures beside measured ones: their columns in a table, and whether both change in the same direction.

A config's field `published` is empty, or holds
  source    paper and table
  setting   what the figures were measured on
  remarks   on the figures themselves; may be empty
  rows      each {"row": name of the row, "quoted": its name in the paper, "note": text, "values": {metric:
            {"value": number, "std": number or None, "text": as printed}}}
  pairs     (row, row) whose difference the paper is about
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from arinv import metrics
from arinv.apps.evaluation import result_rows
from arinv.errors import UserError
from arinv.experiment import report

_MARK = " \N{DAGGER}"


def check(published: Mapping[str, Any]) -> None:
    """Checks the field `published` of a config.

    Raises:
      UserError: a part is missing, or a pair names no row.
    """
    if not published:
        return
    for name in ("source", "setting", "remarks", "rows", "pairs"):
        if name not in published:
            raise UserError(f"published has no {name}; it needs source, setting, remarks, rows and pairs")
    names = []
    for row in published["rows"]:
        if not {"row", "quoted", "note", "values"} <= row.keys():
            raise UserError(f"published.rows: {row} needs row, quoted, note and values")
        names.append(row["row"])
    for name in (name for pair in published["pairs"] for name in pair):
        if name not in names:
            raise UserError(f"published.pairs: {name!r} is not one of the rows {', '.join(names)}")


class Change(NamedTuple):
    """The difference of two rows in one metric.

    Attributes:
      first: name of the row that is subtracted.
      second: name of the other row.
      metric: as it is published.
      measured: the difference in the measured figures.
      published: the difference in the published figures.
    """

    first: str
    second: str
    metric: str
    measured: float
    published: float

    @property
    def is_same(self) -> bool:
        """Whether both differences have the same sign."""
        return bool(np.sign(self.measured) == np.sign(self.published))


def table(measured: Mapping[str, result_rows.Row], published: Mapping[str, Any]) -> report.Table:
    """Returns measured figures with the published ones beside them, in the order of the paper, then the other rows.

    Args:
      measured: name -> row.
      published: the config's field; empty for none.
    """
    quoted = {row["row"]: row for row in published["rows"]} if published else {}
    names = [name for row in measured.values() for name in result_rows.columns(row)]
    published_names = {name for row in quoted.values() for name in row["values"]}
    columns = report.columns(dict.fromkeys([*names, *sorted(published_names)]))
    heading = ["row"] if quoted else ["encoder"]
    for metric, column in columns.items():
        heading += [column.heading] * (metric in names) + [f"{column.heading}, published"] * (metric in published_names)
    if quoted:
        heading.append("published as")
    lines = []
    for name in dict.fromkeys([*quoted, *measured]):
        row, other = measured.get(name, {}), quoted.get(name)
        line = [name if name in measured else f"{name}{_MARK}"]
        for metric, column in columns.items():
            if metric in names:
                line.append(column.cell(row, metric))
            if metric in published_names:
                line.append(other["values"].get(metric, {}).get("text", "-") if other else "-")
        if quoted:
            line.append("; ".join(filter(None, (other["quoted"], other["note"]))) if other else "-")
        lines.append(line)
    return report.Table(heading, lines)


def changes(measured: Mapping[str, result_rows.Row], published: Mapping[str, Any]) -> list[Change]:
    """Returns the differences of the published pairs that are measured too, metric by metric, where there is one.

    Gram losses of different networks are compared, of which only the direction can agree.
    """
    result = []
    quoted = {row["row"]: row["values"] for row in published["rows"]} if published else {}
    for first, second in published["pairs"] if published else ():
        if first not in measured or second not in measured:
            continue
        for metric in quoted[first]:
            own = _own_metric(metric, measured[first], measured[second])
            difference = quoted[second].get(metric, quoted[first][metric])["value"] - quoted[first][metric]["value"]
            if own and difference:
                result.append(Change(first, second, metric, measured[second][own] - measured[first][own], difference))
    return result


def changes_table(changes: Sequence[Change]) -> report.Table:
    """Returns the differences as a table, a line for each pair of rows."""
    columns = report.columns(dict.fromkeys(change.metric for change in changes))
    by_pair: dict[tuple[str, str], dict[str, str]] = {}
    for change in changes:
        style = columns[change.metric].style.replace("{:", "{:+")
        text = (
            f"{style.format(change.measured)} / {style.format(change.published)}: {'yes' if change.is_same else 'no'}"
        )
        by_pair.setdefault((change.first, change.second), {})[change.metric] = text
    heading = ["same sign as published", *(column.heading for column in columns.values())]
    lines = [[f"{a} to {b}", *(cells.get(metric, "-") for metric in columns)] for (a, b), cells in by_pair.items()]
    return report.Table(heading, lines)


def notes(published: Mapping[str, Any], changes: Sequence[Change], *, is_marked: bool) -> list[str]:
    """Returns what the published figures are, and how many of their directions were found again.

    Args:
      published: the config's field, not empty.
      changes: as returned by `changes`.
      is_marked: whether a row is published only.
    """
    text = f"Published: {published['source']}: {published['setting']}."
    if published["remarks"]:
        text += f" {published['remarks']}"
    if is_marked:
        text += f"{_MARK} Published figures only; not run here."
    if not changes:
        return [text]
    same = sum(change.is_same for change in changes)
    return [
        text,
        f"Differences between rows, measured / published: {same} of {len(changes)} have the sign of the published one.",
    ]


def _own_metric(metric: str, *measured: Mapping[str, Any]) -> str:
    """Returns the measured metric that corresponds to a published one; empty for none."""
    shared = [name for name in result_rows.columns(measured[0]) if all(name in row for row in measured)]
    if metric in shared:
        return metric
    stem = metric.partition("_")[0]
    has_networks = stem in metrics.METRICS and metrics.METRICS[stem].networks
    return next((name for name in shared if has_networks and name.startswith(f"{stem}_")), "")
