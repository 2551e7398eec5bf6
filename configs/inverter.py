"""Trains an encoder and the generator that inverts it, then measures both.

    python -m arinv --config=configs/inverter.py:encoder=resnet18,layer=block4,dataset=cifar10,eps=1.5 --workdir=runs/x
    python -m arinv --config=configs/inverter.py:encoder=resnet18,checkpoint=runs/resnet18,dataset=cifar10 \
        --workdir=runs/y

With `checkpoint`, the workdir of a classifier's training, that encoder is inverted and none is trained.

Arguments: those of configs/classifier.py (eps, epochs and batch are the encoder's), and layer (empty: the encoder's),
loss (pixel, feature, gan, pixel_balanced), checkpoint, other_size (true: the checkpoint's encoder may have been trained
on images of another size, as VGG-16's at 64 px that the paper inverts at 224), inverter_epochs, inverter_batch,
inverter_rate and inverter_schedule (0 or empty: the paper's 90, 128, 3e-4 and steps), test_eps (radius of the
evaluation's attack; 0: eps), and of configs/evaluate.py metrics, metric_encoder, alexnet_weights, vgg16_weights,
vgg19_weights.
"""

from configs import arguments, classifier, defaults, encoders, tasks


def get_config(arg=None):
    """Returns the stages encoder (unless there is a checkpoint), inverter, evaluation."""
    extra = {
        "layer": "",
        "loss": "feature",
        "checkpoint": "",
        "other_size": False,
        "inverter_epochs": 0.0,
        "inverter_batch": 0,
        "inverter_rate": 0.0,
        "inverter_schedule": "",
        "test_eps": 0.0,
    }
    args = encoders.resolve(arguments.parse(arg, **arguments.TRAINING, **arguments.METRICS, **extra))
    stages = {} if args.checkpoint else {"encoder": classifier.from_arguments(args, title="encoder")}
    stages["inverter"] = inverter_stage(args, args.checkpoint or "stage:encoder", title="inverter")
    stages["inverter"].encoder.other_size = args.other_size
    stages["evaluation"] = evaluation_stage(args, "stage:inverter", eps=args.test_eps or args.eps)
    return tasks.experiment(stages)


def inverter_stage(args, checkpoint, *, title, loss=None):
    """Returns the inverter task for parsed arguments."""
    config = tasks.inverter(
        args.encoder,
        checkpoint,
        layer=args.layer or encoders.layer(args.encoder),
        data=defaults.dataset_of(args),
        loss=loss or args.loss,
        learning_rate=args.inverter_rate,
        schedule=args.inverter_schedule,
        seed=args.seed,
        dtype=args.dtype,
        title=title,
    )
    config.num_epochs = args.inverter_epochs or config.num_epochs
    config.batch_size = args.inverter_batch or config.batch_size
    return tasks.shorten(config) if args.smoke else config


def evaluation_stage(args, checkpoint, *, eps, title="evaluation", attack_from=""):
    """Returns the evaluation task for parsed arguments."""
    config = tasks.evaluation(
        checkpoint,
        data=defaults.dataset_of(args),
        eps=arguments.check_eps(eps),
        norm=args.norm,
        step_size=encoders.test_step_size(args.encoder, eps=eps, norm=args.norm),
        attack_from=attack_from,
        **arguments.metric_fields(args),
        seed=args.seed,
        dtype=args.dtype,
        title=title,
    )
    return tasks.shorten(config) if args.smoke else config
