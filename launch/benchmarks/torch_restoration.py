"""The networks of the restoration benchmark written in PyTorch, as its users write them. Images NCHW in [0, 1].

Source: Karras et al. 2018, Table 2; Generative Encoder, Table 1.
"""

import math

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, leaky_relu, linear, max_pool2d, relu

_GAIN = math.sqrt(2)


def _norm(x):
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class _Conv(nn.Module):
    """Convolution whose N(0, 1) kernel is scaled in every forward pass."""

    def __init__(self, inputs, width, size=3, gain=_GAIN):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(width))
        self._scale, self._padding = gain / math.sqrt(inputs * size * size), size // 2

    def forward(self, x):
        """Returns the convolution of x [B, C, H, W], of the same size."""
        return conv2d(x, self.weight * self._scale, self.bias, padding=self._padding)


class Generator(nn.Module):
    """The generator of a progressive GAN at its full size, with the RGB layers of all sizes."""

    def __init__(self, size: int, latent: int, *, base_width: int, max_width: int):
        super().__init__()
        sides = [4 << i for i in range(size.bit_length() - 2)]
        widths = [min(2 * base_width // side, max_width) for side in sides]
        self.dense = nn.Parameter(torch.randn(16 * widths[0], latent))
        self._scale = _GAIN / 4 / math.sqrt(latent)
        self.bias = nn.Parameter(torch.zeros(widths[0]))
        self.first = _Conv(widths[0], widths[0])
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.ModuleList(nn.ModuleList([_Conv(a, b), _Conv(b, b)]) for a, b in pairs)
        self.rgb = nn.ModuleList(_Conv(width, 3, 1, 1.0) for width in widths)

    def forward(self, latents):
        """Returns images [B, 3, size, size] near [0, 1] of latents [B, K]."""
        x = linear(_norm(latents), self.dense * self._scale).reshape(len(latents), -1, 4, 4)
        x = _norm(leaky_relu(x + self.bias[:, None, None], 0.2))
        x = _norm(leaky_relu(self.first(x), 0.2))
        for block in self.blocks:
            x = interpolate(x, scale_factor=2)
            for conv in block:
                x = _norm(leaky_relu(conv(x), 0.2))
        return (self.rgb[-1](x) + 1) / 2


class Encoder(nn.Module):
    """The encoder of the Generative Encoder's autoencoder."""

    def __init__(self, size: int):
        super().__init__()
        widths = (32, 64, 128, 256, 512, 1024)[: min(6, size.bit_length() - 1)]
        pairs = zip((3, *widths), widths, strict=False)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in pairs)
        self.dense = nn.Linear((size >> len(widths)) ** 2 * widths[-1], 256)

    def forward(self, images):
        """Returns codes [B, 256] of images [B, 3, size, size]."""
        x = 2 * images - 1
        for conv in self.convs:
            x = max_pool2d(relu(conv(x)), 2)
        return self.dense(x.flatten(1))
