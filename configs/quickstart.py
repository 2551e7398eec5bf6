"""A standard and a robust encoder, an inverter for each, and a page that shows the difference.

    python -m arinv --config=configs/quickstart.py --workdir=runs/quickstart

Trains on patches of the photographs that scikit-image and scikit-learn ship: nothing is downloaded.

Arguments: those of configs/inverter.py but checkpoint, other_size and test_eps; eps (the recipe's; 1.0 for
alexnet_small) is the robust encoder's and the evaluations'; attack_steps, epochs and batch are 3, 2 and 32;
metric_encoder is the robust encoder, so that both rows are measured through the same network.
"""

from configs import arguments, classifier, encoders, inverter, tasks

# What the quickstart changes in the recipe of an encoder, to take minutes.
_OWN = {"name": "quickstart", "source": "no paper", "num_epochs": 2.0, "batch_size": 32, "sweep": ()}
_ATTACK = {"num_steps": 3, "step_size": 0.0}
_TEXT = (
    "Both encoders are the same network, trained on the same images; the robust one saw adversarial examples. "
    "Each generator was trained to invert its encoder's features. These are test images that neither has seen."
)


def get_config(arg=None):
    """Returns the stages: for standard and robust an encoder, an inverter and an evaluation; then the report."""
    small = {"eps": -1.0, "num_test": 500}
    inverters = {"inverter_epochs": 2.5, "inverter_batch": 64, "inverter_rate": 1e-3, "inverter_schedule": "cosine"}
    measured = arguments.METRICS | {"metric_encoder": "stage:robust_encoder"}
    args = arguments.parse(arg, **arguments.TRAINING | small, layer="", loss="pixel_balanced", **inverters, **measured)
    encoders.resolve(args)
    recipe = encoders.recipe(args.encoder, args.recipe)
    recipe |= {**_OWN, "attack": {**recipe["attack"], **_ATTACK}}
    if args.encoder == "alexnet_small":
        args.width = args.width or 16
        recipe["options"] = {"width": 16}
    stages, entries = {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        stages[f"{name}_encoder"] = classifier.from_arguments(
            args, title=f"{name} encoder", eps=eps, test_eps=args.eps, recipe=recipe
        )
    for name in ("standard", "robust"):
        stages[f"{name}_inverter"] = inverter.inverter_stage(args, f"stage:{name}_encoder", title=f"{name} inverter")
        stages[f"{name}_evaluation"] = inverter.evaluation_stage(
            args, f"stage:{name}_inverter", eps=args.eps, title=f"{name} evaluation"
        )
        entries[name] = f"stage:{name}_evaluation"
    stages["report"] = tasks.report(entries, title="Inverting a standard and a robust encoder", text=_TEXT)
    return tasks.experiment(stages)
