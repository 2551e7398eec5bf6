"""Table 2: a standard and a robust VGG-16, accuracy under PGD and inversion with pixel and feature losses.

    python -m arinv --config=configs/paper/table2.py:data_dir=/data/tfds --workdir=runs/table2
    python -m arinv --config=configs/paper/table2.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 --workdir=runs/table2

scale=paper: vgg16_bn on ImageNet-143 (labels 151 to 293), trained at 64 px against linf perturbations of 0.01 and
inverted at 224 px; scale=small: alexnet_small on CIFAR-10, linf and eps 8/255, with the loss pixel_balanced.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones
  loss                              of the inverters: pixel, feature, gan or pixel_balanced

Stages: standard_encoder, robust_encoder; for both standard_inverter, standard_accuracy (where the inverter's images
have another size), standard_evaluation; report.
"""

from configs.paper import pair, setting

_PAPER = {"encoder": "vgg16_bn", "dataset": "imagenet2012", "classes": "151-293", "image_size": 64, "loss": "feature"}
_SMALL = {"eps": 8 / 255, "norm": "linf", "loss": "pixel_balanced"}
_TEXT = "Two encoders, one trained on adversarial examples; one generator each was trained to invert it."


def get_config(arg=None):
    """Returns the stages: two encoders, their inverters and evaluations, the report."""
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, **setting.PAIR, loss="")
    size = 224 if args.scale == "paper" and not args.smoke else 0
    stages, entries = pair.invert_pair(args, inverted_size=size)
    return setting.finish(args, stages, setting.report("2", entries, text=_TEXT))
