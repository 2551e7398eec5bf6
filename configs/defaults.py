"""Training recipes by encoder, and what the configs know of encoders and data sets by name.

Sources: Rojas-Gomez et al. 2022, sections A1.3 and A3.1; defaults of MadryLab's robustness library.
`alexnet_small` has no paper: its recipe is ours, made to fit a laptop.
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

_SPLITS = {
    "tfds:imagenet2012": ("train", "validation"),
    "tfds:cats_vs_dogs": ("train[:80%]", "train[80%:]"),
}


def dataset_of(args: ConfigDict) -> ConfigDict:
    """Returns the data fields for parsed arguments."""
    names = ("encoder", "image_size", "num_train", "num_test", "data_dir", "on_bad_image")
    return dataset(args.dataset, **{name: args[name] for name in names if name in args})


def default_layer(encoder: str) -> str:
    """Returns the layer that is inverted unless another is named."""
    return _ENCODERS.get(encoder, {}).get("layer", "conv5")


def default_image_size(encoder: str) -> int:
    """Returns the side, in pixels, of the images that the encoder was made for."""
    return _ENCODERS.get(encoder, {}).get("image_size", 224)


def dataset(
    name: str,
    *,
    encoder: str,
    image_size: int = 0,
    num_train: int = 0,
    num_test: int = 0,
    data_dir: str = "",
    on_bad_image: str = "error",
) -> ConfigDict:
    """Returns the data fields of a task.

    Args:
      name: "photos", "tfds:NAME", "folder:PATH", or short: "cifar10", "cats_vs_dogs", "imagenet2012".
      encoder: decides the image size where none is given.
      image_size: side in pixels; 0 for the encoder's.
      num_train: training images to use; 0 for all.
      num_test: test images to use; 0 for all.
      data_dir: where TFDS sets lie; empty for the default.
      on_bad_image: of a folder: "error" or "skip".
    """
    if name in ("cifar10", "cats_vs_dogs", "imagenet2012"):
        name = f"tfds:{name}"
    train, test = _SPLITS.get(name, ("train", "test"))
    return ConfigDict(
        {
            "name": name,
            "data_dir": data_dir,
            "image_size": image_size or default_image_size(encoder),
            "resize": "squash",
            "train_split": train,
            "test_split": test,
            "num_train": num_train,
            "num_test": num_test,
            "on_bad_image": on_bad_image,
            "num_workers": 0,
        }
    )


def attack(eps: float, *, norm: str, num_steps: int, step_size: float = 0.0, random_start: bool = False) -> ConfigDict:
    """Returns the fields of a PGD attack; step_size 0 stands for 2.5 eps / num_steps."""
    return ConfigDict(
        {
            "eps": float(eps),
            "norm": norm,
            "num_steps": num_steps,
            "step_size": float(step_size),
            "random_start": random_start,
        }
    )


_AUGMENTATIONS = {
    "alexnet": {"resized_crop_scale": (0.08, 1.0), "flip": True, "color_jitter": 0.1, "hue": 0.1, "lighting": 0.05},
    "resnet18": {"crop_padding": 4, "flip": True, "color_jitter": 0.25, "hue": 0.25, "rotate_degrees": 2.0},
}
_OTHER_AUGMENTATION = {"crop_padding": 4, "flip": True}

# epochs, batch size, optimiser and schedule of the classifiers
_CLASSIFIERS = {
    "alexnet": {
        "num_epochs": 90.0,
        "batch_size": 256,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
        # The papers say 0.1, which is high for a network without batch normalisation: 0.01 is safe.
        "schedule": {"name": "step", "learning_rate": 0.01, "every_epochs": 30.0, "factor": 0.1},
    },
    "resnet18": {
        "num_epochs": 150.0,
        "batch_size": 128,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
        "schedule": {"name": "step", "learning_rate": 0.1, "every_epochs": 50.0, "factor": 0.1},
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
    return ConfigDict(
        {
            "num_epochs": num_epochs,
            "batch_size": batch_size or recipe["batch_size"],
            "attack_warmup_epochs": recipe.get("attack_warmup_fraction", 0.0) * num_epochs,
            "optimizer": {**recipe["optimizer"], "schedule": schedule, "max_gradient_norm": 0.0},
            "augmentation": _AUGMENTATIONS.get(encoder, _OTHER_AUGMENTATION),
        }
    )


def _adam(learning_rate: float, schedule: str) -> dict:
    decay = {"every_epochs": 30.0, "factor": 0.1} if schedule == "step" else {}
    schedule = {"name": schedule, "learning_rate": learning_rate, "warmup_epochs": 0.0, **decay}
    return {"name": "adam", "b1": 0.0, "b2": 0.9, "schedule": schedule, "max_gradient_norm": 0.0}


def inverter(*, learning_rate: float = 0.0, schedule: str = "") -> ConfigDict:
    """Returns the recipe of an inverter (Rojas-Gomez et al. 2022, section A3.1).

    Args:
      learning_rate: of the generator; 0 for the paper's. The discriminator's is four times that.
      schedule: "step", "cosine" or "constant"; empty for the paper's steps.

    Returns:
      num_epochs, batch_size, optimizer.
    """
    learning_rate, schedule = learning_rate or 3e-4, schedule or "step"
    optimizer = {"generator": _adam(learning_rate, schedule), "discriminator": _adam(4 * learning_rate, schedule)}
    return ConfigDict({"num_epochs": 90.0, "batch_size": 128, "optimizer": optimizer})


# The three losses of Table 1 and the one with a pixel term that counts.
LOSSES = {
    "pixel": {"pixel": 2e-6, "feature": 0.0, "adversarial": 0.0},
    "feature": {"pixel": 2e-6, "feature": 1e-2, "adversarial": 0.0},
    "gan": {"pixel": 2e-6, "feature": 1e-2, "adversarial": 100.0},
    "pixel_balanced": {"pixel": 2e-3, "feature": 1e-2, "adversarial": 0.0},
}


def loss(name: str) -> ConfigDict:
    """Returns the weights of a loss by name, for sums over each image and means over the batch.

    Raises:
      ValueError: unknown name.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    extra = {"discriminator": 1.0, "pixel_order": 1, "feature_layer": ""}  # feature_layer "": the inverted one
    return ConfigDict(LOSSES[name] | extra)


def common(*, seed: int, title: str, dtype: str = "float32") -> ConfigDict:
    """Returns the fields that every task has."""
    return ConfigDict(
        {
            "title": title,
            "seed": seed,
            "dtype": dtype,
            "mesh": {"data": -1, "fsdp": 1},
            "log": {
                "every_steps": 50,
                "evaluate_every_epochs": 1.0,
                "checkpoint_every_steps": 500,
                "keep_checkpoints": 2,
                "num_pictures": 8,
            },
        }
    )
