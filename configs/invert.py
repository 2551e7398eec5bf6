"""Inverts a user's own pictures at their own size: each is turned into features and back.

    Q=runs/quickstart
    python -m arinv --config=configs/invert.py:inverter=$Q/robust_inverter,images=/my/photographs --workdir=runs/mine
    python -m arinv --config=configs/invert.py:standard=$Q/standard_inverter,robust=$Q/robust_inverter,images=cat.jpg \
        --workdir=runs/cat

Leaves a PNG of every picture's size for every inverter, overview.png with the first pictures above their
reconstructions, and reconstructions.csv. Killed, it goes on.

Arguments: images (a file or a folder), inverter, standard and robust (workdirs of inverters' trainings, one or more of
them), multiple (pictures are padded to a multiple of it; 0: the size that the inverter was trained on), edge (pixels of
reflection around them, cropped again), max_pixels (of the largest picture: memory grows with it), limit (at most so
many pictures; 0: all), num_pictures (in the overview), on_bad_image (error or skip), dtype, smoke (two pictures).
"""

from ml_collections import ConfigDict

from configs import arguments, defaults


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        images="",
        inverter="",
        standard="",
        robust="",
        multiple=0,
        edge=0,
        max_pixels=2**24,
        limit=0,
        num_pictures=8,
        on_bad_image="error",
        dtype="float32",
        smoke=False,
    )
    config = defaults.common(seed=0, title="inverting", dtype=args.dtype)
    config.task = "invert"
    inverters = {name: args[name] for name in ("inverter", "standard", "robust") if args[name]}
    config.inverters = ConfigDict(inverters)
    config.order = tuple(inverters)
    config.data = {"name": args.images, "on_bad_image": args.on_bad_image}
    config.multiple = args.multiple
    config.edge = args.edge
    config.max_pixels = args.max_pixels
    config.batch_pixels = 2**21  # of small pictures, which are inverted several at a time
    config.limit = 2 if args.smoke else args.limit
    config.log.num_pictures = args.num_pictures
    return config
