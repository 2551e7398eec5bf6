"""Rows of reports: read from the results of every task, joined, and beside published figures."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from arinv.apps.evaluation import comparison, published, result_rows
from arinv.errors import UserError
from arinv.experiment.run import Run
from configs import tasks

SETTING = {"data": "photos", "device": "cpu", "dtype": "float32", "seed": 0}
PSNR = {"psnr": "psnr: text"}
EVALUATION = {
    "setting": SETTING, "attack": None, "num_images": 6, "encoder_weights": "abc", "clean_accuracy": 0.5,
    "pgd_accuracy": 0.25, "psnr": 20.0, "psnr_std": 1.0, "variants": PSNR,
}  # fmt: skip
AUTOATTACK = {
    "setting": SETTING, "attack": {"norm": "l2", "eps": 1.0}, "num_images": 4, "encoder_weights": "abc",
    "clean_accuracy": 0.75, "autoattack_accuracy": 0.125, "variants": {"autoattack_accuracy": "standard"},
}  # fmt: skip
COMMON = {"setting": SETTING, "num_images": 3}
TASKS = {
    "evaluate": (EVALUATION, {"": {"clean_accuracy": 0.5, "pgd_accuracy": 0.25, "psnr": 20.0}}),
    "autoattack": (AUTOATTACK, {"": {"clean_accuracy": 0.75, "autoattack_accuracy": 0.125}}),
    "high_resolution": (
        {**COMMON, "scales": [1, 2], "curves": {"robust": {"psnr": [1.0, 2.0], "psnr_std": [0.1, 0.2]}},
         "variants": PSNR},
        {"robust x1": {"psnr": 1.0}, "robust x2": {"psnr": 2.0}},
    ),
    "compare_inversion": (
        {**COMMON, "variants": PSNR, "metric_weights": {}, "entries": {
            "RI, robust": {"psnr": 3.0, "parameters": None, "seconds_per_image": 2.0},
            "robust": {"psnr": 4.0, "parameters": 7, "seconds_per_image": 0.5}}},
        {"RI, robust": {"psnr": 3.0, "seconds_per_image": 2.0},
         "robust": {"psnr": 4.0, "parameters": 7, "seconds_per_image": 0.5}},
    ),
    "invert": (
        {"setting": SETTING, "num_images": 2, "inverters": {"robust": {}}, "variants": PSNR,
         "means": {"psnr_robust": {"mean": 5.0, "std": 1.0, "count": 2}}},
        {"robust": {"psnr": 5.0}},
    ),
    "one_vs_all": (
        {**COMMON, "attack": None, "classes": {"cat": {"total": 0.75, "knn": 0.5}}, "mean": {"total": 0.5, "knn": 0.25},
         "variants": {"auroc": "area", "total": "both terms", "knn": "neighbors"}},
        {"cat": {"auroc": 0.75, "auroc_knn": 0.5}, "mean": {"auroc": 0.5, "auroc_knn": 0.25}},
    ),
    "evaluate_style": (
        {"setting": SETTING, "num_images": 6, "variants": {"gram_x": "gram_x: text"}, "metric_weights": {},
         "entries": {"standard": {"gram_x": 1.5, "gram_x_std": 0.5}}},
        {"standard": {"gram_x": 1.5}},
    ),
    "evaluate_denoising": (
        {"setting": SETTING, "variants": PSNR, "sets": {"kodak24": {"num_images": 2, "noisy": {"psnr": 14.0}}}},
        {"kodak24 noisy": {"psnr": 14.0}},
    ),
    "restoration": (
        {**COMMON, "variants": PSNR, "entries": {
            "degraded": {"psnr": 2.0}, "invertgan": {"psnr": 3.0, "seconds_per_image": 2.0}}},
        {"degraded": {"psnr": 2.0}, "invertgan": {"psnr": 3.0, "seconds_per_image": 2.0}},
    ),
    "truth_table": (
        {"setting": SETTING, "num_images": 9, "methods": ["a", "b"],
         "counts": {"neither": 1, "second": 2, "first": 3, "both": 2, "invalid": 1}},
        {"neither": {"images": 1}, "second": {"images": 2}, "first": {"images": 3}, "both": {"images": 2},
         "invalid": {"images": 1}},
    ),
    "study": (
        {**COMMON, "variants": {"error": "distance"}, "inverters": {
            "robust": {"probes": {"grey": {"error, grey": 0.5, "error, grey_std": 0.25, "count": 3},
                                  "units": {"change": 0.75, "change_std": 0.5}}},
            "vector": {"probes": {"grey": {"error, grey": 1.0, "error, grey_std": 0.125}}}}},
        {"robust": {"grey: error, grey": 0.5, "units: change": 0.75}, "vector": {"grey: error, grey": 1.0}},
    ),
    "volume": (
        {**COMMON, "variants": {"lost_share": "lost"}, "entries": {"invertgan": {"lost_share": 0.25, "voxels": 8}}},
        {"invertgan": {"lost_share": 0.25}},
    ),
}  # fmt: skip


def write(folder, task, results):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"task": task}))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_read_returns_the_rows_of_every_task(task, tmp_path):
    results, expected = TASKS[task]
    measured = result_rows.read(write(tmp_path / task, task, results))
    assert {name: {key: row[key] for key in result_rows.columns(row)} for name, row in measured.items()} == expected
    for row in measured.values():
        assert row["setting"] == SETTING and row["num_images"] > 0 and row["attack"] is None
        assert set(row["variants"]) <= set(result_rows.columns(row))


def test_every_task_that_evaluates_is_read():
    assert set(TASKS) == set(result_rows._READERS)


@pytest.mark.parametrize(
    ("task", "results", "shown"),
    [
        ("", None, "does not exist; name the workdir of a finished evaluation"),
        ("evaluate", None, "no results in .*: run that task to its end first"),
        (
            "inverter",
            {},
            "is of the task inverter, which a report cannot read; supported: autoattack, ",
        ),
        ("high_resolution", {"scales": [1]}, "results.json lacks 'curves'"),
        ("evaluate", {}, "results.json lacks 'setting'"),
    ],
)
def test_read_rejects_what_is_no_finished_evaluation(task, results, shown, tmp_path):
    folder = tmp_path / "run"
    if task:
        write(folder, task, results or {})
    if results is None and task:
        (folder / "results.json").unlink()
    with pytest.raises(UserError, match=shown) as error:
        result_rows.read(folder)
    assert "\n" not in str(error.value)


def test_read_names_the_stages_of_an_experiment(tmp_path):
    write(tmp_path / "evaluation", "evaluate", {})
    with pytest.raises(UserError, match="no results in .*: name a stage, such as .*/evaluation$"):
        result_rows.read(tmp_path)


def test_read_rejects_a_folder_of_another_program(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="is a folder without config.json, which a report cannot read"):
        result_rows.read(tmp_path)


def test_join_takes_the_first_of_a_figure_and_keeps_both_attacks(tmp_path):
    parts = [result_rows.read(write(tmp_path / task, task, TASKS[task][0]))[""] for task in ("evaluate", "autoattack")]
    row = result_rows.join(parts)
    assert (row["clean_accuracy"], row["autoattack_accuracy"], row["psnr_std"]) == (0.5, 0.125, 1.0)
    assert row["autoattack"] == {"norm": "l2", "eps": 1.0, "num_images": 4} and row["num_images"] == 6
    assert set(result_rows.columns(row)) == {"clean_accuracy", "pgd_accuracy", "autoattack_accuracy", "psnr"}
    with pytest.raises(UserError, match="evaluations of different encoders cannot be one row: weights abc, abd"):
        result_rows.join([parts[0], {**parts[1], "encoder_weights": "abd"}])


def quoted(name, psnr, **values):
    figures = {"psnr": {"value": psnr, "std": None, "text": f"{psnr}"}} | values
    return {"row": name, "quoted": f"Row {name}", "note": "", "values": figures}


PUBLISHED = {
    "source": "A paper, Table 1",
    "setting": "another dataset",
    "remarks": "",
    "rows": (quoted("standard", 14.5), quoted("robust", 17.25), quoted("other", 9.0)),
    "pairs": (("standard", "robust"), ("standard", "other")),
}
FIGURE = {"value": 1.5, "std": None, "text": "1.5"}


def test_table_has_published_figures_beside_measured_ones():
    measured = {"standard": {"psnr": 20.0, "psnr_std": 1.0, "variants": PSNR}, "mine": {"psnr": 1.0, "variants": PSNR}}
    heading, lines = published.table(measured, PUBLISHED)
    assert heading == ["row", "PSNR (dB)", "PSNR (dB), published", "published as"]
    assert lines == [
        ["standard", "20.00 ± 1.00", "14.5", "Row standard"],
        ["robust †", "-", "17.25", "Row robust"],
        ["other †", "-", "9.0", "Row other"],
        ["mine", "1.00", "-", "-"],
    ]
    heading, lines = published.table(measured, {})
    assert heading == ["encoder", "PSNR (dB)"] and lines[0] == ["standard", "20.00 ± 1.00"]


def test_changes_compare_signs():
    measured = {name: {"psnr": psnr, "variants": PSNR} for name, psnr in (("standard", 20.0), ("robust", 19.0))}
    (change,) = published.changes(measured, PUBLISHED)
    assert change[:3] == ("standard", "robust", "psnr") and change[3:] == (-1.0, 2.75) and not change.is_same
    heading, lines = published.changes_table([change])
    assert heading == ["same sign as published", "PSNR (dB)"] and lines == [["standard to robust", "-1.00 / +2.75: no"]]
    assert "0 of 1 have the sign" in published.notes(PUBLISHED, [change], is_marked=True)[1]
    measured["robust"]["psnr"] = 20.5
    (change,) = published.changes(measured, PUBLISHED)
    assert change.is_same


def of_paper(**figures):
    """Returns published figures of the rows a and b in one metric."""
    ((metric, numbers),) = figures.items()
    lines = tuple(
        {**quoted(name, 1.0), "values": {metric: {**FIGURE, "value": number}}}
        for name, number in zip("ab", numbers, strict=True)
    )
    return {**PUBLISHED, "rows": lines, "pairs": (("a", "b"),)}


def test_changes_of_a_gram_loss_go_through_any_network():
    variants = {"gram_alexnet_small": "text"}
    measured = {
        "a": {"gram_alexnet_small": 2, "variants": variants},
        "b": {"gram_alexnet_small": 1, "variants": variants},
    }
    (change,) = published.changes(measured, of_paper(gram_vgg19=(1.75, 1.25)))
    assert (change.measured, change.published) == (-1, -0.5) and change.is_same
    assert not published.changes(measured, of_paper(psnr=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"rows": ({"row": "a"},)}, "needs row, quoted, note and values"),
        ({"pairs": (("standard", "none"),)}, "'none' is not one of the rows standard, robust, other"),
    ],
)
def test_check_rejects_published_figures_of_another_form(changes, shown):
    with pytest.raises(UserError, match=shown):
        published.check({**PUBLISHED, **changes})
    with pytest.raises(UserError, match="published has no setting"):
        published.check({"source": "x"})


def report(tmp_path, entries, **options):
    config = tasks.comparison(entries, title="A table", text="", **options)
    comparison.check(config)
    run = Run(ConfigDict(config), tmp_path / "report")
    return comparison.run(run), (tmp_path / "report" / "table.md").read_text()


def test_run_joins_evaluations_and_prints_published_figures(tmp_path):
    for name, psnr in (("standard", 19.0), ("robust", 20.0)):
        write(tmp_path / f"{name}_evaluation", "evaluate", {**EVALUATION, "psnr": psnr})
        write(tmp_path / f"{name}_autoattack", "autoattack", AUTOATTACK)
    entries = {name: (f"stage:{name}_evaluation", f"stage:{name}_autoattack") for name in ("standard", "robust")}
    results, text = report(tmp_path, entries, published=PUBLISHED, labels={"robust": "robust"})
    assert "| standard | 50.0% | 25.0% | 12.5% | 19.00 ± 1.00 | 14.5 | Row standard |" in text
    assert "AutoAttack: l2, eps 1, 4 images." in text and "† Published figures only" in text
    assert "Published: A paper, Table 1: another dataset." in text and "1 of 1 have the sign" in text
    assert results["rows"]["robust"]["psnr"] == 20.0
    assert results["signs"] == [
        {"first": "standard", "second": "robust", "metric": "psnr", "measured": 1.0, "published": 2.75,
         "same_sign": True}
    ]  # fmt: skip
    html = (tmp_path / "report" / "report.html").read_text()
    assert "<th>PSNR (dB), published</th>" in html and json.loads((tmp_path / "report" / "results.json").read_text())


def test_run_names_rows_after_entries_where_there_are_several(tmp_path):
    write(tmp_path / "a", "one_vs_all", TASKS["one_vs_all"][0])
    write(tmp_path / "b", "high_resolution", TASKS["high_resolution"][0])
    results, text = report(tmp_path, {"a": "stage:a", "b": "stage:b"}, labels={"a": "eps 0.5"}, rows=("eps 0.5: mean",))
    assert set(results["rows"]) == {"eps 0.5: mean"} and "| eps 0.5: mean | 0.5000 | 0.2500 |" in text
    results, _ = report(tmp_path / "c", {name: f"{tmp_path}/{name}" for name in "ab"}, labels={"a": "eps 0.5"})
    assert list(results["rows"]) == ["eps 0.5: cat", "eps 0.5: mean", "b: robust x1", "b: robust x2"]


def test_run_shows_figures(tmp_path):
    write(tmp_path / "images", "invert", TASKS["invert"][0])
    with pytest.raises(UserError, match="no overview.png in .*images: a report shows the images of"):
        report(tmp_path, {}, figures={"Figure 5": "stage:images"})
    with pytest.raises(UserError, match="other.png does not exist; name a PNG file"):
        report(tmp_path, {}, figures={"Figure 5": "stage:images/other.png"})
    (tmp_path / "images" / "overview.png").write_bytes(b"png")
    report(tmp_path, {}, figures={"Figure 5": "stage:images"})
    assert "<h2>Figure 5</h2>" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(UserError, match="evaluations is empty"):
        comparison.check(tasks.comparison({}, title="", text=""))


def test_run_shows_reconstructions_of_the_same_images_only(tmp_path):
    for i, name in enumerate("abc"):
        folder = write(tmp_path / name, "evaluate", EVALUATION)
        images = np.full((2, 32, 32, 3), 1 if name == "c" else 0, np.uint8)
        np.savez(folder / "images.npz", image=images, reconstruction=np.full((2, 32, 32, 3), i / 4, np.float32))
    report(tmp_path, {name: f"stage:{name}" for name in "abc"})
    assert "Reconstructions: original, a, b<" in (tmp_path / "report" / "report.html").read_text()


def test_metric_of_fewer_images_is_noted(tmp_path):
    """Images may be too small for SSIM."""
    results = TASKS["invert"][0] | {"means": {"psnr_robust": {"mean": 5.0, "std": 1.0, "count": 1}}}
    assert "Of fewer images: psnr of robust is of 1." in comparison._note(
        result_rows.read(write(tmp_path / "some", "invert", results))
    )
    whole = result_rows.read(write(tmp_path / "all", "invert", TASKS["invert"][0]))
    assert "fewer" not in comparison._note(whole)
