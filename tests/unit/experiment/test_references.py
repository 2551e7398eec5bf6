"""What the fields of configs name."""

import numpy as np
import pytest

from arinv.experiment import references
from arinv.experiment.references import Role, role
from arinv.tasks import TASKS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("checkpoint", Role.TRAINING),
        ("encoder.checkpoint", Role.TRAINING),
        ("inverters.class0", Role.TRAINING),
        ("entries.mask", Role.RUN),
        ("figures.Figure 8: masked.blocks", Role.RUN),
        ("loss.comparator", Role.FOUND),
        ("gan", Role.FOUND),
        ("gan.networks", None),
        ("start", Role.FOUND),
        ("encoder.start", Role.NOTHING),
        ("optimization.encoders", Role.NOTHING),
        ("mask", Role.FILE),
        ("data.content", Role.IMAGES),
        ("log.num_images", None),
        ("title", Role.TEXT),
    ],
)
def test_role_of_a_field(name, expected):
    assert role(name) is expected


def test_every_training_checks_its_inputs_before_the_first_stage():
    trainings = {name: task for name, task in TASKS.items() if task.is_training or hasattr(task.module, "split")}
    assert len(trainings) == 7 and all(hasattr(task.module, "check_inputs") for task in trainings.values())


@pytest.mark.parametrize("place", [0, 0.22, 0.99, 1])
@pytest.mark.parametrize("size", [10, 3 * 2**16, 20 * 2**16])
def test_a_change_anywhere_in_a_file_is_noticed(size, place, tmp_path, monkeypatch):
    """The end too, where archives have their labels and checksums; of large files windows count."""
    monkeypatch.setattr(references, "_WINDOWS_OF_FILE", 8)
    content = np.random.default_rng(0).bytes(size)
    file = tmp_path / "data.npz"
    file.write_bytes(content)
    before = references._hash_of_images(file)
    changed = bytearray(content)
    changed[min(size - 1, int(place * size))] ^= 255
    references._hashes.clear()
    file.write_bytes(bytes(changed))
    windows_only = size > 8 * 2**16 and place == 0.22
    assert (references._hash_of_images(file) == before) == windows_only


def test_a_change_at_the_end_of_an_image_is_noticed(tmp_path):
    content = np.random.default_rng(0).bytes(5 * 2**16)
    for name in ("a.ppm", "b.ppm"):
        (tmp_path / name).write_bytes(content)
    before = references._hash_of_images(tmp_path)
    references._hashes.clear()
    (tmp_path / "b.ppm").write_bytes(content[:-1] + b"x")
    assert references._hash_of_images(tmp_path) != before
