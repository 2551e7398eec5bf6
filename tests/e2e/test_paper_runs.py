"""Smoke runs of the paper's tables and figures, and of reports on finished evaluations."""

import json
import pathlib

import pytest

from arinv import command_line, main
from arinv.errors import UserError
from configs import report
from configs.paper import table5, table_a1

# The other tables, with the arguments that their smoke run needs.
SMOKE = {
    **{f"table{i}": "" for i in (1, 2, 3, 4, 7, 8, 9, 10)},
    "table6": "images={images}",
    "table_a2": "",
    "table_a3": "",
    "figures": "images={images}",
    "dosovitskiy_brox_table2": "",
    "dosovitskiy_brox_layers": "",
    "deepsim_ablation": "",
    "generative_encoder_table2": "",
    "generative_encoder_table3": "",
    "generative_encoder_figures": "",
    "deepsim_layers": "encoder=alexnet_small,image_size=32,standard_encoder=zoo:alexnet_small_standard,"
    "robust_encoder=zoo:alexnet_small_l2_1",
    "deepsim_vae": "",
}
QUICK = ("dosovitskiy_brox_table2",)  # the others take minutes together
WITHOUT_FIGURES = (
    "figures", "dosovitskiy_brox_layers", "deepsim_ablation", "deepsim_layers", "deepsim_vae",
    "generative_encoder_figures",
)  # fmt: skip
MARK = "\N{DAGGER}"
PUBLISHED_ROWS = {
    "dosovitskiy_brox_table2": f"Hoggles {MARK}",
    "table7": f"DeePSiM {MARK}",
    "table9": f"VGG-19 (UST) {MARK}",
    "table10": f"kodak24 TNRD {MARK}",
}


@pytest.fixture(scope="module")
def scales(untrained, tmp_path_factory):
    """A finished smoke run of Table 5 on untrained inverters of 16 px."""
    workdir = tmp_path_factory.mktemp("table5")
    main.run(configure(table5, untrained), workdir)
    return workdir


def configure(module, folder):
    inverters = f"standard_inverter={folder}/standard_inverter,robust_inverter={folder}/robust_inverter"
    config = module.get_config(f"smoke=True,{inverters}")
    config.stages.scales.data.image_size = 16
    return config


def test_table5_has_the_papers_figures_beside_its_own(scales):
    table = (scales / "report" / "table.md").read_text()
    assert "| PSNR (dB) | PSNR (dB), published |" in table and "LPIPS (alex), published" in table
    row = next(line for line in table.splitlines() if line.startswith("| robust x1 |"))
    assert "| 17.227 |" in row and row.endswith("L = 1: AR AlexNet (ours) |")
    assert f"| standard x10 {MARK} | - | 13.101 |" in table
    results = json.loads((scales / "report" / "results.json").read_text())
    assert set(results["rows"]) == {f"{name} x{scale}" for name in ("standard", "robust") for scale in (1, 2)}
    signs = {(sign["first"], sign["second"], sign["metric"]): sign for sign in results["signs"]}
    change = signs["standard x1", "robust x1", "psnr"]
    measured = {name: row["psnr"] for name, row in results["rows"].items()}
    assert change["measured"] == measured["robust x1"] - measured["standard x1"]
    assert change["published"] == pytest.approx(2.17) and change["same_sign"] == (change["measured"] > 0)
    html = (scales / "report" / "report.html").read_text()
    assert "PSNR (dB), published" in html and "<h2>scales: curves</h2>" in html


def test_table_a1_adds_its_report_to_the_workdir_of_table5(scales, untrained, capsys):
    main.run(configure(table_a1, untrained), scales)
    assert "scales: is complete" in capsys.readouterr().err
    results = json.loads((scales / "report_a1" / "results.json").read_text())
    assert ("standard x1", "standard x2", "psnr") in {(s["first"], s["second"], s["metric"]) for s in results["signs"]}


def test_report_puts_finished_evaluations_side_by_side(scales, untrained, tmp_path):
    main.run(report.get_config(f"evaluations={scales}/scales,title=Mine"), tmp_path / "one")
    assert (tmp_path / "one" / "table.md").read_text().startswith("# Mine\n\n| encoder | PSNR (dB) | SSIM |")
    with pytest.raises(UserError, match="evaluations is empty"):
        main.run(report.get_config(""), tmp_path / "none")
    for place, shown in (
        (untrained / "robust_encoder", "no results in"),
        (scales / "report", "is of the task comparison, which a report cannot read"),
    ):
        with pytest.raises(UserError, match=shown):
            main.run(report.get_config(f"evaluations={scales}/scales+{place}"), tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_report_names_rows_by_what_differs_in_the_paths():
    config = report.get_config("evaluations=runs/a/evaluation+runs/b.5/evaluation")
    assert [config.labels[entry] for entry in config.order] == ["a/evaluation", "b.5/evaluation"]
    assert report.get_config("evaluations=runs/a,table=A2").published.source.endswith("Table A2 (appendix)")
    with pytest.raises(ValueError, match="unknown table '11'; known: 1, 2"):
        report.get_config("evaluations=runs/a,table=11")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SMOKE if name not in QUICK)]
)
def test_smoke_of_every_table(name, request, tmp_path):
    arg = SMOKE[name]
    if "{images}" in arg:
        arg = arg.format(images=request.getfixturevalue("data_dir") / "images" / "content")
    config = command_line.load(f"configs/paper/{name}.py:smoke=True,{arg}")
    main.run(config, tmp_path)
    folder = pathlib.Path(tmp_path) / config.order[-1]
    table = (folder / "table.md").read_text()
    assert name in WITHOUT_FIGURES or "published" in table
    assert PUBLISHED_ROWS.get(name, "") in table
    results = json.loads((folder / "results.json").read_text())
    assert results["rows"] and (folder / "report.html").exists()
