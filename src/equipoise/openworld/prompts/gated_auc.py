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
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.pairs.loss import pairwise_loss
from equipoise.core.validate import check_finite, check_nonempty, check_positive, check_weights, warn_once


def gated_pairwise_auc_loss(
    base_scores: Float[Tensor, " n_base"],
    new_scores: Float[Tensor, " n_new"],
    base_gate: Float[Tensor, ...] | None = None,
    new_gate: Float[Tensor, ...] | None = None,
    *,
    margin: float = 1.0,
    detach_gate: bool = True,
) -> Float[Tensor, ""]:
    """Mean over all (base, new) pairs of the gated square loss; all pairs are counted in O(n_base + n_new).

    The mean is over the number of pairs, not over the weight of the gates: pairs that are gated out lower the loss.

    Args:
        base_scores: (n_base,) scores of base samples, higher for base; probabilities in the paper.
        new_scores: (n_new,) scores of (pseudo-)new samples.
        base_gate: weights of base samples, at least 0, (n_base,) or what broadcasts to it; 1 if absent.
        new_gate: weights of new samples, as `base_gate`.
        margin: γ, the difference of scores at which a pair costs nothing.
        detach_gate: take the gates as constants. The authors leave them attached, so that the loss also falls by
            making the classifier behind the gate less sure.

    Returns:
        The loss; zero, still attached to the graph, when a side is empty (warned once).

    Raises:
        ValueError: if a score or gate is not finite, a gate is negative or does not fit its scores, or margin <= 0.

    >>> base, new = torch.tensor([0.9, 0.6]), torch.tensor([0.4])
    >>> gated_pairwise_auc_loss(base, new, torch.tensor([0.7, 0.5]), torch.tensor([0.5]))
    tensor(0.1238)
    """
    gates = []
    for name, scores, gate in (("base", base_scores, base_gate), ("new", new_scores, new_gate)):
        if scores.ndim != 1:
            raise ValueError(f"{name}_scores must have shape (n,), got {tuple(scores.shape)}; flatten it")
        check_finite(f"{name}_scores", scores)
        gates.append(_gate(f"{name}_gate", gate, scores, detach_gate))
    check_positive("margin", margin)
    if not len(base_scores) or not len(new_scores):
        warn_once("the gated pairwise loss is zero: it needs both base and new scores, use larger batches")
        return base_scores.sum() * 0 + new_scores.sum() * 0
    base, new = gates
    mean = pairwise_loss(base_scores, new_scores, "square", margin, base, new)
    # The shared kernel divides by the gates' weight, the definition by the number of pairs.
    return mean * base.mean() * new.mean()


def _gate(name: str, gate: Tensor | None, scores: Tensor, detach: bool) -> Tensor:
    if gate is None:
        return torch.ones_like(scores)
    try:
        fitted = gate.expand(scores.shape)
    except RuntimeError:
        raise ValueError(
            f"{name} must have the shape of its scores {tuple(scores.shape)} or broadcast to it, got "
            f"{tuple(gate.shape)}"
        ) from None
    check_weights(name, fitted, scores)
    return (fitted.detach() if detach else fitted).to(scores.dtype)


class GatedPairwiseAUCLoss(nn.Module):
    """`gated_pairwise_auc_loss` as a module.

    Args:
        margin: as in `gated_pairwise_auc_loss`.
        detach_gate: as in `gated_pairwise_auc_loss`.

    Raises:
        ValueError: if the margin is not positive.

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

    def __init__(self, margin: float = 1.0, detach_gate: bool = True) -> None:
        super().__init__()
        check_positive("margin", margin)
        self.margin, self.detach_gate = margin, detach_gate

    def forward(
        self,
        base_scores: Float[Tensor, " n_base"],
        new_scores: Float[Tensor, " n_new"],
        base_gate: Float[Tensor, ...] | None = None,
        new_gate: Float[Tensor, ...] | None = None,
    ) -> Float[Tensor, ""]:
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


def pseudo_base_new_partitions(num_classes: int, num_detectors: int) -> list[PseudoPartition]:
    """Deal the base classes out to detectors, so that each is pseudo-new for exactly one of them.

    Args:
        num_classes: C, of base classes.
        num_detectors: K, from 2 to C.

    Returns:
        One `PseudoPartition` a detector. Class j is pseudo-new for detector j mod K; where K does not divide C, the
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


def base_to_new_score(
    logits: Float[Tensor, "detectors n classes"] | Sequence[Float[Tensor, "n _"]],
    num_pseudo_base: int | Sequence[int],
) -> Float[Tensor, " n"]:
    """The base-to-new score: the largest probability that a detector gives to one of its pseudo-base classes.

    Args:
        logits: of every detector over all classes, its pseudo-base classes first; (K, n, C), or a list of (n, C_k).
        num_pseudo_base: how many of the first classes are pseudo-base, for all detectors or each.

    Returns:
        (n,) in (0, 1], higher for base, at least float32. Very sure detectors give ties at 1; pass float64 logits to
        tell them apart further.

    Raises:
        ValueError: if there is no detector, shapes do not fit, a logit is not finite, or a number of pseudo-base
            classes is not between 1 and the number of classes.

    >>> z = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 9.0]]]).log1p()
    >>> base_to_new_score(z, 2)
    tensor([0.6000, 0.0833])
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
        if z.ndim != 2 or z.shape[0] != each[0].shape[0]:
            raise ValueError(
                f"logits of detector {k} must have shape (n, classes) with the n of the others, got {tuple(z.shape)}"
            )
        if not 1 <= count <= z.shape[1]:
            raise ValueError(f"num_pseudo_base={count!r} must lie between 1 and the {z.shape[1]} classes")
        check_finite(f"logits of detector {k}", z)
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        best.append(wide.softmax(1)[:, :count].max(1).values)
    check_nonempty("logits", each[0])
    return torch.stack(best).max(0).values
