"""Reports of results: tables in Markdown, and an HTML page with tables and embedded figures."""

import base64
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from arinv.experiment.writer import write_text

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


def write(
    workdir: pathlib.Path,
    title: str,
    tables: Sequence[Table],
    notes: Sequence[str],
    *,
    text: str = "",
    pictures: Mapping[str, pathlib.Path] | None = None,
) -> None:
    """Writes table.md and, with pictures, report.html with the same tables and the pictures.

    Args:
      workdir: directory of both files.
      title: heading of both.
      tables: in order.
      notes: paragraphs below the tables.
      text: paragraph above the tables, in the page only.
      pictures: heading -> PNG file; None for no page.
    """
    blocks = [f"# {title}", *(table.markdown().rstrip("\n") for table in tables), *notes]
    write_text(workdir / "table.md", "\n\n".join(blocks) + "\n")
    if pictures is None:
        return
    body = [f"<p>{html.escape(text)}</p>" if text else "", *(table.html() for table in tables)]
    body += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    body += [_picture(heading, path) for heading, path in pictures.items()]
    write_text(workdir / "report.html", _PAGE.format(title=html.escape(title), body="\n".join(body)))


def _line(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in cells) + "</tr>"


def _picture(heading: str, path: pathlib.Path) -> str:
    heading, encoded = html.escape(heading), base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{heading}</h2>\n<p><img alt="{heading}" src="data:image/png;base64,{encoded}"></p>'
