"""VGG-16 with batch normalization on ImageNet-143, labels 151 to 293, robust against linf perturbations of 0.01.

    python -m arinv --config=configs/recipes/vgg16_imagenet143.py:dtype=bfloat16 --workdir=runs/vgg16
    python -m arinv --config=configs/recipes/vgg16_imagenet143.py:dataset=folder:/data/imagenet --workdir=runs/vgg16

64 px, PGD of 10 steps of 0.007 without random start, batch 128, SGD with momentum 0.9 and weight decay 5e-4, rate 0.01
for 30, 20, 20 and 10 epochs, divided by 10 in between; windows of 80 to 90 % of the original image's area, flips. The
inversion in the paper is at 224 px: configs/inverter.py:encoder=vgg16_bn,encoder_checkpoint=... with
--config.stages.inverter.encoder.allow_other_size=true, or image_size=224 here. A TFDS dataset is read once to find the
labels, which takes minutes.
Arguments: those of configs/classifier.py. Not run to its end here; the paper's accuracy is 48.7 %, 23.0 % under PGD.
Source: Liu et al. 2019 (Adv-BNN) and its code; Rojas-Gomez et al. 2022, section 4.1.
"""

from configs import classifier

_DEFAULTS = {"encoder": "vgg16_bn", "dataset": "imagenet2012", "classes": "151-293", "image_size": 64, "eps": -1.0}


def get_config(arg=None):
    """Returns the config of the task."""
    return classifier.get_config(arg, title="VGG-16, ImageNet-143", **_DEFAULTS)
