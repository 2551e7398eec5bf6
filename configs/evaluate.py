"""Evaluates a trained classifier, or an inverter with its encoder.

    python -m arinv --config=configs/evaluate.py:checkpoint=runs/quickstart/robust_inverter,eps=1.0 --workdir=runs/mine

Arguments: checkpoint (the workdir of a classifier's or an inverter's training), encoder (its name, which decides the
image size where image_size is 0), dataset, image_size, num_test (0: all), eps, norm, steps (of PGD), batch, seed,
dtype, data_dir, on_bad_image, smoke.
"""

from configs import arguments, recipes, tasks


def get_config(arg=None):
    """Returns the task's config."""
    args = arguments.parse(
        arg,
        checkpoint="",
        encoder="alexnet_small",
        dataset="photos",
        image_size=0,
        num_test=0,
        eps=0.0,
        norm="l2",
        steps=20,
        batch=128,
        seed=0,
        dtype="float32",
        data_dir="",
        on_bad_image="error",
        smoke=False,
    )
    config = tasks.evaluation(
        args.checkpoint,
        data=recipes.dataset_of(args),
        eps=arguments.check_eps(args.eps),
        norm=args.norm,
        num_steps=args.steps,
        seed=args.seed,
        dtype=args.dtype,
    )
    config.batch_size = args.batch
    return tasks.shorten(config) if args.smoke else config
