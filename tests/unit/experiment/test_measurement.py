"""Metrics of an evaluation by name, the networks whose features they compare, and the table that shows them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import metrics, models
from arinv.apps.evaluation import comparison, evaluate, published
from arinv.errors import UserError
from arinv.experiment import loading, measurement, trained, workdirs
from arinv.experiment.cache import fingerprint
from arinv.experiment.run import Run
from arinv.experiment.trained import make_features_fn
from configs import evaluate as evaluate_config
from configs import gan as gan_config

SIZE = 16
ALL = "mse+psnr+ssim+normalized_error+robust_lpips+gram+fid"


def make_config(names, attack_from="", metric_networks=()):
    arguments = f"checkpoint=somewhere,image_size={SIZE},eps=0.5,metrics={names},attack_from={attack_from}"
    config = evaluate_config.get_config(arguments)
    config.data.num_test = 6
    config.metric_networks.update(dict(metric_networks))
    return config


def make_encoder(seed, **options):
    module = models.build("alexnet_small", num_classes=3, width=2, **options)
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, SIZE, SIZE, 3)))
    attack = {"eps": 1.5, "norm": "l2"}
    return trained.Trained("classifier", module, variables, {"encoder": "alexnet_small", "attack": attack})


def images(seed, count=6):
    return np.random.default_rng(seed).random((count, SIZE, SIZE, 3), dtype=np.float32)


def measure(config, own, workdir, x, y, batches=((0, 4), (4, 8))):
    """The results of an evaluation, over two masked batches of which the second is padded."""
    measures = measurement.Measurement(Run(config, workdir), own)
    step = jax.jit(measures.measure)
    rows = []
    for start, stop in batches:
        pad = ((0, max(0, stop - len(x))), (0, 0), (0, 0), (0, 0))
        mask = (np.arange(start, stop) < len(x)).astype(np.float32)
        results = step(measures.variables, *(np.pad(z[start:stop], pad) for z in (x, y)))
        results = measures.accumulate(results, mask)
        rows.append({name: np.asarray(values)[mask > 0] for name, values in results.items()})
    totals = measures.finish()
    variants, weights = totals.pop("variants"), totals.pop("metric_weights")
    assert weights == {key: text.rpartition("weights ")[2][:-1] for key, text in variants.items() if "weights " in text}
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, totals, variants


@pytest.fixture(scope="module")
def own():
    """An encoder that computes in bfloat16."""
    return make_encoder(0, dtype=jnp.bfloat16)


@pytest.mark.long
def test_measurement_names_every_metric_after_its_network(own, tmp_path):
    x, y = images(0), images(1)
    numbers, totals, variants = measure(make_config(ALL), own, tmp_path, x, y)
    assert list(totals) == ["fid_alexnet_small_conv5_n6"]
    keys = {"mse", "psnr", "ssim", "normalized_error", "robust_lpips_alexnet_small", "gram_alexnet_small"}
    assert set(numbers) == keys and set(variants) == keys | set(totals)
    assert all(values.shape == (6,) for values in numbers.values())
    for key, text in variants.items():
        assert text.startswith(f"{key}: ") and "\n" not in text
    weights = fingerprint(own.variables)
    for key in ("robust_lpips_alexnet_small", "gram_alexnet_small", "fid_alexnet_small_conv5_n6"):
        assert f"the evaluated encoder itself, adversarial (l2 eps 1.5) training, weights {weights}" in variants[key]

    # The network computes in float32, though the evaluation does not.
    features_fn = jax.jit(make_features_fn(own.module.clone(dtype=jnp.float32), own.variables))
    layers = tuple(f"conv{i}" for i in range(1, 6))
    np.testing.assert_allclose(numbers["psnr"], metrics.psnr(x, y), rtol=1e-5)
    expected = metrics.lpips(features_fn, x, y, layers=layers)
    np.testing.assert_allclose(numbers["robust_lpips_alexnet_small"], expected, rtol=1e-4)
    expected = metrics.gram_loss(features_fn, x, y, layers=layers)
    np.testing.assert_allclose(numbers["gram_alexnet_small"], expected, rtol=1e-4)
    a, b = (np.asarray(features_fn(z)["conv5"], np.float64).mean((1, 2)) for z in (x, y))
    moments = [m for z in (a, b) for m in (z.mean(0), np.cov(z, rowvar=False))]
    np.testing.assert_allclose(*totals.values(), metrics.frechet_distance(*moments), rtol=1e-3)


@pytest.mark.long
def test_measurement_uses_the_encoder_of_the_config(own, tmp_path, monkeypatch):
    other = make_encoder(1)
    monkeypatch.setattr(loading, "load", lambda path, **_: {tmp_path / "other": other}[path])
    config = make_config("robust_lpips", metric_networks={"encoder": "stage:other"})
    numbers, _, variants = measure(config, own, tmp_path / "evaluation", images(0), images(1))
    expected = metrics.lpips(
        make_features_fn(other.module, other.variables), images(0), images(1), layers=[f"conv{i}" for i in range(1, 6)]
    )
    np.testing.assert_allclose(numbers["robust_lpips_alexnet_small"], expected, rtol=1e-4)
    assert fingerprint(other.variables) in variants["robust_lpips_alexnet_small"]


def test_metric_encoder_computes_in_float32(own, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_, **__: own)
    arguments = f"networks=dcgan,dtype=bfloat16,image_size={SIZE},metric_encoder=somewhere"
    network = measurement.load_metric_encoder(Run(gan_config.get_config(arguments).stages.gan, tmp_path))
    features_fn = make_features_fn(own.module.clone(dtype=jnp.float32), own.variables)
    grey = images(0)[..., :1]
    for x, rgb in ((images(0), images(0)), (grey, np.repeat(grey, 3, axis=-1))):
        moments = network.moments([(x[:4], np.ones(4)), (x[2:], [0, 0, 1, 1])])
        vectors = np.asarray(features_fn(rgb)["conv5"]).mean((1, 2))
        np.testing.assert_allclose(moments.mean, vectors.mean(0), rtol=1e-5)
        assert network.whole_set_key("fid", moments.count) == "fid_alexnet_small_conv5_n6"


class NamedFeatures:
    """Stands for a VGG: features of its names, each the images times a weight of its own."""

    layers = tuple(f"conv{i}_{j}" for i in range(1, 6) for j in range(1, 4))

    def feature_specs(self):
        return dict.fromkeys(self.layers, models.FeatureSpec(()))

    def apply(self, variables, x, train):
        weight = variables["weight"][None, None, None, :]
        return None, {name: jnp.abs(x - 0.1 * i) * weight for i, name in enumerate(self.layers)}


@pytest.mark.long
def test_lpips_and_gram_use_the_published_layers_of_a_vgg(own, monkeypatch, tmp_path):
    variables = {"weight": jnp.asarray([1.0, 2.0, 3.0])}
    network = measurement.MetricNetwork("vgg16", NamedFeatures(), variables, "test weights", "0123")
    heads = [np.linspace(0, 1, 3, dtype=np.float32)] * 5
    monkeypatch.setattr(measurement, "load_metric_network", lambda run, field, own: network)
    monkeypatch.setattr(models, "load_lpips_heads", lambda variant: {"vgg": heads}[variant])
    config = make_config("lpips_vgg+gram", metric_networks={"vgg16": "a", "vgg19": "b"})
    x, y = images(0), images(1)
    numbers, _, variants = measure(config, own, tmp_path, x, y)
    assert set(numbers) == {"lpips_vgg", "gram_vgg16"}
    assert "version 0.1" in variants["lpips_vgg"] and "test weights, weights 0123" in variants["lpips_vgg"]
    assert "conv1_1, conv2_1, conv3_1, conv4_1, conv5_1" in variants["gram_vgg16"]
    features_fn = make_features_fn(network.module, variables)
    expected = metrics.lpips(features_fn, x, y, layers=metrics.LPIPS_LAYERS["vgg"], heads=heads)
    np.testing.assert_allclose(numbers["lpips_vgg"], expected, rtol=1e-4)
    np.testing.assert_allclose(numbers["gram_vgg16"], metrics.gram_loss(features_fn, x, y), rtol=1e-4)


@pytest.mark.parametrize(
    ("names", "given", "shown"),
    [
        ("psnr+lpisp_alex", {}, "unknown metric 'lpisp_alex'; known: fid, gram, lpips_alex, .*Did you mean"),
        ("psnr+lpips_vgg", {}, "lpips_vgg needs a trained vgg16: set metric_networks.vgg16"),
        ("lpips_alex", {"alexnet": "here.pth"}, "at least 31 px; data.image_size is 16"),
        ("lpips_vgg", {"vgg16": "nowhere/vgg.pth"}, "metric_networks.vgg16=nowhere/vgg.pth does not exist"),
        ("fid", {"encoder": "nowhere"}, "metric_networks.encoder=nowhere does not exist; metric fid needs it"),
    ],
)
def test_check_rejects_metrics_without_their_networks(names, given, shown, tmp_path):
    given = {
        name: value.replace("here.pth", str(tmp_path)) if value == "here.pth" else value
        for name, value in given.items()
    }
    with pytest.raises(UserError, match=shown) as error:
        evaluate.check(make_config(names, metric_networks=given))
    assert "\n" not in str(error.value)


def test_check_accepts_metrics_that_need_no_files():
    evaluate.check(make_config(ALL))
    evaluate.check(make_config("fid", metric_networks={"encoder": "stage:robust_encoder", "vgg19": "nowhere"}))


def test_fingerprint_differs_with_dtype_shape_and_value():
    variables = {"params": {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(0)}}
    same = {"params": {"b": jnp.zeros(0, jnp.float32), "a": np.arange(6.0).reshape(2, 3)}}
    assert fingerprint(variables) != fingerprint(same)  # another dtype
    same["params"]["b"] = np.zeros(0)
    assert fingerprint(variables) == fingerprint(same) and len(fingerprint(same)) == 12
    for changed in (np.arange(6.0).reshape(3, 2), np.arange(6.0).reshape(2, 3) + 1e-9):
        assert fingerprint({"params": {"a": changed, "b": np.zeros(0)}}) != fingerprint(variables)


def write_evaluation(workdir, config, weights):
    workdirs.write_config(config, workdir)
    arrays = {"clean_accuracy": np.array([1.0, 0.0]), "pgd_accuracy": np.zeros(2), "psnr": np.ones(2)}
    np.savez(workdir / "per_image.npz", **arrays)
    results = {"encoder_weights": weights, "encoder_figures": ["clean_accuracy", "pgd_accuracy"], "resize": "squash"}
    results["images"] = "same"
    workdirs.write_results(workdir, results)


def inputs(weights):
    return {"the encoder's weights": weights, "data.resize": "squash", "images": "same"}


def test_encoder_figures_reads_those_of_the_same_encoder(tmp_path):
    write_evaluation(tmp_path / "first", make_config("psnr"), "abc")
    config = make_config("ssim", attack_from="stage:first")
    config.data.data_dir, config.title, config.checkpoint = "elsewhere", "second", "another inverter"
    figures = evaluate.encoder_figures(Run(config, tmp_path / "second"), inputs("abc"))
    assert set(figures) == {"clean_accuracy", "pgd_accuracy"}
    np.testing.assert_array_equal(figures["clean_accuracy"], [1, 0])


@pytest.mark.parametrize(
    ("changes", "weights", "shown"),
    [
        ({"attack.eps": 1.0}, "abc", r"attack.eps \(there 0.5, now 1.0\)"),
        ({"attack.num_steps": 7}, "abc", "attack.num_steps"),
        ({"data.num_test": 5}, "abc", "data.num_test"),
        ({"data.name": "tfds:cifar10"}, "abc", "data.name"),
        ({"seed": 1, "dtype": "bfloat16"}, "abc", "dtype .*, seed"),
        ({"batch_size": 64}, "abc", "batch_size"),
        ({}, "abd", "the encoder's weights"),
        ({"attack_from": "stage:none"}, "abc", "no results in"),
    ],
)
def test_encoder_figures_rejects_another_evaluation(changes, weights, shown, tmp_path):
    write_evaluation(tmp_path / "first", make_config("psnr"), "abc")
    config = make_config("psnr", attack_from="stage:first")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=shown) as error:
        evaluate.encoder_figures(Run(config, tmp_path / "second"), inputs(weights))
    changed = inputs("abc") | {"images": "other"}
    with pytest.raises(UserError, match="images .there 'same', now 'other'.|no results in"):
        evaluate.encoder_figures(Run(make_config("psnr", attack_from=config.attack_from), tmp_path / "second"), changed)
    assert "\n" not in str(error.value)


def test_comparison_table_has_every_metric_of_every_entry():
    setting = {"data": "photos", "device": "cpu", "dtype": "float32", "seed": 0}
    common = {"setting": setting, "attack": None, "num_images": 6}
    first = {
        **common, "clean_accuracy": 0.5, "autoattack_accuracy": 0.25, "psnr": 20.0, "psnr_std": 1.0,
        "lpips_alex": 0.125, "fid_resnet18_block4_n6": 12.5, "novelty": 3.0,
        "variants": dict.fromkeys(("psnr", "fid_resnet18_block4_n6", "lpips_alex", "novelty"), "text"),
        "metric_weights": {"fid_resnet18_block4_n6": "abc", "lpips_alex": "abc"},
    }  # fmt: skip
    second = {**common, "clean_accuracy": 1.0, "lpips_alex": 0.25, "variants": {"lpips_alex": "text"}}
    second["metric_weights"] = {"lpips_alex": "abd"}
    heading, rows = published.table({"a": first, "b": second}, {})
    assert heading == [
        "encoder", "clean accuracy", "AutoAttack accuracy", "PSNR (dB)", "LPIPS (alex)", "FID (resnet18_block4_n6)",
        "novelty",
    ]  # fmt: skip
    assert rows[0] == ["a", "50.0%", "25.0%", "20.00 ± 1.00", "0.125", "12.5", "3"]
    assert rows[1] == ["b", "100.0%", "-", "-", "0.250", "-", "-"]
    note = comparison._note({"a": first, "b": second})
    assert "LPIPS (alex) was measured through networks of different weights: its values cannot be compared" in note
    assert "PSNR" not in note
