"""Anomaly detection by config: one-vs-all, detectors, scores of a user's own images; resuming after kills."""

import csv
import io
import json
import os
import shutil

import jax
import numpy as np
import pytest
from configured import configure
from PIL import Image
from sklearn.metrics import roc_auc_score

from arinv import data, main, models
from arinv.apps.anomaly import HeatMaps, one_vs_all, overview, scorer
from arinv.apps.anomaly.detector import _write_overview
from arinv.apps.anomaly.detector import check as check_detector
from arinv.apps.anomaly.detector import check_inputs as check_detector_inputs
from arinv.errors import UserError
from arinv.experiment import cache, loading
from arinv.experiment.cache import CachedRows
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.run import Run, open_source
from arinv.experiment.state import TrainState
from arinv.experiment.trained import CLASSIFIER
from arinv.train import class_inverters
from configs import anomaly, detector, score

SMALL = "smoke=True,options=width:4,image_size=16"
SHALLOW = "layer=conv1"  # compiles faster


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The workdir of an encoder with random weights."""
    workdir, rng = tmp_path_factory.mktemp("encoder"), np.random.default_rng(0)
    module = models.build("alexnet_small", num_classes=10, width=4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), loading.image_struct(16))

    def draw(shape):
        scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.0
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    state = TrainState(np.int32(0), {CLASSIFIER: jax.tree.map(lambda x: draw(x.shape), shapes)}, {CLASSIFIER: {}})
    description = {
        "kind": CLASSIFIER, "encoder": "alexnet_small", "options": {"width": 4}, "num_classes": 10,
        "class_names": [*data.open_source("photos").info.class_names], "image_size": 16,
    }  # fmt: skip
    with Checkpoints(workdir, (CLASSIFIER,)) as checkpoints:
        checkpoints.save(state, data_state={}, description=description, wait=True)
    return workdir


@pytest.fixture(scope="module")
def finished(encoder, tmp_path_factory):
    """A finished smoke run of one-vs-all with one class; both encoders are the same one."""
    workdir = tmp_path_factory.mktemp("anomaly")
    main.run(make_config(encoder), workdir)
    return workdir


def make_config(encoder, arg="classes=3"):
    encoders = f"standard_encoder={encoder},robust_encoder={encoder}"
    return configure(anomaly, f"{SMALL},{SHALLOW},dataset=photos,{encoders},{arg}")


def test_smoke_one_vs_all_writes_scores_and_report(finished):
    results = json.loads((finished / "report" / "results.json").read_text())
    assert set(results) == {"standard", "robust"}
    for name, result in results.items():
        assert list(result["classes"]) == ["hubble_deep_field"] and len(result["training_classes"]) == 10
        with np.load(finished / f"{name}_evaluation" / "scores_3.npz", allow_pickle=False) as arrays:
            labels = np.load(finished / f"{name}_evaluation" / "images_3.npz")["label"]
            anomalous = labels != 3
            assert np.sum(~anomalous) == 2 and np.sum(anomalous) == 6
            for score_name, value in result["classes"]["hubble_deep_field"].items():
                assert value == pytest.approx(roc_auc_score(anomalous, arrays[score_name]))
            np.testing.assert_allclose(arrays["total"], arrays["pixel"] + arrays["feature"], rtol=1e-5)
            for score_name in ("knn", "amortized"):
                rise = arrays[f"attacked_{score_name}"] - arrays[score_name]
                assert (np.where(anomalous, -1, 1) * rise >= -1e-5).all() and np.abs(rise).max() > 0
        assert set(result["variants"]) == {"auroc", *result["mean"]}
    attack = results["standard"]["attack"]
    assert attack["step_size"] == pytest.approx(2.5 * attack["eps"] / attack["num_steps"])
    assert results["standard"]["search"]["pixel_weight"] == 2e-3
    assert results["robust"]["search"]["pixel_weight"] == 2e-6
    table = (finished / "report" / "table.md").read_text()
    for text in (
        "| mean AUROC |",
        "| standard |",
        "| robust, normal class |",
        "| hubble_deep_field |",
        "trained on 10",
    ):
        assert text in table
    assert (finished / "report" / "report.html").read_text().count("data:image/png") == 2
    with Image.open(finished / "report" / "overview.png") as image:
        assert image.size[0] > 4 * 96 and image.size[1] > 2 * 3 * 96


class Cut(Exception):
    """Stands for a kill."""


def test_one_vs_all_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch):
    """After a kill behind the first batch of each class; a damaged file is an error."""
    config = make_config("x").stages.robust_evaluation
    config.update_from_flattened_dict({"data.num_test": 16, "num_normal": 0, "num_anomalous": 0})
    config.classes = (0, 3)
    config.inverters = {
        f"class{label}": str(finished / f"{name}_inverters" / "class3")
        for label, name in ((0, "standard"), (3, "robust"))
    }
    main.run(config, tmp_path / "whole")
    append, counts = cache.CachedRows.append, []

    def append_and_stop(self, rows):
        append(self, rows)
        counts.append(self.count)
        if self.count == 8 and len(counts) < 4:
            raise Cut

    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(cache.CachedRows, "append", append_and_stop)
    for _ in range(3):
        try:
            main.run(config, tmp_path / "cut")
            break
        except Cut:
            continue
    assert counts == [8, 16, 8, 16]
    for label in (0, 3):
        name = f"scores_{label}.npz"
        with np.load(tmp_path / "whole" / name) as whole, np.load(tmp_path / "cut" / name) as cut:
            for score_name in whole.files:
                np.testing.assert_array_equal(whole[score_name], cut[score_name])
    whole, cut = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    results = json.loads(whole)
    aurocs = [values["knn"] for values in results["classes"].values()]
    assert len(aurocs) == 2 and results["mean"]["knn"] == pytest.approx(np.mean(aurocs))
    (tmp_path / "cut" / "results.json").unlink()
    (tmp_path / "cut" / "scores_0.npz").write_bytes(b"PK\x03\x04 not an archive")
    main.run(config, tmp_path / "cut")
    assert counts[4:] == [8, 16] and (tmp_path / "cut" / "results.json").read_bytes() == whole, "computed again"


def test_one_vs_all_draws_the_pictures_of_its_own_scores(finished, tmp_path, monkeypatch):
    """Killed before the picture of another inverter is drawn; then resumed with another number of images."""
    config = make_config("x").stages.robust_evaluation
    config.update_from_flattened_dict({"data.num_test": 16, "attack.eps": 0.0, "log.num_images": 4})
    picture, draw = tmp_path / "cut" / "class_3.png", one_vs_all.write_png
    (tmp_path / "inverter").symlink_to(finished / "robust_inverters" / "class3")
    config.inverters = {"class3": str(tmp_path / "inverter")}

    def cut(*_):
        raise Cut

    def start(name):
        (tmp_path / name / "results.json").unlink(missing_ok=True)
        main.run(config, tmp_path / name)

    start("cut")
    earlier = picture.read_bytes()
    (tmp_path / "inverter").unlink()
    (tmp_path / "inverter").symlink_to(finished / "standard_inverters" / "class3")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(one_vs_all, "write_png", cut)
        start("cut")
    assert picture.read_bytes() == earlier
    paths = []
    monkeypatch.setattr(one_vs_all, "write_png", lambda path, image: paths.append(path) or draw(path, image))
    start("cut")
    start("cut")
    start("whole")
    assert paths == [picture, tmp_path / "whole" / picture.name], "and not again"
    assert earlier != picture.read_bytes() == paths[1].read_bytes()
    config.log.num_images = 2
    start("cut")
    start("whole")
    assert paths[2:] == paths[:2] and picture.read_bytes() == paths[1].read_bytes()
    with Image.open(picture) as two, Image.open(io.BytesIO(earlier)) as four:
        assert two.size[0] < four.size[0]


def test_one_vs_all_scores_num_anomalous_images_only(finished, tmp_path):
    config = make_config("x", "classes=3").stages.robust_evaluation
    config.update_from_flattened_dict({"data.num_test": 16, "num_normal": 0, "num_anomalous": 5, "attack.eps": 0.0})
    config.inverters = {"class3": str(finished / "robust_inverters" / "class3")}
    main.run(config, tmp_path / "some")
    with config.unlocked():
        config.num_anomalous = 100_000  # more than there are
    main.run(config, tmp_path / "all")
    assert json.loads((tmp_path / "all" / "results.json").read_text())["num_anomalous"] is None
    images, scores = (np.load(tmp_path / "some" / f"{name}_3.npz") for name in ("images", "scores"))
    # The classes take turns; by class the others are 0 10 1 11 2 12 4 14 5 15 6 7 8 9, of which every third or so.
    assert images["index"].tolist() == [0, 1, 3, 5, 7, 12, 13]
    everything = np.load(tmp_path / "all" / "scores_3.npz")
    np.testing.assert_allclose(scores["total"], everything["total"][images["index"]], rtol=1e-4)
    result = json.loads((tmp_path / "some" / "results.json").read_text())
    expected = roc_auc_score(images["label"] != 3, scores["total"])
    assert result["mean"]["total"] == pytest.approx(expected) and result["num_anomalous"] == 5
    assert result["num_images"] == 7


def test_select_images_takes_classes_evenly():
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    indices = one_vs_all.select_images(labels, 4, 900)
    assert (np.diff(indices) > 0).all()
    counts = np.bincount(labels[indices], minlength=10)
    assert counts[4] == np.sum(labels == 4) and counts.sum() - counts[4] == 900
    shares = 900 * np.bincount(labels[labels != 4], minlength=10) / np.sum(labels != 4)
    assert np.abs(np.delete(counts - shares, 4)).max() < 1
    for everything in (0, 5000):
        np.testing.assert_array_equal(one_vs_all.select_images(labels, 4, everything), np.arange(5000))


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)


@pytest.fixture(scope="module")
def detected(encoder, tmp_path_factory):
    """A folder with the run of a detector of smooth images, its normal images and, as known anomalies, noise."""
    root = tmp_path_factory.mktemp("detector")
    rng = np.random.default_rng(0)
    for i in range(40):  # large enough to be decoded at a reduced size
        gradient = np.linspace(i, 200, 240)[:, None, None] + rng.integers(0, 50, (240, 200, 3))
        save(root / "normal" / f"{i}.jpg", gradient.astype(np.uint8))
    for i in range(6):
        save(root / "noise" / f"{i}.png", rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    arg = f"{SMALL},{SHALLOW},dataset=folder:{root}/normal,encoder_checkpoint={encoder},anomalous={root}/noise"
    config = detector.get_config(arg)
    for stage in (config.stages.inverter, config.stages.detector):
        stage.data.num_train = stage.data.num_test = 0
    main.run(config, root / "run")
    return root


def run_score(detected, images, workdir, arg=""):
    config = configure(score, f"smoke=True,detector={detected}/run,images={images}{arg}")
    config.log.num_images = 6
    main.run(config, workdir)
    return list(csv.DictReader(io.StringIO((workdir / "scores.csv").read_text())))


def test_detector_saves_its_thresholds(detected):
    saved = json.loads((detected / "run" / "detector" / "detector.json").read_text())
    results = json.loads((detected / "run" / "detector" / "results.json").read_text())
    assert (results["num_train"], results["num_normal"], results["num_anomalous"]) == (32, 8, 6)
    for name, calibration in saved["calibrations"].items():
        scores = calibration["normal_scores"]
        assert len(scores) == 8 and scores == sorted(scores) and 0 <= calibration["best_f1"]["f1"] <= 1
        assert results["quantile_thresholds"][name] == scores[-1]  # 95 % of eight are all of them
    assert (detected / "run" / "detector" / "overview.png").exists()


def test_detector_scales_its_maps_by_the_same_images_whatever_the_batch(tmp_path):
    def explain_rows(rows):
        images = np.zeros((len(rows), 16, 16, 3), np.float32)
        maps = np.broadcast_to(rows[:, None, None].astype(np.float32), (len(rows), 16, 16))
        return scorer.Explanation(images, images, HeatMaps(maps, 2 * maps))

    config = detector.get_config(f"{SMALL},dataset=photos,encoder_checkpoint=x").stages.detector
    anomalous = np.arange(90) % 3 == 0
    scales = []
    for batch_size in (8, 16, 64):
        config.batch_size = batch_size
        scales.append(_write_overview(Run(config, tmp_path), explain_rows, np.arange(90.0), anomalous))
    assert scales[0] == scales[1] == scales[2] == (45.0, 90.0)


def test_report_takes_one_evaluation_in_each_entry():
    config = anomaly.get_config(f"{SMALL},dataset=photos,standard_encoder=a,robust_encoder=b").stages.report
    overview.check(config)
    config.entries = {"standard": ("stage:standard_evaluation",), "robust": ("runs/a", "runs/b")}
    with pytest.raises(UserError, match="entries.robust names 2 workdirs; a report of one-vs-all evaluations takes"):
        overview.check(config)
    config.order = ("standard",)
    overview.check(config)


def test_score_gives_images_the_scores_behind_the_thresholds(detected, tmp_path):
    held_out = data.open_source(f"folder:{detected}/normal", split="test")
    (tmp_path / "images").mkdir()
    for i in range(40):
        image = data.resize_u8(data.read_image(detected / "normal" / f"{i}.jpg", min_side=64), 32)
        if any(np.array_equal(image, held_out[j]["image"]) for j in range(len(held_out))):
            shutil.copy(detected / "normal" / f"{i}.jpg", tmp_path / "images")
    rows = run_score(detected, tmp_path / "images", tmp_path / "out")
    saved = json.loads((detected / "run" / "detector" / "detector.json").read_text())
    for name in scorer_names(rows):
        found = sorted(float(row[name]) for row in rows)
        np.testing.assert_allclose(found, saved["calibrations"][name]["normal_scores"], rtol=1e-4)


def test_detector_restarts_with_other_images(detected, tmp_path):
    config = detector.get_config(
        f"{SMALL},{SHALLOW},dataset=folder:{detected}/normal,encoder_checkpoint=x,anomalous={tmp_path}/noise"
    ).stages.detector
    config.inverter = str(detected / "run" / "inverter")
    config.data.num_train, config.data.num_test = 8, 4
    shutil.copytree(detected / "noise", tmp_path / "noise")
    main.run(config, tmp_path / "cut")
    (tmp_path / "cut" / "results.json").unlink()
    for i in range(6):
        save(tmp_path / "noise" / f"{i}.png", np.full((20, 20, 3), 40 * i, np.uint8))
    for name in ("cut", "anew"):
        main.run(config, tmp_path / name)
    cut, anew = (json.loads((tmp_path / name / "results.json").read_text())["auroc"] for name in ("cut", "anew"))
    assert cut == anew


def test_references_are_the_training_images_of_the_inverter(detected, tmp_path):
    for name in (f"folder:{detected}", "photos"):
        config = make_config("x", f"classes=0+1,dataset={name}")
        for stage in config.stages.values():
            if "data" in stage:
                stage.data.num_train = 4
        train = one_vs_all._TrainImages(Run(config.stages.robust_evaluation, tmp_path))
        inverters = class_inverters.split(tmp_path, config.stages.robust_inverters)
        for label in (0, 1):
            source = open_source(inverters[tmp_path / f"class{label}"], "train")
            assert len(source) == 4
            np.testing.assert_array_equal(train.images(label), data.load_arrays(source)["image"])


def test_score_accepts_file_names_that_are_not_utf8(detected, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    save(tmp_path / "images" / name, np.zeros((20, 20, 3), np.uint8))
    main.run(score.get_config(f"smoke=True,detector={detected}/run,images={tmp_path}/images"), tmp_path / "out")
    assert os.fsencode(name) in (tmp_path / "out" / "scores.csv").read_bytes()


def test_score_decides_by_score_and_policy(detected, tmp_path, monkeypatch):
    shutil.copytree(detected / "noise", tmp_path / "images")
    save(tmp_path / "images" / "normal.png", np.asarray(Image.open(detected / "normal" / "3.jpg")))
    saved = json.loads((detected / "run" / "detector" / "detector.json").read_text())
    normal = np.array(saved["calibrations"]["knn"]["normal_scores"])
    for arg, threshold in (
        ("quantile=0.5", np.sort(normal)[3]),
        ("policy=best_f1", saved["calibrations"]["knn"]["best_f1"]["threshold"]),
    ):
        fields = f" --config.decision.score=knn --config.decision.{arg}"
        rows = run_score(detected, tmp_path / "images", tmp_path / arg, fields)
        assert [row["file"] for row in rows] == [*(f"{i}.png" for i in range(6)), "normal.png"]
        for row in rows:
            assert row["decision"] == ("anomalous" if float(row["knn"]) > threshold else "normal")
            below = np.mean(normal < float(row["knn"])), np.mean(normal <= float(row["knn"]) + 1e-6)
            assert below[0] - 1e-6 <= float(row["calibrated"]) <= below[1] + 1e-6
    with Image.open(tmp_path / "policy=best_f1" / "overview.png") as image:
        assert image.size[0] > 6 * 96
    alone = run_score(detected, tmp_path / "images" / "normal.png", tmp_path / "alone")
    for name in scorer_names(rows):
        assert float(alone[0][name]) == pytest.approx(float(rows[-1][name]), rel=1e-4)
    monkeypatch.setattr(scorer, "_MAX_KEPT_BYTES", 0)  # the overview searches again
    assert run_score(detected, tmp_path / "images" / "normal.png", tmp_path / "again") == alone
    overviews = [np.asarray(Image.open(tmp_path / name / "overview.png"), np.int32) for name in ("alone", "again")]
    assert np.mean(np.abs(overviews[0] - overviews[1])) < 2 and np.std(overviews[0]) > 2


def test_score_refuses_a_quantile_that_has_no_effect(detected, tmp_path):
    fields = " --config.decision.policy=best_f1 --config.decision.quantile=0.5"
    with pytest.raises(UserError, match="decision.quantile=0.5 has no effect with the policy best_f1"):
        run_score(detected, detected / "noise", tmp_path / "out", fields)
    assert not (tmp_path / "out").exists()


def test_score_cut_short_scores_again_by_a_detector_that_was_trained_again(detected, tmp_path, monkeypatch):
    def cut(self, results):
        raise Cut

    shutil.copytree(detected / "run", tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Run, "finish", cut)
        run_score(tmp_path, detected / "noise", tmp_path / "out")
    assert (tmp_path / "out" / "state.npz").exists()
    kept = []
    monkeypatch.setattr(CachedRows, "__init__", record_count(CachedRows.__init__, kept))
    path = tmp_path / "run" / "detector" / "detector.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 5}))
    run_score(tmp_path, detected / "noise", tmp_path / "out")
    assert kept == [0] and not (tmp_path / "out" / "state.npz").exists()


def record_count(init, counts):
    """Records how many finished images a cache begins with."""

    def recording(self, *args):
        init(self, *args)
        counts.append(self.count)

    return recording


def scorer_names(rows):
    return [name for name in rows[0] if name not in ("file", "calibrated", "decision")]


def test_score_scores_every_kind_of_image_and_reports_the_rest(detected, tmp_path, capfd):
    folder, rng = tmp_path / "images", np.random.default_rng(1)
    color = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    save(folder / "color.png", color)
    save(folder / "grey.png", color, "L")
    save(folder / "rgba.png", color, "RGBA")
    save(folder / "deep.png", (color[..., 0].astype(np.uint16) * 257))
    save(folder / "cmyk.jpg", color, "CMYK")
    save(folder / "one.png", color[:1, :1])
    frames = [Image.fromarray(np.roll(color, i, axis=0)) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "more").mkdir()
    (folder / "more" / "cut.png").write_bytes((folder / "color.png").read_bytes()[:200])
    (folder / "text.jpg").write_text("no image")
    rows = {row["file"]: row for row in run_score(detected, folder, tmp_path / "out")}
    assert set(rows) == {"cmyk.jpg", "color.png", "deep.png", "grey.png", "moving.gif", "one.png", "rgba.png"}
    assert all(np.isfinite(float(row[name])) for row in rows.values() for name in scorer_names([row]))
    assert rows["rgba.png"]["total"] == rows["color.png"]["total"]  # the same pixels
    message = f"{folder}: skipped 2 unreadable image(s): cut.png is damaged or truncated (image file is truncated"
    output = capfd.readouterr().err
    assert message in output and "; text.jpg is not a readable image" in output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["skipped"] == ["more/cut.png", "text.jpg"]
    with pytest.raises(UserError, match="cut.png"):
        run_score(detected, folder, tmp_path / "strict", ",on_bad_image=error")


def test_score_scores_built_in_photographs(detected, tmp_path):
    rows = run_score(detected, "photos:rocket+coffee", tmp_path / "out")
    assert [row["file"] for row in rows] == ["rocket", "coffee"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in scorer_names(rows))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["skipped"] == []


@pytest.mark.parametrize(
    ("arg", "shown"),
    [
        (",detector={tmp}", "no detector in"),
        (",images={tmp}/empty", "holds no image"),
        (",images={tmp}/nothing", "does not exist"),
        (",images=", "images is empty"),
        (",images=photos:nothing", "unknown photograph 'nothing'"),
        (",detector=", "detector is empty"),
        (",images={tmp}", "is in the folder of images"),
        (" --config.log.num_images=0", "log.num_images must be at least 1; got 0"),
        (" --config.decision.score=sum", "unknown score 'sum'; known: amortized, feature"),
        (" --config.decision.policy=mean", "unknown threshold policy 'mean'"),
        (" --config.decision.quantile=2", "above 0 and at most 1"),
        (" --config.batch_size=12", "batch_size 12"),
    ],
)
def test_score_reports_a_mistake_in_one_line(detected, tmp_path, arg, shown):
    (tmp_path / "empty").mkdir()
    given = f"smoke=True,detector={detected}/run,images={detected}/noise{arg.format(tmp=tmp_path)}"
    with pytest.raises(UserError, match=shown) as error:
        main.run(configure(score, given), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_score_rejects_a_damaged_detector(detected, tmp_path, content):
    shutil.copytree(detected / "run" / "detector", tmp_path / "detector")
    (tmp_path / "detector" / "detector.json").write_text(content)
    with pytest.raises(UserError, match="detector.json is damaged .it (lacks inverter_workdir|holds no names)"):
        main.run(score.get_config(f"smoke=True,detector={tmp_path},images={detected}/noise"), tmp_path / "run")


def test_score_rejects_an_inverter_of_other_weights(detected, tmp_path):
    shutil.copytree(detected / "run" / "detector", tmp_path / "detector")
    saved = json.loads((tmp_path / "detector" / "detector.json").read_text())
    saved |= {"weights": "0", "inverter_workdir": str(detected / "run" / "inverter")}
    (tmp_path / "detector" / "detector.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="has other weights than when its thresholds were measured"):
        main.run(score.get_config(f"smoke=True,detector={tmp_path},images={detected}/noise"), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"search.num_steps": 0}, "search.num_steps"),
        ({"knn.pooling": "max"}, "known: flat, mean"),
        ({"classes": ()}, "classes is empty"),
        ({"classes": (3, 5)}, r"no workdir for the classes \[5\]"),
        ({"attack.norm": "l3"}, "unknown norm"),
        ({"num_anomalous": -1}, "num_anomalous=-1 must be 0"),
    ],
)
def test_one_vs_all_rejects_values_out_of_range(tmp_path, changes, shown):
    config = make_config("x")
    config.stages.robust_evaluation.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=shown):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_detector_rejects_thresholds_from_its_training_images(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    with pytest.raises(UserError, match="policy=best_f1 needs anomalous"):
        best_f1 = "--config.stages.detector.decision.policy=best_f1"
        main.run(configure(detector, f"dataset=folder:{images},encoder_checkpoint=x {best_f1}"), tmp_path / "run")
    config = detector.get_config(f"dataset=folder:{images},encoder_checkpoint=x")
    config.stages.detector.data.test_split = "train"
    with pytest.raises(UserError, match="not trained on"):
        main.run(config, tmp_path / "run")
    for i in range(5):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(images / f"{i}.png")
    config.stages.detector.data.update(train_split="all", test_split="test")
    with pytest.raises(UserError, match="have images in common; thresholds need normal images"):
        check_detector_inputs(Run(config.stages.detector, tmp_path / "run"))


def test_detector_rejects_a_wrong_search_and_anomalies_before_any_training(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for changes, shown in (
        ({"search.learning_rate": -1.0}, "search.learning_rate must be a finite number of at least 0; got -1.0"),
        ({"search.momentum": 2.0}, "search.momentum must be a finite number from 0 to 1; got 2.0"),
        ({"anomalous": str(images)}, "holds no image"),
    ):
        config = detector.get_config(f"smoke=True,dataset=folder:{images},encoder_checkpoint=x").stages.detector
        config.update_from_flattened_dict(changes)
        with pytest.raises(UserError, match=shown):
            check_detector(config)


def test_detector_rejects_unreadable_anomalies_before_any_training(tmp_path):
    for path in ("images/0.png", "images/1.png", "anomalies/0.png", "anomalies/scratch/1.png"):
        save(tmp_path / path, np.full((32, 32, 3), len(path), np.uint8))
    arg = f"smoke=True,dataset=folder:{tmp_path}/images,encoder_checkpoint=x,anomalous={tmp_path}/anomalies"
    with pytest.raises(UserError, match="holds images .* and also subfolders"):
        check_detector_inputs(Run(detector.get_config(arg).stages.detector, tmp_path / "run"))


def test_anomaly_config_is_plain_data_and_follows_the_paper():
    config = anomaly.get_config("dataset=cats_vs_dogs,encoder=alexnet,eps=3.0,standard_encoder=runs/a")
    assert json.loads(config.to_json_best_effort())
    assert config.order == (
        "robust_encoder", "standard_inverters", "robust_inverters", "standard_evaluation", "robust_evaluation",
        "report",
    )  # fmt: skip
    standard, robust = config.stages.standard_inverters, config.stages.robust_inverters
    assert (standard.loss.pixel, standard.loss.feature) == (2e-3, 1e-2) and standard.encoder.checkpoint == "runs/a"
    assert (robust.loss.pixel, robust.loss.feature, robust.classes) == (2e-6, 1e-2, (0, 1))
    assert robust.loss.adversarial == 0 and not robust.augmentation
    search = config.stages.robust_evaluation.search
    assert (search.num_steps, search.learning_rate, search.end_learning_rate, search.momentum) == (100, 0.1, 0.001, 0.9)
    assert (search.pixel_weight, search.feature_weight) == (2e-6, 1e-2)
    assert config.stages.robust_encoder.data.classes == () and config.stages.robust_encoder.attack.eps == 3.0
    assert len(anomaly.get_config("dataset=cifar10").stages.robust_inverters.classes) == 10


def test_detector_config_weights_pixels_for_every_encoder():
    for arguments, pixel_weight in (
        ("eps=1.0", 2e-3),
        ("eps=0.0", 2e-3),
        ("eps=1.0 --config.stages.inverter.loss.pixel=2e-6", 2e-6),
    ):
        config = configure(detector, f"dataset=folder:x,{arguments}")
        assert config.order == ("encoder", "inverter", "detector")
        assert config.stages.inverter.loss.pixel == config.stages.detector.search.pixel_weight == pixel_weight


def test_smoke_one_vs_all_scores_images_of_every_class(tmp_path):
    """In a test set whose first images are all of one class."""
    labels = np.repeat([5, 0, 1], [40, 3, 3]).astype(np.int32)
    np.savez(tmp_path / "set.npz", image=np.zeros((46, 16, 16, 3), np.uint8), label=labels)
    config = anomaly.get_config(f"{SMALL},dataset=npz:{tmp_path}/set.npz").stages.standard_evaluation
    config.data.test_split = "all"
    assert config.classes == (0, 1)
    one_vs_all.check_inputs(Run(config, tmp_path))
    test, selection = one_vs_all._read_test(Run(config, tmp_path))
    for label in config.classes:
        assert np.sum(test.labels[selection[label]] == label) == 2 and len(selection[label]) == 8
        assert test.select(selection[label]).images.shape == (8, 16, 16, 3)
    assert len(test.images) < 20, "only the images that are scored are decoded"


def test_check_inputs_rejects_a_class_without_test_images(tmp_path):
    np.savez(tmp_path / "set.npz", image=np.zeros((20, 16, 16, 3), np.uint8), label=np.arange(20) % 2)
    config = anomaly.get_config(f"{SMALL},dataset=npz:{tmp_path}/set.npz")
    config.stages.robust_evaluation.data.num_test = 1
    with pytest.raises(UserError, match="of the 1 test images"):
        main.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_image_ids_depend_on_content_only():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), dtype=np.uint8)
    ids = scorer.image_ids(images)
    assert len(set(ids.tolist())) == 4 and ids[2] == scorer.image_ids(images[2:3].copy())[0]


@pytest.mark.parametrize(("num_classes", "text"), [(1, "one class, and AUROC needs"), (2, "4 of the 4 test images")])
def test_one_vs_all_needs_images_of_several_classes(num_classes, text):
    config = anomaly.get_config("smoke=True").stages.standard_evaluation
    config.classes = (0,)
    info = data.SourceInfo("folder:/mine", "test", 4, num_classes, (), 32)
    with pytest.raises(UserError, match=text):
        one_vs_all._check_classes(config, info, np.zeros(4, np.int32))
