"""Square roots of symmetric matrices, for whitening, colouring and the Fréchet distance.

A batch of matrices takes the Newton-Schulz iteration: products only, which every device runs at full speed, where
an eigendecomposition would go through the batch one matrix at a time on a GPU. A single number that depends on the
smallest eigenvalues, such as the trace of a root, takes the eigendecomposition.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from arinv.types import Array, ArrayLike

# An eigenvalue of l (relative to the norm) has converged after 6 + ln(1 / l) / ln(2.25) iterations, and a vanishing one
# has an inverse root of 1.5^18 = 1,478. A few iterations more, and what float32 rounds below zero would run away.
_NUM_ITERATIONS = 18
_ALIKE = 1e-3  # eigenvalues, relative to the largest, whose divided difference is taken for a derivative


def sqrt_and_inverse_sqrt(matrices: ArrayLike, *, ridge: float = 0.0) -> tuple[Array, Array]:
    """Returns the square root and the inverse square root of symmetric, positive semidefinite matrices.

    By the coupled Newton-Schulz iteration, in float32. With s the Frobenius norm of a matrix and eigenvalues l:
    the root is within 1e-3 sqrt(s) of the exact one, also where the matrix is singular; the inverse root is within
    a thousandth for l > 1e-4 s and a tenth for l > 1e-5 s; of smaller eigenvalues it is less than the exact one, at
    most about 1,500 / sqrt(s), so that whitening leaves their directions small and never makes noise of them.

    Args:
      matrices: [..., n, n], symmetric. Eigenvalues of less than -3e-7 s would make the iteration diverge.
      ridge: times s, is added to every eigenvalue; 1e-6 for matrices that rounding has left slightly indefinite.

    Returns:
      Two float32 [..., n, n], symmetric. A matrix of zeros gives zeros, twice.

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

    with jax.default_matmul_precision("highest"):  # TF32 would lose what is small
        start = (matrices / divisor + ridge * identity, identity)
        root, inverse = jax.lax.fori_loop(0, _NUM_ITERATIONS, iterate, start)
    is_zero = scale == 0
    root, inverse = root * jnp.sqrt(divisor), inverse / jnp.sqrt(divisor)
    return tuple(jnp.where(is_zero, 0.0, (x + jnp.swapaxes(x, -1, -2)) / 2) for x in (root, inverse))


def inverse_near_identity(matrices: ArrayLike) -> Array:
    """Returns the inverses of symmetric matrices with all eigenvalues between 1 and 2, to float32.

    By Newton's iteration, products only. The start, 2/3 of the identity, leaves at most 1/3 of an eigenvalue, and each
    iteration squares that.

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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def matrix_function(function: Callable[[Array], Array], matrices: Array) -> Array:
    """Returns a function of symmetric matrices, by their eigenvalues.

    Its derivative comes from the divided differences of the function, not from those of the eigenvectors: it is finite
    also where eigenvalues are equal, as those of dead channels or of a constant are.

    Args:
      function: eigenvalues -> numbers of the same shape, each from its own one; with a finite derivative.
      matrices: float32 [B, n, n], symmetric.

    Returns:
      float32 [B, n, n].

    Source: Higham 2008, "Functions of Matrices", theorem 3.11 (Daleckii & Krein).
    """
    values, vectors = _eigh(matrices)
    with jax.default_matmul_precision("highest"):
        return (vectors * function(values)[:, None, :]) @ jnp.swapaxes(vectors, 1, 2)


@matrix_function.defjvp
def _matrix_function_jvp(function, primals, tangents):
    values, vectors = _eigh(*primals)
    results, derivatives = jax.jvp(function, (values,), (jnp.ones_like(values),))
    gaps = values[:, :, None] - values[:, None, :]
    are_alike = jnp.abs(gaps) <= _ALIKE * jnp.max(jnp.abs(values), axis=1)[:, None, None]
    means = 0.5 * (derivatives[:, :, None] + derivatives[:, None, :])
    quotients = (results[:, :, None] - results[:, None, :]) / jnp.where(are_alike, 1.0, gaps)
    transposed = jnp.swapaxes(vectors, 1, 2)
    with jax.default_matmul_precision("highest"):
        changes = jnp.where(are_alike, means, quotients) * (transposed @ tangents[0] @ vectors)
        return (vectors * results[:, None, :]) @ transposed, vectors @ changes @ transposed


def _eigh(matrices: Array) -> tuple[Array, Array]:
    # One matrix at a time: on a CPU two batched eigendecompositions of one program can wait for each other's threads
    # for ever, as those of 64 channels of content and style did.
    return jax.lax.map(jnp.linalg.eigh, matrices)


def trace_of_sqrt_product(a: ArrayLike, b: ArrayLike) -> Array:
    """Returns the trace of the square root of a b, for symmetric, positive semidefinite a and b.

    The eigenvalues of a b are those of sqrt(a) b sqrt(a), which is symmetric, so that two symmetric
    eigendecompositions suffice and singular matrices need no ridge. An eigenvalue near zero comes out with the error of
    the largest one, and its root with the square root of that: use float64 where many are small.

    Args:
      a: [n, n], in the dtype that is to be computed in.
      b: [n, n].

    Returns:
      A number, 0 or more.
    """
    with jax.default_matmul_precision("highest"):
        values, vectors = jnp.linalg.eigh(jnp.asarray(a))
        root = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]) @ vectors.T
        values = jnp.linalg.eigvalsh(root @ jnp.asarray(b) @ root)
    return jnp.sum(jnp.sqrt(jnp.maximum(values, 0)))
