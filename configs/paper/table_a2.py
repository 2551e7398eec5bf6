"""Table A2: reconstruction against robustness, ResNet-18s on CIFAR-10 trained at eight l2 radii.

    python -m arinv --config=configs/paper/table_a2.py:data_dir=/data/tfds --workdir=runs/table_a2
    python -m arinv --config=configs/paper/table_a2.py:scale=paper,dtype=bfloat16 --workdir=runs/table_a2

scale=paper: ResNet-18, inverted with pixel and feature losses; scale=small: alexnet_small, trained by N-FGSM (two
passes a step), with the loss pixel_balanced. Both at the radii 0, 0.5, 1, 1.5, 2, 2.5, 3 and 3.5, attacked by PGD at
the same radius, the standard encoder at 0.25.

Arguments: scale, encoder, options, dataset, data_dir, metrics, lpips, dtype and smoke of configs/paper/README.md, and
  radii     of the trainings, joined by "+", 0 for the standard one
  encoders  trained classifiers in the order of radii, joined by "+", which are used instead of new ones
  recipe    of the robust trainings, see configs/classifier.py; empty: the encoder's
  loss      of the inverters: pixel, feature, gan or pixel_balanced

Stages: for each radius eps_RADIUS_encoder (eps_0_5_encoder for 0.5), eps_RADIUS_inverter and eps_RADIUS_evaluation;
report.
"""

from configs.paper import setting, sweep

_RADII = {"radii": "0+0.5+1+1.5+2+2.5+3+3.5"}
_PAPER = {**_RADII, "encoder": "resnet18", "loss": "feature"}
_SMALL = {**_RADII, "recipe": "n_fgsm", "loss": "pixel_balanced"}
_WITHOUT = {"eps": "table_a2 trains at radii="}


def get_config(arg=None):
    """Returns the stages: for each radius an encoder, its inverter and evaluation; then the report."""
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, without=_WITHOUT, **sweep.ARGUMENTS)
    return sweep.sweep(args, "A2", standard_eps=0.25, autoattack=False)
