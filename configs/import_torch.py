"""Takes an encoder, a generator or a denoiser from a PyTorch checkpoint, to be used like one of our own training.

    python -m arinv --config=configs/import_torch.py:encoder=alexnet,path=alexnet.pth --workdir=runs/alexnet

Any CPU, seconds. PyTorch is not needed, and nothing in the file is executed. Reads the names of torchvision,
MadryLab's robustness library, RobustBench (wide ResNets), Adv-BNN (vgg16_bn) and the released code of Rojas-Gomez et
al. 2022; torchvision's vgg16_bn is encoder=vgg16_bn,head=dense,normalization=imagenet, a WRN-34-10 is
encoder=wrn28_10,depth=34.

A generator or a denoiser follows its encoder; the released ones read an encoder that is fed 2x - 1:

    ...:encoder=alexnet,path=alexnet_ar.pt,normalization=pm1,check_normalization=false --workdir=runs/released
    ...:encoder=alexnet,path=alexnet_ar_px_ft_gan.pt,layer=conv5,checkpoint=runs/released --workdir=runs/generator
    ...:encoder=alexnet,path=alexnet_ar_skip.pt,denoiser=true,checkpoint=runs/released --workdir=runs/denoiser

Arguments: encoder, path (.pt, .pth, .safetensors), normalization (of pixels: imagenet, cifar10, pm1, none; empty: the
file's where it carries one, else the encoder's), mean and std (of red, green and blue in [0, 1] instead of a name,
such as mean=0.4914+0.4822+0.4465,std=0.2471+0.2435+0.2616), check_normalization (whether the file's must agree), head
(vgg*: dense, pooled), width (vgg*, wrn28_10, alexnet_small), depth (wrn28_10), depths (blocks of each stage of
resnet18 and vgg*, such as 3+4+6+3), options (other attributes of the encoder, such as dense_width:512+head_side:1),
on_unknown (error refuses a file that holds more than the network and what is known not to matter, report leaves it
out), num_classes (0: as many as the file has), classes (their names, joined by "+"; empty: those in the file, or
none), image_size (0: the encoder's), eps and norm (l1, l2 or linf; of the attack it was trained with, kept for
whoever reads the results); of a generator layer and variant (default, interpolation, ...); of a denoiser
denoiser=true and pad_side (official, aligned); of both checkpoint (the encoder's workdir); smoke (changes nothing).
"""

from fractions import Fraction

from ml_collections import ConfigDict

from configs import arguments, encoders


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        encoder="alexnet",
        path="",
        normalization="",
        mean="",
        std="",
        check_normalization=True,
        head="",
        width=0,
        depth=0,
        depths="",
        options="",
        on_unknown="error",
        num_classes=0,
        classes="",
        image_size=0,
        eps=0.0,
        norm="l2",
        layer="",
        variant="default",
        denoiser=False,
        pad_side="official",
        checkpoint="",
        smoke=False,
    )
    return ConfigDict(
        {
            "title": "import",
            "task": "import_torch",
            "path": args.path,
            "encoder": {"name": args.encoder, "options": _options(args)},
            "generator": {"layer": args.layer, "variant": args.variant},
            "denoiser": {"read": args.denoiser, "pad_side": args.pad_side},
            "encoder_checkpoint": args.checkpoint,
            "check_normalization": args.check_normalization,
            "on_unknown": args.on_unknown,
            "num_classes": args.num_classes,
            "class_names": tuple(filter(None, args.classes.split("+"))),
            "resize": encoders.recipe(args.encoder)["data"]["resize"],  # of evaluations
            "image_size": args.image_size or encoders.image_size(args.encoder),
            "attack": {"eps": arguments.check_eps(args.eps), "norm": args.norm},
        }
    )


def _options(args):
    """Returns the encoder's options that were given."""
    options = {name: args[name] for name in ("normalization", "head", "width", "depth") if args[name]}
    if args.depths:
        options["depths"] = tuple(int(depth) for depth in _numbers("depths", args.depths))
    if args.mean or args.std:
        if args.normalization or not (args.mean and args.std):
            raise ValueError("mean and std go together, and without normalization; give both, or its name")
        options["normalization"] = (_numbers("mean", args.mean), _numbers("std", args.std))
    return options | arguments.encoder_options(args.options)


def _numbers(name, text):
    try:
        return tuple(float(Fraction(part)) for part in text.split("+"))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name}={text!r} must be numbers joined by +, such as 0.485+0.456+0.406") from None
