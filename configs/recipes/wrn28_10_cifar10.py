"""WRN-28-10 on CIFAR-10 and 500,000 pseudo-labeled images by GAIR-RST, robust against linf perturbations of 0.031.

    python -m arinv --config=configs/recipes/wrn28_10_cifar10.py:extra=npz:/data/ti_500k.npz,dtype=bfloat16 \
        --workdir=runs/wrn28_10
    python -m arinv --config=configs/recipes/wrn28_10_cifar10.py:recipe=gairat --workdir=runs/wrn_gairat

10 steps of 0.007, 200 epochs of 50,000 images, batch 256, half of it from `extra` (arrays "image" uint8 [N, 32, 32, 3]
and "label"), SGD with Nesterov momentum 0.9 and weight decay 5e-4, rate 0.1 by a cosine; TRADES, whose examples are
weighted by their distance to the decision boundary in the second half. Without `extra` all images are CIFAR-10's, and
the accuracies are lower.
recipe=gairat is a recipe of its own: 120 epochs, batch 128, weight decay 2e-4, momentum without Nesterov, rate 0.1,
from epochs 60, 90 and 110 on 0.01, 0.001 and 0.0005; examples are weighted from epoch 60 on.
Arguments: those of configs/classifier.py; recipe=trades or pgd for other methods, eps=0 for the standard network. Not
run to its end here; the paper's accuracy is 89.4 %, 59.6 % under AutoAttack.
Source: the released code of Zhang et al. 2021; Rojas-Gomez et al. 2022, section 4.1 and Table 3.
"""

from configs import classifier

_DEFAULTS = {"encoder": "wrn28_10", "dataset": "cifar10", "eps": -1.0}


def get_config(arg=None):
    """Returns the config of the task."""
    return classifier.get_config(arg, title="WRN-28-10, CIFAR-10", **_DEFAULTS)
