"""Networks in PyTorch with the parameter names of their origins, to convert from and to compare with.

Each takes normalized pixels NCHW and returns (logits, every named feature). Needs PyTorch.
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu, silu
from torch.nn.utils import spectral_norm


class AlexNet(nn.Module):
    """As in torchvision, or with the last layer apart, as in robustness and the code of Rojas-Gomez et al."""

    taps = {"relu1": 1, "conv1": 2, "relu2": 4, "conv2": 5, "conv3": 7, "conv4": 9, "relu5": 11, "conv5": 12}

    def __init__(self, classes, width, *, last_apart):
        super().__init__()
        layers = []
        for i, (inputs, outputs, size, stride, padding) in enumerate(
            [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1)]
        ):
            layers += [nn.Conv2d(inputs, outputs, size, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if i in (0, 1, 4) else []
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        head = [nn.Dropout(), nn.Linear(9216, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, width)]
        last = nn.Linear(width, classes)
        self.classifier = nn.Sequential(*head, *([] if last_apart else [nn.ReLU(), last]))
        if last_apart:
            self.last_layer = last

    def forward(self, x):
        found = {}
        for i, layer in enumerate(self.features):
            x = found[i] = layer(x)
        taps = {name: found[i] for name, i in self.taps.items()}
        x = torch.flatten(self.avgpool(x), 1)
        taps["fc6"] = relu(self.classifier[1](x))
        taps["fc7"] = relu(self.classifier[4](taps["fc6"]))
        last = self.last_layer if hasattr(self, "last_layer") else self.classifier[6]
        taps["fc8"] = last(taps["fc7"])
        return taps["fc8"], taps


class VGG(nn.Module):
    """As in torchvision, with or without batch normalization, or with the head of Adv-BNN."""

    def __init__(self, depths, classes, *, width, dense_width, batch_norm, pooled):
        super().__init__()
        layers, inputs, self.taps = [], 3, {}
        for stage, depth in enumerate(depths):
            outputs = width * min(2**stage, 8)
            for i in range(depth):
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
                layers.append(nn.ReLU())
                self.taps[f"conv{stage + 1}_{i + 1}"] = len(layers) - 1
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.pooled = pooled
        if pooled:
            self.classifier = nn.Linear(inputs, classes)
        else:
            head = [nn.Linear(inputs * 49, dense_width), nn.ReLU(), nn.Dropout()]
            head += [nn.Linear(dense_width, dense_width), nn.ReLU(), nn.Dropout(), nn.Linear(dense_width, classes)]
            self.classifier = nn.Sequential(*head)

    def forward(self, x):
        found = {}
        for i, layer in enumerate(self.features):
            x = found[i] = layer(x)
        taps = {name: found[i] for name, i in self.taps.items()}
        if self.pooled:
            return self.classifier(x.mean((2, 3))), taps
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, (7, 7)), 1)
        taps["fc6"] = relu(self.classifier[0](x))
        taps["fc7"] = relu(self.classifier[3](taps["fc6"]))
        taps["fc8"] = self.classifier[6](taps["fc7"])
        return taps["fc8"], taps


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        projection = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut_name = shortcut
        setattr(self, shortcut, nn.Sequential(*(projection if stride > 1 else [])))

    def forward(self, x):
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + getattr(self, self.shortcut_name)(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, inner, stride, shortcut):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        projection = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.shortcut_name = shortcut
        setattr(self, shortcut, nn.Sequential(*(projection if stride > 1 or inputs != outputs else [])))

    def forward(self, x):
        y = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return relu(self.bn3(self.conv3(y)) + getattr(self, self.shortcut_name)(x))


class ResNet(nn.Module):
    """With robustness' names (shortcut, linear) or torchvision's (downsample, fc); factor 0 for basic blocks."""

    def __init__(self, depths, classes, *, shortcut, last, width=64, factor=0, large=False):
        super().__init__()
        stem = (7, 2, 3) if large else (3, 1, 1)
        self.conv1, self.bn1 = nn.Conv2d(3, width, *stem, bias=False), nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else None
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                outputs, stride = width * 2**stage, 2 if stage and not i else 1
                if factor:
                    blocks.append(Bottleneck(inputs, outputs, factor * outputs, stride, shortcut))
                else:
                    blocks.append(BasicBlock(inputs, outputs, stride, shortcut))
                inputs = 4 * outputs if factor else outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.last = last
        setattr(self, last, nn.Linear(inputs, classes))

    def forward(self, x):
        x, taps = relu(self.bn1(self.conv1(x))), {}
        if self.pool:
            taps["relu1"] = x
            x = taps["conv1"] = self.pool(x)
        for stage in range(1, 5):
            x = taps[f"block{stage}"] = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.last)(x.mean((2, 3))), taps


class PreActivationBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        active = relu(self.bn1(x))
        y = self.conv2(relu(self.bn2(self.conv1(active))))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    def __init__(self, depth, inputs, outputs, stride):
        super().__init__()
        blocks = [PreActivationBlock(outputs if i else inputs, outputs, 1 if i else stride) for i in range(depth)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """As in TRADES and RobustBench, with the group that is never applied."""

    def __init__(self, depth, width, classes):
        super().__init__()
        blocks, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Group(blocks, *widths[:2], 1)
        self.sub_block1 = Group(blocks, *widths[:2], 1)
        self.block2, self.block3 = Group(blocks, *widths[1:3], 2), Group(blocks, *widths[2:], 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x):
        x, taps = self.conv1(x), {}
        for name in ("block1", "block2", "block3"):
            x = taps[name] = getattr(self, name)(x)
        x = relu(self.bn1(x))
        return self.fc(avg_pool2d(x, x.shape[-1]).flatten(1)), taps


class PreActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, activated):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.activated = activated
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x):
        active = relu(self.bn1(x))
        y = self.conv2(relu(self.bn2(self.conv1(active))))
        return y + (self.shortcut(active if self.activated else x) if hasattr(self, "shortcut") else x)


class PreActResNet(nn.Module):
    """As in RobustBench: with the last normalization and activated shortcuts (Rice et al.), or neither (Wong)."""

    def __init__(self, depths, width, classes, *, activated, last_norm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(PreActBlock(inputs, width * 2**stage, 2 if stage and not i else 1, activated))
                inputs = width * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        if last_norm:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x, taps = self.conv1(x), {}
        for stage in range(1, 5):
            x = taps[f"block{stage}"] = getattr(self, f"layer{stage}")(x)
        x = relu(self.bn(x)) if hasattr(self, "bn") else x
        return self.linear(x.mean((2, 3))), taps


class DeepMindBlock(nn.Module):
    """Of the wide ResNet, or with 3x3 shortcuts of the input itself as in the PreActResNet."""

    def __init__(self, inputs, outputs, stride, *, preact):
        super().__init__()
        self.preact, self.stride = preact, stride
        self.names = ("conv_2d_1", "conv_2d_2") if preact else ("conv_0", "conv_1")
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        setattr(self, self.names[0], nn.Conv2d(inputs, outputs, 3, stride, bias=False))
        setattr(self, self.names[1], nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False))
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 3 if preact else 1, stride, bias=False) if inputs != outputs else None
        )

    def pad(self, x):
        return nn.functional.pad(x, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))

    def forward(self, x):
        active = silu(self.batchnorm_0(x))
        first, second = (getattr(self, name) for name in self.names)
        y = second(silu(self.batchnorm_1(first(self.pad(active)))))
        if self.shortcut is None:
            return x + y
        return y + self.shortcut(self.pad(x) if self.preact else active)


class DeepMindWideResNet(nn.Module):
    """As DeepMind released it, without its normalization, which its files do not have."""

    def __init__(self, depth, width, classes):
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.init_conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        groups = []
        for group, (inputs, outputs) in enumerate(zip(widths[:3], widths[1:], strict=True)):
            holder, stride = nn.Module(), 2 if group else 1
            holder.block = nn.Sequential(
                *(
                    DeepMindBlock(outputs if i else inputs, outputs, 1 if i else stride, preact=False)
                    for i in range((depth - 4) // 6)
                )
            )
            groups.append(holder)
        self.layer = nn.Sequential(*groups)
        self.batchnorm, self.logits = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x):
        x, taps = self.init_conv(x), {}
        for i, group in enumerate(self.layer, start=1):
            x = taps[f"block{i}"] = group.block(x)
        return self.logits(silu(self.batchnorm(x)).mean((2, 3))), taps


class DeepMindPreActResNet(nn.Module):
    """As DeepMind released it."""

    def __init__(self, depths, width, classes):
        super().__init__()
        self.conv_2d = nn.Conv2d(3, width, 3, padding=1, bias=False)
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(DeepMindBlock(inputs, width * 2**stage, 2 if stage and not i else 1, preact=True))
                inputs = width * 2**stage
            setattr(self, f"layer_{stage}", nn.Sequential(*blocks))
        self.batchnorm, self.logits = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        x, taps = self.conv_2d(x), {}
        for stage in range(4):
            x = taps[f"block{stage + 1}"] = getattr(self, f"layer_{stage}")(x)
        return self.logits(silu(self.batchnorm(x)).mean((2, 3))), taps


class Generator(nn.Module):
    """A plan of (kind, width, stride) as the released code of Rojas-Gomez et al. names it."""

    def __init__(self, plan, inputs):
        super().__init__()
        layers = []
        for kind, outputs, stride, *_ in plan:
            if kind == "nearest":
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
                continue
            if kind == "up":
                conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, 1, bias=False)
            else:
                conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers += [spectral_norm(conv), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.gen = nn.Sequential(*layers, spectral_norm(nn.Conv2d(inputs, 3, 3, padding=1)), nn.Tanh())

    def forward(self, features):
        return (self.gen(features) + 1) / 2


class Discriminator(nn.Module):
    """As in the released code, with an identity behind each ReLU of the convolutions."""

    def __init__(self, features):
        super().__init__()
        layers = []
        for inputs, outputs, size, stride, padding in (
            *((3, 32, 7, 1, 1), (32, 64, 5, 1, 0), (64, 128, 3, 2, 0)),
            *((128, 256, 3, 1, 0), (256, 256, 3, 2, 0)),
        ):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, size, stride, padding)), nn.ReLU(), nn.Identity()]
        self.features = nn.Sequential(*layers[:-1])
        dense = [spectral_norm(nn.Linear(features, 1024)), nn.ReLU(), spectral_norm(nn.Linear(1024, 512)), nn.ReLU()]
        self.classifier01 = nn.Sequential(*dense)
        joint = [nn.Dropout(), spectral_norm(nn.Linear(768, 512)), nn.ReLU(), nn.Dropout()]
        self.classifier02 = nn.Sequential(*joint, spectral_norm(nn.Linear(512, 1)))

    def forward(self, images, features):
        x = self.features(images).mean((2, 3))
        return self.classifier02(torch.cat((x, self.classifier01(features.flatten(1))), 1))[:, 0]


class Normalizer(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("new_mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("new_std", torch.tensor(std)[:, None, None])

    def forward(self, x):
        return (x.clamp(0, 1) - self.new_mean) / self.new_std


class Attacker(nn.Module):
    def __init__(self, model, normalizer):
        super().__init__()
        self.normalize, self.model = normalizer, model


class AttackerModel(nn.Module):
    """What robustness saves, inside the `module` of a DataParallel: the model twice, and its normalization twice."""

    def __init__(self, model, mean, std):
        super().__init__()
        self.normalizer, self.model = Normalizer(mean, std), model
        self.attacker = Attacker(model, Normalizer(mean, std))

    def forward(self, x):
        return self.model(self.normalizer(x))


class Autoencoder(nn.Module):
    """What the released code of Rojas-Gomez et al. saves: an encoder without its dense layers, and the generator."""

    def __init__(self, encoder, generator, mean, std):
        super().__init__()
        self.normalize, self.classifier, self.generator = Normalizer(mean, std), encoder, generator
        self.classifier.classifier = self.classifier.last_layer = nn.Sequential()


def randomize(module, seed=0):
    """Gives every weight and statistic a random value of a size that keeps the signal."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (part.bias.data, part.running_mean):
                tensor.normal_(0, 0.3)
        elif isinstance(part, nn.Conv2d | nn.Linear) and not hasattr(part, "weight_orig"):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                part.bias.data.normal_(0, 0.1)
    return module.eval()
