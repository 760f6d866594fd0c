"""Equations over the edges of a graph of items: every ranking by pairs solves one, once or in each Newton step.

(L + ridge I) x = b        L = Σ_e w_e (e_i − e_j)(e_i − e_j)ᵀ
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipoise.data.comparisons.answers import graph_components

Vector = NDArray[np.float64]
Index = NDArray[np.int64]
# Up to so many items a dense factorisation takes less than a second.
_DENSE = 2000


class EdgeGraph:
    """Weighted edges one-other between vertices, of which the weights change and the ends do not.

    Args:
        one: (edges,) vertices.
        other: (edges,) vertices.
        size: vertices there are.
    """

    def __init__(self, one: Index, other: Index, size: int) -> None:
        self.one, self.other, self.size = one, other, size
        self.component: Index = graph_components(one, other, size).numpy()
        self._sizes = np.bincount(self.component)

    def difference(self, x: Vector) -> Vector:
        """x of one less x of the other, per edge."""
        return x[self.one] - x[self.other]

    def gathered(self, edge: Vector) -> Vector:
        """The transpose of `difference`: what flows out of each vertex."""
        return self._summed(self.one, edge) - self._summed(self.other, edge)

    def _summed(self, vertex: Index, edge: Vector) -> Vector:
        return np.bincount(vertex, edge, self.size).astype(np.float64, copy=False)

    def centred(self, x: Vector) -> Vector:
        """x less its mean over each component."""
        means: Vector = np.bincount(self.component, x) / self._sizes
        return x - means[self.component]

    def laplacian(self, weight: Vector, ridge: float = 0.0) -> Any:
        """L + ridge I as a sparse matrix."""
        from scipy.sparse import coo_array

        diagonal = self._summed(self.one, weight) + self._summed(self.other, weight) + ridge
        every = np.arange(self.size)
        rows = np.concatenate([self.one, self.other, every])
        columns = np.concatenate([self.other, self.one, every])
        return coo_array(
            (np.concatenate([-weight, -weight, diagonal]), (rows, columns)), shape=(self.size,) * 2
        ).tocsr()

    def solve(self, weight: Vector, right: Vector, ridge: float = 0.0) -> Vector:
        """x of mean 0 in each component, for b of the sum 0 in each; with a ridge x has no other mean."""
        right = self.centred(right)
        return self.centred((self._dense if self.size <= _DENSE else self._sparse)(weight, right, ridge))

    def _dense(self, weight: Vector, right: Vector, ridge: float) -> Vector:
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        flat = self.one * self.size + self.other
        matrix = -np.bincount(flat, weight, self.size**2).astype(np.float64).reshape(self.size, self.size)
        matrix += matrix.T
        diagonal = -matrix.sum(1)
        matrix[np.arange(self.size), np.arange(self.size)] = diagonal + ridge
        # A constant over a component costs nothing in L; priced, it is 0 in the solution.
        price = max(float(diagonal.mean()), np.finfo(np.float64).tiny) / self._sizes[self.component]
        matrix += np.where(self.component[:, None] == self.component, price, 0.0)
        try:
            return np.asarray(cho_solve(cho_factor(matrix, lower=True, check_finite=False), right, check_finite=False))
        except LinAlgError:
            return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])

    def _sparse(self, weight: Vector, right: Vector, ridge: float) -> Vector:
        from scipy.sparse.linalg import LinearOperator, cg, splu

        matrix = self.laplacian(weight, ridge)
        diagonal = matrix.diagonal()
        scale = 1 / np.where(diagonal > 0, diagonal, 1.0)
        jacobi = LinearOperator(matrix.shape, matvec=lambda x: scale * x, dtype=np.float64)
        found, failed = cg(matrix, right, rtol=1e-13, atol=0.0, maxiter=2000, M=jacobi)
        if failed:
            # Long chains of items are slow for CG and thin for a factorisation. One vertex a component stays at 0.
            first = np.unique(self.component, return_index=True)[1]
            free = np.ones(self.size, dtype=bool)
            if not ridge:
                free[first] = False
            kept = np.flatnonzero(free)
            found = np.zeros(self.size)
            found[kept] = splu(matrix[kept][:, kept].tocsc()).solve(right[kept])
        return np.asarray(found)


class Evaluation(NamedTuple):
    """A convex function at a point.

    Attributes:
        value: of the function.
        gradient: (d,).
        curvature: whatever `direction` needs to make a Newton step.
    """

    value: float
    gradient: Vector
    curvature: Any


class Minimum(NamedTuple):
    """What `minimised` returns.

    Attributes:
        x: (d,) the minimiser.
        value: of the function there.
        steps: Newton steps taken.
    """

    x: Vector
    value: float
    steps: int


def minimised(
    evaluate: Callable[[Vector], Evaluation],
    direction: Callable[[Any, Vector], Vector],
    start: Vector,
    *,
    tolerance: float = 1e-11,
    most: int = 500,
) -> Minimum:
    """The minimum of a convex function by Newton's method, with bisection along steps that are too long.

    Args:
        evaluate: the function.
        direction: (curvature, gradient) → the Newton step.
        start: (d,) where to begin.
        tolerance: step, in units of 1 + the largest coordinate, at which it has converged.
        most: steps before giving up.

    Raises:
        RuntimeError: if it has not converged.
    """
    x, at, before = start, evaluate(start), np.inf
    for step in range(most):
        move = direction(at.curvature, at.gradient)
        slope = float(at.gradient @ move)
        settled = -slope <= 1e-12 * (1 + abs(at.value))
        low, high, length = 0.0, 1.0, 1.0
        there = x + move
        after = evaluate(there)
        while not settled and high - low > 1e-16:
            along = float(after.gradient @ move)
            lower = after.value <= at.value + 1e-4 * length * slope
            # A full step may go on downhill; a shorter one ends near the lowest point of the line.
            if lower and (length == 1.0 or abs(along) <= -0.1 * slope):
                break
            low, high = (length, high) if lower and along < 0 else (low, length)
            length = (low + high) / 2
            there = x + length * move
            after = evaluate(there)
        # Below rounding of the value, only the size of the step tells; where it no longer shrinks, it is rounding too.
        size = float(np.abs(length * move).max(initial=0.0))
        small = size <= tolerance * (1 + float(np.abs(x).max(initial=0.0)))
        if settled and (size > before / 2 or after.value > at.value + 1e-9 * (1 + abs(at.value))):
            return Minimum(x, at.value, step)
        x, at, before = there, after, size if settled else np.inf
        if settled and small:
            return Minimum(x, at.value, step + 1)
    raise RuntimeError(f"no minimum was reached in {most} Newton steps")
