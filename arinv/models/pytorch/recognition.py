"""Networks that a PyTorch checkpoint fits, by its names and shapes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from arinv.errors import UserError
from arinv.models.encoders.base import Encoder, TorchLayer
from arinv.models.generators.plans import PAPER_PLANS
from arinv.models.pytorch import weights
from arinv.models.pytorch.files import TorchFile
from arinv.models.pytorch.names import Entry, denoiser_entries, encoder_entries, generator_entries
from arinv.models.pytorch.weights import StateDict
from arinv.models.registry import ENCODERS, build

STRUCTURE = frozenset({"block", "stem", "batch_norm"})  # options in which rows of one class differ


class Fit(NamedTuple):
    """An encoder whose names and shapes are those of a state dict.

    Attributes:
      encoder: a key of ENCODERS.
      options: options in which the network differs from that row, without num_classes.
      num_classes: length of the logits.
      image_size: side of the images that the weights fit, in pixels; the encoder's own where they fit every size.
      entries: entries of its variables.
      state_dict: state dict with its weights.
    """

    encoder: str
    options: Mapping[str, Any]
    num_classes: int
    image_size: int
    entries: list[Entry]
    state_dict: StateDict


def recognize(file: TorchFile) -> list[Fit]:
    """Returns the encoders that a checkpoint fits with the fewest options; empty where it fits none.

    Args:
      file: an open checkpoint, from `open_torch`.

    Returns:
      One fit per encoder, in the order of the table.

    Raises:
      UserError: the file contains no weights, or several networks that fit equally well.
    """
    candidates, error = _candidates(file)
    if error and not candidates:
        raise error
    fits: list[Fit] = []
    for fit in sorted(candidates, key=lambda fit: _rank(fit.options)):
        if fits and _rank(fit.options) > _rank(fits[0].options):
            break
        entries = _entries(fit)
        if weights.fits(file, fit.state_dict, entries):
            fits.append(fit._replace(entries=entries))
    return fits


def explain(file: TorchFile) -> str:
    """Returns how a checkpoint that fits no encoder differs from the one with most of its names; empty for none.

    Args:
      file: an open checkpoint, from `open_torch`.

    Returns:
      One line of text.
    """
    best, text = 0.5, ""  # share of the names
    for fit in _candidates(file)[0]:
        entries = _entries(fit)
        share = sum(any(name in fit.state_dict.weights for name in entry.names) for entry in entries) / len(entries)
        if share > best:
            best, text = share, weights.difference(file, fit.state_dict, entries, what=f"encoder {fit.encoder!r}")
    return text


def _entries(fit: Fit) -> list[Entry]:
    return encoder_entries(fit.encoder, fit.image_size, {**fit.options, "num_classes": fit.num_classes})[1]


def _candidates(file: TorchFile) -> tuple[list[Fit], UserError | None]:
    """Returns the encoders that have a classifier's head in a checkpoint, and why one has no weights there."""
    candidates: list[Fit] = []
    error = None
    for name in ENCODERS:
        module = build(name)
        probe = [
            Entry((), (), tuple(f"{part}.weight" for part in layer.names), layer, None)
            for layer in module.torch_layers()
        ]
        try:
            state_dict = weights.locate(file, probe)
        except UserError as reason:
            error = error or reason
            continue
        options = differences(module, state_dict, given={})
        try:
            module = build(name, **options)
        except UserError:  # options that the encoder cannot have
            continue
        layers = module.torch_layers()
        classes = num_classes(layers[-1], state_dict) if layers else None
        if classes:
            size = _image_size(module, weights.shapes(state_dict))
            candidates.append(Fit(name, options, classes, size, [], state_dict))
    return candidates, error


def recognize_generator(file: TorchFile) -> tuple[str, str, str] | None:
    """Returns encoder, layer and variant of the published generator that a checkpoint fits, or None.

    Args:
      file: an open checkpoint, from `open_torch`.
    """
    if not any(".gen.0." in f".{name}" for name in weights.tensors(file)):
        return None
    own = tuple(file.metadata.get(name, "") for name in ("encoder", "layer"))
    plans = [(*own, "default")] if all(own) else []
    for encoder, layer, variant in [*plans, *PAPER_PLANS]:
        try:
            entries = generator_entries(encoder, layer, {"variant": variant})
            if weights.fits(file, weights.locate(file, entries), entries):
                return encoder, layer, variant
        except UserError:  # no such layer, or no weights
            continue
    return None


def is_denoiser(file: TorchFile) -> bool:
    """Returns whether a checkpoint is a denoiser of the released code.

    Args:
      file: an open checkpoint, from `open_torch`.
    """
    if not any(name.endswith("generator.conv7_1.weight_orig") for name in weights.tensors(file)):
        return False
    try:
        halves = denoiser_entries("alexnet", {})
        return all(weights.fits(file, weights.locate(file, entries), entries) for entries in halves.values())
    except UserError:
        return False


def _rank(options: Mapping[str, Any]) -> int:
    return sum(2 if name in STRUCTURE else 1 for name in options if name != "normalization")


def differences(module: Encoder, state_dict: StateDict, *, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a state dict shows and that differ from an encoder's, without those given.

    Args:
      module: an encoder, whose attributes are compared.
      state_dict: state dict of an encoder of the same class, from `weights.locate`.
      given: options whose values are given and not returned.

    Returns:
      Option of `build` -> value in the state dict, such as {"width": 32}; empty where there is no difference.
    """
    options = module.torch_options(weights.shapes(state_dict))
    return {name: value for name, value in options.items() if name not in given and value != getattr(module, name)}


def num_classes(last: TorchLayer, state_dict: StateDict) -> int | None:
    """Returns the length of the logits in a state dict, None where it has no such layer.

    Args:
      last: the logits' layer, the last of `torch_layers`.
      state_dict: state dict of the encoder, from `weights.locate`.
    """
    shapes = weights.shapes(state_dict)
    matches = [shapes[f"{name}.weight"] for name in last.names if f"{name}.weight" in shapes]
    return matches[0][0] if matches and matches[0] else None


def _image_size(module: Encoder, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the side in pixels of the images that a head of a fixed size reads."""
    spec = module.feature_specs()[module.default_layer]
    if module.has_fixed_head:
        for layer in module.torch_layers():
            shape = next((shapes[f"{name}.weight"] for name in layer.names if f"{name}.weight" in shapes), ())
            if layer.channels and len(shape) == 2:
                return (round((shape[1] / layer.channels) ** 0.5) + spec.offset) * spec.stages[-1].stride
    return module.image_size
