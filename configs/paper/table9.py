"""Table 9: style transfer by standard and robust features, Gram loss to the style and SSIM to the content.

    python -m arinv --config=configs/paper/table9.py:content=photographs,style=art,data_dir=/data/tfds \
        --workdir=runs/table9
    python -m arinv --config=configs/paper/table9.py:scale=paper,content=coco75,style=wikiart100,vgg19=vgg19.pth \
        --workdir=runs/table9

Universal Style Transfer by VGG-19 is a published row. scale=paper: AlexNet on ImageNet, 75 photographs of MS COCO in
100 styles of WikiArt; scale=small: alexnet_small on CIFAR-10, the loss pixel_balanced for the deepest layer.
Without vgg19 the Gram loss is of the robust encoder's features: only its differences compare.

Arguments: scale, encoder, options, dataset, data_dir, eps, dtype and smoke of configs/paper/README.md, and
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones
  layers                            joined by "+" in any order; empty: the encoder's
  loss                              of the deepest layer: gan, pixel, feature or pixel_balanced
  content, style                    an image, a folder, or photos:NAME+NAME for photographs of scikit-image
  vgg19                             torchvision's weights, or the workdir of a classifier, for the Gram loss
  on_bad_image                      error, or skip

Stages: standard_encoder, robust_encoder, ENCODER_LAYER_inverter, stylization, evaluation, report. Fields that are often
set: those of configs/style.py.
"""

from configs import style, stylize
from configs.paper import setting

_PAPER = {**setting.ALEXNET, "loss": "gan"}
_SMALL = {"loss": "pixel_balanced"}
_WITHOUT = dict.fromkeys(("metrics", "lpips"), "table9 measures the Gram loss and SSIM alone")
_TEXT = "Every content in every style, by whitening and coloring the features of three layers."


def get_config(arg=None):
    """Returns the stages: two encoders, an inverter for each of their layers, stylization, evaluation, report."""
    inputs = {**setting.PAIR, **stylize.STYLE, "layers": "", "loss": "", "vgg19": "", "on_bad_image": "error"}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, without=_WITHOUT, **inputs)
    stages = style.stages(args)
    stages["evaluation"].metric_networks.vgg19 = args.vgg19
    figures = {"Stylized by both": "stage:stylization/side_by_side.png"}
    report = setting.report("9", {"evaluation": "stage:evaluation"}, text=_TEXT, figures=figures)
    return setting.finish(args, stages, report)
