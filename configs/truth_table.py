"""Counts an attribute in images restored by two methods: what one of them shows that the other does not.

    python -m arinv --config=configs/truth_table.py:restoration=runs/restoration/restoration,attribute=edges \
        --workdir=runs/edges
    python -m arinv --config=configs/truth_table.py:restoration=runs/faces/restoration,attribute=runs/eyeglasses \
        --workdir=runs/eyeglasses_table --config.stages.truth_table.label=1

The attribute is a class of a classifier, or brightness, contrast or edges of a region above a threshold. The second
command's classifier is one of eyeglasses, of the size of the restored images:

    python -m arinv --config=configs/classifier.py:encoder=resnet18_imagenet,dataset=celeb_a,image_size=128 \
        --workdir=runs/eyeglasses --config.data.label=attributes/Eyeglasses

Without restoration= that is run first, with its networks (configs/restoration.py).

Arguments: dtype and smoke; of a restoration that is run networks, options, gan, autoencoder, aegan, encoder,
layer, metric_encoder, operator, operator_options, dataset, classes, data_dir, on_bad_image and image_size of
configs/restoration.py; and
  restoration  workdir of a finished restoration, whose own arguments hold; empty: one is run
  attribute    workdir of a classifier or zoo:NAME; or brightness, contrast or edges

Stages: those of configs/restoration.py unless restoration= is given, truth_table. Fields of truth_table that are often
set: methods (generative_encoder, invertgan), label (of the classifier), threshold and region (top, left, bottom, right,
shares of the sides), max_error and confidence (images restored with a larger error, or classified with less confidence,
are invalid; 0: none); stages.restoration.data.test_split and num_test for images of the training set, as in the paper.
"""

from configs import arguments, restoration, tasks


def get_config(arg=None):
    """Returns the stages: a restoration, unless there is one, then the table."""
    defaults = {**restoration.ARGUMENTS, "restoration": "", "attribute": "edges"}
    args = restoration.parse(arg, **defaults)
    stages, workdir = {}, args.restoration
    if workdir:
        theirs = restoration.ARGUMENTS.keys() - {"dtype", "smoke"}
        arguments.parse(arg, refused=dict.fromkeys(theirs, f"restoration={workdir} is finished"), **defaults)
    else:
        stages, workdir = restoration.stages(args), "stage:restoration"
    stages["truth_table"] = task(args, workdir)
    return tasks.experiment(stages)


def task(args, workdir):
    """Returns the task that counts.

    Args:
      args: parsed arguments.
      workdir: directory of a restoration, or "stage:NAME".
    """
    config = tasks.common(args, "truth table")
    config.task = "truth_table"
    config.restoration, config.attribute = workdir, args.attribute
    config.methods = ("generative_encoder", "invertgan")
    config.label = 1
    config.threshold = 0.1 if args.attribute == "edges" else 0.5
    config.region = (0.0, 0.0, 1.0, 1.0)
    config.max_error, config.confidence = 0.0, 0.0  # 0: all images are valid
    config.data = {"name": args.dataset}
    config.batch_size = 64
    return config
