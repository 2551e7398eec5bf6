"""`Run`: a task's config and directory, and what every task does with them; checks of the fields that tasks share."""

import functools
import json
import os
import pathlib
import platform
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import arinv
from arinv import attacks, data, parallel
from arinv.errors import RadiusWarning, UserError, unknown
from arinv.experiment import trained, workdirs
from arinv.experiment.cache import ResultCache, cache_key
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_callback
from arinv.ops import norms
from arinv.ops.inputs import far_radius

_LARGEST_SIDE = 2**16  # of images, in pixels
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Run:
    """One start of a task: what its config and its directory stand for.

    Attributes:
      config: of the task.
      workdir: where everything that the task writes goes.
      stages: workdir -> config of every stage of the same experiment, this one among them.
    """

    _MOST_SOURCES = 4  # training and test images of two kinds

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        stages: Mapping[pathlib.Path, ConfigDict] | None = None,
        sources: dict[str, data.Source] | None = None,
    ):
        """Makes a run.

        Args:
          config: of the task.
          workdir: of the task.
          stages: as the attribute; None for a task of its own.
          sources: datasets that stages of one experiment share, so that each is decoded once; grows.
        """
        self.config, self.workdir = config, workdir
        self.stages = {workdir: config} if stages is None else stages
        self._sources = {} if sources is None else sources

    def beside(self, config: ConfigDict, workdir: pathlib.Path) -> "Run":
        """Returns the run of another config in another directory, with the stages and datasets of this one."""
        return Run(config, workdir, self.stages, self._sources)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices, as config.mesh lays them out."""
        return mesh_of(self.config)

    @property
    def dtype(self) -> jax.typing.DTypeLike:
        """The dtype of the computation."""
        return dtype_of(self.config)

    @property
    def key(self) -> jax.Array:
        """The PRNG key of config.seed."""
        return jax.random.key(self.config.seed)

    @property
    def provenance(self) -> dict[str, Any]:
        """Device, dtype, seed, data and package versions, as results report them."""
        return provenance(self.config)

    def resolve(self, reference: str) -> pathlib.Path:
        """Returns the workdir that a field names: "stage:NAME" of the same experiment, or a path.

        Raises:
          UserError: neither.
        """
        return workdirs.resolve(reference, self.workdir)

    def load(self, reference: str, *, kind: str | tuple[str, ...] = "", image_size: int | None = None) -> Trained:
        """Returns the trained network that a field names, in the config's dtype.

        Args:
          reference: the field's value.
          kind: "classifier", "inverter" or "denoiser", or several of them, where it has to be that; empty for any.
          image_size: side of the images that it is for, in pixels; None for any size.

        Raises:
          UserError: as `trained.load`.
        """
        return trained.load(self.resolve(reference), kind=kind, dtype=self.dtype, image_size=image_size)

    def open_data(self, split: str, *, resize: str = "") -> data.Source:
        """Returns the images of config.data.

        Args:
          split: "train" or "test".
          resize: how images get their size; empty for data.resize.

        Raises:
          UserError: they cannot be read.
        """
        fields = self.config.data.to_dict()
        names = ("train_split", "num_train") if split == "test" else ("test_split", "num_test")
        key = json.dumps([split, resize, {name: fields[name] for name in sorted(fields) if name not in names}])
        source = self._sources.pop(key, None) or open_source(self.config, split, resize=resize)
        self._sources[key] = source  # the last is the newest
        while len(self._sources) > self._MOST_SOURCES:
            del self._sources[next(iter(self._sources))]
        return source

    def open_images(self, reference: str = "") -> data.ImageFiles:
        """Returns the image files of a user: one file, or all in a folder.

        Args:
          reference: path of either; empty for config.data.name.

        Raises:
          UserError: none there, or one that cannot be read, unless data.on_bad_image is "skip".
        """
        return open_image_files(reference or self.config.data.name, on_bad_image=self.config.data.on_bad_image)

    def check_planned_size(self, reference: str) -> None:
        """Checks that a stage of the same experiment trains at the size of the images that this task has.

        Args:
          reference: the field's value; other references than stages are left alone.

        Raises:
          OtherSize: it trains at another.
        """
        place = self.resolve(reference)
        stage = self.stages.get(place) or self.stages.get(place.parent)  # one of its classes
        if stage is not None and stage is not self.config:
            planned = {"image_size": stage.data.image_size}
            trained.check_trained_size(planned, self.config.data.image_size, reference, verb="is")

    def begin(self) -> None:
        """Writes the config into the directory, once everything that it names has been read.

        Raises:
          UserError: the directory belongs to another config or cannot be written.
        """
        workdirs.open_workdir(self.config, self.workdir)

    def cache(self, folder: str, *parts: str, files: Sequence[pathlib.Path] = ()) -> ResultCache:
        """Returns the cache of results in a folder of the workdir.

        Args:
          folder: its name; empty for the workdir itself.
          *parts: everything that decides the results beside the config, such as fingerprints of weights.
          files: likewise; their names, sizes and times count.
        """
        return ResultCache(self.workdir / folder, cache_key(*parts, files=files))

    def report(self, line: str) -> None:
        """Prints a line on stderr under the task's title; process 0 does."""
        if jax.process_index() == 0:
            print(f"{self.config.title}: {line}", file=sys.stderr, flush=True)

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Writes results.json, which marks the task as complete, and returns its content.

        Args:
          results: plain JSON; device, dtype, seed and data of the task are added as "setting".

        Raises:
          UserError: the directory has vanished.
        """
        if "seed" in self.config:
            results = {**results, "setting": results.get("setting") or self.provenance}
        workdirs.write_results(self.workdir, results)
        return results


def check_fields(config: ConfigDict) -> None:
    """Checks the fields that every task with data has.

    Raises:
      UserError: an unknown dtype, a batch that the devices do not divide, a size of images that no network takes, or
        fewer pictures than none.
    """
    dtype_of(config)
    mesh_of(config)
    image_size = config.data.get("image_size", 1)
    if not 1 <= image_size <= _LARGEST_SIDE:
        raise UserError(f"data.image_size={image_size} must be 1 to {_LARGEST_SIDE} px")
    check_pictures(config)


def check_pictures(config: ConfigDict) -> None:
    """Checks how many images the pictures of a task are to show.

    Raises:
      UserError: fewer than none.
    """
    if config.log.num_pictures < 0:
        raise UserError(f"num_pictures={config.log.num_pictures} must be 0 (no picture) or more")


def dtype_of(config: ConfigDict) -> jax.typing.DTypeLike:
    """Returns the dtype of the computation.

    Raises:
      UserError: unknown name.
    """
    if config.dtype not in _DTYPES:
        raise unknown("dtype", config.dtype, _DTYPES)
    return _DTYPES[config.dtype]


def mesh_of(config: ConfigDict) -> jax.sharding.Mesh:
    """Returns the mesh of the config, after checking that it divides the batch."""
    mesh = parallel.make_mesh(**config.mesh)
    parallel.check_batch_size(config.batch_size, mesh)
    return mesh


def open_source(config: ConfigDict, which: str, *, resize: str = "") -> data.Source:
    """Returns a source of config.data.

    Args:
      config: of a task.
      which: "train" or "test"; with data.resized_crop, training images are originals.
      resize: how images are brought to size; empty for data.resize.
    """
    fields = config.data
    source = data.open_source(
        fields.name,
        split=fields[f"{which}_split"],
        image_size=fields.image_size,
        resize=data.ORIGINAL if which == "train" and fields.get("resized_crop") else resize or fields.resize,
        data_dir=fields.data_dir or None,
        on_bad_image=fields.on_bad_image,
        num_examples=fields[f"num_{which}"] or None,
        classes=fields.classes or None,
        renumber=True,
        progress=progress_callback(f"checking {fields.name}"),
    )
    report_left_out(f"{fields.name} {which}", source.num_skipped)
    report_left_out(fields.name, 0, source.info.left_out)
    return source


def open_image_files(reference: str | os.PathLike, *, on_bad_image: str) -> data.ImageFiles:
    """Returns the picture of a file, or all in a folder, after reporting what was left out."""
    pictures = data.open_images(
        reference, on_bad_image=on_bad_image, progress=progress_callback(f"checking {reference}")
    )
    report_left_out(str(reference), len(pictures.bad_files), pictures.left_out, files=pictures.bad_files)
    return pictures


def report_left_out(name: str, num_skipped: int, left_out: str = "", *, files: Sequence[os.PathLike] = ()) -> None:
    """Prints on stderr what of a folder is not read; process 0 does.

    Args:
      name: of the folder.
      num_skipped: how many images cannot be read.
      left_out: what is no image, as text; reported once, however often the folder is opened.
      files: those that cannot be read, where they are known.
    """
    if num_skipped and jax.process_index() == 0:
        names = f": {', '.join(os.path.basename(path) for path in files[:5])}" if files else ""
        more = ", ..." if len(files) > 5 else ""
        print(f"{name}: skipped {num_skipped} unreadable image(s){names}{more}", file=sys.stderr, flush=True)
    if left_out and jax.process_index() == 0:
        _print_once(f"{name}: left out {left_out}")


@functools.cache
def _print_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def open_extra(config: ConfigDict, train: data.Source) -> data.Source:
    """Returns the second source of training images, config.data.extra, with the labels of the first.

    Classes are the same where they have the same names, or where those of the second are the numbers of the first.

    Raises:
      UserError: it cannot be read, or has classes that the first source has not.
    """
    fields = config.data
    name, known = fields.extra.name, train.info.class_names
    scheme, _ = data.split_name(name)
    split = "train" if name == fields.name else scheme.extra_split
    resize = data.ORIGINAL if fields.get("resized_crop") else fields.resize
    extra = data.open_source(name, split=split, image_size=fields.image_size, resize=resize)
    report_left_out(f"{name} {split}", extra.num_skipped, extra.info.left_out)
    own = extra.info.class_names
    if scheme.numbered_classes and not any(label.isdecimal() for label in known):
        own = [known[int(label)] if label.isdecimal() and int(label) < len(known) else label for label in own]
    if unknown_names := [label for label in own if label not in known]:
        raise UserError(
            f"{name} has classes that {fields.name} has not: {', '.join(unknown_names[:5])}; its labels must be among "
            f"those, {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"
        )
    return data.Renumbered(extra, {i: known.index(label) for i, label in enumerate(own)}, known)


def batch_rows(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns which rows of a global batch are this process's, as an option of data.train_batches and eval_batches."""
    return {"rows": parallel.process_rows(config.batch_size, mesh_of(config))}


def process_share() -> dict[str, int]:
    """Returns which share of a global batch is this process's, where processes share in their order."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def attack_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of attacks.make_attack from an attack's config, in which step_size 0 is the attack's default.

    Raises:
      UserError: eps or a step that is negative or not a number, an unknown name or norm, or one that does not go with
        the other.
    """
    options = dict(config)
    for name in ("eps", "step_size"):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise UserError(f"attack.{name} must be a number of 0 or more, in units of [0, 1] images; got {value!r}")
    norms.check_norm(options["norm"])
    report_radius(options["eps"], options["norm"])
    attacks.check_attack(name=options.get("name", "pgd"), norm=options["norm"])
    if options["num_steps"] < 1:
        raise UserError(f"attack.num_steps must be 1 or more; got {options['num_steps']}")
    options["step_size"] = options["step_size"] or None
    return options


def departures(config: ConfigDict) -> dict[str, list]:
    """Returns what a run does otherwise than the published recipe that its config refers to.

    Args:
      config: with reference.fields, values of the recipe under the names that the fields have in the config. Where
        attack.eps is 0 in both, the other fields of attack and recipe do not count.

    Returns:
      {"attack.step_size": [the run's, the recipe's], ...}, plain JSON; empty without a reference.
    """
    if "reference" not in config:
        return {}
    used, published = (json.loads(json.dumps(part.to_dict())) for part in (config, config.reference.fields))
    if used["attack"]["eps"] == published["attack"]["eps"] == 0:
        published = {name: value for name, value in published.items() if not name.startswith(("attack", "recipe"))}
    return _differences(used, published, "")


def _differences(used: Any, published: Any, name: str) -> dict[str, list]:
    if not (isinstance(used, dict) and isinstance(published, dict)):
        return {} if used == published else {name: [used, published]}
    # Of these parts a recipe says some fields only; of the others everything counts, such as a further augmentation.
    keys = published if name in ("", "data", "encoder") else dict.fromkeys([*published, *used])
    found = {}
    for key in keys:
        found |= _differences(used.get(key), published.get(key), f"{name}.{key}".removeprefix("."))
    return found


def report_departures(config: ConfigDict) -> dict[str, Any]:
    """Prints what a run does otherwise than its published recipe, and returns it as fields of the results.

    Returns:
      {"recipe": {"name", "source"}, "departs_from_recipe": as `departures` has it}; empty without a reference.
    """
    if "reference" not in config:
        return {}
    found, reference = departures(config), config.reference
    if found and jax.process_index() == 0:
        listed = ", ".join(f"{name} {used} (recipe: {published})" for name, (used, published) in found.items())
        print(
            f"{config.title}: departs from the recipe {reference.name} ({reference.source}): {listed}", file=sys.stderr
        )
    return {"recipe": {"name": reference.name, "source": reference.source}, "departs_from_recipe": found}


@functools.cache
def report_radius(eps: float, norm: str) -> None:
    """Prints, once, that an attack's radius restricts nothing, such as eps=8 in linf.

    Args:
      eps: attack.eps of a config.
      norm: attack.norm.
    """
    if text := far_radius(eps, norm):
        print(f"warning: attack.eps={text}", file=sys.stderr, flush=True)
        warnings.simplefilter("ignore", RadiusWarning)  # said already


def provenance(config: ConfigDict) -> dict[str, Any]:
    """Returns what a reader of results has to know of how they came about."""
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else f"cpu ({platform.machine()})"
    packages = ("jax", "jaxlib", "flax", "optax", "dm-pix")
    return {
        "arinv": arinv.__version__,
        "device": f"{jax.device_count()} x {kind}",
        "dtype": config.dtype,
        "seed": config.seed,
        "data": config.data.name,
        "packages": {name: metadata.version(name) for name in packages},
    }
