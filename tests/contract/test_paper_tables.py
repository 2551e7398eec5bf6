"""The configs of the paper's tables and figures, and the figures that the paper prints."""

import json
import pathlib
import re

import numpy as np
import pytest

from arinv import command_line, main, tasks
from arinv.errors import UserError
from configs.paper import (
    deepsim_ablation,
    deepsim_layers,
    deepsim_vae,
    dosovitskiy_brox_layers,
    dosovitskiy_brox_table2,
    figures,
    generative_encoder_figures,
    generative_encoder_table2,
    generative_encoder_table3,
    published,
    setting,
    table1,
    table2,
    table4,
    table5,
    table7,
    table10,
    table_a2,
)

NAMES = [name for name in command_line.shipped() if name.startswith("paper/")]
TABLES = published.load()["tables"]
IMAGES = pathlib.Path(__file__).parents[2] / "launch" / "records"  # of its figures, any would do


def load(name, arg):
    return command_line.load(f"configs/{name}.py:{arg}")


def spec(name, arg):
    return f"{arg},images={IMAGES}" if name in ("paper/table6", "paper/figures") else arg


def stages_of(config):
    return {name: config.stages[name] for name in config.order}


def test_every_table_has_a_config():
    assert {name.removeprefix("paper/") for name in NAMES} == {
        *(f"table{i}" for i in range(1, 11)), "table_a1", "table_a2", "table_a3", "figures",
        "dosovitskiy_brox_table2", "dosovitskiy_brox_layers", "deepsim_ablation", "deepsim_layers", "deepsim_vae",
        "generative_encoder_table2", "generative_encoder_table3", "generative_encoder_figures",
    }  # fmt: skip
    others = {"Dosovitskiy & Brox 2", *(f"Generative Encoder {i}" for i in (2, 3, 4))}
    assert set(TABLES) == {*map(str, range(1, 11)), "A1", "A2", "A3", *others}


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_stages_pass_the_check_of_their_task(name, scale):
    config = load(name, spec(name, f"scale={scale}"))
    if "sift_inverter" in config.order:
        pytest.importorskip("vlsift.sift.sift", reason="needs the extra sift")
    assert json.loads(config.to_json_best_effort())
    for stage in stages_of(config).values():
        tasks.TASKS[stage.task].check(stage)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.long
def test_smoke_runs_pass_the_check_without_data(name, tmp_path):
    config = load(name, spec(name, "smoke=True"))
    assert len(main.check(config, tmp_path)) == len(config.order)
    for stage in stages_of(config).values():
        if stage.task in ("classifier", "inverter", "denoiser"):
            assert stage.num_steps == 2 and stage.data.num_train == 16


@pytest.mark.parametrize("number", TABLES)
def test_published_values_name_table_row_column_and_unit(number):
    content = TABLES[number]
    assert content["title"] and content["setting"] and content["version"] in ("main paper", "appendix")
    for heading, unit in content["columns"].values():
        assert heading and unit in ("dB", "%", "M", "1")
    for name, row in content["rows"].items():
        values = {key: value for key, value in row.items() if key not in ("row", "note")}
        assert row["row"] and values.keys() <= content["columns"].keys() and values, name
        for value in values.values():
            assert all(isinstance(x, (int, float)) for x in (value if isinstance(value, list) else [value]))
    for pair in content["pairs"]:
        assert set(pair) <= content["rows"].keys()
    figures = published.table(number)
    assert f"Table {number.rpartition(' ')[2]} (" in figures["source"] and len(figures["rows"]) == len(content["rows"])


def value(number, row, metric):
    (found,) = [r["values"][metric] for r in published.table(number)["rows"] if r["row"] == row]
    return found


@pytest.mark.parametrize(
    ("number", "row", "metric", "expected", "text"),
    [
        ("1", "robust gan", "psnr", (17.227, 2.725), "17.227 ± 2.725"),
        ("2", "standard", "clean_accuracy", (0.65, None), "65.0%"),
        ("3", "robust", "autoattack_accuracy", (0.5964, None), "59.64%"),
        ("4", "eps 3", "autoattack_accuracy", (0.2227, None), "22.27%"),
        ("5", "robust x10", "psnr", (23.957, None), "23.957"),
        ("6", "standard", "lpips_alex", (0.5729, 0.0465), "0.5729 ± 0.0465"),
        ("7", "DeePSiM", "parameters", (12.7e6, None), "12.7M"),
        ("8", "cats_vs_dogs ADGAN: mean", "auroc", (0.494, None), "0.494"),
        ("9", "VGG-19 (UST)", "ssim", (0.459, None), "0.459"),
        ("10", "kodak24 MLP", "psnr", (26.31, None), "26.31"),
        ("A1", "robust x8", "ssim", (0.70178, None), "0.70178"),
        ("A2", "eps 1.5", "psnr", (19.6278, None), "19.6278"),
        ("A3", "cats_vs_dogs ADGAN: cat", "auroc", (0.507, None), "0.507"),
        ("Dosovitskiy & Brox 2", "lbp", "normalized_error", (0.38, None), "0.38"),
        ("Generative Encoder 2", "generative_encoder", "ssim_uniform7", (0.7329, 0.025), "0.7329 ± 0.025"),
        ("Generative Encoder 4", "first", "images", (157, None), "157"),
        ("Generative Encoder 3", "generative_encoder 64", "psnr", (20.7, None), "20.7"),
    ],
)
def test_published_values_are_the_paper_s(number, row, metric, expected, text):
    found = value(number, row, metric)
    assert (found["value"], found["std"]) == pytest.approx(expected) and found["text"] == text


def test_published_tables_agree_with_each_other():
    for dataset, count in (("cifar10", 10), ("cats_vs_dogs", 2)):
        for encoder in ("standard", "robust", "ADGAN"):
            rows = {name: row["auroc"] for name, row in TABLES["A3"]["rows"].items() if f"{dataset} {encoder}:" in name}
            mean = rows.pop(f"{dataset} {encoder}: mean")
            assert len(rows) == count and sum(rows.values()) / count == pytest.approx(mean, abs=6e-4)
            assert TABLES["8"]["rows"][f"{dataset} {encoder}: mean"]["auroc"] == pytest.approx(mean, abs=6e-4)
    for name, row in TABLES["5"]["rows"].items():
        for metric in ("psnr", "ssim", "lpips_alex"):
            assert row[metric] == pytest.approx(TABLES["A1"]["rows"][name][metric], abs=6e-4)
    for number, encoder in (("5", "standard x1"), ("7", "standard")):
        assert TABLES[number]["rows"][encoder]["psnr"] in (15.057, [15.057, 2.392])


def test_rows_of_configs_are_those_of_the_paper():
    for module, number in ((table1, "1"), (table_a2, "A2")):
        report = module.get_config("").stages.report
        names = {report.get("labels", {}).get(entry, entry) for entry in report.order}
        assert names == set(TABLES[number]["rows"])
    shown = table5.get_config("").stages.report.rows
    assert set(shown) == set(TABLES["5"]["rows"])


def test_table4_puts_its_radii_beside_the_paper_s_in_order():
    report = table4.get_config("").stages.report
    figures = {row["row"]: row["quoted"] for row in report.published.rows}
    assert figures["eps 0.25"] == "l2 PGD Attack (eps): 0.5" and figures["eps 2"] == "l2 PGD Attack (eps): 4"
    assert ("eps 0", "eps 0.25") in report.published.pairs
    assert [report.labels[entry] for entry in report.order] == ["eps 0", "eps 0.25", "eps 0.5", "eps 1", "eps 2"]
    other = table4.get_config("radii=0+2").stages.report
    assert {row["row"]: row["quoted"] for row in other.published.rows}["eps 2"] == "l2 PGD Attack (eps): 2"


def test_sweep_attacks_each_encoder_at_its_own_radius():
    stages = table4.get_config("scale=paper").stages
    radii = {name: stages[f"eps_{name}_encoder"].attack.eps for name in ("0", "0_5", "2", "3", "4")}
    assert radii == {"0": 0.0, "0_5": 0.5, "2": 2.0, "3": 3.0, "4": 4.0}
    assert stages.eps_0_autoattack.attack.eps == 0.5 and stages.eps_3_autoattack.attack.eps == 3.0
    assert stages.eps_3_encoder.attack.step_size == 0.5 and stages.eps_3_inverter.loss.adversarial == 100.0
    assert table_a2.get_config("scale=paper").stages.eps_0_evaluation.attack.eps == 0.25
    given = table_a2.get_config("radii=0+1,encoders=runs/a+zoo:b")
    assert not any(name.endswith("_encoder") for name in given.order)
    assert given.stages.eps_1_inverter.encoder.checkpoint == "zoo:b"
    for arg, shown in (
        ("radii=0+x", "numbers joined by"),
        ("radii=1+1", "different"),
        ("encoders=a", "1 workdirs for"),
    ):
        with pytest.raises(ValueError, match=shown):
            table_a2.get_config(arg)


def test_scales_set_the_encoder_the_dataset_and_the_length():
    small, paper = (table1.get_config(f"scale={scale}").stages for scale in ("small", "paper"))
    assert (small.robust_encoder.encoder.name, small.robust_encoder.data.name) == ("alexnet_small", "tfds:cifar10")
    assert (paper.robust_encoder.encoder.name, paper.robust_encoder.data.name) == ("alexnet", "tfds:imagenet2012")
    assert (small.robust_encoder.num_epochs, paper.robust_encoder.num_epochs) == (4.0, 90.0)
    assert (small.robust_gan_inverter.num_epochs, paper.robust_gan_inverter.num_epochs) == (0.5, 90.0)
    assert table1.get_config("encoder=resnet18").stages.robust_encoder.encoder.options.to_dict() == {}
    title = "AlexNet feature inversion on ImageNet (Table 1): measured with alexnet_small on cifar10"
    assert small.report.title == title
    with pytest.raises(ValueError, match="unknown scale 'large'; known: small, paper"):
        table1.get_config("scale=large")


def test_table2_inverts_at_another_size_than_it_trains_at():
    stages = table2.get_config("scale=paper").stages
    assert (stages.robust_encoder.data.image_size, stages.robust_inverter.data.image_size) == (64, 224)
    assert stages.robust_inverter.encoder.allow_other_size and stages.robust_evaluation.attack.eps == 0
    assert stages.report.entries.robust == ("stage:robust_accuracy", "stage:robust_evaluation")
    assert stages.robust_encoder.data.classes == tuple(range(151, 294)) and stages.robust_encoder.attack.eps == 0.01


def test_inputs_replace_trainings_and_lpips_is_measured_where_weights_are_given():
    config = table1.get_config("standard_encoder=zoo:a,robust_encoder=runs/b,losses=gan,lpips=alexnet.pth")
    assert "standard_encoder" not in config.order and "robust_encoder" not in config.order
    assert config.stages.standard_gan_inverter.encoder.checkpoint == "zoo:a"
    assert config.stages.robust_gan_evaluation.metrics == "psnr+ssim+lpips_alex"
    assert config.stages.robust_gan_evaluation.metric_networks.alexnet == "alexnet.pth"
    config = table5.get_config("standard_inverter=zoo:a,robust_encoder=zoo:b")
    assert config.order == ("robust_inverter", "scales", "report")
    assert config.stages.robust_inverter.encoder.checkpoint == "zoo:b"


def test_layers_of_dosovitskiy_brox_have_their_generators_and_training():
    stages = dosovitskiy_brox_layers.get_config("scale=paper").stages
    assert stages.fc6_inverter.encoder.generator == "dosovitskiy_brox"
    adam = stages.conv1_inverter.optimizer.generator
    assert (adam.b1, adam.b2, stages.conv1_inverter.loss.pixel_order) == (0.9, 0.999, 2)
    epochs = [
        stages[f"{layer}_{kind}"].num_epochs for layer in ("conv1", "fc8") for kind in ("inverter", "autoencoder")
    ]
    assert epochs == [15, 15, 60, 60] and stages.study.data.num_train == 4096
    assert stages.fc8_evaluation.attack_from == "stage:conv1_evaluation"
    for module, arg in ((dosovitskiy_brox_layers, "layers=conv6"), (dosovitskiy_brox_table2, "features=surf")):
        with pytest.raises(ValueError, match="unknown (layer|feature) '(conv6|surf)'"):
            module.get_config(arg)
    stages = dosovitskiy_brox_layers.get_config("").stages
    assert stages.standard_encoder.encoder.options.normalization == "imagenet" and stages.fc6_inverter.num_epochs == 1
    assert stages.study.order[:3] == ("conv1_inverter", "conv1_autoencoder", "conv2_inverter")
    assert stages.report.figures["Figure 7: error by layer"] == "stage:study/perturb_layers.png"
    for arg in ("probes=hue", "layers=fc6"):
        assert "Figure 7: error by layer" not in dosovitskiy_brox_layers.get_config(arg).stages.report.figures
    assert stages.study.data.num_train == 512


def test_shallow_features_are_all_of_the_published_ones_at_the_scale_of_the_paper():
    config = dosovitskiy_brox_table2.get_config("")
    assert config.stages.hog_inverter.encoder.checkpoint == "" and config.stages.report.published.rows
    assert [name for name in config.order if name.endswith("_inverter")] == ["hog_inverter", "lbp_inverter"]
    config = dosovitskiy_brox_table2.get_config("scale=paper")
    assert config.order[::2] == ("hog_inverter", "sift_inverter", "lbp_inverter", "report")
    rates = [config.stages.sift_inverter.optimizer.generator.schedule.learning_rate]
    small = dosovitskiy_brox_table2.get_config("features=sift+hog,image_size=128").stages
    rates += [small[f"{name}_inverter"].optimizer.generator.schedule.learning_rate for name in ("sift", "hog")]
    assert rates == [1e-3, 3e-4, 1e-3]


@pytest.mark.parametrize(
    ("module", "arg", "training"),
    [
        (dosovitskiy_brox_layers, "layers=conv5+fc6", "fc6_robust_inverter"),
        (dosovitskiy_brox_layers, "layers=conv5+fc6", "fc6_autoencoder_robust"),
        (deepsim_ablation, "", "no_pixel_robust_inverter"),
        (deepsim_layers, "", "fc6_pixels_robust_inverter"),
        (deepsim_vae, "", "conv5_vae_robust"),
    ],
)
def test_inverters_of_a_robust_encoder_stand_beside_the_standard_ones(module, arg, training):
    stages = module.get_config(f"robust_encoder=runs/robust,{arg}").stages
    other = stages[training.replace("_robust", "")]
    assert (stages[training].encoder.checkpoint, other.encoder.checkpoint) == ("runs/robust", "stage:standard_encoder")
    assert stages[training].loss.to_dict() == other.loss.to_dict()
    assert f"{training.removesuffix('_inverter')}_evaluation" in stages
    assert "study" not in stages or stages.study.inverters[training] == f"stage:{training}"
    sources = {stage.get("attack_from", "") for name, stage in stages.items() if name.endswith("robust_evaluation")}
    assert all("robust" in source for source in sources - {""}), "each encoder is attacked by itself"
    assert "unsupervised_random_vae_robust" not in stages, "it starts from no encoder"


def test_parts_of_deepsim_leave_out_one_term_each():
    stages = deepsim_ablation.get_config("scale=paper").stages
    terms = ("pixel", "feature", "adversarial")
    whole = stages.all_inverter
    assert (whole.encoder.name, whole.encoder.layer, whole.encoder.generator) == ("caffenet", "fc6", "deepsim")
    assert whole.loss.feature_layer == "conv5" and whole.loss.pause == 0.1 and not whole.loss.conditional
    for part in terms:
        loss = stages[f"no_{part}_inverter"].loss
        assert [loss[term] == 0 for term in terms] == [term == part for term in terms]
    published, pixel = [2e-6 * 255**2, 1e-2, 100.0], 2e-6 * 255**2 * (227 / 64) ** 2
    for arg, expected in (
        ("scale=paper", published),
        ("", [pixel, 40.0, 100.0]),
        ("image_size=0", [pixel, 40.0, 100.0]),
        ("image_size=224", published),
        ("encoder=alexnet", published),
    ):
        loss = deepsim_ablation.get_config(arg).stages.all_inverter.loss
        np.testing.assert_allclose([loss[term] for term in terms], expected)
    with pytest.raises(ValueError, match="unknown part 'no_image'"):
        deepsim_ablation.get_config("parts=no_image")


def test_generative_encoder_has_one_generator_and_an_autoencoder_for_each_operator():
    stages = generative_encoder_figures.get_config("").stages
    operators = ("noise", "blur", "downsample", "mask", "identity")
    assert {stages[f"{name}_restoration"].gan for name in operators} == {"stage:size32"}
    assert {stages[f"{name}_autoencoder"].operator.name for name in operators} == set(operators)
    assert all(stages[f"{name}_restoration"].autoencoder == f"stage:{name}_autoencoder" for name in operators)
    for name in operators:
        restored = stages[f"{name}_restoration"]
        assert restored.methods == ("autoencoder", "aegan", "invertgan", "generative_encoder", "features")
        assert restored.aegan == f"stage:{name}_aegan" and stages[f"{name}_aegan"].operator == restored.operator
    assert stages.began_gan.gan.networks == "began" and stages.rock_size32.data.channels == 1
    assert generative_encoder_table2.get_config("networks=began").stages.restoration.gan == "stage:gan"
    stages = generative_encoder_table3.get_config("latent_sizes=512+64").stages
    assert stages.latent64_size32.gan.latent_size == 64 and stages.autoencoder.gan == "stage:latent512_size32"
    assert stages.latent64_restoration.autoencoder == "stage:autoencoder"
    rows = {row["quoted"]: row["row"] for row in stages.report.published.rows}
    assert rows["GE (64)"] == "64: generative_encoder" and rows["ConvAE"] == "512: autoencoder"
    paper = generative_encoder_table2.get_config("scale=paper").stages.restoration.data
    assert (paper.name, paper.window, paper.label, paper.image_size) == ("tfds:celeb_a", (89, 121, 128), "none", 128)
    assert paper.num_test == 0
    for module in (generative_encoder_table2, generative_encoder_table3, generative_encoder_figures):
        module.get_config("gan=zoo:progressive_automobile")  # in small they have options of their own
    for module, arg in ((generative_encoder_figures, "figures=3"), (generative_encoder_table3, "latent_sizes=a")):
        with pytest.raises(ValueError, match="unknown figure '3'|latent_sizes='a' must be"):
            module.get_config(arg)


def test_generative_encoder_at_the_paper_s_scale_trains_the_classifiers_that_it_lacks():
    stages = stages_of(generative_encoder_table2.get_config("scale=paper"))
    encoder, restored = stages["robust_encoder"], stages["restoration"]
    assert (encoder.data.label, encoder.data.window, encoder.attack.eps) == ("attributes/Male", (89, 121, 128), 3.0)
    assert encoder.data.image_size == restored.data.image_size == 128 and not encoder.data.resized_crop
    assert restored.metric_encoder == restored.encoders.features == "stage:robust_encoder"
    given = generative_encoder_table2.get_config("scale=paper,encoder=runs/a,metric_encoder=runs/b").stages
    assert "robust_encoder" not in given and given.restoration.encoders.features == "runs/a"
    for arg in ("scale=paper,dataset=folder:a", "scale=paper,smoke=True", ""):
        assert "robust_encoder" not in generative_encoder_table2.get_config(arg).stages
    table3 = generative_encoder_table3.get_config("scale=paper").stages
    assert [table3[f"latent{size}_restoration"].data.num_test for size in (512, 64)] == [0, 0]
    stages = stages_of(generative_encoder_figures.get_config("scale=paper"))
    assert stages["identity_restoration"].data.num_test == 0 and stages["mask_restoration"].data.num_test == 64


def test_table_4_counts_eyeglasses_in_a_thousand_training_images():
    config = generative_encoder_figures.get_config("scale=paper,figures=13")
    stages, restored = stages_of(config), config.stages.eyeglasses_restoration
    fields = restored.data
    assert (fields.test_split, fields.num_test, fields.classes) == ("train", 1000, (1,))
    assert fields.label == stages["eyeglasses"].data.label == "attributes/Eyeglasses"
    assert stages["eyeglasses"].attack.eps == 0 and restored.autoencoder == "stage:identity_autoencoder"
    table = stages["truth_table"]
    assert (table.attribute, table.restoration) == ("stage:eyeglasses", "stage:eyeglasses_restoration")
    assert table.methods == restored.methods and "identity_restoration" not in stages
    small = generative_encoder_figures.get_config("figures=13").stages.truth_table
    assert (small.attribute, small.restoration) == ("edges", "stage:identity_restoration")
    assert generative_encoder_figures.get_config("scale=paper,attribute=contrast").stages.truth_table.threshold == 0.5


def test_deepsim_s_variational_autoencoders_have_the_terms_of_their_set_ups():
    config = deepsim_vae.get_config("scale=paper")
    stages = stages_of(config)
    terms = {name: [bool(stages[f"{name}_vae"].loss[term]) for term in ("pixel", "adversarial", "feature")]
             for name in deepsim_vae._SETUPS}  # fmt: skip
    assert terms["pixel"] == [True, False, False] and terms["pixel_adversarial"] == [True, True, False]
    assert terms["pixel_feature"] == [True, False, True]
    assert all(terms[name] == [True] * 3 for name in ("unsupervised", "unsupervised_random", "conv5", "fc6"))
    losses = {name: stages[f"{name}_vae"].loss for name in terms}
    assert {name for name, loss in losses.items() if loss.comparator} == {
        "pixel_feature", "unsupervised", "unsupervised_random",
    }  # fmt: skip
    assert losses["fc6"].feature_layer == "fc6" and all(loss.divergence == 1 for loss in losses.values())
    random = stages["unsupervised_random_vae"].encoder
    assert (random.start, random.checkpoint, random.latent_size) == ("random", "", 256)
    assert stages["comparator"].encoder.start == "random" and not stages["comparator"].loss.feature
    assert tuple(stages["study"].probes) == ("sample", "interpolate") and len(stages["study"].order) == 7
    small = deepsim_vae.get_config("").stages
    assert (small.unsupervised_vae.loss.feature, small.conv5_vae.loss.feature) == (2.7, 40.0)
    alone = deepsim_vae.get_config("setups=unsupervised_random")
    assert alone.order[:2] == ("comparator", "unsupervised_random_vae"), "no label is read"
    assert "comparator" not in deepsim_vae.get_config("setups=pixel+conv5").order
    with pytest.raises(ValueError, match="unknown setup 'vgg'"):
        deepsim_vae.get_config("setups=vgg")


def test_deepsim_is_a_row_of_table_7_beside_the_published_one():
    stages = table7.get_config("deepsim=true").stages
    assert stages.deepsim_inverter.encoder.checkpoint == "stage:standard_encoder"
    assert (stages.deepsim_inverter.loss.pause, stages.deepsim_inverter.encoder.generator) == (0.1, "default")
    assert stages.comparison.order == ("standard", "robust", "DeePSiM") and "deepsim_encoder" not in stages
    terms = ("pixel", "feature", "adversarial")
    loss = stages.deepsim_inverter.loss
    np.testing.assert_allclose([loss[term] for term in terms], [2e-6 * 255**2 * (227 / 32) ** 2, 3.4, 100.0])
    stages = table7.get_config("deepsim=true,scale=paper").stages
    inverter = stages.deepsim_inverter
    assert (inverter.encoder.name, inverter.encoder.layer, inverter.encoder.generator) == (
        "caffenet",
        "conv5",
        "deepsim",
    )
    np.testing.assert_allclose([inverter.loss[term] for term in terms], [2e-6 * 255**2, 1e-2, 100.0])
    assert inverter.encoder.checkpoint == "stage:deepsim_encoder" and stages.deepsim_encoder.attack.eps == 0
    assert inverter.data.image_size == stages.comparison.data.image_size == 224
    given = table7.get_config("deepsim=true,standard_inverter=zoo:a,robust_inverter=zoo:b").stages
    assert given.deepsim_inverter.encoder.checkpoint == "stage:deepsim_encoder"
    assert "DeePSiM" not in table7.get_config("").stages.comparison.order


def test_layers_of_deepsim_stand_beside_generators_of_pixels():
    stages = deepsim_layers.get_config("scale=paper").stages
    assert stages.conv5_inverter.encoder.generator == stages.fc6_pixels_inverter.encoder.generator == "deepsim"
    assert stages.conv5_inverter.loss.adversarial == 100 and not stages.conv5_pixels_inverter.loss.adversarial
    assert deepsim_layers.get_config("").stages.conv5_inverter.encoder.generator == "default", "of 64 px"
    assert stages.report.figures["Study: reencode"] == "stage:study/reencode.png"


def test_small_denoisers_are_trained_on_larger_images_than_their_encoders():
    stages = table10.get_config("").stages
    encoder, denoiser = stages.denoising_robust_encoder, stages.denoising_robust_denoiser
    assert (encoder.data.image_size, denoiser.data.image_size, denoiser.batch_size) == (64, 128, 16)
    assert encoder.encoder.options.to_dict() == {"dense_width": 512, "head_side": 1}
    paper = table10.get_config("scale=paper,test=folder:x").stages
    assert paper.denoising_robust_denoiser.data.image_size == 224


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_figures_run_in_the_workdir_of_the_tables_whose_stages_they_have(scale):
    ours = figures.get_config(f"scale={scale},content=a,style=b,test=folder:x").stages
    theirs = table1.get_config(f"scale={scale}").stages
    if scale == "small":  # the published AlexNets are those of Table 1
        theirs = {**theirs, **table10.get_config("test=folder:x").stages}
    for name, stage in theirs.items():
        assert name == "report" or stage.to_json() == ours[name].to_json(), name


@pytest.mark.parametrize(
    ("name", "names"),
    [
        *((name, ("eps",)) for name in ("table4", "table_a2", "dosovitskiy_brox_layers", "deepsim_ablation",
                                        "deepsim_layers", "deepsim_vae")),
        *((name, ("metrics", "lpips")) for name in ("table8", "table_a3", "table9")),
        ("dosovitskiy_brox_table2", ("encoder", "options", "eps")),
        ("generative_encoder_table3", ("classes",)),
    ],
)  # fmt: skip
def test_arguments_without_effect_are_refused(name, names):
    known = re.search("known: (.*?)\\.", refusal(name, "nosuch=1"))[1].split(", ")
    for argument in names:
        text = refusal(name, f"smoke=True,{argument}=1")
        assert re.fullmatch(rf"{argument} has no effect: .*\b{name}\b.*; leave it out", text)
        assert argument not in known
    docstring = " ".join(command_line.docstring(command_line.shipped()[f"paper/{name}"]).split())
    (own,) = re.findall(r"Arguments: ([\w, ()]*) of configs/paper/README.md", docstring)
    assert not {*names} & {*re.findall(r"\w+", own)}, own


def refusal(name, arg):
    with pytest.raises(UserError) as error:
        load(f"paper/{name}", arg)
    return str(error.value)


def test_readme_has_a_row_for_every_table():
    text = (pathlib.Path(command_line.SHIPPED) / "paper" / "README.md").read_text(encoding="utf-8")
    assert set(
        re.findall(r"^\| `(table\w+|figures|dosovitskiy\w+|deepsim\w+|generative\w+)` \|", text, re.MULTILINE)
    ) == {name.removeprefix("paper/") for name in NAMES}
    for argument in setting._ARGUMENTS:
        assert re.search(rf"`{argument}`", text), argument


@pytest.mark.parametrize(
    ("figures", "networks"), [("14", "began"), ("9", "progressive"), ("9+14", "began and progressive")]
)
def test_the_title_of_the_generative_encoder_s_figures_names_its_generators(figures, networks):
    report = generative_encoder_figures.get_config(f"figures={figures}").stages.report
    assert report.title.endswith(f"measured with {networks} on cifar10")
