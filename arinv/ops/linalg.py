"""Square roots of symmetric matrices, for whitening, coloring and the Fréchet distance.

Batches of matrices use the Newton-Schulz iteration, which consists of products and is fast on every device, while a
GPU decomposes a batch one matrix at a time. A single number that depends on the smallest eigenvalues, such as the trace
of a root, uses the eigendecomposition.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from arinv.types import Array, ArrayLike

# An eigenvalue l (relative to the norm) converges after 6 + ln(1 / l) / ln(2.25) iterations, and a vanishing one has an
# inverse root of 1.5^18 = 1,478. With a few more iterations eigenvalues that float32 rounds below zero would diverge.
_NUM_ITERATIONS = 18


def sqrt_and_inverse_sqrt(matrices: ArrayLike, *, ridge: float = 0.0) -> tuple[Array, Array]:
    """Returns the square root and the inverse square root of symmetric, positive semidefinite matrices.

    Uses the coupled Newton-Schulz iteration in float32. With s the Frobenius norm of a matrix and eigenvalues l:
    the root is within 1e-3 sqrt(s) of the exact one, also for a singular matrix; the inverse root is within a
    thousandth for l > 1e-4 s and a tenth for l > 1e-5 s; for smaller eigenvalues it is below the exact one, at most
    about 1,500 / sqrt(s), so that whitening does not amplify noise in their directions.

    Args:
      matrices: [..., n, n], symmetric. The iteration diverges for eigenvalues below -3e-7 s.
      ridge: added to every eigenvalue, in units of s; 1e-6 for matrices that rounding makes slightly indefinite.

    Returns:
      Two float32 [..., n, n], symmetric; both are zero for a matrix of zeros.

    Source: Higham 2008, "Functions of Matrices", eq. (6.35).
    """
    matrices = jnp.asarray(matrices, jnp.float32)
    matrices = (matrices + jnp.swapaxes(matrices, -1, -2)) / 2
    squares = jnp.sum(jnp.square(matrices), axis=(-2, -1), keepdims=True)
    scale = jnp.where(squares == 0, 0.0, jnp.sqrt(jnp.where(squares == 0, 1.0, squares)))  # a gradient of 0 at 0
    divisor = jnp.where(scale > 0, scale, 1.0)
    identity = jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=jnp.float32), matrices.shape)

    def iterate(_, roots):
        root, inverse = roots
        factor = 1.5 * identity - 0.5 * inverse @ root
        return root @ factor, factor @ inverse

    with jax.default_matmul_precision("highest"):  # TF32 would lose small eigenvalues
        start = (matrices / divisor + ridge * identity, identity)
        root, inverse = jax.lax.fori_loop(0, _NUM_ITERATIONS, iterate, start)
    is_zero = scale == 0
    root, inverse = root * jnp.sqrt(divisor), inverse / jnp.sqrt(divisor)
    return tuple(jnp.where(is_zero, 0.0, (x + jnp.swapaxes(x, -1, -2)) / 2) for x in (root, inverse))


def inverse_near_identity(matrices: ArrayLike) -> Array:
    """Returns the inverses of symmetric matrices with all eigenvalues between 1 and 2, to float32.

    Uses Newton's iteration. The start, 2/3 of the identity, has a residual of at most 1/3; each
    iteration squares the residual.

    Args:
      matrices: [..., n, n].

    Returns:
      float32 [..., n, n].

    Source: Higham 2008, "Functions of Matrices", section 6.1 (Schulz).
    """
    matrices = jnp.asarray(matrices, jnp.float32)
    identity = jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=jnp.float32), matrices.shape)
    inverse = 2 / 3 * identity
    with jax.default_matmul_precision("highest"):
        for _ in range(5):  # (1/3)^32
            inverse = inverse @ (2 * identity - matrices @ inverse)
    return inverse


class ValueFunction(NamedTuple):
    """A function of eigenvalues.

    Attributes:
      values: eigenvalues -> values of the same shape, elementwise.
      quotient: (a, b) -> divided difference (f(a) - f(b)) / (a - b), elementwise and without cancellation; the
        derivative where a = b.
    """

    values: Callable[[Array], Array]
    quotient: Callable[[Array, Array], Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def matrix_function(function: ValueFunction, matrices: Array) -> Array:
    """Returns a function of symmetric matrices, applied to their eigenvalues.

    The derivative uses divided differences of the function instead of derivatives of the eigenvectors: it is finite
    also for equal eigenvalues, such as those of dead channels or of a constant.

    Args:
      function: function of the eigenvalues, with its divided differences.
      matrices: float32 [B, n, n], symmetric.

    Returns:
      float32 [B, n, n].

    Source: Higham 2008, "Functions of Matrices", theorem 3.11 (Daleckii & Krein).
    """
    values, vectors = _eigh(matrices)
    with jax.default_matmul_precision("highest"):
        return (vectors * function.values(values)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)


@matrix_function.defjvp
def _matrix_function_jvp(function, primals, tangents):
    values, vectors = _eigh(*primals)
    quotients = function.quotient(values[:, :, None], values[:, None, :])
    transposed = jnp.swapaxes(vectors, 1, 2)
    with jax.default_matmul_precision("highest"):
        changes = quotients * (transposed @ tangents[0] @ vectors)
        results = (vectors * function.values(values)[:, None, :]) @ transposed
        return results, vectors @ changes @ transposed


def _eigh(matrices: Array) -> tuple[Array, Array]:
    # One matrix at a time on a CPU: there two batched eigendecompositions in one program can deadlock, waiting for each
    # other's threads, as happened with those of 64 channels of content and style. Elsewhere a batch stays split over
    # the devices, which a loop would gather on each.
    return jax.lax.map(jnp.linalg.eigh, matrices) if jax.default_backend() == "cpu" else jnp.linalg.eigh(matrices)
