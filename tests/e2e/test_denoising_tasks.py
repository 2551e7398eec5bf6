"""Denoising by config: a smoke run, resuming after a kill, and a user's own images."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configured import configure
from PIL import Image

from arinv import main, models
from arinv.apps.denoising import evaluate_denoising, tiles
from arinv.errors import UserError
from arinv.experiment import cache
from arinv.experiment.checkpoint import Checkpoints
from arinv.experiment.output_files import read_arrays, write_arrays
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.models.generators.wavelet import DECODER_PLANS, DecoderStep
from arinv.ops.keys import name_key
from configs import denoise, denoising

# In the place of the decoder, which takes long to compile: one skip and two convolutions, for the same sizes.
SMALL = (DecoderStep("synthesis", "conv5"), DecoderStep("pad", 2), DecoderStep("conv", 8), DecoderStep("nearest", 16))
ROWS = ("noisy", "standard", "robust", "BM3D")


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def pixels(height, width, channels=3, dtype=np.uint8):
    """A gradient with some texture."""
    y, x = np.mgrid[:height, :width]
    values = 128 + 80 * np.sin(x / 9) * np.cos(y / 7)
    shape = (height, width, channels) if channels > 1 else (height, width)
    scale = np.iinfo(dtype).max / 255
    return np.broadcast_to((values * scale)[..., None] if channels > 1 else values * scale, shape).astype(dtype)


def write_classifier(workdir, seed):
    """Writes the checkpoint of an AlexNet with random weights."""
    options = {"dense_width": 8, "head_side": 1}
    module, rng = models.build("alexnet", num_classes=2, **options), np.random.default_rng(seed)

    def fill(leaf):
        return jnp.asarray(rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape), jnp.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    description = {
        "kind": "classifier", "encoder": "alexnet", "options": options, "num_classes": 2, "class_names": [],
        "image_size": 64,
    }  # fmt: skip
    with Checkpoints(workdir, ("classifier",)) as checkpoints:
        state = TrainState(jnp.zeros((), jnp.int32), {"classifier": jax.tree.map(fill, shapes)}, {"classifier": {}})
        checkpoints.save(state, data_state={}, description=description, wait=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished smoke run on a folder of images, with a stand-in for BM3D: (its config, workdir)."""
    root = tmp_path_factory.mktemp("denoising")
    for i, (height, width) in enumerate(((50, 60), (60, 50), (50, 60))):
        save(root / "set" / f"{i}.png", pixels(height, width))
    for seed, name in enumerate(("standard", "robust")):
        write_classifier(root / name, seed)
    (root / "packages").mkdir()
    (root / "packages" / "bm3d.py").write_text("def bm3d_rgb(noisy, sigma):\n    return noisy - 2 * sigma\n")
    encoders = f"standard_encoder={root}/standard,robust_encoder={root}/robust"
    config = denoising.get_config(f"smoke=True,{encoders},test=folder:{root}/set")
    config.stages.evaluation.update_from_flattened_dict({"data.num_images": 3, "bm3d": "yes"})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "packages")
        patch.setitem(DECODER_PLANS, "default", SMALL)
        main.run(config, root / "run")
        yield config, root / "run"
    sys.modules.pop("bm3d", None)


def read_results(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_evaluation_writes_every_number_of_every_image(finished):
    _, workdir = finished
    results = read_results(workdir / "evaluation")
    with np.load(workdir / "evaluation" / "per_image.npz", allow_pickle=False) as arrays:
        assert tuple(arrays["rows"]) == ROWS and "set/checksum" not in arrays
        assert list(arrays["set/name"]) == ["set/0.png", "set/1.png", "set/2.png"]
        for i, row in enumerate(ROWS):
            np.testing.assert_allclose(results["sets"]["set"][row]["psnr"], arrays["set/psnr"][:, i].mean(), rtol=1e-6)
        assert arrays["set/ssim"].shape == (3, 4)
        assert (np.ptp(arrays["set/psnr"], axis=1) > 0.1).all()
    noisy = results["sets"]["set"]["noisy"]["psnr"]
    assert 13.5 < noisy < 15.5  # 20 log10(255 / 50) = 14.15 dB, and more where values are clipped
    assert results["noise"]["protocol"] == "clipped" and "not rounded" in results["noise"]["variant"]
    assert results["variants"]["psnr"] and results["setting"]["device"] and "with the true sigma" in results["bm3d"]
    assert results["denoisers"]["robust"]["noise"]["sigma"] == 50 / 255
    table = (workdir / "evaluation" / "table.md").read_text()
    assert "| set (3 images) | PSNR (dB) | SSIM |" in table and "sigma 50/255" in table
    assert all(f"| {row} |" in table for row in ROWS)
    assert not (workdir / "evaluation" / "parts").exists()


def test_smoke_denoising_writes_figures(finished):
    _, workdir = finished
    with Image.open(workdir / "evaluation" / "crops.png") as image:
        assert image.size[0] > 3 * 160 and image.size[1] > 5 * 160
    with Image.open(sorted((workdir / "standard_denoiser" / "images").glob("*.png"))[-1]) as image:
        assert image.size[1] == 3 * 64 + 4 * 2  # clean, noisy, denoised
    trained = read_results(workdir / "robust_denoiser")
    assert {"psnr", "ssim", "psnr_noisy", "ssim_noisy"} <= set(trained)


@pytest.mark.long
def test_denoisers_on_encoders_of_the_zoo_denoise_images_of_any_size(tmp_path):
    encoders = "standard_encoder=zoo:alexnet_small_standard,robust_encoder=zoo:alexnet_small_l2_1"
    config = denoising.get_config(f"smoke=True,{encoders}")
    config.stages.evaluation.bm3d = "no"
    main.run(config, tmp_path / "run")
    assert set(read_results(tmp_path / "run" / "evaluation")["sets"]["photos"]) >= {"noisy", "standard", "robust"}
    for name, channels in (("color", 3), ("grey", 1)):
        save(tmp_path / "images" / f"{name}.png", pixels(50, 77, channels))
    config = denoise.get_config(f"denoiser={tmp_path}/run/robust_denoiser,images={tmp_path}/images")
    main.run(config, tmp_path / "denoised")
    for name in ("color", "grey"):
        with Image.open(tmp_path / "denoised" / "denoised" / f"{name}.png") as image:
            assert image.size == (77, 50)


class Cut(Exception):
    """Stands for a kill."""


def test_evaluation_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch):
    config, whole = finished
    config = config.stages.evaluation.copy_and_resolve_references()
    config.entries = {name: f"{whole}/{name}_denoiser" for name in config.order}
    config.metric_networks.encoder = ""
    save, names = cache.ResultCache.save, []

    def save_and_stop(self, name, arrays):
        save(self, name, arrays)
        names.append(name)
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(cache.ResultCache, "save", save_and_stop)
        for _ in range(2):
            with pytest.raises(Cut):
                main.run(config, tmp_path)
    (tmp_path / "parts" / "000001.npz").write_bytes(b"PK cut short")
    numbers = read_arrays(tmp_path / "parts" / "000000.npz")
    other = {"psnr": np.zeros(len(ROWS)), "cache_key": np.array("of other weights")}
    write_arrays(tmp_path / "parts" / "000000.npz", numbers | other)
    main.run(config, tmp_path)
    assert names == ["000000", "000001"]
    assert read_results(tmp_path)["sets"] == read_results(whole / "evaluation")["sets"]
    for name in ("table.md", "crops.png"):
        assert (tmp_path / name).read_bytes() == (whole / "evaluation" / name).read_bytes(), name


def test_evaluation_killed_at_its_end_measures_changed_images_anew(finished, tmp_path, monkeypatch):
    """Of three images that are computed, one has changed."""
    config, whole = finished
    config = config.stages.evaluation.copy_and_resolve_references()
    config.entries = {name: f"{whole}/{name}_denoiser" for name in config.order}
    config.metric_networks.encoder = ""
    for i in range(3):
        save(tmp_path / "set" / f"{i}.png", pixels(50, 60))
    config.data.name = f"folder:{tmp_path}/set"

    def cut(self, results, **report):
        raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Run, "finish", cut)
        main.run(config, tmp_path / "run")
    assert len(list((tmp_path / "run" / "parts").glob("*.npz"))) == 3
    save(tmp_path / "set" / "1.png", 255 - pixels(50, 60))
    computed, denoise_tiles = [], tiles.denoise
    monkeypatch.setattr(
        tiles, "denoise", lambda *args, **options: computed.append(1) or denoise_tiles(*args, **options)
    )
    main.run(config, tmp_path / "run")
    assert len(computed) == 2 and not (tmp_path / "run" / "parts").exists()  # by two denoisers


def test_evaluation_with_another_number_of_images_shows_those_alone(finished, tmp_path, monkeypatch):
    """Killed at its end with two of three images cropped, then with one, then with all of them."""
    config, whole = finished
    config = config.stages.evaluation.copy_and_resolve_references()
    config.entries = {name: f"{whole}/{name}_denoiser" for name in config.order}
    config.metric_networks.encoder = ""

    def cut(self, results, **report):
        raise Cut

    restored, call = [], evaluate_denoising._Restoration.__call__
    monkeypatch.setattr(
        evaluate_denoising._Restoration, "__call__", lambda *arguments: restored.append(1) or call(*arguments)
    )
    for count, expected in ((2, 3), (1, 0), (3, 1)):
        config.log.num_images = count
        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(Run, "finish", cut)
            main.run(config, tmp_path / "cut")
        assert len(restored) == expected, count
        restored.clear()
        main.run(config, tmp_path / str(count))
        restored.clear()
        for name in ("crops.png", "per_image.npz"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / str(count) / name).read_bytes(), (count, name)


def test_name_key_depends_on_the_name():
    keys = [jax.random.key_data(name_key(0, name)).tolist() for name in ("a.png", "b.png")]
    assert keys[0] != keys[1]
    assert keys[0] == jax.random.key_data(name_key(0, "a.png")).tolist()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder with an image of every kind."""
    folder = tmp_path_factory.mktemp("photographs")
    save(folder / "odd.png", pixels(33, 47))
    save(folder / "dot.png", pixels(1, 1))
    save(folder / "grey.png", pixels(20, 30, channels=1))
    save(folder / "clear.png", np.dstack([pixels(40, 20), np.full((40, 20), 90, np.uint8)]))
    save(folder / "deep.png", pixels(21, 31, channels=1, dtype=np.uint16))
    Image.fromarray(pixels(24, 60)).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(pixels(24, 60)).save(folder / "print.webp")
    frames = [Image.fromarray(pixels(16, 18 + 0 * i)) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    save(folder / "far" / "panorama.png", pixels(40, 800))
    return folder


def test_denoise_keeps_the_size_of_every_kind_of_image(finished, photographs, tmp_path):
    _, whole = finished
    (photographs / "broken.jpg").write_bytes((photographs / "print.jpg").read_bytes()[:500])
    arg = f"denoiser={whole}/robust_denoiser,images={photographs}"
    sizes = " --config.tiles.tile=64 --config.tiles.overlap=32"
    with pytest.raises(UserError, match="broken.jpg is damaged or truncated.*on_bad_image='skip'"):
        main.run(configure(denoise, arg + sizes), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    config = configure(denoise, f"{arg},on_bad_image=skip{sizes}")
    main.run(config, tmp_path)
    results = read_results(tmp_path)
    assert results["skipped"] == ["broken.jpg"]
    found = {file["file"]: (file["height"], file["width"]) for file in results["images"].values()}
    names = ("odd", "dot", "grey", "clear", "deep", "print.jpg", "print.webp", "moving", "far/panorama")
    assert set(found) == {f"denoised/{name}.png" for name in names}
    for file, size in found.items():
        with Image.open(tmp_path / file) as image:
            assert (image.height, image.width) == size and image.mode == "RGB", file
    assert found["denoised/far/panorama.png"] == (40, 800) and found["denoised/dot.png"] == (1, 1)
    with Image.open(tmp_path / "before_after.png") as image:
        assert image.size[1] > 2 * 256
    assert "psnr" not in results["images"]["odd.png"]


def test_denoise_measures_added_noise_and_skips_finished_images(finished, photographs, tmp_path, monkeypatch):
    _, whole = finished
    arg = f"denoiser={whole}/robust_denoiser,images={photographs}/odd.png --config.noise.sigma=50/255"
    config = configure(denoise, f"{arg} --config.log.num_images=0")
    main.run(config, tmp_path)
    assert not (tmp_path / "before_after.png").exists()
    before = (tmp_path / "results.json").read_bytes()
    described = read_results(tmp_path)["images"]["odd.png"]
    assert 13.0 < described["psnr_noisy"] < 16.0 and 0 < described["psnr"] < 40
    (tmp_path / "results.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("arinv.apps.denoising.tiles.denoise", None)  # fails if it is called
        main.run(config, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_denoise_restarts_with_a_replaced_image(finished, tmp_path):
    _, whole = finished
    for name in ("x.jpg", "x.png", "x.jpg.png"):
        save(tmp_path / "photographs" / name, pixels(20, 30))
    config = denoise.get_config(f"denoiser={whole}/robust_denoiser,images={tmp_path}/photographs")
    main.run(config, tmp_path / "run")
    files = {name: described["file"] for name, described in read_results(tmp_path / "run")["images"].items()}
    assert len(set(files.values())) == 3
    (tmp_path / "run" / "results.json").unlink()
    save(tmp_path / "photographs" / "x.png", pixels(40, 25))
    main.run(config, tmp_path / "run")
    with Image.open(tmp_path / "run" / files["x.png"]) as image:
        assert image.size == (25, 40)


@pytest.mark.parametrize(
    ("arg", "shown"),
    [
        ("images=x.png", "denoiser is empty"),
        ("denoiser=x", "images is empty"),
        ("denoiser={tmp}/none,images=x.png", "none' does not exist; name the workdir"),
        ("denoiser=x,images=x.png --config.log.num_images=-1", "num_images=-1 must be 0"),
        ("denoiser=x,images=photos:nobody", "unknown photograph 'nobody'"),
        ("denoiser={whole}/../robust,images=x.png", "holds a classifier; name the workdir of a denoiser's"),
        ("denoiser={whole}/robust_denoiser,images={tmp}/none.png", "does not exist"),
        ("denoiser={whole}/robust_denoiser,images={tmp}/empty", "holds no image"),
        ("denoiser=x,images=x.png --config.noise.sigma=50", "fifty grey levels are 50/255"),
        ("denoiser=x,images=x.png --config.tiles.tile=100", "tile=100 must be a multiple of 32"),
        ("denoiser=x,images=x.png,dtype=float16", "bfloat16"),
        ("denoiser=x,images={tmp}", "is in the folder of images"),
    ],
)
def test_denoise_reports_a_mistake_in_one_line(finished, tmp_path, arg, shown):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=shown) as error:
        main.run(configure(denoise, arg.format(tmp=tmp_path, whole=finished[1])), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
