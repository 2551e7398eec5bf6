"""Loops with hoisted invariants against jax.lax.scan and fori_loop."""

import jax
import jax.numpy as jnp
import pytest
from chex import assert_trees_all_close

from arinv.ops import loops


def descend(scan, weights, latents, rates):
    """Descends on the norm of tanh(latents W), W being the weights normalized and flipped."""

    def loss(carry):
        w = jnp.flip(weights / jnp.linalg.norm(weights), 0)
        return jnp.sum(jnp.tanh(carry["latents"] @ w) ** 2)

    def step(carry, rate):
        value, gradient = jax.value_and_grad(loss)(carry)
        latents = jnp.where(jnp.zeros(3) < 1, carry["latents"] - rate * gradient["latents"], 0.0)
        return {"latents": latents, "count": carry["count"] + 1.0}, {"loss": value, "constant": weights[0]}

    return scan(step, {"latents": latents, "count": jnp.zeros(())}, rates)


@pytest.fixture
def inputs(key):
    weights, latents = (jax.random.normal(k, (3, 3)) for k in jax.random.split(key))
    return weights, latents, jnp.array([0.3, 0.1, 0.2])


TRANSFORMATIONS = {
    "none": lambda run: run,
    "jit": jax.jit,
    "gradient in the constants": lambda run: jax.grad(lambda *inputs: run(*inputs)[1]["loss"].sum()),
    "gradient in the carry": lambda run: jax.jit(jax.grad(lambda *inputs: run(*inputs)[1]["loss"].sum(), 1)),
    "vmap over constants": lambda run: (
        lambda w, *rest: jax.vmap(run, (0, None, None))(jnp.stack([w, 2 * w + 1]), *rest)
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.long
def test_scan_equals_lax(inputs, name):
    result, expected = (
        TRANSFORMATIONS[name](lambda *inputs, scan=scan: descend(scan, *inputs))(*inputs)
        for scan in (loops.scan, jax.lax.scan)
    )
    assert_trees_all_close(result, expected, rtol=1e-6)


@pytest.fixture
def loop(inputs):
    """Returns the jaxpr of a loop, and that of its scan."""
    jaxpr = jax.make_jaxpr(lambda *inputs: descend(loops.scan, *inputs))(*inputs).jaxpr
    (scan,) = (equation for equation in jaxpr.eqns if str(equation.primitive) == "scan")
    return jaxpr, scan


def test_scan_hoists_weights(loop):
    whole, body = str(loop[0]), str(loop[1].params["jaxpr"])
    assert " rev[" in whole and " rev[" not in body
    assert " sqrt " in whole and " sqrt " not in body
    assert " tanh " in body


def test_scan_keeps_literals_in_the_loop(loop):
    _, scan = loop
    assert " lt " in str(scan.params["jaxpr"])
    # The prepared weights, plain and transposed or not, and the row that every step returns.
    num_carry_and_xs = 3  # latents, count; rates
    assert len(scan.invars) - num_carry_and_xs <= 3


def test_scan_without_steps_or_constants():
    carry, ys = loops.scan(lambda c, x: (c + x, c), jnp.zeros(2), jnp.zeros((0, 2)))
    assert_trees_all_close((carry, ys), (jnp.zeros(2), jnp.zeros((0, 2))))


@pytest.mark.parametrize("upper", [4, jnp.int32(4)], ids=["known", "traced"])
def test_fori_loop_equals_lax(inputs, upper):
    def run(fori_loop, weights, latents, upper):
        def step(i, z):
            w = jnp.flip(weights / jnp.linalg.norm(weights), 0)
            return z - 0.1 * (i + 1) * jax.grad(lambda z: jnp.sum(jnp.tanh(z @ w) ** 2))(z)

        return fori_loop(0, upper, step, latents)

    weights, latents, _ = inputs
    static = (0,) if isinstance(upper, jax.Array) else (0, 3)
    result, expected = (
        jax.jit(run, static_argnums=static)(fori_loop, weights, latents, upper)
        for fori_loop in (loops.fori_loop, jax.lax.fori_loop)
    )
    assert_trees_all_close(result, expected, rtol=1e-6)


def test_fori_loop_hoists_weights(inputs):
    weights, latents, _ = inputs

    def run(weights, latents):
        return loops.fori_loop(0, 3, lambda _, z: z - jnp.tanh(z @ jax.lax.rev(weights, (0,))), latents)

    names = [str(equation.primitive) for equation in jax.make_jaxpr(run)(weights, latents).jaxpr.eqns]
    assert names.index("rev") < max(names.index(name) for name in names if name in ("scan", "while"))
    assert names.count("rev") == 1
