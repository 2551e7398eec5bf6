"""Inverts a user's own pictures at their own size, by one trained inverter or by several side by side.

Leaves NAME/PICTURE.png (the reconstruction of every picture at full size, by the inverter of that name), overview.png
(the first pictures above their reconstructions), reconstructions.csv (PSNR and SSIM of every picture, as written, with
8 bits; names that are not UTF-8 keep their bytes) and results.json. Pictures that are done are noted in
NAME.progress.jsonl, with size and time of their files, and not done again while those stay as they are.

Source: Rojas-Gomez et al. 2022, section 4.3, scenario 2.
"""

import csv
import io
import json
import pathlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data, metrics
from arinv.apps.inversion import enlarging
from arinv.apps.inversion import inverters as any_size
from arinv.apps.inversion.inverters import AnySizeInverter
from arinv.errors import UserError
from arinv.experiment import setting
from arinv.experiment import workdir as workdirs
from arinv.experiment.figures import fit, labelled_grid
from arinv.experiment.writer import progress_bar, write_atomically, write_png, write_text
from arinv.ops.images import to_float, to_uint8

_OVERVIEW = "overview.png"
_SSIM_WINDOW = 11  # px
_MOST_IN_BATCH = 16
_LETTERS = 26  # of a picture's name above its column


def validate(config: ConfigDict) -> None:
    """Tells every mistake that can be seen without reading pictures or checkpoints.

    Raises:
      UserError: nothing to invert or nothing to invert with, or a number out of range.
    """
    setting.dtype(config)
    setting.check_pictures(config)
    if not config.data.name:
        raise UserError("images is empty; name an image file or a folder of images")
    if not config.order or not all(config.inverters[name] for name in config.order):
        raise UserError("no inverter; name the workdir of one: inverter=, standard_inverter= or robust_inverter=")
    for name in ("multiple", "edge", "limit"):
        if config[name] < 0:
            raise UserError(f"{name} must be 0 or more; got {config[name]}")
    for name in ("batch_pixels", "max_pixels"):
        if config[name] < 1:
            raise UserError(f"{name} must be 1 or more; got {config[name]}")
    if jax.process_count() > 1:
        raise UserError("pictures are inverted by one process; start it on one host")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Inverts the pictures of config.data.name by config.inverters (name -> workdir) and returns the results.

    Args:
      config: as made by configs/invert.py.
      workdir: where the reconstructions go.

    Raises:
      UserError: a picture or an inverter that cannot be read, a picture that is too large, or a workdir among the
        pictures.
    """
    root = pathlib.Path(config.data.name).expanduser()
    workdirs.check_apart(config, workdir)
    _check_outputs(config, root.resolve(), workdir.resolve())
    pictures = setting.open_pictures(config.data.name, on_bad_image=config.data.on_bad_image)
    files = _files(pictures)
    sizes, too_large = _sizes(config, pictures)
    inverters = {
        name: any_size.load(workdirs.resolve(config.inverters[name], workdir), dtype=setting.dtype(config))
        for name in config.order
    }
    for inverter in inverters.values():
        inverter.check_multiple(config.multiple or inverter.image_size, "multiple")
    workdirs.open_workdir(config, workdir)
    skipped = [path.relative_to(root).as_posix() for path in pictures.bad_files] + too_large
    if skipped:
        print(f"skipped {len(skipped)} pictures, unreadable or too large: {', '.join(skipped[:5])}", file=sys.stderr)
    rows = {}
    for name, inverter in inverters.items():
        done = _Done(workdir / f"{name}.progress.jsonl", inverter.weights, files)
        rows[name] = done.rows
        places = {i: workdir / name / files[pictures.names[i]].place for i in sizes}
        left = {i for i, place in places.items() if pictures.names[i] not in done.rows or not place.exists()}
        found, number = _invert(config, inverter, pictures, sizes, left), len(sizes)
        bar = progress_bar(found, f"{config.title}: {name}", initial=number - len(left), total=number, unit="picture")
        for i, picture, reconstruction in bar:
            write_png(places[i], reconstruction)
            done.add(pictures.names[i], _measure(reconstruction, picture))
    names = [pictures.names[i] for i in sizes]
    _write_csv(workdir, names, sizes, rows)
    shown = list(sizes)[: config.log.num_pictures]
    if shown:
        write_png(workdir / _OVERVIEW, _overview(workdir, pictures, shown, rows, files))
    results = _results(config, inverters, names, rows, skipped)
    workdirs.write_results(workdir, results)
    return results


def _check_outputs(config: ConfigDict, root: pathlib.Path, workdir: pathlib.Path) -> None:
    """Refuses a workdir whose reconstructions would overwrite pictures.

    Raises:
      UserError: pictures are where reconstructions would go.
    """
    if any(root.is_relative_to(workdir / name) for name in (*config.order, _OVERVIEW)):
        raise UserError(f"workdir {workdir} would overwrite the pictures {config.data.name}; name another --workdir")


class _File(NamedTuple):
    """What tells a picture's file from another of its name, and where its reconstruction goes."""

    size: int
    mtime_ns: int
    place: str


def _files(pictures: data.Pictures) -> dict[str, _File]:
    """Returns the file of every picture by name; no two reconstructions go to one place."""
    folders = {str(folder) for name in pictures.names for folder in pathlib.PurePosixPath(name).parents}
    taken, files = folders.union(pictures.names), {}
    for name, path in zip(pictures.names, pictures.paths, strict=True):
        place = name
        while not place.endswith(".png") or (place != name and place in taken):
            place += ".png"
        found = path.stat()
        files[name] = _File(found.st_size, found.st_mtime_ns, place)
    return files


def _sizes(config: ConfigDict, pictures: data.Pictures) -> tuple[dict[int, tuple[int, int]], list[str]]:
    """Returns number -> (height, width) of the pictures, and the names of those that are too large."""
    sizes, too_large = {}, []
    for i, picture in zip(range(config.limit or len(pictures)), pictures, strict=False):
        height, width = picture.shape[:2]
        if height * width <= config.max_pixels:
            sizes[i] = (height, width)
        elif config.data.on_bad_image == "skip":
            too_large.append(pictures.names[i])
        else:
            raise UserError(
                f"{pictures.paths[i]} has {width} x {height} pixels, more than max_pixels={config.max_pixels:,}; "
                "make it smaller, raise max_pixels if memory allows, or set on_bad_image=skip"
            )
    if not sizes:
        raise UserError(f"all pictures in {config.data.name!r} have more than max_pixels={config.max_pixels:,} pixels")
    return sizes, too_large


def _invert(
    config: ConfigDict,
    inverter: AnySizeInverter,
    pictures: data.Pictures,
    sizes: Mapping[int, tuple[int, int]],
    wanted: Set[int],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (number, picture, its reconstruction, uint8 [H, W, 3]); one compilation for each padded size.

    Batches are those of all pictures, whichever are wanted: so a run that goes on gives what it would have given.
    """
    padding = {"multiple": config.multiple or inverter.image_size, "edge": config.edge}

    @jax.jit
    def step(variables, images_u8):
        images = to_float(images_u8)
        return to_uint8(enlarging.invert(*inverter.functions(variables), images, layer=inverter.layer))

    groups = defaultdict(list)
    for i, size in sizes.items():
        groups[enlarging.padded_size(size, **padding)].append(i)
    for (height, width), members in groups.items():
        count = max(1, min(len(members), _MOST_IN_BATCH, config.batch_pixels // (height * width)))
        for start in range(0, len(members), count):
            numbers = members[start : start + count]
            if wanted.isdisjoint(numbers):
                continue
            batch = {i: pictures[i] for i in numbers}
            images = np.zeros((count, height, width, 3), np.uint8)  # the last batch may be short of some
            for row, picture in enumerate(batch.values()):
                images[row] = enlarging.pad_images(picture[None], **padding)[0]
            reconstructions = np.asarray(step(inverter.variables, images))
            for row, (i, picture) in enumerate(batch.items()):
                if i in wanted:
                    yield i, picture, enlarging.crop_images(reconstructions[row][None], sizes[i], edge=config.edge)[0]


_psnr, _ssim = jax.jit(metrics.psnr), jax.jit(metrics.ssim)


def _measure(reconstruction: np.ndarray, picture: np.ndarray) -> dict[str, float]:
    """Returns PSNR and, of pictures that are large enough, SSIM."""
    pair = [to_float(x)[None] for x in (reconstruction, picture)]
    numbers = {"psnr": float(_psnr(*pair)[0])}
    if min(picture.shape[:2]) >= _SSIM_WINDOW:
        numbers["ssim"] = float(_ssim(*pair)[0])
    return numbers


class _Done:
    """What is known of the pictures that are done, in a file of lines that begins with the inverter's weights."""

    def __init__(self, path: pathlib.Path, weights: str, files: Mapping[str, _File]):
        self._path, self._files, self.rows = path, files, {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # one that a kill cut has no end
        head = json.dumps({"weights": weights, "file": _File._fields}).encode()
        if lines and lines[0] == head:
            known = (json.loads(line) for line in lines[1:])
            self.rows = {name: row for name, *file, row in known if name in files and file == list(files[name])}
        lines = [head, *(self._line(name) for name in self.rows)]  # of other files nothing is kept
        write_atomically(path, b"".join(line + b"\n" for line in lines))

    def add(self, name: str, numbers: Mapping[str, float]) -> None:
        self.rows[name] = dict(numbers)
        with self._path.open("ab") as file:
            file.write(self._line(name) + b"\n")

    def _line(self, name: str) -> bytes:
        return json.dumps([name, *self._files[name], self.rows[name]]).encode()


def _write_csv(workdir: pathlib.Path, names: Sequence[str], sizes: Mapping, rows: Mapping) -> None:
    keys = [(inverter, metric) for inverter in rows for metric in ("psnr", "ssim")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "height", "width", *(f"{metric}_{inverter}" for inverter, metric in keys)])
    for name, size in zip(names, sizes.values(), strict=True):
        numbers = (rows[inverter][name].get(metric) for inverter, metric in keys)
        writer.writerow([name, *size, *("" if number is None else f"{number:.4f}" for number in numbers)])
    write_text(workdir / "reconstructions.csv", text.getvalue())


def _overview(
    workdir: pathlib.Path,
    pictures: data.Pictures,
    shown: Sequence[int],
    rows: Mapping[str, Mapping],
    files: Mapping[str, _File],
) -> np.ndarray:
    """Returns the first pictures above their reconstructions, each fitted into a tile."""
    shapes = [pictures[i].shape[:2] for i in shown]
    width = 512 if len(shown) < 3 else 320 if len(shown) < 6 else 224
    tallest = max(height / max(1, across) for height, across in shapes)
    height = round(width * min(1.5, max(0.25, tallest)))
    tiles = {"picture": [fit(pictures[i], height=height, width=width) for i in shown]}
    for inverter in rows:
        places = [workdir / inverter / files[pictures.names[i]].place for i in shown]
        tiles[inverter] = [fit(data.read_image(place), height=height, width=width) for place in places]
    columns = []
    for i in shown:
        name = pictures.names[i]
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # file names need not be text
        shortened = text if len(text) <= _LETTERS else f"...{text[3 - _LETTERS :]}"
        decibels = [f"{inverter} {rows[inverter][name]['psnr']:.1f} dB" for inverter in rows]
        columns.append("\n".join([shortened, *decibels]))
    return labelled_grid({name: np.stack(row) for name, row in tiles.items()}, columns=columns, font_size=16)


def _results(config, inverters, names, rows, skipped) -> dict[str, Any]:
    """Returns means over the pictures, and what they were made with."""
    means = {}
    for name in inverters:
        for metric in ("psnr", "ssim"):
            values = [row[metric] for row in (rows[name][picture] for picture in names) if metric in row]
            if values:
                means[f"{metric}_{name}"] = metrics.summary(values)
    return {
        "means": means,
        "num_pictures": len(names),
        "skipped": skipped,
        "inverters": {
            name: {"checkpoint": dict(inverter.trained.description), "weights": inverter.weights}
            for name, inverter in inverters.items()
        },
        "variants": {name: f"{metrics.VARIANTS[name]}; of pictures with 8 bits" for name in ("psnr", "ssim")},
        "setting": setting.provenance(config),
    }
