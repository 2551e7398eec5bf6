"""Studies as a task: files, kills that resume to the same results, images of a folder, mistakes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from configured import configure
from PIL import Image
from untrained import write_encoder, write_inverter, write_shallow_inverter

from arinv import main
from arinv.apps.studies import Sheet
from arinv.apps.studies import study as task
from arinv.errors import UserError
from arinv.experiment.cache import ResultCache
from configs import report, study

PROBES = "grey+hue+reencode"


def both(untrained):
    return f"inverters={untrained}/standard_inverter+{untrained}/robust_inverter"


def short(untrained, more=""):
    return configure(study, f"smoke=True,probes={PROBES},{both(untrained)}{more}")


@pytest.fixture(scope="module")
def studied(untrained, tmp_path_factory):
    """A finished study by three probes of two inverters."""
    workdir = tmp_path_factory.mktemp("studied") / "out"
    main.run(short(untrained), workdir)
    return workdir


def test_study_writes_sheets_curves_and_one_table(studied):
    results = json.loads((studied / "results.json").read_text())
    assert set(results["inverters"]) == {"standard_inverter", "robust_inverter"}
    assert results["curves"]["reencode"]["x"] == [1, 2, 4, 6, 8, 12, 16, 20]
    table = (studied / "table.md").read_text()
    with np.load(studied / "per_image.npz", allow_pickle=False) as arrays:
        for name, entry in results["inverters"].items():
            assert set(entry["probes"]) == set(PROBES.split("+"))
            values = arrays[f"{name}/grey/error, from grey"]
            assert values.shape == (8,) and entry["probes"]["grey"]["error, from grey"] == pytest.approx(values.mean())
            assert f"{values.mean():.3f} ± " in table
    names = {"grey.png", "hue.png", "reencode.png", "reencode_curves.png"}
    assert {path.name for path in studied.glob("*.png")} == names
    assert "Shifted hue" in (studied / "report.html").read_text()


def test_report_of_a_study_has_a_row_for_each_inverter(studied, tmp_path):
    main.run(configure(report, f"evaluations={studied}"), tmp_path / "report")
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    measured = json.loads((studied / "results.json").read_text())["inverters"]
    assert set(results["rows"]) == set(measured)
    for name, row in results["rows"].items():
        error = measured[name]["probes"]["grey"]["error, grey"]
        assert row["grey: error, grey"] == error and row["variants"]["grey: error, grey"].startswith("normalized_error")
    assert "| grey: error, from grey |" in (tmp_path / "report" / "table.md").read_text()
    assert "reencode_curves" in (tmp_path / "report" / "report.html").read_text()


def test_sheet_has_the_images_of_all_inverters_once(monkeypatch):
    rows = {}
    monkeypatch.setattr(task, "labeled_grid", lambda tiles, **options: rows.update(tiles) or options["columns"])
    images, other = np.zeros((2, 4, 4, 3), np.uint8), np.ones((2, 4, 4, 3), np.uint8)
    shared = {"image": images, "hue": images}
    first = Sheet({**shared, "decoded": images}, {}, {"hue": (np.zeros(2), np.ones(2))})
    second = Sheet({**shared, "decoded": other}, {}, {"hue": (np.ones(2), np.ones(2))})
    network = SimpleNamespace(image_size=4, encoder=SimpleNamespace(description={"class_names": ["a", "b"]}))
    subject = SimpleNamespace(inverter=network)
    columns = task._draw({"a": first, "b": second}, {"a": subject, "b": subject}, ("a cat.jpg and more", "b"))
    assert columns == ["a cat.jpg and", "b"]
    assert list(rows) == ["image", "a: hue", "a: decoded", "b: hue", "b: decoded"]


@pytest.mark.parametrize(("classes", "text"), [(["a", "b"], "b 100%"), ([], "1 100%")])
def test_predictions_have_the_name_of_their_class_or_its_number(monkeypatch, classes, text):
    texts = []
    monkeypatch.setattr(task, "caption", lambda images, own: texts.extend(own) or images)
    monkeypatch.setattr(task, "labeled_grid", lambda tiles, **options: None)
    network = SimpleNamespace(image_size=4, encoder=SimpleNamespace(description={"class_names": classes}))
    sheet = Sheet({"hue": np.zeros((1, 4, 4, 3), np.uint8)}, {}, {"hue": (np.ones(1), np.ones(1))})
    task._draw({"a": sheet}, {"a": SimpleNamespace(inverter=network)}, ("x",))
    assert texts == [text]


def test_equal_images_are_refused(untrained, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / name)
    with pytest.raises(UserError, match="are equal; errors are relative"):
        main.run(short(untrained, f",images={tmp_path}"), tmp_path.parent / f"{tmp_path.name}_out")


def test_study_killed_at_five_moments_ends_in_the_same_results(untrained, studied, tmp_path, monkeypatch):
    """Each start computes one part more than the last and is killed; the sixth finishes."""
    save, run, parts = ResultCache.save, task._Subject.run, []

    def killed(self, name, arrays):
        save(self, name, arrays)
        raise KeyboardInterrupt

    def counted(self, key, probe):
        parts.append(probe)
        return run(self, key, probe)

    monkeypatch.setattr(task._Subject, "run", counted)
    monkeypatch.setattr(ResultCache, "save", killed)
    for start in range(1, 6):
        with pytest.raises(KeyboardInterrupt):
            main.run(short(untrained), tmp_path)
        assert len(parts) == start and not (tmp_path / "results.json").exists()
    monkeypatch.setattr(ResultCache, "save", save)
    main.run(short(untrained), tmp_path)
    assert parts == 2 * PROBES.split("+")
    for path in studied.iterdir():
        if path.is_file() and path.suffix != ".npz":
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_study_shows_another_number_of_images_without_running_its_probes(untrained, tmp_path, monkeypatch):
    """Four images are saved; fewer are cut from them, and more are computed, in the same pictures as in one start."""
    config = configure(study, f"smoke=True,probes=grey+hue,inverters={untrained}/robust_inverter")
    run, parts = task._Subject.run, []
    monkeypatch.setattr(task._Subject, "run", lambda self, key, probe: parts.append(probe) or run(self, key, probe))

    def start(name, count):
        config.log.num_images = count
        (tmp_path / name / "results.json").unlink(missing_ok=True)
        main.run(config, tmp_path / name)
        return [(tmp_path / name / file).read_bytes() for file in ("grey.png", "hue.png", "table.md")]

    start("resumed", 4)
    assert parts == ["grey", "hue"]
    fewer = start("resumed", 2)
    assert parts == ["grey", "hue"], "no probe runs again"
    more = start("resumed", 5)
    assert parts == 2 * ["grey", "hue"]
    assert fewer == start("two", 2) and more == start("five", 5)


def test_study_of_hog_finds_no_change_with_the_brightness(tmp_path):
    write_shallow_inverter(tmp_path / "hog", seed=0)
    main.run(configure(study, f"smoke=True,probes=brightness,inverters={tmp_path}/hog"), tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())["inverters"]["hog"]["probes"]
    for factor in ("x 0.1", "x 10"):
        assert numbers["brightness"][f"change, {factor}"] < 0.05, "HOG is relative to the contrast of its blocks"


def test_study_of_a_folder_of_images(untrained, tmp_path):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    config = configure(
        study, f"smoke=True,probes=grey,images={tmp_path / 'images'},inverters={untrained}/robust_inverter"
    )
    main.run(config, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["num_images"] == 3 and 0 < results["inverters"]["robust_inverter"]["probes"]["grey"]["error, grey"]
    config.images = str(tmp_path / "images" / "0.png")
    with pytest.raises(UserError, match="has 1 image; a study needs two"):
        main.run(config, tmp_path / "one")


def test_study_of_a_vector_beside_a_map_of_another_image_size(untrained, tmp_path, monkeypatch):
    """Of the vector also from its largest entries and from the rest; each at its own size; errors by layer."""
    drawn, write_curves = {}, task.write_curves

    def write(path, panels, **options):
        drawn.update(panels, **options)
        write_curves(path, panels, **options)

    monkeypatch.setattr(task, "write_curves", write)
    write_encoder(tmp_path / "encoder", seed=5, image_size=32)
    write_inverter(tmp_path / "vector", tmp_path / "encoder", seed=6, layer="fc6", image_size=32)
    inverters = f"{tmp_path / 'vector'}+{untrained}/robust_inverter"
    config = configure(study, f"smoke=True,probes=hue,inverters={inverters}")
    config.inverters = {"fc6_mine": str(tmp_path / "vector"), "mine_conv5": f"{untrained}/robust_inverter"}
    config.order = ("fc6_mine", "mine_conv5")
    main.run(config, tmp_path / "out")
    numbers = {
        name: entry["probes"]["hue"]
        for name, entry in json.loads((tmp_path / "out" / "results.json").read_text())["inverters"].items()
    }
    assert "error, hue 0, rest" in numbers["fc6_mine"] and "error, hue 0, top 5" in numbers["fc6_mine"]
    assert "error, hue 0, rest" not in numbers["mine_conv5"]
    assert "| hue: error, hue 120, rest | " in (tmp_path / "out" / "table.md").read_text()
    assert drawn["ticks"] == ["conv5", "fc6"] and (tmp_path / "out" / "hue_layers.png").exists()
    for number in ("error, hue 120, all", "error, hue 120, rest"):
        expected = [numbers[name].get(number, np.nan) for name in ("mine_conv5", "fc6_mine")]
        np.testing.assert_allclose(drawn["mine"][number], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (" --config.probes=color", "unknown probe 'color'; known: brightness, grey"),
        (" --config.options.steps=0,50", r"options.steps=\(0, 50\) must be ascending percentages from 0 to 100"),
        (" --config.options.steps=0,50,50,100", "options.steps=.* must be ascending"),
        (" --config.options.hues=0.3333,0.3341", "options.hues=.* no two within a degree"),
        (" --config.options.iterations=4,2", "options.iterations=.* must be ascending"),
        (" --config.options.scale=0", "options.scale=0.* must be above 0"),
        (" --config.data.num_test=1", "data.num_test=1 must be 0"),
        (" --config.images=photos:moon", "unknown photograph 'moon'"),
    ],
)
def test_mistakes_in_a_study(more, message):
    config = configure(study, f"smoke=True{more}")
    with pytest.raises(UserError, match=message):
        task.check(config)


def test_study_of_an_unknown_layer(untrained, tmp_path):
    with pytest.raises(UserError, match="unknown layer of encoder 'alexnet_small' 'conv9'; known: conv1"):
        main.run(short(untrained, " --config.layers=conv9"), tmp_path)


def test_names_of_inverters_differ():
    named = study.entries(["zoo:a/conv1", "zoo:a/conv2", "zoo:b/conv2"])
    assert list(named) == ["a_conv1", "a_conv2", "b_conv2"]
    assert list(study.entries(["runs/x/inverter", "runs/y.1/inverter"])) == ["x_inverter", "y_1_inverter"]
    assert list(study.entries(["zoo:a", "zoo:a"])) == ["zoo_a_0", "zoo_a_1"]
    assert study.entries([]) == {} and list(study.entries(["/", "/"])) == ["inverter_0", "inverter_1"]
    with pytest.raises(UserError, match="inverters is empty"):
        task.check(study.get_config("inverters=+"))
