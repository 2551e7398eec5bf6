"""Inversion of a user's own images at their own sizes; mistakes, and resuming after kills."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from configured import configure
from PIL import Image

from arinv import data, main
from arinv.errors import UserError
from arinv.experiment import figures
from configs import invert


def both(folder):
    return f"standard_inverter={folder}/standard_inverter,robust_inverter={folder}/robust_inverter"


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an image of every kind, most of one size."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    (folder / "inner").mkdir()
    noise = rng.integers(0, 256, (21, 37, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:5, :9]).resize((37, 21), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(folder / "rgb.png")
    Image.fromarray(smooth[..., 0]).save(folder / "inner" / "grey.jpg")
    Image.fromarray(np.dstack([smooth, smooth[..., :1]])).save(folder / "rgba.png")
    Image.fromarray(smooth[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(smooth).convert("CMYK").save(folder / "cmyk.jpg")
    frames = [Image.fromarray(np.roll(smooth, i, axis=1)) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise[:1, :1]).save(folder / "tiny.png")
    return folder


def own(untrained, folder):
    return f"images={folder},{both(untrained)} --config.edge=4 --config.log.num_images=7"


@pytest.fixture(scope="module")
def inverted(untrained, folder, tmp_path_factory):
    """The run of both inverters on all of them."""
    workdir = tmp_path_factory.mktemp("inverted") / "out"
    main.run(configure(invert, own(untrained, folder)), workdir)
    return workdir


def test_invert_keeps_the_size_of_every_kind_of_image(inverted, folder):
    opened = data.open_images(folder)
    rows = list(csv.DictReader((inverted / "reconstructions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == list(opened.names) and len(rows) == 7
    for name, image, row in zip(opened.names, opened, rows, strict=True):
        assert (int(row["height"]), int(row["width"])) == image.shape[:2]
        for inverter in ("standard", "robust"):
            path = inverted / inverter / f"{name.rpartition('.')[0]}.png"
            assert data.read_image(path).shape == image.shape
            error = np.mean((data.read_image(path) / 255 - image / 255) ** 2)
            np.testing.assert_allclose(float(row[f"psnr_{inverter}"]), -10 * np.log10(error + 1e-8), atol=2e-3)
            assert (row[f"ssim_{inverter}"] == "") == (name == "tiny.png")
    results = read(inverted / "results.json")
    assert results["num_images"] == 7 and results["means"]["ssim_robust"]["count"] == 6
    with Image.open(inverted / "overview.png") as image:
        assert image.width > 7 * 200


def test_invert_resumes_to_the_same_bytes(untrained, folder, inverted, tmp_path):
    """Without results.json and one reconstruction, with a damaged one and damaged numbers of another."""
    workdir = tmp_path / "out"
    shutil.copytree(inverted, workdir)
    lost, kept = workdir / "robust" / "rgb.png", workdir / "robust" / "cmyk.png"
    before, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    damaged = workdir / "standard" / "rgb.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    (workdir / "results.json").unlink()
    part = next((workdir / "parts" / "standard").glob("*.npz"))
    part.write_bytes(part.read_bytes()[:-7])
    main.run(configure(invert, own(untrained, folder)), workdir)
    assert damaged.read_bytes() == whole and lost.read_bytes() == before and kept.stat().st_mtime_ns == time
    for name in ("reconstructions.csv", "overview.png"):
        assert (workdir / name).read_bytes() == (inverted / name).read_bytes()


def invert_folder(untrained, folder, workdir):
    """Inverts a folder, without the results of an earlier start, and returns the table's rows."""
    (workdir / "results.json").unlink(missing_ok=True)
    main.run(invert.get_config(f"images={folder},inverter={untrained}/robust_inverter"), workdir)
    text = (workdir / "reconstructions.csv").read_text(encoding="utf-8", errors="surrogateescape")
    return list(csv.DictReader(text.splitlines()))


def save(path, height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_invert_repeats_a_replaced_image_only(untrained, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    save(folder / "a.png", 8, 8)
    save(folder / "b.png", 8, 8)
    before = invert_folder(untrained, folder, out)
    kept = (out / "inverter" / "b.png").stat().st_mtime_ns
    save(folder / "a.png", 6, 9, seed=1)
    replaced, other = invert_folder(untrained, folder, out)
    assert other == before[1] and (out / "inverter" / "b.png").stat().st_mtime_ns == kept
    image, found = (data.read_image(place / "a.png") / 255 for place in (folder, out / "inverter"))
    assert (replaced["height"], replaced["width"]) == ("6", "9") and found.shape == (6, 9, 3)
    np.testing.assert_allclose(float(replaced["psnr_inverter"]), -10 * np.log10(np.mean((found - image) ** 2)), 1e-3)


def test_invert_writes_every_image_to_a_file_of_its_own(untrained, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    save(folder / "a.jpg", 6, 7)
    save(folder / "b.jpg", 6, 8)
    save(folder / "b.png" / "c.jpg", 6, 9)
    invert_folder(untrained, folder, out)
    save(folder / "a.png", 7, 6)  # so far the name of a.jpg's reconstruction
    assert len(invert_folder(untrained, folder, out)) == 4
    found = {
        path.relative_to(out / "inverter").as_posix(): data.read_image(path).shape[:2]
        for path in (out / "inverter").rglob("*")
        if path.is_file()
    }
    assert found == {
        "a.png": (7, 6),
        "a.jpg.png": (6, 7),
        "b.png.png": (6, 8),
        "b.png/c.png": (6, 9),
    }
    (folder / "a.png").unlink()  # a.jpg's reconstruction gets its first name again
    invert_folder(untrained, folder, out)
    assert data.read_image(out / "inverter" / "a.png").shape[:2] == (6, 7)


def test_invert_keeps_the_bytes_of_names_that_are_not_utf_8(untrained, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    name = os.fsdecode(b"caf\xe9.png")
    save(tmp_path / "plain.png", 8, 8)
    folder.mkdir()
    try:
        shutil.copy(tmp_path / "plain.png", folder / name)
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    for _ in range(2):
        (row,) = invert_folder(untrained, folder, out)
        assert row["image"] == name
    assert b"\ncaf\xe9.png,8,8," in (out / "reconstructions.csv").read_bytes()
    assert (out / "inverter" / name).exists() and (out / "overview.png").exists()


def test_invert_rejects_a_workdir_among_the_images(untrained, tmp_path):
    save(tmp_path / "robust" / "a.png", 8, 8)
    before = (tmp_path / "robust" / "a.png").read_bytes()
    for workdir, images, shown in (
        ("robust", "robust", "is in the folder of images"),
        ("robust/inner", "robust", "is in the folder of images"),
        (".", "robust", "would overwrite the images"),
        (".", "robust/a.png", "would overwrite the images"),
    ):
        config = invert.get_config(f"images={tmp_path}/{images},robust_inverter={untrained}/robust_inverter")
        with pytest.raises(UserError, match=shown) as error:
            main.run(config, tmp_path / workdir)
        assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "robust" / "a.png"]
    assert (tmp_path / "robust" / "a.png").read_bytes() == before


def test_invert_of_one_image_equals_that_in_a_folder(untrained, folder, inverted, tmp_path):
    config = invert.get_config(f"smoke=True,images={folder}/rgb.png,inverter={untrained}/robust_inverter")
    config.edge = 4
    main.run(config, tmp_path / "out")
    found = [data.read_image(path) for path in (tmp_path / "out/inverter/rgb.png", inverted / "robust/rgb.png")]
    assert np.max(np.abs(found[0].astype(int) - found[1].astype(int))) <= 1


def run(config, workdir):
    with pytest.raises(UserError) as error:
        main.run(config, workdir)
    assert "\n" not in str(error.value)
    assert not workdir.exists() or not list(workdir.rglob("*.*")), "nothing may be written"
    return str(error.value)


@pytest.mark.parametrize(
    ("arg", "shown"),
    [
        ("images=", "images is empty"),
        ("images={tmp}/none", "none' does not exist"),
        ("images={tmp}/empty", "holds no image"),
        ("images={tmp}/bad", "broken.png is damaged or truncated"),
        ("images={folder} --config.max_pixels=100", "has 37 x 21 pixels, more than max_pixels=100; make it smaller"),
        ("images={folder} --config.multiple=12", "multiple 12 must be a multiple of 8 px"),
        ("images={folder} --config.edge=-1", "edge must be at least 0; got -1"),
        ("images={folder} --config.log.num_images=-1", "num_images=-1 must be 0"),
        ("images={tmp}", "is in the folder of images"),
        ("images={folder},robust_inverter={tmp}/none", "none' does not exist; name the workdir"),
        (
            "images={folder},robust_inverter={encoder}",
            "holds a classifier; name the workdir of an inverter",
        ),
    ],
)
def test_invert_reports_a_mistake_in_one_line(untrained, folder, tmp_path, arg, shown):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes((folder / "rgb.png").read_bytes()[:200])
    places = {"tmp": tmp_path, "folder": folder, "encoder": untrained / "robust_encoder"}
    config = configure(invert, f"inverter={untrained}/robust_inverter,{arg.format(**places)}")
    assert shown in run(config, tmp_path / "run")


def test_invert_without_inverter_reports_one_line(folder, tmp_path):
    assert "no inverter; name" in run(invert.get_config(f"images={folder}"), tmp_path / "run")


def test_invert_skips_large_and_damaged_images(untrained, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in (("small.png", (12, 12, 3)), ("large.png", (40, 40, 3))):
        Image.fromarray(np.full(shape, 99, np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "large.png").read_bytes()[:50])
    config = invert.get_config(f"images={folder},on_bad_image=skip,inverter={untrained}/robust_inverter")
    config.max_pixels = 1000
    main.run(config, tmp_path / "out")
    results = read(tmp_path / "out" / "results.json")
    assert results["num_images"] == 1 and results["skipped"] == ["broken.png", "large.png"]


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 50, 3), (300, 20, 3), (64, 64, 3)])
def test_fit_shows_the_whole_image_on_white(shape):
    tile = figures.fit(np.zeros(shape, np.uint8), height=64, width=96)
    assert tile.shape == (64, 96, 3)
    dark = np.argwhere(tile.max(-1) == 0)
    top, left = dark.min(0)
    height, width = dark.max(0) + 1 - dark.min(0)
    assert len(dark) == height * width
    assert abs(top - (64 - height) // 2) <= 1 and abs(left - (96 - width) // 2) <= 1
    factor = min(64 / shape[0], 96 / shape[1])
    expected = int(factor) if factor >= 1 else factor
    assert abs(height - shape[0] * expected) <= 1 and abs(width - shape[1] * expected) <= 1


def test_invert_measures_other_metrics_of_images_that_are_large_enough(untrained, tmp_path):
    rng = np.random.default_rng(0)
    for name, side in (("large", 64), ("small", 40)):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, 64, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    config = configure(invert, f"images={tmp_path}/images,robust_inverter={untrained}/robust_inverter")
    networks = {"encoder": "", "alexnet": "", "vgg16": "", "vgg19": ""}
    config.update({"metrics": "psnr+robust_lpips", "metric_networks": networks})
    main.run(config, tmp_path / "out")
    large, small = csv.DictReader((tmp_path / "out" / "reconstructions.csv").read_text().splitlines())
    assert float(large["robust_lpips_alexnet_small_robust"]) > 0 and small["robust_lpips_alexnet_small_robust"] == ""
    results = read(tmp_path / "out" / "results.json")
    mean = results["means"]["robust_lpips_alexnet_small_robust"]["mean"]
    assert mean == pytest.approx(float(large["robust_lpips_alexnet_small_robust"]), abs=1e-4)
    assert "of images with 8 bits" in results["variants"]["robust_lpips_alexnet_small"]
    config.metrics = "fid"
    with pytest.raises(UserError, match="metric fid is of a whole set of images of one size"):
        main.run(config, tmp_path / "other")


def test_invert_takes_the_built_in_photographs_and_limits_their_side(untrained, tmp_path, capsys):
    own = f"images=photos:coffee+chelsea,{both(untrained)} --config.data.max_side=40"
    main.run(configure(invert, own), tmp_path / "out")
    assert data.read_image(tmp_path / "out" / "robust" / "coffee.png").shape == (27, 40, 3)
    assert (tmp_path / "out" / "table.md").read_text().count("alexnet_small conv5") == 2
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()
    assert f"the report is {tmp_path}/out/report.html" in capsys.readouterr().err
    main.run(configure(invert, f"{own} --config.log.num_images=0"), tmp_path / "no_figure")
    assert not (tmp_path / "no_figure" / "overview.png").exists()
    assert (tmp_path / "no_figure" / "table.md").read_bytes() == (tmp_path / "out" / "table.md").read_bytes()
    page = (tmp_path / "no_figure" / "report.html").read_text()
    assert "<td>robust</td>" in page and "data:image/png" not in page
    with pytest.raises(UserError, match="unknown photograph 'cat'"):
        main.run(configure(invert, f"images=photos:cat,{both(untrained)}"), tmp_path / "other")
    with pytest.raises(UserError, match="data.max_side must be 0"):
        main.run(configure(invert, f"{own} --config.data.max_side=-1"), tmp_path / "other")
