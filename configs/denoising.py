"""Denoising as in Table 10: a standard and a robust AlexNet, a denoiser on each, measured side by side.

    python -m arinv --config=configs/denoising.py:dataset=imagenet2012,train=imagenet2012,test=folder:cbsd68 \
        --workdir=runs/denoising

The encoders' convolutions are frozen; each denoiser learns a decoder of 2.6 million parameters. With standard=WORKDIR
and robust=WORKDIR, of a classifier's training or an import, no encoder is trained.

Arguments: those of configs/classifier.py for the encoders (dataset, image_size, options, epochs, batch, eps of the
robust one, ...); standard, robust (workdirs of encoders, empty: trained here); of the denoisers train (a data set, such
as folder:PATH), size (side that pictures are brought to, 224), crop (side of the windows cut from them at random, a
multiple of 32; 0: the whole picture, squashed), sigma (50/255), protocol (clipped, unclipped), loss (pixel, feature,
pixel_balanced, gan, official_script), pad_side (official, aligned), variant (default, table_a9), image_bias (where
the biases of the last normalisation begin: the paper's 0, or about 2 for a short training), denoiser_epochs,
denoiser_batch, denoiser_rate and denoiser_schedule (0 or empty: the paper's 90, 128, 3e-4 and steps); of the evaluation
test (folder:PATH, or data sets, joined by "+"), test_size (of a data set that is no folder), num_pictures (of each set,
0: all), metrics (mse, psnr, ssim, lpips_alex, lpips_vgg, robust_lpips, gram), metric_encoder, alexnet_weights,
vgg16_weights, vgg19_weights, bm3d (auto: where the package is installed, yes, no), multiple (of which padded sides are
multiples; the paper's is 224), tile and overlap (for large pictures; 0: none).
"""

from ml_collections import ConfigDict

from configs import arguments, classifier, defaults, encoders, tasks

# The released script's loss beside those that inverters have too.
_OFFICIAL = {"pixel": 2e-3, "feature": 1e-2, "adversarial": 100.0, "discriminator": 100.0, "pixel_order": 2}
_OTHERS = ("pixel", "feature", "pixel_balanced", "gan")

_DENOISER = {
    "standard": "",
    "robust": "",
    "train": "photos",
    "size": 224,
    "crop": 0,
    "sigma": 50 / 255,
    "protocol": "clipped",
    "loss": "feature",
    "pad_side": "official",
    "variant": "default",
    "image_bias": 0.0,
    "denoiser_epochs": 0.0,
    "denoiser_batch": 0,
    "denoiser_rate": 0.0,
    "denoiser_schedule": "",
}
_EVALUATION = {
    "test": "photos",
    "test_size": 256,
    "num_pictures": 0,
    "bm3d": "auto",
    "multiple": 32,
    "tile": 0,
    "overlap": 192,
}
_METRICS = arguments.METRICS | {"metrics": "psnr+ssim", "metric_encoder": "stage:robust_encoder"}
_SMOKE = "dense_width:16+head_side:1"  # options of the encoder, for a smoke run that names none


def get_config(arg=None):
    """Returns the stages: for standard and robust an encoder, unless there is one, and a denoiser; then evaluation."""
    training = arguments.TRAINING | {"encoder": "alexnet", "dataset": "photos", "eps": -1.0}
    args = arguments.parse(arg, **training, **_METRICS, **_DENOISER, **_EVALUATION)
    encoders.resolve(args)
    if args.smoke:
        args.image_size, args.size = args.image_size or 64, min(args.size, 64)
        args.options = args.options or (_SMOKE if args.encoder == "alexnet" else "")
    stages, entries = {}, {}
    for name, eps in (("standard", 0.0), ("robust", args.eps)):
        title = f"{name} encoder"
        if not args[name]:
            stages[f"{name}_encoder"] = classifier.from_arguments(args, title=title, eps=eps, test_eps=args.eps)
    for name in ("standard", "robust"):
        stages[f"{name}_denoiser"] = denoiser(args, args[name] or f"stage:{name}_encoder", title=f"{name} denoiser")
        entries[name] = f"stage:{name}_denoiser"
    if args.robust and args.metric_encoder == _METRICS["metric_encoder"]:
        args.metric_encoder = args.robust
    stages["evaluation"] = evaluation(args, entries)
    return tasks.experiment(stages)


def denoiser(args, checkpoint, *, title):
    """Returns the task that trains a denoiser."""
    config = defaults.common(seed=args.seed, title=title, dtype=args.dtype)
    config.task = "denoiser"
    config.encoder = {"name": args.encoder, "checkpoint": checkpoint}
    config.decoder = {"variant": args.variant, "pad_side": args.pad_side, "image_bias": args.image_bias}
    config.noise = {"sigma": args.sigma, "protocol": args.protocol}
    config.data = defaults.dataset(
        args.train,
        encoder=args.encoder,
        image_size=args.size,
        data_dir=args.data_dir,
        on_bad_image=args.on_bad_image,
    )
    config.augmentation = {"window": args.crop, "flip": True} if args.crop else {}
    config.data.resize = "crop" if args.crop else "squash"  # windows of squashed pictures would be squashed
    config.loss = _loss(args.loss)
    config.num_steps = 0
    recipe = defaults.inverter(learning_rate=args.denoiser_rate, schedule=args.denoiser_schedule)
    config.update(recipe)
    config.num_epochs = args.denoiser_epochs or config.num_epochs
    config.batch_size = args.denoiser_batch or config.batch_size
    # A small folder's epochs are short: four evaluations on the way are enough to see how it goes.
    config.log.evaluate_every_epochs = max(1.0, config.num_epochs / 5)
    return tasks.shorten(config) if args.smoke else config


def evaluation(args, entries):
    """Returns the task that measures denoisers, name -> workdir."""
    config = defaults.common(seed=args.seed, title="evaluation", dtype=args.dtype)
    config.task = "denoising_evaluation"
    config.entries, config.order = entries, tuple(entries)
    names = dict.fromkeys(filter(None, args.test.split("+")))
    sets = [defaults.dataset(name, encoder=args.encoder) for name in names]
    config.data = {
        "name": "+".join(found.name for found in sets),
        "splits": tuple(found.test_split for found in sets),
        "image_size": args.test_size,
        "data_dir": args.data_dir,
        "on_bad_image": args.on_bad_image,
        "num_images": args.num_pictures,
    }
    config.noise = {"sigma": args.sigma, "protocol": args.protocol}
    config.update(arguments.metric_fields(args))
    config.bm3d = args.bm3d
    config.tiles = {"multiple": args.multiple, "tile": args.tile, "overlap": args.overlap}
    if args.smoke:
        config.data.num_images, config.data.image_size = config.data.num_images or 2, 64
    return config


def _loss(name):
    if name == "official_script":
        return ConfigDict(_OFFICIAL | {"feature_layer": "conv5"})
    if name not in _OTHERS:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(_OTHERS)}, official_script")
    loss = defaults.loss(name)
    loss.feature_layer = "conv5"
    return loss
