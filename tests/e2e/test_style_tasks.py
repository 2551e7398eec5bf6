"""Stylization and its evaluation by config: their files, images of every kind, mistakes, and resuming after kills."""

import csv
import json
import shutil

import numpy as np
import pytest
import style_networks
from configured import configure
from PIL import Image

from arinv import data, main, metrics, tasks
from arinv.apps.style import evaluate_style, stylize_images
from arinv.apps.style.levels import PairStylizer
from arinv.errors import UserError
from arinv.experiment import loading
from arinv.ops.images import to_float
from configs import style, stylize


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Two encoders with inverters of conv1 and conv2, as "A+B"."""
    root = tmp_path_factory.mktemp("networks")
    return {
        name: style_networks.make(root, name=name, layers=("conv1", "conv2"), seed=seed)
        for seed, name in enumerate(("standard", "robust"))
    }


def draw(path, shape, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    values = np.kron(rng.integers(0, 256, (3, 4, 3)), np.ones((30, 30, 1)))[: shape[0], : shape[1]].astype(np.uint8)
    Image.fromarray(values).convert(mode).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of contents and one of styles, of many sizes and kinds."""
    root = tmp_path_factory.mktemp("images")
    draw(root / "content" / "odd.png", (37, 50), seed=1)
    draw(root / "content" / "grey.jpg", (24, 40), "L", seed=2)
    draw(root / "content" / "clear.png", (40, 33), "RGBA", seed=3)
    draw(root / "content" / "dot.png", (1, 1), seed=4)
    draw(root / "style" / "wide.gif", (30, 70), "P", seed=5)
    draw(root / "style" / "small.png", (17, 19), seed=6)
    return root


def arguments(folders, **changes):
    """Returns the arguments of a config; names with a dot, and those of no argument, are fields."""
    given = {"content": folders / "content", "style": folders / "style"} | changes
    fields = [name for name in given if "." in name or name in ("keep_color", "mix", "batch_size")]
    arguments = ",".join(f"{name}={value}" for name, value in given.items() if name not in fields)
    return "".join([arguments, *(f" --config.{name}={given[name]}" for name in fields)])


def named(values, suffix):
    """Returns values by "standard" and "robust" as arguments such as standard_encoder."""
    return {f"{name}_{suffix}": value for name, value in values.items()}


def first(levels):
    return levels["robust"].split("+")[0]


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def compared(levels, folders, tmp_path_factory):
    """A finished smoke run with two encoders and an evaluation."""
    workdir = tmp_path_factory.mktemp("compared")
    main.run(stylize.get_config(arguments(folders, **named(levels, "inverters"), evaluate=True, smoke=True)), workdir)
    return workdir


def test_smoke_stylize_writes_images_and_sheets(compared):
    done = results_of(compared / "stylization")
    assert done["contents"] == ["clear", "dot"] and done["styles"] == ["small", "wide"]
    assert [level["layer"] for level in done["entries"]["robust"]] == ["conv1", "conv2"]
    assert done["entries"]["robust"][0]["attack"]["eps"] == 1.0 and done["setting"]["device"]
    for entry in ("standard", "robust"):
        for content in done["contents"]:
            for column in done["columns"]:
                path = compared / "stylization" / "images" / entry / content / f"{column}.png"
                assert data.read_image(path).shape == (64, 64, 3)
    sizes = {}
    for name in ("sheet_standard", "sheet_robust", "side_by_side"):
        with Image.open(compared / "stylization" / f"{name}.png") as sheet:
            sizes[name] = sheet.size
    assert sizes["sheet_standard"] == sizes["sheet_robust"]
    assert sizes["side_by_side"][0] - sizes["sheet_robust"][0] == 2 * 66  # two more columns


def test_smoke_evaluation_measures_the_written_images(compared, levels, folders):
    done = results_of(compared / "evaluation")
    assert set(done["entries"]) == {"standard", "robust", "content as it was"}
    assert done["entries"]["content as it was"]["ssim"] == 1.0 and done["num_images"] == 4
    assert "adversarial (l2 eps 1) training" in done["variants"]["gram_alexnet_small"]
    features_fn = loading.load(compared / first(levels), kind="inverter").features_fn
    image = data.read_image(compared / "stylization" / "images" / "standard" / "clear" / "wide.png")
    other = data.resize_u8(data.read_image(folders / "style" / "wide.gif"), 64)
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5")
    expected = metrics.gram_loss(features_fn, *(to_float(x)[None] for x in (image, other)), layers=layers)
    with (compared / "evaluation" / "per_pair.csv").open() as file:
        rows = {(row["encoder"], row["content"], row["style"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3 * 4
    np.testing.assert_allclose(float(rows["standard", "clear", "wide"]["gram_alexnet_small"]), expected[0], rtol=1e-4)
    content = data.resize_u8(data.read_image(folders / "content" / "clear.png"), 64)
    expected = metrics.ssim(*(to_float(x)[None] for x in (image, content)))
    np.testing.assert_allclose(float(rows["standard", "clear", "wide"]["ssim"]), expected[0], atol=1e-5)
    with np.load(compared / "evaluation" / "per_pair.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["robust/ssim"].mean(), done["entries"]["robust"]["ssim"], rtol=1e-6)
    assert "| robust |" in (compared / "evaluation" / "table.md").read_text()
    assert (compared / "evaluation" / "report.html").read_text().count("data:image/png") == 3


@pytest.fixture(scope="module")
def own_sizes(levels, folders, tmp_path_factory):
    """A finished run at the images' own sizes."""
    workdir = tmp_path_factory.mktemp("own_sizes")
    main.run(configure(stylize, arguments(folders, inverters=first(levels), **{"data.max_side": 48})), workdir)
    return workdir


def test_stylize_keeps_the_size_of_every_kind_of_image(own_sizes):
    shapes = {
        name: data.read_image(own_sizes / "images" / "stylized" / name / "wide.png").shape
        for name in ("odd", "grey", "clear", "dot")
    }
    assert shapes == {"odd": (36, 48, 3), "grey": (24, 40, 3), "clear": (40, 33, 3), "dot": (1, 1, 3)}


def test_evaluation_names_an_image_that_is_too_small(own_sizes, tmp_path):
    config = stylize.get_config("evaluate=True,inverters=x").stages.evaluation
    config.stylized = str(own_sizes)
    with pytest.raises(UserError, match="dot is 1 x 1 px; .* need 11"):
        main.run(config, tmp_path)


class Cut(Exception):
    """Stands for a kill."""


def test_stylize_resumes_to_the_same_bytes(levels, folders, tmp_path, monkeypatch):
    """After a kill between two batches, and in the middle of the second."""
    fields = {"data.max_side": 16, "data.num_content": 2}
    config = configure(stylize, arguments(folders, inverters=first(levels), **fields))
    write = stylize_images.write_png
    for after in (2, 1):
        paths = []

        def write_and_stop(path, image, paths=paths, after=after):
            if len(paths) == after:
                raise Cut
            paths.append(path)
            write(path, image)

        with monkeypatch.context() as patch:
            patch.setattr(stylize_images, "write_png", write_and_stop)
            with pytest.raises(Cut):
                main.run(config, tmp_path / "cut")
        assert not (tmp_path / "cut" / "results.json").exists()
    main.run(config, tmp_path / "cut")
    main.run(config, tmp_path / "whole")
    whole = sorted((tmp_path / "whole").rglob("*.png"))
    assert len(whole) == 2 * 2 + 1
    for path in whole:
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_stylize_skips_finished_batches(own_sizes, tmp_path, monkeypatch):
    shutil.copytree(own_sizes, tmp_path / "run")
    config = stylize.get_config("inverters=x")
    saved = json.loads((own_sizes / "config.json").read_text())
    config.data.update(saved["data"])
    config.entries.stylized = tuple(saved["entries"]["stylized"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "images").rglob("*.png")}
    (tmp_path / "run" / "results.json").unlink()
    monkeypatch.setattr(PairStylizer, "make", None)
    main.run(config, tmp_path / "run")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "images").rglob("*.png")}
    assert len(before) == 8


def test_evaluation_resumes_to_the_same_results(compared, tmp_path, monkeypatch):
    config = stylize.get_config("evaluate=True,smoke=True,inverters=x").stages.evaluation
    config.update(json.loads((compared / "evaluation" / "config.json").read_text()))
    config.stylized = str(compared / "stylization")
    measure, calls = evaluate_style._Measurement.of_images, []

    def measure_and_stop(self, index, images):
        if len(calls) == 3:
            raise Cut
        calls.append(index)
        return measure(self, index, images)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate_style._Measurement, "of_images", measure_and_stop)
        with pytest.raises(Cut):
            main.run(config, tmp_path)
        calls.append(None)
        main.run(config, tmp_path)
    assert calls == [0, 1, 0, None, 1]
    assert results_of(tmp_path) == results_of(compared / "evaluation")
    assert not (tmp_path / "parts").exists()


def test_stylize_mixes_styles_by_regions_in_the_colors_of_the_content(levels, folders, tmp_path):
    for kind, name in (("content", "odd"), ("style", "small"), ("style", "wide")):
        maps = np.zeros((8, 8), np.uint8)
        maps[:, 4:] = 1
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(maps).save(tmp_path / kind / f"{name}.png")
    given = {
        "inverters": first(levels), "content": folders / "content" / "odd.png", "mix": "3,1", "keep_color": "match",
        "data.content_labels": tmp_path / "content", "data.style_labels": tmp_path / "style", "data.size": 16,
    }  # fmt: skip
    main.run(configure(stylize, arguments(folders, **given)), tmp_path / "run")
    done = results_of(tmp_path / "run")
    assert done["mix"] == [0.75, 0.25] and done["columns"] == ["mixture"] and done["num_labels"] == 2
    assert (tmp_path / "run" / "images" / "stylized" / "odd" / "mixture.png").exists()


def test_stylize_luminance_keeps_the_colors_of_the_content(levels, folders, tmp_path):
    given = {"inverters": first(levels), "content": folders / "content" / "odd.png", "keep_color": "luminance"}
    given["data.size"] = 16
    main.run(configure(stylize, arguments(folders, **given)), tmp_path)
    image = data.read_image(tmp_path / "images" / "stylized" / "odd" / "wide.png").astype(int)
    content = data.resize_u8(data.read_image(folders / "content" / "odd.png"), 16).astype(int)
    inside = ((image > 0) & (image < 255)).all(-1)
    assert inside.mean() > 0.2
    difference = (image - content)[inside]
    assert np.abs(difference - difference[:, :1]).max() <= 1  # the same for R, G and B, but for rounding


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"inverters": ""}, "no inverters"),
        ({"inverters": "{inverters}+{inverters}"}, "conv1.conv1 include a layer twice"),
        ({"inverters": "no/such"}, "no checkpoint in no/such"),
        ({"inverters": "{encoder}"}, "holds a classifier"),
        ({"content": "{empty}"}, "holds no image"),
        ({"content": "{bad}"}, "broken.png"),
        ({"transform.alpha": "2"}, "transform.alpha must be 0"),
        ({"transform.order": "deep"}, "unknown order of levels"),
        ({"keep_color": "hue"}, "unknown keep_color 'hue'; known: luminance, match, no"),
        ({"mix": "1,2,3"}, "mix has 3 weights for 2 styles: small, wide"),
        ({"mix": "0,0"}, "not all 0"),
        ({"batch_size": "3"}, "batch_size 3"),
    ],
)
def test_stylize_reports_a_mistake_in_one_line_and_writes_nothing(levels, folders, tmp_path, changes, shown):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes((folders / "content" / "odd.png").read_bytes()[:60])
    names = {"inverters": first(levels), "encoder": first(levels).replace("robust_conv1", "robust_encoder")}
    names |= {"empty": tmp_path / "empty", "bad": tmp_path / "bad"}
    changes = {"inverters": "{inverters}"} | changes
    given = {name: str(value).format(**names) for name, value in changes.items()}
    with pytest.raises(UserError, match=shown) as error:
        main.run(configure(stylize, arguments(folders, **given)), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_smoke_style_trains_missing_inverters(levels, folders, tmp_path):
    encoders = {name: levels[name].split("+")[0].replace("_conv1", "_encoder") for name in levels}
    config = style.get_config(
        arguments(
            folders, **named(encoders, "encoder"), encoder="alexnet_small", layers="conv1", loss="feature", smoke=True
        )
    )
    assert config.order == ("standard_conv1_inverter", "robust_conv1_inverter", "stylization", "evaluation")
    main.run(config, tmp_path)
    assert (tmp_path / "stylization" / "side_by_side.png").exists()
    assert "| standard |" in (tmp_path / "evaluation" / "table.md").read_text()


@pytest.mark.parametrize("encoder", ["alexnet", "alexnet_small", "resnet18", "vgg16"])
def test_style_config_is_plain_data_and_has_the_weights_of_the_paper(encoder):
    config = style.get_config(f"encoder={encoder}")
    assert json.loads(config.to_json_best_effort())
    inverters = [name for name in config.order if name.endswith("_inverter")]
    assert len(inverters) == 6
    for name in config.order:
        if name != "evaluation":
            tasks.TASKS[config.stages[name].task].check(config.stages[name])
    deepest, *shallow = inverters[:3]
    assert config.stages[deepest].loss.adversarial == 100.0
    for name in shallow:
        for which, pixel in (("standard", 2e-4), ("robust", 2e-6)):
            loss = config.stages[name.replace("standard", which)].loss
            assert (loss.pixel, loss.feature, loss.adversarial, loss.feature_layer) == (pixel, 1e-2, 0.0, "")
