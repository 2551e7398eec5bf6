"""Table 10: denoising by a standard and a robust AlexNet, beside BM3D and the paper's TNRD and MLP.

    python -m arinv --config=configs/paper/table10.py:test=folder:kodak24 --workdir=runs/table10
    python -m arinv --config=configs/paper/table10.py:scale=paper,test=folder:cbsd68+folder:kodak24+folder:mcmaster \
        --workdir=runs/table10

TNRD and MLP are published rows; BM3D is run where its package is installed. Rows stand beside the paper's where the
folders are called cbsd68, kodak24 and mcmaster. scale=paper: AlexNet and denoisers on ImageNet, pixel and feature
losses; scale=small: AlexNet with a small head on patches of photographs at 64 px, denoisers at 128 px, the loss
pixel_balanced.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones
  train                             dataset that the denoisers are trained on; named as dataset is
  window                            side of the windows that are cut from training images at random, a multiple of 32;
                                    0: the whole image
  loss                              pixel, feature, pixel_balanced, gan or official_script
  test                              folder:PATH or other datasets, joined by "+"
  on_bad_image                      error, or skip

Stages: denoising_standard_encoder, denoising_robust_encoder, denoising_standard_denoiser, denoising_robust_denoiser,
denoising_evaluation, report. Fields that are often set: those of configs/denoising.py.
"""

from configs import denoising
from configs.paper import setting

_SMALL_SIDE = 128  # px: of 64, the encoders', every view has borders, and larger images lose 7 to 9 dB
SMALL_EPS = 1.0  # l2 at 64 px: with the 3 of 224 px a short training stays at chance
_PAPER = {**setting.ALEXNET, "train": "imagenet2012", "loss": "feature"}
_SMALL = {"encoder": "alexnet", "dataset": "photos", "image_size": 64, "eps": SMALL_EPS, "loss": "pixel_balanced"}
PREFIX = "denoising_"  # of the stages, the same as Figure 7's, so that both can share a workdir
INPUTS = {"train": "photos", "window": 0, "test": "photos"}
_TEXT = "Clean images with added noise, restored by denoisers on a standard and on a robust encoder."


def get_config(arg=None):
    """Returns the stages: two encoders, a denoiser on each, their evaluation, the report."""
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, **setting.PAIR, **INPUTS, loss="", on_bad_image="error")
    report = setting.report("10", {"evaluation": f"stage:{PREFIX}evaluation"}, text=_TEXT)
    return setting.finish(args, stages(args), report)


def stages(args):
    """Returns the stages of `denoising.stages`, at the scale of the arguments."""
    if args.smoke:
        args.train = "photos"
    result = denoising.stages(args, prefix=PREFIX)
    if args.scale == "small":
        for name in ("standard", "robust"):
            stage = result[f"{PREFIX}{name}_denoiser"]
            stage.decoder.image_bias = 2.0  # for a short training
            if not args.smoke:
                stage.data.image_size = 224 if args.window else _SMALL_SIDE
    return result
