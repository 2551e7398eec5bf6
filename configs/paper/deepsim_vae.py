"""Variational autoencoders with DeePSiM's loss in place of the likelihood of pixels: samples and interpolations.

    python -m arinv --config=configs/paper/deepsim_vae.py:data_dir=/data/tfds --workdir=runs/deepsim_vae
    python -m arinv --config=configs/paper/deepsim_vae.py:scale=paper,dtype=bfloat16 --workdir=runs/vae_paper
    python -m arinv --config=configs/paper/deepsim_vae.py:setups=pixel+conv5,data_dir=/data/tfds --workdir=runs/vae

Generating Images with Perceptual Similarity Metrics based on Deep Networks (Dosovitskiy & Brox 2016), supplement,
Figure 7: samples with four comparators, without numbers. The encoder up to a layer, a normal distribution of latents
and a generator are trained together; the loss is the divergence from N(0, I) and the terms of a set-up:

  pixel                squared differences of pixels
  pixel_adversarial    and a discriminator
  pixel_feature        pixels, and conv5 of a comparator that was trained without labels
  unsupervised         all three terms: bottom left of the figure
  unsupervised_random  the same from random weights of the encoder, so that no label is used at all: bottom right
  conv5, fc6           all terms, with that layer of the classifier as comparator: top left, top right

The paper's comparator without labels is VideoNet, trained on videos. Here it is the encoder of an autoencoder that is
trained on the same images from random weights (stage comparator). Sizes and weights are not in the paper: 256 latents
after conv5, weight 1 of the divergence, and of the pixels where they are alone. scale=paper: CaffeNet on ImageNet at
227 px; scale=small: CIFAR-10 at 64 px, a CaffeNet with 512 units in fc6 and fc7 and ImageNet's normalization. A
recorded run: arinv/apps/studies/README.md.

Arguments: scale, encoder (caffenet), options, dataset, data_dir, metrics, lpips, dtype and smoke of
configs/paper/README.md, and
  setups            joined by "+"; the table above
  latent_size       number of the latents
  layer             convolutional layer that the latents are read from
  standard_encoder  trained CaffeNet, which is used instead of a new one
  robust_encoder    robustly trained encoder of the same architecture, which set-ups that start from a classifier start
                    from as well
  image_size        side in pixels; 0: the scale's

Stages: standard_encoder; comparator; for each set-up SETUP_vae and SETUP_vae_evaluation; likewise SETUP_vae_robust and
the others of a robust encoder; study, whose sheets are in the report; report. Fields that are often set:
stages.*_vae.loss.divergence, stages.study.data.num_test (samples).
`arinv.load("runs/deepsim_vae/unsupervised_vae").sample(key, 8)` draws more.
"""

from configs import arguments, tasks
from configs.paper import setting

_PAPER = {"encoder": "caffenet", "dataset": "imagenet2012", "image_size": 227, "loss": "deepsim"}
_SMALL = {**_PAPER, "dataset": "cifar10", "image_size": 64}
_SMOKE = {"setups": "unsupervised_random", "latent_size": 4, "image_size": 64, "options": "dense_width:16"}
_WITHOUT = {"eps": "deepsim_vae trains no robust encoder"}
_TEXT = (
    "Reconstructions by variational autoencoders with different losses; below them images of random latents and images "
    "on the way between the latents of two images. The comparator without labels is the encoder of an autoencoder of "
    "the same images, in VideoNet's place."
)
_TERMS = ("pixel", "feature", "adversarial")
# name -> (terms of the loss, compared layer, whether the comparator is the one without labels)
_SETUPS = {
    "pixel": (("pixel",), "conv5", False),
    "pixel_adversarial": (("pixel", "adversarial"), "conv5", False),
    "pixel_feature": (("pixel", "feature"), "conv5", True),
    "unsupervised": (_TERMS, "conv5", True),
    "unsupervised_random": (_TERMS, "conv5", True),
    "conv5": (_TERMS, "conv5", False),
    "fc6": (_TERMS, "fc6", False),
}


def get_config(arg=None):
    """Returns the stages: encoder, comparator, a variational autoencoder for each set-up, the study, the report."""
    own = {"setups": "+".join(_SETUPS), "latent_size": 256, "layer": "conv5", **setting.PAIR, "image_size": 0}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, smoke=_SMOKE, without=_WITHOUT, **own)
    setups = arguments.choices("setups", args.setups, _SETUPS)
    standard, stages, checkpoint = setting.standard_encoder(args)
    if all(name == "unsupervised_random" for name in setups):
        stages = {}
    rows = {f"{name}_vae": setting.Inversion(fields=_fields(args, name)) for name in setups}
    trainings, entries = setting.inversions(standard, checkpoint, rows)
    if any(stage.loss.get("comparator", "") for stage in trainings.values() if stage.task == "inverter"):
        stages = {**stages, "comparator": _comparator(standard)}
    study = setting.studied(args, trainings, probes="sample+interpolate", title="Samples and interpolations")
    title = "Variational autoencoders with DeePSiM's loss (Dosovitskiy & Brox 2016)"
    report = tasks.comparison(entries, title=title, text=_TEXT, figures=setting.sheets(study))
    return setting.finish(args, {**stages, **trainings, "study": study}, report, inverter_epochs=1.0)


def _fields(args, name):
    """Returns the fields of a set-up's training."""
    terms, layer, is_unsupervised = _SETUPS[name]
    encoder = {"train": True, "latent_size": args.latent_size}
    encoder["generator"] = "deepsim" if args.encoder == "caffenet" else "default"
    if name == "unsupervised_random":
        encoder |= _random(args)
    weights = setting.deepsim_weights(args, is_unsupervised=is_unsupervised)
    loss = {
        "feature_layer": layer,
        "divergence": 1.0,
        **{term: weights[term] if term in terms else 0.0 for term in _TERMS},
    }
    if terms == ("pixel",):
        loss["pixel"] = 1.0
    if is_unsupervised:
        loss["comparator"] = "stage:comparator"
    return {"encoder": encoder, "loss": loss}


def _random(args):
    """Returns the fields of an encoder that starts from random weights."""
    return {"start": "random", "checkpoint": "", "options": arguments.options(args.options)}


def _comparator(args):
    """Returns the training of the comparator without labels, an autoencoder of conv5."""
    stage = tasks.inverter(args, "", title="comparator without labels", loss_name="euclidean")
    generator = setting.dosovitskiy_brox_generator(args.encoder)
    stage.encoder.update({**_random(args), "layer": "conv5", "generator": generator, "train": True})
    return stage
