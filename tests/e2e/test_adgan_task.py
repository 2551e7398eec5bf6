"""ADGAN in one-vs-all evaluations: the GAN of a class, its scores and their column, resuming."""

import json

import jax
import numpy as np
import pytest
from configured import configure
from sklearn.metrics import roc_auc_score

import arinv
from arinv import main
from arinv.apps.anomaly import adgan_scores, overview
from arinv.apps.weights import info
from arinv.errors import UserError
from arinv.experiment import cache
from configs import anomaly


def make_config(untrained, more=""):
    encoders = f"standard_encoder={untrained}/standard_encoder,robust_encoder={untrained}/robust_encoder"
    return configure(anomaly, f"smoke=True,dataset=photos,image_size=16,eps=0,classes=3,adgan=True,{encoders}{more}")


def evaluation_of(untrained, gans):
    evaluation = make_config(untrained).stages.standard_evaluation
    evaluation.inverters = {"class3": f"{untrained}/standard_inverter"}
    evaluation.gans = {"class3": str(gans / "class3")}
    return evaluation


@pytest.fixture(scope="module")
def gans(untrained, tmp_path_factory):
    """The workdir of the GAN of one class."""
    workdir = tmp_path_factory.mktemp("gans")
    main.run(make_config(untrained).stages.gans, workdir)
    return workdir


@pytest.fixture(scope="module")
def evaluated(untrained, gans, tmp_path_factory):
    """An evaluation with ADGAN."""
    workdir = tmp_path_factory.mktemp("evaluated")
    main.run(evaluation_of(untrained, gans), workdir)
    return workdir


def read_scores(workdir):
    with np.load(workdir / "adgan_3.npz", allow_pickle=False) as arrays:
        return arrays["adgan"]


def test_gan_is_loaded_and_generates(gans):
    network = arinv.load(str(gans / "class3"))
    assert network.kind == "gan" and "networks='dcgan'" in repr(network) and network.image_size == 16
    assert network.sample(jax.random.key(0), 2).shape == (2, 16, 16, 3)
    lines = "\n".join(info._workdir_lines(gans / "class3"))
    assert "networks     dcgan with latent_size as published, width 4" in lines and "16 px" in lines
    for name in ("encoder", "logits_fn", "features_fn"):
        with pytest.raises(UserError, match="a trained gan has no classifier"):
            getattr(network, name)
    with pytest.raises(UserError, match="a trained gan does not reconstruct images"):
        network.evaluate(np.zeros((1, 16, 16, 3), np.float32))
    results = json.loads((gans / "class3" / "results.json").read_text())
    assert 0 < results["real"] < 1 and 0 < results["fake"] < 1


def test_evaluation_has_the_auroc_of_adgan_and_its_seconds(evaluated):
    results, scores = json.loads((evaluated / "results.json").read_text()), read_scores(evaluated)
    labels = np.load(evaluated / "images_3.npz")["label"]
    assert scores.shape == labels.shape == (8,) and np.ptp(scores) > 0
    assert results["mean"]["adgan"] == pytest.approx(roc_auc_score(labels != 3, scores))
    assert results["adgan"]["seconds_per_image"] > 0 and results["adgan"]["num_seeds"] == 3
    assert results["variants"]["adgan"] == adgan_scores.VARIANT


def test_evaluation_resumes_to_the_same_scores(untrained, gans, evaluated, tmp_path, monkeypatch):
    config = evaluation_of(untrained, gans)
    append = cache.CachedRows.append

    def append_and_stop(self, rows):
        append(self, rows)
        if "adgan" in rows:
            self.save()
            raise KeyboardInterrupt

    monkeypatch.setattr(cache.CachedRows, "append", append_and_stop)
    with pytest.raises(KeyboardInterrupt):
        main.run(config, tmp_path)
    monkeypatch.setattr(cache.CachedRows, "append", append)
    main.run(config, tmp_path)
    np.testing.assert_array_equal(read_scores(tmp_path), read_scores(evaluated))
    means = [json.loads((folder / "results.json").read_text())["mean"] for folder in (tmp_path, evaluated)]
    assert means[0] == means[1]


def test_report_has_a_column_of_adgan_in_every_row(evaluated):
    standard = json.loads((evaluated / "results.json").read_text())
    robust = {**standard, "mean": {"total": 0.5}, "classes": {name: {"total": 0.5} for name in standard["classes"]}}
    del robust["adgan"]
    first, *_ = overview._tables({"standard": standard, "robust": robust})
    column = list(first.heading).index("ADGAN")
    assert [row[column] for row in first.rows] == [f"{standard['mean']['adgan']:.4f}"] * 2
    notes = overview._notes({"standard": standard, "robust": robust})
    assert sum("3 starts, 2 steps" in note and "seconds an image" in note for note in notes) == 1


def test_mistakes(untrained):
    config = make_config(untrained, " --config.stages.standard_evaluation.adgan.num_seeds=0")
    with pytest.raises(UserError, match="adgan.num_seeds must be at least 1; got 0"):
        adgan_scores.check(config.stages.standard_evaluation)
    config.stages.gans.single = "encoder"
    with pytest.raises(UserError, match="unknown task of each class, single 'encoder'; known: gan, inverter"):
        main.check(config.stages.gans, untrained / "none")
