"""The tasks that experiments are put together from, as configs."""

from ml_collections import ConfigDict

from configs import defaults, encoders


def classifier(
    encoder: str,
    *,
    data: ConfigDict,
    eps: float,
    norm: str = "l2",
    test_eps: float | None = None,
    attack_steps: int = 7,
    step_size: float = 0.0,
    recipe: str = "pgd",
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
) -> ConfigDict:
    """Returns the task that trains a classifier.

    Args:
      encoder: its name.
      data: from defaults.dataset.
      eps: radius of the attack it is trained with, 0 for standard training.
      norm: of the attack.
      test_eps: radius of the attack of the evaluations on the way; None for eps.
      attack_steps: of both attacks.
      step_size: of the attack it is trained with; 0 for 2.5 eps / attack_steps.
      recipe: of robust training, a name that defaults.robust knows.
      weighting: of gairat.
      on_overfitting: see defaults.robust.
      attack_warmup: epochs over which the radius grows; -1 for the encoder's recipe.
      average: decay of a moving average of the weights, by which the network is judged; 0 for none.
      num_epochs: 0 for the encoder's recipe.
      batch_size: 0 for the encoder's recipe.
      seed: of everything random.
      dtype: of the computation.
      title: shown beside progress.
      options: of the encoder, such as {"width": 16}.
    """
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "classifier"
    config.encoder = {"name": encoder, "options": options or {}}
    config.data = data.copy_and_resolve_references()
    config.attack = defaults.attack(eps, norm=norm, num_steps=attack_steps, step_size=step_size)
    config.test_attack = defaults.attack(eps if test_eps is None else test_eps, norm=norm, num_steps=attack_steps)
    config.num_steps = 0  # 0: num_epochs decides
    config.steps_per_call = 1  # sent to the devices together; the bits stay the same
    config.update(encoders.classifier(encoder, num_epochs=num_epochs, batch_size=batch_size))
    length = config.get_ref("num_epochs")
    config.update(defaults.robust(recipe, num_epochs=length, weighting=weighting, on_overfitting=on_overfitting))
    config.average_decay = average
    if attack_warmup >= 0:
        config.attack_warmup_epochs = attack_warmup
    return config


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
    metrics: str = "psnr+ssim+normalized_error",
    metric_networks: dict[str, str] | None = None,
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
      metrics: of the reconstructions, names joined by "+".
      metric_networks: what they look through: "encoder", "alexnet", "vgg16", "vgg19" -> weights; empty for none.
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
    config.attack = defaults.attack(eps, norm=norm, num_steps=num_steps, random_start=True)
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
