"""The networks of the benchmarks written in PyTorch, as its users write them. Images NCHW in [0, 1].

Source: as for arinv.models: He et al. 2016; Krizhevsky 2014; Rojas-Gomez et al. 2022, tables A4 and A5.
"""

import torch
from torch import nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm


class Normalize(nn.Module):
    """The pixel normalization, as a first layer."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None])
        self.register_buffer("std", torch.tensor(std)[None, :, None, None])

    def forward(self, x):
        """Returns x less its mean, over its standard deviation."""
        return (x - self.mean) / self.std


class _Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != width:
            conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for 32 px: 11,173,962 parameters for 10 classes."""

    def __init__(self, num_classes: int):
        super().__init__()
        layers = [
            Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
            nn.Conv2d(3, 64, 3, 1, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        ]
        inputs = 64
        for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [_Block(inputs, width, stride), _Block(width, width, 1)]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, images):
        """Returns logits [B, K] of images [B, 3, 32, 32]."""
        return self.fc(self.body(images).mean((2, 3)))


class AlexNet(nn.Module):
    """AlexNet as in torchvision: 61,100,840 parameters for 1,000 classes."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv5 = nn.Sequential(
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, num_classes)),
        )

    def forward(self, images):
        """Returns logits [B, K] of images [B, 3, 224, 224]."""
        return self.classifier(self.conv5(images))


def conv_block(inputs: int, width: int) -> nn.Sequential:
    """Returns a 3x3 convolution with spectral and batch normalization and ReLU."""
    conv = spectral_norm(nn.Conv2d(inputs, width, 3, 1, 1, bias=False))
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def _up(inputs, width, stride):
    conv = spectral_norm(nn.ConvTranspose2d(inputs, width, 4, stride, 1, bias=False))
    return conv, nn.BatchNorm2d(width), nn.ReLU()


class Generator(nn.Sequential):
    """From AlexNet's conv5 to images: 4,753,370 parameters."""

    def __init__(self):
        super().__init__(
            *(*conv_block(256, 256), *_up(256, 256, 1), *conv_block(256, 256)),
            *(*_up(256, 256, 2), *conv_block(256, 256)),
            *(*_up(256, 128, 2), *conv_block(128, 128), *_up(128, 64, 2), *conv_block(64, 64)),
            *(*_up(64, 32, 2), *conv_block(32, 32), *_up(32, 3, 2)),
            *(spectral_norm(nn.Conv2d(3, 3, 3, 1, 1)), nn.Tanh()),
        )

    def forward(self, features):
        """Returns images [B, 3, 224, 224] in [0, 1] of features [B, 256, 6, 6]."""
        return ((super().forward(features) + 1) / 2).clamp(0, 1)


class Discriminator(nn.Module):
    """Of images together with AlexNet's conv5: 11,372,353 parameters."""

    def __init__(self):
        super().__init__()
        layers = []
        for inputs, width, size, stride, padding in (
            (3, 32, 7, 4, 1), (32, 64, 5, 1, 0), (64, 128, 3, 2, 0), (128, 256, 3, 1, 0), (256, 256, 3, 2, 0),
        ):  # fmt: skip
            layers += [spectral_norm(nn.Conv2d(inputs, width, size, stride, padding)), nn.ReLU()]
        self.image = nn.Sequential(*layers)
        self.feature = nn.Sequential(
            *(nn.Flatten(), spectral_norm(nn.Linear(9216, 1024)), nn.ReLU()),
            *(spectral_norm(nn.Linear(1024, 512)), nn.ReLU()),
        )
        self.joint = nn.Sequential(
            *(nn.Dropout(), spectral_norm(nn.Linear(768, 512)), nn.ReLU()),
            *(nn.Dropout(), spectral_norm(nn.Linear(512, 1))),
        )

    def forward(self, images, features):
        """Returns the probability [B] that images are real."""
        both = torch.cat([self.image(images).mean((2, 3)), self.feature(features)], 1)
        return self.joint(both).float().sigmoid()[:, 0]
