"""Losses of GANs by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arinv import losses
from arinv.errors import UserError


def test_wasserstein_loss_by_hand():
    values = losses.wasserstein_loss(np.array([2.0, -1.0]), np.array([0.5, 3.0]), drift=0.1)
    np.testing.assert_allclose(values, [0.5 - 2 + 0.4, 3 + 1 + 0.1], rtol=1e-6)
    with pytest.raises(UserError, match="fake_scores"):
        losses.wasserstein_loss(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("target", [1.0, 2.0])
@pytest.mark.long
def test_gradient_penalty_of_a_quadratic_and_its_gradient(key, target):
    images, fakes = jax.random.uniform(key, (2, 3, 2, 2, 1))
    shares = np.array([0.0, 0.5, 1.0])

    def penalty(weight):
        scores_fn = lambda x: weight * jnp.sum(jnp.square(x), axis=(1, 2, 3))  # noqa: E731
        return losses.gradient_penalty(scores_fn, images, fakes, shares, target=target)

    mixtures = np.asarray(images) + shares[:, None, None, None] * np.asarray(fakes - images)
    lengths = np.sqrt((mixtures**2).sum(axis=(1, 2, 3)))  # the gradient is 2 weight x
    np.testing.assert_allclose(penalty(0.7), ((1.4 * lengths - target) / target) ** 2, rtol=1e-4)
    expected = (2 * (1.4 * lengths - target) * 2 * lengths / target**2).sum()
    np.testing.assert_allclose(jax.grad(lambda weight: jnp.sum(penalty(weight)))(0.7), expected, rtol=1e-4)


@pytest.mark.long
def test_gradient_penalty_of_a_constant_has_a_finite_gradient():
    def penalty(weight):
        zeros = jnp.zeros((2, 2, 2, 1))
        return jnp.sum(losses.gradient_penalty(lambda x: weight * jnp.sum(x**2, (1, 2, 3)), zeros, zeros, np.ones(2)))

    assert penalty(1.0) == pytest.approx(2.0) and np.isfinite(jax.grad(penalty)(1.0))


def test_equilibrium_and_its_balance_by_hand():
    np.testing.assert_allclose(losses.equilibrium_loss(np.array([0.3]), np.array([0.2]), 0.5), [0.2], rtol=1e-6)
    assert losses.update_balance(0.5, 0.4, 0.1, ratio=0.5, rate=0.1) == pytest.approx(0.5 + 0.1 * (0.2 - 0.1))
    assert losses.update_balance(0.0, 0.1, 0.4, ratio=0.5, rate=0.1) == 0.0
    assert losses.update_balance(1.0, 4.0, 0.1, ratio=0.5, rate=0.1) == 1.0
    with pytest.raises(UserError, match="ratio"):
        losses.update_balance(0.5, 0.4, 0.1, ratio=1.5, rate=0.1)


@pytest.mark.parametrize(
    ("images", "fakes", "scores_fn", "message"),
    [
        (np.zeros((4, 2, 2, 3)), np.zeros((1, 2, 2, 3)), lambda x: x.sum((1, 2, 3)), "of one shape"),
        (np.zeros((4, 2, 2, 3), np.uint8), np.zeros((4, 2, 2, 3), np.uint8), lambda x: x.sum((1, 2, 3)), "uint8"),
        (np.zeros((4, 2, 2, 3)), np.zeros((4, 2, 2, 3)), jnp.mean, "what scores_fn returns must be one number per"),
    ],
)
def test_gradient_penalty_rejects_wrong_arguments(images, fakes, scores_fn, message):
    with pytest.raises(UserError, match=message):
        losses.gradient_penalty(scores_fn, images, fakes, np.full(4, 0.5))
