"""Writes a trained encoder, or an inverter's generator, as model.safetensors for PyTorch.

    python -m arinv --config=configs/export_torch.py:checkpoint=runs/quickstart/robust_encoder --workdir=runs/export

Any CPU, seconds. `model.load_state_dict(safetensors.torch.load_file("runs/export/model.safetensors"))` reads it:
encoders with torchvision's names, wide ResNets with RobustBench's, generators with those of the released code of
Rojas-Gomez et al. 2022. PyTorch's networks take normalised pixels; mean and deviation stand in the file's header.

Arguments: checkpoint (the workdir of a classifier's or an inverter's training), smoke (changes nothing).
"""

from ml_collections import ConfigDict

from configs import arguments


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(arg, checkpoint="", smoke=False)
    return ConfigDict({"title": "export", "task": "export_torch", "checkpoint": args.checkpoint})
