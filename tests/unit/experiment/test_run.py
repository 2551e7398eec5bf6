"""Runs of one experiment share what they read."""

import json

import numpy as np
import pytest
from PIL import Image

from arinv import data
from arinv.apps.weights import export_torch
from arinv.errors import UserError
from arinv.experiment import loading, workdirs
from arinv.experiment.report import Table
from arinv.experiment.run import Run, open_dataset
from arinv.experiment.trained import Trained
from configs import classifier, gan
from configs import export_torch as export_config


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
    (tmp_path / "encoder" / workdirs.CHECKPOINTS).mkdir(parents=True)
    (tmp_path / "encoder" / "config.json").write_text("{}")
    monkeypatch.setattr(loading, "load", lambda *_, **__: None)
    run = Run(classifier.get_config("smoke=True"), tmp_path / "evaluation")
    run.begin()
    derived = run.with_config(classifier.get_config("smoke=True,dtype=bfloat16"), run.workdir)
    for _ in range(2):
        derived.load("stage:encoder")
    run.finish({})
    assert json.loads((run.workdir / "results.json").read_text())["unfinished"] == ["stage:encoder"]


def test_exports_of_an_unfinished_training_say_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "encoder" / workdirs.CHECKPOINTS).mkdir(parents=True)
    (tmp_path / "encoder" / "config.json").write_text("{}")
    network = Trained("classifier", None, {}, {})
    monkeypatch.setattr(loading, "load", lambda *_, **__: network)
    monkeypatch.setattr(export_torch, "_write_encoder", lambda *_: None)
    config = export_config.get_config(f"checkpoint={tmp_path}/encoder")
    results = export_torch.run(Run(config, tmp_path / "export"))
    assert results["unfinished"] == [f"{tmp_path}/encoder"]
    assert f"the training in {tmp_path}/encoder is not complete" in capsys.readouterr().err


def test_finish_writes_the_report_before_the_results(tmp_path, monkeypatch, capsys):
    run = Run(classifier.get_config("smoke=True"), tmp_path / "run")
    run.begin()
    run.finish({"psnr": 20.125, "psnr_std": 3.0, "num_images": 4})
    assert not (run.workdir / "report.html").exists()
    assert f": psnr 20.12; all results are in {run.workdir}/results.json" in capsys.readouterr().err
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


def folder_of_images(path, *classes, count=4):
    """Writes images of 16 x 16 px with a white middle of 8 x 8, and a damaged one of the last class."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 4:12] = 255
    for name in classes:
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    (path / classes[-1] / "damaged.png").write_bytes((path / classes[-1] / "0.png").read_bytes()[:40])
    return f"folder:{path}"


def gan_config(first, extra, **fields):
    config = gan.get_config(f"smoke=True,networks=dcgan,dataset={first}").stages.gan
    config.data.update({"image_size": 16, "num_train": 0, "on_bad_image": "skip", **fields})
    config.data.extra.name = extra
    return config


def test_open_extra_takes_the_options_of_the_first_source_but_not_its_window(tmp_path, capsys):
    first, extra = (folder_of_images(tmp_path / name, "a", "b") for name in ("first", "extra"))
    config = gan_config(first, extra, channels=1, window=(8, 8, 8))
    run = Run(config, tmp_path)
    train = run.open_data("train")
    source = run.open_extra(train)
    assert source[0]["image"].shape == train[0]["image"].shape == (16, 16, 1)
    assert train[0]["image"].min() == 255 and source[0]["image"].min() == 0  # images whose border is black
    assert f"{extra} train: skipped 1 unreadable image(s)" in capsys.readouterr().err
    config.data.on_bad_image = "error"
    with pytest.raises(UserError, match="damaged.png"):
        Run(config, tmp_path).open_extra(train)


def test_open_dataset_looks_in_data_dir(tmp_path):
    config = gan_config("photos", "tfds:pets", data_dir=str(tmp_path / "sets"))
    with pytest.raises(UserError, match=str(tmp_path / "sets")):
        open_dataset(config, "tfds:pets", "train")


def test_open_dataset_omits_the_window_of_another_dataset(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 8, 8, 3), np.uint8), label=np.array([0, 1, 0, 1]))
    config = gan_config(folder_of_images(tmp_path / "first", "0", "1"), "", window=(8, 8, 8))
    assert len(open_dataset(config, f"npz:{tmp_path}/a.npz", "all")) == 4
    config.data.name = f"npz:{tmp_path}/a.npz"
    with pytest.raises(UserError, match="has no window"):
        open_dataset(config, config.data.name, "all")


def test_open_extra_of_the_same_dataset_takes_its_training_split(tmp_path):
    first = folder_of_images(tmp_path / "first" / "val", "a", "b", count=2).removesuffix("/val")
    folder_of_images(tmp_path / "first" / "train", "a", "b", count=4)
    run = Run(gan_config(first, first, train_split="val"), tmp_path)
    assert len(run.open_extra(run.open_data("train"))) == 4
