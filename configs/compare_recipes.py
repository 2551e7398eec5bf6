"""Encoders against recipes of robust training: accuracy, accuracy under PGD, and quality of the inversions.

    python -m arinv --config=configs/compare_recipes.py:encoders=resnet18+wrn28_10,dtype=bfloat16 --workdir=runs/recipes
    python -m arinv --config=configs/compare_recipes.py:encoders=alexnet_small@width:16+wrn28_10@depth:10@width:1 \
        --workdir=runs/recipes_small

Arguments: those of configs/classifier.py but encoder, options and recipe, layer, loss and metrics of
configs/inverter.py, and
  encoders  joined by "+", each followed by its options after "@"; eps and norm are of each encoder's recipe unless set
  recipes   joined by "+"; "standard" for no attack

Stages: ENCODER_RECIPE_encoder, ENCODER_RECIPE_inverter and ENCODER_RECIPE_evaluation for each pair; report.
"""

from ml_collections import ConfigDict

from configs import arguments, encoders, tasks

_EXPERIMENT = {
    "dataset": "cifar10",
    "eps": -1.0,
    "encoders": "alexnet_small+resnet18",
    "recipes": "pgd+trades+n_fgsm",
    "layer": "",
    "loss": "feature",
    "metrics": "psnr+ssim+normalized_error",
}
_TEXT = "Every encoder was attacked with PGD of its norm and radius; one generator each was trained to invert it."


def get_config(arg=None):
    """Returns the stages: for each encoder and recipe a training, an inverter and an evaluation; then the report."""
    defaults = arguments.ENCODER | _EXPERIMENT
    known = {name: defaults[name] for name in defaults if name not in ("encoder", "options", "recipe")}
    args = arguments.parse(arg, **known)
    stages, entries = {}, {}
    for encoder in args.encoders.split("+"):
        name, _, options = encoder.partition("@")
        label = encoder.replace(":", "").replace("@", "_")
        for recipe in args.recipes.split("+"):
            title, stage, standard = f"{label} {recipe}", f"{label}_{recipe}", recipe == "standard"
            own = {"encoder": name, "options": options.replace("@", "+"), "recipe": "pgd" if standard else recipe}
            chosen = encoders.resolve(ConfigDict(args.to_dict() | own))
            stages[f"{stage}_encoder"] = tasks.classifier(
                chosen, title=f"{title} encoder", eps=0.0 if standard else chosen.eps, test_eps=chosen.eps
            )
            stages[f"{stage}_inverter"] = tasks.inverter(chosen, f"stage:{stage}_encoder", title=f"{title} inverter")
            stages[f"{stage}_evaluation"] = tasks.evaluate(
                chosen, f"stage:{stage}_inverter", title=f"{title} evaluation"
            )
            entries[title] = f"stage:{stage}_evaluation"
    title = f"Recipes of robust training on {args.dataset}"
    stages["report"] = tasks.comparison(entries, title=title, text=_TEXT)
    return tasks.experiment(stages)
