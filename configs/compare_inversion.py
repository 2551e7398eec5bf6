"""Table 7's comparison: trained generators of standard and robust features against optimisation of the pixels (RI).

    python -m arinv --config=configs/compare_inversion.py:encoder=resnet18,dataset=cifar10 --workdir=runs/ri
    Q=runs/quickstart
    python -m arinv --config=configs/compare_inversion.py:standard=$Q/standard_inverter,robust=$Q/robust_inverter \
        --workdir=runs/ri

With `standard` and `robust`, workdirs of inverters' trainings, nothing is trained; the encoder's name then only decides
the image size. The published search takes 10,000 steps, each a forward and a backward pass: the time of RI is that of
20,000 passes of every test image. Killed, it goes on.

Arguments: those of configs/inverter.py but checkpoint, other_size and test_eps (loss is gan here, metrics psnr+ssim,
num_test 64); standard, robust; search (whose features are searched for: robust, or standard+robust), search_steps
(10000) and search_step (l2 length, in units of [0, 1] images; 0: the published 1.0 at 224 px, in proportion at other
sizes), test_batch (images at a time), num_pictures (how many are shown).
"""

from ml_collections import ConfigDict

from configs import defaults, standard_and_robust, tasks


def get_config(arg=None):
    """Returns the stages: standard and robust encoders and inverters where they are not given, then the comparison."""
    args = standard_and_robust.parse(
        arg, num_test=64, search_steps=10_000, search_step=0.0, search="robust", test_batch=32, num_pictures=8
    )
    stages, references = standard_and_robust.inverter_stages(args)
    data = defaults.dataset_of(args)
    stages["comparison"] = inversion_comparison(
        references,
        data=data,
        encoders=tuple(args.search.split("+")),
        num_steps=args.search_steps,
        step_size=args.search_step or data.image_size / 224,
        **standard_and_robust.metric_fields(args),
        batch_size=args.test_batch,
        num_pictures=args.num_pictures,
        seed=args.seed,
        dtype=args.dtype,
        title=f"Inverting {args.encoder} on {args.dataset}",
    )
    if args.smoke:
        tasks.shorten(stages["comparison"])
        stages["comparison"].optimization.update({"num_steps": 4, "steps_per_call": 3})
    return tasks.experiment(stages)


def inversion_comparison(
    inverters: dict[str, str],
    *,
    data: ConfigDict,
    encoders: tuple[str, ...] = ("robust",),
    num_steps: int = 10_000,
    step_size: float = 1.0,
    metrics: str = "psnr+ssim",
    metric_networks: dict[str, str] | None = None,
    batch_size: int = 32,
    num_pictures: int = 8,
    seed: int = 0,
    dtype: str = "float32",
    title: str = "inversions",
) -> ConfigDict:
    """Returns the task that compares generators with optimisation.

    Args:
      inverters: name -> workdir of an inverter's training, or "stage:NAME".
      data: from defaults.dataset.
      encoders: names of the inverters whose encoders' features are searched for as well.
      num_steps: of the search.
      step_size: of the search, in units of [0, 1] images.
      metrics: of the reconstructions, names joined by "+".
      metric_networks: what they look through: "encoder", "alexnet", "vgg16", "vgg19" -> weights; empty for none.
      batch_size: images at a time.
      num_pictures: how many test images are shown.
      seed: of everything random.
      dtype: of the computation.
      title: of the results.
    """
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "inversion_comparison"
    config.inverters = inverters
    config.order = tuple(inverters)
    config.data = data.copy_and_resolve_references()
    config.optimization = {
        "encoders": encoders,
        "num_steps": num_steps,
        "step_size": step_size,
        "steps_per_call": 50,
    }
    config.metrics = metrics
    config.metric_networks = dict.fromkeys(("encoder", "alexnet", "vgg16", "vgg19"), "") | (metric_networks or {})
    config.batch_size = batch_size
    config.log.num_pictures = num_pictures
    return config
