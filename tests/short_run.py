"""A short robust training and its evaluation, for tests that start, stop and kill it.

    python -m arinv --config=tests/short_run.py:num_steps=24 --workdir=runs/short

An epoch has six steps, and the test images do not fill their last batch. The learning rate is small, so that rounding
stays rounding.
"""

from configs import arguments, defaults, tasks


def get_config(arg=None):
    """Returns the two stages."""
    args = arguments.parse(arg, num_steps=24, checkpoint_every=4, evaluate_every_epochs=100.0, num_test=20)
    data = defaults.dataset("photos", encoder="alexnet_small", num_train=51, num_test=args.num_test)
    options = {"eps": 0.5, "attack_steps": 2, "batch_size": 8, "num_epochs": 1.0, "options": {"width": 4}}
    encoder = tasks.classifier("alexnet_small", data=data, **options)
    encoder.num_steps = args.num_steps
    encoder.optimizer.schedule.learning_rate = 0.002
    encoder.log.every_steps = 1
    encoder.log.evaluate_every_epochs = args.evaluate_every_epochs
    encoder.log.checkpoint_every_steps = args.checkpoint_every
    evaluation = tasks.evaluation("stage:encoder", data=data, eps=0.5, num_steps=2)
    evaluation.batch_size = 8
    return tasks.experiment({"encoder": encoder, "evaluation": evaluation})
