"""The fields that tasks are put together from: data sets, attacks, recipes of robust training, inverters, logs.

Sources: Rojas-Gomez et al. 2022, sections A1.3 and A3.1; the papers of each recipe.
"""

from ml_collections import ConfigDict, FieldReference

from configs import encoders

_SPLITS = {
    "tfds:imagenet2012": ("train", "validation"),
    "tfds:cats_vs_dogs": ("train[:80%]", "train[80%:]"),
}


def dataset_of(args: ConfigDict) -> ConfigDict:
    """Returns the data fields for parsed arguments."""
    names = ("encoder", "image_size", "num_train", "num_test", "classes", "extra", "data_dir", "on_bad_image")
    return dataset(args.dataset, **{name: args[name] for name in names if name in args})


def dataset(
    name: str,
    *,
    encoder: str,
    image_size: int = 0,
    num_train: int = 0,
    num_test: int = 0,
    classes: str = "",
    extra: str = "",
    data_dir: str = "",
    on_bad_image: str = "error",
) -> ConfigDict:
    """Returns the data fields of a task.

    Args:
      name: "photos", "tfds:NAME", "folder:PATH", "npz:PATH", or short: "cifar10", "cats_vs_dogs", "imagenet2012".
      encoder: decides the image size where none is given.
      image_size: side in pixels; 0 for the encoder's.
      num_train: training images to use; 0 for all.
      num_test: test images to use; 0 for all.
      classes: labels to keep, such as "151-293" or "3+5"; they are numbered anew from 0. Empty for all.
      extra: a second source of training images, half of every batch, such as "npz:PATH"; empty for none.
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
            "image_size": image_size or encoders.image_size(encoder),
            "resize": "squash",
            "resized_crop": {},  # of training images: options of data.train_batches
            "train_split": train,
            "test_split": test,
            "num_train": num_train,
            "num_test": num_test,
            "classes": _labels(classes),
            "extra": {"name": extra, "share": 0.5},
            "on_bad_image": on_bad_image,
            "num_workers": 0,
        }
    )


def _labels(text: str) -> tuple[int, ...]:
    """Returns the labels of "151-293" or "3+5"."""
    labels: list[int] = []
    for part in filter(None, text.split("+")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise ValueError(f"classes={text!r} must be labels such as 151-293 or 3+5")
        labels += range(int(first), int(last) + 1)
    return tuple(labels)


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


# What the recipes of robust training take beside the attack; the code knows best which there are.
_RECIPES = {
    "fgsm": {"noise": 1.0, "step_factor": 1.25},
    "n_fgsm": {"noise": 2.0, "step_factor": 1.0},
    "trades": {"beta": 6.0},
    "gairat": {"weighting": "tanh", "offset": -1.0},
    "gair_rst": {"beta": 6.0, "offset": 3.0},
}
_ON_OVERFITTING = ("notice", "switch", "ignore")


def robust(recipe: str, *, num_epochs: FieldReference, weighting: str = "", on_overfitting: str = "") -> ConfigDict:
    """Returns the fields of robust training.

    Args:
      recipe: pgd, fgsm, n_fgsm, trades, gairat or gair_rst.
      num_epochs: reference to the length of the training; geometry counts from its second half on.
      weighting: of gairat: tanh, sigmoid or discrete; empty for tanh.
      on_overfitting: "notice", "switch" (back to the last healthy state and on with PGD) or "ignore"; empty for
        "notice" where a single step is trained on and "ignore" elsewhere.

    Returns:
      recipe, watch.

    Raises:
      ValueError: another on_overfitting.
    """
    options = dict(_RECIPES.get(recipe, {}))
    if weighting:
        options["weighting"] = weighting
    on_overfitting = on_overfitting or ("notice" if recipe in ("fgsm", "n_fgsm") else "ignore")
    if on_overfitting not in _ON_OVERFITTING:
        raise ValueError(f"unknown on_overfitting={on_overfitting!r}; known: {', '.join(_ON_OVERFITTING)}")
    geometric = recipe in ("gairat", "gair_rst")
    return ConfigDict(
        {
            "recipe": {
                "name": recipe,
                "options": options,
                "geometry_from_epoch": num_epochs / 2 if geometric else 0.0,
            },
            "watch": {"action": on_overfitting, "every_epochs": 1.0, "num_steps": 10, "threshold": 0.3},
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
                "profile_steps": (),  # (first, last) to record, such as (10, 13)
            },
        }
    )
