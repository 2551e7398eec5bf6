"""Inversion of enlarged images as a task: its files, resuming after a kill, mistakes."""

import json

import numpy as np
import pytest
from configured import configure
from PIL import Image

from arinv import main, tasks
from arinv.apps.inversion import high_resolution
from arinv.errors import UserError
from arinv.experiment.cache import ResultCache
from arinv.experiment.run import open_source
from configs import compare_inversion
from configs import high_resolution as high_resolution_config


def both(folder):
    return f"standard_inverter={folder}/standard_inverter,robust_inverter={folder}/robust_inverter"


def read(path):
    return json.loads(path.read_text())


def test_smoke_high_resolution_writes_curves_table_and_figures(untrained, tmp_path):
    arguments = f"smoke=True,image_size=16,metrics=psnr+ssim+robust_lpips,{both(untrained)}"
    config = high_resolution_config.get_config(arguments)
    config.stages.scales.metric_networks.encoder = f"{untrained}/robust_encoder"
    assert config.order == ("scales",)
    main.run(config, tmp_path)
    workdir = tmp_path / "scales"
    results = read(workdir / "results.json")
    assert results["scales"] == [1, 2]
    for name in ("standard", "robust"):
        curves = results["curves"][name]
        for metric in ("psnr", "ssim", "robust_lpips_alexnet_small"):
            assert len(curves[metric]) == 2 and results["variants"][metric]
            assert np.isfinite(curves[metric] + curves[f"{metric}_std"]).all()
    weights = [w["robust_lpips_alexnet_small"] for w in results["metric_weights"].values()]
    assert weights[0] == weights[1], "both through the robust encoder"
    with np.load(workdir / "per_image.npz", allow_pickle=False) as arrays:
        assert arrays["robust/2/psnr"].shape == (8,)
        assert np.isclose(arrays["robust/2/psnr"].mean(), results["curves"]["robust"]["psnr"][1])
    table = (workdir / "table.md").read_text()
    assert "| scale | PSNR (dB), standard | PSNR (dB), robust |" in table and table.count("\n| ") == 4
    assert (workdir / "report.html").read_text().count("data:image/png") == 2
    with Image.open(workdir / "images.png") as image:
        assert image.height > 4 * 3 * 96
    with Image.open(workdir / "curves.png") as image:
        assert image.width > 2 * image.height


@pytest.mark.slow
def test_smoke_high_resolution_trains_all_networks(tmp_path):
    main.run(high_resolution_config.get_config("smoke=True,options=width:4"), tmp_path)
    curves = read(tmp_path / "scales" / "results.json")["curves"]
    for name in ("standard", "robust"):  # the first scale is the plain evaluation
        trained = read(tmp_path / f"{name}_inverter" / "results.json")
        for metric in ("psnr", "ssim"):
            np.testing.assert_allclose(curves[name][metric][0], trained[metric], rtol=1e-3)


def test_configs_train_all_networks_by_default():
    config = high_resolution_config.get_config("metrics=psnr+robust_lpips")
    stages = ("standard_encoder", "standard_inverter", "robust_encoder", "robust_inverter")
    assert config.order == (*stages, "scales")
    assert config.stages.scales.metric_networks.encoder == "stage:robust_encoder"
    compared = compare_inversion.get_config("")
    assert compared.order == (*stages, "comparison")
    assert compared.stages.comparison.optimization.to_dict() == {
        "encoders": ("robust",), "num_steps": 10_000, "step_size": 32 / 224, "steps_per_call": 50,
    }  # fmt: skip
    for experiment in (config, compared):
        assert json.loads(experiment.to_json_best_effort())
        for stage in experiment.order:
            tasks.TASKS[experiment.stages[stage].task].check(experiment.stages[stage])
    assert [compared.stages[f"{name}_encoder"].attack.eps for name in ("standard", "robust")] == [0.0, 1.0]


def scale_task(untrained, **options):
    config = high_resolution_config.get_config(f"image_size=16,{both(untrained)}").stages.scales
    config.inverters, config.order = {"robust": f"{untrained}/robust_inverter"}, ("robust",)
    config.scales, config.batch_size, config.data.num_test = 2, 8, 8
    for name, value in options.items():
        config[name] = value
    return config


def test_high_resolution_resumes_with_finished_scales(untrained, tmp_path, monkeypatch):
    measure, calls = high_resolution._measure, []

    def killed(*arguments, scale, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(scale)
        return measure(*arguments, scale=scale, **options)

    monkeypatch.setattr(high_resolution, "_measure", killed)
    config = scale_task(untrained, metrics="psnr", compare="original")
    with pytest.raises(KeyboardInterrupt):
        main.run(config, tmp_path)
    assert calls == [1] and not (tmp_path / "results.json").exists()
    with np.load(tmp_path / "parts" / "robust_1.npz", allow_pickle=False) as arrays:
        before = arrays["psnr"]
    calls.clear()
    main.run(config, tmp_path)
    assert calls == [2], "the first part is loaded"
    results = read(tmp_path / "results.json")
    assert results["compare"] == "original" and len(results["curves"]["robust"]["psnr"]) == 2
    with np.load(tmp_path / "per_image.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["robust/1/psnr"], before)


@pytest.fixture
def brightness(monkeypatch):
    """The list of measured scales; the mean of an image stands for its metrics, so that nothing is compiled."""
    calls = []

    def measure(run, _, __, arrays, *, scale, **options):
        calls.append(scale)
        images = arrays["image"][: run.config.log.num_images]
        tiles = np.broadcast_to(images[:, :1, :1], (len(images), 32, 32, 3))
        return {"tiles": tiles, "psnr": arrays["image"].mean((1, 2, 3))}

    monkeypatch.setattr(high_resolution, "_measure", measure)
    return calls


def test_high_resolution_restarts_with_other_test_images(untrained, tmp_path, monkeypatch, brightness):
    config, load = scale_task(untrained, metrics="psnr"), high_resolution.data.load_arrays
    main.run(config, tmp_path)
    before = read(tmp_path / "results.json")["curves"]["robust"]["psnr"]
    images = 255 - load(open_source(config, "test"))["image"]
    monkeypatch.setattr(high_resolution.data, "load_arrays", lambda source: load(source) | {"image": images})
    (tmp_path / "results.json").unlink()
    main.run(config, tmp_path)
    assert brightness == [1, 2] * 2
    np.testing.assert_allclose(read(tmp_path / "results.json")["curves"]["robust"]["psnr"], 255 - np.array(before))


@pytest.mark.parametrize(("first", "then", "calls"), [(3, 1, []), (1, 3, [1]), (0, 2, [1]), (2, 0, []), (9, 9, [])])
def test_high_resolution_resumes_with_another_number_of_images(untrained, tmp_path, brightness, first, then, calls):
    """One scale is complete, the other is repeated; missing tiles alone are computed, and the picture is the same."""
    config = scale_task(untrained, metrics="psnr")
    config.log.num_images = first
    main.run(config, tmp_path / "resumed")
    for name in ("results.json", "parts/robust_2.npz", "images.png"):
        (tmp_path / "resumed" / name).unlink(missing_ok=True)
    config.log.num_images = then
    main.run(config, tmp_path / "resumed")
    assert brightness == [1, 2, *calls, 2]
    main.run(config, tmp_path / "whole")
    pictures = [tmp_path / name / "images.png" for name in ("resumed", "whole")]
    assert [path.exists() for path in pictures] == 2 * [then > 0]
    if then:
        assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_high_resolution_computes_missing_tiles_alone(untrained, tmp_path, monkeypatch):
    config = scale_task(untrained, metrics="psnr", scales=1)
    config.log.num_images = 1
    main.run(config, tmp_path / "resumed")
    (tmp_path / "resumed" / "results.json").unlink()
    config.log.num_images = 3
    measure, counts = high_resolution._measure, []

    def counted(run, inverter, measures, arrays, **options):
        counts.append(len(arrays["image"]))
        return measure(run, inverter, measures, arrays, **options)

    monkeypatch.setattr(high_resolution, "_measure", counted)
    main.run(config, tmp_path / "resumed")
    main.run(config, tmp_path / "whole")
    assert counts == [2, 8]
    for name in ("images.png", "per_image.npz"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_result_cache_ignores_parts_of_another_key_and_damaged_ones(tmp_path):
    parts = ResultCache(tmp_path, "a")
    parts.save("x", {"values": np.arange(3)})
    np.testing.assert_array_equal(parts.load("x")["values"], [0, 1, 2])
    assert list(parts.load("x")) == ["values"] and parts.load("y") is None
    assert ResultCache(tmp_path, "b").load("x") is None
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:60])
    assert parts.load("x") is None


def run(config, workdir):
    with pytest.raises(UserError) as error:
        main.run(config, workdir)
    assert "\n" not in str(error.value)
    assert not workdir.exists() or not list(workdir.rglob("*.*")), "nothing may be written"
    return str(error.value)


@pytest.mark.parametrize(
    ("module", "arg", "shown"),
    [
        (high_resolution_config, "--config.stages.scales.scales=0", "scales must be 1 or more"),
        (high_resolution_config, "compare=both", "unknown comparison 'both'; known: enlarged, original"),
        (high_resolution_config, "metrics=", "metrics is empty; name one or more of psnr, ssim, "),
        (high_resolution_config, "metrics=+", "metrics is empty; name one or more of psnr, ssim, "),
        (high_resolution_config, "metrics=psnr+fid", "unknown metric at several scales 'fid'; known: "),
        (high_resolution_config, "image_size=20", "data.image_size 20 must be a multiple of 8 px"),
        (high_resolution_config, "image_size=24", "trained on images of 16 px, but data.image_size is 24"),
        (compare_inversion, "image_size=24", "trained on images of 16 px, but data.image_size is 24"),
        (
            compare_inversion,
            "--config.stages.comparison.optimization.encoders=robust,best",
            "'best' is not one of the inverters standard, robust",
        ),
        (
            compare_inversion,
            "--config.stages.comparison.optimization.num_steps=0",
            "optimization.num_steps must be at least 1",
        ),
        (
            compare_inversion,
            "--config.stages.comparison.optimization.step_size=-1",
            "optimization.step_size must be above 0",
        ),
        (compare_inversion, "metrics=normalized_error", "metric normalized_error is not for this comparison"),
    ],
)
def test_configs_report_a_mistake_in_one_line(untrained, tmp_path, module, arg, shown):
    config = configure(module, f"image_size=16,{both(untrained)}, {arg}")
    assert shown in run(config, tmp_path / "run")
