"""Runs of one experiment share what they read."""

import json

import numpy as np

from arinv import data
from arinv.experiment import checkpoint, loading, workdirs
from arinv.experiment.report import Table
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


def test_finish_writes_the_report_before_the_results(tmp_path, monkeypatch, capsys):
    run = Run(classifier.get_config("smoke=True"), tmp_path / "run")
    run.begin()
    run.finish({})
    assert not (run.workdir / "report.html").exists() and "the report" not in capsys.readouterr().err
    write_results, files = workdirs.write_results, []

    def write(workdir, results):
        files.extend(path.name for path in workdir.glob("*.*"))
        write_results(workdir, results)

    (run.workdir / "results.json").unlink()
    monkeypatch.setattr(workdirs, "write_results", write)
    results = run.finish({"psnr": 1.0}, tables=[Table(["", "PSNR"], [["a", "1"]])], notes=["A note."], text="A text.")
    assert sorted(files) == ["config.json", "inputs.json", "report.html", "table.md"]
    assert json.loads((run.workdir / "results.json").read_text()) == results and results["setting"]["seed"] == 0
    assert f"the report is {run.workdir}/report.html" in capsys.readouterr().err
    page = (run.workdir / "report.html").read_text()
    assert "<td>a</td>" in page and "A note." in page and "A text." in page
