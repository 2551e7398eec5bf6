"""The restoration task and the training of autoencoders: files, resuming, and mistakes in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from untrained import write_autoencoder, write_gan

import arinv
from arinv import main, models
from arinv.apps.restoration import restoration as task
from arinv.errors import UserError
from arinv.experiment.cache import ResultCache
from arinv.experiment.state import TrainState
from arinv.ops.degradations import build_operator, image_keys
from arinv.train import autoencoder
from configs import autoencoder as autoencoder_config
from configs import restoration


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with an untrained GAN and an untrained autoencoder of 16 px."""
    folder = tmp_path_factory.mktemp("networks")
    write_gan(folder / "gan", seed=0)
    write_autoencoder(folder / "autoencoder", seed=1)
    return folder


def config_of(networks, untrained, **changes):
    arguments = f"gan={networks}/gan,autoencoder={networks}/autoencoder,encoder={untrained}/robust_encoder"
    config = restoration.get_config(f"smoke=True,image_size=16,operator=mask,{arguments}").stages.restoration
    config.batch_size = 8
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def restored(networks, untrained, tmp_path_factory):
    """A finished run of all methods."""
    workdir = tmp_path_factory.mktemp("restored")
    main.run(config_of(networks, untrained), workdir)
    return workdir


def test_restoration_writes_every_method(restored):
    results = json.loads((restored / "results.json").read_text())
    assert set(results["entries"]) == {"degraded", "autoencoder", "invertgan", "generative_encoder", "features"}
    for name, entry in results["entries"].items():
        assert 0 < entry["mse"] < 1 and entry["mse_pm1"] == pytest.approx(4 * entry["mse"])
        assert ("mean_steps" in entry) == (name not in ("degraded", "autoencoder"))
    with np.load(restored / "per_image.npz", allow_pickle=False) as arrays:
        assert arrays["generative_encoder/mse"].shape == (8,)
        invertgan = arrays["invertgan/mse"]
    with np.load(restored / "curves.npz", allow_pickle=False) as curves:
        starts = {name: curve[0] for name, curve in curves.items()}
        assert curves["invertgan"].shape == (4,)
        # The last image of the search, before it is clipped to [0, 1], which cannot increase the error.
        assert invertgan.mean() <= curves["invertgan"][-1] + 1e-6
    assert len(set(starts.values())) == 1, "all methods start from the same latents"
    assert "| generative encoder |" in (restored / "table.md").read_text()
    for name in ("restored.png", "details.png", "curve.png", "report.html"):
        assert (restored / name).exists()


def test_restoration_resumes_to_the_same_results(networks, untrained, restored, tmp_path, monkeypatch):
    save = ResultCache.save

    def killed(self, name, arrays):
        save(self, name, arrays)
        if "num_steps" in arrays:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResultCache, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        main.run(config_of(networks, untrained), tmp_path)
    monkeypatch.setattr(ResultCache, "save", save)
    main.run(config_of(networks, untrained), tmp_path)
    assert (tmp_path / "curves.npz").read_bytes() == (restored / "curves.npz").read_bytes()
    assert (tmp_path / "per_image.npz").read_bytes() == (restored / "per_image.npz").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("autoencoder", "dream")}, "unknown method 'dream'; known: autoencoder, invertgan"),
        ({"gan": ""}, "gan is empty"),
        ({"autoencoder": ""}, "autoencoder is empty"),
        ({"operator.name": "haze"}, "'haze'"),
        ({"operator.options": {"share": 2.0}}, "share"),
        ({"solver.num_steps": 0}, "solver.num_steps"),
        ({"solver.penalty": -1.0}, "solver.penalty"),
    ],
)
def test_check_rejects_configs_in_one_line(networks, untrained, changes, message):
    config = config_of(networks, untrained)
    config.unlock()
    with pytest.raises(UserError, match=message):
        config.update_from_flattened_dict(changes)
        task.check(config)


def test_loaded_autoencoder_encodes_and_decodes(networks):
    trained = arinv.load(networks / "autoencoder")
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    codes = trained.encode_fn(images)
    assert codes.shape == (2, 4)
    expected = trained.module.apply(trained.variables, images)
    np.testing.assert_allclose(trained.decode_fn(codes), expected, atol=1e-6)
    assert repr(trained).startswith("Trained('autoencoder', networks='conv', image_size=16")
    np.testing.assert_allclose(trained.reconstruct(images), expected, atol=1e-6)
    with pytest.raises(UserError, match="20 x 20 px: this autoencoder has images of 16 x 16"):
        trained.reconstruct(np.zeros((1, 20, 20, 3), np.float32))
    with pytest.raises(UserError, match="autoencoder has no classifier"):
        trained.features_fn  # noqa: B018


def test_autoencoder_step_trains_on_generated_and_degraded_images(networks, key):
    gan = arinv.load(networks / "gan")
    module = models.build_autoencoder("conv", image_size=16, latent_size=4)
    optimizer, operator = optax.sgd(1e-2), build_operator("mask")
    state = TrainState.create(key, {"autoencoder": (module, (jnp.zeros((1, 16, 16, 3)),))}, {"autoencoder": optimizer})
    step = autoencoder.make_train_step(
        module, optimizer, gan=gan.module, operator=operator, restoration=0.5, augmentation={}
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.zeros(3, np.int32), "mask": np.ones(3, np.float32)}
    new, metrics = jax.jit(step)(state, batch, key, gan.decode_fn)
    keys = jax.random.split(jax.random.fold_in(key, 0), 4)
    generated = np.clip(gan.decode_fn(gan.module.draw(keys[1], 3)), 0, 1)
    every = jnp.concatenate([images / np.float32(255), generated])
    degraded = operator.degrade(image_keys(keys[2], jnp.arange(6)), every)

    def error(inputs):
        return float(jnp.mean((module.apply(state.variables["autoencoder"], inputs) - every) ** 2))

    means = {name: float(total / count) for name, (total, count) in metrics.items()}
    assert means["loss_reconstruction"] == pytest.approx(error(every), rel=1e-4)
    assert means["loss_restoration"] == pytest.approx(0.5 * error(degraded), rel=1e-4)
    assert int(new.step) == 1
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new.variables, state.variables)
    assert max(jax.tree.leaves(moved)) > 0


def test_smoke_autoencoder_trains_without_a_gan(tmp_path):
    main.run(autoencoder_config.get_config("smoke=True,image_size=16,latent_size=4,operator=noise"), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert np.isfinite(results["psnr"]) and results["operator"]["formula"].startswith("x + 0.25 N(0, 1)")
    assert arinv.load(tmp_path).kind == "autoencoder"
