"""Arguments and scales of the tables and figures of the Generative Encoder.

scale=paper is the published set-up: networks, sizes, data and numbers of images. What it lacks is trained besides: a
robust classifier, whose features FID compares in place of Inception's and one more search, and a classifier of
eyeglasses in place of people who count them. scale=small is a class of CIFAR-10, or synthetic volumes, at 32 px with
narrow networks: hours on two cores.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from configs import arguments, autoencoder, encoders, restoration, tasks
from configs.paper import setting

_FIXED = {
    "autoencoder": "", "aegan": "", "layer": "", "operator": "identity", "operator_options": "", "on_bad_image": "error"
}  # fmt: skip
# Arguments of every table, besides those that only some have.
_ARGUMENTS = {
    "scale": "small",
    **{name: value for name, value in restoration.ARGUMENTS.items() if name not in _FIXED},
}
_SMALL = {
    "dataset": "cifar10",
    "classes": "1",
    "image_size": 32,
    "encoder": arguments.ZOO["robust"],
    "metric_encoder": arguments.ZOO["robust"],
}
_PAPER = {"dataset": "celeb_a", "image_size": 128}
# Attribute of CelebA that the robust encoder is trained for: two in five images have it, and the whole face shows it.
_ATTRIBUTE = "attributes/Male"
_CLASSIFIER_EPOCHS = 10.0  # of one attribute; recipes are for a thousand classes
# The networks of the zoo are for 32 px.
_SMOKE = {"dataset": "photos", "classes": "", "image_size": 8, "encoder": "", "metric_encoder": ""}
_SMALL_OPTIONS = {"progressive": "base_width:256+max_width:64", "began": "width:32", "dcgan": "width:16"}
_GAN_STEPS, _EPOCHS = 1000, 10.0  # of scale=small: in each stage; of autoencoders


def parse(
    arg: str | None,
    *,
    small: dict | None = None,
    paper: dict | None = None,
    smoke: dict | None = None,
    without: dict[str, str] | None = None,
    **own,
) -> ConfigDict:
    """Returns the arguments of a table, with those of configs/restoration.py that tables do not have.

    Args:
      arg: see `arguments.parse`.
      small: defaults of scale=small, where they differ from those of all tables.
      paper: likewise of scale=paper.
      smoke: likewise of a smoke run.
      without: argument of other tables that has no effect on this one -> why.
      **own: arguments that not every table has, with their defaults.

    Raises:
      ValueError: an unknown scale, or as `arguments.parse`.
    """
    args, _ = setting.parse_at_scale(
        arg,
        without=without,
        scales={"small": {**_SMALL, **(small or {})}, "paper": {**_PAPER, **(paper or {})}},
        smoke_values={**_SMOKE, **(smoke or {})},
        fixed=_FIXED,
        **{**_ARGUMENTS, **own},
    )
    if args.scale == "small" and not args.smoke:
        args.options = args.options or _SMALL_OPTIONS.get(args.networks, "")
    return args


def has_faces(args: ConfigDict) -> bool:
    """Returns whether the images are those of scale=paper, CelebA's, which have attributes."""
    return args.scale == "paper" and args.dataset == _PAPER["dataset"] and not args.smoke


def classifier(args: ConfigDict, attribute: str, *, eps: float, title: str) -> ConfigDict:
    """Returns the training of a classifier of an attribute of faces.

    Args:
      args: as `parse` returns them.
      attribute: feature of the dataset, such as "attributes/Eyeglasses".
      eps: radius of the attack it is trained with; 0: none, -1: the recipe's.
      title: shown beside the progress bar.
    """
    own = {"encoder": "resnet18_imagenet", "options": "", "norm": "", "recipe": "", "eps": eps}
    config = tasks.classifier(encoders.resolve(ConfigDict({**args.to_dict(), **own})), title=title)
    config.data.label = attribute
    config.data.resize, config.data.resized_crop = "squash", {}  # whole faces, as they are restored
    config.num_epochs, config.optimizer.schedule.name = _CLASSIFIER_EPOCHS, "cosine"
    return config


def robust_encoder(args: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the stage that trains a robust encoder of faces, which takes the place of those that args do not name.

    Args:
      args: as `parse` returns them; encoder and metric_encoder are set where they are empty.
    """
    absent = [name for name in ("encoder", "metric_encoder") if not args[name]]
    if not (has_faces(args) and absent):
        return {}
    stages = {"robust_encoder": classifier(args, _ATTRIBUTE, eps=-1.0, title="robust encoder")}
    args.update(dict.fromkeys(absent, "stage:robust_encoder"))
    return stages


def aegan(args: ConfigDict) -> ConfigDict:
    """Returns the training of the AEGAN, whose generator is as wide as the GAN's where that is progressive."""
    default = _SMALL_OPTIONS["progressive"] if args.scale == "small" and not args.smoke else ""
    options = args.options if args.networks == "progressive" else default
    return autoencoder.aegan(ConfigDict({**args.to_dict(), "options": options}), title="AEGAN")


def finish(
    args: ConfigDict, stages: dict[str, ConfigDict], report: ConfigDict, *, measured: Sequence[str] = ()
) -> ConfigDict:
    """Returns the experiment of a table: its stages at the scale of the arguments, then the report.

    Args:
      args: as `parse` returns them.
      stages: name -> config.
      report: the comparison.
      measured: the restorations whose figures are the paper's, of all test images at scale=paper; others are of 64,
        which are shown.
    """
    for name in measured if args.scale == "paper" and not args.smoke else ():
        stages[name].data.num_test = 0
    for stage in stages.values():
        if _SMALL["encoder"] in (args.encoder, args.metric_encoder) and "allow_other_size" in stage:
            stage.allow_other_size = True  # the zoo's encoder, of 32 px, is convolutions up to the layers compared
        if args.scale == "small" and not args.smoke:
            if stage.task == "gan":
                stage.num_steps = _GAN_STEPS
            elif stage.task in ("autoencoder", "aegan"):
                stage.num_epochs = _EPOCHS
    report.title += f": measured with {args.networks} on {args.dataset}"
    return tasks.experiment({**stages, "report": report})
