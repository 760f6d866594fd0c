"""Rank base above new inputs, counting a pair by how surely both of its samples are classified.

    L = 1 / (N_b N_n)  Σ_i Σ_j  φ_b(i) φ_n(j) (γ − (r_i − r_j))²

r is higher for base samples, φ are gates: soft forms of "classified right", so that L is the relaxed complement of
OpenworldAUC (`openworld.prompts.openworld_auc`). New classes have no images in training, so base classes play their
part: with K detectors, base class j is pseudo-new for detector j mod K and pseudo-base for the others. At test time a
detector sees the names of all classes, and the base-to-new score is its largest probability of a pseudo-base class,

    r(x) = max_k max_{c pseudo-base for k} softmax(z_k(x))_c

Hua et al., "OpenworldAUC: Towards Unified Evaluation and Optimization for Open-world Prompt Tuning", ICML 2025; loss,
partition and score as read in the authors' code. Their code adds a padding class where K does not divide the number of
classes; there is none here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import Count, MayBeEmpty, Positive, Range, Scalar, Scores
from equipoise.core.validate import warn_once

BaseSide: TypeAlias = Annotated[Float[Tensor, " n_base"], MayBeEmpty()]
NewSide: TypeAlias = Annotated[Float[Tensor, " n_new"], MayBeEmpty()]
BaseGate: TypeAlias = Annotated[BaseSide, Range(0)]
NewGate: TypeAlias = Annotated[NewSide, Range(0)]


@checked
def gated_pairwise_auc_loss(
    base_scores: BaseSide,
    new_scores: NewSide,
    base_gate: BaseGate | None = None,
    new_gate: NewGate | None = None,
    *,
    margin: Positive = 1.0,
    detach_gate: bool = True,
) -> Scalar:
    """Mean over all (base, new) pairs of the gated square loss; all pairs are counted in O(n_base + n_new).

    The mean is over the number of pairs, not over the weight of the gates: pairs that are gated out lower the loss.

    Args:
        base_scores: (n_base,) scores of base samples, higher for base; probabilities in the paper.
        new_scores: (n_new,) scores of (pseudo-)new samples.
        base_gate: (n_base,) weights of base samples, at least 0; 1 if absent.
        new_gate: (n_new,) weights of new samples, as `base_gate`.
        margin: γ, the difference of scores at which a pair costs nothing.
        detach_gate: take the gates as constants. The authors leave them attached, so that the loss also falls by
            making the classifier behind the gate less sure.

    Returns:
        The loss; zero, still attached to the graph, when a side is empty (warned once).

    >>> base, new = torch.tensor([0.9, 0.6]), torch.tensor([0.4])
    >>> gated_pairwise_auc_loss(base, new, torch.tensor([0.7, 0.5]), torch.tensor([0.5]))
    tensor(0.1238)
    """
    if not len(base_scores) or not len(new_scores):
        warn_once("the gated pairwise loss is zero: it needs both base and new scores, use larger batches")
        return attached_zero(base_scores, new_scores)
    base = torch.ones_like(base_scores) if base_gate is None else base_gate
    new = torch.ones_like(new_scores) if new_gate is None else new_gate
    if detach_gate:
        base, new = base.detach(), new.detach()
    # The shared kernel divides by the gates' weight, the definition by the number of pairs.
    return pairwise_loss(base_scores, new_scores, "square", margin, base, new) * base.mean() * new.mean()


class GatedPairwiseAUCLoss(nn.Module):
    """`gated_pairwise_auc_loss` as a module.

    Args:
        margin: as in `gated_pairwise_auc_loss`.
        detach_gate: as in `gated_pairwise_auc_loss`.

    >>> x, new = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), torch.arange(200) < 80
    >>> x, gate = x - new[:, None].float(), torch.linspace(0.5, 0.73, 200)
    >>> model, loss = torch.nn.Linear(2, 1), GatedPairwiseAUCLoss()
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> for _ in range(50):
    ...     r = model(x).squeeze(1).sigmoid()
    ...     optimizer.zero_grad()
    ...     value = loss(r[~new], r[new], gate[~new], gate[new])
    ...     value.backward()
    ...     optimizer.step()
    >>> value.item() < 0.25
    True
    """

    @checked
    def __init__(self, margin: Positive = 1.0, detach_gate: bool = True) -> None:
        super().__init__()
        self.margin, self.detach_gate = margin, detach_gate

    def forward(
        self,
        base_scores: BaseSide,
        new_scores: NewSide,
        base_gate: BaseGate | None = None,
        new_gate: NewGate | None = None,
    ) -> Scalar:
        """The loss; arguments as `gated_pairwise_auc_loss`."""
        return gated_pairwise_auc_loss(
            base_scores, new_scores, base_gate, new_gate, margin=self.margin, detach_gate=self.detach_gate
        )

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"margin={self.margin}, detach_gate={self.detach_gate}"


class PseudoPartition(NamedTuple):
    """How one detector sees the base classes.

    Attributes:
        pseudo_base: its base classes, rising.
        pseudo_new: the base classes that are new to it, rising.
        labels: of every base class, its place in `pseudo_base`, or −1.
    """

    pseudo_base: Int[Tensor, " base"]
    pseudo_new: Int[Tensor, " new"]
    labels: Int[Tensor, " classes"]


@checked
def pseudo_base_new_partitions(num_classes: Count, num_detectors: Count) -> list[PseudoPartition]:
    """Deal the base classes out to detectors, so that each is pseudo-new for exactly one of them.

    Args:
        num_classes: C, of base classes.
        num_detectors: K, from 2 to C.

    Returns:
        One `PseudoPartition` per detector. Class j is pseudo-new for detector j mod K; where K does not divide C, the
        detectors differ in size by one.

    Raises:
        ValueError: unless 2 <= num_detectors <= num_classes: a detector needs classes of both kinds.

    >>> [found.labels.tolist() for found in pseudo_base_new_partitions(3, 2)]
    [[-1, 0, -1], [0, -1, 1]]
    """
    if not 2 <= num_detectors <= num_classes:
        raise ValueError(
            f"num_detectors={num_detectors!r} must lie between 2 and the number of base classes, {num_classes}, so "
            "that every detector has pseudo-base and pseudo-new classes"
        )
    classes = torch.arange(num_classes)
    found = []
    for k in range(num_detectors):
        base = classes % num_detectors != k
        found.append(PseudoPartition(classes[base], classes[~base], torch.where(base, base.cumsum(0) - 1, -1)))
    return found


@checked
def base_to_new_score(
    logits: Float[Tensor, "detectors n classes"] | Sequence[Float[Tensor, "n _"]],
    num_pseudo_base: Count | Sequence[Count],
) -> Scores:
    """The base-to-new score: the largest probability that a detector gives to one of its pseudo-base classes.

    Args:
        logits: of every detector over all classes, its pseudo-base classes first; (K, n, C), or a list of (n, C_k).
        num_pseudo_base: how many of the first classes are pseudo-base, for all detectors or each.

    Returns:
        (n,) in (0, 1], higher for base; float64, in which the surest detectors do not tie so soon.

    Raises:
        ValueError: on a bad argument, by name; if the detectors differ in n, or have no such number of classes.

    >>> z = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 9.0]]]).log1p()
    >>> base_to_new_score(z, 2)
    tensor([0.6000, 0.0833], dtype=torch.float64)
    """
    each = list(logits)
    counts = [num_pseudo_base] * len(each) if isinstance(num_pseudo_base, int) else list(num_pseudo_base)
    if not each or len(counts) != len(each):
        raise ValueError(
            f"logits of {len(each)} detectors and num_pseudo_base of {len(counts)}: there must be at least one "
            "detector, and a number for each of them or one for all"
        )
    best = []
    for k, (z, count) in enumerate(zip(each, counts, strict=True)):
        if len(z) != len(each[0]):
            raise ValueError(f"logits[{k}] has {len(z)} samples, and logits[0] {len(each[0])}")
        if count > z.shape[1]:
            raise ValueError(f"num_pseudo_base={count} must be at most {z.shape[1]}, the number of classes")
        best.append(z.double().softmax(1)[:, :count].max(1).values)
    return torch.stack(best).max(0).values
