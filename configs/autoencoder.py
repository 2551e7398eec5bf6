"""The autoencoder of the Generative Encoder, on images, on those of a GAN, and on degraded images that it restores.

    python -m arinv --config=configs/autoencoder.py:dataset=cifar10,classes=1,gan=runs/gan/size32,operator=mask \
        --workdir=runs/autoencoder
    python -m arinv --config=configs/autoencoder.py:networks=aegan,dataset=cifar10,classes=1 --workdir=runs/aegan

Arguments: dataset, classes, data_dir, on_bad_image, dtype and smoke of configs/classifier.py, and
  networks     conv, the published ConvAE; aegan, an autoencoder whose decoder is the generator of a progressive GAN and
               is trained with its discriminator, at the full size at once
  latent_size  length of the codes; 0: the published 256, or 512 of aegan
  options      of aegan: base_width:256+max_width:64, learned_variance:false (codes of variance 1)
  gan          workdir of a GAN (configs/gan.py), whose images are half of each batch; empty: images alone; not of aegan
  operator, operator_options  of configs/restoration.py
  image_size   side of the images, in pixels

Fields that are often set: num_epochs, loss.restoration (weight of the error of restored images; 0: reconstruction
alone); of aegan loss.adversarial, loss.reconstruction, loss.divergence and ema_decay.
"""

from configs import arguments, tasks

_OWN = {
    "networks": "conv",
    "latent_size": 0,
    "options": "",
    "gan": "",
    "operator": "identity",
    "operator_options": "",
    "image_size": 32,
}


def get_config(arg=None):
    """Returns the task."""
    args = arguments.parse(arg, **arguments.IMAGES | _OWN)
    if args.networks != "aegan":
        if args.options:
            raise ValueError(f"options={args.options} has no effect on networks={args.networks}; leave it out")
        config = task(args, title="autoencoder")
        config.autoencoder = {"networks": args.networks, "latent_size": args.latent_size}
        return config
    if args.gan:
        raise ValueError(f"networks=aegan trains its own generator; leave out gan={args.gan}")
    config = aegan(args, title="AEGAN")
    config.autoencoder.latent_size = args.latent_size
    return config


def task(args, *, title, gan=None):
    """Returns the task that trains an autoencoder.

    Args:
      args: parsed arguments.
      title: shown beside the progress bar.
      gan: workdir of a GAN or "stage:NAME"; None for args.gan.
    """
    config = _training(args, title)
    config.task = "autoencoder"
    config.autoencoder = {"networks": "conv", "latent_size": 0}
    config.gan = args.gan if gan is None else gan
    config.loss = {"restoration": _restoration(args)}
    config.optimizer = _adam(1e-4, b1=0.9, b2=0.999)  # not stated in the paper, nor are batch and epochs
    return tasks.shorten(config) if args.smoke else config


def aegan(args, *, title):
    """Returns the task that trains an AEGAN.

    Args:
      args: parsed arguments; options are those of its generator.
      title: shown beside the progress bar.
    """
    config = _training(args, title)
    config.task = "aegan"
    options = args.options or ("base_width:32+max_width:16" if args.smoke else "")
    config.autoencoder = {
        "networks": "aegan",
        "latent_size": 0,
        "options": {"learned_variance": True, **arguments.options(options)},
    }
    # 1 for images in [-1, 1], which the paper's are; squared errors of images in [0, 1] are a quarter of theirs.
    config.loss = {"adversarial": 1.0, "reconstruction": 4.0, "divergence": 1.0, "restoration": 4 * _restoration(args)}
    config.ema_decay = 0.999
    config.optimizer = {name: _adam(1e-3, b1=0.0, b2=0.99) for name in ("autoencoder", "discriminator")}  # pGAN's
    return tasks.shorten(config) if args.smoke else config


def _training(args, title):
    config = tasks.common(args, title)
    config.operator = tasks.operator(args)
    config.data = tasks.generative_data(args)
    config.augmentation = {"flip": True}
    config.num_steps = 0
    config.num_epochs = 90.0
    config.batch_size = 64
    config.steps_per_call = 1
    return config


def _restoration(args):
    return 0.0 if args.operator == "identity" else 1.0


def _adam(rate, *, b1, b2):
    schedule = {"name": "constant", "learning_rate": rate, "warmup_epochs": 0.0}
    return {"name": "adam", "b1": b1, "b2": b2, "max_gradient_norm": 0.0, "schedule": schedule}
