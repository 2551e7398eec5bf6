"""Encoders against recipes of robust training: accuracy, accuracy under PGD, and how well each can be inverted.

    python -m arinv --config=configs/compare_recipes.py:encoders=resnet18+wrn28_10,dtype=bfloat16 --workdir=runs/recipes
    python -m arinv --config=configs/compare_recipes.py:encoders=alexnet_small@width:16+wrn28_10@depth:10@width:1 \
        --workdir=runs/recipes_small

Arguments: those of configs/inverter.py but encoder, recipe, width, options, checkpoint, other_size and test_eps;
encoders, names joined by "+", each with options behind "@"; eps, norm and steps are of each encoder's own recipe unless
given; recipes, names joined by "+", with "standard" for no attack.
"""

from ml_collections import ConfigDict

from configs import arguments, classifier, encoders, inverter, tasks

_DEFAULTS = {"dataset": "cifar10", "eps": -1.0, "encoders": "alexnet_small+resnet18", "recipes": "pgd+trades+n_fgsm"}
_BY_STAGE = ("encoder", "recipe", "width", "options")  # arguments of a training that encoders= and recipes= stand for
_TEXT = "Every encoder was attacked with PGD of its norm and radius; one generator each was trained to invert it."


def get_config(arg=None):
    """Returns the stages: for each encoder and recipe a training, an inverter and an evaluation; then the report."""
    inverters = {"inverter_epochs": 0.0, "inverter_batch": 0, "inverter_rate": 0.0, "inverter_schedule": ""}
    defaults = arguments.TRAINING | arguments.METRICS | _DEFAULTS | inverters
    known = {name: value for name, value in defaults.items() if name not in _BY_STAGE}
    args = arguments.parse(arg, **known, layer="", loss="feature")
    stages, entries = {}, {}
    for encoder in args.encoders.split("+"):
        name, _, options = encoder.partition("@")
        label, options = encoder.replace(":", "").replace("@", "_"), options.replace("@", "+")
        for recipe in args.recipes.split("+"):
            title, key = f"{label} {recipe}", f"{label}_{recipe}"
            standard = recipe == "standard"
            by_stage = {"encoder": name, "recipe": "pgd" if standard else recipe, "width": 0, "options": options}
            chosen = encoders.resolve(ConfigDict(args.to_dict() | by_stage))
            stages[f"{key}_encoder"] = classifier.from_arguments(
                chosen, title=f"{title} encoder", eps=0.0 if standard else chosen.eps, test_eps=chosen.eps
            )
            stages[f"{key}_inverter"] = inverter.inverter_stage(
                chosen, f"stage:{key}_encoder", title=f"{title} inverter"
            )
            stages[f"{key}_evaluation"] = inverter.evaluation_stage(
                chosen, f"stage:{key}_inverter", eps=chosen.eps, title=f"{title} evaluation"
            )
            entries[title] = f"stage:{key}_evaluation"
    stages["report"] = tasks.report(entries, title=f"Recipes of robust training on {args.dataset}", text=_TEXT)
    return tasks.experiment(stages)
