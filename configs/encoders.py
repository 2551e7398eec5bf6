"""Facts and recipes of the encoders: attack, method of robust training, schedule, augmentation, image transforms.

Every experiment trains an encoder by its recipe. `alexnet_small` has no paper: its recipe is ours, for a laptop.
`caffenet`, `vgg16` and `vgg19` are not trained by any of the papers: their recipe is AlexNet's. DeepMind's recipe of
the `_silu` networks (CutMix, label smoothing, generated images) is not implemented: their recipe is ours.

Sources, field by field:
  alexnet   Rojas-Gomez et al. 2022, A3.1 (l2, eps 3, 7 steps of 0.5, 90 epochs, batch 256, rate 0.1 divided by 10
            every 30 epochs) and Table 4 (eps 0.5 to 4; the steps at other radii are not stated: in proportion,
            eps / 6); MadryLab's robustness library (momentum, weight decay, RandomResizedCrop, flip, colors,
            lighting; evaluation by Resize 256, CenterCrop 224)
  resnet18  Rojas-Gomez et al. 2022, A1.3 (eps 0 to 3.5; neither steps nor their size are stated: 7 steps of
            2.5 eps / 7, the library's rule); MadryLab's robustness library (everything else)
  vgg16_bn  Liu et al. 2019 (Adv-BNN), released code, at 64 px: linf, eps 0.01, 10 steps of 0.007, windows of 80 to
            90 % of the area, rates and epochs. How it resizes for evaluation is not stated: as ImageNet classifiers
  resnet*_imagenet, wide_resnet50_2
            MadryLab's robustness library, its defaults for ImageNet (90 epochs, batch 256, rate 0.1 divided by 10 every
            30 epochs, weight decay 1e-4), with the attack of its robust networks: l2, eps 3, 7 steps of 0.5
  resnet50  MadryLab's robustness library, its defaults for CIFAR; its networks are of l2 eps 0.25, 0.5 and 1
  preact_resnet18
            Rice et al. 2020, released code (linf, eps 8/255, 10 steps of 2/255 from a random start, 200 epochs)
  wrn34_10  Zhang et al. 2019 (TRADES), released code
  wrn28_10  Zhang et al. 2021, released code of GAIR-RST (with 500,000 pseudo-labeled images, `extra`), or with
            recipe=gairat that of GAIRAT. Neither states how a standard network is trained: by the same schedule
"""

from ml_collections import ConfigDict, FieldReference

OURS = "ours"  # the name of the recipe of encoders that no paper trains

# Facts that configs need of each encoder, the same as its class in arinv/models/encoders states: the layer that is
# inverted, the size of images, and the layers that styles are transferred at. smoke_options are those in smoke runs of
# an encoder that would otherwise take too long. Encoders that are missing here have the facts of _OTHER_ENCODER.
_OTHER_ENCODER = {"layer": "conv5", "image_size": 224, "style_layers": ("conv5", "conv2", "conv1"), "smoke_options": {}}
_VGG = {
    **_OTHER_ENCODER,
    "layer": "conv5_1",
    "style_layers": ("conv5_1", "conv3_1", "conv1_1"),
    "smoke_options": {"width": 8},
}
_RESNET = {
    **_OTHER_ENCODER,
    "layer": "block4",
    "image_size": 32,
    "style_layers": ("block4", "block2", "block1"),
}
_WIDE_RESNET = {
    "layer": "block3",
    "image_size": 32,
    "style_layers": ("block3", "block2", "block1"),
    "smoke_options": {"width": 1},
}
_SMALL_RESNET = {**_RESNET, "smoke_options": {"width": 8, "depths": (1, 1, 1, 1)}}
_IMAGENET_RESNET = {**_SMALL_RESNET, "image_size": 224}
_IMAGENET_RESNETS = (
    *("resnet18_imagenet", "resnet34_imagenet", "resnet50_imagenet", "resnet101_imagenet"),
    "wide_resnet50_2",
)
_DEEP_WIDE_RESNET = {**_WIDE_RESNET, "smoke_options": {"width": 1, "depth": 10}}


def _shallow(layer: str) -> dict:
    return {**_OTHER_ENCODER, "layer": layer, "image_size": 256, "style_layers": (layer,)}


WITHOUT_WEIGHTS = ("hog", "lbp", "sift", "sift_skimage")
FACTS = {
    "alexnet": _OTHER_ENCODER,
    "alexnet_small": {**_OTHER_ENCODER, "image_size": 32},
    "caffenet": _OTHER_ENCODER,
    "hog": _shallow("hog"),
    "lbp": _shallow("lbp"),
    "sift": _shallow("sift"),
    "sift_skimage": _shallow("sift"),
    **dict.fromkeys(("preact_resnet18", "preact_resnet18_silu", "resnet50"), _SMALL_RESNET),
    "resnet18": _RESNET,
    **dict.fromkeys(_IMAGENET_RESNETS, _IMAGENET_RESNET),
    "vgg16": _VGG,
    "vgg16_bn": _VGG,
    "vgg19": _VGG,
    "wrn28_10": _WIDE_RESNET,
    **dict.fromkeys(("wrn28_10_silu", "wrn34_10", "wrn70_16_silu"), _DEEP_WIDE_RESNET),
}


def layer(encoder: str) -> str:
    """Returns the layer that is inverted unless another is named."""
    return FACTS.get(encoder, _OTHER_ENCODER)["layer"]


def image_size(encoder: str) -> int:
    """Returns the side, in pixels, of the images that the encoder was designed for."""
    return FACTS.get(encoder, _OTHER_ENCODER)["image_size"]


def style_layers(encoder: str) -> tuple[str, ...]:
    """Returns the layers that styles are transferred at unless others are named, the deepest first."""
    return FACTS.get(encoder, _OTHER_ENCODER)["style_layers"]


def has_weights(encoder: str) -> bool:
    """Returns whether the encoder is trained."""
    return encoder not in WITHOUT_WEIGHTS


def smoke_options(encoder: str) -> dict:
    """Returns the options of the encoder in smoke runs."""
    return dict(FACTS.get(encoder, _OTHER_ENCODER)["smoke_options"])


_SGD = {"name": "sgd", "momentum": 0.9, "nesterov": False}
_IMAGENET = {
    # torchvision's transforms; both antialias, as Pillow does.
    "resized_crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)},
    "resize": "crop_7_8",
}
_CIFAR10 = {"resized_crop": {}, "resize": "squash"}

_ALEXNET = {
    "name": "alexnet_imagenet",
    "source": "Rojas-Gomez et al. 2022, A3.1 and Table 4; MadryLab's robustness library",
    "attack": {"eps": 3.0, "norm": "l2", "num_steps": 7, "step_size": 0.5},
    "sweep": (0.5, 2.0, 3.0, 4.0),
    "num_epochs": 90.0,
    "batch_size": 256,
    "optimizer": {**_SGD, "weight_decay": 1e-4},
    "schedule": {"name": "step", "learning_rate": 0.1, "every_epochs": 30.0, "factor": 0.1},
    # 0.1 is high for a network without batch normalization: the rate that is trained with unless another is asked for.
    "safe_learning_rate": 0.01,
    "augmentation": {"flip": True, "color_jitter": 0.1, "lighting": 0.05},
    "data": {**_IMAGENET, "image_size": 224},
}
_LIKE_ALEXNET = {"name": "that of AlexNet", "source": "no paper; " + _ALEXNET["source"]}
_RESNET18 = {
    "name": "resnet18_cifar10",
    "source": "Rojas-Gomez et al. 2022, A1.3; MadryLab's robustness library",
    "attack": {"eps": 1.0, "norm": "l2", "num_steps": 7, "step_size": 0.0},
    "sweep": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
    "num_epochs": 150.0,
    "batch_size": 128,
    "optimizer": {**_SGD, "weight_decay": 5e-4},
    "schedule": {"name": "step", "learning_rate": 0.1, "every_epochs": 50.0, "factor": 0.1},
    "augmentation": {"crop_padding": 4, "flip": True, "color_jitter": 0.25, "rotate_degrees": 2.0},
    "data": {**_CIFAR10, "image_size": 32},
}
_ROBUSTNESS_IMAGENET = {
    **{field: value for field, value in _ALEXNET.items() if field != "safe_learning_rate"},
    "name": "robustness_imagenet",
    "source": "MadryLab's robustness library, its defaults for ImageNet",
    "sweep": (),
}
_TRADES = {
    "name": "trades",
    "source": "Zhang et al. 2019 (TRADES), released code",
    "attack": {"eps": 0.031, "norm": "linf", "num_steps": 10, "step_size": 0.007},
    "method": "trades",
    "num_epochs": 76.0,
    "batch_size": 128,
    "optimizer": {**_SGD, "weight_decay": 2e-4},
    "schedule": {"name": "milestones", "learning_rate": 0.1, "epochs": (75.0,), "factors": (0.1,)},
    "augmentation": {"crop_padding": 4, "flip": True},
    "data": {**_CIFAR10, "image_size": 32},
}
_RICE = {
    **_TRADES,
    "name": "rice",
    "source": "Rice et al. 2020, released code",
    "attack": {"eps": 8 / 255, "norm": "linf", "num_steps": 10, "step_size": 2 / 255, "random_start": True},
    "method": "pgd",
    "num_epochs": 200.0,
    "optimizer": {**_SGD, "weight_decay": 5e-4},
    "schedule": {"name": "milestones", "learning_rate": 0.1, "epochs": (100.0, 150.0), "factors": (0.1, 0.1)},
}
_GAIR_RST = {
    "name": "gair_rst",
    "source": "Zhang et al. 2021, released code of GAIR-RST; Rojas-Gomez et al. 2022, section 4.1",
    "attack": {"eps": 0.031, "norm": "linf", "num_steps": 10, "step_size": 0.007},
    "method": "gair_rst",
    "num_epochs": 200.0,
    "batch_size": 256,
    "optimizer": {**_SGD, "nesterov": True, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "learning_rate": 0.1},
    "augmentation": {"crop_padding": 4, "flip": True},
    "data": {**_CIFAR10, "image_size": 32},
}
_RECIPES = {
    "alexnet": _ALEXNET,
    **dict.fromkeys(("caffenet", "vgg16", "vgg19"), {**_ALEXNET, **_LIKE_ALEXNET}),
    "preact_resnet18": _RICE,
    "resnet18": _RESNET18,
    "resnet50": {
        **_RESNET18,
        "name": "robustness_cifar10",
        "source": "MadryLab's robustness library, its defaults for CIFAR",
        "sweep": (0.25, 0.5, 1.0),
    },
    **dict.fromkeys(_IMAGENET_RESNETS, _ROBUSTNESS_IMAGENET),
    "vgg16_bn": {
        "name": "vgg16_imagenet143",
        "source": "Liu et al. 2019 (Adv-BNN), released code; Rojas-Gomez et al. 2022, section 4.1",
        "attack": {"eps": 0.01, "norm": "linf", "num_steps": 10, "step_size": 0.007},
        "test_step_size": 0.007,
        "num_epochs": 80.0,
        "batch_size": 128,
        "optimizer": {**_SGD, "weight_decay": 5e-4},
        "schedule": {"name": "milestones", "learning_rate": 0.01, "epochs": (30.0, 50.0, 70.0), "factors": (0.1,) * 3},
        "augmentation": {"flip": True},
        "data": {**_IMAGENET, "resized_crop": {"scale": (0.8, 0.9), "ratio": (1.0, 1.0)}, "image_size": 64},
    },
    "wrn28_10": _GAIR_RST,
    "wrn34_10": _TRADES,
}
# Of a method that was published with an encoder and a schedule of its own.
_OF_METHOD = {
    ("wrn28_10", "gairat"): {
        **_GAIR_RST,
        "name": "gairat",
        "source": "Zhang et al. 2021 (GAIRAT), released code",
        "method": "gairat",
        "num_epochs": 120.0,
        "batch_size": 128,
        "optimizer": {**_SGD, "weight_decay": 2e-4},
        "schedule": {
            "name": "milestones",
            "learning_rate": 0.1,
            "epochs": (60.0, 90.0, 110.0),
            "factors": (0.1, 0.1, 0.5),
        },
    },
}
_OTHER = {
    "name": OURS,
    "source": "no paper",
    "attack": {"eps": 1.0, "norm": "l2", "num_steps": 7, "step_size": 0.0},
    "attack_warmup_fraction": 0.5,
    "num_epochs": 30.0,
    "batch_size": 128,
    "optimizer": {**_SGD, "nesterov": True, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "learning_rate": 0.02},
    "augmentation": {"crop_padding": 4, "flip": True},
    "data": _CIFAR10,
}


def recipe(encoder: str, method: str = "") -> dict:
    """Returns an encoder's recipe.

    Args:
      encoder: its name.
      method: of robust training; empty for the recipe's. A method that was published with this encoder and a schedule
        of its own has a recipe of its own.

    Returns:
      name, source, attack (of the training; step_size 0: 2.5 eps / num_steps; random_start where it has one), sweep
      (radii that the paper trains with), method, num_epochs, batch_size, optimizer, schedule, augmentation, data
      (image_size, resize, resized_crop), options (of the encoder), attack_warmup_fraction, safe_learning_rate,
      test_step_size.
    """
    own = _OF_METHOD.get((encoder, method)) or _RECIPES.get(encoder, _OTHER)
    defaults = {"method": "pgd", "sweep": (), "options": {}, "attack_warmup_fraction": 0.0, "test_step_size": 0.0}
    return {**defaults, "safe_learning_rate": own["schedule"]["learning_rate"], **own}


def attack_of(recipe: dict, *, eps: float, norm: str = "") -> dict:
    """Returns the attack of a training.

    Args:
      recipe: recipe of the encoder.
      eps: radius, -1 for the recipe's.
      norm: empty for the recipe's.

    Raises:
      ValueError: the recipe's radius in another norm, or a negative one.
    """
    own = recipe["attack"]
    norm = norm or own["norm"]
    if eps == -1:
        if norm != own["norm"]:
            raise ValueError(
                f"norm={norm} needs eps=: {own['eps']:g}, the radius of the encoder's recipe, is {own['norm']}"
            )
        eps = own["eps"]
    elif eps < 0:
        raise ValueError(f"eps={eps:g} must be 0 or more, a radius in units of [0, 1] images, or -1 for the recipe's")
    num_steps = own["num_steps"]
    step_size = attack_step(recipe, eps=eps, norm=norm, num_steps=num_steps)
    start = own.get("random_start", False) and norm == own["norm"]
    return {"eps": float(eps), "norm": norm, "num_steps": num_steps, "step_size": step_size, "random_start": start}


def attack_step(
    recipe: dict, *, eps: float | FieldReference, norm: str, num_steps: int | FieldReference
) -> float | FieldReference:
    """Returns the step size of a training's attack; a reference where its arguments are references.

    The recipe's step holds for its norm and number of steps, and grows with eps. Elsewhere it is 0, which stands for
    2.5 eps / num_steps.
    """
    own = recipe["attack"]
    if norm != own["norm"]:
        return 0.0
    is_own = 1 // (1 + abs(num_steps - own["num_steps"]))  # 1 for the recipe's number of steps, else 0
    return eps / own["eps"] * own["step_size"] * is_own


def resolve(args: ConfigDict, own_recipe: dict | None = None) -> ConfigDict:
    """Sets eps=-1 and an empty norm to those of the encoder's recipe, or of another one, and returns the arguments."""
    own = attack_of(own_recipe or recipe(args.encoder), eps=args.eps, norm=args.norm)
    args.eps, args.norm = own["eps"], own["norm"]
    return args


def test_step_size(encoder: str, *, eps: float, norm: str) -> float:
    """Returns the step of an evaluation: the recipe's for its radius and norm, else 0, for 2.5 eps / num_steps."""
    published = recipe(encoder)
    own = published["attack"]
    return published["test_step_size"] if (eps, norm) == (own["eps"], own["norm"]) else 0.0


def image_transforms(recipe: dict) -> dict:
    """Returns the data fields resize (evaluation) and resized_crop (training)."""
    return {name: recipe["data"][name] for name in ("resize", "resized_crop")}


def schedule_of(recipe: dict, *, learning_rate: float = 0.0) -> ConfigDict:
    """Returns length, optimizer and augmentation of a classifier's training.

    Args:
      recipe: recipe of the encoder.
      learning_rate: 0 for the recipe's.

    Returns:
      num_epochs, batch_size, attack_warmup_epochs, optimizer, augmentation.
    """
    schedule = {**recipe["schedule"], "warmup_epochs": 0.0}
    schedule["learning_rate"] = learning_rate or schedule["learning_rate"]
    config = ConfigDict(
        {
            "num_epochs": recipe["num_epochs"],
            "batch_size": recipe["batch_size"],
            "optimizer": {**recipe["optimizer"], "schedule": schedule, "max_gradient_norm": 0.0},
            "augmentation": recipe["augmentation"],
        }
    )
    # A reference: it follows num_epochs.
    config.attack_warmup_epochs = config.get_ref("num_epochs") * recipe["attack_warmup_fraction"]
    return config
