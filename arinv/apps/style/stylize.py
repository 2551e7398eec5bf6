"""Stylises every content in every style, by the inverters of one encoder or of several side by side.

Leaves pictures/ENTRY/CONTENT/STYLE.png, a contact sheet for each entry (sheet_ENTRY.png), the entries side by side
(side_by_side.png, where there are several), and results.json. Killed at any moment, it goes on with the pictures that
are missing; those of other weights, contents, styles or label maps are made again.

config.entries maps a name, such as "standard" or "robust", to the workdirs of the inverters of its levels; config.mix
holds weights of all styles, in the order of their names, for one picture in a mixture of them; empty for one in each.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.apps.style import image_sets, label_maps
from arinv.apps.style import levels as style_batches
from arinv.apps.style import levels as style_levels
from arinv.apps.style.image_sets import Collection
from arinv.apps.style.transfer import ORDERS
from arinv.errors import UserError, unknown
from arinv.experiment import cache, setting
from arinv.experiment import workdir as workdirs
from arinv.experiment.writer import progress_bar, write_png
from arinv.ops import wct

KEEP_COLOR = ("no", "luminance", "match")
_MIXTURE = "mixture"


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen before pictures and weights are read.

    Raises:
      UserError: an unknown name, a number out of range, or pictures or inverters that are not there.
    """
    setting.validate(config)
    image_sets.validate(config.data)
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
        raise UserError("no inverters; name their workdirs, such as inverters=A+B+C")
    for name in config.order:
        if not any(reference.startswith("stage:") for reference in config.entries[name]):
            style_levels.check([pathlib.Path(reference).expanduser() for reference in config.entries[name]])
    if jax.process_count() > 1:
        raise UserError("style transfer runs in one process, on all of its devices; start it on one host")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Makes all pictures and their sheets and returns what they are.

    Args:
      config: as made by configs/stylize.py.
      workdir: of this run; pictures that were made of the same are kept.

    Raises:
      UserError: pictures, label maps or checkpoints that cannot be used.
    """
    mesh, dtype, fields = setting.mesh(config), setting.dtype(config), config.data
    content, style = Collection(fields, "content"), Collection(fields, "style")
    if config.mix and len(config.mix) != len(style):
        raise UserError(f"mix has {len(config.mix)} weights for {len(style)} styles: {', '.join(style.names)}")
    maps = label_maps.read(fields.content_labels, content.names, fields.style_labels, style.names)
    sources = {n: [workdirs.resolve(reference, workdir) for reference in config.entries[n]] for n in config.order}
    for levels in sources.values():
        style_levels.check(levels)
    workdirs.open_workdir(config, workdir)
    described = {}
    for name, levels in sources.items():
        networks = style_levels.load(levels, dtype=dtype)
        described[name] = networks.describe()
        used = json.dumps(described[name], sort_keys=True), content.identity(), style.identity()
        cache.claim(_folder(workdir, name), cache.made_of(*used, files=maps.files))
        stylizer = style_batches.PairStylizer(config, networks, content, style, maps, mesh)
        _make_pictures(stylizer, workdir, name, content.names, column_names(config, style), config.title)
    if reduced := content.reduced | style.reduced:
        text = (
            f"{config.title}: {len(reduced)} picture(s) reduced to {fields.max_side} px; data.max_side sets the limit"
        )
        print(text, file=sys.stderr)
    _write_sheets(config, workdir, content, style)
    results = {
        "entries": described,
        "order": list(config.order),
        "contents": list(content.names),
        "styles": list(style.names),
        "columns": column_names(config, style),
        "transform": config.transform.to_dict(),
        "keep_color": config.keep_color,
        "mix": list(style_batches.shares(config)),
        "num_labels": maps.num_labels,
        "pixels": fields.to_dict(),
        "setting": setting.provenance(config),
    }
    workdirs.write_results(workdir, results)
    return results


def column_names(config: ConfigDict, style: Collection) -> list[str]:
    """Returns the names of the columns, which are those of the pictures' files."""
    return [_MIXTURE] if config.mix else list(style.names)


def picture_path(workdir: pathlib.Path, entry: str, content: str, column: str) -> pathlib.Path:
    """Returns where the picture of a pair is."""
    return _folder(workdir, entry) / content / f"{column}.png"


def _folder(workdir: pathlib.Path, entry: str) -> pathlib.Path:
    return workdir / "pictures" / entry


def _make_pictures(
    stylizer: style_batches.PairStylizer,
    workdir: pathlib.Path,
    entry: str,
    contents: Sequence[str],
    names: Sequence[str],
    title: str,
) -> None:
    """Writes the pictures of an entry, batch by batch; batches of which all are there are skipped."""
    batches = stylizer.batches()
    with progress_bar(
        None, f"{title}: {entry}", total=sum(len(batch.items) for batch in batches), unit="picture"
    ) as bar:
        for batch in batches:
            paths = [picture_path(workdir, entry, contents[i], names[k]) for i, k in batch.items]
            if not all(path.exists() for path in paths):
                for path, picture in zip(paths, stylizer.make(batch), strict=True):
                    write_png(path, picture)
            bar.update(len(batch.items))


def _write_sheets(config: ConfigDict, workdir: pathlib.Path, content: Collection, style: Collection) -> None:
    """Writes a contact sheet for each entry, and one of all entries side by side."""
    contents = [image_sets.square(picture, config.tile) for picture in content]
    tops = [_mosaic([style[j] for j in group], config) for group in style_batches.columns(config, len(style))]
    names = column_names(config, style)

    def write(file: str, columns: Sequence[tuple[str, int]], titles: Sequence[str]) -> None:
        sheet = image_sets.contact_sheet(
            contents,
            content.names,
            [tops[k] for _, k in columns],
            titles,
            lambda i, j: data.read_image(picture_path(workdir, columns[j][0], content.names[i], names[columns[j][1]])),
            tile=config.tile,
        )
        write_png(workdir / file, sheet)

    shown = [_mixture_title(config, style.names)] if config.mix else list(names)
    for entry in config.order:
        write(f"sheet_{entry}.png", [(entry, k) for k in range(len(names))], shown)
    if len(config.order) > 1:
        columns = [(entry, k) for k in range(len(names)) for entry in config.order]
        write("side_by_side.png", columns, [f"{shown[k]}\n{entry}" for entry, k in columns])


def _mosaic(styles: Sequence[np.ndarray], config: ConfigDict) -> np.ndarray:
    """Returns the one style of a column, or all styles of a mixture side by side."""
    tiles = [image_sets.square(style, config.tile) for style in styles]
    return tiles[0] if len(tiles) == 1 else np.concatenate(tiles, axis=1)


def _mixture_title(config: ConfigDict, names: Sequence[str]) -> str:
    shares = zip(style_batches.shares(config), names, strict=True)
    return " + ".join(f"{share:.0%} {name}" for share, name in shares if share)
