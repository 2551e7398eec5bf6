"""The truth table of an attribute and the pores of a volume, in NumPy."""

import numpy as np
import pytest

from arinv.apps.restoration import attributes, pores
from arinv.apps.restoration.attributes import TruthTable
from arinv.apps.restoration.restoration import detail_energy
from arinv.errors import UserError


def flags_to_images(flags):
    return np.array(flags, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 3), np.float32)


def test_truth_table_counts_every_image_once():
    first, second = flags_to_images([0, 0, 1, 1, 1, 0]), flags_to_images([0, 1, 0, 1, 0, 0])
    valid = np.array([True, True, True, True, True, False])
    bright = attributes.make_rule(statistic="brightness", threshold=0.5)
    table = attributes.compare_attribute(first, second, bright, valid=valid)
    assert table == TruthTable(neither=1, second=1, first=2, both=1, invalid=1)
    assert (table.valid, table.count, table.recovered) == (5, 6, 2 / 3)
    assert attributes.compare_attribute(first, second, bright).invalid == 0
    with pytest.raises(UserError, match=r"attribute_fn must give bool \[6\]"):
        attributes.compare_attribute(first, second, lambda images: images.mean(axis=(1, 2, 3)))


def test_recovered_share_is_that_of_the_paper():
    published = TruthTable(neither=289, second=32, first=157, both=469, invalid=53)
    assert published.count == 1000 and published.recovered == pytest.approx(0.35, abs=0.005)


def test_rules_look_at_their_region():
    images = np.zeros((1, 8, 8, 1), np.float32)
    images[:, :4, ::2] = 1
    for statistic in attributes.STATISTICS:
        rule = attributes.make_rule(statistic=statistic, threshold=0.3, region=(0, 0, 0.5, 1))
        below = attributes.make_rule(statistic=statistic, threshold=0.3, region=(0.5, 0, 1, 1))
        assert rule(images).tolist() == [True] and below(images).tolist() == [False], statistic
    with pytest.raises(UserError, match="region=.* must be top, left, bottom and right"):
        attributes.make_rule(statistic="edges", threshold=0.1, region=(0.5, 0, 0.5, 1))
    with pytest.raises(UserError, match="region=.* must be top, left, bottom and right"):
        attributes.make_rule(statistic="edges", threshold=0.1, region=(0.0, 0.0, 1.0))


@pytest.mark.parametrize("region", [(0.9, 0, 1, 1), (0, 0.99, 1, 1), (0, 0, 0.01, 1)])
def test_a_thin_region_has_two_pixels(region):
    images = np.zeros((2, 8, 8, 1), np.float32)
    images[1] = np.indices((8, 8)).sum(axis=0)[..., None] % 2
    rule = attributes.make_rule(statistic="edges", threshold=0.5, region=region)
    assert rule(images).tolist() == [False, True]


def test_pores_are_counted_as_voxels_and_as_connected_pores():
    volume, restored = np.ones((6, 6, 6)), np.ones((6, 6, 6))
    volume[0, 0, 0:3] = volume[5, 5, 5] = 0  # a pore of three voxels, and one that is lost
    restored[0, 0, 1:4] = restored[3, 3, 3] = restored[3, 3, 4] = 0  # the first shifted, and one that is invented
    result = pores.compare_pores(restored, volume)
    assert (result.invented, result.lost, result.voxels) == (3, 2, 216)
    assert (result.invented_pores, result.lost_pores) == (1, 1)
    assert result.error == pytest.approx(1 / 216) and result.true_porosity == pytest.approx(4 / 216)
    same = pores.compare_pores(volume, volume)
    assert same[2:4] == (0, 0) and same[5:] == (0, 0) and same.error == 0


def test_cuts_run_across_the_axis_and_marks_are_colors():
    volume = np.random.default_rng(0).random((4, 6, 8))
    cuts = pores.cut(volume, axis=1, count=3)
    np.testing.assert_array_equal(cuts, np.stack([volume[:, i] for i in (1, 3, 5)]))
    marked = pores.mark(np.array([[[0.1, 0.9, 0.9]]]), np.array([[[0.9, 0.1, 0.9]]]))
    red, blue, grey = marked[0, 0]
    assert red[0] > 0.5 > red[2] and blue[2] > 0.5 > blue[0] and (grey == np.float32(0.9)).all()


def test_detail_energy_is_that_above_half_of_the_band(key):
    x = np.arange(16)
    slow, fast = np.cos(2 * np.pi * 3 * x / 16), np.cos(2 * np.pi * 6 * x / 16)
    images = np.stack([slow[:, None] * np.ones((16, 16)), fast[:, None] * np.ones((16, 16))])[..., None]
    low, high = detail_energy(images)
    assert low == pytest.approx(0, abs=1e-12)
    frequencies = np.abs(np.fft.fftfreq(16))
    count = (np.maximum.outer(frequencies, frequencies) > 0.25).sum()
    assert high == pytest.approx(np.square(images[1]).sum() / count)


def test_analyses_reject_images_that_are_no_images_in_0_1():
    x = np.full((2, 4, 4, 3), 0.5, np.float32)
    bright = attributes.make_rule(statistic="brightness", threshold=0.5)
    for wrong, message in ((x * np.nan, "not finite"), ((255 * x).astype(np.uint8), "got uint8"), (255 * x, "127.5")):
        with pytest.raises(UserError, match=message):
            attributes.compare_attribute(wrong, x, bright)
        with pytest.raises(UserError, match=message):
            bright(wrong)
        with pytest.raises(UserError, match=message):
            pores.compare_pores(x[..., 0], wrong[..., 0])
        with pytest.raises(UserError, match=message):
            pores.mark(wrong[..., 0], x[..., 0])
    with pytest.raises(UserError, match="volumes must be of one shape"):
        pores.compare_pores(x[:0, ..., 0], x[:0, ..., 0])
    with pytest.raises(UserError, match="attribute_fn must be a function; got NoneType"):
        attributes.compare_attribute(x, x, None)
    with pytest.raises(UserError, match="count must be at least 1"):
        pores.cut(x[..., 0], axis=0, count=0)
    with pytest.raises(UserError, match="threshold must be a finite number"):
        attributes.make_rule(statistic="brightness", threshold=float("nan"))
