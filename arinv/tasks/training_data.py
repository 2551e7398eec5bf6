"""What a training is about to learn: its classes, checked and reported before the first step."""

import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from arinv import data
from arinv.data.folder import class_advice
from arinv.errors import UserError
from arinv.models.normalization import Normalization, mean_std

_MOST_COUNTED = 100_000  # records whose labels are read for the report: about a second
_SHOWN = 6  # classes


def check_classes(config: ConfigDict, train: data.Source, test: data.Source) -> None:
    """Checks that a classifier can learn the classes that it is tested on.

    Raises:
      UserError: a single class, or classes of the test that the training images lack.
    """
    info = train.info
    if info.num_classes < 2:
        advice = "take a data set of several, or leave out classes="
        if info.name.startswith("folder:") and not config.data.classes:
            advice = class_advice(info.name.removeprefix("folder:"))
        raise UserError(
            f"{info.name} has one class, {', '.join(info.class_names)!r}: a classifier learns nothing from it; {advice}"
        )
    if not info.name.startswith(("folder:", "npz:")) or config.data.num_train or config.data.extra.name:
        return  # few of the images may well lack a class, and a second source may have it
    lacking = sorted(set(test.read_labels().tolist()) - set(train.read_labels().tolist()))
    if lacking:
        names = ", ".join(test.info.class_names[label] for label in lacking[:_SHOWN])
        raise UserError(
            f"{info.name} has no training image of {len(lacking)} of the classes in its test: {names}; add some, or "
            "remove them"
        )


def report(config: ConfigDict, train: data.Source, test: data.Source, normalization: Normalization) -> None:
    """Prints on stderr, in one line, what is about to be learnt; process 0 does.

    Args:
      config: of the training.
      train: its training images.
      test: its test images.
      normalization: of the encoder's pixels.
    """
    if jax.process_index() == 0:
        print(f"{config.title}: {_text(config, train, test, normalization)}", file=sys.stderr, flush=True)


def _text(config: ConfigDict, train: data.Source, test: data.Source, normalization: Normalization) -> str:
    mean, std = mean_std(normalization)
    name = f"{normalization}: " if isinstance(normalization, str) else ""
    extra = config.data.extra
    second = f" and {extra.name} ({extra.share:.0%} of each batch)" if extra.name else ""
    return (
        f"{train.info.name}{second}, {_classes(train)}, {len(train):,} training and {len(test):,} test images of "
        f"{train.info.image_size} px, normalisation {name}mean {_joined(mean)}, standard deviation {_joined(std)}"
    )


def _classes(source: data.Source) -> str:
    names = source.info.class_names
    text = f"{len(names):,} class{'' if len(names) == 1 else 'es'}"
    if len(source) > _MOST_COUNTED and source.info.name.startswith("tfds:"):
        return text
    counts = np.bincount(source.read_labels(), minlength=len(names)).tolist()
    names = [name[:40] if name.isprintable() else repr(name[:40]) for name in names]
    pairs = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
    if len(pairs) > _SHOWN:
        pairs = [*pairs[:3], "...", pairs[-1], f"{min(counts):,} to {max(counts):,} each"]
    return f"{text} ({', '.join(pairs)})"


def _joined(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" for value in values)
