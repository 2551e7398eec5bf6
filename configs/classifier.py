"""Trains an encoder, standard or adversarially robust.

    python -m arinv --config=configs/classifier.py:encoder=resnet18,dataset=cifar10,eps=1.0 --workdir=runs/resnet18

Everything that is not said is the encoder's recipe (configs/encoders.py): attack, method, schedule, augmentation, and
how images are brought to size. What departs from it is printed, and stands in results.json as departs_from_recipe.

Arguments: encoder; dataset (photos, cifar10, tfds:NAME, folder:PATH, npz:PATH), classes (labels to keep, such as
151-293), extra (a second source, half of every batch), image_size (0: the encoder's), num_train and num_test (0: all
images), data_dir, on_bad_image (of a folder: error or skip); eps (0: standard training, -1: the encoder's), norm,
attack_steps and step_size of the attack (0 or empty: the encoder's, whose steps grow with eps; with another norm or
number of steps 2.5 eps / attack_steps); recipe (pgd, fgsm, n_fgsm, trades, gairat, gair_rst; empty: the encoder's),
weighting (of gairat: tanh, sigmoid, discrete), on_overfitting (notice, switch, ignore), attack_warmup (epochs over
which eps grows; -1: the encoder's); epochs and batch (0: the encoder's), average (decay of a moving average of the
weights, 0: none), width (alexnet_small, vgg*, wrn28_10), options (of the encoder, such as dense_width:512+head_side:1),
seed, dtype, smoke (a few steps on a few images).
"""

from configs import arguments, defaults, encoders, tasks


def get_config(arg=None):
    """Returns the task's config."""
    args = encoders.resolve(arguments.parse(arg, **arguments.TRAINING))
    return from_arguments(args)


def from_arguments(args, *, title="classifier", eps=None, test_eps=None, recipe=None):
    """Returns the classifier task for parsed arguments.

    Args:
      args: resolved by encoders.resolve.
      title: shown beside progress.
      eps: instead of args.eps.
      test_eps: instead of args.eps.
      recipe: instead of the encoder's.
    """
    width = args.width or (encoders.smoke_width(args.encoder) if args.smoke else 0)
    options = ({"width": width} if width else {}) | arguments.encoder_options(args.options)
    config = tasks.classifier(
        args.encoder,
        data=defaults.dataset_of(args),
        eps=arguments.check_eps(args.eps if eps is None else eps),
        test_eps=test_eps,
        norm=args.norm,
        attack_steps=args.attack_steps,
        step_size=args.step_size,
        method=args.recipe,
        weighting=args.weighting,
        on_overfitting=args.on_overfitting,
        attack_warmup=args.attack_warmup,
        average=args.average,
        num_epochs=args.epochs,
        batch_size=args.batch,
        seed=args.seed,
        dtype=args.dtype,
        title=title,
        options=options,
        recipe=recipe,
    )
    return tasks.shorten(config) if args.smoke else config
