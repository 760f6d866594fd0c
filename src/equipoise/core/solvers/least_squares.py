"""Least squares of many linear models at once, by quadratic forms or by passes over the rows, whichever is smaller.

J(W) = Σ_t ½ Σ_{r of t} (x_r · w_t − z_r)²        gradient of w_t: A_t w_t − b_t,  A_t = Σ x xᵀ, b_t = Σ z x
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_LEAST_CURVATURE = 1e-12


class GroupedLeastSquares:
    """Rows that belong to owners, each of whom has weights of their own.

    Args:
        rows: (m, d) in float64.
        response: (m,).
        owner: (m,) from 0.
        owners: how many they are.

    Attributes:
        forms: (owners, d, d) A_t; None where the rows are fewer than the entries of the forms would fill.
        pull: (owners, d) b_t.
        constant: ½ Σ z².

    >>> losses = GroupedLeastSquares(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), 1)
    >>> value, gradient = losses.value_and_gradient(torch.zeros(2, 1))
    >>> value, gradient.T
    (0.5, tensor([[-1.,  0.]]))
    """

    def __init__(self, rows: Tensor, response: Tensor, owner: Tensor, owners: int) -> None:
        order = owner.argsort(stable=True)
        self.rows, self.response, self.owner = rows[order], response[order], owner[order]
        self.owners = owners
        self.sizes: list[int] = torch.bincount(owner, minlength=owners).tolist()
        dimension = rows.shape[1]
        self.pull = rows.new_zeros(owners, dimension).index_add_(0, self.owner, self.rows * self.response[:, None])
        self.constant = float(self.response.square().sum()) / 2
        self.forms: Tensor | None = None
        if owners * dimension <= len(rows):
            self.forms = torch.stack([part.T @ part for part in self.rows.split(self.sizes)])

    def value_and_gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        """J and its gradient (d, owners) at weights (d, owners)."""
        own = weights.T
        if self.forms is not None:
            bent = torch.einsum("uij,uj->ui", self.forms, own)
        else:
            scores = (self.rows * own[self.owner]).sum(1)
            bent = torch.zeros_like(own).index_add_(0, self.owner, scores[:, None] * self.rows)
        value = (own * bent).sum() / 2 - (self.pull * own).sum() + self.constant
        return float(value), (bent - self.pull).T.contiguous()

    def curvature(self) -> float:
        """The largest eigenvalue of any A_t, from above: exact for forms, else the trace."""
        if self.forms is not None:
            return max(float(torch.linalg.eigvalsh(self.forms)[:, -1].max()), _LEAST_CURVATURE)
        trace = self.rows.new_zeros(self.owners).index_add_(0, self.owner, self.rows.square().sum(1))
        return max(float(trace.max()), _LEAST_CURVATURE)

    def ridge(self, strength: float) -> Tensor:
        """(d, owners): the minimiser of J + ½ strength ‖W‖², strength > 0.

        >>> GroupedLeastSquares(torch.eye(2), torch.ones(2), torch.tensor([0, 0]), 1).ridge(1.0).T
        tensor([[0.5000, 0.5000]])
        """
        return torch.stack(list(self._ridges(strength)), 1)

    def _ridges(self, strength: float) -> Iterator[Tensor]:
        dimension = self.rows.shape[1]
        parts = zip(self.rows.split(self.sizes), self.response.split(self.sizes), self.pull, strict=True)
        for own, response, pull in parts:
            if len(own) < dimension:
                # The same by a system of the size of the rows.
                inner = own @ own.T + strength * torch.eye(len(own), dtype=own.dtype)
                yield own.T @ torch.linalg.solve(inner, response)
            else:
                yield torch.linalg.solve(own.T @ own + strength * torch.eye(dimension, dtype=own.dtype), pull)
