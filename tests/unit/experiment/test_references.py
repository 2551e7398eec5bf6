"""What the fields of configs name."""

import pytest

from arinv.experiment.references import Role, role
from arinv.tasks import TASKS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("checkpoint", Role.TRAINING),
        ("encoder.checkpoint", Role.TRAINING),
        ("inverters.class0", Role.TRAINING),
        ("entries.mask", Role.RUN),
        ("figures.Figure 8: masked.blocks", Role.RUN),
        ("loss.comparator", Role.FOUND),
        ("gan", Role.FOUND),
        ("gan.networks", None),
        ("start", Role.FOUND),
        ("encoder.start", Role.NOTHING),
        ("optimization.encoders", Role.NOTHING),
        ("mask", Role.FILE),
        ("data.content", Role.IMAGES),
        ("log.num_images", None),
        ("title", Role.TEXT),
    ],
)
def test_role_of_a_field(name, expected):
    assert role(name) is expected


def test_every_training_checks_its_inputs_before_the_first_stage():
    trainings = {name: task for name, task in TASKS.items() if task.is_training or hasattr(task.module, "split")}
    assert len(trainings) == 7 and all(hasattr(task.module, "check_inputs") for task in trainings.values())
