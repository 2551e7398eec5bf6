"""The cells of the notebook run, in order."""

import json
import pathlib

import numpy as np

NOTEBOOK = pathlib.Path(__file__).parents[2] / "launch" / "first_steps.ipynb"


def test_cells_of_the_notebook_run(capsys):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)  # results are in launch/records
    variables = {}
    for i, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {i}", "exec"), variables)
    assert np.all(np.isfinite(variables["scores"])) and variables["stylized"].shape == variables["content"].shape
    assert "standard: PSNR" in capsys.readouterr().out
