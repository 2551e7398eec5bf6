"""The denoiser of the benchmarks written in PyTorch, as its users write it. Images NCHW in [0, 1].

Source: Rojas-Gomez et al. 2022, Tables A8 and A9, the sizes of the released code.
"""

import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, pad

from launch.benchmarks.torch_networks import Normalize, conv_block, spectral_norm


class _Haar(nn.Module):
    """The four bands of the Haar transform as depthwise convolutions with fixed kernels."""

    def __init__(self, channels: int):
        super().__init__()
        low, high = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])
        bands = [torch.outer(a, b) / 2 for a in (low, high) for b in (low, high)]
        self._channels = channels
        for i, band in enumerate(bands):
            self.register_buffer(f"band{i}", band.expand(channels, 1, 2, 2).clone())

    def _bands(self):
        return [getattr(self, f"band{i}") for i in range(4)]

    def forward(self, x):
        """Returns the low band and the three others of x [B, C, H, W]."""
        low, *rest = (conv2d(x, band.to(x.dtype), stride=2, groups=self._channels) for band in self._bands())
        return low, rest

    def inverse(self, low, rest):
        """Returns x [B, C, H, W] of its four bands."""
        bands = zip((low, *rest), self._bands(), strict=True)
        return sum(conv_transpose2d(x, band.to(x.dtype), stride=2, groups=self._channels) for x, band in bands)


class WaveletAlexNet(nn.Module):
    """AlexNet's convolutions with Haar transforms for pools: 2,469,696 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU()
        )
        self.conv2 = nn.Sequential(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU())
        self.conv5 = nn.Sequential(
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
        )
        self.pools = nn.ModuleList(_Haar(channels) for channels in (64, 192, 256))

    def forward(self, images):
        """Returns the last low band [B, 256, h, w] and the three details of each pool."""
        x, details = images, []
        for layers, haar in zip((self.conv1, self.conv2, self.conv5), self.pools, strict=True):
            x, rest = haar(layers(x))
            details.append(rest)
        return x, details


class WaveletDecoder(nn.Module):
    """From the low band and the details back to the images: 2,574,778 parameters."""

    def __init__(self):
        super().__init__()
        self.unpools = nn.ModuleList(_Haar(channels) for channels in (256, 192, 64))
        self.start = conv_block(256, 256)
        self.first = conv_block(256, 256)
        self.second = nn.Sequential(*conv_block(256, 256), *conv_block(256, 192))
        self.third = nn.Sequential(*conv_block(192, 128), *conv_block(128, 64))
        self.last = nn.Sequential(
            *(*conv_block(64, 64), nn.Upsample(scale_factor=2), *conv_block(64, 32), *conv_block(32, 32)),
            *(nn.Upsample(scale_factor=2), *conv_block(32, 3), spectral_norm(nn.Conv2d(3, 3, 3, 1, 1)), nn.Tanh()),
        )

    def forward(self, low, details):
        """Returns images [B, 3, H, W] in [0, 1]."""
        x = self.unpools[0].inverse(self.start(low), details[2])
        x = self.second(_continue(self.first(x), 1))
        x = self.third(_continue(self.unpools[1].inverse(x, details[1]), 1))
        x = self.last(_continue(self.unpools[2].inverse(x, details[0]), 2))
        return ((x + 1) / 2).clamp(0, 1)


class Denoiser(nn.Module):
    """Both halves."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images):
        """Returns denoised images."""
        return self.decoder(*self.encoder(images))


def _continue(x, pixels: int):
    """Returns x with pixels of reflection on the left and below."""
    return pad(x, (pixels, 0, 0, pixels), mode="reflect")
