"""Writes a trained encoder, or the generator of an inverter, as model.safetensors for PyTorch.

    python -m arinv --config=configs/export_torch.py:checkpoint=runs/quickstart/robust_encoder --workdir=runs/export

Seconds on any CPU. `model.load_state_dict(safetensors.torch.load_file("runs/export/model.safetensors"))` reads it:
encoders with torchvision's names, wide ResNets with RobustBench's, generators with those of the released code of
Rojas-Gomez et al. 2022. PyTorch's networks take normalized pixels; mean and deviation are in the header of the file.

Arguments: checkpoint (workdir of a trained classifier or inverter), smoke (changes nothing).
"""

from ml_collections import ConfigDict

from configs import arguments


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(arg, checkpoint="", smoke=False)
    return ConfigDict({"title": "export", "task": "export_torch", "checkpoint": args.checkpoint})
