"""Which auxiliary outliers to train with: compare how far the features of each candidate set spread.

    d(k) = ‖ (σ₁, ..., σ_k)(known) − (σ₁, ..., σ_k)(candidate) ‖₂

σ are the singular values of a batch of features (B, d) from a frozen, pretrained backbone, not centred, averaged over
batches. They grow with √B, so both sides need batches of one size. Outliers too unlike the known samples are told apart
already and teach little; the distance says so before anything is trained.

Li et al., "Unknown-aware Multi-label Learning by Energy Distribution Gap Expansion", AAAI 2025 (EDGE). The formula
follows the authors' code where it is what the paper says: that code sums over *all* singular values, times √k. That a
smaller distance is better is inferred from a figure, so `select_outlier_set` returns the whole ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Scalar

# A Gram matrix squares the singular values, and with them the rounding error of the small ones: from this share of the
# largest downwards they are taken from the features themselves.
_GRAM_RANGE = 1e-3


@checked
def leading_singular_values(features: Float[Tensor, "batch d"], k: Count = 32) -> Float[Tensor, " k"]:
    """The k largest singular values of a batch of features, the largest first.

    Args:
        features: (B, d).
        k: from 1 to min(B, d).

    Returns:
        (k,) in float64.

    Raises:
        ValueError: on a bad argument, by name.

    >>> leading_singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), k=2)
    tensor([4., 3.], dtype=torch.float64)
    """
    if k > min(features.shape):
        raise ValueError(
            f"k={k} must lie in 1..{min(features.shape)}: a batch of {features.shape[0]} with {features.shape[1]} "
            "features has no more singular values"
        )
    x = features.detach().double()
    largest = x.abs().max()
    if not largest > 0:
        return x.new_zeros(k)
    x = x / largest
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).flip(0)[:k].clamp_min(0).sqrt()
    if values[-1] < _GRAM_RANGE * values[0]:
        values = torch.linalg.svdvals(x)[:k]
    return values * largest


@checked
def dilation_distance(
    id_features: Float[Tensor, "n d"], ood_features: Float[Tensor, "m d"], k: Count = 32, *, normalize: bool = False
) -> Scalar:
    """Distance between the k leading singular values of two batches of features.

    Args:
        id_features: (B, d) of known samples.
        ood_features: (B, d) of candidate outliers.
        k: how many singular values, at most B and d.
        normalize: divide the singular values by √B, which allows for batches of different sizes.

    Returns:
        A float64 scalar; no gradient flows.

    Raises:
        ValueError: on a bad argument, by name; if the batches differ in size without `normalize`.

    >>> dilation_distance(torch.eye(3), 3 * torch.eye(3), k=2)
    tensor(2.8284, dtype=torch.float64)
    """
    distance = DilationDistance(k, normalize=normalize)
    distance.update_id(id_features)
    distance.update_ood(ood_features)
    return distance.compute()


class DilationDistance:
    """`dilation_distance` of the mean singular values over many batches, which takes k numbers of memory per side.

    Args:
        k: as in `dilation_distance`.
        normalize: as in `dilation_distance`. Without it every batch of either side must have the same size, so drop
            incomplete ones.

    >>> distance = DilationDistance(k=2)
    >>> for scale in (1.0, 2.0):
    ...     distance.update_id(scale * torch.eye(3))
    ...     distance.update_ood(torch.eye(3))
    >>> distance.compute()
    tensor(0.7071, dtype=torch.float64)
    """

    @checked
    def __init__(self, k: Count = 32, *, normalize: bool = False) -> None:
        self.k, self.normalize = k, normalize
        self._shape: tuple[int, int] | None = None
        self._sums: dict[str, Tensor] = {}
        self._batches = {"id": 0, "ood": 0}

    def update_id(self, features: Float[Tensor, "batch d"]) -> None:
        """Take in a batch of features of known samples.

        Raises:
            ValueError: as `dilation_distance`.
        """
        self._update("id", features)

    def update_ood(self, features: Float[Tensor, "batch d"]) -> None:
        """Take in a batch of features of candidate outliers.

        Raises:
            ValueError: as `dilation_distance`.
        """
        self._update("ood", features)

    def compute(self) -> Scalar:
        """The distance so far.

        Raises:
            RuntimeError: if a side has had no batch.
        """
        return torch.linalg.vector_norm(self.singular_values("id") - self.singular_values("ood").to(self._device))

    @checked
    def singular_values(self, side: Literal["id", "ood"]) -> Float[Tensor, " k"]:
        """The mean singular values (k,) of a side.

        Raises:
            RuntimeError: if it has had no batch.
        """
        if not self._batches[side]:
            raise RuntimeError(f"there is no batch of the side {side!r} yet; call update_{side}(features) first")
        return self._sums[side] / self._batches[side]

    def reset_ood(self) -> None:
        """Forget the candidate outliers, so that the next set can be compared with the same known samples."""
        self._sums.pop("ood", None)
        self._batches["ood"] = 0

    @property
    def _device(self) -> torch.device:
        return self._sums["id"].device

    def _update(self, side: str, features: Tensor) -> None:
        values = leading_singular_values(features, self.k)
        size, width = features.shape
        if self._shape is None:
            self._shape = (size, width)
        elif width != self._shape[1]:
            raise ValueError(f"features have the width {width}, those before {self._shape[1]}; use one backbone")
        elif size != self._shape[0] and not self.normalize:
            raise ValueError(
                f"a batch of {size} follows batches of {self._shape[0]}, and singular values grow with the batch: use "
                "one batch size and drop incomplete batches, or set normalize=True"
            )
        if self.normalize:
            values = values / math.sqrt(size)
        self._sums[side] = self._sums[side] + values if side in self._sums else values
        self._batches[side] += 1


class RankedOutlierSet(NamedTuple):
    """A candidate set and its distance to the known samples."""

    name: str
    distance: float


@torch.no_grad()
@checked
def select_outlier_set(
    id_loader: Iterable[Any],
    candidates: Mapping[str, Iterable[Any]],
    feature_fn: Callable[[Any], Tensor],
    k: Count = 32,
    *,
    prefer: Literal["smallest", "largest"] = "smallest",
) -> list[RankedOutlierSet]:
    """Rank candidate outlier sets by their distance to the known samples, the preferred first.

    Args:
        id_loader: gives batches of known samples: inputs, or (inputs, ...) tuples. The first batch's size is that of
            all; incomplete batches, of any side, are left out.
        candidates: name → loader of candidate outliers, with the same batch size.
        feature_fn: inputs to features (B, ...), which are flattened: a pretrained backbone in evaluation mode.
        k: as in `dilation_distance`.
        prefer: "smallest" or "largest" distance first. That the smallest is best is inferred, so look at all.

    Returns:
        (name, distance) of every candidate; equal distances in the order given.

    Raises:
        ValueError: as `dilation_distance`; if there is no candidate, or a loader gives no complete batch.

    >>> known = [torch.eye(3), torch.eye(3)]
    >>> sets = {"far": [9 * torch.eye(3)], "near": [2 * torch.eye(3)]}
    >>> select_outlier_set(known, sets, lambda x: x, k=1)
    [RankedOutlierSet(name='near', distance=1.0), RankedOutlierSet(name='far', distance=8.0)]
    """
    if not candidates:
        raise ValueError("candidates is empty; pass {name: loader} with at least one outlier set")
    distance = DilationDistance(k)
    size = 0
    for features in _features(id_loader, feature_fn):
        size = size or len(features)
        if len(features) == size:
            distance.update_id(features)
    if not size:
        raise ValueError("id_loader gives no batch")
    ranking = []
    for name, loader in candidates.items():
        distance.reset_ood()
        sizes = set()
        for features in _features(loader, feature_fn):
            sizes.add(len(features))
            if len(features) == size:
                distance.update_ood(features)
            elif len(features) > size:
                break
        if not sizes or max(sizes) != size:
            raise ValueError(
                f"the batches of candidate {name!r} have sizes {sorted(sizes)}, those of id_loader {size}; singular "
                "values grow with the batch, so use one size"
            )
        ranking.append(RankedOutlierSet(name, float(distance.compute())))
    return sorted(ranking, key=lambda found: found.distance, reverse=prefer == "largest")


def _features(loader: Iterable[Any], feature_fn: Callable[[Any], Tensor]) -> Iterable[Tensor]:
    for batch in loader:
        yield feature_fn(batch[0] if isinstance(batch, tuple | list) else batch).flatten(1)
