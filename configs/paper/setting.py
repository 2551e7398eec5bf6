"""Arguments and scales that the paper's tables share.

scale=paper is the published set-up. scale=small is CIFAR-10 or built-in photographs with small encoders: hours on two
cores.
"""

import itertools
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import arguments, encoders, study, tasks
from configs.paper import published

# Arguments of every table.
_ARGUMENTS = {
    "scale": "small",
    "encoder": "alexnet_small",
    "options": "",
    "dataset": "cifar10",
    "data_dir": "",
    "eps": -1.0,
    "metrics": "psnr+ssim",
    "lpips": "",
    "dtype": "float32",
    "smoke": False,
}
_FIXED = {name: value for name, value in arguments.ENCODER.items() if name not in _ARGUMENTS} | {
    "layer": "",
    "loss": "",
}
SMALL_OPTIONS = {
    "alexnet": "dense_width:512+head_side:1",
    "alexnet_small": "width:16",
    "caffenet": "dense_width:512+normalization:imagenet",
    "wrn28_10": "depth:10+width:1",
}
# Of scale=small: as the run of CIFAR-10 in launch/records.
_ENCODER_EPOCHS, _INVERTER_EPOCHS, _GAN_EPOCHS = 4.0, 2.0, 0.5
_EPOCHS_OF = {"class_inverters": 4.0}
# Rates of generators at scale=small, by encoder; with 1e-3 two of three trainings with SIFT diverged.
_RATE, _RATE_OF = 1e-3, {"sift": 3e-4, "sift_skimage": 3e-4}
# Of DeePSiM at scale=small, by encoder and image size: two images of CIFAR-10 then differ as much in the classifier's
# conv5 as in pixels, both weighted (2,400, measured); likewise in conv5 of CaffeNet's comparator without labels.
_SMALL_FEATURE_WEIGHTS = {("caffenet", 64): 40.0, ("alexnet_small", 32): 3.4}
_SMALL_COMPARATOR_WEIGHTS = {("caffenet", 64): 2.7}
_DENOISER_BATCH = 16  # of larger images than the others'
_NUM_REFERENCE = 4096  # images whose features' statistics the published samples have, at scale=paper
_NUM_TEST = {"autoattack": 256, "high_resolution": 128}
_SMOKE = {  # image_size, options
    "alexnet": (64, "dense_width:16+head_side:1"),
    "alexnet_small": (0, "width:4"),
    "caffenet": (64, "dense_width:16"),
    "wrn28_10": (0, "depth:10+width:1"),
}
PAIR = {"standard_encoder": "", "robust_encoder": ""}
INVERTERS = {"standard_inverter": "", "robust_inverter": ""}
ALEXNET = {"encoder": "alexnet", "dataset": "imagenet2012"}


def parse(
    arg: str | None,
    *,
    paper: dict,
    small: dict | None = None,
    smoke: dict | None = None,
    without: dict[str, str] | None = None,
    **own,
) -> ConfigDict:
    """Returns the resolved arguments of a table, with those of a classifier that tables do not have.

    Args:
      arg: see `arguments.parse`.
      paper: defaults of scale=paper.
      small: defaults of scale=small, where they differ from those of all tables.
      smoke: defaults of a smoke run, where they differ from those of the scale.
      without: argument of other tables that has no effect on this one -> why.
      **own: arguments that not every table has, with their defaults.

    Raises:
      ValueError: an unknown scale, or as `arguments.parse`.
    """
    args, given = parse_at_scale(
        arg,
        without=without,
        scales={"small": small or {}, "paper": paper},
        smoke_values={"dataset": "photos", "classes": "", **(smoke or {})},  # everybody has the photographs
        fixed=_FIXED,
        **{**_ARGUMENTS, **own},
    )
    if args.scale == "small":
        args.options = args.options or SMALL_OPTIONS.get(args.encoder, "")
        args.num_test = 2000
    if args.smoke and args.encoder in _SMOKE:
        side, options = _SMOKE[args.encoder]
        args.image_size, args.options = args.image_size or side, given.options or options
    return encoders.resolve(args)


def parse_at_scale(
    arg: str | None,
    *,
    scales: dict[str, dict],
    smoke_values: dict,
    fixed: dict,
    without: dict[str, str] | None = None,
    **known,
) -> tuple[ConfigDict, ConfigDict]:
    """Returns the arguments with the defaults of their scale, and those with the defaults of all scales.

    Args:
      arg: see `arguments.parse`.
      scales: scale -> values, defaults of arguments and others.
      smoke_values: likewise, of a smoke run.
      fixed: values that are no arguments.
      without: argument that has no effect -> why.
      **known: arguments with their defaults, scale and smoke among them.

    Raises:
      ValueError: an unknown scale, or as `arguments.parse`.
    """
    given = arguments.parse(arg, refused=without, **known)
    values = {**scales[arguments.choice("scale", given.scale, scales)], **(smoke_values if given.smoke else {})}
    defaults = {**known, **{name: value for name, value in values.items() if name in known}}
    args = ConfigDict({**fixed, **values, **arguments.parse(arg, **defaults).to_dict()})
    if "image_size" in values and not args.image_size:
        args.image_size = values["image_size"]
    return args, given


def finish(
    args: ConfigDict,
    stages: dict[str, ConfigDict],
    report: ConfigDict,
    *,
    name: str = "report",
    inverter_epochs: float = _INVERTER_EPOCHS,
) -> ConfigDict:
    """Returns the experiment of a table: its stages at the scale of the arguments, then the report.

    Args:
      args: as `parse` returns them.
      stages: name -> config.
      report: the comparison.
      name: name of its stage.
      inverter_epochs: number of epochs of inverters without a discriminator at scale=small.
    """
    for stage in stages.values():
        if args.scale == "small" and not args.smoke:
            _shorten(stage, inverter_epochs)
        if args.get("lpips") and "metrics" in stage:
            stage.metrics = with_metric(stage.metrics, "lpips_alex")
            stage.metric_networks.alexnet = args.lpips
    report.title += f": measured with {args.encoder} on {args.dataset}"
    return tasks.experiment({**stages, name: report})


def with_metric(metrics: str, name: str) -> str:
    """Returns metrics, joined by "+", with another one unless it is among them."""
    return "+".join(dict.fromkeys([*metrics.split("+"), name]))


def standard_encoder(args: ConfigDict) -> tuple[ConfigDict, dict[str, ConfigDict], str]:
    """Returns the arguments of a standard encoder's inversions, its training and where it is.

    Args:
      args: resolved arguments with standard_encoder, a workdir or empty.

    Returns:
      The arguments, with eps of 0 and the normalized error among the metrics; stages, empty where the encoder is given;
      and its workdir or "stage:standard_encoder".
    """
    metrics = with_metric(args.metrics, "normalized_error")
    standard = ConfigDict({**args.to_dict(), "eps": 0.0, "metrics": metrics})
    if args.standard_encoder:
        return standard, {}, args.standard_encoder
    return (
        standard,
        {"standard_encoder": tasks.classifier(standard, title="standard encoder")},
        "stage:standard_encoder",
    )


class Inversion(NamedTuple):
    """An inverter in an experiment that trains several of one encoder.

    Attributes:
      loss: a key of tasks.LOSSES; empty for that of the arguments.
      fields: nested, of the inverter's config, where they differ from its defaults.
    """

    loss: str = ""
    fields: dict[str, Any] = {}


def inversions(
    args: ConfigDict, checkpoint: str, rows: dict[str, Inversion]
) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Returns the trainings and evaluations of inverters of one encoder, and those of a robust one beside them.

    Each encoder is attacked once.

    Args:
      args: resolved arguments of the inverters and of the evaluations; robust_encoder is a workdir or empty.
      checkpoint: workdir of the encoder, or "stage:NAME".
      rows: name -> inverter; those that train their encoder are evaluated with their own.

    Returns:
      Stage name -> config, NAME_inverter (NAME where it trains its encoder) and NAME_evaluation, with NAME_robust in
      place of NAME for the robust encoder, unless training starts from random weights; and name, with spaces ->
      "stage:NAME_evaluation".
    """
    stages, entries, attacks = {}, {}, {}
    checkpoints = {"": checkpoint} | ({"_robust": args.robust_encoder} if args.robust_encoder else {})
    for (stem, row), suffix in itertools.product(rows.items(), checkpoints):
        stage = tasks.inverter(args, checkpoints[suffix], loss_name=row.loss)
        stage.update(row.fields)
        if suffix and stage.encoder.start == "random":
            continue
        name, attack_from = f"{stem}{suffix}", ""
        label, training = name.replace("_", " "), name
        if not stage.encoder.train:
            training, attack_from = f"{name}_inverter", attacks.get(suffix, "")
            attacks.setdefault(suffix, f"stage:{name}_evaluation")
        stage.title = training.replace("_", " ")
        stages[training] = stage
        stages[f"{name}_evaluation"] = tasks.evaluate(
            args, f"stage:{training}", title=f"{label} evaluation", attack_from=attack_from
        )
        entries[label] = f"stage:{name}_evaluation"
    return stages, entries


def dosovitskiy_brox_generator(encoder: str) -> str:
    """Returns the generator variant of Dosovitskiy & Brox for an encoder: their own for CaffeNet, else the default."""
    return "dosovitskiy_brox" if encoder == "caffenet" else "default"


def deepsim_generator(encoder: str, layer: str, image_size: int) -> str:
    """Returns the generator variant of DeePSiM for a layer of an encoder, or the default where it does not fit.

    The published generator of conv5 returns images of 192 px and more.
    """
    fits = layer in ("fc6", "fc7", "fc8") or image_size >= 192
    return "deepsim" if encoder == "caffenet" and fits else "default"


def deepsim_weights(args: ConfigDict, *, left_out: str = "", is_unsupervised: bool = False) -> dict[str, float]:
    """Returns the weights of DeePSiM's loss; those of pixels and features are larger for small encoders.

    Sums over fewer pixels, and over fewer and smaller features than those of the published network, would be small
    beside the adversarial loss, which is one number for each image.

    Args:
      args: scale, encoder and image_size are read.
      left_out: term whose weight is 0: pixel, feature or adversarial.
      is_unsupervised: whether the comparator is the one without labels.
    """
    weights = {name: tasks.LOSSES["deepsim"][name] for name in ("pixel", "feature", "adversarial")}
    side = args.image_size or encoders.image_size(args.encoder)
    measured = _SMALL_COMPARATOR_WEIGHTS if is_unsupervised else _SMALL_FEATURE_WEIGHTS
    if args.scale == "small" and (args.encoder, side) in measured:
        weights |= {"pixel": weights["pixel"] * (227 / side) ** 2, "feature": measured[args.encoder, side]}
    return weights | ({left_out: 0.0} if left_out else {})


def studied(args: ConfigDict, stages: dict[str, ConfigDict], *, probes: str, title: str) -> ConfigDict:
    """Returns the study of all inverters among the stages.

    Args:
      args: resolved arguments.
      stages: name -> config.
      probes: names joined by "+".
      title: heading of its report.
    """
    inverters = {name: f"stage:{name}" for name, stage in stages.items() if stage.task == "inverter"}
    own = ConfigDict({**args.to_dict(), "images": "", "probes": probes})
    stage = study.task(own, inverters, title=title)
    if args.scale == "paper" and not args.smoke:
        stage.data.num_train = _NUM_REFERENCE
    return stage


def sheets(stage: ConfigDict) -> dict[str, str]:
    """Returns heading -> file of the sheets of an experiment's stage "study".

    Args:
      stage: the study.
    """
    return {f"Study: {probe}": f"stage:study/{probe}.png" for probe in stage.probes}


def report(number: str, entries: dict, *, names: dict[str, str] | None = None, text: str = "", **options) -> ConfigDict:
    """Returns the report of a table, with the paper's figures in columns beside the measured ones.

    Args:
      number: number of the table, such as "1" or "A2"; of another paper after its name.
      entries: see `tasks.comparison`.
      names: see `published.table`.
      text: above the table.
      **options: of `tasks.comparison`.
    """
    figures = published.table(number, names)
    return tasks.comparison(entries, title=published.title(number), text=text, published=figures, **options)


def _shorten(stage: ConfigDict, inverter_epochs: float) -> None:
    """Changes a training, or an evaluation, to one that two cores finish within hours."""
    if stage.task == "classifier":
        stage.num_epochs, stage.batch_size, stage.attack.num_steps = _ENCODER_EPOCHS, 64, 3
    elif stage.task in ("inverter", "class_inverters", "denoiser"):
        epochs = _EPOCHS_OF.get(stage.task, inverter_epochs)
        stage.num_epochs = _GAN_EPOCHS if stage.loss.adversarial else epochs
        stage.batch_size = _DENOISER_BATCH if stage.task == "denoiser" else 64
        schedule = stage.optimizer.generator.schedule
        schedule.name, schedule.learning_rate = "cosine", _RATE_OF.get(stage.encoder.get("name"), _RATE)
    elif stage.task in _NUM_TEST:
        stage.data.num_test = _NUM_TEST[stage.task]
    elif stage.task == "one_vs_all":
        stage.num_anomalous = 720
    elif stage.task == "compare_inversion":
        stage.optimization.num_steps = 2000
