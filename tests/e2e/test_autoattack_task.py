"""The autoattack task: its files, and resuming after a kill."""

import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest
from PIL import Image

import arinv
from arinv import attacks, main
from arinv.apps.evaluation import autoattack
from arinv.errors import UserError
from arinv.experiment import cache, loading, trained
from arinv.experiment.cache import ResultCache
from arinv.experiment.run import Run
from configs import autoattack as autoattack_config
from configs import compare_recipes, robustness

ARG = "smoke=True,encoder=alexnet_small,options=width:4,image_size=16,dataset=photos"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished smoke run."""
    workdir = tmp_path_factory.mktemp("robustness")
    main.run(robustness.get_config(ARG), workdir)
    return workdir


def attack_config(finished, **changes):
    arg = f"smoke=True,norm=linf,eps=8/255,image_size=16,checkpoint={finished}/encoder"
    config = autoattack_config.get_config(arg)
    for name, value in changes.items():
        config.attack[name] = value
    return config


def test_smoke_robustness_writes_results_and_figures(finished):
    results = json.loads((finished / "autoattack" / "results.json").read_text())
    assert 0 <= results["autoattack_accuracy"] <= results["clean_accuracy"] <= 1
    low, high = results["autoattack_accuracy_95"]
    assert low <= results["autoattack_accuracy"] <= high
    assert list(results["per_attack"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert results["setting"]["device"]
    assert "not the standard version: apgd-ce+apgd-t+fab-t" in results["variants"]["autoattack_accuracy"]
    with np.load(finished / "autoattack" / "adversarial.npz", allow_pickle=False) as arrays:
        assert arrays["adversarial"].shape == (8, 16, 16, 3)
        assert np.mean(arrays["robust"]) == results["autoattack_accuracy"]
        assert (arrays["distance"] <= 8 / 255 + 1e-6).all()
        broken = arrays["clean"] & ~arrays["robust"]
        for name, rows in (("smallest", broken), ("hardest", arrays["robust"])):
            assert (finished / "autoattack" / f"{name}.png").exists() == bool(rows.any())
            if rows.any():
                with Image.open(finished / "autoattack" / f"{name}.png") as image:
                    assert image.size[1] > 48
    assert not (finished / "autoattack" / "state.npz").exists()


def test_citation_has_the_setting_the_accuracy_and_its_interval(finished):
    results = json.loads((finished / "autoattack" / "results.json").read_text())
    low, high = (f"{100 * bound:.1f}%" for bound in results["autoattack_accuracy_95"])
    robust = round(8 * results["autoattack_accuracy"])
    assert results["citation"] == (
        f"AutoAttack accuracy {12.5 * robust:.2f}% (exact 95% interval {low} to {high}) in linf eps 8/255 on 8 images, "
        f"{robust} of them robust, clean accuracy {100 * results['clean_accuracy']:.2f}%; version: "
        f"{autoattack._version(attack_config(finished).attack, 8, 8)}; arinv {arinv.__version__}."
    )


class Cut(Exception):
    """Stands for a kill."""


def cut_after_saving(monkeypatch, every):
    """Patches the cache so that every such many saves of the state end in a kill; returns the saved states."""
    save, states = ResultCache.save, []

    def save_and_stop(self, name, arrays, **options):
        save(self, name, arrays, **options)
        states.extend([name] if name == "state" else [])
        if name == "state" and len(states) % every == 0:
            raise Cut

    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(ResultCache, "save", save_and_stop)
    return states


def test_autoattack_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch):
    cut_after_saving(monkeypatch, every=2)
    config, cuts = attack_config(finished), 0
    for _ in range(40):
        try:
            main.run(config, tmp_path)
            break
        except Cut:
            cuts += 1
            assert (tmp_path / "state.npz").exists()
    assert cuts >= 1 and (tmp_path / "results.json").exists()
    with np.load(tmp_path / "adversarial.npz") as cut, np.load(finished / "autoattack" / "adversarial.npz") as whole:
        for name in whole.files:
            np.testing.assert_array_equal(cut[name], whole[name])


def test_radius_zero_is_tested_before_the_attack_and_once(finished, tmp_path, monkeypatch, capsys):
    config, calls = attack_config(finished, attacks="apgd-ce", num_steps=1), []

    def moved(key, logits_fn, images, labels, *, norm):
        calls.append(len(images))
        return [f"APGD in {norm} moved an image within a radius of 0."]

    def cut(*args, **options):
        raise Cut

    monkeypatch.setattr(attacks, "check_radius_zero", moved)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(attacks, "autoattack", cut)
        main.run(config, tmp_path)
    assert calls == [8] and "radius of 0: APGD in linf moved an image" in capsys.readouterr().err
    main.run(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert calls == [8] and results["warnings"][-1] == "APGD in linf moved an image within a radius of 0."
    assert results["citation"] in capsys.readouterr().err
    assert not (tmp_path / "self_test.npz").exists()


def test_autoattack_killed_before_its_results_attacks_no_image_again(finished, tmp_path, monkeypatch):
    config = attack_config(finished, attacks="apgd-ce", num_steps=1)

    def cut(self, results):
        raise Cut

    monkeypatch.setattr(cache, "_SAVE_EVERY_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Run, "finish", cut)
        main.run(config, tmp_path)
    states, attack = [], attacks.autoattack
    monkeypatch.setattr(
        attacks, "autoattack", lambda *args, **options: states.append(options["state"]) or attack(*args, **options)
    )
    main.run(config, tmp_path)
    assert states[0] is not None and not (tmp_path / "state.npz").exists()


@pytest.mark.parametrize("change", ["damage", "weights"])
def test_autoattack_restarts_without_a_usable_state(finished, tmp_path, monkeypatch, change):
    config = attack_config(finished, attacks="apgd-ce", num_steps=1)
    with monkeypatch.context() as patch:
        cut_after_saving(patch, every=1)
        with pytest.raises(Cut):
            main.run(config, tmp_path)
    if change == "damage":
        (tmp_path / "state.npz").write_bytes(b"PK\x03\x04 not an archive")
    else:
        monkeypatch.setattr(trained, "fingerprint", lambda variables: "0123456789ab")
    states, attack = [], attacks.autoattack
    monkeypatch.setattr(
        attacks, "autoattack", lambda *args, state, **options: states.append(state) or attack(*args, **options)
    )
    main.run(config, tmp_path)
    assert states == [None] and (tmp_path / "results.json").exists()


def test_version_is_standard_for_the_published_settings_only():
    config = autoattack_config.get_config("checkpoint=there,norm=linf,eps=8/255").attack
    assert autoattack._version(config, 10, 10) == "standard (Croce & Hein 2020)"
    defaults = inspect.signature(attacks.autoattack).parameters
    assert all(defaults[name].default == value for name, value in autoattack._STANDARD.items())
    config.attacks = "square+apgd-ce"
    assert autoattack._version(config, 10, 10) == (
        "not the standard version: apgd-ce+square, num_steps 100, num_targets 9, num_queries 5000"
    )
    config.attacks, config.num_queries = "apgd-ce+apgd-t+fab-t+square", 1000
    assert "num_queries 1000" in autoattack._version(config, 10, 10)


def test_decided_attack_stops_at_a_narrow_interval_and_says_so(finished, tmp_path):
    """Of 8 images the interval is at most 0.41 wide to each side: enough at 0.45, not at 0.05."""
    main.run(attack_config(finished, attacks="apgd-ce", num_steps=1, decide=0.05), tmp_path / "all")
    results = json.loads((tmp_path / "all" / "results.json").read_text())
    assert results["num_images"] == 8
    variant = results["variants"]["autoattack_accuracy"]
    assert "8 of 8 images in random order, decided at a half-width of 0.05" in variant
    with (
        np.load(tmp_path / "all" / "adversarial.npz") as arrays,
        np.load(finished / "autoattack/adversarial.npz") as all_,
    ):
        assert sorted(arrays["index"]) == list(range(8)) and list(arrays["index"]) != list(range(8))
        np.testing.assert_array_equal(arrays["label"], all_["label"][arrays["index"]])
        np.testing.assert_array_equal(arrays["clean"], all_["clean"][arrays["index"]])
    narrow = autoattack._stop_when_narrow(0.05)
    assert not narrow(50, 100) and narrow(210, 420) and narrow(0, 40) and not narrow(0, 20)
    for bad in (-0.1, 0.5):
        with pytest.raises(UserError, match="attack.decide must be the half-width"):
            autoattack.check(attack_config(finished, decide=bad))


def test_check_rejects_too_few_classes_with_a_command_that_works(tmp_path):
    """The hint is an argument that the command accepts."""
    config = robustness.get_config(f"{ARG},classes=0-2")
    shown = r"the model has 3; leave it out: --config.stages.NAME.attack.attacks=apgd-ce\+fab-t\+square"
    with pytest.raises(UserError, match=shown):
        main.run(config, tmp_path)
    assert not list(tmp_path.iterdir())
    config.stages.autoattack.attack.attacks = "apgd-ce+fab-t+square"
    autoattack.check(config.stages.autoattack)


def test_autoattack_rejects_a_checkpoint_of_too_few_classes_before_writing(finished, tmp_path, monkeypatch):
    encoder = loading.load(finished / "encoder")
    few = dataclasses.replace(encoder, description={**encoder.description, "num_classes": 3})
    monkeypatch.setattr(loading, "load", lambda *_, **__: few)
    with pytest.raises(UserError, match=r"leave it out: --config.attack.attacks=apgd-ce\+fab-t\+square$"):
        main.run(attack_config(finished), tmp_path)
    assert not (tmp_path / "config.json").exists()
    config = attack_config(finished)
    config.checkpoint = "stage:encoder"
    with pytest.raises(UserError, match=r"--config.stages.mine.attack.attacks=apgd-ce\+fab-t\+square$"):
        autoattack.run(Run(config, tmp_path / "mine"))


def test_autoattack_runs_with_a_batch_whose_half_the_devices_do_not_divide(finished, tmp_path):
    """24 images on 8 devices: 12 would be the next size."""
    assert jax.device_count() == 8
    config = attack_config(finished, attacks="apgd-ce", num_steps=1)
    config.batch_size = 24
    main.run(config, tmp_path)
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"eps": 0.0}, "above 0"),
        ({"norm": "l3"}, "linf"),
        ({"attacks": "apgd-ce+pgd"}, "square"),
        ({"num_queries": 0}, "attack.num_queries must be at least 1"),
    ],
)
def test_check_rejects_values_out_of_range(finished, tmp_path, changes, shown):
    with pytest.raises(UserError, match=shown):
        main.run(attack_config(finished, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_smoke_compare_recipes_writes_metrics(tmp_path):
    arg = "encoders=alexnet_small@width:4,recipes=trades,dataset=photos,smoke=True,image_size=16,metrics=psnr"
    main.run(compare_recipes.get_config(arg), tmp_path)
    measured = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert set(measured) == {"alexnet_small_width4 trades"}


def test_compare_recipes_is_plain_data(tmp_path):
    config = compare_recipes.get_config("encoders=alexnet_small+wrn28_10@depth:10@width:1,recipes=standard+n_fgsm")
    assert json.loads(config.to_json_best_effort()) and len(config.order) == 2 * 2 * 3 + 1
    small = config.stages["wrn28_10_depth10_width1_n_fgsm_encoder"]
    assert small.encoder.options.to_dict() == {"depth": 10, "width": 1} and small.recipe.name == "n_fgsm"
    assert config.stages["alexnet_small_standard_encoder"].attack.eps == 0
    for option in ("encoder=resnet18", "recipe=trades", "width=4"):
        with pytest.raises(ValueError, match="unknown config argument"):
            compare_recipes.get_config(option)
    with pytest.raises(UserError, match="width of encoder 'alexnet_small' must be a whole number"):
        main.run(compare_recipes.get_config("encoders=alexnet_small@width:four"), tmp_path)
