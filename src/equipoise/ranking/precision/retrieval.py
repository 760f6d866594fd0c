"""Retrieval by average precision: every embedding of a batch is a query that should rank its own class first.

Each anchor is one query of `auprc`: the other samples of its class are relevant, the samples of other classes are not.
The prior of a class as a query is `prior_mul` · (its count / the largest count), as in the authors' code; it takes the
place of the share of relevant items in the whole data, and works as a temperature. One vector v per class follows the
similarities of its relevant pairs.

    L = mean over anchors of their query loss (the mean of r / (1 + r) over positives) + weight · semi-variance

Wen et al., "Exploring the Algorithm-Dependent Generalization of AUPRC Optimization with List Stability", NeurIPS 2022
(SOPRC).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from equipoise.core.distributed import gather_batch
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, NonNegative, OpenFraction, Positive, Probability, Range, Scalar
from equipoise.ranking.precision.auprc import (
    SpreadCount,
    semi_variance,
    soprc_interpolate,
    starting_values,
    true_positive_rate,
)

Embeddings: TypeAlias = Float[Tensor, "n d"]
ClassLabels: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(None)]

# Entries of the table of distances, pairs × batch, that is held at once.
_TABLE = 1 << 22


@checked
def embedding_similarity(embeddings: Float[Tensor, "n d"], *, normalize: bool = True) -> Float[Tensor, "n n"]:
    """Cosine similarities of all pairs, or inner products of embeddings that are normalised already.

    Raises:
        ValueError: if an embedding has norm zero where it is to be normalised.

    >>> embedding_similarity(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    unit = unit_embeddings(embeddings) if normalize else embeddings
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.T


def unit_embeddings(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Embeddings divided by their norms.

    Raises:
        ValueError: if one has norm zero.
    """
    norm = embeddings.norm(dim=1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError(f"embedding {int((norm == 0).nonzero()[0, 0])} has norm zero, so that its cosine is undefined")
    return embeddings / norm


@checked
def soprc_batch_loss(
    similarity: Float[Tensor, "n n"],
    target: ClassLabels,
    v: Float[Tensor, "ids m"],
    priors: Annotated[Float[Tensor, " ids"], Range(0, 1, low_open=True, high_open=True)],
    *,
    tau1: Positive = 0.1,
    tau2: Positive = 1e-3,
    tpr_grad: bool = False,
) -> Scalar:
    """The mean query loss over all anchors, so that a large class weighs no more a query than a small one.

    Args:
        similarity: (n, n) similarity of every pair; the diagonal is not looked at.
        target: (n,) class of each sample, an index into the rows of v.
        v: (ids, M) moving picture of each class.
        priors: (ids,) share π of relevant items of each class as a query, in (0, 1).
        tau1: as in `soprc_query_loss`.
        tau2: as in `soprc_query_loss`.
        tpr_grad: as in `soprc_query_loss`.

    Returns:
        The mean over anchors; those without a positive or a negative are left out.

    Raises:
        ValueError: if a class has no row, or no anchor has both a positive and a negative.

    >>> similarity = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.1], [0.0, 0.1, 1.0]])
    >>> soprc_batch_loss(similarity, torch.tensor([0, 0, 1]), torch.zeros(2, 4), torch.tensor([0.1, 0.1]))
    tensor(0.)
    """
    _check_classes(target, v)
    same = target[:, None] == target
    anchors, positives = (same & ~torch.eye(len(target), dtype=torch.bool, device=same.device)).nonzero(as_tuple=True)
    if not len(anchors) or bool(same.all()):
        raise ValueError(
            "SOPRC needs >= 2 ids and >= 2 samples of one id in a batch; draw it with IdentityBatchSampler"
        )
    # Every pair of an anchor and a positive is a threshold.
    false_parts, step = [], max(1, _TABLE // len(target))
    for k in range(0, len(anchors), step):
        rows, columns = anchors[k : k + step], positives[k : k + step]
        lead = similarity[rows, columns, None] - similarity[rows]
        # Huber's loss from one side: 0 above τ, a parabola, and a line below 0.
        short = (tau1 - lead).clamp_min(0) / tau1
        steps = torch.where(short <= 1, short.square(), 2 * short - 1)
        negative = ~same[rows]
        false_parts.append(torch.where(negative, steps, 0).sum(1) / negative.sum(1))
    ids = target[anchors]
    true_positives = true_positive_rate(similarity[anchors, positives], v[ids].to(similarity), tau2, grad=tpr_grad)
    prior = priors[ids].to(similarity)
    false_part = (1 - prior) * torch.cat(false_parts)
    # Each anchor is one query, whatever the number of its positives.
    num_positives = torch.bincount(anchors, minlength=len(target))
    terms = false_part / (false_part + prior * true_positives) / num_positives[anchors]
    return terms.sum() / (num_positives > 0).sum()


def class_pictures(
    similarity: Float[Tensor, "n n"], target: Int[Tensor, " n"], num_v: int
) -> tuple[Int[Tensor, " present"], Float[Tensor, "present m"]]:
    """The interpolated similarities of each class that has a pair in the batch, averaged over its anchors.

    >>> similarity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> class_pictures(similarity, torch.tensor([0, 0, 1]), 2)
    (tensor([0]), tensor([[0.5000, 0.5000]]))
    """
    ids, pictures = [], []
    for label in target.unique().tolist():
        members = (target == label).nonzero().squeeze(1)
        size = len(members)
        if size < 2:
            continue
        block = similarity[members[:, None], members]
        others = block[~torch.eye(size, dtype=torch.bool, device=block.device)].view(size, size - 1)
        ids.append(label)
        pictures.append(soprc_interpolate(others, num_v).mean(0))
    if not ids:
        return target.new_zeros(0), similarity.new_zeros(0, num_v)
    return target.new_tensor(ids), torch.stack(pictures)


class SOPRCLoss(nn.Module):
    """Average precision over embeddings, each anchor a query.

    Args:
        class_counts: number of samples per class in the data; class k's count at place k.
        tau1: as in `soprc_query_loss`.
        tau2: as in `soprc_query_loss`.
        beta: rate of the moving mean of v, in [0, 1].
        prior_mul: prior of the most frequent class, in (0, 1).
        num_v: M, values that follow a class.
        tpr_grad: as in `soprc_query_loss`.
        semi_variance: weights of the positives' and negatives' spread.
        semi_variance_weight: weight of both.
        normalize: divide the embeddings by their norms; False if they are normalised already.
        gather: take the embeddings of all processes of torch.distributed, as queries and as items; see
            `core.distributed`.

    Raises:
        ValueError: in `forward`, unlike the binary losses, if no anchor has both a positive and a negative, since a
            sampler that draws such batches would train nothing.

    >>> x, y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    >>> x[range(60), y] += 2
    >>> model, loss = torch.nn.Linear(8, 4), SOPRCLoss([20, 20, 20])
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    >>> start = loss(model(x), y).item()
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()
    ...     optimizer.step()
    >>> loss(model(x), y).item() < start
    True
    """

    v: Tensor
    priors: Tensor

    @checked
    def __init__(
        self,
        class_counts: Sequence[Count] | Int[Tensor, " ids"],
        tau1: Positive = 0.1,
        tau2: Positive = 1e-3,
        beta: Probability = 0.1,
        prior_mul: OpenFraction = 0.1,
        num_v: SpreadCount = 100,
        tpr_grad: bool = False,
        semi_variance: Sequence[NonNegative] = (1.0, 5.0),
        semi_variance_weight: NonNegative = 1.0,
        normalize: bool = True,
        *,
        gather: bool = False,
    ) -> None:
        super().__init__()
        self.gather = gather
        counts = torch.as_tensor(class_counts)
        if not bool((counts > 0).all()):
            raise ValueError(f"class_counts must be at least 1 for each class, got {counts.tolist()}")
        self.tau1, self.tau2, self.beta, self.tpr_grad, self.normalize = tau1, tau2, beta, tpr_grad, normalize
        self.semi_variance, self.semi_variance_weight = semi_variance, semi_variance_weight
        self.register_buffer("priors", prior_mul * counts.double() / counts.max())
        self.register_buffer("v", starting_values(num_v).repeat(len(counts), 1))

    def forward(self, embeddings: Embeddings, target: ClassLabels) -> Scalar:
        """The loss of embeddings (n, d) by classes (n,); v moves first, in training mode."""
        if self.gather:
            embeddings, target, _ = gather_batch(embeddings, target)
        return self._loss(embeddings, target)

    @checked
    def _loss(self, embeddings: Embeddings, target: ClassLabels) -> Scalar:
        _check_classes(target, self.v)
        similarity = embedding_similarity(embeddings, normalize=self.normalize)
        if self.training:
            with torch.no_grad():
                ids, pictures = class_pictures(similarity, target, self.v.shape[1])
                self.v[ids] = self.v[ids].lerp(pictures.to(self.v), self.beta)
        loss = soprc_batch_loss(
            similarity, target, self.v, self.priors, tau1=self.tau1, tau2=self.tau2, tpr_grad=self.tpr_grad
        )
        if self.semi_variance_weight:
            same = target[:, None] == target
            itself = torch.eye(len(target), dtype=torch.bool, device=same.device)
            spread = semi_variance(similarity[same & ~itself], similarity[~same], *self.semi_variance)
            loss = loss + self.semi_variance_weight * spread
        return loss

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"ids={len(self.v)}, tau1={self.tau1}, tau2={self.tau2}, beta={self.beta}, num_v={self.v.shape[1]}"


def _check_classes(target: Tensor, v: Tensor) -> None:
    if int(target.max()) >= len(v):
        raise ValueError(f"target holds the value {int(target.max())}, wanted class indices from 0 to {len(v) - 1}")
