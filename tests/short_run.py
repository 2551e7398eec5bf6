"""A short robust training and its evaluation, for tests that start, stop and kill it.

    python -m arinv --config=tests/short_run.py:num_steps=24 --workdir=runs/short

An epoch has six steps, and the test images do not fill their last batch. The learning rate is small, so that rounding
stays rounding.
"""

from configs import arguments, inverter


def get_config(arg=None):
    """Returns the two stages."""
    args = arguments.parse(arg, num_steps=24, checkpoint_every=4, evaluate_every_epochs=100.0, num_test=20)
    config = inverter.get_config("eps=0.5,options=width:4")
    encoder, evaluation = config.stages.encoder, config.stages.evaluation
    encoder.num_epochs, encoder.num_steps = 1.0, args.num_steps
    encoder.attack.num_steps = evaluation.attack.num_steps = 2
    encoder.optimizer.schedule.learning_rate = 0.002
    encoder.log.every_steps = 1
    encoder.log.evaluate_every_epochs = args.evaluate_every_epochs
    encoder.log.checkpoint_every_steps = args.checkpoint_every
    evaluation.checkpoint = "stage:encoder"
    for stage in (encoder, evaluation):
        stage.data.num_train, stage.data.num_test, stage.batch_size = 51, args.num_test, 8
    config.stages = {"encoder": encoder, "evaluation": evaluation}
    config.order = ("encoder", "evaluation")
    return config
