"""Denoising as in Table 10: a standard and a robust AlexNet, a denoiser on each, and their evaluation.

    python -m arinv --config=configs/denoising.py:dataset=imagenet2012,train=imagenet2012,test=folder:cbsd68 \
        --workdir=runs/denoising
    python -m arinv --config=configs/denoising.py:standard_encoder=zoo:alexnet_small_standard,\
robust_encoder=zoo:alexnet_small_l2_1,loss=pixel_balanced --workdir=runs/denoising_zoo

The convolutions of the encoders are frozen; each denoiser trains a decoder, on AlexNet of 2.6 million parameters.

Arguments: those of configs/classifier.py, for the encoders (eps=-1), and
  encoder                           alexnet or alexnet_small; empty: alexnet_small where one of the encoders is from
                                    the zoo, else alexnet
  standard_encoder, robust_encoder  workdirs of trained encoders or zoo:NAME, which are used instead of new ones
  train                             dataset that the denoisers are trained on, named like dataset
  window                            side of the windows that are cut from training images at random, a multiple of 32;
                                    0: the whole image, squashed to 224 px, on alexnet_small to 64 px
  loss                              pixel, feature, pixel_balanced, gan or official_script
  test                              folder:PATH or other datasets, joined by "+"
  metrics                           mse, psnr, ssim, lpips_alex, lpips_vgg, robust_lpips, gram

Stages: standard_encoder, robust_encoder, standard_denoiser, robust_denoiser, evaluation. Fields that are often set:
stages.*.noise.sigma (50/255) and .protocol (clipped, unclipped); stages.*_denoiser.num_epochs (the paper's 90),
.batch_size (128), .data.image_size (224, or 64), and of AlexNet .decoder.image_bias (initial bias of the last
normalization: the paper's 0, or about 2 for a short training), .decoder.pad_side (official, aligned) and
.decoder.variant (default, table_a9); stages.evaluation.data.num_images (of each set; 0: all), .data.image_size (of a
dataset that is not a folder), .bm3d (auto: where the package is installed, yes, no), .tiles.multiple (padded sides are
multiples of it; the paper's is 224), .tiles.tile and .tiles.overlap (of large images; 0: none), .metric_networks (see
configs/evaluate.py).
"""

from ml_collections import ConfigDict

from configs import arguments, encoders, tasks

_NOISE = {"sigma": 50 / 255, "protocol": "clipped"}
# The loss of the released script, beside those of inverters.
_OFFICIAL = {"pixel": 2e-3, "feature": 1e-2, "adversarial": 100.0, "discriminator": 100.0, "pixel_order": 2}
_LOSSES = (*tasks.LOSSES, "official_script")
_EXPERIMENT = {
    "encoder": "",
    "eps": -1.0,
    "standard_encoder": "",
    "robust_encoder": "",
    "train": "photos",
    "window": 0,
    "loss": "feature",
    "test": "photos",
    "metrics": "psnr+ssim",
}
_SMALLEST_SIDE = 64  # px, of what denoisers take
_SMOKE = "dense_width:16+head_side:1"  # options of the encoder in a smoke run that has none


def get_config(arg=None):
    """Returns the stages: for standard and robust an encoder, unless there is one, and a denoiser; then evaluation."""
    args = arguments.parse(arg, **arguments.ENCODER | _EXPERIMENT)
    if not args.encoder:
        of_zoo = any(args[f"{name}_encoder"].startswith("zoo:") for name in ("standard", "robust"))
        args.encoder = "alexnet_small" if of_zoo else "alexnet"
    return tasks.experiment(stages(encoders.resolve(args)))


def stages(args, *, prefix=""):
    """Returns the stages of the experiment.

    Args:
      args: resolved arguments.
      prefix: prefix of the names of the stages.
    """
    if args.smoke:
        args.image_size = args.image_size or _SMALLEST_SIDE
        args.options = args.options or (_SMOKE if args.encoder == "alexnet" else "")
    result, workdirs = tasks.encoder_pair(args, prefix=prefix)
    for name, workdir in workdirs.items():
        result[f"{prefix}{name}_denoiser"] = denoiser(args, workdir, title=f"{name} denoiser")
    denoisers = {name: f"stage:{prefix}{name}_denoiser" for name in workdirs}
    result[f"{prefix}evaluation"] = evaluate_denoising(args, denoisers, metric_encoder=workdirs["robust"])
    return result


def denoiser(args, checkpoint, *, title):
    """Returns the task that trains a denoiser on the encoder of a checkpoint."""
    config = tasks.common(args, title)
    config.task = "denoiser"
    config.encoder = {"name": args.encoder, "checkpoint": checkpoint}
    config.decoder = {"variant": "default", "pad_side": "official", "image_bias": 0.0}
    config.noise = _NOISE
    size = _SMALLEST_SIDE if args.smoke else max(encoders.image_size(args.encoder), _SMALLEST_SIDE)
    own = {"encoder": args.encoder, "data_dir": args.data_dir, "on_bad_image": args.on_bad_image}
    config.data = tasks.data(ConfigDict({**own, "image_size": size}), args.train)
    config.augmentation = {"window": args.window, "flip": True} if args.window else {}
    config.data.resize = "crop" if args.window else "squash"  # windows of squashed images would be squashed
    config.loss = _loss(args.loss)
    config.num_steps = 0
    config.steps_per_call = 1
    config.update(tasks.generator_training())
    # The epochs of a small folder are short: five evaluations in all are enough.
    config.log.evaluate_every_epochs = config.get_ref("num_epochs") / 5
    return tasks.shorten(config) if args.smoke else config


def evaluate_denoising(args, denoisers, *, metric_encoder):
    """Returns the task that evaluates denoisers, name -> workdir."""
    config = tasks.common(args, "evaluation")
    config.task = "evaluate_denoising"
    config.entries, config.order = denoisers, tuple(denoisers)
    sets = [tasks.data(args, name) for name in arguments.split(args.test)]
    if windowed := [one.name for one in sets if one.window]:
        raise ValueError(f"test={windowed[0]} is read in windows; name sets of whole images, such as folder:PATH")
    config.data = {
        "name": "+".join(one.name for one in sets),
        "splits": tuple(one.test_split for one in sets),
        "image_size": _SMALLEST_SIDE if args.smoke else 256,
        "label": next((one.label for one in sets if one.label), ""),  # none is read
        "data_dir": args.data_dir,
        "on_bad_image": args.on_bad_image,
        "num_images": 2 if args.smoke else 0,
    }
    config.noise = _NOISE
    config.update(tasks.metrics(args, encoder=metric_encoder))
    config.bm3d = "auto"
    config.tiles = {"multiple": 32, "tile": 0, "overlap": 192}
    return config


def _loss(name):
    arguments.choice("loss", name, _LOSSES)
    loss = ConfigDict(_OFFICIAL) if name == "official_script" else tasks.loss(name)
    loss.feature_layer = "conv5"  # the deepest of both encoders
    return loss
