"""The figures that the paper prints: published.json, as reports show them beside measured ones."""

import json
import pathlib

_FILE = pathlib.Path(__file__).with_name("published.json")
_FACTORS = {"%": 0.01, "M": 1e6}  # of units that results do not have


def load() -> dict:
    """Returns the content of published.json."""
    return json.loads(_FILE.read_text(encoding="utf-8"))


def labels(number: str) -> list[str]:
    """Returns the names of a table's rows, such as "standard pixel", in its order."""
    return list(load()["tables"][number]["rows"])


def table(number: str, names: dict[str, str] | None = None) -> dict:
    """Returns the field `published` of a report.

    Args:
      number: number of the table, such as "1" or "A2"; of another paper after its name.
      names: name of a row in published.json -> name of the measured row that it stands beside; None: the same names.
    """
    document = load()
    content, names = document["tables"][number], names or {}
    rows = []
    for name, row in content["rows"].items():
        values = {
            metric: _value(row[metric], unit) for metric, (_, unit) in content["columns"].items() if metric in row
        }
        own = names.get(name, name)
        rows.append({"row": own, "quoted": row["row"], "note": row.get("note", ""), "values": values})
    return {
        "source": f"{content.get('short', document['short'])}, Table {_number(number)} ({content['version']})",
        "setting": content["setting"],
        "remarks": content["remarks"],
        "rows": tuple(rows),
        "pairs": tuple(tuple(names.get(name, name) for name in pair) for pair in content["pairs"]),
    }


def title(number: str) -> str:
    """Returns the heading of a table's report."""
    content = load()["tables"][number]
    paper = f" of {content['short']}" if "short" in content else ""
    return f"{content['title']} (Table {_number(number)}{paper})"


def _number(number: str) -> str:
    """Returns the number of a table without the name of its paper."""
    return number.rpartition(" ")[2]


def _value(quoted, unit: str) -> dict:
    """Returns a figure in the unit of results, its standard deviation (None for none), and the text as printed."""
    mean, std = quoted if isinstance(quoted, list) else (quoted, None)
    factor, mark = _FACTORS.get(unit, 1.0), unit if unit in _FACTORS else ""
    text = f"{mean}{mark}" if std is None else f"{mean} \N{PLUS-MINUS SIGN} {std}"
    return {"value": mean * factor, "std": None if std is None else std * factor, "text": text}
