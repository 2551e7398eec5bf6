"""Compares generators of standard and robust features with optimization of the pixels, RI (Table 7).

    python -m arinv --config=configs/compare_inversion.py:encoder=resnet18,dataset=cifar10 --workdir=runs/ri
    Q=runs/quickstart
    python -m arinv --config=configs/compare_inversion.py:standard_inverter=$Q/standard_inverter,\
robust_inverter=$Q/robust_inverter --workdir=runs/ri

The published search takes 10,000 steps, each a forward and a backward pass: RI takes the time of 20,000 passes of every
test image. A run that was killed resumes.

Arguments: those of configs/classifier.py, layer, loss and metrics of configs/inverter.py (gan and psnr+ssim here), and
  standard_inverter, robust_inverter  workdirs of trained inverters, which are used instead of new ones; encoder then
                                      only decides the image size

Stages: standard_encoder, standard_inverter, robust_encoder, robust_inverter, comparison. Fields that are often set:
stages.comparison.optimization.encoders (whose features are searched for: robust, or standard,robust), .num_steps and
.step_size (l2 length in units of [0, 1] images; the published 1.0 at 224 px, in proportion at other sizes);
stages.comparison.data.num_test (64), .batch_size, .metric_networks.encoder (see configs/evaluate.py).
"""

from configs import arguments, encoders, tasks


def get_config(arg=None):
    """Returns the stages: standard and robust encoders and inverters that do not exist yet, then the comparison."""
    args = arguments.parse(arg, **arguments.ENCODER | tasks.INVERTER_PAIR)
    return tasks.experiment(stages(encoders.resolve(args)))


def stages(args):
    """Returns the stages of the experiment, with resolved arguments."""
    args.num_test = 64
    result, inverters, robust_encoder = tasks.inverter_pair(args)
    config = tasks.common(args, f"Inverting {args.encoder} on {args.dataset}")
    config.task = "compare_inversion"
    config.inverters, config.order = inverters, tuple(inverters)
    config.data = tasks.data(args)
    config.optimization = {
        "encoders": ("robust",),
        "num_steps": 10_000,
        "step_size": config.data.image_size / 224,
        "steps_per_call": 50,
    }
    config.update(tasks.metrics(args, encoder=robust_encoder))
    config.batch_size = 32
    if args.smoke:
        tasks.shorten(config)
        config.optimization.update({"num_steps": 4, "steps_per_call": 3})
    return {**result, "comparison": config}
