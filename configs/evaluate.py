"""Evaluates a trained classifier, or an inverter with its encoder.

    python -m arinv --config=configs/evaluate.py:checkpoint=runs/quickstart/robust_inverter,eps=1.0 --workdir=runs/mine

Arguments:
  checkpoint   workdir of a trained classifier or inverter, or zoo:NAME (`arinv zoo` lists them)
  encoder      name of its encoder, which decides an empty norm, eps=-1 and image_size=0
  dataset, data_dir, on_bad_image, image_size, eps, norm, dtype, smoke: of configs/classifier.py; eps=0: no attack
  metrics      of an inverter, joined by "+": mse, psnr, ssim, normalized_error, lpips_alex, lpips_vgg, robust_lpips,
               gram, fid
  attack       pgd, fgsm, apgd, fab or square; the metric is NAME_accuracy
  attack_from  workdir of another evaluation of the same encoder, whose accuracies are copied

Fields that are often set: attack.num_steps (of PGD, 20), batch_size, data.num_test (0: all); the networks of metrics:
metric_networks.encoder (workdir of the classifier whose features robust_lpips, gram and fid compare; empty: the
evaluated encoder), metric_networks.alexnet, .vgg16 and .vgg19 (workdirs, or files of torchvision's weights, of
lpips_alex, lpips_vgg and gram).
"""

from configs import arguments, encoders, tasks


def get_config(arg=None):
    """Returns the config of the task."""
    own = {"checkpoint": "", "metrics": "psnr+ssim+normalized_error", "attack_from": "", "attack": "pgd"}
    args = arguments.parse(arg, **arguments.EVALUATION, **own)
    config = tasks.evaluate(encoders.resolve(args), args.checkpoint, attack_from=args.attack_from)
    config.attack.name = args.attack
    return config
