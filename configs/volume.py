"""Restores the slices of a volume, stacks them, and cuts across another axis: porosity, invented and lost pores.

    python -m arinv --config=configs/volume.py:volume=blobs,options=base_width:256+max_width:64 --workdir=runs/blobs
    python -m arinv --config=configs/volume.py:volume=volume:rock.npy,image_size=256 --workdir=runs/rock

The slices across axis 0 of the test part of the volume are restored one by one. blobs is synthetic, not a scan.

Arguments: networks, options, gan, autoencoder, aegan, encoder, layer, operator, operator_options, image_size, dtype and
smoke of configs/restoration.py, and
  volume  blobs; or volume:PATH, of a .npy or .npz file [D, H, W] or a folder of slices, of which the last fifth is the
          test part

Stages: those of configs/restoration.py, volume. Fields of volume that are often set: threshold (voxels below it are
pores, in units of [0, 1] images), axis (1 or 2) and methods (generative_encoder, invertgan); data.window of the others
(x and y of the center and side of a window of the slices, in pixels; empty: the largest square in the center).
"""

from ml_collections import ConfigDict

from configs import restoration, tasks

_NOT = ("dataset", "classes", "data_dir", "on_bad_image", "metric_encoder")
_OWN = {name: value for name, value in restoration.ARGUMENTS.items() if name not in _NOT}


def get_config(arg=None):
    """Returns the stages: those of a restoration, then that of the volume."""
    return tasks.experiment(stages(restoration.parse(arg, volume="blobs", **_OWN)))


def stages(args, *, prefix=""):
    """Returns the stages of a restoration of slices, and that of the volume.

    Args:
      args: parsed arguments.
      prefix: prefix of the names of the stages.
    """
    if args.volume.partition(":")[0] not in ("blobs", "volume"):
        raise ValueError(f"volume={args.volume!r} must be blobs or volume:PATH")
    fixed = {"dataset": args.volume, "classes": "", "data_dir": "", "on_bad_image": "error", "metric_encoder": ""}
    args = ConfigDict({**args.to_dict(), **fixed})
    result = restoration.stages(args, prefix=prefix)
    slices = result[f"{prefix}restoration"]
    slices.data.num_test = 16 if args.smoke else 0  # a part of the volume would have fewer pores
    config = tasks.common(args, "volume")
    config.task = "volume"
    config.restoration = f"stage:{prefix}restoration"
    config.methods = ("generative_encoder", "invertgan")
    config.threshold = 0.5
    config.axis = 1
    config.data = {"name": args.volume}
    config.batch_size = 64
    result[f"{prefix}volume"] = config
    return result
