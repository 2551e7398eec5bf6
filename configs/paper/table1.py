"""Table 1: a standard and a robust encoder, each inverted with three losses.

    python -m arinv --config=configs/paper/table1.py:data_dir=/data/tfds --workdir=runs/table1
    python -m arinv --config=configs/paper/table1.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 --workdir=runs/table1

report/ has the paper's figures beside the measured ones, and whether their differences have the same sign. scale=paper:
AlexNet on ImageNet; scale=small: alexnet_small on CIFAR-10, two hours on two cores (launch/records).

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones
  losses                            of the inverters, joined by "+"

Stages: standard_encoder, robust_encoder; for both and each loss standard_LOSS_inverter and standard_LOSS_evaluation;
report.
"""

from configs import tasks
from configs.paper import setting

_TEXT = "Each encoder's features were inverted by three generators, trained with pixel, feature and GAN losses."


def get_config(arg=None):
    """Returns the stages: two encoders, an inverter and its evaluation for each loss, then the report."""
    args = setting.parse(
        arg, paper=setting.ALEXNET, smoke={"losses": "gan"}, **setting.PAIR, losses="pixel+feature+gan"
    )
    stages, entries = tasks.compare_losses(args)
    return setting.finish(args, stages, setting.report("1", entries, text=_TEXT))
