"""Faults of the compiler that are kept away from: what it computes equals NumPy's, also in jitted programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import avoid_faults_of_xla

FLAG = "--xla_cpu_experimental_ynn_fusion_type=-reduce,-individual_convolution"


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", None, FLAG),
        ("0.11.0", "--xla_dump_to=x", f"--xla_dump_to=x {FLAG}"),
        ("0.10.2", "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_experimental_ynn_fusion_type="),
        ("0.10.1", None, None),
        ("0.11.1", "--xla_dump_to=x", "--xla_dump_to=x"),
    ],
)
def test_flags_of_faulty_versions(version, before, after):
    environment = {} if before is None else {"XLA_FLAGS": before}
    avoid_faults_of_xla(environment, jaxlib_version=version)
    assert environment.get("XLA_FLAGS") == after


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
