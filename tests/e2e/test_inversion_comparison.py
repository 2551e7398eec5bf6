"""Generators against optimization of the pixels, as a task: its files, and resuming a search after a kill."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from arinv import main
from arinv.apps.inversion import compare_inversion as task
from arinv.experiment import cache
from arinv.experiment.cache import ResultCache
from configs import compare_inversion


def both(folder):
    return f"standard_inverter={folder}/standard_inverter,robust_inverter={folder}/robust_inverter"


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def compared(untrained, tmp_path_factory):
    """A finished smoke run of the comparison."""
    workdir = tmp_path_factory.mktemp("compared")
    main.run(compare_inversion.get_config(f"smoke=True,image_size=16,{both(untrained)}"), workdir)
    return workdir / "comparison"


def test_smoke_comparison_writes_results_and_table(compared):
    results = read(compared / "results.json")
    assert set(results["entries"]) == {"RI, robust", "robust", "standard"}
    for name, entry in results["entries"].items():
        assert entry["seconds_per_image"] > 0 and 0 < entry["psnr"] < 60
        assert (entry["parameters"] is None) == name.startswith("RI")
        assert 0 < entry["feature_distance"] < 10
    with np.load(compared / "per_image.npz", allow_pickle=False) as arrays:
        assert arrays["RI, robust/feature_distance"].shape == (8,)
    table = (compared / "table.md").read_text()
    assert "| RI, robust | - |" in table and "RI: 4 steps of 0.0714286." in table
    assert "data:image/png" in (compared / "report.html").read_text() and (compared / "reconstructions.png").exists()
    assert not list((compared / "parts").rglob("*_state.npz"))


def test_search_resumes_to_the_same_images(untrained, compared, tmp_path, monkeypatch):
    whole = compare_inversion.get_config(f"smoke=True,image_size=16,{both(untrained)}").stages.comparison
    config = whole.copy_and_resolve_references()
    config.inverters, config.order, config.metrics = {"robust": whole.inverters.robust}, ("robust",), "psnr"
    save = ResultCache.save

    def killed(self, name, arrays):
        save(self, name, arrays)
        if name.endswith("_state"):
            raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(ResultCache, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        main.run(config, tmp_path)
    (state,) = (tmp_path / "parts").rglob("*_state.npz")
    with np.load(state, allow_pickle=False) as arrays:
        assert (arrays["done"] == 3).all()
    monkeypatch.setattr(ResultCache, "save", save)
    main.run(config, tmp_path)
    before, after = (read(path / "results.json")["entries"]["RI, robust"] for path in (compared, tmp_path))
    for metric in ("psnr", "psnr_std", "feature_distance"):
        assert before[metric] == after[metric]


class Cut(Exception):
    """Stands for a kill."""


def test_comparison_with_another_batch_size_continues_every_search(untrained, compared, tmp_path, monkeypatch):
    """Killed with one batch of 16 images, one search before its last step, and resumed with batches of 8."""
    whole = compare_inversion.get_config(f"smoke=True,image_size=16,{both(untrained)}").stages.comparison
    config = whole.copy_and_resolve_references()
    config.inverters, config.order, config.metrics = {"robust": whole.inverters.robust}, ("robust",), "psnr"
    config.data.num_test, config.batch_size = 16, 16

    def read_images(name):
        with np.load(tmp_path / name / "per_image.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def cut(*_):
        raise Cut

    main.run(config, tmp_path / "whole")
    save, search, counts = task._Search._save, task.inversion.invert_by_optimization, []

    def save_and_stop(self):
        save(self)
        raise Cut

    def counted(*arguments, num_steps, **options):
        jax.debug.callback(lambda count: counts.append(int(count)), num_steps)
        return search(*arguments, num_steps=num_steps, **options)

    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(task._Search, "_save", save_and_stop)
        main.run(config, tmp_path / "cut")
    config.batch_size = 8
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(task.inversion, "invert_by_optimization", counted)
        patch.setattr(task, "_write", cut)
        main.run(config, tmp_path / "cut")
    assert sorted({*counts}) == [0, 1] and counts.count(1) % 2 == 0, "the last of 4 steps, for each half"
    assert not list((tmp_path / "cut").rglob("*_state.npz"))
    parts = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("parts/*/*.npz")}
    config.batch_size = 16
    with monkeypatch.context() as patch:  # what is complete is not repeated, whatever the size of the batches
        for name in ("invert", "invert_by_optimization"):
            patch.setattr(task.inversion, name, cut)
        main.run(config, tmp_path / "cut")
    assert parts == {path: path.read_bytes() for path in (tmp_path / "cut").rglob("parts/*/*.npz")}
    before, after = read_images("whole"), read_images("cut")
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4)
    seconds = [np.load(tmp_path / "cut" / "parts" / "robust" / f"{i}_8.npz")["seconds_per_image"][0] for i in (0, 8)]
    entries = read(tmp_path / "cut" / "results.json")["entries"]
    assert entries["robust"]["seconds_per_image"] == pytest.approx(np.mean(seconds))


def test_comparison_restarts_with_other_test_images(untrained, tmp_path):
    def write(grey):
        for split in ("train", "test"):
            for i in range(8):
                path = tmp_path / "set" / split / "a" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((16, 16, 3), grey + i, np.uint8)).save(path)

    def run(workdir):
        arguments = f"dataset=folder:{tmp_path}/set,image_size=16,metrics=,{both(untrained)}"
        config = compare_inversion.get_config(arguments).stages.comparison
        config.inverters, config.order = {"robust": f"{untrained}/robust_inverter"}, ("robust",)
        config.optimization.encoders, config.batch_size, config.log.num_images = (), 8, 0
        main.run(config, workdir)
        with np.load(workdir / "per_image.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    write(10)
    run(tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    write(200)
    resumed, fresh = run(tmp_path / "run"), run(tmp_path / "fresh")
    assert list(resumed) == ["robust/feature_distance"]
    np.testing.assert_array_equal(*(arrays["robust/feature_distance"] for arrays in (resumed, fresh)))
