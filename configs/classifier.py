"""Trains an encoder, standard or adversarially robust.

    python -m arinv --config=configs/classifier.py:encoder=resnet18,dataset=cifar10,eps=1.0 --workdir=runs/resnet18

Arguments: encoder, dataset (photos, cifar10, tfds:NAME, folder:PATH), eps, norm and attack_steps of the attack (eps=0
trains standard), image_size (0: the encoder's), num_train and num_test (0: all images), epochs and batch (0: the
encoder's recipe), width (alexnet_small), seed, dtype, data_dir, on_bad_image (of a folder:
error or skip), smoke (a few steps on a few images).
"""

from configs import arguments, recipes, tasks


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(arg, **arguments.TRAINING)
    return from_arguments(args)


def from_arguments(args, *, title="classifier", **changes):
    """Returns the classifier task for parsed arguments."""
    options = {"width": args.width} if args.width else {}
    eps = arguments.check_eps(changes.pop("eps", args.eps))
    config = tasks.classifier(
        args.encoder,
        data=recipes.dataset_of(args),
        eps=eps,
        norm=args.norm,
        attack_steps=args.attack_steps,
        num_epochs=args.epochs,
        batch_size=args.batch,
        seed=args.seed,
        dtype=args.dtype,
        title=title,
        **changes,
        **options,
    )
    return tasks.shorten(config) if args.smoke else config
