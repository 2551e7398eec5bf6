"""Cards of the zoo: how its networks were trained, and how they measure; their table, and the command `arinv zoo`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from arinv import zoo
from arinv.errors import UserError
from arinv.zoo import CARD, ENCODER, INVERTER, SCHEME

_HEADING = ("entry", "networks", "training", "clean accuracy", "AutoAttack accuracy", "PSNR (dB)", "size")


def card(name: str) -> dict[str, Any]:
    """Returns the card of an entry, or of the entry of one of its networks.

    Raises:
      UserError: unknown entry, or a damaged card.
    """
    place = zoo.resolve(f"{SCHEME}{name}")
    path = (place if place.is_dir() else place.parent) / CARD
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return entry | {
            "networks": {name: entry["networks"][name] for name in sorted(entry["networks"], key=zoo.order)}
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); install arinv again") from None


def rows() -> list[Sequence[str]]:
    """Returns the heading and a row for each entry that has a card."""
    return [_HEADING, *(_row(name, card(name)) for name in zoo.names() if (zoo.FOLDER / name / CARD).exists())]


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
    """Returns the card of an entry, or of the entry of one of its networks, in lines for a terminal.

    Raises:
      UserError: unknown entry, or a damaged card.
    """
    entry, name = card(name), name.partition("/")[0]
    size = next(iter(entry["networks"].values()))["image_size"]
    lines = [f"zoo:{name}: {_networks_text(entry)}, images of {size} px", *([entry["note"]] if entry["note"] else [])]
    for network, row in entry["networks"].items():
        measured = row["measured"]
        lines += [
            "",
            f"{network:11s} {_summary(row)}, {row['parameters']:,} parameters, weights {row['weights']}",
            f"  training  {_training_text(row)}",
            *_measured_lines(row),
            *(f"  warning   {warning}" for warning in measured.get("warnings", ())),
            f"  command   {row['training']['command']}",
        ]
    return "\n".join([*lines, "", f"all figures: {zoo.resolve(f'{SCHEME}{name}') / CARD}"])


def _summary(row: Mapping[str, Any]) -> str:
    """Returns what a network is, such as "inverter, generator nearest"."""
    if row["kind"] == "classifier":
        return f"{_encoder_text(row)}, {row['num_classes']} classes"
    if row["kind"] == INVERTER:
        return f"inverter, generator {row['variant']}"
    if row["kind"] == "gan":
        return f"{_gan_text(row)}, latents of {row['latent_size']} numbers"
    return f"autoencoder ({row['networks']}) of images degraded by {row['operator']['name']}"


def _training_text(row: Mapping[str, Any]) -> str:
    """Returns how a network was trained."""
    training = row["training"]
    extent = f"{training['flops']:.2e} FLOPs, seed {training['setting']['seed']}, {training['date']}"
    if row["kind"] == "classifier":
        return f"{training_text(training)}, {training['num_train']:,} images, {extent}"
    stages = f" in {training['stages']} stages" if training.get("stages", 1) > 1 else ""
    length = f"{training['steps']:,} steps{stages}" if row["kind"] == "gan" else f"{training['epochs']:g} epochs"
    return f"{_data_text(training)}, {length}, {extent}"


def _measured_lines(row: Mapping[str, Any]) -> list[str]:
    """Returns the figures of a network, and on what they were measured."""
    measured, setting = row["measured"], row["measured"]["setting"]
    images = f"{measured['num_images']:,} test images"
    if row["kind"] == "classifier":
        clean, robust = (
            f"{measured[key]:.1%} [{measured[f'{key}_95'][0]:.1%}, {measured[f'{key}_95'][1]:.1%}]"
            for key in ("clean_accuracy", "autoattack_accuracy")
        )
        attack = radius_text(measured["attack"])
        lines = [f"  clean     {clean} of {images}", f"  attacked  {robust} by AutoAttack, {attack}"]
    elif row["kind"] == "gan":
        lines = [f"  figures   FID {measured['fid']:.2f} ({measured['variant']}) to {images}"]
    elif row["kind"] == INVERTER:
        error = f"normalized error {measured['normalized_error']:.3f}"
        lines = [f"  figures   PSNR {measured['psnr']:.2f} dB, SSIM {measured['ssim']:.3f}, {error} of {images}"]
    else:
        psnr = ", ".join(f"{value:.2f} ({name})" for name, value in measured["psnr"].items())
        lines = [f"  figures   PSNR in dB {psnr} of {images}"]
    return [*lines, f"  measured  {setting['device']}, {setting['dtype']}, jax {setting['packages']['jax']}"]


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
    """Returns how the encoder of a card was trained, such as "cifar10, l2 eps 0.5, 12 epochs of pgd"."""
    attack = training["attack"]
    if not attack["eps"]:
        return f"{_data_text(training)}, standard, {training['epochs']:g} epochs"
    return (
        f"{_data_text(training)}, {radius_text(attack)}, {training['epochs']:g} epochs of {training['recipe']['name']}"
    )


def _data_text(training: Mapping[str, Any]) -> str:
    dataset, classes = training["data"].partition(":")[2] or training["data"], training.get("classes")
    return f"{dataset} ({', '.join(map(str, classes))})" if classes else dataset


def radius_text(attack: Mapping[str, Any]) -> str:
    """Returns norm and radius of an attack, such as "l2 eps 0.5" or "linf eps 8/255"."""
    eps, levels = attack["eps"], attack["eps"] * 255
    is_fraction = attack["norm"] == "linf" and abs(levels - round(levels)) < 1e-6
    return f"{attack['norm']} eps {f'{round(levels)}/255' if is_fraction else f'{eps:g}'}"


def _row(name: str, entry: Mapping[str, Any]) -> Sequence[str]:
    rows = entry["networks"]
    size = f"{sum(row['bytes'] for row in rows.values()) / 2**20:.1f} MB"
    clean = robust = "-"
    if ENCODER in rows:
        measured, training = rows[ENCODER]["measured"], training_text(rows[ENCODER]["training"])
        low, high = measured["autoattack_accuracy_95"]
        clean = f"{measured['clean_accuracy']:.1%}"
        robust = f"{measured['autoattack_accuracy']:.1%} [{low:.1%}, {high:.1%}], {radius_text(measured['attack'])}"
        psnr = {network: row["measured"]["psnr"] for network, row in rows.items() if network != ENCODER}
    else:
        training = _data_text(rows["gan"]["training"]) + f", {rows['gan']['training']['steps']:,} steps"
        autoencoders = {network: row for network, row in rows.items() if row["kind"] == "autoencoder"}
        psnr = {network: row["measured"]["psnr"]["autoencoder"] for network, row in autoencoders.items()}
    psnr_text = ", ".join(f"{network} {value:.2f}" for network, value in psnr.items()) or "-"
    return name, _networks_text(entry), training, clean, robust, psnr_text, size


def _networks_text(entry: Mapping[str, Any]) -> str:
    rows = entry["networks"]
    if ENCODER in rows:
        return _encoder_text(rows[ENCODER])
    return f"{_gan_text(rows['gan'])}{', autoencoders' if len(rows) > 1 else ''}"


def _gan_text(row: Mapping[str, Any]) -> str:
    return f"{row['networks']} GAN"


def _encoder_text(encoder: Mapping[str, Any]) -> str:
    options = ", ".join(f"{option} {value}" for option, value in encoder["options"].items())
    return f"{encoder['encoder']}{f' ({options})' if options else ''}"
