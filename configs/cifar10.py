"""A standard and a robust encoder of any kind, trained by its recipe and inverted with three losses, on CIFAR-10.

    python -m arinv --config=configs/cifar10.py:encoder=resnet18,eps=1.0,dtype=bfloat16 --workdir=runs/cifar10

Arguments: those of configs/classifier.py (eps is the robust encoder's and the evaluations'), layer and metrics of
configs/inverter.py, and losses (of configs/inverter.py, joined by "+"). robust_lpips, gram and fid compare features of
the robust encoder in every row.

Stages: standard_encoder, robust_encoder; for both and each loss standard_LOSS_inverter and standard_LOSS_evaluation;
report.
"""

from configs import arguments, encoders, tasks

_INVERTER = {"layer": "", "losses": "pixel+feature+gan", "metrics": "psnr+ssim+normalized_error"}
_TEXT = "Each encoder's features were inverted by three generators, trained with pixel, feature and GAN losses."


def get_config(arg=None):
    """Returns the stages: two encoders, an inverter and its evaluation for each loss, then the report."""
    args = arguments.parse(arg, **arguments.ENCODER | {"dataset": "cifar10", "eps": -1.0}, **_INVERTER)
    stages, entries = tasks.compare_losses(encoders.resolve(args))
    title = f"Inverting {args.encoder} on {args.dataset}"
    stages["report"] = tasks.comparison(entries, title=title, text=_TEXT)
    return tasks.experiment(stages)
