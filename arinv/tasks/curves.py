"""Curves as a picture. The door to matplotlib, which is imported when a picture is drawn."""

import io
import pathlib
from collections.abc import Mapping, Sequence

from arinv.train.writer import write_atomically

_PANEL = (4.6, 3.6)  # inches
_DOTS_PER_INCH = 120


def write_curves(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    x: Sequence[float],
    x_label: str,
    title: str,
) -> None:
    """Draws one panel for each quantity, in it one curve for each name, and writes a PNG atomically.

    Args:
      path: of the picture.
      panels: quantity -> {name: its values at `x`}; a name has the same colour in every panel.
      x: whole numbers, where the values are.
      x_label: what they are.
      title: above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL[0] * len(panels), _PANEL[1] + 0.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (quantity, curves) in zip(axes, panels.items(), strict=True):
        for name, values in curves.items():
            axis.plot(x, values, marker="o", markersize=4, label=name)
        axis.set(xlabel=x_label, ylabel=quantity, xticks=list(x))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=_DOTS_PER_INCH)
    write_atomically(path, buffer.getvalue())
