"""Trains an encoder robustly and measures it with AutoAttack.

    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades,dtype=bfloat16 --workdir=runs/trades

    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades,norm=linf,eps=8/255,attack_steps=10,\
step_size=2/255 --workdir=runs/linf

Arguments: those of configs/classifier.py; norm and eps are those of the training and of AutoAttack, attack_steps and
step_size of the training. Unless given they are the encoder's recipe's, or, of encoders that no paper trains, linf,
8/255, 10 and 2/255.
"""

from configs import arguments, classifier, defaults, encoders, tasks

# For encoders without a published recipe: the radius of most published figures of AutoAttack; the steps are ours.
_LINF = {
    "name": "robustness",
    "source": "no paper",
    "attack": {"eps": 8 / 255, "norm": "linf", "num_steps": 10, "step_size": 2 / 255},
}


def get_config(arg=None):
    """Returns the stages encoder and autoattack."""
    args = arguments.parse(arg, **arguments.TRAINING | {"dataset": "cifar10", "eps": -1.0})
    recipe = encoders.recipe(args.encoder, args.recipe)
    recipe |= _LINF if recipe["name"] == encoders.OURS else {}
    encoders.resolve(args, recipe)
    attack = tasks.autoattack(
        "stage:encoder",
        data=defaults.dataset_of(args),
        eps=arguments.check_eps(args.eps),
        norm=args.norm,
        seed=args.seed,
        dtype=args.dtype,
    )
    encoder = classifier.from_arguments(args, title="encoder", recipe=recipe)
    return tasks.experiment({"encoder": encoder, "autoattack": tasks.shorten(attack) if args.smoke else attack})
