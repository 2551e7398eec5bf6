"""PyTorch training steps made ready to be timed, with the settings that make PyTorch fast."""

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from launch.benchmarks.batches import random_batch
from launch.benchmarks.devices import cpu_name, cpu_threads, peak_bytes
from launch.benchmarks.measurement import Prepared


class _FlopCounter(TorchDispatchMode):
    """Adds up the counts of PyTorch's own formulas; its FlopCounterMode cannot follow torch.autograd.grad."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Setting:
    """Device, dtype, memory layout and compilation, the same for all networks of a step.

    Attributes:
      device: "cuda" where there is one, else "cpu".
    """

    def __init__(self, dtype: str, compiled: bool):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype, self._compiled = getattr(torch, dtype), compiled
        self._layout = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        torch.manual_seed(0)
        torch.set_num_threads(cpu_threads())
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as XLA's default; convolutions use it anyway

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Returns the module on the device, in its memory layout."""
        return module.to(self.device, memory_format=self._layout)

    def forward(self, module: torch.nn.Module) -> Callable:
        """Returns the module as a function that computes in the dtype asked for and returns float32."""
        called = torch.compile(module) if self._compiled else module

        def apply(*inputs):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
                return called(*inputs).float()

        return apply

    def random_batch(self, batch: int, size: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns random images [B, 3, size, size] in [0, 1] and labels [B] on the device."""
        arrays = random_batch(batch, size, num_classes)
        images = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)
        images = images.to(self.device).contiguous(memory_format=self._layout)
        return images, torch.from_numpy(arrays["label"]).long().to(self.device)

    def prepare(self, step: Callable[[], torch.Tensor], networks: Mapping[str, torch.nn.Module], images: int):
        """Runs the first step, which is what takes the place of compilation, and counts its operations.

        Args:
          step: does one training step and returns its loss.
          networks: by name.
          images: in a step.
        """

        def run(n: int) -> None:
            for _ in range(n):
                loss = step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")

        started = time.perf_counter()
        run(1)
        known = {"images": images, "compile_seconds": time.perf_counter() - started}
        known["parameters"] = {name: sum(p.numel() for p in m.parameters()) for name, m in networks.items()}
        if not self._compiled:
            with _FlopCounter() as counter:
                step()
            known["flops"] = counter.total
        return Prepared(run, {**known, **self._facts()}, self._peak_bytes)

    def _peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else peak_bytes()

    def _facts(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name() if cuda else cpu_name(),
            "platform": "gpu" if cuda else "cpu",
            "threads": None if cuda else torch.get_num_threads(),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }
