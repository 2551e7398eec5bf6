"""Applications in two processes whose devices take turns in the mesh, against one process with as many devices."""

import json

import numpy as np
import pytest
import short_applications
from disturbed_runs import ROOT, Run
from untrained import write_gan

from arinv import main
from arinv.experiment.output_files import read_arrays

pytestmark = pytest.mark.slow
STAGES = ("evaluation", "report", "detector", "scales")
FILES = (
    *("evaluation/scores_3.npz", "evaluation/images_3.npz", "evaluation/adgan_3.npz"),
    *("detector/scores.npz", "detector/references.npz", "scales/per_image.npz"),
)
PICTURES = ("evaluation/class_3.png", "report/overview.png", "detector/overview.png", "scales/images.png")


@pytest.fixture(scope="module")
def folders(untrained, tmp_path_factory):
    """The workdirs of the same run in two processes, and in this one."""
    root = tmp_path_factory.mktemp("applications")
    (root / "untrained").mkdir()
    for name in ("robust_encoder", "robust_inverter"):
        (root / "untrained" / name).symlink_to(untrained / name)
    write_gan(root / "untrained" / "gan", seed=0)
    arguments = f"folder={root}/untrained"
    program = (f"{ROOT}/tests/interleaved_devices.py",)
    run = Run(root / "two", arguments, 2, 4, config="short_applications.py", program=program)
    main.run(short_applications.get_config(arguments), root / "one")
    run.end()
    return root / "two", root / "one"


@pytest.mark.parametrize("file", FILES)
def test_two_processes_compute_the_numbers_of_one(folders, file):
    """Of every image, once, in the order of the images: rows do not depend on each other, nor on their device."""
    two, one = (read_arrays(folder / file) for folder in folders)
    assert two.keys() == one.keys()
    for name in one.keys() - {"cache_key", "seconds"}:
        last_bit = 2e-7 if name == "adgan" else 0  # without AVX-512 it depends on the place in a device's share
        np.testing.assert_allclose(two[name], one[name], rtol=last_bit, err_msg=name)


@pytest.mark.parametrize("file", PICTURES)
def test_two_processes_draw_the_pictures_of_one(folders, file):
    two, one = ((folder / file).read_bytes() for folder in folders)
    assert two == one


@pytest.mark.parametrize("file", ["detector/detector.json", *(f"{s}/results.json" for s in STAGES)])
def test_two_processes_write_the_results_of_one(folders, file):
    two, one = (json.loads((folder / file).read_text()) for folder in folders)
    for results in (two, one):
        for part in (results, results.get("robust", {})):
            part.get("adgan", {}).pop("seconds_per_image", None)
    assert two == one
