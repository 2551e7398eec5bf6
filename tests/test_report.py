"""The picture of a report."""

import numpy as np

from arinv.tasks import report


def entry():
    return {"image": np.zeros((2, 32, 32, 3), np.uint8), "reconstruction": np.zeros((2, 32, 32, 3), np.float32)}


def test_long_names_have_room_beside_the_picture():
    short = report._picture({"robust": entry()})
    long = report._picture({"wrn28_10_depth10_width1 n_fgsm": entry()})
    assert long.shape[0] == short.shape[0] and long.shape[1] > short.shape[1]
    text = (long < 128).all(-1).any(0)  # columns that hold something dark
    assert not text[:8].any() and text[8:40].any()
