"""Style transfer by a standard and a robust encoder: trains what it needs, stylises, measures, and shows both.

    python -m arinv --config=configs/style.py:encoder=alexnet,dataset=imagenet2012,eps=3,content=photographs,style=art \
        --workdir=runs/style
    python -m arinv --config=configs/style.py:standard=runs/x/standard_encoder,robust=runs/x/robust_encoder \
        --workdir=runs/style

With `standard` and `robust`, the workdirs of classifiers' trainings, those encoders are inverted and none is trained.
For each encoder and each of its layers a generator is trained: the deepest, by the numbers in the layers' names, with
`loss` (the paper's: gan), the others without a discriminator and with the paper's pixel weight, 2e-4 for the standard
and 2e-6 for the robust encoder. The stages stylization and evaluation leave the contact sheets and table.md with
report.html.

Arguments: those of configs/inverter.py but layer, checkpoint, other_size, test_eps, metrics, alexnet_weights and
vgg16_weights (eps is the robust encoder's; unless given, it is that of the encoder's recipe and loss is gan), layers
(joined by "+", in any order; empty: the encoder's), shallow_pixel (pixel weight of all but the deepest; 0: the
paper's), and those of configs/stylize.py but levels and evaluate (size is 224 and border 0, as in the paper; standard
and robust are encoders here).
"""

import re

from ml_collections import ConfigDict

from configs import arguments, classifier, encoders, inverter, stylize, tasks

_METRICS = ("metric_encoder", "vgg19_weights")  # of arguments.METRICS, what a Gram loss can look through
_PIXEL = {"standard": 2e-4, "robust": 2e-6}  # Rojas-Gomez et al. 2022, section A3.3


def get_config(arg=None):
    """Returns the stages: two encoders, an inverter for each of their layers, stylization, evaluation."""
    inverters = {"inverter_epochs": 0.0, "inverter_batch": 0, "inverter_rate": 0.0, "inverter_schedule": ""}
    own = {"standard": "", "robust": "", "layers": "", "loss": "gan", "shallow_pixel": 0.0}
    training, style = arguments.TRAINING | {"eps": -1.0}, stylize.STYLE | {"size": 224, "border": 0}
    metrics = {name: arguments.METRICS[name] for name in _METRICS}
    args = arguments.parse(arg, **training, **inverters, **metrics, **style, **own)
    encoders.resolve(args)
    layers = list(dict.fromkeys(args.layers.split("+") if args.layers else encoders.style_layers(args.encoder)))
    deepest = max(layers, key=_depth)
    stages, entries = {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        if not args[name]:
            stages[f"{name}_encoder"] = classifier.from_arguments(
                args, title=f"{name} encoder", eps=eps, test_eps=args.eps
            )
    for name in ("standard", "robust"):
        for layer in layers:
            stage = _inverter(args, name, layer, is_deepest=layer == deepest)
            stages[f"{name}_{layer}_inverter"] = stage
        entries[name] = "+".join(f"stage:{name}_{layer}_inverter" for layer in layers)
    stages["stylization"] = stylize.stylization(args, entries)
    title = f"Style transfer by {args.encoder}, standard and robust"
    stages["evaluation"] = stylize.evaluation(args, "stage:stylization", title=title)
    return tasks.experiment(stages)


def _depth(layer: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", layer)]


def _inverter(args, name, layer, *, is_deepest) -> ConfigDict:
    """Returns the training of the generator of one layer of the encoder `name`."""
    config = inverter.inverter_stage(
        ConfigDict({**args.to_dict(), "layer": layer}),
        args[name] or f"stage:{name}_encoder",
        title=f"{name} {layer} inverter",
        loss=args.loss if is_deepest else "feature",
    )
    if not is_deepest:
        config.loss.pixel = args.shallow_pixel or _PIXEL[name]
    return config
