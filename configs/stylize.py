"""Stylizes images of your own: every content in every style, and a contact sheet of them all.

    LEVELS=runs/style/robust_conv5_inverter+runs/style/robust_conv2_inverter+runs/style/robust_conv1_inverter
    python -m arinv --config=configs/stylize.py:inverters=$LEVELS,content=photographs,style=art --workdir=runs/stylized

Writes images/stylized/CONTENT/STYLE.png and sheet_stylized.png. With standard_inverters and robust_inverters, one
sheet for each encoder and side_by_side.png.

Arguments:
  inverters, standard_inverters, robust_inverters: workdirs of inverters of one encoder's layers, joined by "+" in any
                    order: the stages ENCODER_LAYER_inverter of configs/style.py; of configs/inverter.py with layer= the
                    stage inverter (runs/conv5/inverter for --workdir=runs/conv5); or zoo:NAME/conv5+zoo:NAME/conv2
  content, style    an image, a folder, or photos:NAME+NAME for photographs of scikit-image
  evaluate          true: Gram loss and SSIM as well, in a second stage
  on_bad_image      error, or skip
  dtype             float32 or bfloat16
  smoke             two contents in two styles at 64 px

Fields that are often set (of the stage stylization with evaluate=true): transform.alpha (0: the content, 1: the style),
transform.variant (official, ust, ct), transform.method (eigh, or newton_schulz for a GPU), transform.order (official:
deep to shallow; paper: shallow to deep); keep_color (no; luminance: the content's chroma; match: styles in the colors
of the content); mix (weights of all styles in the order of their names, such as 0.7,0.3, for one image in a mixture);
data.size (0: each image's own; 224: squashed to 224 x 224, the paper's), data.resize (squash or crop, for size),
data.max_side (longer images are reduced to it; 0: none), data.border (px of reflection around an image, against the
frame that convolutions draw; the paper's is 0), data.num_content and data.num_style (0: all), data.content_labels and
data.style_labels (folders of label maps, PNGs of the images' names, each of a whole image, or a square of it squashed:
each region takes the style of the region with its label); tile (px of a cell of the sheets), batch_size (images at a
time); of evaluation metric_networks.vgg19 and metric_networks.encoder (the features of the Gram loss; both empty: the
robust encoder's).
"""

from configs import arguments, tasks

# Arguments of every config that stylizes.
STYLE = {
    "content": "photos:astronaut+chelsea+china+coffee",
    "style": "photos:hubble_deep_field+ihc+retina",
}


BORDER = 16  # px of reflection around an image


def get_config(arg=None):
    """Returns the config of the task, or with evaluate the stages stylization and evaluation."""
    args = arguments.parse(
        arg,
        inverters="",
        standard_inverters="",
        robust_inverters="",
        evaluate=False,
        on_bad_image="error",
        dtype="float32",
        smoke=False,
        **STYLE,
    )
    levels = {"stylized": args.inverters, "standard": args.standard_inverters, "robust": args.robust_inverters}
    config = task(args, {name: workdirs for name, workdirs in levels.items() if workdirs})
    if not args.evaluate:
        return config
    return tasks.experiment({"stylization": config, "evaluation": evaluate_style(args, "stage:stylization")})


def task(args, entries, *, size=0, border=BORDER):
    """Returns the task that stylizes images.

    Args:
      args: with the arguments of STYLE, on_bad_image, dtype and smoke.
      entries: name -> workdirs of inverters, or "stage:NAME", joined by "+".
      size: size of all images in pixels; 0 for each image's own.
      border: pixels of reflection around an image.
    """
    config = tasks.common(args, "stylization")
    config.task = "stylize"
    config.entries = {name: tuple(levels.split("+")) for name, levels in entries.items()}
    config.order = tuple(entries)
    config.data = {
        "name": _name(args),
        "content": args.content,
        "style": args.style,
        "num_content": 2 if args.smoke else 0,
        "num_style": 2 if args.smoke else 0,
        "content_labels": "",
        "style_labels": "",
        "size": 64 if args.smoke else size,
        "resize": "squash",
        "max_side": 1024,
        "border": 0 if args.smoke else border,
        "on_bad_image": args.on_bad_image,
    }
    config.transform = {"alpha": 1.0, "variant": "official", "method": "eigh", "order": "official"}
    config.keep_color = "no"
    config.mix = ()
    config.tile = 64 if args.smoke else 160
    config.batch_size = 8
    return config


def evaluate_style(args, stylized, *, title="style evaluation", size=0):
    """Returns the task that evaluates a stylization.

    Args:
      args: with the arguments of STYLE and dtype.
      stylized: workdir of a stylization, or "stage:NAME".
      title: shown beside the progress bar, and heading of the report.
      size: size of all images in pixels; 0 for each image's own.
    """
    config = tasks.common(args, title)
    config.task = "evaluate_style"
    config.stylized = stylized
    config.metric_networks = {"encoder": "", "alexnet": "", "vgg16": "", "vgg19": ""}
    config.data = {"name": _name(args), "image_size": size or 224}  # each image's own size is checked when it is read
    config.batch_size = 8
    return config


def _name(args) -> str:
    return f"{args.content} in the styles of {args.style}"
