"""Inverters of every class: one config each, found by the evaluation, planned one by one."""

import pathlib

import pytest

from arinv import main
from arinv.errors import UserError
from arinv.experiment import stages, workdirs
from arinv.experiment.run import Run
from arinv.plan import plan
from arinv.tasks import TASKS
from arinv.train import class_inverters
from configs import anomaly

ARGUMENTS = "dataset=photos,classes=0+3,smoke=True"


def test_split_gives_each_class_its_images_and_the_shared_encoder(tmp_path):
    config = anomaly.get_config(ARGUMENTS)
    workdir = tmp_path / "robust_inverters"
    inverters = class_inverters.split(workdir, config.stages.robust_inverters)
    assert [path.name for path in inverters] == ["class0", "class3"]
    for (folder, inverter), label in zip(inverters.items(), (0, 3), strict=True):
        assert inverter.task == "inverter" and inverter.data.classes == (label,) and "classes" not in inverter
        assert workdirs.resolve(inverter.encoder.checkpoint, folder) == tmp_path / "robust_encoder"
    references = config.stages.robust_evaluation.inverters.to_dict()
    assert [workdirs.resolve(x, tmp_path / "robust_evaluation") for x in references.values()] == list(inverters)


def test_check_refuses_no_class():
    config = anomaly.get_config(ARGUMENTS)
    config.stages.robust_inverters.classes = ()
    with pytest.raises(UserError, match="classes is empty; name the labels"):
        main.check(config, pathlib.Path("runs/none"))


def test_plan_covers_every_class():
    planned = plan._split(stages.expand(anomaly.get_config(ARGUMENTS), pathlib.Path("runs/x"), TASKS), TASKS)
    inverters = [folder.as_posix() for folder, stage in planned.items() if stage.task == "inverter"]
    assert inverters == [f"runs/x/{name}_inverters/class{label}" for name in ("standard", "robust") for label in (0, 3)]
    assert all(TASKS[stage.task].is_training for stage in planned.values() if "optimizer" in stage)


def test_networks_that_a_training_of_a_class_names_are_found_from_its_folder():
    config = anomaly.get_config(f"{ARGUMENTS},adgan=true").stages.gans
    config.metric_encoder = "stage:standard_encoder"
    [folder, *_], [gan, *_] = zip(*class_inverters.split(pathlib.Path("runs/x/gans"), config).items(), strict=True)
    assert Run(gan, folder).resolve(gan.metric_encoder) == pathlib.Path("runs/x/standard_encoder")
