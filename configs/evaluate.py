"""Evaluates a trained classifier, or an inverter with its encoder.

    python -m arinv --config=configs/evaluate.py:checkpoint=runs/quickstart/robust_inverter,eps=1.0 --workdir=runs/mine
    python -m arinv --config=configs/evaluate.py:attack=autoattack,checkpoint=runs/linf,norm=linf,eps=8/255 \
        --workdir=runs/autoattack

With attack=autoattack the encoder alone is measured, by AutoAttack's standard version; killed, it goes on.

Arguments: attack (pgd, fgsm, apgd, fab, square or autoattack; the metric is NAME_accuracy), checkpoint (the workdir of
a classifier's or an inverter's training), encoder (its name, which decides image_size where that is 0, norm where that
is empty, and eps=-1), dataset, num_test (0: all), steps (of the attack; of square, queries), batch, seed, dtype,
data_dir, on_bad_image, smoke; of an inverter also metrics (names joined by "+": mse, psnr, ssim, normalized_error,
lpips_alex, lpips_vgg, robust_lpips, gram, fid), metric_encoder (the workdir of the classifier that robust_lpips, gram
and fid look through; empty: the evaluated encoder), alexnet_weights, vgg16_weights and vgg19_weights (files of
torchvision's weights, or workdirs, for lpips_alex, lpips_vgg and gram), attack_from (the workdir of another evaluation
of the same encoder, whose accuracies are taken over). attack=autoattack refuses steps, attack_from and what is of
inverters only.
"""

from configs import arguments, defaults, encoders, tasks

# What AutoAttack has no use for, with the defaults.
_NOT_OF_AUTOATTACK = {"steps": 20, "attack_from": "", **arguments.METRICS}


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        attack="pgd",
        checkpoint="",
        encoder="alexnet_small",
        dataset="photos",
        image_size=0,
        num_test=0,
        eps=0.0,
        norm="",
        batch=128,
        seed=0,
        dtype="float32",
        data_dir="",
        on_bad_image="error",
        smoke=False,
        **_NOT_OF_AUTOATTACK,
    )
    encoders.resolve(args)
    common = {
        "data": defaults.dataset_of(args),
        "eps": arguments.check_eps(args.eps),
        "norm": args.norm,
        "seed": args.seed,
        "dtype": args.dtype,
    }
    if args.attack == "autoattack":
        _check_unused(args)
        config = tasks.autoattack(args.checkpoint, **common)
    else:
        measured = arguments.metric_fields(args)
        step_size = encoders.test_step_size(args.encoder, eps=args.eps, norm=args.norm)
        config = tasks.evaluation(
            args.checkpoint,
            **common,
            num_steps=args.steps,
            step_size=step_size,
            attack=args.attack,
            attack_from=args.attack_from,
            **measured,
        )
    config.batch_size = args.batch
    return tasks.shorten(config) if args.smoke else config


def _check_unused(args) -> None:
    for name, default in _NOT_OF_AUTOATTACK.items():
        if args[name] != default:
            raise ValueError(f"{name}={args[name]} is of no use with attack=autoattack; leave it out or use attack=pgd")
