"""Tables and HTML pages, with escaped text."""

import base64

import numpy as np

from arinv.apps.evaluation import comparison
from arinv.experiment import report

TABLE = report.Table(["encoder", "PSNR <dB>"], [["standard", "1"], ["a & b", "2"]])


def test_write_report_writes_tables_in_both_formats(tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(b"png")
    parts = {"notes": ["a note"], "figures": {"one & all": image}, "text": "above"}
    assert report.write_report(tmp_path, "Title <1>", [TABLE, TABLE], **parts) == tmp_path / "report.html"
    markdown, html = (tmp_path / "table.md").read_text(), (tmp_path / "report.html").read_text()
    table = "| encoder | PSNR <dB> |\n| --- | ---: |\n| standard | 1 |\n| a & b | 2 |\n"
    assert markdown == f"# Title <1>\n\n{table}\n{table}\na note\n"
    assert html.count("<tr><th>encoder</th><th>PSNR &lt;dB&gt;</th></tr>") == 2
    assert "<td>a &amp; b</td>" in html and "<h1>Title &lt;1&gt;</h1>" in html and "<h2>one &amp; all</h2>" in html
    assert f"base64,{base64.b64encode(b'png').decode()}" in html


def entry():
    return {"image": np.zeros((2, 32, 32, 3), np.uint8), "reconstruction": np.zeros((2, 32, 32, 3), np.float32)}


def test_comparison_figure_has_room_for_long_names():
    short = comparison._figure({"robust": entry()})
    long = comparison._figure({"wrn28_10_depth10_width1 n_fgsm": entry()})
    assert long.shape[0] == short.shape[0] and long.shape[1] > short.shape[1]
    text = (long < 128).all(-1).any(0)  # columns that hold something dark
    assert not text[:8].any() and text[8:40].any()


def test_differences_names_what_rows_do_not_share():
    setting = {"data": "photos", "dtype": "float32", "seed": 0}
    first = {"num_images": 6, "attack": {"eps": 1.0}, "setting": setting}
    assert report.differences({"a": first, "b": {**first, "setting": {**setting}}}) == ""
    second = {"num_images": 8, "attack": None, "setting": {**setting, "dtype": "bfloat16"}}
    text = report.differences({"a": first, "b": second})
    assert "The number of images is not the same in all rows: a: 6, b: 8." in text
    assert "dtype is not the same in all rows: a: float32, b: bfloat16" in text
    assert "The attack is not the same in all rows: a: yes, b: none." in text
    assert "of the attack" not in text and "seed" not in text
    second = {**first, "attack": {"eps": 0.5}}
    assert (
        report.differences({"a": first, "b": second})
        == " The eps of the attack is not the same in all rows: a: 1, b: 0.5."
    )


def test_column_puts_the_rest_of_a_name_into_the_heading():
    assert report.column("robust_lpips_resnet18").heading == "robust LPIPS (resnet18)"
    assert report.column("autoattack_accuracy").style.format(0.25) == "25.0%"
    assert list(report.columns(["novelty", "ssim", "psnr", "ssim"])) == ["psnr", "ssim", "novelty"]
    results = {"psnr": 20.0, "psnr_std": 1.0, "ssim": 0.5}
    cells = [report.column(name).cell(results, name) for name in ("psnr", "ssim", "mse")]
    assert cells == ["20.00 ± 1.00", "0.500", "-"]


def test_summarize_gives_means_and_standard_deviations():
    assert report.summarize({"psnr": [1.0, 3.0]}) == {"psnr": 2.0, "psnr_std": 1.0}


def test_weights_note_names_metrics_of_different_networks():
    weights = {"a": {"lpips_alex": "1", "fid_x": "2"}, "b": {"lpips_alex": "3", "fid_x": "2"}, "c": {}}
    note = report.weights_note(weights)
    assert "LPIPS (alex) was measured through networks of different weights" in note and "FID" not in note
