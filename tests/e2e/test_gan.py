"""Training of GANs: an update of each game by hand, growing from stage to stage, and what is loaded afterwards."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import arinv
from arinv import main, models
from arinv.errors import UserError
from arinv.experiment import checkpoint, measurement
from arinv.experiment.loading import abstract_gan
from arinv.experiment.run import Run
from arinv.experiment.state import TrainState
from arinv.models import Gan
from arinv.train import gan as gan_training
from arinv.train import loop
from configs import gan as gan_config

GAME = {"penalty": 10.0, "drift": 0.1, "ratio": 0.5, "rate": 0.1}
RATE, BATCH, SIDE, LATENT = 0.1, 3, 2, 5
# Weights of the columns: the weighted mean of an image differs from its mean.
COLUMNS = np.arange(1.0, 1 + SIDE, dtype=np.float32).reshape(1, 1, SIDE, 1)


class Linear(nn.Module):
    """A linear map: latents -> images, images -> scores, or images -> reconstructions."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs, *, train=False):
        rows = inputs.reshape(inputs.shape[0], -1)
        size = int(np.prod(self.shape))
        kernel = self.param("kernel", nn.initializers.normal(0.5), (rows.shape[1], size), jnp.float32)
        return (rows @ kernel).reshape(inputs.shape[0], *self.shape)


def make(game):
    image = (SIDE, SIDE, 3)
    gan = Gan(Linear(image), Linear(image if game == "equilibrium" else ()), LATENT, "normal", game, grows=False)
    optimizers = {name: optax.sgd(RATE) for name in ("generator", "discriminator")}
    networks = {
        "generator": (gan.generator, (jax.ShapeDtypeStruct((1, LATENT), jnp.float32),)),
        "discriminator": (gan.discriminator, (jax.ShapeDtypeStruct((1, *image), jnp.float32),)),
    }
    state = TrainState.create(jax.random.key(1), networks, optimizers).start_average("generator")
    if game == "equilibrium":
        state = state.replace(extra={"balance": jnp.asarray(0.3)})
    step = gan_training.make_train_step(gan, optimizers, game={"name": game, **GAME}, ema_decay=0.5, augmentation={})
    return gan, state, step


def kernels(state):
    return [np.asarray(state.variables[name]["params"]["kernel"]) for name in ("generator", "discriminator")]


def by_hand(game, real, generated, w):
    """The discriminator's gradient with respect to its kernel, from formulas of linear networks."""
    if game == "logistic":
        sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
        return (-real.T @ sigmoid(-(real @ w)) + generated.T @ sigmoid(generated @ w)) / BATCH
    if game == "equilibrium":
        terms = [x.T @ np.sign(x @ w - x) for x in (real, generated)]
        return 2 * (terms[0] - 0.3 * terms[1]) / (BATCH * w.shape[1])
    length = np.linalg.norm(w)  # the gradient of a linear score is the kernel, wherever it is taken
    penalty = 10 * 2 * (length - 2) / 4 * w / length
    drift = 0.1 * 2 * real.T @ (real @ w)
    return (-real + generated).T @ np.ones((BATCH, 1)) / BATCH + drift / BATCH + penalty


@pytest.mark.parametrize("game", ["wasserstein_gp", "equilibrium", "logistic"])
def test_train_step_updates_the_discriminator_by_its_game(game):
    gan, state, step = make(game)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.zeros(BATCH, np.int32), "mask": np.ones(BATCH, np.float32)}
    key = jax.random.key(7)
    with jax.debug_key_reuse(True):
        new, metrics = jax.jit(step)(state, batch, key)
    generator, discriminator = kernels(state)
    keys = jax.random.split(jax.random.fold_in(key, 0), 7)
    generated = np.asarray(gan.draw(keys[1], BATCH)) @ generator
    real = images.reshape(BATCH, -1) / 255
    gradient = by_hand(game, real, generated, discriminator)
    new_generator, new_discriminator = kernels(new)
    np.testing.assert_allclose(new_discriminator, discriminator - RATE * gradient, rtol=2e-4, atol=1e-5)
    assert np.abs(new_generator - generator).max() > 1e-3
    # The average is that of the generator before its update.
    np.testing.assert_allclose(new.variables["average"]["params"]["kernel"], generator, rtol=1e-6)
    assert int(new.step) == 1 and all(np.isfinite(float(value)) for value, _ in metrics.values())
    if game == "equilibrium":
        errors = [2 * np.abs(x @ discriminator - x).mean() for x in (real, generated)]
        expected = np.clip(0.3 + 0.1 * (0.5 * errors[0] - errors[1]), 0, 1)
        assert float(new.extra["balance"]) == pytest.approx(expected, rel=1e-4)


class Growing(nn.Module):
    """A map of inputs that shows the fade it is called with: latents -> images, or images -> scores."""

    is_generator: bool

    @nn.compact
    def __call__(self, inputs, fade, *, train=False):
        weight = self.param("weight", nn.initializers.ones, (), jnp.float32)
        if self.is_generator:
            return weight * jnp.broadcast_to(fade, (inputs.shape[0], SIDE, SIDE, 3))
        return weight * jnp.mean(inputs * COLUMNS, axis=(1, 2, 3)) + 10 * fade


def test_fade_rises_with_the_steps_in_both_networks_and_the_images():
    gan = Gan(Growing(True), Growing(False), LATENT, "normal", "wasserstein_gp", grows=True)
    optimizers = {name: optax.sgd(0.0) for name in ("generator", "discriminator")}
    fade = jax.ShapeDtypeStruct((), jnp.float32)
    networks = {
        "generator": (gan.generator, (jax.ShapeDtypeStruct((1, LATENT), jnp.float32), fade)),
        "discriminator": (gan.discriminator, (jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32), fade)),
    }
    state = TrainState.create(jax.random.key(1), networks, optimizers).start_average("generator")
    step = jax.jit(gan_training.make_train_step(
        gan, optimizers, game={"name": "wasserstein_gp", **GAME}, fade_steps=4, augmentation={},
    ))  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.zeros(BATCH, np.int32), "mask": np.ones(BATCH, np.float32)}
    means = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape) / 255
    for number in range(6):
        share = min(1.0, number / 4)
        state, metrics = step(state, batch, jax.random.key(7))
        real = np.mean(((1 - share) * means + share * images / 255) * COLUMNS) + 10 * share
        fake = share * COLUMNS.mean() + 10 * share
        for name, expected in (("real", real), ("fake", fake), ("loss_generator", -fake)):
            assert float(metrics[name][0]) / BATCH == pytest.approx(expected, abs=1e-5), name


@pytest.fixture(scope="module")
def growth(tmp_path_factory):
    """The first two stages of a smoke run that grows from 4 to 8 px, and the compiled step of each."""
    workdir, calls, make_call = tmp_path_factory.mktemp("gan"), [], loop.make_call

    def recorded(*args, **options):
        calls.append(make_call(*args, **options))
        return calls[-1]

    config = gan_config.get_config("smoke=True,options=base_width:8+max_width:4,latent_size=4")
    config.order = ("size4", "size8_fade")
    for name in config.order:
        config.stages[name].num_steps = 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_call", recorded)
        main.run(config, workdir)
    return workdir, calls


@pytest.fixture(scope="module")
def grown(growth):
    """The directory of that run."""
    return growth[0]


def test_a_level_compiles_its_step_once(growth):
    """The fade is an input of the step, not a constant of it."""
    assert [call._cache_size() for call in growth[1]] == [1, 1]


def networks(workdir):
    shapes = abstract_gan(checkpoint.load_description(workdir))[1]
    return checkpoint.load_variables(workdir, shapes)


def test_growing_starts_from_the_stage_before(grown):
    config = gan_config.get_config("smoke=True,options=base_width:8+max_width:4,latent_size=4").stages.size8_fade
    run = Run(config, grown / "size8_fade")
    setup = gan_training.build(run, None, None, 2)
    state = setup.start(jax.jit(setup.init)(jax.random.key(3)))
    before = networks(grown / "size4")
    for name in ("generator", "discriminator", "average"):
        for layer in ("conv4", "rgb4"):
            kernel = state.variables[name]["params"][layer]["kernel"]
            np.testing.assert_array_equal(kernel, before[name]["params"][layer]["kernel"])
        assert "rgb8" in state.variables[name]["params"]


def test_load_returns_the_averaged_generator(grown):
    trained = arinv.load(grown / "size8_fade")
    assert repr(trained).startswith("Trained('gan', networks='progressive', image_size=8")
    samples = trained.sample(jax.random.key(0), 3)
    assert samples.shape == (3, 8, 8, 3) and np.isfinite(samples).all()
    average = networks(grown / "size8_fade")["average"]
    expected = trained.module.generator.apply(average, trained.module.draw(jax.random.key(0), 3))
    np.testing.assert_allclose(samples, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="gan has no classifier"):
        trained.logits_fn  # noqa: B018


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gan.networks": "stylegan"}, "'stylegan'; known: began, dcgan, progressive"),
        ({"game.name": "equilibrium"}, "trained in the game 'wasserstein_gp'; got 'equilibrium'"),
        ({"game.penalty": -1.0}, "game.penalty"),
        ({"fade": True, "start": ""}, "fade=True needs start"),
        ({"ema_decay": 1.0}, "ema_decay must be 0 .* and below 1"),
        ({"data.image_size": 12}, "got 12"),
        ({"gan.options": {"base_width": 1}}, "base_width=1 leaves no feature at 4 px; take 2 or more"),
        ({"gan.options": {"max_width": "4,latent_size:4"}}, "max_width of 'progressive'"),
    ],
)
def test_check_rejects_configs_in_one_line(change, message):
    config = gan_config.get_config("smoke=True").stages.size4
    config.unlock()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        gan_training.check(config)


@pytest.mark.parametrize(
    ("encoder", "message"), [("runs/nope", "no checkpoint in runs/nope"), ("", "trained on images of 16 px")]
)
def test_the_encoder_of_the_metric_is_checked_before_training(untrained, tmp_path, encoder, message):
    encoder = encoder or f"{untrained}/robust_encoder"
    config = gan_config.get_config(f"smoke=True,image_size=4,metric_encoder={encoder}")
    with pytest.raises(UserError, match=message):
        main.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "size4" / "metrics.jsonl").exists()


def test_fid_is_measured_at_every_evaluation_and_the_last_is_a_result(untrained, tmp_path):
    arguments = f"networks=dcgan,smoke=True,image_size=16,metric_encoder={untrained}/robust_encoder"
    stage = gan_config.get_config(arguments).stages.gan
    stage.num_steps, stage.log.evaluate_every_epochs = 3, 1e-6
    main.run(stage, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    [name] = {name for line in lines for name in line if name.startswith("test/fid_alexnet_small_conv5_n")}
    distances = {line["step"]: line[name] for line in lines if name in line}
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(distances) == [1, 2, 3] and len(set(distances.values())) == 3
    assert distances[3] == results[name.removeprefix("test/")] and "metric_encoder" in results
    gan = arinv.load(tmp_path, kind="gan")
    network = measurement.metric_network(arinv.load(f"{untrained}/robust_encoder", kind="classifier"))
    run = Run(stage, tmp_path)
    distance = measurement.sample_distance(
        gan.module, network, run.open_data("test"), key=run.key, batch_size=stage.batch_size
    )
    assert distance(gan.variables)[name.removeprefix("test/")] == pytest.approx(distances[3], rel=1e-6)


def test_test_figures_are_of_the_game_and_ignore_black_padding(key):
    gan = models.build_gan("progressive", image_size=4, latent_size=4, base_width=8, max_width=4)
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    variables = {
        "average": gan.generator.init(key, jnp.zeros((1, 4))),
        "discriminator": gan.discriminator.init(key, jnp.zeros((4, 4, 4, 3))),
    }
    batch = {"image": images, "mask": np.ones(4, np.float32)}
    raw, shares = (
        gan_training.make_eval_step(gan, game)(variables, batch, key) for game in ("wasserstein_gp", "logistic")
    )
    np.testing.assert_allclose(shares["real"], jax.nn.sigmoid(raw["real"]), rtol=1e-5)
    padded = {"image": np.concatenate([images, np.zeros_like(images)]), "mask": np.repeat([1.0, 0.0], 4)}
    repeated = {"image": np.concatenate([images, images]), "mask": np.ones(8)}
    scores = [gan_training.make_eval_step(gan, "logistic")(variables, b, key)["real"] for b in (padded, repeated)]
    np.testing.assert_array_equal(*scores)
