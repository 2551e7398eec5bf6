"""Default configs of the tasks that several experiments share: data, training, evaluation, comparison, experiments.

A config file calls one of these with its parsed arguments and then edits the fields that it changes.

Sources: Rojas-Gomez et al. 2022, sections A1.3 and A3.1; the papers of each recipe.
"""

from ml_collections import ConfigDict, FieldReference

from configs import arguments, encoders

_SPLITS = {
    "tfds:imagenet2012": ("train", "validation"),
    "tfds:cats_vs_dogs": ("train[:80%]", "train[80%:]"),
    "tfds:lsun/church_outdoor": ("train", "validation"),
}


def common(args: ConfigDict, title: str) -> ConfigDict:
    """Returns the fields of every task.

    Args:
      args: parsed arguments; dtype is read.
      title: shown beside the progress bar and in reports.
    """
    return ConfigDict(
        {
            "title": title,
            "seed": 0,
            "dtype": args.dtype,
            "mesh": {"data": -1, "fsdp": 1},
            "log": {
                "every_steps": 50,
                "evaluate_every_epochs": 1.0,
                "checkpoint_every_steps": 500,
                "keep_checkpoints": 2,
                "num_images": 8,
                "profile_steps": (),  # (first, last) to record, such as (10, 13)
            },
        }
    )


# Short names of datasets -> names.
_NAMES = {
    **{name: f"tfds:{name}" for name in ("cifar10", "cats_vs_dogs", "imagenet2012", "celeb_a")},
    "lsun_church": "tfds:lsun/church_outdoor",
}
# The window of the images (Generative Encoder, section 4.1).
_WINDOWS = {"tfds:celeb_a": (89, 121, 128)}
_UNLABELED = ("tfds:celeb_a", "tfds:lsun/church_outdoor")


def data(args: ConfigDict, name: str = "") -> ConfigDict:
    """Returns the data fields of a task.

    Args:
      args: parsed arguments; encoder, image_size, classes, extra, data_dir, on_bad_image, num_train and num_test are
        read where they exist. An image_size of 0 is the encoder's, num_train or num_test of 0 all images.
      name: name of the dataset: "photos", "tfds:NAME", "folder:PATH", "npz:PATH", "blobs", "volume:PATH", or short:
        "cifar10", "cats_vs_dogs", "imagenet2012", "celeb_a", "lsun_church"; empty for args.dataset.
    """
    name = name or args.dataset
    name = _NAMES.get(name, name)
    train, test = _SPLITS.get(name, ("train", "test"))
    return ConfigDict(
        {
            "name": name,
            "data_dir": args.get("data_dir", ""),
            "image_size": args.get("image_size", 0) or encoders.image_size(args.encoder),
            # LSUN's center, as pGAN reads it; squash, the whole image, is what the Generative Encoder states.
            "resize": "crop" if name.startswith("tfds:lsun") else "squash",
            "resized_crop": {},  # of training images: options of data.train_batches
            "window": _WINDOWS.get(name, ()),  # x and y of the center and side, in stored pixels; empty: whole images
            "label": "none" if name in _UNLABELED else "",  # feature of a TFDS dataset; empty: label or labels
            "train_split": train,
            "test_split": test,
            "num_train": args.get("num_train", 0),
            "num_test": args.get("num_test", 0),
            "classes": labels(args.get("classes", "")),
            "extra": {"name": args.get("extra", ""), "share": 0.5},
            "on_bad_image": args.get("on_bad_image", "error"),
            "num_workers": -1,  # processes that decode; by the number of cores
        }
    )


def generative_data(args: ConfigDict) -> ConfigDict:
    """Returns the data fields of a task on a generator of images: those of `data`, and the number of channels.

    Encoders take RGB, generators grey images too.

    Args:
      args: see `data`.
    """
    config = data(args)
    is_volume = config.name.partition(":")[0] in ("blobs", "volume")
    config.channels = 1 if is_volume else 3
    if is_volume:
        config.classes = ()  # those of slices are their axes
    return config


def operator(args: ConfigDict) -> dict:
    """Returns the field operator, by which images are degraded.

    Args:
      args: parsed arguments; operator and operator_options are read.
    """
    return {"name": args.operator, "options": arguments.options(args.operator_options, "operator_options")}


_MAX_LABELS = 100_000  # in a range of labels


def labels(text: str) -> tuple[int, ...]:
    """Returns the labels in a string such as "151-293" or "3+5".

    Raises:
      ValueError: not of that form.
    """
    values: list[int] = []
    problem = f"classes={text!r} must be labels such as 151-293 or 3+5"
    for part in filter(None, text.split("+")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise ValueError(problem)
        if int(last) - int(first) >= _MAX_LABELS:
            raise ValueError(f"{problem}, at most {_MAX_LABELS:,} of them")
        values += range(int(first), int(last) + 1)
    return tuple(values)


def pgd(eps: float, *, norm: str, step_size: float = 0.0) -> ConfigDict:
    """Returns the fields of an evaluation's attack, PGD of 20 steps; step_size 0 stands for 2.5 eps / num_steps."""
    return ConfigDict(
        {"eps": float(eps), "norm": norm, "num_steps": 20, "step_size": float(step_size), "random_start": True}
    )


# Options of the recipes of robust training. Recipes that are missing here have none.
_RECIPE_OPTIONS = {
    "fgsm": {"noise": 1.0, "step_factor": 1.25},
    "n_fgsm": {"noise": 2.0, "step_factor": 1.0},
    "trades": {"beta": 6.0},
    "gairat": {"weighting": "tanh", "offset": -1.0},
    "gair_rst": {"beta": 6.0, "offset": 3.0},
}


def _robust(recipe: str, *, num_epochs: FieldReference) -> dict:
    """Returns the fields recipe and watch of robust training.

    GAIRAT and GAIR-RST weight examples by their distance to the decision boundary from geometry_from_epoch on, the
    second half of the training.
    """
    geometric, single_step = recipe in ("gairat", "gair_rst"), recipe in ("fgsm", "n_fgsm")
    return {
        "recipe": {
            "name": recipe,
            "options": _RECIPE_OPTIONS.get(recipe, {}),
            "geometry_from_epoch": num_epochs / 2 if geometric else 0.0,
        },
        # "notice", "switch" (to the last state before it and to PGD) or "ignore" catastrophic overfitting.
        "watch": {
            "action": "notice" if single_step else "ignore",
            "every_epochs": 1.0,
            "num_steps": 10,
            "threshold": 0.3,
        },
    }


def classifier(
    args: ConfigDict,
    *,
    title: str = "classifier",
    eps: float | None = None,
    test_eps: float | None = None,
    recipe: dict | None = None,
) -> ConfigDict:
    """Returns the task that trains a classifier by the recipe of its encoder.

    Args:
      args: parsed arguments that encoders.resolve has resolved.
      title: shown beside the progress bar.
      eps: radius of the attack it is trained with, 0 for standard training; None for args.eps.
      test_eps: radius of the attack in the evaluations during training; None for eps.
      recipe: as encoders.recipe returns it; None for the encoder's.

    Returns:
      The config. Its field reference holds the published recipe, with which a run compares its own config.
    """
    recipe = recipe or encoders.recipe(args.encoder, args.recipe)
    config = common(args, title)
    config.task = "classifier"
    config.encoder = {"name": args.encoder, "options": _encoder_options(args)}
    config.data = data(args)
    config.data.update(encoders.image_transforms(recipe))
    config.attack = encoders.attack_of(
        recipe, eps=arguments.check_eps(args.eps if eps is None else eps), norm=args.norm
    )
    attack = config.attack
    attack.step_size = encoders.attack_step(  # a reference: it follows the radius and the number of steps
        recipe, eps=attack.get_ref("eps"), norm=attack.norm, num_steps=attack.get_ref("num_steps")
    )
    config.test_attack = {
        "eps": attack.get_ref("eps").identity() if test_eps is None else float(test_eps),
        "norm": attack.get_ref("norm").identity(),
        "num_steps": attack.get_ref("num_steps").identity(),
        "step_size": 0.0,
        "random_start": False,
    }
    config.num_steps = 0  # 0: num_epochs decides
    config.steps_per_call = 1  # steps that are dispatched to the devices together; results are bit-identical
    config.update(encoders.schedule_of(recipe, learning_rate=recipe["safe_learning_rate"]))
    config.update(_robust(args.recipe or recipe["method"], num_epochs=config.get_ref("num_epochs")))
    config.ema_decay = 0.0  # of a moving average of the weights, which is evaluated and kept; 0: none
    config.reference = _reference(recipe, eps=attack.eps)
    return shorten(config) if args.smoke else config


def _encoder_options(args: ConfigDict) -> dict:
    options = arguments.options(args.options)
    return encoders.smoke_options(args.encoder) | options if args.smoke else options


def _reference(recipe: dict, *, eps: float) -> ConfigDict:
    """Returns a recipe's name, its source, and its values of the fields of a classifier's config.

    Args:
      recipe: recipe of the encoder.
      eps: radius of the training; 0 and the radii of the paper's sweep are the recipe's as well.
    """
    eps = eps if eps in (0, *recipe["sweep"]) else recipe["attack"]["eps"]
    fields = encoders.schedule_of(recipe)
    fields.recipe = _robust(recipe["method"], num_epochs=fields.get_ref("num_epochs"))["recipe"]
    fields.attack = encoders.attack_of(recipe, eps=eps)
    fields.data, fields.encoder = recipe["data"], {"options": recipe["options"]}
    fields.ema_decay, fields.num_steps = 0.0, 0
    return ConfigDict(
        {"name": recipe["name"], "source": recipe["source"], "fields": fields.copy_and_resolve_references()}
    )


# Weights of the three losses of Table 1, and of one with a larger pixel term.
_DEEPSIM = {"pixel_order": 2, "conditional": False, "pause": 0.1}
LOSSES = {
    "pixel": {"pixel": 2e-6, "feature": 0.0, "adversarial": 0.0},
    "feature": {"pixel": 2e-6, "feature": 1e-2, "adversarial": 0.0},
    "gan": {"pixel": 2e-6, "feature": 1e-2, "adversarial": 100.0},
    "pixel_balanced": {"pixel": 2e-3, "feature": 1e-2, "adversarial": 0.0},
    # Squared Euclidean in RGB (Dosovitskiy & Brox 2016a, eq. 1).
    "euclidean": {"pixel": 1.0, "feature": 0.0, "adversarial": 0.0, "pixel_order": 2},
    # Dosovitskiy & Brox 2016b: the pixel weight of images in 0..255 on images in [0, 1], and as it stands.
    "deepsim": {"pixel": 2e-6 * 255**2, "feature": 1e-2, "adversarial": 100.0, **_DEEPSIM},
    "deepsim_raw": {"pixel": 2e-6, "feature": 1e-2, "adversarial": 100.0, **_DEEPSIM},
}


def loss(name: str) -> ConfigDict:
    """Returns the weights of a loss by name, for sums over each image and means over the batch.

    Raises:
      ValueError: unknown name.
    """
    own = LOSSES[arguments.choice("loss", name, LOSSES)]
    extra = {
        "discriminator": 1.0,
        "pixel_order": 1,
        "feature_layer": "",  # the inverted one
        "comparator": "",  # workdir of a classifier, or of an autoencoder, whose features are compared in its place
        "conditional": True,  # whether the discriminator reads the inverted feature
        "pause": 0.0,  # of the discriminator, below this share of the adversarial loss
        "divergence": 0.0,  # weight of the divergence of a variational autoencoder's latents from N(0, I)
    }
    return ConfigDict(extra | own)


def generator_training() -> ConfigDict:
    """Returns the training of a generator and its discriminator (Rojas-Gomez et al. 2022, section A3.1).

    The schedule of the discriminator follows the generator's, at four times its learning rate.

    Returns:
      num_epochs, batch_size, optimizer.
    """
    own = ConfigDict(
        {
            "name": "step",
            "learning_rate": 3e-4,
            "warmup_epochs": 0.0,
            "every_epochs": 30.0,
            "factor": 0.1,
        }
    )
    following = {field: own.get_ref(field).identity() for field in own}
    following["learning_rate"] = own.get_ref("learning_rate") * 4
    adam = {"name": "adam", "b1": 0.0, "b2": 0.9, "max_gradient_norm": 0.0}
    optimizer = {"generator": {**adam, "schedule": own}, "discriminator": {**adam, "schedule": following}}
    return ConfigDict({"num_epochs": 90.0, "batch_size": 128, "optimizer": optimizer})


def inverter(args: ConfigDict, checkpoint: str, *, title: str = "inverter", loss_name: str = "") -> ConfigDict:
    """Returns the task that trains an inverter.

    Args:
      args: parsed arguments; beside those of data, layer (empty for the encoder's) and loss are read.
      checkpoint: workdir of the encoder, or "stage:NAME".
      title: shown beside the progress bar.
      loss_name: a key of LOSSES; empty for args.loss.
    """
    config = common(args, title)
    config.task = "inverter"
    config.encoder = {
        "name": args.encoder,
        "layer": args.layer or encoders.layer(args.encoder),
        "checkpoint": checkpoint,
        "generator": "default",
        "allow_other_size": False,  # whether the encoder may have been trained on images of another size
        "train": False,  # whether a copy of the encoder is trained with the generator, as an autoencoder
        "start": "checkpoint",  # of that copy; "random": random weights, and no checkpoint
        "options": {},  # of an encoder of random weights or without; else they are those of the checkpoint
        "latent_size": 0,  # above 0: a variational autoencoder, with as many latents after the layer
    }
    config.data = data(args)
    config.loss = loss(loss_name or args.loss)
    config.augmentation = ConfigDict()
    config.num_steps = 0
    config.steps_per_call = 1
    config.update(generator_training())
    if (loss_name or args.loss) == "euclidean":
        _train_as_dosovitskiy_brox(config)
    if (loss_name or args.loss).startswith("deepsim"):
        _train_as_deepsim(config)
    return shorten(config) if args.smoke else config


def _train_as_dosovitskiy_brox(config: ConfigDict) -> None:
    """Sets Adam (.9, .999), batch 64 and a rate of 1e-3 that decays to 0; 15 epochs (Dosovitskiy & Brox 2016a)."""
    config.num_epochs, config.batch_size = 15.0, 64
    adam = config.optimizer.generator
    adam.b1, adam.b2, adam.schedule.name, adam.schedule.learning_rate = 0.9, 0.999, "cosine", 1e-3


def _train_as_deepsim(config: ConfigDict) -> None:
    """Sets Adam (.9, .999), batch 64 and a rate of 2e-4 for both networks (Dosovitskiy & Brox 2016b)."""
    config.batch_size = 64
    for adam in config.optimizer.values():
        adam.b1, adam.b2, adam.schedule.name = 0.9, 0.999, "constant"
    config.optimizer.generator.schedule.learning_rate = 2e-4
    config.optimizer.discriminator.schedule.learning_rate = 2e-4


def metrics(args: ConfigDict, *, encoder: str = "") -> dict:
    """Returns the fields metrics and metric_networks of an evaluation.

    Args:
      args: parsed arguments; metrics is read.
      encoder: workdir of the classifier whose features robust_lpips, gram and fid compare, or "stage:NAME"; empty for
        the evaluated encoder.
    """
    networks = {"encoder": encoder, "alexnet": "", "vgg16": "", "vgg19": ""}
    return {"metrics": args.metrics, "metric_networks": networks}


def evaluate(
    args: ConfigDict, checkpoint: str, *, title: str = "evaluation", metric_encoder: str = "", attack_from: str = ""
) -> ConfigDict:
    """Returns the task that evaluates a classifier, or an inverter with its encoder.

    Args:
      args: resolved arguments; beside those of data, eps, norm and metrics are read.
      checkpoint: workdir of the training, or "stage:NAME".
      title: shown beside the progress bar.
      metric_encoder: see metrics.
      attack_from: workdir of another evaluation of the same encoder, whose accuracies are copied, or "stage:NAME".
    """
    config = common(args, title)
    config.task = "evaluate"
    config.checkpoint = checkpoint
    config.update(metrics(args, encoder=metric_encoder))
    config.attack_from = attack_from
    config.data = data(args)
    config.data.resize = ""  # as in the training of the checkpoint's network
    eps = arguments.check_eps(args.eps)
    config.attack = pgd(eps, norm=args.norm, step_size=encoders.test_step_size(args.encoder, eps=eps, norm=args.norm))
    config.attack.name = "pgd"  # a key of arinv.attacks.ATTACKS
    config.batch_size = 128
    return shorten(config) if args.smoke else config


def autoattack(args: ConfigDict, checkpoint: str) -> ConfigDict:
    """Returns the task that attacks an encoder with AutoAttack, standard version.

    Args:
      args: resolved arguments; beside those of data, eps and norm are read.
      checkpoint: workdir of a classifier's or an inverter's training, or "stage:NAME".
    """
    config = common(args, "AutoAttack")
    config.task = "autoattack"
    config.checkpoint = checkpoint
    config.data = data(args)
    config.data.resize = ""  # as in the training of the encoder
    config.attack = {
        "eps": arguments.check_eps(args.eps),
        "norm": args.norm,
        "attacks": "apgd-ce+apgd-t+fab-t+square",
        "num_steps": 100,
        "num_targets": 9,
        "num_queries": 5000,
        "queries_per_round": 500,
        "decide": 0.0,  # half-width of the exact 95 % interval at which to stop, such as 0.05; 0: attack all images
    }
    config.batch_size = 128
    return shorten(config) if args.smoke else config


def invert(args: ConfigDict, inverters: dict[str, str], images: str, *, title: str = "inverting") -> ConfigDict:
    """Returns the task that inverts images at their own sizes.

    Args:
      args: parsed arguments; dtype, on_bad_image and smoke are read.
      inverters: name -> workdir of an inverter, "stage:NAME" or "zoo:NAME".
      images: a file, a folder, or "photos:NAME+NAME".
      title: shown beside the progress bar, and heading of the report.
    """
    config = common(args, title)
    config.task = "invert"
    config.inverters, config.order = inverters, tuple(inverters)
    config.data = {"name": images, "on_bad_image": args.on_bad_image, "max_side": 0}
    config.multiple = 0
    config.edge = 0
    config.max_pixels = 2**24
    config.batch_pixels = 2**21  # of small images, which are inverted several at a time
    config.limit = 2 if args.smoke else 0
    return config


def comparison(
    entries: dict[str, str | tuple[str, ...]],
    *,
    title: str,
    text: str,
    labels: dict[str, str] | None = None,
    rows: tuple[str, ...] = (),
    published: dict | None = None,
    figures: dict[str, str] | None = None,
) -> ConfigDict:
    """Returns the task that compares evaluations in one table.

    Args:
      entries: name -> workdir of an evaluation, or "stage:NAME"; or a tuple of those of one network, such as its
        evaluation and its AutoAttack.
      title: heading of the report.
      text: a paragraph below it.
      labels: entry -> its name in the table; None for the entries' own.
      rows: the rows that are shown; empty for all.
      published: published figures beside them, as configs.paper.published.table returns them; None for none.
      figures: heading -> image below the table, a path or "stage:NAME/FILE", or the workdir of inverted images, whose
        overview is shown; None for the evaluations' own figures only.
    """
    config = ConfigDict(
        {"task": "comparison", "title": title, "text": text, "entries": entries, "order": tuple(entries)}
    )
    optional = {"labels": labels, "rows": rows, "published": published, "figures": figures}
    config.update({name: value for name, value in optional.items() if value})
    return config


def encoder_pair(
    args: ConfigDict, *, recipe: dict | None = None, prefix: str = ""
) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Returns the trainings of a standard and a robust encoder that do not exist yet, and where both encoders are.

    Args:
      args: resolved arguments; standard_encoder and robust_encoder, where they exist and are not empty, are workdirs of
        trained encoders.
      recipe: as encoders.recipe returns it; None for the encoder's.
      prefix: prefix of the names of the stages.

    Returns:
      Stage name -> config, and "standard" or "robust" -> workdir or "stage:NAME".
    """
    stages, workdirs = {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        given = args.get(f"{name}_encoder", "")
        stage = f"{prefix}{name}_encoder"
        workdirs[name] = given or f"stage:{stage}"
        if not given:
            stages[stage] = classifier(args, title=f"{name} encoder", eps=eps, test_eps=args.eps, recipe=recipe)
    return stages, workdirs


# Arguments of a config that compares a standard and a robust inverter. Section 4.3 of Rojas-Gomez et al. 2022 inverts
# with pixel, feature and GAN losses.
INVERTER_PAIR = {
    "eps": -1.0,
    "standard_inverter": "",
    "robust_inverter": "",
    "layer": "",
    "loss": "gan",
    "metrics": "psnr+ssim",
}


def inverter_pair(args: ConfigDict) -> tuple[dict[str, ConfigDict], dict[str, str], str]:
    """Returns the trainings of a standard and a robust inverter that do not exist yet, and where both inverters are.

    Args:
      args: resolved arguments; standard_inverter and robust_inverter, where not empty, are workdirs of trained
        inverters; standard_encoder and robust_encoder, where they exist and are not empty, of trained encoders.

    Returns:
      Stage name -> config; "standard" or "robust" -> workdir or "stage:NAME"; and the robust encoder's, empty where the
      robust inverter is given.
    """
    stages, workdirs, robust_encoder = {}, {}, ""
    trainings, encoder_workdirs = encoder_pair(args)
    for name, encoder in encoder_workdirs.items():
        stage = f"{name}_inverter"
        workdirs[name] = args[stage] or f"stage:{stage}"
        if not args[stage]:
            if f"{name}_encoder" in trainings:
                stages[f"{name}_encoder"] = trainings[f"{name}_encoder"]
            stages[stage] = inverter(args, encoder, title=f"{name} inverter")
            robust_encoder = encoder if name == "robust" else robust_encoder
    return stages, workdirs, robust_encoder


def compare_losses(args: ConfigDict) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Returns the stages that invert a standard and a robust encoder with several losses, and their evaluations.

    Args:
      args: resolved arguments; beside those of encoder_pair and inverter, losses (joined by "+") is read.

    Returns:
      Stage name -> config, and "ENCODER LOSS" -> "stage:NAME" of its evaluation.
    """
    stages, workdirs = encoder_pair(args)
    entries = {}
    for name, workdir in workdirs.items():
        attacked = ""  # each encoder is attacked once, whatever the number of its inverters
        for loss_name in arguments.split(args.losses):
            title, stage = f"{name} {loss_name}", f"{name}_{loss_name}"
            stages[f"{stage}_inverter"] = inverter(args, workdir, title=f"{title} inverter", loss_name=loss_name)
            stages[f"{stage}_evaluation"] = evaluate(
                args,
                f"stage:{stage}_inverter",
                title=f"{title} evaluation",
                metric_encoder=workdirs["robust"],
                attack_from=attacked,
            )
            attacked = attacked or f"stage:{stage}_evaluation"
            entries[title] = f"stage:{stage}_evaluation"
    return stages, entries


def experiment(stages: dict[str, ConfigDict]) -> ConfigDict:
    """Returns the config of stages that run one after the other, each in a folder of its name.

    seed, dtype and mesh are fields of the experiment and apply to all stages (`--config.seed=1`), unless a stage has
    its own (`--config.stages.evaluation.dtype=float32`).
    """
    first = next(iter(stages.values()))
    config = ConfigDict({"seed": first.seed, "dtype": first.dtype, "mesh": first.mesh.to_dict()})
    for stage in stages.values():
        if "seed" in stage:
            # Identities, so that a stage's own field changes that stage alone.
            stage.seed, stage.dtype = (config.get_ref(name).identity() for name in ("seed", "dtype"))
            stage.mesh.data, stage.mesh.fsdp = (config.mesh.get_ref(name).identity() for name in ("data", "fsdp"))
    config.stages = stages
    config.order = tuple(stages)
    return config


def shorten(config: ConfigDict) -> ConfigDict:
    """Reduces a task to a smoke run: two steps on a few examples."""
    config.data.num_train, config.data.num_test = 16, 8
    if "watch" in config:
        config.watch.num_steps = 2
    config.batch_size = 8
    config.log.every_steps = 1
    config.log.num_images = 4
    if "num_steps" in config:
        config.num_steps = 2
        for spec in [config.optimizer] if "schedule" in config.optimizer else config.optimizer.values():
            spec.schedule.warmup_epochs = 0.0
    if "attack_warmup_epochs" in config:
        config.attack_warmup_epochs, config.recipe.geometry_from_epoch = 0.0, 0.0
    for name in ("attack", "test_attack"):
        if name in config:
            config[name].num_steps = 2
    if config.task == "autoattack":
        config.attack.update({"num_targets": 2, "num_queries": 8, "queries_per_round": 4})
    return config
