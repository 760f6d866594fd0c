"""Multi-label AUC: every label ranks the samples by its own column of scores, and a rare label counts like any other.

    R = mean over labels c of  1/(N_c⁺ N_c⁻)  Σ_{y_pc = 1} Σ_{y_qc = 0}  ℓ( s_pc − s_qc )

N_c⁺ and N_c⁻ count the samples with and without label c. A sample whose label c is unknown is in neither sum of that
label, and in those of all others. Each column is one binary problem, found exactly in O(n log n) at most
(`core.pairs.loss`).

That is the macro AUROC with a surrogate in place of its steps. It compares samples within a label; to rank the labels
of a sample there are the losses of `equipoise.openworld`.

Yang et al., "Learning with Multiclass AUC: Theory and Algorithms", TPAMI 2021, arXiv 2107.13171, for the fast
evaluation of its one-vs-rest form; that labels need not exclude each other is our generalisation.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from equipoise.core.distributed import gather_rows
from equipoise.core.labels import LabelMask, LabelMatrix, Labels, check_ignore_index, read_labels
from equipoise.core.pairs.loss import SurrogateLike, columnwise_pairwise_loss
from equipoise.core.pairs.surrogates import resolve_surrogate
from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import LabelScores, MayBeEmpty, NonNegative, SampleWeight, Scalar
from equipoise.core.validate import warn_once


@checked
def multilabel_auc_loss(
    logits: LabelScores,
    target: LabelMatrix,
    *,
    mask: LabelMask | None = None,
    ignore_index: int | None = None,
    surrogate: SurrogateLike = "squared_hinge",
    margin: NonNegative = 1.0,
    sample_weight: SampleWeight | None = None,
) -> Scalar:
    """Surrogate risk of the macro AUROC of a multi-label problem.

    Args:
        logits: (n, C) raw scores; each column is ranked by itself, so that scales of columns may differ.
        target: (n, C) in {0, 1}, NaN where unknown.
        mask: (n, C), True where the label is known.
        ignore_index: what marks unknown labels in the target, such as −1.
        surrogate: the loss of one pair as a function of s_p − s_q; a name of `core.pairs.surrogates` or a function.
        margin: margin of the surrogate, at least 0, or its rate, greater than 0, in units of the score.
        sample_weight: (n,) non-negative; a pair weighs the product of its two samples' weights.

    Returns:
        The mean over the labels that have a sample with and one without; the others are left out. Zero, attached to the
        graph, where no label is left (warned once).

    Raises:
        ValueError: on a bad argument, by name.

    >>> logits = torch.tensor([[2.0, 0.0], [0.5, 3.0], [0.0, 1.0]])
    >>> multilabel_auc_loss(logits, torch.tensor([[1, 1], [0, 0], [0, -1]]), ignore_index=-1, surrogate="hinge")
    tensor(2.)
    """
    labels = read_labels(target, mask, ignore_index)
    return _macro(logits, labels, surrogate, margin, sample_weight)


class MultilabelAUCLoss(nn.Module):
    """`multilabel_auc_loss` as a module.

    Args:
        surrogate: as in `multilabel_auc_loss`.
        margin: as in `multilabel_auc_loss`.
        ignore_index: as in `multilabel_auc_loss`.
        gather: rank the samples of all processes of torch.distributed; see `core.distributed`.

    >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    >>> y = (x @ torch.randn(4, 3, generator=torch.Generator().manual_seed(1)) > 1.5).long()
    >>> model, loss = torch.nn.Linear(4, 3), MultilabelAUCLoss()
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    >>> start = loss(model(x), y).item()
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    >>> loss(model(x), y).item() < start
    True
    """

    @checked
    def __init__(
        self,
        surrogate: SurrogateLike = "squared_hinge",
        margin: NonNegative = 1.0,
        *,
        ignore_index: int | None = None,
        gather: bool = False,
    ) -> None:
        super().__init__()
        resolve_surrogate(surrogate, margin)
        check_ignore_index(ignore_index)
        self.surrogate, self.margin = surrogate, margin
        self.ignore_index, self.gather = ignore_index, gather

    @checked
    def forward(
        self,
        logits: Annotated[LabelScores, MayBeEmpty()],
        target: Annotated[LabelMatrix, MayBeEmpty()],
        mask: Annotated[LabelMask, MayBeEmpty()] | None = None,
        sample_weight: Annotated[SampleWeight, MayBeEmpty()] | None = None,
    ) -> Scalar:
        """The risk of logits (n, C) by targets (n, C); a process of several may hold an empty batch."""
        labels = read_labels(target, mask, self.ignore_index)
        if self.gather:
            logits = gather_rows(logits)
            labels = Labels(*(gather_rows(side.byte()).bool() for side in labels))
            sample_weight = None if sample_weight is None else gather_rows(sample_weight)
        return _macro(logits, labels, self.surrogate, self.margin, sample_weight)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"surrogate={getattr(self.surrogate, 'name', self.surrogate)}, margin={self.margin}"


def _macro(
    logits: Tensor, labels: Labels, surrogate: SurrogateLike, margin: float, sample_weight: Tensor | None
) -> Tensor:
    weight = logits.new_ones(len(logits), dtype=torch.float64)
    if sample_weight is not None:
        weight = sample_weight.detach().double()
    pos_weight, neg_weight = (torch.where(side, weight[:, None], 0.0) for side in labels)
    ranked = (pos_weight.sum(0) > 0) & (neg_weight.sum(0) > 0)
    if not bool(ranked.any()):
        warn_once("the multi-label AUC loss is zero: no label has both a sample with it and one without it")
        return attached_zero(logits)
    return columnwise_pairwise_loss(logits, pos_weight, neg_weight, surrogate, margin)[ranked].mean()
