"""Restores degraded images by an autoencoder, invertGAN and the Generative Encoder, from the same starts.

    python -m arinv --config=configs/restoration.py:dataset=cifar10,classes=1,operator=mask,gan=runs/gan/size32 \
        --workdir=runs/restoration

Without gan= it is grown first (configs/gan.py), and without autoencoder= that is trained for the operator.

Arguments: dataset, classes, data_dir, on_bad_image, dtype and smoke of configs/classifier.py, and
  gan          workdir of a GAN, which is used instead of a new one
  autoencoder  workdir of an autoencoder (configs/autoencoder.py), which is used instead of a new one
  encoder      workdir of a classifier or an inverter, or zoo:NAME, whose features a further search compares: at the
               classifier's default layer, or at the inverter's
  operator     identity, noise, multiplicative_noise, mask, blur, downsample or sensing
  operator_options  sigma of the noises; share of mask; sigma and window of blur, such as sigma:1.5+window:7; factor of
               downsample; share, sigma and seed of sensing
  options      of the GAN's networks, where it is trained here
  image_size   side of the images, in pixels

Stages: those of the GAN, autoencoder, restoration. Fields that are often set: stages.restoration.solver (num_steps,
learning_rate, penalty, threshold, num_starts), .methods and .data.num_test (64); stages.size*.num_steps,
stages.autoencoder.num_epochs.
"""

from ml_collections import ConfigDict

from configs import arguments, autoencoder, gan, tasks

_OWN = {
    "gan": "",
    "autoencoder": "",
    "encoder": "",
    "operator": "identity",
    "operator_options": "",
    "options": "",
    "dataset": "photos",
    "classes": "",
    "data_dir": "",
    "on_bad_image": "error",
    "image_size": 0,
    "dtype": "float32",
    "smoke": False,
}


def get_config(arg=None):
    """Returns the stages: a GAN and an autoencoder, unless there are some, then the restoration."""
    args = arguments.parse(arg, **_OWN)
    args.image_size = args.image_size or (16 if args.smoke else 32)
    stages, generator, encoder = {}, args.gan, args.autoencoder
    if not generator:
        own = {"networks": "progressive", "latent_size": 0, "metric_encoder": ""}
        stages = gan.gan_stages(ConfigDict({**args.to_dict(), **own}))
        generator = f"stage:{list(stages)[-1]}"
    if not encoder:
        stages["autoencoder"] = autoencoder.autoencoder(args, title="autoencoder", gan=generator)
        encoder = "stage:autoencoder"
    stages["restoration"] = restoration(args, generator, encoder)
    return tasks.experiment(stages)


def restoration(args, generator, encoder):
    """Returns the task that restores test images."""
    config = tasks.common(args, f"restoring, {args.operator}")
    config.task = "restoration"
    config.gan, config.autoencoder = generator, encoder
    config.encoders = {"features": args.encoder} if args.encoder else {}
    config.methods = ("autoencoder", "invertgan", "generative_encoder", *config.encoders)
    config.operator = {"name": args.operator, "options": arguments.encoder_options(args.operator_options)}
    config.solver = {"num_steps": 1400, "learning_rate": 0.1, "penalty": 0.0, "threshold": 0.0, "num_starts": 1}
    config.data = tasks.data(ConfigDict({**args.to_dict(), "num_test": 64}))
    config.batch_size = 64
    if args.smoke:
        tasks.shorten(config)
        config.solver.num_steps = 3
    return config
