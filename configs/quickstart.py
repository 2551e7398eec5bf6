"""Whole photographs through the networks of the zoo; then a standard and a robust encoder trained from scratch.

    python -m arinv --config=configs/quickstart.py --workdir=runs/quickstart

The first stage inverts photographs with two networks of the zoo, and prints where its report.html is. The others train
both encoders and an inverter for each on patches of the photographs that scikit-image and scikit-learn contain, and
compare them: nothing is downloaded. Times and results are in launch/records/README.md.

Arguments: those of configs/classifier.py (eps is the robust encoder's and the evaluations'), and layer, loss and
metrics of configs/inverter.py. Encoders are trained for 2 epochs of batches of 32, the robust one by N-FGSM
(recipe=pgd: attacks of 3 steps), inverters for 1.5 epochs with the loss pixel; their generators have nearest upsampling
(stages.*_inverter.encoder.generator is `default` for the paper's transposed convolutions). robust_lpips, gram and fid
compare features of the robust encoder in both rows.

Stages: zoo_images, standard_encoder, robust_encoder, standard_inverter, standard_evaluation, robust_inverter,
robust_evaluation, images (the photographs through the networks just trained; not of layers fc6 to fc8), report.
"""

from configs import arguments, encoders, tasks

# Changes to the recipe of an encoder, so that it takes minutes.
_OWN = {
    "name": "quickstart",
    "source": "no paper",
    "num_epochs": 2.0,
    "batch_size": 32,
    "sweep": (),
    "method": "n_fgsm",
}
_ATTACK = {"num_steps": 3, "step_size": 0.0}
_INVERTER = {"layer": "", "loss": "pixel", "metrics": "psnr+ssim+normalized_error"}
_IMAGES = "photos:chelsea+coffee+china+flower+rocket"
_TEXT = (
    "Both encoders are the same network, trained on the same images; the robust one on adversarial examples. Each "
    "generator was trained to invert the features of its encoder. These are test images that no network was trained on."
)


def get_config(arg=None):
    """Returns the stages: photographs through the zoo; encoders, inverters and evaluations; photographs; the report."""
    args = encoders.resolve(arguments.parse(arg, **arguments.ENCODER | {"eps": -1.0}, **_INVERTER))
    args.num_test = 500
    recipe = encoders.recipe(args.encoder, args.recipe)
    recipe |= {**_OWN, "attack": {**recipe["attack"], **_ATTACK}}
    if args.encoder == "alexnet_small":
        args.options = "+".join(filter(None, ("width:16", args.options)))  # the last of two widths counts
        recipe["options"] = {"width": 16}
    stages = {"zoo_images": _invert(args, arguments.ZOO, title="Photographs through networks of the zoo")}
    trainings, workdirs = tasks.encoder_pair(args, recipe=recipe)
    stages |= trainings
    entries = {}
    for name, workdir in workdirs.items():
        inverter = tasks.inverter(args, workdir, title=f"{name} inverter")
        schedule = inverter.optimizer.generator.schedule
        schedule.name, schedule.learning_rate = "cosine", 1e-3
        inverter.num_epochs, inverter.batch_size = 1.5, 8 if args.smoke else 64
        inverter.encoder.generator = "nearest"
        stages[f"{name}_inverter"] = inverter
        stages[f"{name}_evaluation"] = tasks.evaluate(
            args, f"stage:{name}_inverter", title=f"{name} evaluation", metric_encoder="stage:robust_encoder"
        )
        entries[name] = f"stage:{name}_evaluation"
    figures = {"Photographs through networks of the zoo": "stage:zoo_images"}
    if not args.layer.startswith("fc"):  # whose features come from images of one size only
        inverters = {name: f"stage:{name}_inverter" for name in workdirs}
        stages["images"] = _invert(args, inverters, title="Photographs through the networks just trained")
        figures["The same photographs through the networks just trained"] = "stage:images"
    title = "Inverting a standard and a robust encoder"
    stages["report"] = tasks.comparison(entries, title=title, text=_TEXT, figures=figures)
    return tasks.experiment(stages)


def _invert(args, inverters, *, title):
    """Returns the task that inverts the photographs, 256 px wide."""
    config = tasks.invert(args, inverters, _IMAGES, title=title)
    config.data.max_side = 64 if args.smoke else 256
    return config
