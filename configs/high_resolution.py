"""Inverts enlarged images, scale by scale, from standard and from robust features, without training for it (Table 5).

    python -m arinv --config=configs/high_resolution.py:encoder=resnet18,dataset=cifar10 --workdir=runs/scales
    Q=runs/quickstart
    python -m arinv --config=configs/high_resolution.py:standard_inverter=$Q/standard_inverter,\
robust_inverter=$Q/robust_inverter --workdir=runs/scales

Memory and time of a scale grow with its square.

Arguments: those of configs/classifier.py, layer, loss and metrics of configs/inverter.py (gan and psnr+ssim here), and
  standard_inverter, robust_inverter  workdirs of trained inverters, which are used instead of new ones; encoder then
                                      only decides the image size
  compare                             enlarged, or original: reconstructions are reduced to the original size

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, scales. Fields that are often set:
stages.scales.scales (the largest factor, 6), .data.num_test, .batch_size (images at a time at scale 1),
.metric_networks.encoder (see configs/evaluate.py), .log.num_images.
"""

from configs import arguments, encoders, tasks


def get_config(arg=None):
    """Returns the stages: standard and robust encoders and inverters that do not exist yet, then the scales."""
    args = arguments.parse(arg, **arguments.ENCODER | tasks.INVERTER_PAIR, compare="enlarged")
    return tasks.experiment(stages(encoders.resolve(args), scales=6))


def stages(args, *, scales):
    """Returns the stages of the experiment.

    Args:
      args: resolved arguments.
      scales: the largest factor.
    """
    result, inverters, robust_encoder = tasks.inverter_pair(args)
    config = tasks.common(args, f"Inverting enlarged images of {args.dataset}")
    config.task = "high_resolution"
    config.inverters, config.order = inverters, tuple(inverters)
    config.data = tasks.data(args)
    config.scales = 2 if args.smoke else scales
    config.compare = args.compare
    config.update(tasks.metrics(args, encoder=robust_encoder))
    config.batch_size = 32
    config.log.num_images = 2
    return {**result, "scales": tasks.shorten(config) if args.smoke else config}
