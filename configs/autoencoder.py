"""The autoencoder of the Generative Encoder, on images, on those of a GAN, and on degraded images that it restores.

    python -m arinv --config=configs/autoencoder.py:dataset=cifar10,classes=1,gan=runs/gan/size32,operator=mask \
        --workdir=runs/autoencoder

Arguments: dataset, classes, data_dir, on_bad_image, dtype and smoke of configs/classifier.py, and
  networks     conv, the published ConvAE
  latent_size  length of the codes; 0: the published 256
  gan          workdir of a GAN (configs/gan.py), whose images are half of each batch; empty: images alone
  operator, operator_options  of configs/restoration.py
  image_size   side of the images, in pixels

Fields that are often set: num_epochs, loss.restoration (weight of the error of restored images; 0: reconstruction
alone).
"""

from configs import arguments, tasks

_OWN = {
    "networks": "conv",
    "latent_size": 0,
    "gan": "",
    "operator": "identity",
    "operator_options": "",
    "dataset": "photos",
    "classes": "",
    "data_dir": "",
    "on_bad_image": "error",
    "image_size": 32,
    "dtype": "float32",
    "smoke": False,
}


def get_config(arg=None):
    """Returns the task."""
    return autoencoder(arguments.parse(arg, **_OWN), title="autoencoder")


def autoencoder(args, *, title, gan=None):
    """Returns the task that trains an autoencoder.

    Args:
      args: parsed arguments.
      title: shown beside the progress bar.
      gan: workdir of a GAN or "stage:NAME"; None for args.gan.
    """
    config = tasks.common(args, title)
    config.task = "autoencoder"
    config.autoencoder = {"networks": args.get("networks", "conv"), "latent_size": args.get("latent_size", 0)}
    config.gan = args.gan if gan is None else gan
    config.operator = {"name": args.operator, "options": arguments.encoder_options(args.operator_options)}
    config.data = tasks.data(args)
    config.loss = {"restoration": 0.0 if args.operator == "identity" else 1.0}
    config.augmentation = {"flip": True}
    config.num_steps = 0
    config.num_epochs = 90.0  # not stated in the paper, nor is the batch or the rate
    config.batch_size = 64
    config.steps_per_call = 1
    schedule = {"name": "constant", "learning_rate": 1e-4, "warmup_epochs": 0.0}
    config.optimizer = {"name": "adam", "b1": 0.9, "b2": 0.999, "max_gradient_norm": 0.0, "schedule": schedule}
    return tasks.shorten(config) if args.smoke else config
