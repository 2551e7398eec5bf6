"""Trains an encoder robustly and measures it by AutoAttack.

    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades --workdir=runs/trades
    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades,norm=linf,eps=8/255 \
        --workdir=runs/linf --config.stages.encoder.attack.num_steps=10 --config.stages.encoder.attack.step_size=2/255

Arguments: those of configs/classifier.py; norm and eps are those of the training and of AutoAttack. Their defaults are
those of the encoder's recipe; for encoders that no paper trains linf and 8/255, with 10 steps of 2/255.

Stages: encoder, autoattack.
"""

from configs import arguments, encoders, tasks

# For encoders without a published recipe: the radius of most published figures of AutoAttack; the steps are ours.
_LINF = {
    "name": "robustness",
    "source": "no paper",
    "attack": {"eps": 8 / 255, "norm": "linf", "num_steps": 10, "step_size": 2 / 255},
}


def get_config(arg=None):
    """Returns the stages encoder and autoattack."""
    args = arguments.parse(arg, **arguments.ENCODER | {"dataset": "cifar10", "eps": -1.0})
    recipe = encoders.recipe(args.encoder, args.recipe)
    recipe |= _LINF if recipe["name"] == encoders.OURS else {}
    encoders.resolve(args, recipe)
    encoder = tasks.classifier(args, title="encoder", recipe=recipe)
    return tasks.experiment({"encoder": encoder, "autoattack": tasks.autoattack(args, "stage:encoder")})
