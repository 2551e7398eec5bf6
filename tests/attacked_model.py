"""A small network with fixed weights and a batch of its images, for the tests of the attacks of AutoAttack."""

import jax.numpy as jnp
import numpy as np

SHAPE = (8, 6, 6, 3)
CLASSES = 5
EPS = {"l1": 2.0, "l2": 0.3, "linf": 0.04}
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
_RNG = np.random.default_rng(7)
_HIDDEN = _RNG.standard_normal((6 * 6 * 3, 16)).astype(np.float32) * 0.3
_OUT = _RNG.standard_normal((16, CLASSES)).astype(np.float32)


def product(x, weights):
    """x @ weights, summed in the same order whatever the batch: a row gives the same bits in any of them."""
    return jnp.sum(x[:, :, None] * weights[None], axis=1)


def logits_fn(x):
    return product(jnp.tanh(product(x.reshape(x.shape[0], -1) - 0.5, _HIDDEN)), _OUT)


def images(count=SHAPE[0], seed=0):
    """Images that touch both ends of the range, so that the box matters as well as the ball."""
    x = np.random.default_rng(seed).random((count, *SHAPE[1:]), dtype=np.float32)
    return np.clip(1.4 * x - 0.2, 0, 1).astype(np.float32)


def ranked(x):
    """The classes of images, that of the largest logit first."""
    return np.argsort(-np.asarray(logits_fn(jnp.asarray(x))), axis=1).astype(np.int32)


def lengths(delta, norm):
    rows = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.linalg.norm(rows, ord=ORDERS[norm], axis=1)


def margins(x, labels):
    logits = np.array(logits_fn(jnp.asarray(x)), np.float64)
    rows = np.arange(len(labels))
    own = logits[rows, labels]
    logits[rows, labels] = -np.inf
    return own - logits.max(axis=1)
