"""Stylization of every content in every style, by the inverters of one encoder or of several side by side.

Writes images/ENTRY/CONTENT/STYLE.png, a contact sheet for each entry (sheet_ENTRY.png), the entries side by side
(side_by_side.png, if there are several), and results.json. A restart skips finished images, unless the weights, the
contents, the styles or the label maps have changed.

config.entries maps a name, such as "standard" or "robust", to the workdirs of the inverters of its levels; config.mix
holds weights of all styles, in the order of their names, for one image in a mixture of them; empty for one image in
each style.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from arinv import data, models
from arinv.apps.style import image_sets, label_maps
from arinv.apps.style.image_sets import Collection
from arinv.apps.style.levels import PairStylizer, check_has_positions, check_levels, columns, load_levels, shares
from arinv.apps.style.transfer import ORDERS
from arinv.errors import UserError, unknown
from arinv.experiment import workdirs
from arinv.experiment.fields import check_fields
from arinv.experiment.output_files import is_image, write_png
from arinv.experiment.run import Run
from arinv.experiment.trained import INVERTER
from arinv.experiment.writer import progress_bar
from arinv.ops import wct

KEEP_COLOR = ("no", "luminance", "match")
_MIXTURE = "mixture"


def check(config: ConfigDict) -> None:
    """Checks everything that needs no decoded images and no weights.

    Raises:
      UserError: an unknown name, a number out of range, or images or inverters that do not exist.
    """
    check_fields(config)
    image_sets.check(config.data)
    transform = config.transform
    for kind, name, known in (
        ("WCT variant", transform.variant, wct.VARIANTS),
        ("method for matrix roots", transform.method, wct.METHODS),
        ("order of levels", transform.order, ORDERS),
        ("keep_color", config.keep_color, KEEP_COLOR),
    ):
        if name not in known:
            raise unknown(kind, name, known)
    if not 0 <= transform.alpha <= 1:
        raise UserError(f"transform.alpha must be 0 (the content) to 1 (the style); got {transform.alpha}")
    weights = [weight if isinstance(weight, (int, float)) else -1.0 for weight in config.mix]
    if weights and not (min(weights) >= 0 and sum(weights) > 0):
        raise UserError(f"mix must hold weights of 0 or more, not all 0; got {tuple(config.mix)}")
    if config.tile < 1:
        raise UserError(f"tile must be 1 px or more; got {config.tile}")
    if not config.order:
        raise UserError("no inverters: name the workdirs of their trainings, such as inverters=A+B+C")
    for name in config.order:
        if not any(reference.startswith(workdirs.STAGE) for reference in config.entries[name]):
            check_levels([workdirs.resolve(reference, pathlib.Path()) for reference in config.entries[name]])


def check_inputs(run: Run) -> None:
    """Checks, before any stage runs, that stages train inverters of layers with positions.

    Raises:
      UserError: one trains another network, or an inverter of a fully connected layer.
    """
    for name in run.config.order:
        for reference in run.config.entries[name]:
            planned = run.check_planned(reference, kind=INVERTER)
            if planned is not None and planned.task == INVERTER:
                check_has_positions(models.build(planned.encoder.name), planned.encoder.layer)


def run(run: Run) -> dict[str, Any]:
    """Stylizes all contents, draws the contact sheets and returns the results.

    Args:
      run: a run of configs/stylize.py.

    Raises:
      UserError: images, label maps or checkpoints that cannot be used.
    """
    config, fields = run.config, run.config.data
    content, style = Collection(fields, "content"), Collection(fields, "style")
    if config.mix and len(config.mix) != len(style):
        raise UserError(f"mix has {len(config.mix)} weights for {len(style)} styles: {', '.join(style.names)}")
    maps = label_maps.read(fields.content_labels, content.names, fields.style_labels, style.names)
    if maps.num_labels:
        crop = bool(fields.size) and fields.resize == "crop"
        maps = maps._replace(
            content=label_maps.fit(maps.content, content.names, content.originals(), crop=crop),
            style=label_maps.fit(maps.style, style.names, style.originals(), crop=crop),
        )
    for name in config.order:
        check_levels([run.resolve(reference) for reference in config.entries[name]])
    run.begin()
    names = column_names(config, style)
    entries = {}
    for name in config.order:
        networks = load_levels(run, config.entries[name])
        entries[name] = networks.describe()
        parts = json.dumps(entries[name], sort_keys=True), content.identity(), style.identity()
        run.cache(f"images/{name}", *parts, files=maps.files).claim()
        _write_images(run, PairStylizer(run, networks, content, style, maps), name, content.names, names)
    if reduced := content.reduced | style.reduced:
        run.report(f"{len(reduced)} image(s) reduced to {fields.max_side} px; data.max_side sets the limit")
    _write_sheets(run, content, style)
    results = {
        "entries": entries,
        "order": list(config.order),
        "contents": list(content.names),
        "styles": list(style.names),
        "columns": names,
        "transform": config.transform.to_dict(),
        "keep_color": config.keep_color,
        "mix": list(shares(config)),
        "num_labels": maps.num_labels,
        "pixels": fields.to_dict(),
    }
    return run.finish(results)


def column_names(config: ConfigDict, style: Collection) -> list[str]:
    """Returns the names of the columns, which are those of the files."""
    return [_MIXTURE] if config.mix else list(style.names)


def output_path(workdir: pathlib.Path, entry: str, content: str, column: str) -> pathlib.Path:
    """Returns the path of the stylized image of a pair."""
    return workdir / "images" / entry / content / f"{column}.png"


def _write_images(run: Run, stylizer: PairStylizer, entry: str, contents: Sequence[str], names: Sequence[str]) -> None:
    """Writes the stylized images of an entry, batch by batch; batches whose files all exist are skipped."""
    batches, title = stylizer.batches(), f"{run.config.title}: {entry}"
    with progress_bar(None, title, total=sum(len(batch.items) for batch in batches), unit="image") as bar:
        for batch in batches:
            paths = [output_path(run.workdir, entry, contents[i], names[k]) for i, k in batch.items]
            if not all(is_image(path) for path in paths):
                for path, image in zip(paths, stylizer.make(batch), strict=True):
                    write_png(path, image)
            bar.update(len(batch.items))


def _write_sheets(run: Run, content: Collection, style: Collection) -> None:
    """Writes a contact sheet for each entry, and one of all entries side by side."""
    config, workdir = run.config, run.workdir
    contents = [image_sets.square(image, config.tile) for image in content]
    tops = [_mosaic([style[j] for j in group], config) for group in columns(config, len(style))]
    names = column_names(config, style)

    def write(file: str, pairs: Sequence[tuple[str, int]], titles: Sequence[str]) -> None:
        sheet = image_sets.contact_sheet(
            contents,
            content.names,
            [tops[k] for _, k in pairs],
            titles,
            lambda i, j: data.read_image(output_path(workdir, pairs[j][0], content.names[i], names[pairs[j][1]])),
            tile=config.tile,
        )
        write_png(workdir / file, sheet)

    titles = [_mixture_title(config, style.names)] if config.mix else list(names)
    for entry in config.order:
        write(f"sheet_{entry}.png", [(entry, k) for k in range(len(names))], titles)
    if len(config.order) > 1:
        pairs = [(entry, k) for k in range(len(names)) for entry in config.order]
        write("side_by_side.png", pairs, [f"{titles[k]}\n{entry}" for entry, k in pairs])


def _mosaic(styles: Sequence[np.ndarray], config: ConfigDict) -> np.ndarray:
    """Returns the one style of a column, or all styles of a mixture side by side."""
    tiles = [image_sets.square(style, config.tile) for style in styles]
    return tiles[0] if len(tiles) == 1 else np.concatenate(tiles, axis=1)


def _mixture_title(config: ConfigDict, names: Sequence[str]) -> str:
    pairs = zip(shares(config), names, strict=True)
    return " + ".join(f"{share:.0%} {name}" for share, name in pairs if share)
