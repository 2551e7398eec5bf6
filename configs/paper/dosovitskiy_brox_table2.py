"""Table 2 of Dosovitskiy & Brox 2016: the error of images reconstructed from HOG, SIFT and LBP features.

    python -m arinv --config=configs/paper/dosovitskiy_brox_table2.py --workdir=runs/dosovitskiy_brox_table2
    python -m arinv --config=configs/paper/dosovitskiy_brox_table2.py:scale=paper --workdir=runs/paper2

Inverting Visual Representations with Convolutional Networks: one generator for each feature, trained with squared
differences of pixels. The error is the mean distance divided by the mean distance between two test images; of SIFT the
report has the number of keypoints in an image as well. scale=paper: all three features, ImageNet at 256 px, 15 epochs,
an accelerator; scale=small: HOG and LBP, the photographs of the package at 64 px, 10 epochs, on two cores 36 minutes,
errors of 0.475 (HOG) and 0.518 (LBP), that of the mean image 0.711. SIFT begins at a rate of 3e-4 there: at the paper's
1e-3, which scale=paper has, two of three trainings diverged within 150 steps.

Arguments: scale, dataset, data_dir, metrics, lpips, dtype and smoke of configs/paper/README.md, and
  features      joined by "+": hog, lbp, sift (needs the extra `sift`; from 128 px) and sift_skimage (another library);
                default: hog+sift+lbp at scale=paper, hog+lbp at scale=small
  first_octave  of SIFT: 0, or -1 for smaller keypoints
  image_size    side in pixels, a multiple of 64; 0: the scale's

Stages: for each feature FEATURE_inverter and FEATURE_evaluation; report.
"""

from ml_collections import ConfigDict

from configs import arguments, tasks
from configs.paper import setting

_PAPER = {
    "encoder": "hog",
    "dataset": "imagenet2012",
    "image_size": 256,
    "loss": "euclidean",
    "features": "hog+sift+lbp",
}
_SMALL = {"encoder": "hog", "dataset": "photos", "image_size": 64, "loss": "euclidean"}
_SMOKE = {"features": "hog", "image_size": 64}
_WITHOUT = dict.fromkeys(("encoder", "options", "eps"), "dosovitskiy_brox_table2 inverts features=, not encoders")
_SMALL_EPOCHS = 10.0  # of 10,000 images: as many steps as the other small tables take with CIFAR-10
_TEXT = "Images were reconstructed from features that have no weights, by one generator for each."
_KNOWN = ("hog", "sift", "sift_skimage", "lbp")


def get_config(arg=None):
    """Returns the stages: an inverter and its evaluation for each feature, the report."""
    own = {"features": "hog+lbp", "first_octave": 0, "image_size": 0}
    args = setting.parse(arg, paper=_PAPER, small=_SMALL, smoke=_SMOKE, without=_WITHOUT, **own)
    args.metrics = setting.with_metric(args.metrics, "normalized_error")
    stages, entries = {}, {}
    for name in arguments.choices("features", args.features, _KNOWN):
        feature = ConfigDict({**args.to_dict(), "encoder": name, "eps": 0.0})
        stages[f"{name}_inverter"] = tasks.inverter(feature, "", title=f"{name} inverter")
        if args.first_octave and name.startswith("sift"):
            stages[f"{name}_inverter"].encoder.options = {"first_octave": args.first_octave}
        stages[f"{name}_evaluation"] = tasks.evaluate(feature, f"stage:{name}_inverter", title=f"{name} evaluation")
        entries[name] = f"stage:{name}_evaluation"
    args.encoder = args.features
    report = setting.report("Dosovitskiy & Brox 2", entries, text=_TEXT)
    return setting.finish(args, stages, report, inverter_epochs=_SMALL_EPOCHS)
