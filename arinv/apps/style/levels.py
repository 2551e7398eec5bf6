"""The levels of a style transfer from the runs of inverters: encoders and generators for images of many sizes."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from arinv import parallel
from arinv.apps.style import image_sets, label_maps, transfer
from arinv.apps.style.image_sets import Collection
from arinv.apps.style.label_maps import LabelMaps
from arinv.apps.style.transfer import Level
from arinv.errors import UserError
from arinv.experiment import checkpoint, trained
from arinv.experiment.cache import fingerprint
from arinv.experiment.trained import Trained, make_features_fn
from arinv.experiment.workdirs import follow
from arinv.ops.images import to_float, to_uint8
from arinv.ops.wct import StyleMoments, color_moments, keep_chroma, match_colors
from arinv.types import Variables


@dataclasses.dataclass(frozen=True)
class StyleNetworks:
    """The levels of one style transfer, from the shallowest to the deepest.

    Attributes:
      inverters: one a level.
      variables: (encoder's, generator's) of each level, an argument for what is jitted.
      multiple: sides of the images must be multiples of it, in pixels.
      smallest: and at least so long.
    """

    inverters: tuple[Trained, ...]
    variables: tuple[tuple[Variables, Variables], ...]
    multiple: int
    smallest: int

    def levels(self, variables: Sequence[tuple[Variables, Variables]]) -> tuple[Level, ...]:
        """Returns the levels as functions, with the given weights."""
        return tuple(_level(*pair) for pair in zip(self.inverters, variables, strict=True))

    def describe(self) -> list[dict[str, Any]]:
        """Returns what a reader of results has to know of each level."""
        return [
            {
                "layer": inverter.description["layer"],
                "encoder": inverter.description["encoder"],
                "attack": inverter.encoder.description.get("attack"),
                "encoder_weights": fingerprint(inverter.encoder.variables),
                "generator_weights": fingerprint(inverter.variables),
                "trained_on_px": inverter.description["image_size"],
                "loss": inverter.description.get("loss"),
            }
            for inverter in self.inverters
        ]


def without_head(module: Any) -> Any:
    """Returns an encoder that gives its features for images of every size; most do as they are."""
    return module.clone(num_classes=0) if module.has_fixed_head else module


def sides(module: Any) -> tuple[int, int]:
    """Returns what the sides of an encoder's images must be multiples of, and the length of the shortest, in pixels."""
    specs = module.feature_specs().values()  # of all layers: an encoder is run to its end
    multiple = max(spec.stages[-1].stride for spec in specs)
    shortest = max(spec.stages[-1].stride * (1 + spec.offset) for spec in specs)
    return multiple, max(shortest, -(-module.smallest_side // multiple) * multiple)


def _level(inverter: Trained, variables: tuple[Variables, Variables]) -> Level:
    encoder_variables, generator_variables = variables
    module = without_head(inverter.encoder.module)
    return Level(
        inverter.description["layer"],
        make_features_fn(module, encoder_variables),
        lambda features: inverter.module.apply(generator_variables, features, train=False),
    )


def check(workdirs: Sequence[pathlib.Path]) -> None:
    """Checks the descriptions of levels without reading their weights.

    Args:
      workdirs: of inverters' trainings.

    Raises:
      UserError: no level, no checkpoint there, one that is not an inverter's, or the same layer twice.
    """
    if not workdirs:
        raise UserError("no level: name the workdirs of inverters' trainings, such as A+B+C for conv5, conv2 and conv1")
    layers = []
    for workdir in workdirs:
        description = checkpoint.load_description(workdir, kind="inverter")
        layers.append(description["layer"])
    if len(set(layers)) < len(layers):
        raise UserError(f"levels {'+'.join(layers)} name a layer twice; give each layer's inverter once")


def load(workdirs: Sequence[pathlib.Path], *, dtype: jax.typing.DTypeLike = jnp.float32) -> StyleNetworks:
    """Returns the levels of the runs of inverters.

    Args:
      workdirs: of inverters' trainings, in any order.
      dtype: of the computation.

    Raises:
      UserError: what `check` raises, damaged checkpoints, or an inverter of a fully connected layer.
    """
    check(workdirs)
    loaded, encoders = [], {}
    for workdir in workdirs:
        inverter = trained.load(workdir, dtype=dtype, kind="inverter")
        place = follow(inverter.description["encoder_workdir"], workdir)
        shared = encoders.setdefault(place, inverter.encoder)  # levels of one encoder hold its weights once
        loaded.append(dataclasses.replace(inverter, parent=shared))
    for inverter in loaded:
        specs = inverter.encoder.module.feature_specs()
        layer = inverter.description["layer"]
        if specs[layer].is_vector:
            known = ", ".join(name for name, spec in specs.items() if not spec.is_vector)
            raise UserError(f"{layer} has no places to transfer a style to; take inverters of {known}")
    multiples, smallest = zip(*(sides(inverter.encoder.module) for inverter in loaded), strict=True)
    loaded.sort(key=_depth)
    variables = tuple((inverter.encoder.variables, inverter.variables) for inverter in loaded)
    return StyleNetworks(tuple(loaded), variables, max(multiples), max(smallest))


def _depth(inverter: Trained) -> tuple[int, int]:
    specs, layer = inverter.encoder.module.feature_specs(), inverter.description["layer"]
    return specs[layer].stages[-1].stride, list(specs).index(layer)


Pair = tuple[int, int]  # the numbers of a content and of a column
_Item = tuple[int | None, int]  # a style, for the content whose colours it takes, or for all


class Batch(NamedTuple):
    """What is computed at once.

    Attributes:
      items: pairs, or styles.
      rows: length that the batch is filled up to, the same for all batches of a size of images.
    """

    items: tuple[Any, ...]
    rows: int


class PairStylizer:
    """Makes the pictures of pairs of a content and a column, which is a style or a mixture of styles."""

    def __init__(
        self,
        config: ConfigDict,
        networks: StyleNetworks,
        content: Collection,
        style: Collection,
        maps: LabelMaps,
        mesh: jax.sharding.Mesh,
    ):
        """Plans the batches; every content and style is read once for its size.

        Args:
          config: of the task.
          networks: the levels.
          content: the contents.
          style: the styles.
          maps: their label maps, if any.
          mesh: the devices, which divide config.batch_size.
        """
        self._config, self._networks, self._mesh, self._maps = config, networks, mesh, maps
        self._variables = jax.device_put(networks.variables, parallel.replicated(mesh))
        self._columns = columns(config, len(style))
        cache = functools.lru_cache(maxsize=2 * config.batch_size)
        self._read_content = cache(functools.partial(self._prepare, content, maps.content))
        self._content_colors = cache(self._colors_of)
        self._read_style = functools.partial(self._prepare, style, maps.style)
        self._content_sizes, self._style_sizes = (
            [self._padded_size(collection[i]) for i in range(len(collection))] for collection in (content, style)
        )
        self._encode, self._apply = jax.jit(self._encode_rows), jax.jit(self._apply_rows)
        self._colors = jax.jit(lambda _, rows: color_moments(to_float(rows["image"])))
        self._codes: dict[_Item, transfer.StyleCode] = {}
        self._matching = config.keep_color == "match"
        self._style_batches = self._batches([(None, j) for j in range(len(style))], self._style_size)

    def batches(self) -> list[Batch]:
        """Returns all pairs, in the batches that they are made in."""
        pairs = [(i, k) for i in range(len(self._content_sizes)) for k in range(len(self._columns))]
        return self._batches(pairs, lambda pair: self._content_sizes[pair[0]])

    def make(self, batch: Batch) -> list[np.ndarray]:
        """Returns the pictures of a batch.

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
        inside = [tuple(slice(border, border + side) for side in shape[:2]) for shape in shapes]
        return [image[place] for image, place in zip(images, inside, strict=True)]

    def _codes_for(self, pairs: Sequence[Pair]) -> dict[_Item, transfer.StyleCode]:
        """Returns the codes of all styles that a batch needs; those for all contents are kept."""
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
        """Returns the shape of a picture, and the picture and its label map as the networks take them."""
        picture = collection[index]
        row = {"image": self._pad(picture)}
        if maps:
            fields = self._config.data
            crop = bool(fields.size) and fields.resize == "crop"
            row["labels"] = self._pad(label_maps.resize(maps[index], *picture.shape[:2], crop=crop))
        return picture.shape, row

    def _pad(self, picture: np.ndarray) -> np.ndarray:
        networks, border = self._networks, self._config.data.border
        return image_sets.pad(picture, multiple=networks.multiple, smallest=networks.smallest, border=border)

    def _padded_size(self, picture: np.ndarray) -> tuple[int, ...]:
        return self._pad(picture[..., :1]).shape[:2]

    def _batches(self, items: Sequence[Any], size_of: Callable[[Any], Hashable]) -> list[Batch]:
        """Returns items of one size together, in as few batches as allowed, of lengths that differ by one at most."""
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
        """Returns the results of a jitted function of (variables, stacked rows), one a row."""
        length += -length % self._mesh.size
        filled = [*rows, *[rows[-1]] * (length - len(rows))]
        stacked = jax.tree.map(lambda *values: np.stack(values), *filled)
        leaves, tree = jax.tree.flatten(stacked)
        placed = parallel.place_batch({str(i): leaf for i, leaf in enumerate(leaves)}, self._mesh)
        batch = tree.unflatten([placed[str(i)] for i in range(len(leaves))])
        results = parallel.to_host(function(self._variables, batch))
        return [jax.tree.map(lambda x, i=i: np.asarray(x)[i], results) for i in range(len(rows))]

    def _options(self) -> dict[str, Any]:
        transform = self._config.transform
        return {"variant": transform.variant, "method": transform.method, "num_labels": self._maps.num_labels}

    def _encode_rows(self, variables, rows):
        images = to_float(rows["image"])
        if "colors" in rows:
            images = match_colors(images, rows["colors"])
        levels = self._networks.levels(variables)
        return transfer.encode_style(levels, images, labels=rows.get("labels"), **self._options())

    def _apply_rows(self, variables, rows):
        content = to_float(rows["image"])
        images = transfer.stylize_with(
            self._networks.levels(variables),
            content,
            rows["codes"],
            weights=shares(self._config) or (1.0,),
            alpha=self._config.transform.alpha,
            order=self._config.transform.order,
            labels=rows.get("labels"),
            **self._options(),
        )
        return to_uint8(keep_chroma(images, content) if self._config.keep_color == "luminance" else images)


def columns(config: ConfigDict, num_styles: int) -> list[tuple[int, ...]]:
    """Returns the styles of each column of a contact sheet: one, or all of them where they are mixed."""
    return [tuple(range(num_styles))] if config.mix else [(j,) for j in range(num_styles)]


def shares(config: ConfigDict) -> tuple[float, ...]:
    """Returns the weights of a mixture of styles, which add up to 1; empty where none are mixed."""
    return tuple(weight / sum(config.mix) for weight in config.mix)
