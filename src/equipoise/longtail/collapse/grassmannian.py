"""Frames: unit vectors, one per class, that keep as far from each other as they can, and classifiers made of them.

With C ≤ d + 1 vectors in d dimensions the best is the simplex, all cosines −1/(C − 1); with more it is a Grassmannian
frame, whose largest cosine (or largest |cosine|, `signed=False`) is as small as possible. Known optima are built in
closed form, the others found by minimising ever sharper log-sum-exps of the cosines.

"A Study of Neural Collapse Phenomenon: Grassmannian Frame, Symmetry and Generalization", 2023; that its criterion is
the signed one is reconstructed from the abstract. Known optima: classical results on spherical codes and line packings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from equipoise.core.models.two_tower import cosines
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, NumClasses, Positive, Probability, Whole
from equipoise.core.validate import check_classes

_SHARPNESS = (8.0, 32.0, 128.0, 512.0, 2048.0, 8192.0)
_STEPS = 400


class Frame(NamedTuple):
    """Vectors and how close the closest two are.

    Attributes:
        vectors: (C, d) unit rows, float64.
        max_cosine: the largest cosine of two of them, or the largest |cosine| of an unsigned frame.
    """

    vectors: Float[Tensor, "c d"]
    max_cosine: float


class FrameCorrelation(NamedTuple):
    """Of all pairs of rows: the largest cosine, the largest |cosine|, the smallest distance after normalisation."""

    max_cosine: float
    max_abs_cosine: float
    min_distance: float


@checked
def simplex_etf(
    num_classes: NumClasses, dim: Count, *, generator: torch.Generator | None = None
) -> Float[Tensor, "c d"]:
    """The simplex equiangular tight frame: C unit rows with all cosines −1/(C − 1), float64.

    Args:
        num_classes: C, at least 2.
        dim: d, at least C − 1.
        generator: of a random rotation; none without it.

    Raises:
        ValueError: if d < C − 1.

    >>> simplex_etf(3, 2) @ simplex_etf(3, 2).T
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    if dim < num_classes - 1:
        raise ValueError(
            f"a simplex of {num_classes} vectors needs dimension >= {num_classes - 1}, got {dim}; use "
            "grassmannian_frame"
        )
    # Helmert's rows span what is orthogonal to the vector of ones.
    basis = torch.zeros(num_classes, num_classes - 1, dtype=torch.float64)
    for k in range(1, num_classes):
        basis[:k, k - 1] = 1
        basis[k, k - 1] = -k
    rows = normalize(normalize(basis, dim=0), dim=1)
    frame = torch.zeros(num_classes, dim, dtype=torch.float64)
    frame[:, : num_classes - 1] = rows
    return frame if generator is None else rotate_frame(frame, random_rotation(dim, generator))


@checked
def grassmannian_frame(
    num_vectors: NumClasses, dim: Count, *, signed: bool = True, restarts: Count = 8, seed: Whole = 0
) -> Frame:
    """C unit vectors in d dimensions whose largest cosine (`signed`) or |cosine| is as small as could be found.

    Args:
        num_vectors: C, at least 2.
        dim: d, at least 1.
        signed: the largest cosine (points on a sphere) or the largest |cosine| (lines).
        restarts: of the search, where no closed form is known; the best one counts.
        seed: of the search.

    >>> round(grassmannian_frame(4, 2).max_cosine, 6)
    0.0
    """
    vectors = _closed_form(num_vectors, dim, signed)
    if vectors is None:
        vectors = _searched(num_vectors, dim, signed, restarts, seed)
    found = frame_correlation(vectors)
    return Frame(vectors, found.max_cosine if signed else found.max_abs_cosine)


def _closed_form(c: int, d: int, signed: bool) -> Tensor | None:
    if d == 1:
        return (-torch.ones(c, 1, dtype=torch.float64)) ** torch.arange(c)[:, None]
    if signed and c <= d + 1:
        return simplex_etf(c, d)
    if not signed and c <= d:
        return torch.eye(d, dtype=torch.float64)[:c]
    if d == 2:
        angles = torch.arange(c, dtype=torch.float64) * (2 * math.pi if signed else math.pi) / c
        return torch.stack([angles.cos(), angles.sin()], 1)
    if signed and c <= 2 * d:
        axes = torch.eye(d, dtype=torch.float64)
        return torch.cat([axes, -axes])[:c]
    if not signed and c == d + 1:
        # The simplex reaches Welch's bound.
        return simplex_etf(c, d)
    return None


def _searched(c: int, d: int, signed: bool, restarts: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    upper = torch.triu_indices(c, c, 1)
    best, least = torch.empty(0), math.inf
    for _ in range(restarts):
        v = torch.randn(c, d, generator=generator, dtype=torch.float64).requires_grad_()
        for p in _SHARPNESS:
            optimizer = torch.optim.LBFGS(
                [v], max_iter=_STEPS, tolerance_grad=1e-10, tolerance_change=1e-13, line_search_fn="strong_wolfe"
            )

            def closure(v: Tensor = v, p: float = p, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
                optimizer.zero_grad()
                unit = normalize(v, dim=1)
                found = (unit @ unit.T)[upper[0], upper[1]]
                value = (p * (found if signed else found.abs())).logsumexp(0) / p
                value.backward()
                return value

            with torch.enable_grad():
                optimizer.step(closure)
        vectors = normalize(v.detach(), dim=1)
        found = frame_correlation(vectors)
        value = found.max_cosine if signed else found.max_abs_cosine
        if value < least:
            best, least = vectors, value
    return best


@checked
def welch_bound(num_vectors: NumClasses, dim: Count) -> float:
    """The least possible largest |cosine|: sqrt((C − d) / (d (C − 1))), 0 for C ≤ d; only tight frames reach it.

    >>> round(welch_bound(6, 3), 4)
    0.4472
    """
    if num_vectors <= dim:
        return 0.0
    return math.sqrt((num_vectors - dim) / (dim * (num_vectors - 1)))


@checked
def optimal_coherence(num_vectors: NumClasses, dim: Count, *, signed: bool = True) -> float | None:
    """The least possible largest cosine (or |cosine|) where it is known, else None.

    >>> optimal_coherence(3, 2), optimal_coherence(100, 7)
    (-0.5, None)
    """
    if dim == 1:
        return (-1.0 if num_vectors == 2 else 1.0) if signed else 1.0
    if signed:
        if num_vectors <= dim + 1:
            return -1 / (num_vectors - 1)
        if dim == 2:
            return math.cos(2 * math.pi / num_vectors)
        if num_vectors <= 2 * dim:
            return 0.0
        return {(8, 3): 0.2612038749637414, (12, 3): 1 / math.sqrt(5)}.get((num_vectors, dim))
    if num_vectors <= dim:
        return 0.0
    if dim == 2:
        return math.cos(math.pi / num_vectors)
    known = {(6, 3), (10, 5), (16, 6)}
    if num_vectors == dim + 1 or (num_vectors, dim) in known:
        return welch_bound(num_vectors, dim)
    return 1 / math.sqrt(3) if (num_vectors, dim) == (7, 3) else None


@checked
def frame_correlation(frame: Float[Tensor, "c d"]) -> FrameCorrelation:
    """How close the closest rows are; rows need not be normalised.

    Raises:
        ValueError: if there are fewer than two rows, or one has norm zero.

    >>> frame_correlation(torch.eye(2)).min_distance
    1.4142135623730951
    """
    if len(frame) < 2:
        raise ValueError(f"a frame has shape (C, d) with C >= 2, got {tuple(frame.shape)}")
    rows = frame.detach().double()
    if bool((rows.norm(dim=1) == 0).any()):
        raise ValueError(f"row {int((rows.norm(dim=1) == 0).nonzero()[0, 0])} of the frame has norm zero")
    unit = normalize(rows, dim=1)
    upper = torch.triu_indices(len(unit), len(unit), 1)
    found = (unit @ unit.T)[upper[0], upper[1]]
    most = float(found.max())
    return FrameCorrelation(most, float(found.abs().max()), math.sqrt(max(0.0, 2 - 2 * most)))


@checked
def permute_frame(
    frame: Float[Tensor, "c d"], permutation: Integer[Tensor, " c"] | Sequence[int]
) -> Float[Tensor, "c d"]:
    """Row i of the result is row `permutation[i]`.

    Raises:
        ValueError: if it is no permutation of the rows.
    """
    order = torch.as_tensor(permutation).long()
    if sorted(order.tolist()) != list(range(len(frame))):
        raise ValueError(f"permutation must hold 0 to {len(frame) - 1} once each, got {order.tolist()}")
    return frame[order]


@checked
def rotate_frame(frame: Float[Tensor, "c d"], rotation: Float[Tensor, "d d"]) -> Float[Tensor, "c d"]:
    """Every row turned by an orthogonal matrix Q: A Qᵀ.

    Raises:
        ValueError: if the matrix is not orthogonal.
    """
    q = rotation.to(frame)
    if float((q @ q.T - torch.eye(len(q)).to(q)).norm()) > 1e-5:
        raise ValueError("rotation must be orthogonal")
    return frame @ q.T


@checked
def random_rotation(dim: Count, generator: torch.Generator | None = None) -> Float[Tensor, "d d"]:
    """A random orthogonal matrix, uniform (Haar), float64.

    >>> q = random_rotation(3, torch.Generator().manual_seed(0))
    >>> torch.allclose(q @ q.T, torch.eye(3, dtype=torch.float64))
    True
    """
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


class FrameClassifier(nn.Module):
    """A classifier whose class vectors are fixed: logits s ⟨x / ‖x‖, a_c⟩.

    Args:
        frame: (C, d) unit rows, for example of `simplex_etf` or `grassmannian_frame`.
        scale: s, above 0.
        normalize: whether features are divided by their norms.

    Raises:
        ValueError: if rows are not unit vectors or the scale is not positive.

    >>> head = FrameClassifier(simplex_etf(3, 2), scale=8.0)
    >>> head(torch.randn(5, 2)).shape
    torch.Size([5, 3])
    """

    frame: Tensor

    @checked
    def __init__(self, frame: Float[Tensor, "c d"], scale: Positive = 16.0, *, normalize: bool = True) -> None:
        super().__init__()
        if bool(((frame.double().norm(dim=1) - 1).abs() > 1e-4).any()):
            raise ValueError("the rows of a frame must be unit vectors")
        self.register_buffer("frame", frame.double())
        self.scale, self.normalize = scale, normalize

    @checked
    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits."""
        return self.scale * (self.seen(features) @ self.frame.T.to(features.dtype))

    @checked
    def loss(
        self,
        features: Float[Tensor, "n d"],
        target: ClassTarget,
        kind: Literal["cross_entropy", "dot_regression", "mse", "cosine_deviation"] = "cross_entropy",
        *,
        cross_entropy_share: Probability = 0.0,
    ) -> Float[Tensor, ""]:
        """Training towards the frame.

        Args:
            features: (n, d).
            target: (n,) classes.
            kind: "cross_entropy"; "dot_regression", half the squared distance of the cosine from 1, which pulls only
                (Yang et al., 2022; reconstructed); "mse", the squared distance to the class's vector times the scale;
                "cosine_deviation", how far the cosines with all vectors are from those of the class's own vector,
                squared, mean over classes (HAFrame; the mean is reconstructed).
            cross_entropy_share: β, in [0, 1]: the loss is β of cross-entropy and 1 − β of the kind.
        """
        check_classes(target, len(self.frame))
        if kind == "cross_entropy" or cross_entropy_share == 1:
            return cross_entropy(self(features), target)
        value = self._pull(features, target, kind)
        if not cross_entropy_share:
            return value
        return cross_entropy_share * cross_entropy(self(features), target) + (1 - cross_entropy_share) * value

    def _pull(self, features: Tensor, target: Tensor, kind: str) -> Tensor:
        wanted = self.frame.to(features.dtype)[target]
        if kind == "mse":
            return (features - self.scale * wanted).square().sum(1).mean()
        unit = normalize(features, dim=1)
        if kind == "dot_regression":
            return ((unit * wanted).sum(1) - 1).square().mean() / 2
        return cosines(unit - wanted, self.frame.to(features.dtype)).square().mean()

    @property
    def weight(self) -> Float[Tensor, "c d"]:
        """Of the linear layer that this is on the features that it sees: s A."""
        return self.scale * self.frame

    def seen(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Features as they meet the frame: divided by their norms, if `normalize`."""
        return normalize(features, dim=1) if self.normalize else features
