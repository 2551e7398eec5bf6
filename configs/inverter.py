"""Trains an encoder and the generator that inverts it, then evaluates both.

    python -m arinv --config=configs/inverter.py:encoder=resnet18,layer=block4,dataset=cifar10,eps=1.5 --workdir=runs/x
    python -m arinv --config=configs/inverter.py:encoder=resnet18,encoder_checkpoint=runs/resnet18,dataset=cifar10 \
        --workdir=runs/y

Arguments: those of configs/classifier.py, for the encoder, and
  layer               the feature to invert; empty: the encoder's
  loss                pixel, feature or gan, the paper's; pixel_balanced (feature with 1,000 times the pixel weight, for
                      short trainings), euclidean (squared differences; Adam of Dosovitskiy & Brox), deepsim or
                      deepsim_raw (DeePSiM's pixel weight, converted from pixels in 0..255, or as it stands)
  generator           default (the published one, else one that mirrors the encoder), mirror, nearest (with nearest
                      upsampling), or another published one: table_a4 (alexnet), dosovitskiy_brox or deepsim (caffenet)
  encoder_checkpoint  workdir of a trained classifier, which is inverted instead of a new one
  train_encoder       true: a copy of the encoder is trained with the generator, an autoencoder
  latent_size         above 0: number of latents of a variational autoencoder, read from the layer (loss.divergence is
                      the weight of their divergence from N(0, I))
  metrics             see configs/evaluate.py

Stages: encoder (not of hog, lbp and sift, which have no weights; their loss compares pixels alone, such as
loss=euclidean), inverter, evaluation. Fields that are often set: stages.inverter.num_epochs (the paper's 90),
stages.inverter.batch_size (128), stages.inverter.optimizer.generator.schedule.learning_rate (3e-4; the discriminator's
is four times that), stages.inverter.loss.comparator (workdir of a classifier or an autoencoder whose features the loss
compares in the encoder's place), stages.inverter.encoder.allow_other_size (true: the encoder may have been trained on
images of another size, as VGG-16's of 64 px that the paper inverts at 224 px), stages.evaluation.attack.eps.
"""

from configs import arguments, encoders, tasks

_INVERTER = {
    "layer": "",
    "loss": "feature",
    "generator": "default",
    "encoder_checkpoint": "",
    "train_encoder": False,
    "latent_size": 0,
    "metrics": "psnr+ssim+normalized_error",
}


def get_config(arg=None):
    """Returns the stages encoder (unless there is a checkpoint), inverter, evaluation."""
    args = encoders.resolve(arguments.parse(arg, **arguments.ENCODER, **_INVERTER))
    stages, checkpoint = {}, args.encoder_checkpoint
    has_weights = encoders.has_weights(args.encoder)
    if has_weights and not checkpoint:
        stages, checkpoint = {"encoder": tasks.classifier(args, title="encoder")}, "stage:encoder"
    stages["inverter"] = tasks.inverter(args, checkpoint)
    trains = args.train_encoder or args.latent_size > 0
    own = {name: args[name] for name in ("latent_size", "generator")} | {"train": trains}
    stages["inverter"].encoder.update(own if has_weights else {"options": arguments.options(args.options)} | own)
    stages["inverter"].loss.divergence = 1.0 if args.latent_size > 0 else 0.0
    stages["evaluation"] = tasks.evaluate(args, "stage:inverter")
    return tasks.experiment(stages)
