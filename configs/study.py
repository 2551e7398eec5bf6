"""Studies inverters side by side: their images of perturbed, mixed, sampled and single features, and more.

    python -m arinv --config=configs/study.py --workdir=runs/study
    Q=runs/quickstart
    python -m arinv --config=configs/study.py:inverters=$Q/standard_inverter+$Q/robust_inverter --workdir=runs/mine
    python -m arinv --config=configs/study.py:inverters=zoo:alexnet_small_l2_1/conv2+zoo:alexnet_small_l2_1/conv5,\
images=photos,probes=perturb+reencode --workdir=runs/layers

Writes a sheet of images for each probe, its curves, its errors by layer where the names of inverters differ by the
layer alone (such as zoo:NAME/conv1+zoo:NAME/conv5), table.md and report.html with the mean of every number,
per_image.npz and results.json. A run that was killed resumes.

Arguments:
  inverters     workdirs of inverters, or zoo:NAME/LAYER (`arinv zoo` lists them), joined by "+"; empty: the standard
                and the robust one of the zoo
  images        a file, a folder, or photos:NAME+NAME: photographs of scikit-image; empty: test images of the dataset
  dataset       photos, cifar10, cats_vs_dogs, imagenet2012, tfds:NAME, folder:PATH or npz:PATH; its training images are
                those of the statistics of features and the neighbors
  data_dir      of TFDS
  on_bad_image  error, or skip
  probes        names joined by "+" of perturb, interpolate, sample, units, hue, brightness, grey, objects, neighbors,
                reencode; empty: all
  dtype         float32 or bfloat16
  smoke         eight images

Fields that are often set: data.num_test (images, 64; 0: all) and .num_train (for statistics and neighbors, 512; the
paper's histograms are of 4,096), log.num_images (of a sheet), layers (of neighbors, such as conv2,fc7; empty: three),
options.strengths (percent of the entries that are set to zero), .steps (percent of an interpolation), .scale (of
sampled features), .num_units, .hues (turns), .top, .factors (of the brightness), .iterations; batch_size.

Images have each inverter's own size.
"""

import re

from ml_collections import ConfigDict

from configs import arguments, tasks

PROBES = (
    "perturb",
    "interpolate",
    "sample",
    "units",
    "hue",
    "brightness",
    "grey",
    "objects",
    "neighbors",
    "reencode",
)


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(
        arg,
        inverters="",
        images="",
        dataset="photos",
        data_dir="",
        on_bad_image="error",
        probes="",
        dtype="float32",
        smoke=False,
    )
    workdirs = args.inverters.split("+") if args.inverters else arguments.ZOO.values()
    return task(args, entries(list(filter(None, workdirs))), title="study of inverters")


def entries(workdirs: list[str]) -> dict[str, str]:
    """Returns name -> workdir of inverters; names are the ends of the workdirs, as long as needed to differ."""
    parts = [[part for part in re.split(r"[/:]", workdir.replace(".", "_")) if part] for workdir in workdirs]
    names = ["inverter"] * len(workdirs)
    for length in range(1, 1 + max(map(len, parts), default=0)):
        names = ["_".join(part[-length:]) or "inverter" for part in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, workdirs, strict=True))
    return {f"{name}_{i}": workdir for i, (name, workdir) in enumerate(zip(names, workdirs, strict=True))}


def task(args: ConfigDict, inverters: dict[str, str], *, title: str) -> ConfigDict:
    """Returns the task that studies inverters.

    Args:
      args: parsed arguments; images, dataset, data_dir, on_bad_image, probes, dtype and smoke are read.
      inverters: name -> workdir of an inverter, "stage:NAME" or "zoo:NAME/LAYER".
      title: shown beside the progress bar, and heading of the report.
    """
    config = tasks.common(args, title)
    config.task = "study"
    config.inverters, config.order = inverters, tuple(inverters)
    config.images = args.images
    config.data = tasks.data(
        ConfigDict({**args.to_dict(), "encoder": "alexnet_small", "num_train": 512, "num_test": 64})
    )
    config.data.image_size = 0  # each inverter's own
    config.probes = tuple(filter(None, args.probes.split("+"))) or PROBES
    config.layers = ()
    config.options = {
        "strengths": (10, 30, 50, 70, 90),
        "steps": (0, 25, 50, 75, 100),
        "scale": 2.0,
        "num_units": 4,
        "hues": (1 / 3, 2 / 3),
        "top": 5,
        "factors": (0.1, 10.0),
        "iterations": (1, 2, 4, 6, 8, 12, 16, 20),
    }
    config.batch_size = 64
    return tasks.shorten(config) if args.smoke else config
