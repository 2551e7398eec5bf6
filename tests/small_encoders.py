"""Options with which each encoder has all of its layers and few weights; none for one that is added."""

import collections

_RESNET = {"depths": (1, 1, 1, 1), "width": 8}
_WRN = {"depth": 10, "width": 1}
SMALL = collections.defaultdict(
    dict,
    {
        "alexnet": {"dense_width": 32, "head_side": 1},
        "alexnet_small": {"width": 8},
        "caffenet": {"dense_width": 32},
        "hog": {},
        "lbp": {},
        "preact_resnet18": _RESNET,
        "preact_resnet18_silu": _RESNET,
        "resnet18": {"depths": (1, 1, 1, 1)},
        "resnet18_imagenet": _RESNET,
        "resnet34_imagenet": _RESNET,
        "resnet50": _RESNET,
        "resnet50_imagenet": _RESNET,
        "resnet101_imagenet": _RESNET,
        "sift": {},
        "sift_skimage": {},
        "vgg16": {"width": 8, "dense_width": 16},
        "vgg16_bn": {"width": 8},
        "vgg19": {"width": 8, "dense_width": 16},
        "wide_resnet50_2": _RESNET,
        "wrn28_10": _WRN,
        "wrn28_10_silu": _WRN,
        "wrn34_10": _WRN,
        "wrn70_16_silu": _WRN,
    },
)


def smallest_size(module) -> int:
    """Returns the smallest multiple of 32 px that an encoder takes."""
    return -(-module.smallest_side // 32) * 32
