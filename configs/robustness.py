"""Trains an encoder robustly and measures it with AutoAttack.

    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades,dtype=bfloat16 --workdir=runs/trades

    python -m arinv --config=configs/robustness.py:encoder=resnet18,recipe=trades,norm=linf,eps=8/255,attack_steps=10,\
step_size=2/255 --workdir=runs/linf

Arguments: those of configs/classifier.py; norm and eps (the encoder's recipe's unless given) are those of the training
and of AutoAttack, attack_steps and step_size of the training.
"""

from configs import arguments, classifier, defaults, encoders, tasks


def get_config(arg=None):
    """Returns the stages encoder and autoattack."""
    args = encoders.resolve(arguments.parse(arg, **arguments.TRAINING | {"dataset": "cifar10", "eps": -1.0}))
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
