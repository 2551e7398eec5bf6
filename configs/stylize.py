"""Stylises pictures of your own: every content in every style, and a contact sheet of them all.

    LEVELS=runs/style/robust_conv5_inverter+runs/style/robust_conv2_inverter+runs/style/robust_conv1_inverter
    python -m arinv --config=configs/stylize.py:levels=$LEVELS,content=photographs,style=art --workdir=runs/stylized

Leaves pictures/stylized/CONTENT/STYLE.png and sheet_stylized.png. With `standard` and `robust` in place of `levels`,
one sheet for each encoder and side_by_side.png; any of the three is the workdirs of inverters, joined by "+", in any
order: the stages ENCODER_LAYER_inverter of configs/style.py, or of configs/inverter.py with layer= the stage `inverter`
(runs/conv5/inverter for --workdir=runs/conv5).

Arguments: content and style (an image, a folder, or photos:NAME+NAME for photographs that come along), num_content and
num_style (0: all); size (0: each picture's own; 224: squashed to 224x224, the paper's), resize (squash or crop, for
size), max_side (longer pictures are reduced to it; 0: none are), border (px of mirror image around a picture, against
the frame that convolutions draw; 0: none, the paper's); alpha (0: the content, 1: the style), variant (official, ust,
ct), method (eigh, or newton_schulz for a GPU), order (official: deep to shallow; paper: shallow to deep), keep_color
(no; luminance: the content's chroma; match: the styles take on the content's colours first), mix (weights of all styles
in the order of their names, such as 0.7+0.3, for one picture in a mixture), content_labels and style_labels (folders of
label maps, PNGs of the pictures' names: each region takes on the style of its label's); evaluate (true: Gram loss and
SSIM as well), vgg19_weights and metric_encoder (what the Gram loss looks through; else the robust encoder); tile (px of
a cell of the sheets), style_batch (pictures at once), on_bad_image (error or skip), seed, dtype, smoke.
"""

from fractions import Fraction

from ml_collections import ConfigDict

from configs import arguments, defaults, tasks

# What every config that stylises understands.
STYLE = {
    "content": "photos:astronaut+chelsea+china+coffee",
    "style": "photos:hubble_deep_field+ihc+retina",
    "num_content": 0,
    "num_style": 0,
    "size": 0,
    "resize": "squash",
    "max_side": 1024,
    "border": 16,
    "alpha": 1.0,
    "variant": "official",
    "method": "eigh",
    "order": "official",
    "keep_color": "no",
    "mix": "",
    "content_labels": "",
    "style_labels": "",
    "tile": 160,
    "style_batch": 8,
}


def get_config(arg=None):
    """Returns the task's config, or with evaluate the stages stylization and evaluation."""
    args = arguments.parse(
        arg,
        levels="",
        standard="",
        robust="",
        evaluate=False,
        metric_encoder="",
        vgg19_weights="",
        on_bad_image="error",
        seed=0,
        dtype="float32",
        smoke=False,
        **STYLE,
    )
    given = {"stylized": args.levels, "standard": args.standard, "robust": args.robust}
    config = stylization(args, {name: levels for name, levels in given.items() if levels})
    if not args.evaluate:
        return config
    return tasks.experiment({"stylization": config, "evaluation": evaluation(args, "stage:stylization")})


def stylization(args, entries, *, title="stylization"):
    """Returns the task that makes the pictures.

    Args:
      args: with the arguments of STYLE, on_bad_image, seed, dtype and smoke.
      entries: name -> workdirs of inverters, or "stage:NAME", joined by "+".
      title: shown beside progress.
    """
    config = defaults.common(seed=args.seed, title=title, dtype=args.dtype)
    config.task = "stylization"
    config.entries = {name: tuple(levels.split("+")) for name, levels in entries.items()}
    config.order = tuple(entries)
    config.data = _pictures(args)
    config.transform = {name: args[name] for name in ("alpha", "variant", "method", "order")}
    config.keep_color = args.keep_color
    config.mix = tuple(_weight(part) for part in args.mix.split("+")) if args.mix else ()
    config.tile = args.tile
    config.batch_size = args.style_batch
    if args.smoke:
        config.data.update({"num_content": 2, "num_style": 2, "size": 64, "border": 0})
        config.tile = 64
    return config


def evaluation(args, stylized, *, title="style evaluation"):
    """Returns the task that measures a stylization.

    Args:
      args: with metric_encoder, vgg19_weights, style_batch, seed and dtype.
      stylized: workdir of a stylization, or "stage:NAME".
      title: shown beside progress, and heading of the report.
    """
    config = defaults.common(seed=args.seed, title=title, dtype=args.dtype)
    config.task = "style_evaluation"
    config.stylized = stylized
    named = {"encoder": args.metric_encoder, "vgg19": args.vgg19_weights}
    config.metric_networks = dict.fromkeys(("encoder", "alexnet", "vgg16", "vgg19"), "") | named
    config.data = {
        "name": _name(args),
        "image_size": args.size or 224,
    }  # that of each picture is checked when it is read
    config.batch_size = args.style_batch
    return config


def _pictures(args) -> ConfigDict:
    names = ("content", "style", "num_content", "num_style", "content_labels", "style_labels")
    sizes = ("size", "resize", "max_side", "border", "on_bad_image")
    return ConfigDict({"name": _name(args), **{name: args[name] for name in (*names, *sizes)}})


def _name(args) -> str:
    return f"{args.content} in the styles of {args.style}"


def _weight(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"mix holds {text!r}; must be weights joined by '+', such as 0.7+0.3") from None
