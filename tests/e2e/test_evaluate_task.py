"""Evaluation of a trained network as a task: resuming after a kill in every pass."""

import numpy as np
import pytest
from configured import configure
from PIL import Image

from arinv import main
from arinv.experiment import cache
from arinv.experiment.output_files import read_arrays
from arinv.experiment.run import Run
from arinv.train import feed
from configs import evaluate


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The argument of a folder with 20 test images of the classes of the untrained encoders."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(20):
        for split in ("train", "test"):
            path = folder / split / "abc"[i % 3] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return f"smoke=True,image_size=16,eps=1.0,dataset=folder:{folder}"


def test_evaluation_killed_in_each_pass_resumes_to_the_same_bits(untrained, dataset, tmp_path, monkeypatch):
    """Three batches a pass: killed after two of the attack, one of the reconstructions, and before the results."""
    metrics = "metrics=psnr+fid+normalized_error"
    config = configure(evaluate, f"{dataset},{metrics},checkpoint={untrained}/robust_inverter")
    config.data.num_test, config.batch_size, config.log.num_images = 20, 8, 3
    main.run(config, tmp_path / "whole")
    assert not (tmp_path / "whole" / "parts").exists()
    append, place, batches = cache.CachedRows.append, feed.parallel.place_batch, []

    def append_and_stop(name, count):
        def append_rows(self, *arguments):
            append(self, *arguments)
            if self._name == name and self.count == count:
                raise Cut

        return append_rows

    def cut(self, results, **report):
        raise Cut

    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(feed.parallel, "place_batch", lambda batch, mesh: batches.append(1) or place(batch, mesh))
    kills = [
        (cache.CachedRows, "append", append_and_stop("attacking", 16), 3),
        (cache.CachedRows, "append", append_and_stop("inverting", 8), 1 + 2),
        (Run, "finish", cut, 1 + 2),  # the first batch again, for its pictures
    ]
    for place_of, name, function, count in kills:
        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(place_of, name, function)
            main.run(config, tmp_path / "cut")
        assert len(batches) == count
        batches.clear()
    config.log.num_images = 10
    main.run(config, tmp_path / "cut")
    assert len(batches) == 2 and not (tmp_path / "cut" / "parts").exists()
    for name in ("results.json", "per_image.npz"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    whole, more = (read_arrays(tmp_path / name / "images.npz") for name in ("whole", "cut"))
    for name in ("image", "reconstruction"):
        assert len(more[name]) == 10
        np.testing.assert_array_equal(more[name][:3], whole[name])


def test_evaluation_of_a_classifier_keeps_the_attack_of_its_weights_alone(untrained, dataset, tmp_path, monkeypatch):
    (tmp_path / "encoder").symlink_to(untrained / "standard_encoder")
    config = configure(evaluate, f"{dataset},checkpoint={tmp_path}/encoder")

    def cut(self, results, **report):
        raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Run, "finish", cut)
        main.run(config, tmp_path / "run")
    with np.load(tmp_path / "run" / "parts" / "attacking.npz", allow_pickle=False) as arrays:
        assert arrays["robust_correct"].shape == (8,)
    (tmp_path / "encoder").unlink()
    (tmp_path / "encoder").symlink_to(untrained / "robust_encoder")
    main.run(config, tmp_path / "run")
    main.run(config, tmp_path / "fresh")
    resumed, fresh = (read_arrays(tmp_path / name / "per_image.npz") for name in ("run", "fresh"))
    np.testing.assert_array_equal(resumed["cross_entropy"], fresh["cross_entropy"])
