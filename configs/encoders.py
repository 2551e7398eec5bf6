"""What the configs know of the encoders: the layer that is inverted, the image size, and how to train them.

Sources: Rojas-Gomez et al. 2022, sections 4.1, A1.3 and A3.1; defaults of MadryLab's robustness library; Liu et al.
2019 (Adv-BNN) for VGG-16; Zhang et al. 2021 (GAIR-RST) for the wide ResNet. `alexnet_small` has no paper: its recipe
is ours, made to fit a laptop.
"""

from ml_collections import ConfigDict

# The layer that is inverted, and the size of image the encoder was made for. An encoder that is not in
# this table is not refused here: the code knows best which exist.
_ENCODERS = {
    "alexnet": {"layer": "conv5", "image_size": 224},
    "alexnet_small": {"layer": "conv5", "image_size": 32},
    "caffenet": {"layer": "conv5", "image_size": 224},
    "resnet18": {"layer": "block4", "image_size": 32},
    "vgg16": {"layer": "conv5_1", "image_size": 224},
    "vgg16_bn": {"layer": "conv5_1", "image_size": 224},
    "vgg19": {"layer": "conv5_1", "image_size": 224},
    "wrn28_10": {"layer": "block3", "image_size": 32},
}


def layer(encoder: str) -> str:
    """Returns the layer that is inverted unless another is named."""
    return _ENCODERS.get(encoder, {}).get("layer", "conv5")


def image_size(encoder: str) -> int:
    """Returns the side, in pixels, of the images that the encoder was made for."""
    return _ENCODERS.get(encoder, {}).get("image_size", 224)


_IMAGENET = {"resized_crop_scale": (0.08, 1.0), "flip": True, "color_jitter": 0.1, "lighting": 0.05}
_AUGMENTATIONS = {
    **dict.fromkeys(("alexnet", "caffenet", "vgg16", "vgg19"), _IMAGENET),
    "resnet18": {"crop_padding": 4, "flip": True, "color_jitter": 0.25, "rotate_degrees": 2.0},
    "vgg16_bn": {"resized_crop_scale": (0.8, 0.9), "resized_crop_ratio": (1.0, 1.0), "flip": True},
}
_OTHER_AUGMENTATION = {"crop_padding": 4, "flip": True}

# epochs, batch size, optimiser and schedule of the classifiers
_ALEXNET = {
    "num_epochs": 90.0,
    "batch_size": 256,
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
    # The papers say 0.1, which is high for a network without batch normalisation: 0.01 is safe.
    "schedule": {"name": "step", "learning_rate": 0.01, "every_epochs": 30.0, "factor": 0.1},
}
_CLASSIFIERS = {
    **dict.fromkeys(("alexnet", "caffenet", "vgg16", "vgg19"), _ALEXNET),
    "resnet18": {
        "num_epochs": 150.0,
        "batch_size": 128,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
        "schedule": {"name": "step", "learning_rate": 0.1, "every_epochs": 50.0, "factor": 0.1},
    },
    "vgg16_bn": {
        "num_epochs": 80.0,
        "batch_size": 128,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
        "schedule": {"name": "milestones", "learning_rate": 0.01, "epochs": (30.0, 50.0, 70.0), "factors": (0.1,) * 3},
    },
    "wrn28_10": {
        "num_epochs": 200.0,
        "batch_size": 256,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        "schedule": {"name": "cosine", "learning_rate": 0.1},
    },
}
_OTHER_CLASSIFIER = {
    "attack_warmup_fraction": 0.5,
    "num_epochs": 30.0,
    "batch_size": 128,
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "learning_rate": 0.02},
}


def classifier(encoder: str, *, num_epochs: float = 0.0, batch_size: int = 0) -> ConfigDict:
    """Returns the recipe of a classifier.

    Args:
      encoder: its name.
      num_epochs: 0 for the recipe's.
      batch_size: 0 for the recipe's.

    Returns:
      num_epochs, batch_size, attack_warmup_epochs, optimizer, augmentation.
    """
    recipe = _CLASSIFIERS.get(encoder, _OTHER_CLASSIFIER)
    num_epochs = num_epochs or recipe["num_epochs"]
    schedule = {**recipe["schedule"], "warmup_epochs": 0.0}
    config = ConfigDict(
        {
            "num_epochs": num_epochs,
            "batch_size": batch_size or recipe["batch_size"],
            "optimizer": {**recipe["optimizer"], "schedule": schedule, "max_gradient_norm": 0.0},
            "augmentation": _AUGMENTATIONS.get(encoder, _OTHER_AUGMENTATION),
        }
    )
    # A reference: it follows where the length is changed later.
    config.attack_warmup_epochs = config.get_ref("num_epochs") * recipe.get("attack_warmup_fraction", 0.0)
    return config
