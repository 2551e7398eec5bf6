"""Reconstructions from the higher layers of CaffeNet by DeePSiM, and by the same generators trained on pixels alone.

    python -m arinv --config=configs/paper/deepsim_layers.py:data_dir=/data/tfds --workdir=runs/deepsim_layers
    python -m arinv --config=configs/paper/deepsim_layers.py:scale=paper,dtype=bfloat16 --workdir=runs/layers_paper

Generating Images with Perceptual Similarity Metrics based on Deep Networks (Dosovitskiy & Brox 2016), supplement:
Figures 1 (reconstructions), 2 (neighbors), 4 (position and color), 5 and 6 (interpolation), 8 and 9 (re-encoding, with
DeePSiM's loss and with that of pixels). It has images without numbers. scale=paper: ImageNet at 227 px; scale=small:
CIFAR-10 at 64 px, a CaffeNet with 512 units in fc6 and fc7 and ImageNet's normalization, and for conv5 the generator
that mirrors the encoder: the published one returns images of 192 px and more.

Arguments: scale, encoder (caffenet), options, dataset, data_dir, metrics, lpips, dtype and smoke of
configs/paper/README.md, and
  layers            joined by "+": conv5, fc6, fc7, fc8
  pixels            true: beside DeePSiM's the same generators trained with squared differences of pixels
  probes            of the study, see configs/study.py, joined by "+"; empty: all
  standard_encoder  trained CaffeNet, which is used instead of a new one
  robust_encoder    robustly trained encoder of the same architecture, whose inverters stand beside the others
  image_size        side in pixels; 0: the scale's

Stages: standard_encoder; for each layer LAYER_inverter, LAYER_evaluation, LAYER_pixels_inverter and
LAYER_pixels_evaluation; likewise LAYER_robust_inverter and the others of a robust encoder; study; report.
"""

from configs import arguments, tasks
from configs.paper import setting

_PAPER = {"encoder": "caffenet", "dataset": "imagenet2012", "image_size": 227, "loss": "deepsim"}
_SMALL = {**_PAPER, "dataset": "cifar10", "image_size": 64}
_SMOKE = {"layers": "fc6", "pixels": False, "probes": "reencode", "image_size": 64, "options": "dense_width:16"}
_WITHOUT = {"eps": "deepsim_layers trains no robust encoder"}
_TEXT = (
    "Each layer was inverted with DeePSiM's loss, and by the same generator with squared differences of pixels alone. "
    "The features of DeePSiM's loss are those of conv5."
)
_LAYERS = ("conv5", "fc6", "fc7", "fc8")


def get_config(arg=None):
    """Returns the stages: the encoder, inverters and their evaluations for each layer, the study, the report."""
    own = {"layers": "conv5+fc6", "pixels": True, "probes": "interpolate+objects+neighbors+reencode"}
    own |= {**setting.PAIR, "image_size": 0}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, smoke=_SMOKE, without=_WITHOUT, **own)
    standard, stages, checkpoint = setting.standard_encoder(args)
    rows = {}
    for layer in arguments.choices("layers", args.layers, _LAYERS):
        encoder = {"layer": layer, "generator": setting.deepsim_generator(args.encoder, layer, args.image_size)}
        weights = setting.deepsim_weights(args)
        rows[layer] = setting.Inversion(fields={"encoder": encoder, "loss": {"feature_layer": "conv5", **weights}})
        if args.pixels:
            rows[f"{layer}_pixels"] = setting.Inversion("euclidean", {"encoder": encoder})
    trainings, entries = setting.inversions(standard, checkpoint, rows)
    title = "Reconstructions by DeePSiM (Dosovitskiy & Brox 2016)"
    study = setting.studied(args, trainings, probes=args.probes, title="Study of DeePSiM")
    report = tasks.comparison(entries, title=title, text=_TEXT, figures=setting.sheets(study))
    return setting.finish(args, {**stages, **trainings, "study": study}, report, inverter_epochs=1.0)
