"""`Run`: a task with its config and workdir, which opens data, loads networks, caches and finishes."""

import functools
import json
import os
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import arinv
from arinv import data, distributed, parallel
from arinv.errors import UserError
from arinv.experiment import descriptions, loading, references, workdirs
from arinv.experiment.cache import ResultCache, cache_key
from arinv.experiment.fields import channels_of, dtype_of, mesh_of
from arinv.experiment.report import Table, write_report
from arinv.experiment.task import Task, Tasks
from arinv.experiment.trained import Trained
from arinv.experiment.writer import progress_callback

_UNKNOWN = Task(None)  # of a run without a table of tasks
_MAX_REASONS = 3  # of unreadable images


class Run:
    """One execution of a task.

    Attributes:
      config: config of the task.
      workdir: directory that the task writes to.
      stages: workdir -> config of every stage of the same experiment, this one included.
    """

    _MAX_SOURCES = 4  # training and test images of two kinds

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        stages: Mapping[pathlib.Path, ConfigDict] | None = None,
        sources: dict[str, data.Source] | None = None,
        tasks: Tasks | None = None,
    ):
        """Initializes the run.

        Args:
          config: config of the task.
          workdir: directory of the task.
          stages: as the attribute; None for a task of its own.
          sources: datasets that stages of one experiment share, so that each is decoded once; grows.
          tasks: the table of tasks, which stages are looked up in; None for a run without other stages.
        """
        self.config, self.workdir = config, workdir
        self.stages = {workdir: config} if stages is None else stages
        self._sources = {} if sources is None else sources
        self._tasks = {} if tasks is None else tasks
        self._origin = ""  # hash of the earlier runs that the config names
        self._unfinished: list[str] = []  # references of trainings that were loaded before their end

    def with_config(self, config: ConfigDict, workdir: pathlib.Path) -> "Run":
        """Returns the run of another config in another directory, with the stages and datasets of this one.

        Results of either name the unfinished trainings that the other has loaded.
        """
        run = Run(config, workdir, self.stages, self._sources, self._tasks)
        run._unfinished = self._unfinished
        return run

    @property
    def task(self) -> Task:
        """The facts of the task."""
        return self._tasks.get(self.config.get("task", ""), _UNKNOWN)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of config.mesh."""
        return mesh_of(self.config)

    @property
    def rows(self) -> np.ndarray:
        """Rows of a global batch that this process reads, int64 [rows]."""
        return parallel.process_rows(self.config.batch_size, self.mesh)

    @property
    def dtype(self) -> jax.typing.DTypeLike:
        """The dtype of the computation; float32 where the config has none."""
        return dtype_of(self.config) if "dtype" in self.config else jnp.float32

    @property
    def key(self) -> jax.Array:
        """The PRNG key of config.seed."""
        return jax.random.key(self.config.seed)

    @property
    def provenance(self) -> dict[str, Any]:
        """Device, dtype, seed, data and package versions, as results report them."""
        device = jax.devices()[0]
        kind = device.device_kind if device.platform != "cpu" else f"cpu ({platform.machine()})"
        packages = ("jax", "jaxlib", "flax", "optax", "dm-pix")
        return {
            "arinv": arinv.__version__,
            "device": f"{jax.device_count()} x {kind}",
            "dtype": self.config.dtype,
            "seed": self.config.seed,
            "data": self.config.data.name,
            "packages": {name: metadata.version(name) for name in packages},
        }

    def resolve(self, reference: str) -> pathlib.Path:
        """Returns the workdir that a field names: "stage:NAME" of the same experiment, "zoo:NAME", or a path.

        Raises:
          UserError: no usable path, or an unknown entry of the zoo.
        """
        return workdirs.resolve(reference, self.workdir)

    def load(
        self,
        reference: str,
        *,
        kind: str | tuple[str, ...] = "",
        image_size: int | None = None,
        allow_other_size: bool = False,
        channels: int | None = None,
    ) -> Trained:
        """Returns the trained network that a field names, in the config's dtype.

        Args:
          reference: the field's value.
          kind: required kind, "classifier", "inverter", "denoiser", "gan" or "autoencoder", or a tuple of kinds; empty
            for any.
          image_size: side of the images that it is applied to, in pixels; None for any size.
          allow_other_size: whether this may differ from the size that the network was trained on.
          channels: channels of the images; None for any number.

        Raises:
          UserError: as `loading.load`.
        """
        workdir = self.resolve(reference)
        if place := workdirs.unfinished(workdir):
            line = f"warning: the training in {place} is not complete; its newest checkpoint is used"
            distributed.report(line, once=True)
            if str(reference) not in self._unfinished:
                self._unfinished.append(str(reference))
        options = {"image_size": image_size, "allow_other_size": allow_other_size, "channels": channels}
        return loading.load(workdir, kind=kind, dtype=self.dtype, **options)

    def planned(self, reference: str) -> ConfigDict | None:
        """Returns the config of the stage of the same experiment that a field names; None where it names none.

        Raises:
          UserError: a folder below a stage that it trains nothing in.
        """
        place = self.resolve(reference)
        for folder, stage in self.stages.items():
            if stage is self.config or folder not in (place, *place.parents):
                continue
            if place == folder:
                return stage
            parts = self._tasks[stage.task].split(folder, stage) if stage.task in self._tasks else {}
            if place in parts:
                return parts[place]
            if not place.exists():
                own = f"{workdirs.STAGE}{folder.name}"
                known = ", ".join(f"{own}/{part.name}" for part in parts if part != folder) or own
                raise UserError(f"{reference} is no network of that stage; name {known}")
        return None

    def check_planned(
        self, reference: str, *, kind: str | Sequence[str], allow_other_size: bool = False
    ) -> ConfigDict | None:
        """Checks that a stage of the same experiment trains a network that fits this task.

        Args:
          reference: the field's value; references that are not stages are not checked.
          kind: required kind of network, or several.
          allow_other_size: whether it may be of images of another size.

        Returns:
          As `planned`, the config of the stage; None where the field names none.

        Raises:
          UserError: the stage trains nothing, a network of another kind, on images of another size (`OtherSize`), or of
            another number of channels.
        """
        stage, kinds = self.planned(reference), (kind,) if isinstance(kind, str) else tuple(kind)
        if stage is None:
            return None
        trained = self._tasks[stage.task].kind_of(stage)
        if trained not in kinds:
            content = (
                f"trains {descriptions.article(trained)}"
                if trained
                else f"is a task {stage.task!r}, which trains no network"
            )
            raise UserError(
                f"{reference} {content}; name a stage that trains {' or '.join(map(descriptions.article, kinds))}"
            )
        own, other = self.config.get("data", {}), stage.get("data", {})
        if own.get("image_size") and other.get("image_size") and not allow_other_size:
            planned = {"image_size": other.image_size}
            descriptions.check_trained_size(planned, own.image_size, reference, verb="is")
        if own.get("channels") and other.get("channels") and own.channels != other.channels:
            raise UserError(
                f"{reference} is of images of {other.channels} channels, data.channels is {own.channels}; give both one"
            )
        return stage

    def check_network(
        self,
        reference: str,
        *,
        kind: str | Sequence[str],
        image_size: int | None = None,
        allow_other_size: bool = False,
    ) -> Trained | None:
        """Checks, before any stage runs, that a field names a network of a kind, or a stage that trains one.

        Args:
          reference: the field's value.
          kind: required kind of network, or several.
          image_size: side of the images that a finished network is applied to, in pixels; None for any.
          allow_other_size: whether it may be trained on images of another size, also by a stage.

        Returns:
          The network; None of a stage.

        Raises:
          UserError: as `load` and `check_planned`.
        """
        if self.check_planned(reference, kind=kind, allow_other_size=allow_other_size) is not None:
            return None
        return self.load(reference, kind=kind, image_size=image_size, allow_other_size=allow_other_size)

    def open_data(self, split: str, *, resize: str = "") -> data.Source:
        """Returns the images of config.data.

        Args:
          split: "train" or "test".
          resize: how images are resized; empty for data.resize.

        Raises:
          UserError: the dataset cannot be read.
        """
        fields = self.config.data.to_dict()
        names = ("train_split", "num_train") if split == "test" else ("test_split", "num_test")
        key = json.dumps([split, resize, {name: fields[name] for name in sorted(fields) if name not in names}])
        return self._shared(key, lambda: open_source(self.config, split, resize=resize))

    def _shared(self, key: str, open_fn: Callable[[], data.Source]) -> data.Source:
        """Returns the source of a key, which is opened where no stage has done so lately."""
        source = self._sources.pop(key, None) or open_fn()
        self._sources[key] = source  # the last is the newest
        while len(self._sources) > self._MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        return source

    def open_extra(self, train: data.Source) -> data.Source:
        """Returns the second source of training images, config.data.extra, with the labels of the first.

        Classes are matched by name; class numbers of an npz archive refer to the classes of the first source.

        Args:
          train: the first source.

        Raises:
          UserError: the dataset cannot be read, or has classes that the first source lacks.
        """
        fields = self.config.data
        name, class_names = fields.extra.name, train.info.class_names
        scheme, _ = data.split_name(name)
        # An archive of its own is used for training as a whole: none of it is a test set.
        split = fields.train_split if data.same_dataset(name, fields.name) else scheme.extra_split
        resize = data.ORIGINAL if fields.get("resized_crop") else ""
        key = json.dumps(["extra", split, resize, fields.to_dict()], sort_keys=True)
        extra = self._shared(key, lambda: open_dataset(self.config, name, split, resize=resize))
        labels = extra.info.class_names
        if scheme.numbered_classes and not any(label.isdecimal() for label in class_names):
            numbers = {str(i): name for i, name in enumerate(class_names)}
            labels = [numbers.get(label, label) for label in labels]
        if missing := [label for label in labels if label not in class_names]:
            raise UserError(
                f"{name} has classes that {fields.name} lacks: {', '.join(missing[:5])}; its labels must be among "
                f"{', '.join(class_names[:5])}{', ...' if len(class_names) > 5 else ''}"
            )
        return data.Renumbered(extra, {i: class_names.index(label) for i, label in enumerate(labels)}, class_names)

    def open_images(self, reference: str = "") -> data.ImageFiles:
        """Returns the images of a file or folder, or built-in photographs, no larger than data.max_side.

        Args:
          reference: path of either, or "photos:NAME+NAME"; empty for config.data.name.

        Raises:
          UserError: no image there, or an unreadable one, unless data.on_bad_image is "skip".
        """
        fields = self.config.data
        reference, max_side = reference or fields.name, fields.get("max_side", 0)
        if data.is_photographs(reference):
            return data.open_photographs(reference, max_side=max_side)
        return open_image_files(reference, on_bad_image=fields.on_bad_image, max_side=max_side)

    def check_workdir(self) -> None:
        """Checks that the workdir belongs to no other config and is in no folder of images that the task reads.

        Inputs may have moved: paths may differ where they name the same content.

        Raises:
          UserError: the workdir belongs to another config, or is in a folder of images that the task reads.
        """
        references.check_outside(self.config, self.workdir, reads_paths=self.task.reads_paths)
        moved = references.moved(self.config, self.workdir, reads_paths=self.task.reads_paths)
        workdirs.check(self.config, self.workdir, is_independent=self.task.is_independent, moved=moved)

    def check_unchanged(self) -> None:
        """Checks that what a complete task or a stopped training has used is the same today, where it exists.

        Raises:
          UserError: naming what has changed.
        """
        references.check_unchanged(self.config, self.workdir, reads_paths=self.task.reads_paths)

    def begin(self) -> None:
        """Writes the config into the workdir; call it once all inputs have been read.

        Raises:
          UserError: the workdir belongs to another config or cannot be written.
        """
        origin = ""
        if distributed.index() == 0:
            self.check_workdir()
            workdirs.write_config(self.config, self.workdir)
            origin = references.record(self.config, self.workdir, reads_paths=self.task.reads_paths)
        self._origin = distributed.broadcast(origin)

    def cache(self, folder: str, *parts: str | np.ndarray, files: Sequence[pathlib.Path] = ()) -> ResultCache:
        """Returns the cache of results in a folder of the workdir.

        Args:
          folder: its name; empty for the workdir itself.
          *parts: what determines the results besides the config and the earlier runs that it names, such as
            fingerprints of weights, and images.
          files: input files, identified by name, size and modification time.
        """
        return ResultCache(self.workdir / folder, cache_key(self._origin, *parts, files=files))

    def report(self, line: str) -> None:
        """Prints a line on stderr, after the task's title; on process 0 only."""
        distributed.report(f"{self.config.title}: {line}")

    def warn_overlap(self, train: data.SourceInfo, test: data.SourceInfo) -> None:
        """Prints a warning where test images are among the training images."""
        if data.share_images(train, test):
            self.report(
                f"warning: images of data.test_split={test.split!r} are among those of "
                f"data.train_split={train.split!r}: the results are not those of new images"
            )

    def finish(
        self,
        results: Mapping[str, Any],
        *,
        tables: Sequence[Table] | None = None,
        notes: Sequence[str] = (),
        figures: Mapping[str, pathlib.Path] = MappingProxyType({}),
        text: str = "",
    ) -> dict[str, Any]:
        """Writes the report, then results.json, which marks the task as complete, and returns its content.

        Args:
          results: plain JSON; device, dtype, seed and dataset are added as "setting".
          tables: of table.md and report.html, whose path is printed; None for a task without a report, whose
            main figures are printed.
          notes: see `write_report`.
          figures: see `write_report`; read on process 0 only.
          text: see `write_report`.

        Raises:
          UserError: the workdir no longer exists.
        """
        if "seed" in self.config:
            results = {**results, "setting": results.get("setting") or self.provenance}
        if self._unfinished:
            results = {**results, "unfinished": self._unfinished}
        summary = _summary(results, self.workdir)
        if tables is not None and distributed.index() == 0:
            path = write_report(self.workdir, self.config.title, tables, notes=notes, figures=figures, text=text)
            summary = f"the report is {path}"
        workdirs.write_results(self.workdir, results)
        self.report(summary)
        return results


def _summary(results: Mapping[str, Any], workdir: pathlib.Path) -> str:
    """Returns the main figures of results, and where all of them are."""
    values = {name: value for name, value in results.items() if isinstance(value, float)}
    names = (name for name in values if not name.endswith(("_std", "seconds")))
    figures = ", ".join(f"{name} {values[name]:.4g}" for name in names)
    return f"{figures}; all results are in {workdir / 'results.json'}" if figures else f"the results are in {workdir}"


def open_source(config: ConfigDict, split: str, *, resize: str = "") -> data.Source:
    """Returns a source of config.data, after reporting what it skips.

    Args:
      config: config of a task.
      split: "train" or "test"; with data.resized_crop, training images keep their original size.
      resize: how images are resized; empty for data.resize.

    Raises:
      UserError: the dataset cannot be read.
    """
    fields = config.data
    return open_dataset(
        config,
        fields.name,
        fields[f"{split}_split"],
        resize=data.ORIGINAL if split == "train" and fields.get("resized_crop") else resize,
        num_examples=fields[f"num_{split}"] or None,
        classes=fields.classes or None,
        renumber=True,
    )


def open_dataset(config: ConfigDict, name: str, split: str, *, resize: str = "", **selection: Any) -> data.Source:
    """Returns a source of any dataset, with the options of config.data, after reporting what it skips.

    Window and label are those of config.data.name; another dataset has whole images, and its own labels.

    Args:
      config: config of a task.
      name: name of the dataset, see `data.open_source`.
      split: a split of this dataset.
      resize: how images are resized; empty for data.resize, or "squash" where the task has none.
      **selection: num_examples, classes and renumber of `data.open_source`; all examples without.

    Raises:
      UserError: the dataset cannot be read.
    """
    fields = config.data
    own = {"window": tuple(fields.get("window", ())), "label": fields.get("label", "")}
    source = data.open_source(
        name,
        split=split,
        image_size=fields.image_size,
        resize=resize or fields.get("resize", "squash"),
        data_dir=fields.data_dir or None,
        on_bad_image=fields.on_bad_image,
        channels=channels_of(config),
        progress=progress_callback(f"checking {name}"),
        **(own if data.same_dataset(name, fields.name) else {}),
        **selection,
    )
    report_source(source)
    return source


def open_image_files(reference: str | os.PathLike, *, on_bad_image: str, max_side: int = 0) -> data.ImageFiles:
    """Returns the images of a file or folder, after reporting what is skipped.

    Args:
      reference: path of either.
      on_bad_image: "error" or "skip".
      max_side: larger images are reduced until their longer side has it, in pixels; 0 for no limit.

    Raises:
      UserError: no image there, or an unreadable one, unless on_bad_image is "skip".
    """
    images = data.open_images(
        reference, on_bad_image=on_bad_image, max_side=max_side, progress=progress_callback(f"checking {reference}")
    )
    report_skipped(str(reference), len(images.bad_files), images.left_out, reasons=images.bad_files)
    return images


def report_source(source: data.Source) -> None:
    """Prints on stderr what a source skips, omits, and has that is unusual; on process 0 only."""
    info = source.info
    report_skipped(f"{info.name} {info.split}", source.num_skipped)
    report_skipped(info.name, 0, info.left_out)
    if info.note:
        distributed.report(f"{info.name}: {info.note}", once=True)


def report_skipped(
    name: str, num_skipped: int, left_out: str = "", *, reasons: Mapping[os.PathLike, str] = MappingProxyType({})
) -> None:
    """Prints on stderr which files of a folder are skipped, and why the first; on process 0 only.

    Args:
      name: name of the folder.
      num_skipped: number of unreadable images.
      left_out: text on files that are not images; reported once, however often the folder is opened.
      reasons: unreadable image -> reason, where it is known.
    """
    if num_skipped:
        texts = [reason.replace(str(path), os.path.basename(path)) for path, reason in reasons.items()][:_MAX_REASONS]
        listed = f": {'; '.join(texts)}{'; ...' if len(reasons) > len(texts) else ''}" if texts else ""
        distributed.report(f"{name}: skipped {num_skipped} unreadable image(s){listed}")
    if left_out:
        distributed.report(f"{name}: left out {left_out}", once=True)
