"""Faults of the compiler that are kept away from: what it computes equals NumPy's, also in jitted programs."""

from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import _xla

FUSIONS = "--xla_cpu_experimental_ynn_fusion_type="
BOTH, CONVOLUTIONS = f"{FUSIONS}-reduce,-individual_convolution", f"{FUSIONS}-individual_convolution"


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", None, BOTH),
        ("0.10.2", FUSIONS, FUSIONS),
        ("0.11.2", "--xla_dump_to=x", f"--xla_dump_to=x {CONVOLUTIONS}"),
        ("0.12.0.1", None, CONVOLUTIONS),
        ("0.10.1", None, None),
        ("99.0", "--xla_dump_to=x", "--xla_dump_to=x"),
    ],
)
def test_set_flags_by_version(version, before, after):
    environment = {} if before is None else {"XLA_FLAGS": before}
    _xla.set_flags(environment, jaxlib_version=version)
    assert environment.get("XLA_FLAGS") == after


def test_quick_flags_of_an_unlisted_version_are_empty():
    assert _xla.quick_flags("99.0") == ""
    assert "emitters" in _xla.quick_flags("0.10.2") and "emitters" not in _xla.quick_flags("0.12.0.1")


def test_installed_jaxlib_has_a_row():
    version = metadata.version("jaxlib")
    assert version in _xla._VERSIONS, f"measure jaxlib {version} and add its flags to arinv/_xla.py"


def test_supported_leaves_out_options_and_values_that_xla_lacks():
    options = {"xla_backend_optimization_level": 0, "xla_no_such_option": True, "xla_backend_extra_options": 3.5}
    assert _xla.supported(options) == {"xla_backend_optimization_level": 0}
    jax.jit(lambda: 0, compiler_options=_xla.quick_options())()


def test_products_clipped_by_a_maximum():
    rng = np.random.default_rng(0)
    x, a, b, c, d = (
        rng.normal(size=s).astype(np.float32) / 8 for s in [(36, 256), (256, 36), (36, 256), (256, 49), (49, 256)]
    )
    found = jax.jit(lambda x, a, b, c, d: jnp.minimum(x @ ((a @ b) @ (c @ d)), x.max()))(x, a, b, c, d)
    np.testing.assert_allclose(found, np.minimum(x @ ((a @ b) @ (c @ d)), x.max()), atol=1e-5)


def test_sums_over_products_of_many_rows():
    rows = np.zeros((32_769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    norms = jax.jit(lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x))
    np.testing.assert_allclose(norms(rows), rows[:, 0] ** 2, rtol=1e-6)
