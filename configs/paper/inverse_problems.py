"""Arguments and scales of the tables and figures of the Generative Encoder.

scale=paper is the published set-up; scale=small is a class of CIFAR-10, or synthetic volumes, at 32 px with narrow
networks: hours on two cores.
"""

from ml_collections import ConfigDict

from configs import arguments, autoencoder, restoration, tasks
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


def aegan(args: ConfigDict) -> ConfigDict:
    """Returns the training of the AEGAN, whose generator is as wide as the GAN's where that is progressive."""
    default = _SMALL_OPTIONS["progressive"] if args.scale == "small" and not args.smoke else ""
    options = args.options if args.networks == "progressive" else default
    return autoencoder.aegan(ConfigDict({**args.to_dict(), "options": options}), title="AEGAN")


def finish(args: ConfigDict, stages: dict[str, ConfigDict], report: ConfigDict) -> ConfigDict:
    """Returns the experiment of a table: its stages at the scale of the arguments, then the report.

    Args:
      args: as `parse` returns them.
      stages: name -> config.
      report: the comparison.
    """
    for stage in stages.values():
        if args.scale == "small" and not args.smoke:
            if stage.task == "gan":
                stage.num_steps = _GAN_STEPS
            elif stage.task in ("autoencoder", "aegan"):
                stage.num_epochs = _EPOCHS
    report.title += f": measured with {args.networks} on {args.dataset}"
    return tasks.experiment({**stages, "report": report})
