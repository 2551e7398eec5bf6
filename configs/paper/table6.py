"""Table 6: images at their own sizes, inverted by generators that were trained on small ones.

    python -m arinv --config=configs/paper/table6.py:images=/data/DIV2K,data_dir=/data/tfds --workdir=runs/table6
    Q=runs/quickstart
    python -m arinv --config=configs/paper/table6.py:images=/data/DIV2K,standard_inverter=$Q/standard_inverter,\
robust_inverter=$Q/robust_inverter --workdir=runs/table6

The paper's images are the 100 of DIV2K's validation set; any folder of photographs shows the same. scale=paper: AlexNet
on ImageNet, inverted with pixel, feature and GAN losses; scale=small: alexnet_small on CIFAR-10 with the loss
pixel_balanced.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  images                              an image file, a folder, or photos: the photographs in scikit-image
  on_bad_image                        error, or skip
  standard_inverter, robust_inverter  trained inverters, which are used instead of new ones (runs/table1 has them:
                                      runs/table1/standard_gan_inverter)
  standard_encoder, robust_encoder    trained classifiers, which are used instead of new ones
  loss                                of the inverters: pixel, feature, gan or pixel_balanced

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, images, report. Fields that are often set:
those of configs/invert.py in stages.images.
"""

from configs import tasks
from configs.paper import setting

_PAPER = {**setting.ALEXNET, "loss": "gan"}
_SMALL = {"loss": "pixel_balanced"}
_TEXT = "Images at their own sizes, inverted by generators that were trained on small ones."


def get_config(arg=None):
    """Returns the stages: encoders and inverters that do not exist yet, the inversion of the images, the report."""
    inputs = {
        **setting.PAIR,
        **setting.INVERTERS,
        "loss": "",
        "images": "photos",
        "on_bad_image": "error",
    }
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, **inputs)
    stages, inverters, robust_encoder = tasks.inverter_pair(args)
    stages["images"] = tasks.invert(args, inverters, args.images)
    stages["images"].update(tasks.metrics(args, encoder=robust_encoder))
    return setting.finish(args, stages, setting.report("6", {"images": "stage:images"}, text=_TEXT))
