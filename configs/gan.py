"""A generator of images from noise, trained against a discriminator; grown from 4 px where its networks grow.

    python -m arinv --config=configs/gan.py:dataset=cifar10,classes=1,image_size=32 --workdir=runs/gan

The published schedule shows 600,000 images in each stage. On two CPU cores take narrow networks and short stages:

    python -m arinv --config=configs/gan.py:dataset=cifar10,classes=1,options=base_width:256+max_width:64 \
        --workdir=runs/gan '--config.stages.*.num_steps=1000'

The last stage is the GAN that other commands take: runs/gan/size32, or runs/gan/gan where the networks do not grow.

Arguments: dataset (also celeb_a, lsun_church, blobs and volume:PATH), classes, data_dir, on_bad_image, dtype and smoke
of configs/classifier.py, and
  networks        progressive (grows), began or dcgan
  latent_size     length of the latents; 0: the published one
  options         of the networks, such as base_width:256+max_width:64, or width:32 of the others
  image_size      side of the images, in pixels; 0: 32, or 64 of began and dcgan
  metric_encoder  workdir of a classifier or zoo:NAME, whose features FID compares at its image size, at every
                  evaluation; empty: no FID

Stages: of networks that grow size4, size8_fade, size8, size16_fade, ...; else gan. Fields that are often set:
stages.*.num_steps, .batch_size, .ema_decay, .game (name, penalty, drift; ratio and rate of began). The learning rate of
began is halved every 100,000 steps, not below 2e-5: the default has 37,500.
"""

from configs import arguments, tasks

_OWN = {
    "networks": "progressive",
    "latent_size": 0,
    "options": "",
    "metric_encoder": "",
}
_STAGE_IMAGES = 600_000  # Karras et al. 2018, section A.1
# Batches of one GPU there.
_BATCH = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16}
_GAME = {"penalty": 10.0, "drift": 1e-3, "ratio": 0.5, "rate": 1e-3}
_ADAM = {"name": "adam", "max_gradient_norm": 0.0}
# As in a public implementation of BEGAN.
_HALVED = {"name": "staircase", "learning_rate": 8e-5, "every_steps": 100_000, "factor": 0.5, "floor": 2e-5}
# networks -> game, optimizer, and batch size where it does not follow the image size
_RECIPES = {
    "progressive": ("wasserstein_gp", _ADAM | {"b1": 0.0, "b2": 0.99}, {"name": "constant", "learning_rate": 1e-3}, 0),
    "began": ("equilibrium", _ADAM | {"b1": 0.9, "b2": 0.999}, _HALVED, 16),
    "dcgan": ("logistic", _ADAM | {"b1": 0.5, "b2": 0.999}, {"name": "constant", "learning_rate": 2e-4}, 128),
}
_SIZES = {"progressive": (32, 8), "began": (64, 16), "dcgan": (64, 16)}  # image size, and that of a smoke run
_SMOKE = {"progressive": "base_width:32+max_width:16", "began": "width:8", "dcgan": "width:4"}


def get_config(arg=None):
    """Returns the stages of the growth, or the one stage of networks that do not grow."""
    args = arguments.parse(arg, **arguments.IMAGES, **_OWN)
    return tasks.experiment(stages(args))


def image_sizes(networks: str) -> tuple[int, int]:
    """Returns the image size of networks, and that of their smoke runs, in pixels.

    Raises:
      ValueError: unknown networks.
    """
    return _SIZES[arguments.choice("networks", networks, _SIZES)]


def stages(args, *, prefix=""):
    """Returns the stages that train a GAN; the last one is the trained GAN.

    Args:
      args: parsed arguments.
      prefix: prefix of the names of the stages.
    """
    default, small = image_sizes(args.networks)
    args.image_size = args.image_size or (small if args.smoke else default)
    if args.networks != "progressive":
        return {f"{prefix}gan": task(args, "gan", args.image_size)}
    if args.image_size < 4 or args.image_size & (args.image_size - 1):
        raise ValueError(f"image_size={args.image_size} must be 4, 8, 16, ... px for networks that grow")
    result = {f"{prefix}size4": task(args, "4 px", 4)}
    size, last = 8, f"{prefix}size4"
    while size <= args.image_size:
        for name, title, fade in (
            (f"size{size}_fade", f"fade to {size} px", True),
            (f"size{size}", f"{size} px", False),
        ):
            result[prefix + name] = task(args, title, size, start=f"stage:{last}", fade=fade)
            last = prefix + name
        size *= 2
    return result


def task(args, title, image_size, *, start="", fade=False):
    """Returns the task that trains one GAN.

    Args:
      args: parsed arguments.
      title: shown beside the progress bar.
      image_size: side of the images, in pixels.
      start: workdir of the GAN that it continues, or "stage:NAME"; empty for none.
      fade: whether the last block of networks that grow fades in.
    """
    game, optimizer, schedule, batch_size = _RECIPES[args.networks]
    config = tasks.common(args, title)
    config.task = "gan"
    options = arguments.options(args.options or (_SMOKE[args.networks] if args.smoke else ""))
    config.gan = {"networks": args.networks, "latent_size": args.latent_size, "options": options}
    config.start, config.fade = start, fade  # the GAN that this one continues, and whether its last block fades in
    config.data = tasks.generative_data(args.copy_and_resolve_references())
    config.data.image_size = image_size
    config.game = {"name": game, **_GAME}
    config.augmentation = {"flip": True}
    config.ema_decay = 0.999 if args.networks == "progressive" else 0.0
    config.batch_size = batch_size or _BATCH.get(image_size, 8)
    config.num_steps = _STAGE_IMAGES // config.batch_size
    config.num_epochs = 0.0
    config.steps_per_call = 1
    config.optimizer = {
        name: {**optimizer, "schedule": {**schedule, "warmup_epochs": 0.0}} for name in ("generator", "discriminator")
    }
    config.metric_encoder = args.metric_encoder if image_size == args.image_size else ""
    config.log.evaluate_every_epochs = 10.0
    return tasks.shorten(config) if args.smoke else config
