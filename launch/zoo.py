"""Adds entries to the zoo and writes its table into README.md.

    python -m launch.zoo add NAME --encoder=WORKDIR --inverters=WORKDIR+WORKDIR --workdir=runs/zoo
    python -m launch.zoo add NAME --gan=WORKDIR --autoencoders=WORKDIR+WORKDIR --images=64 --workdir=runs/zoo
    python -m launch.zoo measure NAME --images=1000 --workdir=runs/zoo
    python -m launch.zoo classes NAME airplane+automobile+...
    python -m launch.zoo table

`add` writes the networks of finished trainings into arinv/zoo/NAME, measures them as written (PGD, AutoAttack,
reconstructions of test images and of photographs; for a GAN, FID and restorations), and makes card.json from the runs'
own files. `measure` measures an entry again, such as on more images. Both resume after a kill. `classes` names the
classes of an entry that was trained on a dataset which numbers them. A card has nothing that is written by hand except
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
import safetensors.numpy
from ml_collections import ConfigDict

import arinv
from arinv import command_line, data, metrics, paths, zoo
from arinv.apps.restoration.methods import INVERTGAN, SEARCH
from arinv.errors import MISTAKE, UserError
from arinv.experiment import exported, loading, measurement, trained, workdirs
from arinv.experiment.descriptions import WEIGHTS
from arinv.experiment.output_files import write_json, write_text
from arinv.experiment.run import Run
from arinv.experiment.trained import CLASSIFIER, INVERTER, Trained
from arinv.main import run
from arinv.ops.images import to_float
from arinv.plan import plan
from arinv.tasks import TASKS
from arinv.train.training import published_info
from arinv.zoo import cards

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
PHOTOGRAPHS, MAX_SIDE = "photos:astronaut+chelsea+china+coffee+flower", 256
# Fields of a network's description in its card, by kind.
_FIELDS = {
    CLASSIFIER: ("encoder", "options", "num_classes"),
    INVERTER: ("variant", "loss"),
    trained.GAN: ("networks", "options"),
    trained.AUTOENCODER: ("networks", "operator"),
}
_BEGIN, _END = "<!-- zoo: written by `python -m launch.zoo table` -->\n", "<!-- end of zoo -->\n"
_STANDARD_ATTACK = {"norm": "l2", "eps": 0.5}  # on encoders that were trained without an attack
_OMITTED = (
    "title",
    "log",
    "mesh",
    "reference",
    "metric_encoder",
    "start",
    "gan",
    "data.data_dir",
    "data.num_workers",
)  # fields of a training that its card omits: they change no result, or name other runs


def main(argv: Sequence[str]) -> None:
    """Runs one of the commands."""
    args = _arguments(argv)
    try:
        if args.command == "add":
            add(args)
        if args.command == "measure":
            measure(args)
        if args.command == "classes":
            name_classes(args.name, args.names.split("+"))
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
    naming = commands.add_parser("classes", help="name the classes of an entry")
    naming.add_argument("name", help="name of the entry")
    naming.add_argument("names", help='names of the classes in the order of the labels, joined by "+"')
    for command in (adding, measuring):
        command.add_argument("name", help="name of the entry, such as alexnet_small_l2_1")
        command.add_argument("--workdir", default="runs/zoo", help="directory of the measurements (%(default)s)")
        command.add_argument("--images", type=int, default=1000, help="number of test images to measure (%(default)s)")
        command.add_argument("--data_dir", default="", help="directory of TFDS datasets")
    adding.add_argument("--encoder", default="", help="workdir of a finished classifier's training")
    adding.add_argument("--inverters", default="", help='workdirs of its inverters\' trainings, joined by "+"')
    adding.add_argument("--gan", default="", help="workdir of a finished GAN's training, in place of an encoder's")
    adding.add_argument("--autoencoders", default="", help='workdirs of autoencoders\' trainings, joined by "+"')
    adding.add_argument("--metric_encoder", default="zoo:alexnet_small_l2_1",
                        help="network whose features the FID of a GAN compares (%(default)s)")  # fmt: skip
    adding.add_argument(
        "--kernels", choices=("float16", "float32"), default="float16", help="stored type (%(default)s)"
    )
    adding.add_argument("--eps", type=float, help="radius of the measured attacks (that of training, or 0.5)")
    adding.add_argument("--norm", choices=("l2", "linf"), help="norm of the measured attacks (that of training, or l2)")
    adding.add_argument("--note", default="", help="remark on the data, such as 'JPEG-compressed copy'")
    return parser.parse_args(argv)


def _command(args: argparse.Namespace) -> str:
    """Returns the command of these arguments for a card, without the places of a machine."""
    flags = {
        "encoder": "ENCODER" if args.encoder else "",
        "inverters": "INVERTERS" if args.inverters else "",
        "gan": "GAN" if args.gan else "",
        "autoencoders": "AUTOENCODERS" if args.autoencoders else "",
        "metric_encoder": args.metric_encoder if args.gan else "",
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
      args: parsed arguments of the command.

    Raises:
      UserError: neither an encoder nor a GAN or both, a run that is not finished, networks that do not belong
        together, or a file that is too large.
    """
    if bool(args.encoder) == bool(args.gan):
        raise UserError("an entry has an encoder (--encoder, --inverters) or a GAN (--gan, --autoencoders): name one")
    if wrong := args.autoencoders if args.encoder else args.inverters:
        raise UserError(
            f"{wrong} does not belong to this entry: --inverters go with --encoder, --autoencoders with --gan"
        )
    first = pathlib.Path(args.encoder or args.gan)
    others = [pathlib.Path(path) for path in filter(None, (args.inverters or args.autoencoders).split("+"))]
    for workdir in (first, *others):
        workdirs.check_run(workdir)
    encoder = load_metric_encoder(args, first) if args.gan else None
    trainings = [_training(source) for source in (first, *others)]
    export = export_encoder if args.encoder else export_gan
    networks = export(zoo.FOLDER / args.name, first, others, half=args.kernels == "float16")
    rows = zip(networks.items(), trainings, strict=True)
    card = {
        "name": args.name,
        "networks": {name: _describe(args, name, network, training) for (name, network), training in rows},
        "note": args.note,
        "arinv": arinv.__version__,
        "date": datetime.date.today().isoformat(),
        "command": _command(args),
    }
    if args.encoder:
        trained_with = networks[zoo.ENCODER].description["attack"]
        default = trained_with if trained_with["eps"] else _STANDARD_ATTACK
        attack = {"norm": args.norm or default["norm"], "eps": default["eps"] if args.eps is None else args.eps}
        _add_measurements(card, networks, attack, args)
    else:
        _add_generative_measurements(card, networks, encoder, args)
    write_json(zoo.FOLDER / args.name / zoo.CARD, card)
    check_sizes()


def measure(args: argparse.Namespace) -> None:
    """Measures the networks of an entry again, as its card says, and writes the new figures into the card.

    Args:
      args: parsed arguments of the command.

    Raises:
      UserError: no entry of that name.
    """
    card = cards.card(args.name)
    networks = {network: loading.load(f"zoo:{args.name}/{network}") for network in card["networks"]}
    if zoo.ENCODER in networks:
        _add_measurements(card, networks, card["networks"][zoo.ENCODER]["measured"]["attack"], args)
    else:
        reference = card["networks"][trained.GAN]["measured"]["metric_encoder"]
        encoder = loading.load(reference, kind=CLASSIFIER, image_size=networks[trained.GAN].image_size)
        _add_generative_measurements(card, networks, encoder, args, reference=reference)
    write_json(zoo.FOLDER / args.name / zoo.CARD, card)


def _add_measurements(
    card: dict[str, Any], networks: Mapping[str, Trained], attack: Mapping[str, Any], args: argparse.Namespace
) -> None:
    """Measures an encoder and its inverters, and adds the figures to their card."""
    workdir = _measurements_workdir(networks, args)
    run(_measurements(card, attack, args), workdir)
    layers = [name for name in networks if name != zoo.ENCODER]
    for layer in layers:
        measured = workdirs.read_results(workdir / layer)
        card["networks"][layer]["measured"] = {
            **{name: measured[name] for name in measured["variants"]},
            "num_images": measured["num_images"],
            "photographs": photographs_psnr(networks[layer]),
            "setting": measured["setting"],
        }
    card["networks"][zoo.ENCODER]["measured"] = _measured(workdir, layers)


def load_metric_encoder(args: argparse.Namespace, gan: pathlib.Path) -> Trained:
    """Returns the classifier whose features FID compares.

    Args:
      args: parsed arguments of the command.
      gan: workdir of the GAN.

    Raises:
      UserError: none there, or one of images of another size.
    """
    size = loading.load(gan, kind=trained.GAN).image_size
    return loading.load(args.metric_encoder, kind=CLASSIFIER, image_size=size)


def _add_generative_measurements(
    card: dict[str, Any],
    networks: Mapping[str, Trained],
    encoder: Trained,
    args: argparse.Namespace,
    *,
    reference: str = "",
) -> None:
    """Measures a GAN and its autoencoders, and adds the figures to their card."""
    workdir = _measurements_workdir(networks, args)
    config = _restorations(card, args)
    run(config, workdir)
    for network, row in card["networks"].items():
        measured = workdirs.read_results(workdir / network)
        row["measured"] = {
            "psnr": {
                method: entry["psnr"]
                for method, entry in measured["entries"].items()
                if network != trained.GAN or method == INVERTGAN  # whose images are not degraded
            },
            "num_images": measured["num_images"],
            "setting": measured["setting"],
        }
    source = Run(config.stages[trained.GAN], workdir / trained.GAN).open_data("test")
    network = measurement.metric_network(encoder)
    gan = networks[trained.GAN]
    distance = measurement.sample_distance(gan.module, network, source, key=jax.random.key(0))
    [(variant, fid)] = distance(gan.variables).items()
    encoder_name = reference or args.metric_encoder
    card["networks"][trained.GAN]["measured"] |= {"fid": fid, "variant": variant, "metric_encoder": encoder_name}


def _measurements_workdir(networks: Mapping[str, Trained], args: argparse.Namespace) -> pathlib.Path:
    """Returns the workdir of the measurements, which depends on the weights and the images."""
    last = list(networks.values())[-1].fingerprint
    return paths.canonical(args.workdir) / f"{args.name}-{last}-{args.images}"


def name_classes(name: str, names: Sequence[str]) -> None:
    """Gives the classes of an entry's encoder names; its weights stay as they are.

    Args:
      name: of the entry.
      names: of the classes, in the order of the labels.

    Raises:
      UserError: no entry of that name with an encoder, or another number of names.
    """
    path = zoo.resolve(f"{zoo.SCHEME}{name}/{zoo.ENCODER}")
    description = exported.load_description(path)
    if len(names) != description["num_classes"]:
        raise UserError(f"{len(names)} names for the {description['num_classes']} classes of zoo:{name}; name each")
    network = loading.load(path)
    half = any(array.dtype == np.float16 for array in safetensors.numpy.load_file(path).values())
    exported.write(path, network.variables, {**description, "class_names": list(names)}, half=half)
    card = cards.card(name)
    card["networks"][zoo.ENCODER]["bytes"] = path.stat().st_size
    write_json(path.parent / zoo.CARD, card)


def export_encoder(
    folder: pathlib.Path, encoder: pathlib.Path, inverters: Sequence[pathlib.Path], *, half: bool
) -> dict[str, Trained]:
    """Writes an encoder and its inverters as files, and returns them as they are read from there.

    Args:
      folder: directory that the files are written to.
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
    _remove(folder)
    written = {zoo.ENCODER: _write(folder, zoo.ENCODER, original, half=half)}
    own = {"encoder_workdir": f"../{zoo.ENCODER}{exported.SUFFIX}", WEIGHTS: written[zoo.ENCODER].fingerprint}
    for source in sources:  # the path is relative to the inverter's file
        written[source.layer] = _write(folder, source.layer, source, half=half, **own)
    return written


def export_gan(
    folder: pathlib.Path, gan: pathlib.Path, autoencoders: Sequence[pathlib.Path], *, half: bool
) -> dict[str, Trained]:
    """Writes a GAN and autoencoders of such images as files, and returns them as they are read from there.

    Args:
      folder: directory that the files are written to.
      gan: workdir of its training, or of the last stage of it.
      autoencoders: workdirs of their trainings.
      half: store kernels as float16.

    Returns:
      "gan" and "autoencoder", or "autoencoder_OPERATOR", -> networks.

    Raises:
      UserError: no checkpoint in a workdir, images of another size, or two autoencoders of one operator.
    """
    sources = {trained.GAN: loading.load(gan, kind=trained.GAN)}
    size = sources[trained.GAN].image_size
    for workdir in autoencoders:
        source = loading.load(workdir, kind=trained.AUTOENCODER, image_size=size)
        operator = source.description["operator"]["name"]
        name = trained.AUTOENCODER if operator == "identity" else f"{trained.AUTOENCODER}_{operator}"
        if name in sources:
            raise UserError(
                f"two of {', '.join(map(str, autoencoders))} have the operator {operator}; name one of each"
            )
        sources[name] = source
    _remove(folder)
    return {name: _write(folder, name, source, half=half) for name, source in sources.items()}


def _remove(folder: pathlib.Path) -> None:
    """Removes the files of an earlier entry of that name."""
    for path in (*folder.glob(f"*{exported.SUFFIX}"), folder / zoo.CARD):
        path.unlink(missing_ok=True)


def _write(folder: pathlib.Path, name: str, network: Trained, *, half: bool, **own: str) -> Trained:
    """Writes one network of an entry, and returns it as it is read from there.

    Args:
      folder: directory that the files are written to.
      name: name of the network in the entry, such as "encoder".
      network: the trained network.
      half: store kernels as float16.
      **own: fields of the description that replace those of the training's.
    """
    path = folder / f"{name}{exported.SUFFIX}"
    # Names of networks in a train state, and of other workdirs.
    description = {key: value for key, value in network.description.items() if key not in ("weights", "gan_workdir")}
    exported.write(path, network.variables, {**description, **own}, half=half)
    return loading.load(path)


def _measurements(card: Mapping[str, Any], attack: Mapping[str, Any], args: argparse.Namespace) -> ConfigDict:
    """Returns the experiment that measures an encoder and its inverters."""
    encoder = card["networks"][zoo.ENCODER]
    shared = (
        f"encoder={encoder['encoder']},dataset={encoder['training']['data']},image_size={encoder['image_size']},"
        f"eps={attack['eps']!r},norm={attack['norm']},data_dir={args.data_dir}"
    )
    stages, attack_from = {}, ""
    for network in [name for name in card["networks"] if name != zoo.ENCODER] or [zoo.ENCODER]:
        extra = f",attack_from={attack_from}" if attack_from else ""
        stages[network] = command_line.load(f"evaluate:checkpoint=zoo:{args.name}/{network},{shared}{extra}")
        attack_from = attack_from or f"stage:{network}"
    stages["autoattack"] = command_line.load(f"autoattack:checkpoint=zoo:{args.name}/{zoo.ENCODER},{shared}")
    return _experiment(stages, args)


def _restorations(card: Mapping[str, Any], args: argparse.Namespace) -> ConfigDict:
    """Returns the experiment that measures a GAN and its autoencoders: by the images that they restore."""
    gan, stages = card["networks"][trained.GAN], {}
    classes = "+".join(map(str, gan["training"]["classes"]))
    shared = (
        f"dataset={gan['training']['data']},classes={classes},image_size={gan['image_size']},data_dir={args.data_dir},"
        f"gan=zoo:{args.name}/{trained.GAN}"
    )
    for name, row in card["networks"].items():
        operator = row.get("operator", {"name": "identity", "options": {}})
        options = "+".join(f"{option}:{value}" for option, value in operator["options"].items())
        argument = f"restoration:{shared},operator={operator['name']},operator_options={options}"
        # The GAN's own measurement has no autoencoder, and the argument needs one that exists.
        stage = command_line.load(f"{argument},autoencoder=zoo:{args.name}/{name}").stages.restoration
        stage.methods = (INVERTGAN,) if name == trained.GAN else (trained.AUTOENCODER, SEARCH)
        stage.autoencoder = "" if name == trained.GAN else stage.autoencoder
        stages[name] = stage
    return _experiment(stages, args)


def _experiment(stages: Mapping[str, ConfigDict], args: argparse.Namespace) -> ConfigDict:
    for stage in stages.values():
        stage.data.num_test = args.images
    return ConfigDict({"stages": stages, "order": tuple(stages)})


def _measured(workdir: pathlib.Path, layers: Sequence[str]) -> dict[str, Any]:
    """Returns the accuracies of an encoder, with exact 95 % intervals."""
    attacked = workdirs.read_results(workdir / "autoattack")
    evaluated = workdirs.read_results(workdir / (layers[0] if layers else zoo.ENCODER))
    count = attacked["num_images"]
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


def _describe(args: argparse.Namespace, name: str, network: Trained, training: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a card has of one network, from its file and its training."""
    description = network.description
    fields = _FIELDS[network.kind]
    own = description.get(network.kind, {})  # of a GAN or an autoencoder
    return {
        "kind": network.kind,
        "bytes": (zoo.FOLDER / args.name / f"{name}{exported.SUFFIX}").stat().st_size,
        "kernels": args.kernels,
        "weights": network.fingerprint,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"])),
        "image_size": network.image_size,
        **{field: own[field] if field in own else description[field] for field in fields},
        **({"latent_size": network.module.latent_size} if network.kind == trained.GAN else {}),
        "training": training,
    }


def _training(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns how a network was trained, from the files of its workdir, and of those that it continues.

    Raises:
      UserError: a training that is not finished, or a run of another task.
    """
    configs, results = _continued(workdir), workdirs.read_results(workdir)
    if (task := list(configs.values())[-1].task) not in _ARGUMENTS:
        raise UserError(f"{workdir} is a run of {task}; the zoo has networks of {', '.join(_ARGUMENTS)}")
    costs = [*plan.plan_stages(configs, TASKS, plan.Assumptions())]
    [*_, config], steps = configs.values(), [cost["run"]["steps"] for cost in costs]
    fields = config.data
    optional = ("attack", "recipe", "ema_decay", "loss", "attack_warmup_epochs", "game", "operator")
    return {
        "task": config.task,
        "data": fields.name,
        "classes": list(fields.classes),
        "num_train": published_info(config).num_examples or None,
        "epochs": round(steps[-1] / costs[-1]["run"]["steps_per_epoch"], 2),
        "steps": sum(steps),
        "stages": len(steps),
        "batch_size": config.batch_size,
        "optimizer": config.optimizer.to_dict(),
        **{name: workdirs.plain(config)[name] for name in optional if name in config},
        "flops": sum(cost["flops"]["per_step"] * count for cost, count in zip(costs, steps, strict=True)),
        "setting": results["setting"],
        "date": datetime.date.fromtimestamp((workdir / "results.json").stat().st_mtime).isoformat(),
        "command": training_command(list(configs.values())),
    }


def _continued(workdir: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Returns the workdirs and configs of a training and of the stages that it continues, the first one first."""
    path = paths.canonical(workdir)
    config = ConfigDict(workdirs.read_json(path / "config.json"))
    start = config.get("start", "")
    return {**(_continued(workdirs.resolve(start, path)) if start else {}), path: config}


def training_command(configs: Sequence[ConfigDict]) -> str:
    """Returns the command that trains a network again: arguments and fields that differ from their defaults.

    Args:
      configs: config of a finished training, from its workdir; for a GAN that grows, the configs of its stages in
        order.

    Returns:
      Text that begins with "python -m arinv".

    Raises:
      UserError: fields that no flag sets.
    """
    argument = _ARGUMENTS[configs[-1].task](configs[-1])
    base = command_line.load(argument)
    stages = base.get("stages", {"": base})
    names: dict[str, list[str]] = {}  # of the stages that a flag is for
    for config in configs:
        name = next((name for name, default in stages.items() if _key(default) == _key(config)), None)
        if name is None:
            raise UserError(f"--config={argument} has no stage of {_key(config)}; train with a config of this version")
        for flag in _changes(config, stages[name]):
            names.setdefault(flag, []).append(name)
    words = []
    if len(configs) < len(stages):
        words.append(f"--config.order={configs[-1].task}")
    for flag, own in names.items():
        places = ["*"] if len(own) == len(stages) > 1 else own
        words += [f"--config.{f'stages.{place}.' if place else ''}{flag}" for place in places]
    return shlex.join(["python", "-m", "arinv", f"--config={argument}", *words, "--workdir=WORKDIR"])


def _key(config: ConfigDict) -> tuple[str, int, bool]:
    """Returns what distinguishes the stages of a training."""
    return config.task, config.get("data", {}).get("image_size", 0), config.get("fade", False)


def _changes(config: ConfigDict, default: ConfigDict) -> list[str]:
    """Returns the fields that differ from their defaults, as flags without the stage.

    Raises:
      UserError: fields that no flag sets.
    """
    saved, default = (_fields(fields) for fields in (config, default))
    changes = {name: value for name, value in saved.items() if default.get(name) != value}
    changes.pop("encoder.checkpoint", None)
    if missing := sorted(changes.keys() - default.keys()):
        raise UserError(f"fields that no flag sets: {', '.join(missing)}; train with a config of this version")
    return [f"{name}={_text(value)}" for name, value in changes.items()]


def _classifier_argument(config: ConfigDict) -> str:
    options = _options(config.encoder.options)
    return (
        f"classifier:encoder={config.encoder.name},options={options},dataset={config.data.name},"
        f"image_size={config.data.image_size},eps={config.attack.eps!r},norm={config.attack.norm},"
        f"recipe={config.recipe.name},dtype={config.dtype}"
    )


def _inverter_argument(config: ConfigDict) -> str:
    return (
        f"inverter:encoder={config.encoder.name},layer={config.encoder.layer},dataset={config.data.name},"
        f"image_size={config.data.image_size},encoder_checkpoint=ENCODER,dtype={config.dtype}"
    )


def _gan_argument(config: ConfigDict) -> str:
    return (
        f"gan:networks={config.gan.networks},latent_size={config.gan.latent_size},options={_options(config.gan.options)},"
        f"{_images(config)}"
    )


def _autoencoder_argument(config: ConfigDict) -> str:
    operator = config.operator
    return (
        f"autoencoder:networks={config.autoencoder.networks},latent_size={config.autoencoder.latent_size},"
        f"{'gan=GAN,' if config.gan else ''}operator={operator.name},operator_options={_options(operator.options)},"
        f"{_images(config)}"
    )


def _aegan_argument(config: ConfigDict) -> str:
    operator, spec = config.operator, config.autoencoder
    return (
        f"autoencoder:networks=aegan,latent_size={spec.latent_size},options={_options(spec.options)},"
        f"operator={operator.name},operator_options={_options(operator.options)},{_images(config)}"
    )


def _images(config: ConfigDict) -> str:
    classes = "+".join(map(str, config.data.classes))
    return f"dataset={config.data.name},classes={classes},image_size={config.data.image_size},dtype={config.dtype}"


def _options(options: Mapping[str, Any]) -> str:
    return "+".join(f"{name}:{value}" for name, value in options.items())


# Task -> the config that trains such a network, with its arguments.
_ARGUMENTS = {
    "classifier": _classifier_argument,
    "inverter": _inverter_argument,
    "gan": _gan_argument,
    "autoencoder": _autoencoder_argument,
    "aegan": _aegan_argument,
}


def _fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the values that decide a training's result, by the path of their field."""
    return {
        name: value
        for name, value in workdirs.flatten(workdirs.plain(config)).items()
        if not any(name == part or name.startswith(f"{part}.") for part in _OMITTED)
    }


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def photographs_psnr(inverter: Trained) -> dict[str, float]:
    """Returns the PSNR of reconstructions of whole photographs, 256 px wide, by name.

    Args:
      inverter: a trained inverter.

    Returns:
      Name of a photograph -> PSNR in decibels.
    """
    images = data.open_photographs(PHOTOGRAPHS, max_side=MAX_SIDE)
    return {name: photograph_psnr(inverter, image) for name, image in zip(images.names, images, strict=True)}


def photograph_psnr(inverter: Trained, image_u8: np.ndarray) -> float:
    """Returns the PSNR of the reconstruction of one image, uint8 [H, W, 3].

    Args:
      inverter: a trained inverter.
      image_u8: uint8 [H, W, 3].

    Returns:
      PSNR in decibels.
    """
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

    Args:
      readme: the file.

    Raises:
      UserError: the file has no marks.
    """
    before, begin, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise UserError(f"{readme} has no place for the table: the lines {_BEGIN.strip()} and {_END.strip()}")
    write_text(readme, f"{before}{begin}{cards.markdown()}{end}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
    print(json.dumps({name: list(zoo.networks(name)) for name in zoo.names()}, indent=1))
