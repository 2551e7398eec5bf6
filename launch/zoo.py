"""Adds entries to the zoo and writes its table into README.md.

    python -m launch.zoo add NAME --encoder=WORKDIR --inverters=WORKDIR+WORKDIR --workdir=runs/zoo
    python -m launch.zoo measure NAME --images=1000 --workdir=runs/zoo
    python -m launch.zoo table

`add` writes the networks of finished trainings into arinv/zoo/NAME, measures them as written (PGD, AutoAttack,
reconstructions of test images and of photographs), and makes card.json from the runs' own files. `measure` measures an
entry again, such as on more images. Killed and started again both resume. Nothing of a card is written by hand, except
--note, a remark on the data.
"""

import argparse
import datetime
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import arinv
from arinv import command_line, data, metrics, paths, zoo
from arinv.errors import MISTAKE, UserError
from arinv.experiment import exported, loading, workdirs
from arinv.experiment.descriptions import WEIGHTS
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained
from arinv.experiment.writer import write_json, write_text
from arinv.main import run
from arinv.ops.images import to_float
from arinv.plan import plan

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
PHOTOGRAPHS, MAX_SIDE = "photos:astronaut+chelsea+china+coffee+flower", 256
_BEGIN, _END = "<!-- zoo: written by `python -m launch.zoo table` -->\n", "<!-- end of zoo -->\n"
_STANDARD_ATTACK = {"norm": "l2", "eps": 0.5}  # on encoders that were trained without an attack
_SILENT = ("title", "log", "mesh", "reference", "data.data_dir", "data.num_workers")  # fields that change no result


def main(argv: Sequence[str]) -> None:
    """Runs one of the commands."""
    args = _arguments(argv)
    try:
        if args.command == "add":
            add(args)
        if args.command == "measure":
            measure(args)
        write_table(README)
    except UserError as error:
        print(f"launch.zoo: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.zoo", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="write the table of README.md from the cards")
    adding = commands.add_parser("add", help="write, measure and describe an entry")
    measuring = commands.add_parser("measure", help="measure an entry again")
    for command in (adding, measuring):
        command.add_argument("name", help="of the entry, such as alexnet_small_l2_1")
        command.add_argument("--workdir", default="runs/zoo", help="of the measurements (%(default)s)")
        command.add_argument("--images", type=int, default=1000, help="test images that are measured (%(default)s)")
        command.add_argument("--data_dir", default="", help="where TFDS datasets are")
    adding.add_argument("--encoder", required=True, help="workdir of a finished classifier's training")
    adding.add_argument("--inverters", default="", help='workdirs of its inverters\' trainings, joined by "+"')
    adding.add_argument("--kernels", choices=("float16", "float32"), default="float16", help="as stored (%(default)s)")
    adding.add_argument("--eps", type=float, help="of the measured attacks; without: of the training, or 0.5")
    adding.add_argument("--norm", choices=("l2", "linf"), help="of the measured attacks; without: as eps, or l2")
    adding.add_argument("--note", default="", help="on the data, such as 'JPEG-compressed copy'")
    return parser.parse_args(argv)


def _command(args: argparse.Namespace) -> str:
    """Returns the command of these arguments for a card, without the places of a machine."""
    flags = {
        "encoder": "ENCODER",
        "inverters": "INVERTERS" if args.inverters else "",
        "eps": args.eps,
        "norm": args.norm,
        "note": args.note,
        "kernels": args.kernels,
        "images": args.images,
    }
    words = [f"--{name}={value}" for name, value in flags.items() if value not in (None, "")]
    return shlex.join(["python", "-m", "launch.zoo", "add", args.name, *words])


def add(args: argparse.Namespace) -> None:
    """Writes an entry: its networks, then their measurements, then the card.

    Args:
      args: as parsed.

    Raises:
      UserError: a run that is not finished, an inverter of another encoder, or a file that is too large.
    """
    sources = [pathlib.Path(args.encoder), *map(pathlib.Path, filter(None, args.inverters.split("+")))]
    for source in sources:
        workdirs.read_results(source)  # finished
    networks = export(zoo.FOLDER / args.name, sources[0], sources[1:], half=args.kernels == "float16")
    encoder = networks[zoo.ENCODER]
    trained_with = encoder.description["attack"]
    default = trained_with if trained_with["eps"] else _STANDARD_ATTACK
    attack = {"norm": args.norm or default["norm"], "eps": default["eps"] if args.eps is None else args.eps}
    card = {
        "name": args.name,
        "encoder": {
            **_describe(args.name, zoo.ENCODER, encoder, sources[0], args.kernels),
            **{name: encoder.description[name] for name in ("encoder", "options", "num_classes", "image_size")},
        },
        "inverters": {
            layer: {
                **_describe(args.name, layer, network, source, args.kernels),
                **{name: network.description[name] for name in ("variant", "loss")},
            }
            for (layer, network), source in zip(list(networks.items())[1:], sources[1:], strict=True)
        },
        "note": args.note,
        "arinv": arinv.__version__,
        "date": datetime.date.today().isoformat(),
        "command": _command(args),
    }
    _add_measurements(card, networks, attack, args)
    write_json(zoo.FOLDER / args.name / zoo.CARD, card)
    check_sizes()


def measure(args: argparse.Namespace) -> None:
    """Measures the networks of an entry again, by the attack of its card, and writes the new figures into the card.

    Args:
      args: as parsed.

    Raises:
      UserError: no entry of that name.
    """
    card = zoo.card(args.name)
    networks = {network: loading.load(f"zoo:{args.name}/{network}") for network in (zoo.ENCODER, *card["inverters"])}
    _add_measurements(card, networks, card["encoder"]["measured"]["attack"], args)
    write_json(zoo.FOLDER / args.name / zoo.CARD, card)


def _add_measurements(
    card: dict[str, Any], networks: Mapping[str, Trained], attack: Mapping[str, Any], args: argparse.Namespace
) -> None:
    """Measures the networks of an entry, and adds the figures to its card."""
    last = list(networks.values())[-1].fingerprint
    # Of other weights or on other images, other measurements.
    workdir = paths.canonical(args.workdir) / f"{args.name}-{last}-{args.images}"
    run(_measurements(card, attack, args), workdir)
    for layer, inverter in card["inverters"].items():
        measured = workdirs.read_results(workdir / layer)
        inverter["measured"] = {
            **{name: measured[name] for name in measured["variants"]},
            "num_images": measured["num_examples"],
            "photographs": photographs_psnr(networks[layer]),
        }
    card["encoder"]["measured"] = _measured(workdir, list(card["inverters"]))


def export(
    folder: pathlib.Path, encoder: pathlib.Path, inverters: Sequence[pathlib.Path], *, half: bool
) -> dict[str, Trained]:
    """Writes an encoder and its inverters as files, and returns them as they are read from there.

    Args:
      folder: of the files.
      encoder: workdir of its training.
      inverters: workdirs of their trainings.
      half: store kernels as float16.

    Returns:
      "encoder" and the inverters' layers -> networks.

    Raises:
      UserError: no checkpoint in a workdir, an inverter of another encoder or with one of its own, or two of one layer.
    """
    original = loading.load(encoder, kind=CLASSIFIER)
    sources = [loading.load(inverter, kind=INVERTER) for inverter in inverters]
    for source, workdir in zip(sources, inverters, strict=True):
        if source.description.get("trained_encoder"):
            raise UserError(
                f"{workdir} has an encoder of its own (encoder.train=True), and an entry of the zoo one for all "
                "its inverters; name inverters of a frozen encoder"
            )
        if source.encoder.fingerprint != original.fingerprint:
            raise UserError(f"{workdir} inverts another encoder than that of {encoder}; name inverters of this one")
    if len({source.layer for source in sources}) < len(sources):
        raise UserError(f"two of {', '.join(map(str, inverters))} invert the same layer; name one of each")
    for path in (*folder.glob(f"*{exported.SUFFIX}"), folder / zoo.CARD):  # of an earlier entry of that name
        path.unlink(missing_ok=True)
    files = {zoo.ENCODER: folder / f"{zoo.ENCODER}{exported.SUFFIX}"}
    description = {name: value for name, value in original.description.items() if name != "weights"}  # of a train state
    exported.write(files[zoo.ENCODER], original.variables, description, half=half)
    weights = loading.load(files[zoo.ENCODER]).fingerprint
    for source in sources:
        files[source.layer] = folder / f"{source.layer}{exported.SUFFIX}"
        own = {"encoder_workdir": f"../{files[zoo.ENCODER].name}", WEIGHTS: weights}  # relative to the inverter's file
        exported.write(files[source.layer], source.variables, {**source.description, **own}, half=half)
    return {name: loading.load(file) for name, file in files.items()}


def _measurements(card: Mapping[str, Any], attack: Mapping[str, Any], args: argparse.Namespace) -> ConfigDict:
    """Returns the experiment that measures the networks of an entry."""
    encoder = card["encoder"]
    shared = (
        f"encoder={encoder['encoder']},dataset={encoder['training']['data']},image_size={encoder['image_size']},"
        f"eps={attack['eps']!r},norm={attack['norm']},data_dir={args.data_dir}"
    )
    stages, attack_from = {}, ""
    for network in card["inverters"] or [zoo.ENCODER]:
        extra = f",attack_from={attack_from}" if attack_from else ""
        stages[network] = command_line.load(f"evaluate:checkpoint=zoo:{args.name}/{network},{shared}{extra}")
        attack_from = attack_from or f"stage:{network}"
    stages["autoattack"] = command_line.load(f"autoattack:checkpoint=zoo:{args.name}/{zoo.ENCODER},{shared}")
    for stage in stages.values():
        stage.data.num_test = args.images
    return ConfigDict({"stages": stages, "order": tuple(stages)})


def _measured(workdir: pathlib.Path, layers: Sequence[str]) -> dict[str, Any]:
    """Returns the accuracies of an encoder, with exact 95 % intervals."""
    attacked = workdirs.read_results(workdir / "autoattack")
    evaluated = workdirs.read_results(workdir / (layers[0] if layers else zoo.ENCODER))
    count = attacked["num_examples"]
    clean, pgd = attacked["clean_accuracy"], evaluated["pgd_accuracy"]
    return {
        "date": datetime.date.today().isoformat(),
        "num_images": count,
        "clean_accuracy": clean,
        "clean_accuracy_95": metrics.binomial_interval(round(clean * count), count),
        "pgd_accuracy": pgd,
        "pgd_accuracy_95": metrics.binomial_interval(round(pgd * count), count),
        "pgd_steps": evaluated["attack"]["num_steps"],
        "autoattack_accuracy": attacked["autoattack_accuracy"],
        "autoattack_accuracy_95": attacked["autoattack_accuracy_95"],
        "autoattack": attacked["variants"]["autoattack_accuracy"],
        "attack": {name: attacked["attack"][name] for name in ("norm", "eps")},
        "warnings": attacked["warnings"],
        "setting": attacked["setting"],
    }


def _describe(name: str, network: str, loaded: Trained, source: pathlib.Path, kernels: str) -> dict[str, Any]:
    """Returns what a card says of one network, from its file and its training."""
    size = (zoo.FOLDER / name / f"{network}{exported.SUFFIX}").stat().st_size
    parameters = sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"]))
    return {
        "bytes": size,
        "kernels": kernels,
        "weights": loaded.fingerprint,
        "parameters": parameters,
        "training": _training(source),
    }


def _training(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns how a network was trained, from the files of its workdir."""
    config, results = workdirs.read_json(workdir / "config.json"), workdirs.read_results(workdir)
    own = ConfigDict(config)
    [cost] = plan.plan_stages({paths.canonical(workdir): own}, plan.Assumptions())
    steps, fields = cost["run"]["steps"], config["data"]
    info = data.published(fields["name"], fields["train_split"], image_size=fields["image_size"])
    optional = ("attack", "recipe", "average_decay", "loss", "attack_warmup_epochs")
    return {
        "task": config["task"],
        "data": config["data"]["name"],
        "num_train": fields["num_train"] or (info.num_examples if info else None),
        "epochs": round(steps / cost["run"]["steps_per_epoch"], 2),
        "steps": steps,
        "batch_size": config["batch_size"],
        "optimizer": config["optimizer"],
        **{name: config[name] for name in optional if name in config},
        "flops": cost["flops"]["per_step"] * steps,
        "setting": results["setting"],
        "date": datetime.date.fromtimestamp((workdir / "results.json").stat().st_mtime).isoformat(),
        "command": training_command(own),
    }


def training_command(config: ConfigDict) -> str:
    """Returns the command that trains a network again: arguments and fields that differ from their defaults.

    Args:
      config: of a finished training, as its workdir holds it.

    Raises:
      UserError: fields that no flag sets.
    """
    if config.task == "classifier":
        options = "+".join(f"{name}:{value}" for name, value in config.encoder.options.items())
        argument = (
            f"classifier:encoder={config.encoder.name},options={options},dataset={config.data.name},"
            f"image_size={config.data.image_size},eps={config.attack.eps!r},norm={config.attack.norm},"
            f"recipe={config.recipe.name},dtype={config.dtype}"
        )
        prefix = ""
    else:
        argument = (
            f"inverter:encoder={config.encoder.name},layer={config.encoder.layer},dataset={config.data.name},"
            f"image_size={config.data.image_size},encoder_checkpoint=ENCODER,dtype={config.dtype}"
        )
        prefix = "stages.inverter."
    base = command_line.load(argument)
    base = base.stages.inverter if prefix else base
    saved, default = (_fields(fields) for fields in (config, base))
    changes = {name: value for name, value in saved.items() if default.get(name) != value}
    changes.pop("encoder.checkpoint", None)
    if missing := sorted(changes.keys() - default.keys()):
        raise UserError(f"fields that no flag sets: {', '.join(missing)}; train with a config of this version")
    flags = [f"--config.{prefix}{name}={_text(value)}" for name, value in changes.items()]
    order = ["--config.order=inverter"] if prefix else []
    return shlex.join(["python", "-m", "arinv", f"--config={argument}", *order, *flags, "--workdir=WORKDIR"])


def _fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the values that decide a training's result, by the path of their field."""
    plain = command_line.flat(ConfigDict(workdirs.plain(config)))
    return {
        name: value
        for name, value in plain.items()
        if not isinstance(value, ConfigDict)
        and not any(name == part or name.startswith(f"{part}.") for part in _SILENT)
    }


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def photographs_psnr(inverter: Trained) -> dict[str, float]:
    """Returns the PSNR of reconstructions of whole photographs, 256 px wide, by name."""
    images = data.open_photographs(PHOTOGRAPHS, max_side=MAX_SIDE)
    return {name: photograph_psnr(inverter, image) for name, image in zip(images.names, images, strict=True)}


def photograph_psnr(inverter: Trained, image_u8: np.ndarray) -> float:
    """Returns the PSNR of the reconstruction of one image, uint8 [H, W, 3]."""
    image = np.asarray(to_float(image_u8))[None]
    return round(float(metrics.psnr(inverter.reconstruct(image), image)[0]), 3)


def check_sizes() -> None:
    """Checks that the files of the zoo are no larger than what is shipped with the package.

    Raises:
      UserError: a file is, or all are together.
    """
    sizes = {path: path.stat().st_size for path in zoo.FOLDER.glob(f"*/*{exported.SUFFIX}")}
    for path, size in sizes.items():
        if size > zoo.MAX_FILE_BYTES:
            raise UserError(
                f"{path} has {size:,} bytes; at most {zoo.MAX_FILE_BYTES:,} are shipped: train a smaller one"
            )
    if sum(sizes.values()) > zoo.MAX_TOTAL_BYTES:
        raise UserError(f"the zoo has {sum(sizes.values()):,} bytes; at most {zoo.MAX_TOTAL_BYTES:,} are shipped")


def write_table(readme: pathlib.Path) -> None:
    """Writes the table of the zoo between the two marks of a file.

    Raises:
      UserError: the file has no marks.
    """
    before, begin, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise UserError(f"{readme} has no place for the table: the lines {_BEGIN.strip()} and {_END.strip()}")
    write_text(readme, f"{before}{begin}{zoo.markdown()}{end}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
    print(json.dumps({name: list(zoo.networks(name)) for name in zoo.names()}, indent=1))
