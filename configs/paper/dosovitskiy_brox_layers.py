"""Reconstructions from every layer of CaffeNet with the generators of Dosovitskiy & Brox 2016.

    python -m arinv --config=configs/paper/dosovitskiy_brox_layers.py:data_dir=/data/tfds --workdir=runs/layers
    python -m arinv --config=configs/paper/dosovitskiy_brox_layers.py:scale=paper --workdir=runs/layers_paper

Inverting Visual Representations with Convolutional Networks: a generator for each layer, whose images are smaller than
the encoder's; they are trained against reduced images, and enlarged before they are measured. The paper has these as
curves only (Figure 7: error by layer, of intact and of perturbed features), without numbers: study/perturb_layers.png
is that figure. scale=paper: ImageNet at 227 px, 15 epochs of conv1 to 60 of fc6 and above, features of 4,096 images as
reference, an accelerator; scale=small: CIFAR-10 at 64 px, a CaffeNet with 512 units in fc6 and fc7 and ImageNet's
normalization, 1 epoch. A recorded run: arinv/apps/studies/README.md.

Arguments: scale, encoder (caffenet), options, dataset, data_dir, metrics, lpips, dtype and smoke of
configs/paper/README.md, and
  layers            joined by "+": conv1 to conv5, fc6, fc7, fc8
  autoencoders      false: fixed encoders alone; true: beside them those that are trained with their generators
  probes            of the study, see configs/study.py, joined by "+"; empty: all
  standard_encoder  trained CaffeNet, which is used instead of a new one
  robust_encoder    robustly trained encoder of the same architecture, whose inverters stand beside the others
  image_size        side in pixels; 0: the scale's

Stages: standard_encoder; for each layer LAYER_inverter, LAYER_evaluation, LAYER_autoencoder and
LAYER_autoencoder_evaluation; likewise LAYER_robust_inverter and the others of a robust encoder; study; report.
"""

from configs import arguments, tasks
from configs.paper import setting

_PAPER = {"encoder": "caffenet", "dataset": "imagenet2012", "image_size": 227, "loss": "euclidean"}
_SMALL = {**_PAPER, "dataset": "cifar10", "image_size": 64}
_SMOKE = {"layers": "conv5", "probes": "perturb", "image_size": 64, "options": "dense_width:16"}
_WITHOUT = {"eps": "dosovitskiy_brox_layers trains no robust encoder"}
_TEXT = (
    "Images were reconstructed from each layer of an encoder, by one generator for each; of an autoencoder, a copy of "
    "the encoder was trained with its generator."
)
# layer -> epochs at scale=paper; the paper has "from 15 epochs for shallower networks to 60 for deeper ones".
_LAYERS = {"conv1": 15.0, "conv2": 15.0, **dict.fromkeys(("conv3", "conv4", "conv5"), 30.0)}
_LAYERS |= dict.fromkeys(("fc6", "fc7", "fc8"), 60.0)


def get_config(arg=None):
    """Returns the stages: the encoder, an inverter and its evaluation for each layer, the study, the report."""
    own = {"layers": "+".join(_LAYERS), "autoencoders": True, "probes": "perturb+interpolate+sample+hue"}
    own |= {**setting.PAIR, "image_size": 0}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, smoke=_SMOKE, without=_WITHOUT, **own)
    standard, stages, checkpoint = setting.standard_encoder(args)
    generator = setting.dosovitskiy_brox_generator(args.encoder)
    rows, layers = {}, arguments.choices("layers", args.layers, _LAYERS)
    for layer in layers:
        own, epochs = {"layer": layer, "generator": generator}, {"num_epochs": _LAYERS[layer]}
        rows[layer] = setting.Inversion(fields={"encoder": own, **epochs})
        if args.autoencoders:
            rows[f"{layer}_autoencoder"] = setting.Inversion(fields={"encoder": {**own, "train": True}, **epochs})
    trainings, entries = setting.inversions(standard, checkpoint, rows)
    title = "Reconstructions from every layer (Dosovitskiy & Brox 2016)"
    study = setting.studied(args, trainings, probes=args.probes, title="Study of every layer")
    figures = setting.sheets(study)
    if "perturb" in study.probes and len(layers) > 1:
        figures["Figure 7: error by layer"] = "stage:study/perturb_layers.png"
    report = tasks.comparison(entries, title=title, text=_TEXT, figures=figures)
    return setting.finish(args, {**stages, **trainings, "study": study}, report, inverter_epochs=1.0)
