"""Levels of a style transfer from trained inverters, and the stylization of pairs of images in batches."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import parallel
from arinv.apps.style import image_sets, label_maps, transfer
from arinv.apps.style.image_sets import Collection
from arinv.apps.style.label_maps import LabelMaps
from arinv.apps.style.transfer import Level
from arinv.errors import UserError
from arinv.experiment import checkpoint
from arinv.experiment.run import Run
from arinv.experiment.trained import INVERTER, Trained
from arinv.ops.images import to_float, to_uint8
from arinv.ops.wct import StyleMoments, color_moments, keep_chroma, match_colors
from arinv.types import DecodeFn, FeaturesFn

LevelFunctions = tuple[FeaturesFn, DecodeFn]  # pytrees whose leaves are the weights
Pair = tuple[int, int]  # indices of a content and of a column
_Item = tuple[int | None, int]  # a style, for the content whose colors it takes, or None for all contents


@dataclasses.dataclass(frozen=True)
class StyleNetworks:
    """The levels of one style transfer, from the shallowest to the deepest.

    Attributes:
      inverters: one a level.
      multiple: sides of the images must be multiples of it, in pixels.
      smallest: least length of the sides, in pixels.
    """

    inverters: tuple[Trained, ...]
    multiple: int
    smallest: int

    @property
    def functions(self) -> tuple[LevelFunctions, ...]:
        """The functions of each level, an argument for what is jitted."""
        return tuple((inverter.features_fn, inverter.decode_fn) for inverter in self.inverters)

    def levels(self, functions: Sequence[LevelFunctions]) -> tuple[Level, ...]:
        """Returns the levels with these functions."""
        return tuple(Level(inverter.layer, *pair) for inverter, pair in zip(self.inverters, functions, strict=True))

    def describe(self) -> list[dict[str, Any]]:
        """Returns the fields of results for each level."""
        return [
            {
                "layer": inverter.layer,
                "encoder": inverter.description["encoder"],
                "attack": inverter.encoder.description.get("attack"),
                "encoder_weights": inverter.encoder.fingerprint,
                "inverter_weights": inverter.fingerprint,
                "trained_on_px": inverter.image_size,
                "loss": inverter.description.get("loss"),
            }
            for inverter in self.inverters
        ]


def check_levels(workdirs: Sequence[pathlib.Path]) -> None:
    """Checks the descriptions of levels without reading their weights.

    Args:
      workdirs: workdirs of inverters' trainings.

    Raises:
      UserError: no level, no checkpoint there, one that is not an inverter's, or the same layer twice.
    """
    if not workdirs:
        raise UserError("no level: name the workdirs of inverters' trainings, such as A+B+C for conv5, conv2 and conv1")
    layers = [checkpoint.load_description(workdir, kind=INVERTER)["layer"] for workdir in workdirs]
    if len(set(layers)) < len(layers):
        raise UserError(f"the inverters of {'+'.join(layers)} include a layer twice; pass one inverter for each layer")


def check_has_positions(encoder: Any, layer: str) -> None:
    """Checks that a feature has positions, which a style needs.

    Args:
      encoder: the network.
      layer: name of the feature.

    Raises:
      UserError: it is a vector.
    """
    specs = encoder.feature_specs()
    if layer in specs and specs[layer].is_vector:
        known = ", ".join(name for name, spec in specs.items() if not spec.is_vector)
        raise UserError(f"{layer} has no positions to transfer a style to; take inverters of {known}")


def load_levels(run: Run, references: Sequence[str]) -> StyleNetworks:
    """Returns the levels of inverters.

    Args:
      run: the run of the stylization.
      references: workdirs of inverters' trainings, or "stage:NAME", in any order, that `check_levels` has checked.

    Raises:
      UserError: damaged checkpoints, or an inverter of a fully connected layer.
    """
    inverters, encoders = [], {}
    for reference in references:
        inverter = run.load(reference, kind=INVERTER)
        check_has_positions(inverter.encoder.module, inverter.layer)
        # Levels of one encoder share its weights in memory.
        encoder = encoders.setdefault(inverter.encoder.fingerprint, inverter.encoder)
        inverters.append(dataclasses.replace(inverter, parent=encoder))
    multiples, smallest = zip(*(sides(inverter.encoder.module) for inverter in inverters), strict=True)
    return StyleNetworks(tuple(sorted(inverters, key=_depth)), max(multiples), max(smallest))


def sides(module: Any) -> tuple[int, int]:
    """Returns what the sides of an encoder's images must be multiples of, and their smallest length, in pixels.

    Args:
      module: the encoder.
    """
    specs = module.feature_specs().values()  # of all layers: the encoder is applied as a whole
    multiple = max(spec.stages[-1].stride for spec in specs)
    smallest = max(spec.stages[-1].stride * (1 + spec.offset) for spec in specs)
    return multiple, max(smallest, -(-module.smallest_side // multiple) * multiple)


def _depth(inverter: Trained) -> tuple[int, int]:
    specs = inverter.encoder.module.feature_specs()
    return specs[inverter.layer].stages[-1].stride, list(specs).index(inverter.layer)


def columns(config: ConfigDict, num_styles: int) -> list[tuple[int, ...]]:
    """Returns the styles of each column of a contact sheet: one, or all of them in a mixture."""
    return [tuple(range(num_styles))] if config.mix else [(j,) for j in range(num_styles)]


def shares(config: ConfigDict) -> tuple[float, ...]:
    """Returns the weights of a mixture of styles, which sum to 1; empty for no mixture."""
    return tuple(weight / sum(config.mix) for weight in config.mix)


class Batch(NamedTuple):
    """The rows of one computation.

    Attributes:
      items: pairs, or styles.
      rows: length that the batch is padded to, the same for all batches of a size of images.
    """

    items: tuple[Any, ...]
    rows: int


class PairStylizer:
    """Stylizes pairs of a content and a column, which is a style or a mixture of styles."""

    def __init__(self, run: Run, networks: StyleNetworks, content: Collection, style: Collection, maps: LabelMaps):
        """Plans the batches; every content and style is read once for its size.

        Args:
          run: the run of the stylization; its devices divide config.batch_size.
          networks: the levels.
          content: the contents.
          style: the styles.
          maps: their label maps, if any.
        """
        self._config, self._networks, self._mesh, self._maps = run.config, networks, run.mesh, maps
        self._functions = parallel.replicate(networks.functions, run.mesh)
        self._columns = columns(run.config, len(style))
        cache = functools.lru_cache(maxsize=2 * run.config.batch_size)
        self._read_content = cache(functools.partial(self._prepare, content, maps.content))
        self._content_colors = cache(self._colors_of)
        self._read_style = functools.partial(self._prepare, style, maps.style)
        self._content_sizes, self._style_sizes = (
            [self._padded_size(collection[i]) for i in range(len(collection))] for collection in (content, style)
        )
        self._encode, self._apply = jax.jit(self._encode_rows), jax.jit(self._apply_rows)
        self._colors = jax.jit(lambda _, rows: color_moments(to_float(rows["image"])))
        self._codes: dict[_Item, transfer.StyleCode] = {}
        self._matching = run.config.keep_color == "match"
        self._style_batches = self._batches([(None, j) for j in range(len(style))], self._style_size)

    def batches(self) -> list[Batch]:
        """Returns all pairs, in the batches of `make`."""
        pairs = [(i, k) for i in range(len(self._content_sizes)) for k in range(len(self._columns))]
        return self._batches(pairs, lambda pair: self._content_sizes[pair[0]])

    def make(self, batch: Batch) -> list[np.ndarray]:
        """Returns the stylized images of a batch.

        Args:
          batch: one of `batches`.

        Returns:
          uint8 [H, W, 3] of each pair, of its content's size.
        """
        pairs, codes = batch.items, self._codes_for(batch.items)
        rows = []
        for i, k in pairs:
            rows.append(self._read_content(i)[1] | {"codes": [codes[self._item(i, j)] for j in self._columns[k]]})
        images = self._run(self._apply, rows, batch.rows)
        shapes, border = [self._read_content(i)[0] for i, _ in pairs], self._config.data.border
        windows = [tuple(slice(border, border + side) for side in shape[:2]) for shape in shapes]
        return [image[window] for image, window in zip(images, windows, strict=True)]

    def _codes_for(self, pairs: Sequence[Pair]) -> dict[_Item, transfer.StyleCode]:
        """Returns the codes of all styles of a batch; those for all contents are kept."""
        needed = list(dict.fromkeys(self._item(i, j) for i, k in pairs for j in self._columns[k]))
        if self._matching:
            self._codes.clear()
        batches = self._batches(needed, self._style_size) if self._matching else self._style_batches
        for batch in batches:
            if any(item in needed and item not in self._codes for item in batch.items):
                rows = self._style_rows(batch.items)
                self._codes |= dict(zip(batch.items, self._run(self._encode, rows, batch.rows), strict=True))
        return self._codes

    def _style_rows(self, items: Sequence[_Item]) -> list[dict[str, Any]]:
        rows = [self._read_style(j)[1] for _, j in items]
        if self._matching:
            rows = [row | {"colors": self._content_colors(i)} for row, (i, _) in zip(rows, items, strict=True)]
        return rows

    def _colors_of(self, content: int) -> StyleMoments:
        return self._run(self._colors, [{"image": self._read_content(content)[1]["image"]}], 1)[0]

    def _item(self, content: int, style: int) -> _Item:
        return (content if self._matching else None), style

    def _style_size(self, item: _Item) -> tuple[int, ...]:
        return self._style_sizes[item[1]]

    def _prepare(self, collection: Collection, maps: Sequence[np.ndarray], index: int):
        """Returns the shape of an image, and the padded image with its label map."""
        image = collection[index]
        row = {"image": self._pad(image)}
        if maps:
            row["labels"] = self._pad(label_maps.resize(maps[index], *image.shape[:2]))
        return image.shape, row

    def _pad(self, image: np.ndarray) -> np.ndarray:
        networks, border = self._networks, self._config.data.border
        return image_sets.pad(image, multiple=networks.multiple, smallest=networks.smallest, border=border)

    def _padded_size(self, image: np.ndarray) -> tuple[int, ...]:
        return self._pad(image[..., :1]).shape[:2]

    def _batches(self, items: Sequence[Any], size_of: Callable[[Any], Hashable]) -> list[Batch]:
        """Returns the items of each size in as few batches as allowed, of equal lengths except the last."""
        groups: dict[Hashable, list] = {}
        for item in items:
            groups.setdefault(size_of(item), []).append(item)
        batches = []
        for group in groups.values():
            count = -(-len(group) // self._config.batch_size)
            rows = -(-len(group) // count)
            batches += [Batch(tuple(group[start : start + rows]), rows) for start in range(0, len(group), rows)]
        return batches

    def _run(self, function: Callable, rows: Sequence[Any], length: int) -> list[Any]:
        """Returns the results of a jitted function of (functions, stacked rows), one a row."""
        length += -length % self._mesh.size
        padded = [*rows, *[rows[-1]] * (length - len(rows))]
        stacked = jax.tree.map(lambda *values: np.stack(values), *padded)
        leaves, tree = jax.tree.flatten(stacked)
        placed = parallel.place_whole_batch({str(i): leaf for i, leaf in enumerate(leaves)}, self._mesh)
        batch = tree.unflatten([placed[str(i)] for i in range(len(leaves))])
        results = parallel.to_host(function(self._functions, batch))
        return [jax.tree.map(lambda x, i=i: np.asarray(x)[i], results) for i in range(len(rows))]

    def _options(self) -> dict[str, Any]:
        transform = self._config.transform
        return {"variant": transform.variant, "method": transform.method, "num_labels": self._maps.num_labels}

    def _encode_rows(self, functions, rows):
        images = to_float(rows["image"])
        if "colors" in rows:
            images = match_colors(images, rows["colors"])
        levels = self._networks.levels(functions)
        return transfer.encode_style(levels, images, labels=rows.get("labels"), **self._options())

    def _apply_rows(self, functions, rows):
        content = to_float(rows["image"])
        images = transfer.stylize_with(
            self._networks.levels(functions),
            content,
            rows["codes"],
            weights=shares(self._config) or (1.0,),
            alpha=self._config.transform.alpha,
            order=self._config.transform.order,
            labels=rows.get("labels"),
            **self._options(),
        )
        return to_uint8(keep_chroma(images, content) if self._config.keep_color == "luminance" else images)
