"""Takes an encoder or a generator from a PyTorch checkpoint, to be inverted and evaluated like one of our own training.

    python -m arinv --config=configs/import_torch.py:encoder=alexnet,path=alexnet.pth --workdir=runs/alexnet

Any CPU, seconds. PyTorch is not needed, and nothing in the file is executed. Reads the names of torchvision,
MadryLab's robustness library, RobustBench (wide ResNets), Adv-BNN (vgg16_bn) and the released code of Rojas-Gomez et
al. 2022; torchvision's vgg16_bn is encoder=vgg16_bn,head=dense,normalization=imagenet.

A generator follows its encoder; the released ones read an encoder that is fed 2x - 1:

    ...:encoder=alexnet,path=alexnet_ar.pt,normalization=pm1,check_normalization=false --workdir=runs/released
    ...:encoder=alexnet,path=alexnet_ar_px_ft_gan.pt,layer=conv5,checkpoint=runs/released --workdir=runs/generator

Arguments: encoder, path (.pt, .pth, .safetensors), normalization (of pixels: imagenet, cifar10, pm1, none; empty: the
encoder's), check_normalization (whether a file that carries one must agree), head (vgg*: dense, pooled), width (vgg*,
wrn28_10, alexnet_small), num_classes (0: as many as the file has), classes (their names, joined by "+"; empty: those
in the file, or none), image_size (0: the encoder's), eps and norm (l1, l2 or linf; of the attack it was trained
with, kept for whoever reads the results); of a generator layer, variant (default, interpolation, ...) and checkpoint
(the encoder's workdir); smoke (changes nothing).
"""

from ml_collections import ConfigDict

from configs import arguments, encoders


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        encoder="alexnet",
        path="",
        normalization="",
        check_normalization=True,
        head="",
        width=0,
        num_classes=0,
        classes="",
        image_size=0,
        eps=0.0,
        norm="l2",
        layer="",
        variant="default",
        checkpoint="",
        smoke=False,
    )
    options = {name: args[name] for name in ("normalization", "head", "width") if args[name]}
    return ConfigDict(
        {
            "title": "import",
            "task": "import_torch",
            "path": args.path,
            "encoder": {"name": args.encoder, "options": options},
            "generator": {"layer": args.layer, "variant": args.variant, "encoder_checkpoint": args.checkpoint},
            "check_normalization": args.check_normalization,
            "num_classes": args.num_classes,
            "class_names": tuple(filter(None, args.classes.split("+"))),
            "resize": encoders.recipe(args.encoder)["data"]["resize"],  # of evaluations
            "image_size": args.image_size or encoders.image_size(args.encoder),
            "attack": {"eps": arguments.check_eps(args.eps), "norm": args.norm},
        }
    )
