"""Peak operations, memory and bandwidths of accelerators.

Peaks are those of dense products, without structured sparsity. "float32" is what JAX runs by default: TF32 on GPUs
that have it, one pass of bfloat16 on a TPU. Link and network bandwidths are of one device in one direction, half of
the sum that many data sheets give.

Sources: Google Cloud TPU documentation, pages v4, v5e, v5p and v6e (DCN from the pods' data center network
bandwidth), for the links of v4 Jouppi et al. 2023, Table 4; NVIDIA data sheets of A100 80GB, H100, H200, HGX B200 and
the other GPUs; for the network NVIDIA data sheets of DGX A100 (8 x 200 Gb/s), DGX H100, H200 and B200 (8 x 400 Gb/s).
"""

from typing import NamedTuple

from arinv.errors import unknown

_GB = 1e9
_TERA = 1e12


class Accelerator(NamedTuple):
    """One device.

    Attributes:
      title: the product.
      float32: operations per second; None where not published.
      bfloat16: likewise.
      memory: bytes on the device.
      memory_bandwidth: bytes per second between the device and its memory.
      link_bandwidth: bytes per second that it sends to other devices of its domain, over all its links together.
      domain: number of devices joined by such links: a node, or the largest slice.
      network_bandwidth: bytes per second that it sends to other domains; None where not published.
    """

    title: str
    float32: float | None
    bfloat16: float | None
    memory: float
    memory_bandwidth: float
    link_bandwidth: float
    domain: int
    network_bandwidth: float | None

    def peak(self, dtype: str) -> float | None:
        """Returns the operations per second in "float32" or "bfloat16"; None where not published."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


def _tpu(title, teraflops, memory, bandwidth, link, pod, network) -> Accelerator:
    peak = teraflops * _TERA
    return Accelerator(title, peak, peak, memory, bandwidth * _GB, link * _GB, pod, network and network * _GB)


def _gpu(title, float32, bfloat16, memory, bandwidth, link, network) -> Accelerator:
    figures = memory * _GB, bandwidth * _GB, link * _GB, 8, network * _GB
    return Accelerator(title, float32 * _TERA, bfloat16 * _TERA, *figures)


# By the name that --accelerator takes.
ACCELERATORS = {
    "tpu_v4": _tpu("TPU v4", 275, 32 * 2**30, 1200, 300, 4096, None),
    "tpu_v5e": _tpu("TPU v5e", 197, 16 * _GB, 819, 200, 256, 3.125),
    "tpu_v5p": _tpu("TPU v5p", 459, 95 * _GB, 2765, 600, 8960, 6.25),
    "tpu_v6e": _tpu("TPU v6e", 918, 32 * _GB, 1600, 400, 256, 12.5),
    "a100": _gpu("A100 SXM 80 GB", 156, 312, 80, 2039, 300, 25),
    "h100": _gpu("H100 SXM", 494.7, 989.4, 80, 3350, 450, 50),
    "h200": _gpu("H200 SXM", 494.7, 989.4, 141, 4800, 450, 50),
    "b200": _gpu("HGX B200", 1125, 2250, 180, 8000, 900, 50),
}

# Part of a device's name in JAX or PyTorch -> (float32, bfloat16) in 10^12 operations per second, or a key above. The
# first match counts.
_BY_DEVICE_NAME: dict[str, str | tuple[float | None, float | None]] = {
    "B200": "b200",
    "H200": "h200",
    "H100 PCIe": (378.0, 756.0),
    "H100 NVL": (417.5, 835.0),
    "H100": "h100",
    "A100": "a100",
    "L40S": (183.0, 362.0),
    "L4": (60.0, 121.0),
    "A10G": (35.0, 70.0),
    "A10": (62.5, 125.0),
    "V100": (15.7, None),
    "T4": (8.1, None),
    "RTX 4090": (82.6, 165.2),
    "RTX 3090": (35.6, 71.0),
    "TPU v6 lite": "tpu_v6e",
    "TPU v6e": "tpu_v6e",
    "TPU v5 lite": "tpu_v5e",
    "TPU v5e": "tpu_v5e",
    "TPU v5p": "tpu_v5p",
    "TPU v5": "tpu_v5p",
    "TPU v4": "tpu_v4",
}


def accelerator(name: str) -> Accelerator:
    """Returns an accelerator by name.

    Args:
      name: a key of ACCELERATORS.

    Raises:
      UserError: unknown name.
    """
    if name not in ACCELERATORS:
        raise unknown("accelerator", name, ACCELERATORS)
    return ACCELERATORS[name]


def name_of(device: str) -> str | None:
    """Returns the key of ACCELERATORS of a device; None for a device that is not in the table.

    Args:
      device: its name, such as "NVIDIA H100 80GB HBM3" or "TPU v4".
    """
    entry = _look_up(device)
    return entry if isinstance(entry, str) else None


def peak_flops(device: str, dtype: str) -> float | None:
    """Returns the peak operations per second of a device; None for a device that is not in the table.

    Args:
      device: its name, such as "NVIDIA H100 80GB HBM3".
      dtype: "float32" or "bfloat16".
    """
    entry = _look_up(device)
    if isinstance(entry, str):
        return ACCELERATORS[entry].peak(dtype)
    peak = entry[dtype == "bfloat16"] if entry else None
    return peak and peak * _TERA


def _look_up(device: str) -> str | tuple[float | None, float | None] | None:
    words = f" {device} "
    for name, entry in _BY_DEVICE_NAME.items():
        if f" {name} " in words or f" {name}-" in words:
            return entry
    return None
