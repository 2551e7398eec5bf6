"""Table 4: reconstruction against robustness, AlexNets trained at five l2 radii, AutoAttack and inversion.

    python -m arinv --config=configs/paper/table4.py:data_dir=/data/tfds --workdir=runs/table4
    python -m arinv --config=configs/paper/table4.py:scale=paper,lpips=alexnet.pth,dtype=bfloat16 --workdir=runs/table4

scale=paper: AlexNet on ImageNet, radii 0, 0.5, 2, 3 and 4, inverted with pixel, feature and GAN losses; scale=small:
alexnet_small on CIFAR-10, radii 0, 0.25, 0.5, 1 and 2, which stand beside the paper's in this order, training by
N-FGSM, which takes two passes a step, the loss pixel_balanced, AutoAttack on 256 images.

Arguments: scale, encoder, options, dataset, data_dir, metrics, lpips, dtype and smoke of configs/paper/README.md, and
  radii     of the trainings, joined by "+", 0 for the standard one
  encoders  trained classifiers in the order of radii, joined by "+", which are used instead of new ones
  recipe    of the robust trainings, see configs/classifier.py; empty: the encoder's
  loss      of the inverters: pixel, feature, gan or pixel_balanced

Stages: for each radius eps_RADIUS_encoder (eps_0_5_encoder for 0.5), eps_RADIUS_inverter, eps_RADIUS_evaluation and
eps_RADIUS_autoattack; report. The standard encoder is attacked at the smallest radius.
"""

from configs.paper import setting, sweep

_PAPER = {**setting.ALEXNET, "radii": "0+0.5+2+3+4", "loss": "gan"}
_SMALL = {"radii": "0+0.25+0.5+1+2", "recipe": "n_fgsm", "loss": "pixel_balanced"}
_WITHOUT = {"eps": "table4 trains at radii="}


def get_config(arg=None):
    """Returns the stages: for each radius an encoder, its inverter, evaluation and AutoAttack; then the report."""
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, without=_WITHOUT, **sweep.ARGUMENTS)
    return sweep.sweep(args, "4", standard_eps=0.5 if args.scale == "paper" else 0.25, autoattack=True)
