"""Denoises a photograph, or all photographs in a folder, with a trained denoiser.

    python -m arinv --config=configs/denoise.py:denoiser=runs/denoising/robust_denoiser,images=photo.jpg \
        --workdir=runs/denoised

Leaves the denoised photographs as PNG files of the same names in denoised/, and before_after.png. Nothing is added to
the photographs unless add_noise says so, which shows on clean ones what the denoiser does. Large ones are denoised in
tiles, in the memory of one tile.

Arguments: denoiser (the workdir of a denoiser's training), images (a file or a folder), on_bad_image (error, skip),
add_noise (standard deviation, such as 50/255), protocol (of added noise: clipped, unclipped), tile (greatest side that
is denoised at once, 0: the whole photograph), overlap (of tiles), multiple (of which padded sides are multiples), seed,
dtype, smoke (changes nothing: it is short).
"""

from configs import arguments, defaults


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        denoiser="",
        images="",
        on_bad_image="error",
        add_noise=0.0,
        protocol="clipped",
        tile=1024,
        overlap=192,
        multiple=32,
        seed=0,
        dtype="float32",
        smoke=False,
    )
    config = defaults.common(seed=args.seed, title="denoising", dtype=args.dtype)
    config.task = "denoise"
    config.denoiser = args.denoiser
    config.data = {"name": args.images, "on_bad_image": args.on_bad_image}
    config.noise = {"sigma": args.add_noise, "protocol": args.protocol}
    config.tiles = {"multiple": args.multiple, "tile": args.tile, "overlap": args.overlap}
    return config
