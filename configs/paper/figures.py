"""Figures 3 to 7: test images, enlarged images and photographs through inverters; stylized and denoised images.

    python -m arinv --config=configs/paper/figures.py:images=photographs,data_dir=/data/tfds --workdir=runs/figures
    python -m arinv --config=configs/paper/figures.py:scale=paper,images=photographs,content=photographs,style=art \
        --workdir=runs/figures

figures/report.html shows them all: Figure 3 (three losses), 4 (enlarged images), 5 (images at their own sizes), 6
(style transfer) and 7 (denoising); Figures 1 and 2 combine images of the others with drawings. scale=paper: AlexNet on
ImageNet; scale=small: alexnet_small on CIFAR-10, and for Figure 7 AlexNet with a small head on patches of photographs.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones, except in Figure 7 if they
                                    are no AlexNets
  images                            an image file or a folder, for Figure 5
  content, style                    of configs/paper/table9.py
  train, window, test               of configs/paper/table10.py
  on_bad_image                      error, or skip

Stages: those of Tables 1, 9 and 10 without their reports, so that in the workdir of one of them only the others' are
run; scales, images; figures.
"""

from ml_collections import ConfigDict

from configs import encoders, high_resolution, style, stylize, tasks
from configs.paper import setting, table10

_PAPER = {**setting.ALEXNET, "train": "imagenet2012"}
_TEXT = "Figure 3: each encoder's features were inverted by generators of pixel, feature and GAN losses."


def get_config(arg=None):
    """Returns the stages: encoders, inverters and evaluations of each figure, then the report."""
    inputs = {**setting.PAIR, **stylize.STYLE, **table10.INPUTS, "images": "photos", "on_bad_image": "error"}
    args = setting.parse(arg, paper=_PAPER, **inputs)
    fixed = {"losses": "gan" if args.smoke else "pixel+feature+gan", "loss": "gan", "compare": "enlarged"}
    fixed["layers"] = encoders.layer(args.encoder) if args.smoke else ""
    args = ConfigDict({**args.to_dict(), **fixed})
    stages, entries = tasks.compare_losses(args)
    _, workdirs = tasks.encoder_pair(args)
    inverters = {name: f"stage:{name}_gan_inverter" for name in workdirs}
    given = {f"{name}_inverter": workdir for name, workdir in inverters.items()}
    stages |= high_resolution.stages(ConfigDict({**args.to_dict(), **given}), scales=10)
    stages["images"] = tasks.invert(args, inverters, args.images)
    styled = style.stages(ConfigDict({**args.to_dict(), **{f"{name}_encoder": w for name, w in workdirs.items()}}))
    del styled["evaluation"]
    stages |= styled | _denoise(args, workdirs)
    figures = {
        "Figure 4: enlarged images": "stage:scales/images.png",
        "Figure 5: images at their own sizes": "stage:images",
        "Figure 6: style transfer": "stage:stylization/side_by_side.png",
        "Figure 7: denoising": f"stage:{table10.PREFIX}evaluation/crops.png",
    }
    report = tasks.comparison(entries, title="The figures of the paper", text=_TEXT, figures=figures)
    return setting.finish(args, stages, report, name="figures")


def _denoise(args, workdirs):
    """Returns the stages of Figure 7, whose denoisers need AlexNets."""
    own = {"loss": "feature" if args.scale == "paper" else "pixel_balanced"}
    if args.encoder == "alexnet":
        own |= {f"{name}_encoder": workdir for name, workdir in workdirs.items()}
        return table10.stages(ConfigDict({**args.to_dict(), **own}))
    own |= {"encoder": "alexnet", "options": "", "dataset": "photos", "image_size": 64, "norm": ""}
    own |= {"options": setting.SMALL_OPTIONS["alexnet"], "eps": table10.SMALL_EPS, **setting.PAIR}
    return table10.stages(encoders.resolve(ConfigDict({**args.to_dict(), **own})))
