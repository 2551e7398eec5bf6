"""A standard and a robust encoder, an inverter for each, and a report that compares them.

    python -m arinv --config=configs/quickstart.py --workdir=runs/quickstart

Trains on patches of the photographs that scikit-image and scikit-learn contain: nothing is downloaded. Seven to ten
minutes on two CPU cores; the results are in launch/records/README.md.

Arguments: those of configs/classifier.py (eps is the robust encoder's and the evaluations'), and layer, loss and
metrics of configs/inverter.py. Encoders are trained for 2 epochs of batches of 32 with attacks of 3 steps, inverters
for 2.5 epochs. robust_lpips, gram and fid compare features of the robust encoder in both rows.

Stages: standard_encoder, robust_encoder, standard_inverter, standard_evaluation, robust_inverter, robust_evaluation,
report.
"""

from configs import arguments, encoders, tasks

# Changes to the recipe of an encoder, so that it takes minutes.
_OWN = {"name": "quickstart", "source": "no paper", "num_epochs": 2.0, "batch_size": 32, "sweep": ()}
_ATTACK = {"num_steps": 3, "step_size": 0.0}
_INVERTER = {"layer": "", "loss": "pixel_balanced", "metrics": "psnr+ssim+normalized_error"}
_TEXT = (
    "Both encoders are the same network, trained on the same images; the robust one on adversarial examples. Each "
    "generator was trained to invert the features of its encoder. These are test images that no network was trained on."
)


def get_config(arg=None):
    """Returns the stages: for standard and robust an encoder, an inverter and an evaluation; then the report."""
    args = encoders.resolve(arguments.parse(arg, **arguments.ENCODER | {"eps": -1.0}, **_INVERTER))
    args.num_test = 500
    recipe = encoders.recipe(args.encoder, args.recipe)
    recipe |= {**_OWN, "attack": {**recipe["attack"], **_ATTACK}}
    if args.encoder == "alexnet_small":
        args.options = "+".join(filter(None, ("width:16", args.options)))  # the last of two widths counts
        recipe["options"] = {"width": 16}
    stages, workdirs = tasks.encoder_pair(args, recipe=recipe)
    entries = {}
    for name, workdir in workdirs.items():
        inverter = tasks.inverter(args, workdir, title=f"{name} inverter")
        schedule = inverter.optimizer.generator.schedule
        schedule.name, schedule.learning_rate = "cosine", 1e-3
        inverter.num_epochs, inverter.batch_size = 2.5, 8 if args.smoke else 64
        stages[f"{name}_inverter"] = inverter
        stages[f"{name}_evaluation"] = tasks.evaluate(
            args, f"stage:{name}_inverter", title=f"{name} evaluation", metric_encoder="stage:robust_encoder"
        )
        entries[name] = f"stage:{name}_evaluation"
    stages["report"] = tasks.comparison(entries, title="Inverting a standard and a robust encoder", text=_TEXT)
    return tasks.experiment(stages)
