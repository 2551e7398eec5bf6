"""Restores images of your own: degraded first, to see how far a method gets, or degraded already.

    python -m arinv --config=configs/restore.py:gan=zoo:progressive_automobile,autoencoder=zoo:progressive_automobile,\
operator=mask,images=/my/cars --workdir=runs/mine
    python -m arinv --config=configs/restore.py:gan=runs/gan/size32,autoencoder=runs/blur/autoencoder,operator=blur,\
images=blurred.png,degraded=true --workdir=runs/sharp

Images are resized to the size of the networks: the largest square in the center. The networks should be of images like
these (configs/gan.py:dataset=folder:/my/images), the autoencoder of the operator. Writes a PNG of every image and
method, overview.png, report.html and restorations.csv. A run that was killed resumes.

Arguments:
  gan, autoencoder, aegan, encoder, layer, operator, operator_options  of configs/restoration.py; without autoencoder=
                invertGAN restores alone
  images        an image file, a folder, or photos (or photos:NAME+NAME): the photographs in scikit-image
  mask          with operator=mask an image file that is black where the images are missing, instead of random blocks
  degraded      whether the images are degraded already, as the operator says
  on_bad_image  error, or skip
  dtype         float32 or bfloat16
  smoke         two images, three steps

Fields that are often set: solver (num_steps, num_starts, threshold, ... of configs/restoration.py), methods, limit (the
number of images; 0: all), log.num_images (in the overview).
"""

from configs import arguments, restoration

_OWN = {
    "gan": "",
    "autoencoder": "",
    "aegan": "",
    "encoder": "",
    "layer": "",
    "operator": "identity",
    "operator_options": "",
    "images": "",
    "mask": "",
    "degraded": False,
    "on_bad_image": "error",
    "dtype": "float32",
    "smoke": False,
}


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(arg, **_OWN)
    if args.encoder and not args.gan:
        raise ValueError(f"encoder={args.encoder} needs gan=, the generator whose images are searched for")
    restoration.check_layer(args)
    config = restoration.search(args, "restore", networks=(args.gan, args.autoencoder, args.aegan))
    searches = ("invertgan", *(["generative_encoder"] if args.autoencoder else []), *config.encoders)
    config.methods = (
        *(name for name in ("autoencoder", "aegan") if args[name]), *(searches if args.gan or not args.aegan else ())
    )  # fmt: skip
    config.mask, config.degraded = args.mask, args.degraded
    config.data = {"name": args.images, "on_bad_image": args.on_bad_image, "max_side": 0}
    config.batch_size = 16
    config.limit = 0
    if args.smoke:
        config.limit, config.batch_size, config.solver.num_steps = 2, 8, 3
    return config
