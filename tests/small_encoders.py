"""Options with which each encoder has all of its layers and few weights."""

SMALL = {
    "alexnet": {"dense_width": 32, "head_side": 1},
    "alexnet_small": {"width": 8},
    "caffenet": {"dense_width": 32},
    "resnet18": {"depths": (1, 1, 1, 1)},
    "vgg16": {"width": 8, "dense_width": 16},
    "vgg16_bn": {"width": 8},
    "vgg19": {"width": 8, "dense_width": 16},
    "wrn28_10": {"depth": 10, "width": 1},
}


def smallest_size(module) -> int:
    """Returns the smallest multiple of 32 px that an encoder takes."""
    return -(-module.smallest_side // 32) * 32
