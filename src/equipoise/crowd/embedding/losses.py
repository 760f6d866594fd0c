"""Losses of triplets "a is nearer to b than to c", of the squared distances d²_ab and d²_ac.

    gnmds            max(0, margin + d²_ab − d²_ac)                                        Agarwal et al. 2007
    ckl              −log (d²_ac + δ) / (d²_ab + d²_ac + 2δ)                               Tamuz et al. 2011
    ste              softplus(d²_ab − d²_ac)                                               van der Maaten 2012
    tste             softplus((α + 1)/2 · [log1p(d²_ab/α) − log1p(d²_ac/α)])               the same
    soe              max(0, margin + d_ab − d_ac)²                                         Terada, von Luxburg 2014
    distributional   max(γ₀ − m, 0)^p + max(m − γ₀, 0)^p,  m = d²_ac − d²_ab               Xu et al., AAAI 2019

The stochastic ones are in the form that does not divide by the sum of two exponentials, which is 0/0 for far points.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive
from equipoise.crowd.embedding.margins import Triplets
from equipoise.data.comparisons.triplets import check_triplets

Kind: TypeAlias = Literal["gnmds", "ckl", "ste", "tste", "soe", "distributional"]
Power: TypeAlias = Literal[1, 2]


@checked
def triplet_loss(
    embedding: Float[Tensor, "items dim"],
    triplets: Triplets,
    kind: Kind = "ste",
    *,
    reduction: Reduction = "mean",
    margin: Positive = 1.0,
    delta: Positive = 0.05,
    alpha: Positive | None = None,
    p: Power = 2,
    gamma0: Positive = 1.0,
    lower_weight: NonNegative = 1.0,
    upper_weight: NonNegative = 1.0,
) -> Float[Tensor, " ..."]:
    """The loss of triplets in an embedding.

    Args:
        embedding: (n, d).
        triplets: (t, 3): anchor, near, far.
        kind: see the module.
        reduction: "mean" or "sum" over triplets, or "none".
        margin: of "gnmds", in squared distances, and of "soe", in distances.
        delta: δ of "ckl".
        alpha: α of "tste", degrees of freedom; max(1, d − 1) by default.
        p: of "distributional".
        gamma0: γ₀, where "distributional" wants every margin.
        lower_weight: of margins below γ₀.
        upper_weight: of margins above γ₀; 0 makes "distributional" a hinge or squared hinge.

    Raises:
        ValueError: naming the first bad triplet, or on a bad argument, by name.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> triplet_loss(x, torch.tensor([[0, 1, 2]]), "gnmds"), triplet_loss(x, torch.tensor([[0, 2, 1]]), "gnmds")
    (tensor(0.), tensor(4.))
    """
    if not torch.compiler.is_compiling():
        check_triplets(triplets.cpu(), len(embedding))
    anchor, near, far = triplets.long().unbind(1)
    values = losses_of_distances(
        (embedding[anchor] - embedding[near]).square().sum(1),
        (embedding[anchor] - embedding[far]).square().sum(1),
        kind,
        margin=margin,
        delta=delta,
        alpha=degrees(alpha, embedding.shape[1]),
        p=p,
        gamma0=gamma0,
        lower_weight=lower_weight,
        upper_weight=upper_weight,
    )
    return reduce_losses(values, reduction)


def degrees(alpha: float | None, dim: int) -> float:
    """The degrees of freedom of "tste"."""
    return float(max(1, dim - 1)) if alpha is None else alpha


def losses_of_distances(near: Tensor, far: Tensor, kind: Kind, **settings: Any) -> Tensor:
    """(t,) losses of squared distances (t,), see the module."""
    if kind == "gnmds":
        return (settings["margin"] + near - far).clamp_min(0)
    if kind == "ckl":
        delta = settings["delta"]
        # The ratio first: what is far beyond δ would cancel in a difference of logarithms.
        return torch.log1p((near + delta) / (far + delta))
    if kind == "ste":
        return softplus(near - far)
    if kind == "tste":
        alpha = settings["alpha"]
        return softplus((alpha + 1) / 2 * (torch.log1p(near / alpha) - torch.log1p(far / alpha)))
    if kind == "soe":
        return (settings["margin"] + _root(near) - _root(far)).clamp_min(0).square()
    lack = settings["gamma0"] - (far - near)
    below, above = lack.clamp_min(0), (-lack).clamp_min(0)
    if settings["p"] == 2:
        below, above = below.square(), above.square()
    return settings["lower_weight"] * below + settings["upper_weight"] * above


def _root(squared: Tensor) -> Tensor:
    """The square root, with the slope 0 at 0, where a distance has none."""
    there = squared > 0
    return torch.where(there, torch.where(there, squared, 1.0).sqrt(), 0.0)


class TripletLoss(nn.Module):
    """`triplet_loss` as a module, for embeddings that a network makes.

    Args:
        kind: as in `triplet_loss`, like all others.
        reduction: "mean", "sum" or "none".
        margin: of "gnmds" and "soe".
        delta: of "ckl".
        alpha: of "tste".
        p: of "distributional".
        gamma0: of "distributional".
        lower_weight: of "distributional".
        upper_weight: of "distributional".

    >>> x = torch.nn.Parameter(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    >>> TripletLoss("tste")(x, torch.tensor([[0, 1, 2], [3, 4, 0]])).backward()
    >>> bool(x.grad.abs().sum() > 0)
    True
    """

    @checked
    def __init__(
        self,
        kind: Kind = "ste",
        *,
        reduction: Reduction = "mean",
        margin: Positive = 1.0,
        delta: Positive = 0.05,
        alpha: Positive | None = None,
        p: Power = 2,
        gamma0: Positive = 1.0,
        lower_weight: NonNegative = 1.0,
        upper_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.reduction: Reduction = reduction
        self.margin, self.delta, self.alpha = margin, delta, alpha
        self.p: Power = p
        self.gamma0, self.lower_weight, self.upper_weight = gamma0, lower_weight, upper_weight

    def forward(self, embedding: Float[Tensor, "items dim"], triplets: Triplets) -> Float[Tensor, " ..."]:
        """The loss of triplets (t, 3) in an embedding (n, d)."""
        return triplet_loss(
            embedding,
            triplets,
            self.kind,
            reduction=self.reduction,
            margin=self.margin,
            delta=self.delta,
            alpha=self.alpha,
            p=self.p,
            gamma0=self.gamma0,
            lower_weight=self.lower_weight,
            upper_weight=self.upper_weight,
        )

    def extra_repr(self) -> str:
        """The kind, as `print` shows it."""
        return f"kind={self.kind!r}, reduction={self.reduction!r}"
