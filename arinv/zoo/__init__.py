"""The zoo: trained networks that are installed with the package, each with a card made from its runs.

zoo/NAME/encoder.safetensors   a classifier
zoo/NAME/LAYER.safetensors     an inverter of its feature LAYER, such as conv5; any number of them
zoo/NAME/card.json             how they were trained, and how they measure

"zoo:NAME" stands for the inverter of the deepest layer where an inverter is allowed, else for the encoder;
"zoo:NAME/LAYER" and "zoo:NAME/encoder" name one of them. `python -m launch.zoo add` writes entries.
"""

import json
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from arinv.errors import UserError, unknown

FOLDER = pathlib.Path(__file__).resolve().parent  # of the entries
SCHEME = "zoo:"
ENCODER = "encoder"
CARD = "card.json"
MAX_FILE_BYTES, MAX_TOTAL_BYTES = 16 * 2**20, 40 * 2**20
_SUFFIX = ".safetensors"
_HEADING = ("network", "encoder", "training", "clean accuracy", "AutoAttack accuracy", "PSNR (dB)", "size")


def names() -> tuple[str, ...]:
    """Returns the names of the entries."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{ENCODER}{_SUFFIX}")))


def is_reference(reference: str | os.PathLike) -> bool:
    """Returns whether a reference names an entry: "zoo:NAME" or "zoo:NAME/NETWORK"."""
    return isinstance(reference, str) and reference.startswith(SCHEME)


def resolve(reference: str) -> pathlib.Path:
    """Returns the folder of an entry, or the file of one of its networks.

    Args:
      reference: "zoo:NAME" or "zoo:NAME/NETWORK", the network "encoder" or the layer of an inverter.

    Raises:
      UserError: unknown entry or network.
    """
    name, _, network = reference.removeprefix(SCHEME).partition("/")
    if name not in names():
        raise unknown("entry of the zoo", name, names())
    if network and network not in networks(name):
        raise unknown(f"network of zoo:{name}", network, networks(name))
    return FOLDER / name / f"{network}{_SUFFIX}" if network else FOLDER / name


def reference(place: pathlib.Path) -> str:
    """Returns the reference of a place that `resolve` returns; empty for any other place."""
    place = place.resolve()
    if place.parent == FOLDER and place.name in names():
        return f"{SCHEME}{place.name}"
    if place.parent.parent == FOLDER and place.suffix == _SUFFIX:
        return f"{SCHEME}{place.parent.name}/{place.stem}"
    return ""


def networks(name: str) -> tuple[str, ...]:
    """Returns the networks of an entry: "encoder", then the layers of its inverters, the deepest last."""
    layers = {path.stem for path in (FOLDER / name).glob(f"*{_SUFFIX}")} - {ENCODER}
    return (ENCODER, *sorted(layers, key=_depth))


def network(place: pathlib.Path, kinds: Collection[str] = ()) -> pathlib.Path:
    """Returns the file of an entry's network; a path that is no entry is returned unchanged.

    Args:
      place: the folder of an entry, or any other path.
      kinds: allowed kinds of networks, "classifier" and "inverter" among them; empty for any.

    Raises:
      UserError: the entry has no network of these kinds.
    """
    if not reference(place) or place.is_file():
        return place
    kinds = set(filter(None, kinds)) or {"classifier", "inverter"}
    *others, deepest = networks(place.name)
    if "inverter" in kinds and others:
        return place / f"{deepest}{_SUFFIX}"
    if "classifier" in kinds:
        return place / f"{ENCODER}{_SUFFIX}"
    raise UserError(f"{SCHEME}{place.name} has no {' or '.join(sorted(kinds))}; it has {', '.join((*others, deepest))}")


def card(name: str) -> dict[str, Any]:
    """Returns the card of an entry.

    Raises:
      UserError: unknown entry, or a damaged card.
    """
    path = resolve(f"{SCHEME}{name}") / CARD
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); install arinv again") from None


def rows() -> list[Sequence[str]]:
    """Returns the heading and a row for each entry that has a card."""
    return [_HEADING, *(_row(name, card(name)) for name in names() if (FOLDER / name / CARD).exists())]


def markdown() -> str:
    """Returns the table of all entries in Markdown."""
    heading, *entries = rows()
    lines = [heading, ["---"] * 3 + ["---:"] * (len(heading) - 3), *entries]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text() -> str:
    """Returns the table of all entries in columns, for a terminal."""
    lines = rows()
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def card_text(name: str) -> str:
    """Returns the card of an entry in lines, for a terminal.

    Raises:
      UserError: unknown entry, or a damaged card.
    """
    entry = card(name)
    encoder = entry["encoder"]
    training, measured, setting = encoder["training"], encoder["measured"], encoder["measured"]["setting"]
    clean, robust = (
        f"{measured[key]:.1%} [{measured[f'{key}_95'][0]:.1%}, {measured[f'{key}_95'][1]:.1%}]"
        for key in ("clean_accuracy", "autoattack_accuracy")
    )
    lines = [
        f"zoo:{name}: {_encoder_text(encoder)}, {encoder['num_classes']} classes, images of {encoder['image_size']} px",
        *([entry["note"]] if entry["note"] else []),
        "",
        f"encoder     {encoder['parameters']:,} parameters, weights {encoder['weights']}",
        f"  training  {training_text(training)}, {training['num_train']:,} images, {training['flops']:.2e} FLOPs, "
        f"seed {training['setting']['seed']}, {training['date']}",
        f"  clean     {clean} of {measured['num_images']:,} test images",
        f"  attacked  {robust} by AutoAttack, {radius_text(measured['attack'])}",
        f"  measured  {setting['device']}, {setting['dtype']}, jax {setting['packages']['jax']}",
        *(f"  warning   {warning}" for warning in measured["warnings"]),
        f"  command   {training['command']}",
    ]
    for layer, row in entry["inverters"].items():
        figures = row["measured"]
        lines += [
            "",
            f"{layer:11s} inverter, {row['parameters']:,} parameters, generator {row['variant']}, "
            f"weights {row['weights']}",
            f"  training  {row['training']['epochs']:g} epochs, {row['training']['flops']:.2e} FLOPs, "
            f"{row['training']['date']}",
            f"  measured  PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.3f}, normalized error "
            f"{figures['normalized_error']:.3f} of {figures['num_images']:,} test images",
            f"  command   {row['training']['command']}",
        ]
    return "\n".join([*lines, "", f"all figures: {resolve(f'{SCHEME}{name}') / CARD}"])


def main(argv: Sequence[str]) -> int:
    """Prints the table of the zoo, or the card of one of its networks: the command `arinv zoo`.

    Args:
      argv: nothing, a name, or --help.

    Returns:
      The exit code, 0.

    Raises:
      UserError: an unknown name, or several.
    """
    if {"--help", "-h", "-help"} & {*argv}:
        print("usage: python -m arinv zoo [NAME]\n\nLists the trained networks that are installed, or prints a card.")
        return 0
    if len(argv) > 1:
        raise UserError(f"arinv zoo takes no argument (the table) or one name (its card); got {' '.join(argv)}")
    if argv:
        print(card_text(argv[0].removeprefix(SCHEME)))
    else:
        print(f"{text()}\n\nzoo:NAME stands for a workdir of a trained network; `arinv zoo NAME` prints a card.")
    return 0


def training_text(training: Mapping[str, Any]) -> str:
    """Returns how the encoder of a card was trained, such as "CIFAR-10, l2 eps 0.5, 12 epochs of pgd"."""
    attack = training["attack"]
    dataset = training["data"].partition(":")[2] or training["data"]
    if not attack["eps"]:
        return f"{dataset}, standard, {training['epochs']:g} epochs"
    return f"{dataset}, {radius_text(attack)}, {training['epochs']:g} epochs of {training['recipe']['name']}"


def radius_text(attack: Mapping[str, Any]) -> str:
    """Returns norm and radius of an attack, such as "l2 eps 0.5" or "linf eps 8/255"."""
    eps, levels = attack["eps"], attack["eps"] * 255
    is_fraction = attack["norm"] == "linf" and abs(levels - round(levels)) < 1e-6
    return f"{attack['norm']} eps {f'{round(levels)}/255' if is_fraction else f'{eps:g}'}"


def _row(name: str, entry: Mapping[str, Any]) -> Sequence[str]:
    measured = entry["encoder"]["measured"]
    low, high = measured["autoattack_accuracy_95"]
    robust = f"{measured['autoattack_accuracy']:.1%} [{low:.1%}, {high:.1%}], {radius_text(measured['attack'])}"
    psnr = ", ".join(f"{layer} {row['measured']['psnr']:.2f}" for layer, row in entry["inverters"].items())
    encoder = _encoder_text(entry["encoder"])
    training = training_text(entry["encoder"]["training"])
    size = sum(row["bytes"] for row in (entry["encoder"], *entry["inverters"].values()))
    clean = f"{measured['clean_accuracy']:.1%}"
    return name, encoder, training, clean, robust, psnr or "-", f"{size / 2**20:.1f} MB"


def _encoder_text(encoder: Mapping[str, Any]) -> str:
    options = ", ".join(f"{option} {value}" for option, value in encoder["options"].items())
    return f"{encoder['encoder']}{f' ({options})' if options else ''}"


def _depth(layer: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", layer)]
