"""Style transfer by a standard and a robust encoder: trains what it needs, stylizes, evaluates, and compares (Table 9).

    python -m arinv --config=configs/style.py:encoder=alexnet,dataset=imagenet2012,eps=3,content=photographs,style=art \
        --workdir=runs/style
    python -m arinv --config=configs/style.py:content=photographs,style=art --workdir=runs/style_zoo
    Q=runs/quickstart
    python -m arinv --config=configs/style.py:standard_encoder=$Q/standard_encoder,robust_encoder=$Q/robust_encoder \
        --workdir=runs/style_small

Where content or style are named and no encoder, dataset, radius, layer or loss (the second command), nothing is
trained: the encoders and inverters are those of the zoo, and images keep their own size, up to 320 px.

For each encoder and each of its layers a generator is trained: that of the deepest layer, the one with the highest
numbers in its name, with `loss` (the paper's: gan), the others without a discriminator and with the paper's pixel
weight, 2e-4 for the standard and 2e-6 for the robust encoder. The stages stylization and evaluation write the contact
sheets and table.md with report.html.

Arguments: those of configs/classifier.py, for the encoders (eps is the robust one's), and
  standard_encoder, robust_encoder  workdirs of trained classifiers, which are used instead of new ones; zoo:NAME uses
                                    its inverters as well, zoo:NAME/encoder trains new ones
  layers                            joined by "+" in any order; empty: the encoder's
  loss                              of the deepest layer: gan, pixel, feature or pixel_balanced
  content, style                    of configs/stylize.py

Stages: standard_encoder, robust_encoder, ENCODER_LAYER_inverter (standard_conv5_inverter), stylization, evaluation.
Fields that are often set: stages.*_inverter.num_epochs, stages.*_conv1_inverter.loss.pixel, and in
stages.stylization and stages.evaluation those of configs/stylize.py (data.size is 224 and data.border 0, as in the
paper, unless all networks are of the zoo).
"""

import re

from ml_collections import ConfigDict

from configs import arguments, encoders, stylize, tasks

_EXPERIMENT = {"eps": -1.0, "standard_encoder": "", "robust_encoder": "", "layers": "", "loss": "gan"}
_PIXEL = {"standard": 2e-4, "robust": 2e-6}  # Rojas-Gomez et al. 2022, section A3.3
_SIZE = 224
_ZOO_SIDE = 320  # px, of the longer side of images through networks of the zoo
_FREE = ("on_bad_image", "dtype", "smoke", *stylize.STYLE)  # arguments that describe no network


def get_config(arg=None):
    """Returns the stages: two encoders, an inverter for each of their layers, stylization, evaluation."""
    defaults = {**arguments.ENCODER, **_EXPERIMENT, **stylize.STYLE}
    args = arguments.parse(arg, **defaults)
    given = {name for name, value in defaults.items() if args[name] != value}
    if given & stylize.STYLE.keys() and not given - {*_FREE}:
        args.standard_encoder, args.robust_encoder = arguments.ZOO["standard"], arguments.ZOO["robust"]
    return tasks.experiment(stages(encoders.resolve(args)))


def stages(args):
    """Returns the stages of the experiment, with resolved arguments."""
    layers = list(dict.fromkeys(args.layers.split("+") if args.layers else encoders.style_layers(args.encoder)))
    deepest = max(layers, key=_depth)
    result, workdirs = tasks.encoder_pair(args)
    entries = {}
    for name, workdir in workdirs.items():
        if _is_entry(workdir):
            entries[name] = "+".join(f"{workdir}/{layer}" for layer in layers)
            continue
        for layer in layers:
            config = tasks.inverter(
                ConfigDict({**args.to_dict(), "layer": layer}),
                workdir,
                title=f"{name} {layer} inverter",
                loss_name=args.loss if layer == deepest else "feature",
            )
            if layer != deepest:
                config.loss.pixel = _PIXEL[name]
            result[f"{name}_{layer}_inverter"] = config
        entries[name] = "+".join(f"stage:{name}_{layer}_inverter" for layer in layers)
    trains = any(not _is_entry(workdir) for workdir in workdirs.values())
    size = _SIZE if trains else 0
    result["stylization"] = stylize.task(args, entries, size=size, border=0 if trains else stylize.BORDER)
    if not trains:
        result["stylization"].data.max_side = _ZOO_SIDE
    title = f"Style transfer by {args.encoder}, standard and robust"
    result["evaluation"] = stylize.evaluate_style(args, "stage:stylization", title=title, size=size)
    return result


def _is_entry(workdir: str) -> bool:
    """Returns whether a workdir is an entry of the zoo, with its inverters."""
    return workdir.startswith("zoo:") and "/" not in workdir


def _depth(layer: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", layer)]
