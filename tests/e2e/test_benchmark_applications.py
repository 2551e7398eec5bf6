"""The benchmarks of the applications run at a tiny size, and what they report is per image."""

import gc
import importlib.util

import jax
import numpy as np
import pytest

from arinv.ops import wct as wct_ops
from launch.benchmarks import jax_steps, latent_search, measurement, restoration, ri, startup, wct
from launch.benchmarks.__main__ import _arguments, _chosen, differences, report

TINY = measurement.Options(tiny=True)
HAS_TORCH = importlib.util.find_spec("torch") is not None


def prepare(name, case, variant):
    prepared = measurement.load(name).variants[variant](case, TINY)
    prepared.run(1)
    return prepared.facts


@pytest.mark.parametrize("method", ["newton_schulz", "eigh"])
def test_wct_runs(method):
    facts = prepare("wct", "conv5", method)
    assert facts["images"] == 32 and "flops" not in facts


def test_latent_search_is_traced_with_the_published_networks():
    """Compiling it would take longer than all other tests of this file."""
    pytest.importorskip("arinv.apps.anomaly")
    search, generator, comparator = latent_search.make_search("float32", 3)
    images, latents = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((2, 64, 64, 3), (1, 1, 1, 256)))
    variables = [
        jax.eval_shape(lambda x, module=module: module.init(jax.random.key(0), x), x)
        for module, x in ((generator, latents), (comparator, images))
    ]
    sizes = jax_steps.count_parameters(generator=variables[0], comparator=variables[1])
    assert sizes == {"generator": 4_753_370, "comparator": 2_469_696}
    assert jax.eval_shape(search, jax.random.key(0), images, *variables).shape == (2,)


def test_restoration_of_a_batch_is_the_work_of_its_images():
    search, generator, encoder = restoration.make_search("float32", 16, 2)
    variables = [
        jax.eval_shape(lambda x, module=module: module.init(jax.random.key(0), x), x)
        for module, x in ((generator, rows(1)[2]), (encoder, rows(1)[0]))
    ]
    assert restoration.block_mask(16).sum() == 192
    flops = [jax_steps.count_flops(search, *variables, *rows(n)) for n in (1, 4)]
    assert 3.9 < flops[1] / flops[0] <= 4.0


def test_search_for_pixels_is_the_work_of_its_images():
    """3 steps of a forward and a gradient of the images, and the targets' forward."""
    search, encoder = ri.make_search("float32", 3)
    images = [jax.ShapeDtypeStruct((2, 224, 224, 3), "float32")] * 2
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x), images[0])
    forward = 2 * 2 * 655_566_528  # multiplications of AlexNet's convolutions
    assert jax_steps.count_flops(search, variables, *images) == forward * (1 + 2 * 3)


@pytest.mark.slow
def test_autoattack_runs():
    facts = prepare("autoattack", "l2:0.5", "arinv")
    assert facts["images"] == 2 and facts["compile_seconds"] > 0


@pytest.mark.parametrize("case", ["help", "mistake", "first_step_cold"])
def test_startup_is_measured_in_seconds(case):
    facts = prepare("startup", case, "arinv")
    result = {"variants": {"arinv": measurement._with_rates({**facts, "seconds": [1.5, 2.0, 4.0]})}, "ratios": {}}
    lines, problems = report("startup", {case: result}, "float32")
    assert lines == [f"startup {case}", "  arinv          2 (1.5 to 4) s"] and problems == []


def test_startup_of_a_training_reuses_compiled_programs(monkeypatch):
    """The directory of an earlier run is there at each of its starts, and is deleted at the end."""
    folders = []
    monkeypatch.setattr(startup, "_first_step", lambda options, folder: folders.append(folder))
    prepared = startup.prepare("first_step", TINY)
    prepared.run(2)
    assert len(folders) == 3 and len({*folders}) == 1 and folders[0].exists()
    del prepared
    gc.collect()
    assert not folders[0].exists()


def rows(count):
    shapes = ((16, 16, 3), (16, 16, 1), (512,))
    return [jax.ShapeDtypeStruct((count, *shape), "float32") for shape in shapes]


def test_denoiser_runs():
    facts = prepare("denoise", "denoise", "arinv")
    assert facts["parameters"] == {"encoder": 2_469_696, "decoder": 2_574_778}
    assert facts["megapixels"] == 64 * 64 / 1e6


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("latent_search", "batch8"),
        ("restoration", "batch8"),
        ("ri", "batch8"),
        ("pgd", "resnet18"),
        ("wct", "conv1"),
        ("denoise", "denoise"),
    ],
)
def test_pytorch_does_the_same_work(name, case):
    benchmark = measurement.load(name)
    variants = {variant: prepare(name, case, variant) for variant in benchmark.variants if variant != "torch_compile"}
    assert differences(variants) == []


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch")
@pytest.mark.parametrize("method", ["svd", "eigh"])
def test_pytorch_s_transform_is_ours(method):
    import torch

    content, style = wct._features("conv1", TINY, 1)
    ours = wct_ops.wct(content, style)
    columns = (torch.from_numpy(x[0].reshape(-1, x.shape[-1]).T.copy()) for x in (content, style))
    theirs = wct.transform_in_torch(*columns, method=method).numpy().T.reshape(content.shape[1:])
    np.testing.assert_allclose(ours[0], theirs, atol=1e-4)


def facts_of(seconds, images, **more):
    facts = {"seconds": seconds, "images": images, "compile_seconds": 1.0, "device": "cpu", "versions": {}, **more}
    return measurement._with_rates(facts)


def test_speeds_are_compared_per_image():
    ours, theirs = facts_of([8.0, 8.0], 4, flops=400), facts_of([3.0, 4.0], 1, flops=101)
    found = measurement.ratios({"arinv": ours, "torch": theirs})
    assert found == {"torch": {"median": 1.75, "min": 1.5, "max": 2.0}}
    assert differences({"arinv": ours, "torch": theirs}) == []
    assert len(differences({"arinv": ours, "torch": facts_of([3.0], 1, flops=120)})) == 1


def test_summary_has_the_best_batch_and_its_seconds():
    results = {
        f"batch{n}": {
            "variants": {"arinv": facts_of([seconds], n), "torch": facts_of([4.0], 1)},
            "ratios": {"torch": {"median": 4.0 * n / seconds, "min": 0.0, "max": 9.0}},
        }
        for n, seconds in ((1, 4.0), (2, 4.0), (4, 16.0))
    }
    (line,) = measurement.summarize_best(results)
    assert line == "best of batch1, batch2, batch4: batch2, 2 s an image, 2.00 times torch"
    lines, _ = report("latent_search", results, "float32")
    assert "4 s an image" in lines[1]
    failed = {"batch1": {"variants": {"arinv": {"error": "x"}}, "ratios": {}}}
    assert measurement.summarize_best(failed) == []
    large = facts_of([0.5], 1, megapixels=0.25)
    lines, _ = report("denoise", {"denoise": {"variants": {"arinv": large}, "ratios": {}}}, "float32")
    assert "2 s a megapixel" in lines[1]


def test_variants_and_cases_are_those_asked_for():
    plain = _chosen("wct", _arguments(["--only", "wct"]))
    assert plain == (("newton_schulz", "eigh"), ())
    against = _chosen("wct", _arguments(["--only", "wct", "--against", "torch", "--cases", "conv5"]))
    assert against == (("newton_schulz", "eigh", "torch", "torch_eigh"), ("conv5",))
    only_compiled = _chosen("latent_search", _arguments(["--against", "torch_compile"]))
    assert only_compiled[0] == ("arinv", "torch_compile")
