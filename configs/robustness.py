"""Trains an encoder robustly and measures it with AutoAttack.

    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades,dtype=bfloat16 --workdir=runs/trades

Arguments: those of configs/classifier.py; norm and eps (linf, 8/255) are those of the training and of AutoAttack,
attack_steps and step_size (10, 2/255) of the training.
"""

from configs import arguments, classifier, defaults, tasks

_DEFAULTS = {"dataset": "cifar10", "norm": "linf", "eps": 8 / 255, "attack_steps": 10, "step_size": 2 / 255}


def get_config(arg=None):
    """Returns the stages encoder and autoattack."""
    args = arguments.parse(arg, **arguments.TRAINING | _DEFAULTS)
    attack = tasks.autoattack(
        "stage:encoder",
        data=defaults.dataset_of(args),
        eps=arguments.check_eps(args.eps),
        norm=args.norm,
        seed=args.seed,
        dtype=args.dtype,
    )
    encoder = classifier.from_arguments(args, title="encoder")
    return tasks.experiment({"encoder": encoder, "autoattack": tasks.shorten(attack) if args.smoke else attack})
