"""ResNet-18 on CIFAR-10, robust against l2 perturbations (the paper's radii: 0, 0.5, 1, ... 3.5).

    python -m arinv --config=configs/recipes/resnet18_cifar10.py:eps=1.0,dtype=bfloat16 --workdir=runs/resnet18_eps1
    python -m arinv --config=configs/recipes/resnet18_cifar10.py:recipe=trades,norm=linf,eps=8/255 \
        --workdir=runs/resnet18_trades --config.attack.num_steps=10 --config.attack.step_size=2/255

PGD of 7 steps of 2.5 eps / 7, 150 epochs, batch 128, SGD with momentum 0.9 and weight decay 5e-4, rate 0.1 divided by
10 every 50 epochs; crops, flips, color jitter and small rotations.
Arguments: those of configs/classifier.py. The paper's accuracy at eps 1 is 81.1 %, 52.2 % under PGD.
Source: Rojas-Gomez et al. 2022, section A1.3; defaults of MadryLab's robustness library.
"""

from configs import classifier

_DEFAULTS = {"encoder": "resnet18", "dataset": "cifar10", "eps": -1.0}


def get_config(arg=None):
    """Returns the config of the task."""
    return classifier.get_config(arg, title="ResNet-18, CIFAR-10", **_DEFAULTS)
