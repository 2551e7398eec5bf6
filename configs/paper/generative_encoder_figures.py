"""Figures 5 to 14 of the Generative Encoder in one page: every operator with one generator, rocks, attributes, BEGAN.

    python -m arinv --config=configs/paper/generative_encoder_figures.py:data_dir=/data/tfds --workdir=runs/ge
    python -m arinv --config=configs/paper/generative_encoder_figures.py:scale=paper --workdir=runs/ge_paper

5 noise, 6 blur, 7 reduced images, 8 masked blocks, 9 the error during the search, 10 details (and 11), 12 a volume cut
across its slices, 13 images with an attribute by one method alone, 14 another generator. Figures 5 to 10 and 13 share
one generator; for each operator an autoencoder and an AEGAN are trained. scale=paper: CelebA at 128 px, synthetic
volumes at 256 px, BEGAN at 64 px, an accelerator: Figure 9 of all test images, 5 to 8 and 14 of 64, and 13, with
Table 4, of 1,000 training images with eyeglasses, which a classifier counts; scale=small: a class of CIFAR-10 and
volumes at 32 px, narrow networks, 64 images. Figures 5 to 10 and 13 with gan=zoo:progressive_automobile took an hour on
two CPU cores, with one AEGAN, and 12, with 400 steps in each stage of its GAN, half an hour; launch/records/README.md
has the results.

An AEGAN is a generator with an encoder of its own and one more loss term for degraded images, as the autoencoder's. Of
the methods only the search has one generator for all operators: the paper states the same conditions for all methods,
and that others train the whole model for each kind of noise (section 5.3). Hence one AEGAN for each operator.

Arguments: scale, data_dir, dtype and smoke of configs/paper/README.md, and
  figures            joined by "+", of 5 to 10 and 12 to 14
  attribute          of Figure 13: workdir of a classifier, or brightness, contrast or edges (configs/truth_table.py);
                     empty: edges, of faces at scale=paper a classifier of eyeglasses that is trained here
  volume             of Figure 12: blobs, which is synthetic, or volume:PATH (configs/volume.py)
  networks, options  of the GAN: progressive, began or dcgan
  gan                workdir of a GAN, which is used instead of a new one
  encoder            workdir or zoo:NAME of the robust encoder, of image_size unless it is the default; empty:
                     that of the scale, of other images than the paper's none
  metric_encoder     likewise of the classifier whose features FID compares
  dataset, classes   of configs/restoration.py: the images of all figures but 12, and labels to keep (empty: all),
                     instead of the scale's
  image_size         side of the images, in pixels; 0: the scale's

Stages: robust_encoder (scale=paper), those of the GAN; for each operator OPERATOR_autoencoder, OPERATOR_aegan and
OPERATOR_restoration; eyeglasses and eyeglasses_restoration (scale=paper); truth_table, table4 (Table 4 beside the
paper's); those of configs/volume.py with the prefix rock_; those of configs/restoration.py with the
prefix began_; report.
"""

from ml_collections import ConfigDict

from configs import arguments, autoencoder, restoration, tasks, truth_table, volume
from configs.paper import inverse_problems, setting

_TEXT = "Images were degraded by several operators and restored by every method, all with one generator."
_ATTRIBUTE = "An attribute in images restored by the search that compares codes (first) and by invertGAN (second)."
# Figure -> operator, and file that its restoration writes.
_RESTORED = {
    "5": ("noise", "restored.png"),
    "6": ("blur", "restored.png"),
    "7": ("downsample", "restored.png"),
    "8": ("mask", "restored.png"),
    "9": ("identity", "curve.png"),
    "10": ("identity", "details.png"),
}
_HEADINGS = {
    "5": "noise",
    "6": "blur",
    "7": "reduced images",
    "8": "masked blocks",
    "9": "error during the search",
    "10": "details",
    "12": "a volume, cut across its slices",
    "13": "an attribute",
    "14": "BEGAN as the generator",
}
_SMALL_OPTIONS = {"blur": "sigma:1.5+window:7"}  # the defaults are for 128 px
_ROCK_SIZE, _BEGAN_SIZE = 256, 64  # px, of scale=paper
_NUM_EYEGLASSES = 1000  # likewise, training images (section 5.5)


def get_config(arg=None):
    """Returns the stages: a GAN, what each figure needs, and the report."""
    own = {"figures": "+".join(_HEADINGS), "attribute": "", "volume": "blobs"}
    args = inverse_problems.parse(arg, smoke={"figures": "9+13"}, **own)
    chosen = arguments.choices("figures", args.figures, _HEADINGS)
    operators = dict.fromkeys(_RESTORED[figure][0] for figure in chosen if figure in _RESTORED)
    counts_eyeglasses = "13" in chosen and not args.attribute and inverse_problems.has_faces(args)
    if "13" in chosen and not counts_eyeglasses:
        operators["identity"] = None
    stages, generator = {}, ""
    if operators or counts_eyeglasses:
        stages = inverse_problems.robust_encoder(args) if operators else {}
        trainings, generator = restoration.gan_of(args)
        stages |= trainings
    for operator in operators:
        stages |= _operator_stages(args, operator, generator)
    places = {figure: f"stage:{operator}_restoration/{file}" for figure, (operator, file) in _RESTORED.items()}
    if "12" in chosen:
        stages |= volume.stages(_sized(args, _ROCK_SIZE, {}), prefix="rock_")
        places["12"] = "stage:rock_volume/cuts.png"
    if "13" in chosen:
        attribute, restored = args.attribute or "edges", "identity"
        if counts_eyeglasses:
            attribute, restored = "stage:eyeglasses", "eyeglasses"
            stages |= _eyeglasses_stages(args, generator)
        own = ConfigDict({**args.to_dict(), "attribute": attribute})
        stages["truth_table"] = truth_table.task(own, f"stage:{restored}_restoration")
        stages["table4"] = setting.report("Generative Encoder 4", {"attribute": "stage:truth_table"}, text=_ATTRIBUTE)
        places["13"] = "stage:truth_table/images.png"
    if "14" in chosen:
        began = {"networks": "began", "options": "width:32" if args.scale == "small" and not args.smoke else ""}
        stages |= restoration.stages(_sized(args, _BEGAN_SIZE, began), prefix="began_")
        places["14"] = "stage:began_restoration/restored.png"
    restorations = [name for name in stages if name.endswith("restoration")]
    report = tasks.comparison(
        {name.removesuffix("_restoration"): f"stage:{name}" for name in restorations},
        title="Figures of the Generative Encoder",
        text=_TEXT,
        figures={f"Figure {figure}: {_HEADINGS[figure]}": places[figure] for figure in chosen},
    )
    measured = [name for name in restorations if name == "identity_restoration"]
    networks = {"began" if figure == "14" else args.networks for figure in chosen}
    args = ConfigDict({**args.to_dict(), "networks": " and ".join(sorted(networks))})
    return inverse_problems.finish(args, stages, report, measured=measured)


def _operator_stages(args, operator, generator):
    """Returns the trainings of an autoencoder and an AEGAN for an operator, and the restoration."""
    options = _SMALL_OPTIONS.get(operator, "") if args.scale == "small" or args.smoke else ""
    own = ConfigDict({**args.to_dict(), "operator": operator, "operator_options": options})
    networks = {
        f"{operator}_autoencoder": autoencoder.task(own, title=f"autoencoder, {operator}", gan=generator),
        f"{operator}_aegan": inverse_problems.aegan(own),
    }
    encoder, aegan = (f"stage:{name}" for name in networks)
    return {**networks, f"{operator}_restoration": restoration.task(own, generator, encoder, aegan=aegan)}


def _eyeglasses_stages(args, generator):
    """Returns the training of a classifier of eyeglasses, and reconstructions of training images with eyeglasses."""
    attribute = "attributes/Eyeglasses"
    config = restoration.task(args, generator, "stage:identity_autoencoder")
    config.methods, config.metric_encoder = ("generative_encoder", "invertgan"), ""  # they are counted, not measured
    config.data.label, config.data.classes = attribute, (1,)
    config.data.test_split, config.data.num_test = config.data.train_split, _NUM_EYEGLASSES
    return {
        "identity_autoencoder": autoencoder.task(args, title="autoencoder, identity", gan=generator),
        "eyeglasses": inverse_problems.classifier(args, attribute, eps=0.0, title="eyeglasses"),
        "eyeglasses_restoration": config,
    }


def _sized(args, paper_size, changes):
    """Returns the arguments of networks of their own, at the paper's size where the scale is the paper's."""
    size = paper_size if args.scale == "paper" and not args.smoke else args.image_size
    encoder = args.encoder if size == args.image_size else ""
    metric_encoder = args.metric_encoder if size == args.image_size else ""
    own = {"gan": "", "image_size": size, "encoder": encoder, "metric_encoder": metric_encoder}
    return ConfigDict({**args.to_dict(), **own, **changes})
