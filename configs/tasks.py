"""The tasks that experiments are put together from, as configs."""

from ml_collections import ConfigDict

from configs import defaults, encoders


def classifier(
    encoder: str,
    *,
    data: ConfigDict,
    eps: float,
    norm: str = "",
    test_eps: float | None = None,
    attack_steps: int = 0,
    step_size: float = 0.0,
    method: str = "",
    weighting: str = "",
    on_overfitting: str = "",
    attack_warmup: float = -1.0,
    average: float = 0.0,
    num_epochs: float = 0.0,
    batch_size: int = 0,
    seed: int = 0,
    dtype: str = "float32",
    title: str = "classifier",
    options: dict | None = None,
    recipe: dict | None = None,
) -> ConfigDict:
    """Returns the task that trains a classifier by its encoder's recipe, or by what departs from it.

    Args:
      encoder: its name.
      data: from defaults.dataset; how images are brought to size is the recipe's.
      eps: radius of the attack it is trained with, 0 for standard training, -1 for the recipe's.
      norm: of the attack; empty for the recipe's.
      test_eps: radius of the attack of the evaluations on the way; None for eps.
      attack_steps: of both attacks; 0 for the recipe's.
      step_size: of the attack it is trained with; 0 for the recipe's, see encoders.attack_of.
      method: of robust training, a name that defaults.robust knows; empty for the recipe's.
      weighting: of gairat.
      on_overfitting: see defaults.robust.
      attack_warmup: epochs over which the radius grows; -1 for the recipe's.
      average: decay of a moving average of the weights, by which the network is judged; 0 for none.
      num_epochs: 0 for the recipe's.
      batch_size: 0 for the recipe's.
      seed: of everything random.
      dtype: of the computation.
      title: shown beside progress.
      options: of the encoder, such as {"width": 16}.
      recipe: as encoders.recipe returns it; None for the encoder's.

    Returns:
      The config. Its field reference holds the recipe as it is published, with which a run compares what it does.
    """
    recipe = recipe or encoders.recipe(encoder, method)
    options_of_attack = {"norm": norm, "num_steps": attack_steps, "step_size": step_size}
    attack = encoders.attack_of(recipe, eps=eps, **options_of_attack)
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "classifier"
    config.encoder = {"name": encoder, "options": options or {}}
    config.data = data.copy_and_resolve_references()
    config.data.update(encoders.image_transforms(recipe))
    config.attack = defaults.attack(**attack)
    following = encoders.attack_of(recipe, eps=config.attack.get_ref("eps"), **options_of_attack)
    config.attack.step_size = following["step_size"]
    test_eps = attack["eps"] if test_eps is None else test_eps
    config.test_attack = defaults.attack(test_eps, norm=attack["norm"], num_steps=attack["num_steps"])
    config.num_steps = 0  # 0: num_epochs decides
    config.steps_per_call = 1  # sent to the devices together; the bits stay the same
    learning_rate = recipe["safe_learning_rate"]
    config.update(
        encoders.schedule_of(recipe, num_epochs=num_epochs, batch_size=batch_size, learning_rate=learning_rate)
    )
    length = config.get_ref("num_epochs")
    method = method or recipe["method"]
    config.update(defaults.robust(method, num_epochs=length, weighting=weighting, on_overfitting=on_overfitting))
    config.average_decay = average
    if attack_warmup >= 0:
        config.attack_warmup_epochs = attack_warmup
    config.reference = _reference(recipe, eps=attack["eps"])
    return config


def _reference(recipe: dict, *, eps: float) -> ConfigDict:
    """Returns a recipe's name, its source, and its values of the fields of a classifier's config.

    Args:
      recipe: of the encoder.
      eps: of the training; 0 and the radii of the paper's sweep are the recipe's as well.
    """
    eps = eps if eps in (0, *recipe["sweep"]) else recipe["attack"]["eps"]
    fields = encoders.schedule_of(recipe)
    fields.update(defaults.robust(recipe["method"], num_epochs=fields.get_ref("num_epochs")))
    del fields["watch"]
    fields.attack = defaults.attack(**encoders.attack_of(recipe, eps=eps))
    fields.data, fields.encoder = recipe["data"], {"options": recipe["options"]}
    fields.average_decay, fields.num_steps = 0.0, 0
    return ConfigDict(
        {"name": recipe["name"], "source": recipe["source"], "fields": fields.copy_and_resolve_references()}
    )


def inverter(
    encoder: str,
    checkpoint: str,
    *,
    layer: str,
    data: ConfigDict,
    loss: str = "feature",
    learning_rate: float = 0.0,
    schedule: str = "",
    seed: int = 0,
    dtype: str = "float32",
    title: str = "inverter",
) -> ConfigDict:
    """Returns the task that trains an inverter.

    Args:
      encoder: name of the trained encoder.
      checkpoint: its workdir, or "stage:NAME".
      layer: the feature to invert.
      data: from defaults.dataset.
      loss: a key of defaults.LOSSES.
      learning_rate: 0 for the paper's.
      schedule: empty for the paper's.
      seed: of everything random.
      dtype: of the computation.
      title: shown beside progress.
    """
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "inverter"
    config.encoder = {"name": encoder, "layer": layer, "checkpoint": checkpoint, "generator": "default"}
    config.encoder.other_size = False  # whether the encoder may have been trained on images of another size
    config.data = data.copy_and_resolve_references()
    config.loss = defaults.loss(loss)
    config.augmentation = ConfigDict()
    config.num_steps = 0
    config.steps_per_call = 1
    config.update(defaults.inverter(learning_rate=learning_rate, schedule=schedule))
    return config


def evaluation(
    checkpoint: str,
    *,
    data: ConfigDict,
    eps: float,
    norm: str = "l2",
    num_steps: int = 20,
    step_size: float = 0.0,
    metrics: str = "psnr+ssim+normalized_error",
    metric_networks: dict[str, str] | None = None,
    attack: str = "pgd",
    attack_from: str = "",
    seed: int = 0,
    dtype: str = "float32",
    title: str = "evaluation",
) -> ConfigDict:
    """Returns the task that evaluates a classifier or an inverter with its encoder.

    Args:
      checkpoint: its workdir, or "stage:NAME".
      data: from defaults.dataset.
      eps: radius of the attack, 0 for none.
      norm: of the attack.
      num_steps: of the attack.
      step_size: of the attack; 0 for 2.5 eps / num_steps.
      metrics: of the reconstructions, names joined by "+".
      metric_networks: what they look through: "encoder", "alexnet", "vgg16", "vgg19" -> weights; empty for none.
      attack: its name, a key of arinv.attacks.ATTACKS.
      attack_from: the evaluation of another inverter of the same encoder, whose accuracies are taken over.
      seed: of everything random.
      dtype: of the computation.
      title: shown beside progress.
    """
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "evaluation"
    config.checkpoint = checkpoint
    config.metrics = metrics
    config.metric_networks = dict.fromkeys(("encoder", "alexnet", "vgg16", "vgg19"), "") | (metric_networks or {})
    config.attack_from = attack_from
    config.data = data.copy_and_resolve_references()
    config.data.resize = ""  # as the checkpoint's network was evaluated in its training
    config.attack = defaults.attack(eps, norm=norm, num_steps=num_steps, step_size=step_size, random_start=True)
    config.attack.name = attack
    config.batch_size = 128
    return config


def autoattack(
    checkpoint: str,
    *,
    data: ConfigDict,
    eps: float,
    norm: str = "linf",
    seed: int = 0,
    dtype: str = "float32",
    title: str = "AutoAttack",
) -> ConfigDict:
    """Returns the task that attacks an encoder with AutoAttack, standard version.

    Args:
      checkpoint: workdir of a classifier's or an inverter's training, or "stage:NAME".
      data: from defaults.dataset.
      eps: radius of the attack.
      norm: of the attack.
      seed: of everything random.
      dtype: of the computation.
      title: shown beside progress.
    """
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "autoattack"
    config.checkpoint = checkpoint
    config.data = data.copy_and_resolve_references()
    config.data.resize = ""  # as the encoder was evaluated in its training
    config.attack = {
        "eps": eps,
        "norm": norm,
        "attacks": "apgd-ce+apgd-t+fab-t+square",
        "num_steps": 100,
        "num_targets": 9,
        "num_queries": 5000,
        "queries_per_round": 500,
    }
    config.batch_size = 128
    return config


def report(entries: dict[str, str], *, title: str, text: str) -> ConfigDict:
    """Returns the task that puts evaluations side by side.

    Args:
      entries: name -> workdir of an evaluation, or "stage:NAME".
      title: heading of the page.
      text: a paragraph below it.
    """
    return ConfigDict({"task": "report", "title": title, "text": text, "entries": entries, "order": tuple(entries)})


def experiment(stages: dict[str, ConfigDict]) -> ConfigDict:
    """Returns the config of stages that run one after the other, each in a folder of its name.

    seed, dtype and mesh stand once at the top and hold for all stages (`--config.seed=1`).
    """
    first = next(iter(stages.values()))
    config = ConfigDict({"seed": first.seed, "dtype": first.dtype, "mesh": first.mesh.to_dict()})
    for stage in stages.values():
        if "seed" in stage:
            stage.seed, stage.dtype = config.get_ref("seed"), config.get_ref("dtype")
            stage.mesh.data, stage.mesh.fsdp = config.mesh.get_ref("data"), config.mesh.get_ref("fsdp")
    config.stages = stages
    config.order = tuple(stages)
    return config


def shorten(config: ConfigDict) -> ConfigDict:
    """Makes a smoke run of a task: two steps on a few examples, to see that everything fits."""
    if config.task == "report":
        return config
    config.data.num_train, config.data.num_test = 16, 8
    if "watch" in config:
        config.watch.num_steps = 2
    config.batch_size = 8
    config.log.every_steps = 1
    config.log.num_pictures = 4
    if "num_steps" in config:
        config.num_steps = 2
    for name in ("attack", "test_attack"):
        if name in config:
            config[name].num_steps = 2
    if config.task == "autoattack":
        config.attack.update({"num_targets": 2, "num_queries": 8, "queries_per_round": 4})
    return config
