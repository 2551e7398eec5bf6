"""Restores degraded images by an autoencoder, invertGAN and the Generative Encoder, from the same starts.

    python -m arinv --config=configs/restoration.py:dataset=cifar10,classes=1,operator=mask,gan=runs/gan/size32 \
        --workdir=runs/restoration

invertGAN searches for the latent of a GAN whose image, degraded in the same way, is nearest to the degraded one, pixel
by pixel; the Generative Encoder compares the codes of both instead, by the autoencoder's encoder.

Without gan= a GAN is trained first (configs/gan.py), and without autoencoder= an autoencoder, for the operator.

Arguments: dataset, classes, data_dir, on_bad_image, dtype and smoke of configs/classifier.py, and
  networks     of the GAN that is trained here: progressive, began or dcgan
  options      of those networks; not with gan=
  gan          workdir of a GAN, which is used instead of a new one
  autoencoder  workdir of an autoencoder (configs/autoencoder.py), which is used instead of a new one
  aegan        workdir of an AEGAN (configs/autoencoder.py:networks=aegan), one more method; empty: none
  encoder      workdir of a classifier or an inverter, or zoo:NAME, whose features a further search compares
  layer        layer of these features, any of the encoder's (configs/README.md); empty: the one that the inverter
               inverts, or the classifier's default
  metric_encoder  workdir of a classifier or zoo:NAME, whose features FID compares; empty: no FID
  operator     identity, noise, multiplicative_noise, mask, blur, downsample or sensing
  operator_options  sigma of the noises; share of mask; sigma and window of blur, such as sigma:1.5+window:7; factor of
               downsample; share, sigma and seed of sensing
  image_size   side of the images, in pixels; 0: 32, or 64 of began and dcgan

Stages: those of the GAN, autoencoder, restoration. Fields that are often set: stages.restoration.solver (num_steps,
learning_rate, penalty, threshold: images whose loss is below it are not updated further, num_starts: of which the best
is used), .allow_other_size (true: encoder and metric_encoder may have been trained on images of another size),
.methods, .curve_steps (of the errors in results.json) and .data.num_test (64; 0: all);
stages.size*.num_steps, stages.autoencoder.num_epochs.
"""

from ml_collections import ConfigDict

from configs import arguments, autoencoder, gan, tasks

ARGUMENTS = {
    "networks": "progressive",
    "options": "",
    "gan": "",
    "autoencoder": "",
    "aegan": "",
    "encoder": "",
    "layer": "",
    "metric_encoder": "",
    "operator": "identity",
    "operator_options": "",
    **arguments.IMAGES,
}


def get_config(arg=None):
    """Returns the stages: a GAN and an autoencoder, unless there are some, then the restoration."""
    return tasks.experiment(stages(parse(arg, **ARGUMENTS)))


def parse(arg, **defaults):
    """Returns the arguments of a restoration.

    Args:
      arg: "name=value,name=value", or None.
      **defaults: every argument with its default.

    Raises:
      ValueError: options of a GAN that is not trained, a layer without an encoder, or as `arguments.parse`.
    """
    args = arguments.parse(arg, **defaults)
    if args.gan and args.options:
        raise ValueError(f"options={args.options} has no effect on gan={args.gan}; leave it out")
    check_layer(args)
    return args


def check_layer(args):
    """Checks that a layer is that of an encoder.

    Args:
      args: parsed arguments; encoder and layer are read.

    Raises:
      ValueError: a layer without an encoder.
    """
    if args.layer and not args.encoder:
        raise ValueError(f"layer={args.layer} needs encoder=, the network whose features are compared")


def stages(args, *, prefix=""):
    """Returns the stages of a restoration: a GAN and an autoencoder, unless there are some, then the restoration.

    Args:
      args: parsed arguments; image_size is set where it is 0.
      prefix: prefix of the names of the stages.
    """
    result, generator = gan_of(args, prefix=prefix)
    encoder = args.autoencoder
    if not encoder:
        result[f"{prefix}autoencoder"] = autoencoder.task(args, title="autoencoder", gan=generator)
        encoder = f"stage:{prefix}autoencoder"
    result[f"{prefix}restoration"] = task(args, generator, encoder)
    return result


def gan_of(args, *, prefix="", latent_size=0):
    """Returns the stages that train the GAN, none where args.gan is one, and where it is.

    Args:
      args: parsed arguments; image_size is set where it is 0.
      prefix: prefix of the names of the stages.
      latent_size: length of the latents; 0: the published one.
    """
    default, _ = gan.image_sizes(args.networks)
    args.image_size = args.image_size or (8 if args.smoke else default)
    if args.gan:
        return {}, args.gan
    own = {"latent_size": latent_size, "metric_encoder": ""}
    trainings = gan.stages(ConfigDict({**args.to_dict(), **own}), prefix=prefix)
    return trainings, f"stage:{list(trainings)[-1]}"


def task(args, generator, encoder, *, aegan=""):
    """Returns the task that restores test images.

    Args:
      args: parsed arguments.
      generator: workdir of a GAN, or "stage:NAME".
      encoder: likewise of an autoencoder.
      aegan: likewise of an AEGAN; empty for args.aegan.
    """
    config = search(args, "restoration", networks=(generator, encoder, aegan or args.aegan))
    config.methods = (
        "autoencoder", *(["aegan"] if config.aegan else []), "invertgan", "generative_encoder", *config.encoders
    )  # fmt: skip
    config.latent_size = 0  # that the GAN must have; 0: any
    config.metric_encoder = args.metric_encoder
    config.curve_steps = (0, 100, 400, 1000, 1400)
    config.data = tasks.generative_data(args)
    config.data.num_test = 64
    config.batch_size = 64
    if args.smoke:
        tasks.shorten(config)
        config.solver.num_steps = 3
    return config


def search(args, name, *, networks):
    """Returns the fields that tasks of restoration share: networks, operator and solver.

    Args:
      args: parsed arguments; encoder, layer, operator, operator_options and dtype are read.
      name: name of the task.
      networks: workdirs of a GAN, an autoencoder and an AEGAN, or "stage:NAME"; empty for none.
    """
    config = tasks.common(args, f"restoring, {args.operator}")
    config.task = name
    config.gan, config.autoencoder, config.aegan = networks
    config.encoders = {"features": args.encoder} if args.encoder else {}
    config.layer = args.layer  # of the encoders
    config.allow_other_size = False  # whether encoders, and metric_encoder, may be of images of another size
    config.operator = tasks.operator(args)
    config.solver = {"num_steps": 1400, "learning_rate": 0.1, "penalty": 0.0, "threshold": 0.0, "num_starts": 1}
    return config
