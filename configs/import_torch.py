"""Imports an encoder, a generator or a denoiser from a PyTorch or Caffe file; the workdir is like that of a training.

    python -m arinv --config=configs/import_torch.py:encoder=alexnet,path=alexnet.pth --workdir=runs/alexnet

Seconds on any CPU. PyTorch is not needed, and nothing in the file is executed. Reads the names of torchvision,
MadryLab's robustness library, RobustBench (ResNets, wide ResNets and PreActResNets, DeepMind's names included), Adv-BNN
(vgg16_bn) and the released code of Rojas-Gomez et al. 2022. What a file holds, and the command that imports it:

    python -m arinv info FILE

Of Caffe's .caffemodel files it reads CaffeNet, and with layer= DeePSiM's generators:

    python -m arinv --config=configs/import_torch.py:encoder=caffenet,path=bvlc_reference_caffenet.caffemodel,\
image_size=227 --workdir=runs/caffenet

Depths, widths and head are those of the file where they are not given; a file with the weights of another encoder of
the table is refused, and that one named.

A generator or a denoiser follows its encoder; the released ones belong to an encoder of 2x - 1:

    R=runs/released
    python -m arinv --config=configs/import_torch.py:encoder=alexnet,path=alexnet_ar.pt,normalization=pm1,\
check_normalization=false --workdir=$R
    python -m arinv --config=configs/import_torch.py:encoder=alexnet,path=alexnet_ar_px_ft_gan.pt,layer=conv5,\
encoder_checkpoint=$R --workdir=runs/generator
    python -m arinv --config=configs/import_torch.py:encoder=alexnet,path=alexnet_ar_skip.pt,denoiser=true,\
encoder_checkpoint=$R --workdir=runs/denoiser

Arguments:
  encoder, options     of configs/classifier.py: options=width:W+depth:D+head:dense (vgg*: dense, pooled)
                       +activation:silu (wrn*, preact*: relu, silu)+variant:kuangliu (preact_resnet18)
  depths               blocks of each stage of resnet*, preact_resnet18* and vgg*, such as 3+4+6+3
  path                 a .pt, .pth, .safetensors or .caffemodel file
  normalization        of pixels: imagenet, cifar10, cifar10_pixels, cifar100_pixels, pm1, caffe or none; empty: the
                       file's where it has one, else the encoder's
  mean, std            of red, green and blue in [0, 1] instead of a name, such as mean=0.4914+0.4822+0.4465
  check_normalization  whether the normalization in the file must agree
  on_unknown           error: raise for a file that holds more than the network and what is known not to matter;
                       report: skip and report it
  class_names          joined by "+"; empty: those in the file, or none
  image_size           0: the encoder's
  eps, norm            of the attack it was trained with (l1, l2 or linf), recorded only
  layer, variant       of a generator: the layer it inverts, and default, nearest, interpolation, ...; empty: the
                       variant that the file names, else default
  denoiser             true for a denoiser
  encoder_checkpoint   of a generator or a denoiser: the workdir of its encoder
  smoke                changes nothing

Fields that are often set: num_classes (0: as many as in the file), denoiser.pad_side (official, aligned).
"""

from fractions import Fraction

from ml_collections import ConfigDict

from configs import arguments, encoders


def get_config(arg=None):
    """Returns the config of the task."""
    args = arguments.parse(
        arg,
        encoder="alexnet",
        options="",
        depths="",
        path="",
        normalization="",
        mean="",
        std="",
        check_normalization=True,
        on_unknown="error",
        class_names="",
        image_size=0,
        eps=0.0,
        norm="l2",
        layer="",
        variant="",
        denoiser=False,
        encoder_checkpoint="",
        smoke=False,
    )
    return ConfigDict(
        {
            "title": "import",
            "task": "import_torch",
            "path": args.path,
            "encoder": {"name": args.encoder, "options": _options(args)},
            "generator": {"layer": args.layer, "variant": args.variant},
            "denoiser": {"read": args.denoiser, "pad_side": "official"},
            "encoder_checkpoint": args.encoder_checkpoint,
            "check_normalization": args.check_normalization,
            "on_unknown": args.on_unknown,
            "num_classes": 0,
            "class_names": tuple(filter(None, args.class_names.split("+"))),
            "resize": encoders.recipe(args.encoder)["data"]["resize"],  # of evaluations
            "image_size": args.image_size or encoders.image_size(args.encoder),
            "attack": {"eps": arguments.check_eps(args.eps), "norm": args.norm},
        }
    )


def _options(args):
    """Returns the options of the encoder."""
    options = {"normalization": args.normalization} if args.normalization else {}
    if args.depths:
        options["depths"] = tuple(int(depth) for depth in _numbers("depths", args.depths))
    if args.mean or args.std:
        if args.normalization or not (args.mean and args.std):
            raise ValueError("mean and std go together, and without normalization; give both, or its name")
        options["normalization"] = (_numbers("mean", args.mean), _numbers("std", args.std))
    return options | arguments.options(args.options)


def _numbers(name, text):
    try:
        return tuple(float(Fraction(part)) for part in text.split("+"))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name}={text!r} must be numbers joined by +, such as 0.485+0.456+0.406") from None
