"""Table 1's comparison on CIFAR-10: a standard and a robust encoder, each inverted with three losses.

    python -m arinv --config=configs/cifar10.py:encoder=resnet18,eps=1.0,dtype=bfloat16 --workdir=runs/cifar10

Arguments: those of configs/quickstart.py but loss; losses, a "+"-separated list (pixel+feature+gan).
"""

from configs import arguments, classifier, encoders, inverter, tasks

_TEXT = "Each encoder's features were inverted by three generators, trained with pixel, feature and GAN losses."


def get_config(arg=None):
    """Returns the stages: two encoders, an inverter and its evaluation for each loss, then the report."""
    defaults = arguments.TRAINING | {"dataset": "cifar10", "eps": -1.0}
    inverters = {"inverter_epochs": 0.0, "inverter_batch": 0, "inverter_rate": 0.0, "inverter_schedule": ""}
    measured = arguments.METRICS | {"metric_encoder": "stage:robust_encoder"}
    args = arguments.parse(arg, **defaults, layer="", losses="pixel+feature+gan", **inverters, **measured)
    encoders.resolve(args)
    stages, entries = {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        stages[f"{name}_encoder"] = classifier.from_arguments(args, title=f"{name} encoder", eps=eps, test_eps=args.eps)
    for name in ("standard", "robust"):
        attacked = ""  # each encoder is attacked once, whatever the number of its inverters
        for loss in dict.fromkeys(filter(None, args.losses.split("+"))):
            title = f"{name} {loss}"
            stages[f"{name}_{loss}_inverter"] = inverter.inverter_stage(
                args, f"stage:{name}_encoder", title=f"{title} inverter", loss=loss
            )
            stages[f"{name}_{loss}_evaluation"] = inverter.evaluation_stage(
                args, f"stage:{name}_{loss}_inverter", eps=args.eps, title=f"{title} evaluation", attack_from=attacked
            )
            attacked = attacked or f"stage:{name}_{loss}_evaluation"
            entries[title] = f"stage:{name}_{loss}_evaluation"
    title = f"Inverting {args.encoder} on {args.dataset}"
    stages["report"] = tasks.report(entries, title=title, text=_TEXT)
    return tasks.experiment(stages)
