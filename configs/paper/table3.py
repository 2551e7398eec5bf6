"""Table 3: a standard and a robust WRN-28-10, AutoAttack and inversion with pixel and feature losses.

    python -m arinv --config=configs/paper/table3.py:data_dir=/data/tfds --workdir=runs/table3
    python -m arinv --config=configs/paper/table3.py:scale=paper,extra=npz:/data/ti_500k.npz,dtype=bfloat16 \
        --workdir=runs/table3

The robust encoder is trained by GAIR-RST, with 500,000 pseudo-labeled images where extra names them. scale=paper:
WRN-28-10 on CIFAR-10; scale=small: a WRN of depth 10 and width 1 with the loss pixel_balanced, AutoAttack on 256
images.

Arguments: scale, encoder, options, dataset, data_dir, eps, metrics, lpips, dtype and smoke of configs/paper/README.md,
and
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones
  extra                             a second source of training images, half of every batch, such as npz:PATH
  loss                              of the inverters: pixel, feature, gan or pixel_balanced

Stages: standard_encoder, robust_encoder; for both standard_inverter, standard_evaluation and standard_autoattack;
report. Fields that are often set: stages.*_autoattack.data.num_test (0: all).
"""

from configs.paper import pair, setting

_PAPER = {"encoder": "wrn28_10", "loss": "feature"}
_SMALL = {"encoder": "wrn28_10", "loss": "pixel_balanced"}
_TEXT = "Two encoders, one trained on adversarial examples; one generator each was trained to invert it."


def get_config(arg=None):
    """Returns the stages: two encoders, their inverters, evaluations and AutoAttack, the report."""
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, **setting.PAIR, loss="", extra="")
    stages, entries = pair.invert_pair(args, autoattack=True)
    return setting.finish(args, stages, setting.report("3", entries, text=_TEXT))
