"""Eight virtual CPU devices, strict shapes, warnings as errors; fixtures shared by all tests."""

import gc
import os
import pathlib
import sys

# Many tests compile the same small networks: what one has compiled is there for the others, for the commands that tests
# start, and in the next run. A directory for each Python, since JAX's compression of the entries depends on what the
# standard library offers.
_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CACHE = _ROOT / ".pytest_cache" / "compilations" / sys.implementation.cache_tag
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from quick_compilation import EIGHT_DEVICES, FLAGS  # noqa: E402

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # scikit-learn warns where it cannot count physical cores
if FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES} {FLAGS}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20, 50)  # collecting what tracing leaves took 7% of the time
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags


def pytest_collection_modifyitems(items):
    """Marks each test by its folder: unit, contract, e2e or distributed."""
    root = pathlib.Path(__file__).parent
    for item in items:
        item.add_marker(item.path.relative_to(root).parts[0])


@pytest.fixture
def key():
    """A fixed PRNG key."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> pathlib.Path:
    """A folder with the workdirs {standard,robust}_{encoder,inverter} of untrained networks for 16 px."""
    from untrained import write_encoder, write_inverter

    folder = tmp_path_factory.mktemp("untrained")
    for seed, name in enumerate(("standard", "robust")):
        write_encoder(folder / f"{name}_encoder", seed=seed, eps=float(seed))
        write_inverter(folder / f"{name}_inverter", folder / f"{name}_encoder", seed=10 + seed)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The directory of real images named by ARINV_TEST_DATA; without it the test is skipped."""
    path = os.environ.get("ARINV_TEST_DATA", "")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("needs real images: set ARINV_TEST_DATA to the directory that holds tfds/ and images/")
    return pathlib.Path(path).resolve()
