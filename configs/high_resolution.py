"""Inverts enlarged images, scale by scale, from standard and from robust features, without training for it.

    python -m arinv --config=configs/high_resolution.py:encoder=resnet18,dataset=cifar10,scales=6 --workdir=runs/scales
    Q=runs/quickstart
    python -m arinv --config=configs/high_resolution.py:standard=$Q/standard_inverter,robust=$Q/robust_inverter \
        --workdir=runs/scales

With `standard` and `robust`, workdirs of inverters' trainings, nothing is trained; the encoder's name then only decides
the image size. Memory and time of a scale grow with its square.

Arguments: those of configs/inverter.py but checkpoint, other_size and test_eps (loss is gan here, metrics psnr+ssim);
standard, robust; scales (the largest factor), compare (enlarged, or original: the reconstructions are brought back to
the size before), test_batch (images at a time at scale 1), num_pictures (how many test images are shown).
"""

from ml_collections import ConfigDict

from configs import defaults, standard_and_robust, tasks


def get_config(arg=None):
    """Returns the stages: standard and robust encoders and inverters where they are not given, then the scales."""
    args = standard_and_robust.parse(arg, scales=6, compare="enlarged", test_batch=32, num_pictures=2)
    stages, references = standard_and_robust.inverter_stages(args)
    stages["scales"] = high_resolution(
        references,
        data=defaults.dataset_of(args),
        scales=2 if args.smoke else args.scales,
        compare=args.compare,
        **standard_and_robust.metric_fields(args),
        batch_size=args.test_batch,
        num_pictures=args.num_pictures,
        seed=args.seed,
        dtype=args.dtype,
        title=f"Inverting enlarged images of {args.dataset}",
    )
    if args.smoke:
        tasks.shorten(stages["scales"])
    return tasks.experiment(stages)


def high_resolution(
    inverters: dict[str, str],
    *,
    data: ConfigDict,
    scales: int,
    compare: str = "enlarged",
    metrics: str = "psnr+ssim",
    metric_networks: dict[str, str] | None = None,
    batch_size: int = 32,
    num_pictures: int = 2,
    seed: int = 0,
    dtype: str = "float32",
    title: str = "scales",
) -> ConfigDict:
    """Returns the task that inverts enlarged images.

    Args:
      inverters: name -> workdir of an inverter's training, or "stage:NAME".
      data: from defaults.dataset.
      scales: the largest factor.
      compare: "enlarged" or "original".
      metrics: of the reconstructions, names joined by "+".
      metric_networks: what they look through: "encoder", "alexnet", "vgg16", "vgg19" -> weights; empty for none.
      batch_size: images at a time at scale 1.
      num_pictures: how many test images are shown.
      seed: of everything random.
      dtype: of the computation.
      title: of the results.
    """
    config = defaults.common(seed=seed, title=title, dtype=dtype)
    config.task = "high_resolution"
    config.inverters = inverters
    config.order = tuple(inverters)
    config.data = data.copy_and_resolve_references()
    config.scales = scales
    config.compare = compare
    config.metrics = metrics
    config.metric_networks = dict.fromkeys(("encoder", "alexnet", "vgg16", "vgg19"), "") | (metric_networks or {})
    config.batch_size = batch_size
    config.log.num_pictures = num_pictures
    return config
