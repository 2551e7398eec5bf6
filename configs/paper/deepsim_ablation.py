"""The parts of DeePSiM's loss: all of them, and each left out in turn, for one layer.

    python -m arinv --config=configs/paper/deepsim_ablation.py:data_dir=/data/tfds --workdir=runs/deepsim
    python -m arinv --config=configs/paper/deepsim_ablation.py:scale=paper,dtype=bfloat16 --workdir=runs/deepsim_paper

Generating Images with Perceptual Similarity Metrics based on Deep Networks (Dosovitskiy & Brox 2016), Figure 3: pixels
in [0, 1], squared differences of CONV5's features, and a discriminator that gets images alone and pauses while it is
ahead. The paper shows images without numbers. scale=paper: CaffeNet's fc6 on ImageNet at 227 px, with the generator of
the released weights; scale=small: CIFAR-10 at 64 px, a CaffeNet with 512 units in fc6 and fc7 and ImageNet's
normalization. A recorded run: arinv/apps/studies/README.md.

Arguments: scale, encoder (caffenet), options, dataset, data_dir, metrics, lpips, dtype and smoke of
configs/paper/README.md, and
  layer             the inverted one: conv5 (below 192 px with the generator that mirrors the encoder), fc6, fc7 or fc8
  parts             joined by "+": all, no_pixel, no_feature, no_adversarial
  standard_encoder  trained CaffeNet, which is used instead of a new one
  robust_encoder    robustly trained encoder of the same architecture, whose inverters stand beside the others
  image_size        side in pixels; 0: the scale's

Stages: standard_encoder; for each part PART_inverter and PART_evaluation; likewise PART_robust_inverter and the others
of a robust encoder; report.
"""

from configs import arguments, tasks
from configs.paper import setting

_PAPER = {"encoder": "caffenet", "dataset": "imagenet2012", "image_size": 227, "loss": "deepsim"}
_SMALL = {**_PAPER, "dataset": "cifar10", "image_size": 64}
_SMOKE = {"parts": "all+no_adversarial", "image_size": 64, "options": "dense_width:16"}
_WITHOUT = {"eps": "deepsim_ablation trains no robust encoder"}
_TEXT = "A layer was inverted with all terms of the loss, and without each of them."
_PARTS = {"all": "", "no_pixel": "pixel", "no_feature": "feature", "no_adversarial": "adversarial"}
_LAYERS = ("conv5", "fc6", "fc7", "fc8")


def get_config(arg=None):
    """Returns the stages: the encoder, an inverter and its evaluation for each part, the report."""
    own = {"layer": "fc6", "parts": "+".join(_PARTS), **setting.PAIR, "image_size": 0}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, smoke=_SMOKE, without=_WITHOUT, **own)
    arguments.choice("layer", args.layer, _LAYERS)
    standard, stages, checkpoint = setting.standard_encoder(args)
    shared = {"generator": setting.deepsim_generator(args.encoder, args.layer, args.image_size)}
    rows = {}
    for part in arguments.choices("parts", args.parts, _PARTS):
        weights = setting.deepsim_weights(args, left_out=_PARTS[part])
        rows[part] = setting.Inversion(fields={"encoder": shared, "loss": {"feature_layer": "conv5", **weights}})
    trainings, entries = setting.inversions(standard, checkpoint, rows)
    title = f"Parts of DeePSiM's loss, {args.layer} (Dosovitskiy & Brox 2016)"
    report = tasks.comparison(entries, title=title, text=_TEXT)
    return setting.finish(args, stages | trainings, report, inverter_epochs=1.0)
