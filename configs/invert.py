"""Inverts images of your own at their own size: each is encoded into features, and reconstructed from them.

    Q=runs/quickstart
    python -m arinv --config=configs/invert.py:inverter=$Q/robust_inverter,images=/my/photographs --workdir=runs/mine
    python -m arinv --config=configs/invert.py:inverter=zoo:alexnet_small_l2_1,images=photos --workdir=runs/photographs
    python -m arinv --config=configs/invert.py:standard_inverter=$Q/standard_inverter,\
robust_inverter=$Q/robust_inverter,images=cat.jpg --workdir=runs/cat

Writes a PNG of every image and inverter, overview.png with the first images above their reconstructions, report.html
and reconstructions.csv. A run that was killed resumes.

Arguments:
  images        an image file, a folder, or photos (or photos:NAME+NAME): the photographs in scikit-image
  inverter, standard_inverter, robust_inverter: workdirs of trained inverters, or zoo:NAME (`arinv zoo` lists them), at
                least one
  on_bad_image  error, or skip
  dtype         float32 or bfloat16
  smoke         two images

Fields that are often set: multiple (images are padded to a multiple of it; 0: the size that the inverter was trained
on), edge (pixels of reflection around images, cropped again), data.max_side (larger images are reduced until their
longer side has it; 0: none), max_pixels (of the largest image: memory grows with it), limit (the number of images; 0:
all), log.num_images (in the overview).
"""

from configs import arguments, tasks


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(
        arg,
        images="",
        inverter="",
        standard_inverter="",
        robust_inverter="",
        on_bad_image="error",
        dtype="float32",
        smoke=False,
    )
    inverters = {"inverter": args.inverter, "standard": args.standard_inverter, "robust": args.robust_inverter}
    return tasks.invert(args, {name: workdir for name, workdir in inverters.items() if workdir}, args.images)
