"""A thousand random calls of the public doors: each gives a sound result or raises one clear error.

The cases come from fuzz_numbers (attacks, metrics, applications), fuzz_files (images, folders, archives, weights) and
fuzz_configs (arguments and overrides). Each case checks its own result and returns, or raises UserError; anything else
is a failure. ARINV_FUZZ_SEED gives other cases.
"""

import collections
import os

import fuzz_configs
import fuzz_files
import fuzz_numbers
import numpy as np
import pytest

from arinv.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("module", "count"),
    [(fuzz_numbers, 400), (fuzz_files, 350), (fuzz_configs, 250)],
    ids=["numbers", "files", "configs"],
)
def test_random_input_is_taken_or_refused_in_one_line(module, count, tmp_path, capsys):
    rng = np.random.default_rng(int(os.environ.get("ARINV_FUZZ_SEED", "0")))
    arguments = (rng, tmp_path) if module is fuzz_files else (rng,)
    outcomes, failures = collections.Counter(), []
    for (name, call), _ in zip(module.cases(*arguments), range(count), strict=False):
        try:
            call()
            outcomes["taken"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            if "\n" in str(error) or not str(error):
                failures.append(f"{name}: not one line: {error}")
        except Exception as error:  # a traceback for the user
            failures.append(f"{name}: {type(error).__name__}: {error}")
    with capsys.disabled():
        print(f"\n{module.__name__}: {outcomes['taken']} taken, {outcomes['refused']} refused, {len(failures)} failed")
    assert not failures, "\n".join(failures[:20])
    assert min(outcomes["taken"], outcomes["refused"]) > count / 10, "the cases are one-sided"
