"""Table 5: enlarged images, inverted by generators that were trained at the original size.

    python -m arinv --config=configs/paper/table5.py:data_dir=/data/tfds --workdir=runs/table5
    python -m arinv --config=configs/paper/table5.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 --workdir=runs/table5

scale=paper: AlexNet on ImageNet, 224 to 2,240 px, inverted with pixel, feature and GAN losses; scale=small:
alexnet_small on CIFAR-10 with the loss pixel_balanced, 128 images at scales up to 10.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_inverter, robust_inverter  trained inverters, which are used instead of new ones (runs/table1 has them:
                                      runs/table1/standard_gan_inverter)
  standard_encoder, robust_encoder    trained classifiers, which are used instead of new ones
  loss                                of the inverters: pixel, feature, gan or pixel_balanced
  compare                             enlarged, or original: reconstructions are reduced to the original size

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, scales, report. Fields that are often set:
stages.scales.scales (the largest factor), .data.num_test, .batch_size (images at a time at scale 1).
"""

from configs import high_resolution
from configs.paper import setting

_PAPER = {**setting.ALEXNET, "loss": "gan"}
_SMALL = {"loss": "pixel_balanced"}
_TEXT = "Images enlarged bilinearly, and inverted by generators that were trained at the original size."


def get_config(arg=None):
    """Returns the stages: encoders and inverters that do not exist yet, the scales, the report."""
    args = parse(arg)
    shown = tuple(f"{name} x{scale}" for scale in (1, 4, 7, 10) for name in ("standard", "robust"))
    report = setting.report("5", {"scales": "stage:scales"}, text=_TEXT, rows=() if args.smoke else shown)
    return setting.finish(args, stages(args), report)


def parse(arg):
    """Returns the resolved arguments."""
    inputs = {**setting.PAIR, **setting.INVERTERS, "loss": "", "compare": "enlarged"}
    return setting.parse(arg, paper=_PAPER, small=_SMALL, **inputs)


def stages(args):
    """Returns the stages but the report, with resolved arguments."""
    return high_resolution.stages(args, scales=10)
