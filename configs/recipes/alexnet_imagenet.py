"""AlexNet on ImageNet, robust against l2 perturbations of radius 3 (eps=0: standard; the paper's radii: 0.5, 2, 3, 4).

    python -m arinv --config=configs/recipes/alexnet_imagenet.py:eps=3,dtype=bfloat16 --workdir=runs/alexnet_eps3
    python -m arinv --config=configs/recipes/alexnet_imagenet.py:dataset=folder:/data/imagenet --workdir=runs/alexnet

PGD of 7 steps of eps / 6 (0.5 at eps 3), 90 epochs, batch 256, SGD with momentum 0.9 and weight decay 1e-4, the rate
divided by 10 every 30 epochs; windows of 8 to 100 % of the original image (RandomResizedCrop), flips, color jitter and
lighting, evaluation by Resize 256 and CenterCrop 224. The paper's rate is 0.1; 0.01 is the default here, since AlexNet
has no batch normalization: --config.optimizer.schedule.learning_rate=0.1 is the paper's.
Arguments: those of configs/classifier.py. Not run to its end here; the paper's accuracy is 53.7 % standard, 39.8 % at
eps 3. Source: Rojas-Gomez et al. 2022, section A3.1 and Table 4.
"""

from configs import classifier

_DEFAULTS = {"encoder": "alexnet", "dataset": "imagenet2012", "eps": -1.0}


def get_config(arg=None):
    """Returns the config of the task."""
    return classifier.get_config(arg, title="AlexNet, ImageNet", **_DEFAULTS)
