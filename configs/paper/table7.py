"""Table 7: generators of standard and robust features against optimization of the pixels (RI).

    python -m arinv --config=configs/paper/table7.py:data_dir=/data/tfds --workdir=runs/table7
    python -m arinv --config=configs/paper/table7.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 --workdir=runs/table7

DeePSiM is a published row. scale=paper: AlexNet on ImageNet, pixel, feature and GAN losses, 10,000 steps of RI;
scale=small: alexnet_small on CIFAR-10, the loss pixel_balanced, 2,000 steps on 64 images.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_inverter, robust_inverter  trained inverters, which are used instead of new ones (runs/table1 has them:
                                      runs/table1/standard_gan_inverter)
  standard_encoder, robust_encoder    trained classifiers, which are used instead of new ones
  loss                                of the inverters: pixel, feature, gan or pixel_balanced

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, comparison, report. Fields that are often
set: those of configs/compare_inversion.py, stages.comparison.data.num_test (64) first.
"""

from configs import compare_inversion
from configs.paper import setting

_PAPER = {**setting.ALEXNET, "loss": "gan"}
_SMALL = {"loss": "pixel_balanced"}
_TEXT = "Reconstructions by trained generators, and by a search for the image whose features are the given ones."


def get_config(arg=None):
    """Returns the stages: encoders and inverters that do not exist yet, the comparison, the report."""
    inputs = {**setting.PAIR, **setting.INVERTERS, "loss": ""}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, **inputs)
    stages = compare_inversion.compare(args)
    return setting.finish(args, stages, setting.report("7", {"comparison": "stage:comparison"}, text=_TEXT))
