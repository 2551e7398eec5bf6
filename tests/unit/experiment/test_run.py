"""Runs of one experiment share what they read."""

import json

import numpy as np

from arinv import data
from arinv.experiment import checkpoint, loading
from arinv.experiment.run import Run
from configs import classifier


def test_stages_with_the_same_data_decode_it_once(tmp_path):
    config = classifier.get_config("smoke=True")
    other = classifier.get_config("smoke=True")
    other.data.num_train = 7
    sources = {}
    first, second, third = (Run(c, tmp_path / str(i), None, sources) for i, c in enumerate((config, config, other)))
    train = first.open_data("train")
    assert second.open_data("train") is train and first.open_data("test") is third.open_data("test")
    assert third.open_data("train") is not train and len(third.open_data("train")) == 7
    arrays = data.load_arrays(train)
    assert data.load_arrays(train) is arrays and not arrays["image"].flags.writeable
    assert np.array_equal(arrays["image"][0], train[0]["image"])


def test_no_more_than_four_sources_are_kept(tmp_path):
    sources = {}
    for number in range(2, 9):
        config = classifier.get_config("smoke=True")
        config.data.num_train = number
        Run(config, tmp_path, None, sources).open_data("train")
    assert len(sources) == 4 and [len(source) for source in sources.values()] == [5, 6, 7, 8]


def test_results_name_unfinished_trainings_that_a_derived_run_has_loaded(tmp_path, monkeypatch):
    (tmp_path / "encoder" / checkpoint.FOLDER).mkdir(parents=True)
    (tmp_path / "encoder" / "config.json").write_text("{}")
    monkeypatch.setattr(loading, "load", lambda *_, **__: None)
    run = Run(classifier.get_config("smoke=True"), tmp_path / "evaluation")
    run.begin()
    derived = run.with_config(classifier.get_config("smoke=True,dtype=bfloat16"), run.workdir)
    for _ in range(2):
        derived.load("stage:encoder")
    run.finish({})
    assert json.loads((run.workdir / "results.json").read_text())["unfinished"] == ["stage:encoder"]
