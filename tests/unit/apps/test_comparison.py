"""The picture of a report."""

import numpy as np

from arinv.apps.evaluation import comparison


def entry():
    return {"image": np.zeros((2, 32, 32, 3), np.uint8), "reconstruction": np.zeros((2, 32, 32, 3), np.float32)}


def test_figure_has_space_for_long_names():
    short = comparison._picture({"robust": entry()})
    long = comparison._picture({"wrn28_10_depth10_width1 n_fgsm": entry()})
    assert long.shape[0] == short.shape[0] and long.shape[1] > short.shape[1]
    text = (long < 128).all(-1).any(0)  # columns that hold something dark
    assert not text[:8].any() and text[8:40].any()


def test_differences_names_what_rows_do_not_share():
    setting = {"data": "photos", "dtype": "float32", "seed": 0}
    first = {"num_examples": 6, "attack": {"eps": 1.0}, "setting": setting}
    assert comparison.differences({"a": first, "b": {**first, "setting": {**setting}}}) == ""
    second = {"num_examples": 8, "attack": None, "setting": {**setting, "dtype": "bfloat16"}}
    text = comparison.differences({"a": first, "b": second})
    assert "The number of images is not the same in all rows: a 6, b 8." in text
    assert "dtype is not the same in all rows: a float32, b bfloat16" in text
    assert "attack is not the same in all rows: a {'eps': 1.0}, b none" in text and "seed" not in text
