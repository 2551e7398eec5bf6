"""Denoises an image, or all images in a folder, with a trained denoiser.

    python -m arinv --config=configs/denoise.py:denoiser=runs/denoising/robust_denoiser,images=photo.jpg \
        --workdir=runs/denoised

Writes the denoised images as PNG files of the same names in denoised/, and before_after.png. Large ones are denoised in
tiles, in the memory of one tile.

Arguments:
  denoiser      workdir of a trained denoiser
  images        an image file or a folder
  on_bad_image  error, or skip
  dtype         float32 or bfloat16
  smoke         changes nothing

Fields that are often set: noise.sigma (standard deviation of noise that is added first, such as 50/255; 0: none),
noise.protocol (clipped, unclipped), tiles.tile (the largest side that is denoised at once, 1024; 0: the whole image),
tiles.overlap (192), tiles.multiple (padded sides are multiples of it, 32).
"""

from configs import arguments, tasks


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(arg, denoiser="", images="", on_bad_image="error", dtype="float32", smoke=False)
    config = tasks.common(args, "denoising")
    config.task = "denoise"
    config.denoiser = args.denoiser
    config.data = {"name": args.images, "on_bad_image": args.on_bad_image}
    config.noise = {"sigma": 0.0, "protocol": "clipped"}
    config.tiles = {"multiple": 32, "tile": 1024, "overlap": 192}
    return config
