"""Table 8: one-vs-all anomaly detection on CIFAR-10 and Cats-vs-Dogs, by standard and robust features.

    python -m arinv --config=configs/paper/table8.py:data_dir=/data/tfds --workdir=runs/table8
    python -m arinv --config=configs/paper/table8.py:scale=paper,dtype=bfloat16 --workdir=runs/table8

ADGAN is a published row. scale=paper: AlexNets trained on ImageNet, images of 224 px; scale=small: alexnet_small
trained on CIFAR-10, images of 32 px, 720 anomalous images a class. Encoders trained on CIFAR-10 have learned its
classes, the anomalous ones among them; those trained on ImageNet have not.

Arguments: scale, encoder, options, dataset, data_dir, eps, dtype and smoke of configs/paper/README.md (dataset is the
encoders'), and
  datasets                          whose classes are the normal ones in turn, joined by "+"
  standard_encoder, robust_encoder  trained classifiers, which are used instead of new ones

Stages: standard_encoder, robust_encoder; for each dataset and both DATASET_standard_inverters and
DATASET_standard_evaluation; report. Fields that are often set: those of configs/anomaly.py.
"""

from ml_collections import ConfigDict

from configs import anomaly, tasks
from configs.paper import setting

_WITHOUT = dict.fromkeys(("metrics", "lpips"), "table8 and table_a3 measure AUROC alone")
_TEXT = (
    "A generator that was trained on one class inverts the features of an encoder. Images that it cannot reconstruct "
    "from the best latent of a search are called anomalous."
)


def get_config(arg=None):
    """Returns the stages: two encoders, inverters and evaluations for each dataset, the report."""
    args = parse(arg)
    detections, entries = stages(args)
    shown = tuple(f"{entry}: mean" for entry in entries)
    return setting.finish(args, detections, setting.report("8", entries, text=_TEXT, rows=shown))


def parse(arg):
    """Returns the resolved arguments."""
    args = setting.parse(arg, paper=setting.ALEXNET, without=_WITHOUT, **setting.PAIR, datasets="cifar10+cats_vs_dogs")
    if args.smoke:
        args.datasets = "photos"
    return args


def stages(args):
    """Returns the stages but the report, and name -> where the evaluation is."""
    result, workdirs = tasks.encoder_pair(args)
    entries = {}
    for dataset in args.datasets.split("+"):
        prefix = dataset.replace(":", "_").replace("/", "_").replace(".", "_")
        own = ConfigDict({**args.to_dict(), "dataset": dataset, "classes": "", "extra": "", "num_test": 0})
        detections, evaluations = anomaly.stages(own, workdirs, prefix=f"{prefix}_")
        for name, workdir in evaluations.items():
            detections[workdir.removeprefix("stage:")].attack.eps = 0.0  # the paper attacks no score
            entries[f"{prefix} {name}"] = workdir
        result |= detections
    return result, entries
