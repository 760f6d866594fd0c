"""Retrieval by average precision: every embedding of a batch is a query that should rank its own class first.

Each anchor is one query of `auprc`: the other samples of its class are relevant, the samples of other classes are not.
The prior of a class as a query is `prior_mul` · (its count / the largest count), as in the authors' code; it takes the
place of the share of relevant items in the whole data, and works as a temperature. A vector v a class follows the
similarities of its relevant pairs.

    L = mean over anchors of their query loss (the mean of r / (1 + r) over positives) + weight · semi-variance

Wen et al., "Exploring the Algorithm-Dependent Generalization of AUPRC Optimization with List Stability", NeurIPS 2022
(SOPRC).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.validate import check_finite, check_fraction, check_nonnegative, check_positive
from equipoise.ranking.precision.auprc import semi_variance, soprc_interpolate, starting_values, true_positive_rate

# Entries of the table of distances, pairs × batch, that is held at once.
_TABLE = 1 << 22


def embedding_similarity(embeddings: Float[Tensor, "n d"], *, normalize: bool = True) -> Float[Tensor, "n n"]:
    """Cosine similarities of all pairs, or inner products of embeddings that are normalised already.

    Raises:
        ValueError: if an embedding is not finite, or has norm zero where it is to be normalised.

    >>> embedding_similarity(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    unit = unit_embeddings(embeddings) if normalize else embeddings
    return unit @ unit.T


def unit_embeddings(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Embeddings divided by their norms.

    Raises:
        ValueError: if one is not finite or has norm zero.
    """
    check_finite("embeddings", embeddings)
    norm = embeddings.norm(dim=1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError(f"embedding {int((norm == 0).nonzero()[0, 0])} has norm zero, so that its cosine is undefined")
    return embeddings / norm


def soprc_batch_loss(
    similarity: Float[Tensor, "n n"],
    target: Int[Tensor, " n"],
    v: Float[Tensor, "ids m"],
    priors: Float[Tensor, " ids"],
    *,
    tau1: float = 0.1,
    tau2: float = 1e-3,
    tpr_grad: bool = False,
) -> Float[Tensor, ""]:
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
        ValueError: if no anchor has both a positive and a negative.

    >>> similarity = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.1], [0.0, 0.1, 1.0]])
    >>> soprc_batch_loss(similarity, torch.tensor([0, 0, 1]), torch.zeros(2, 4), torch.tensor([0.1, 0.1]))
    tensor(0.)
    """
    check_positive("tau1", tau1)
    check_positive("tau2", tau2)
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
        class_counts: samples of every class in the data; class k's count at place k.
        tau1: as in `soprc_query_loss`.
        tau2: as in `soprc_query_loss`.
        beta: rate of the moving mean of v, in [0, 1].
        prior_mul: prior of the most frequent class, in (0, 1).
        num_v: M, values that follow a class.
        tpr_grad: as in `soprc_query_loss`.
        semi_variance: weights of the positives' and negatives' spread.
        semi_variance_weight: weight of both.
        normalize: divide the embeddings by their norms; False if they are normalised already.

    Raises:
        ValueError: if a count is not positive or a setting out of range; in `forward`, unlike the binary losses, if no
            anchor has both a positive and a negative, since a sampler that draws such batches would train nothing.

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

    def __init__(
        self,
        class_counts: Sequence[int] | Int[Tensor, " ids"],
        tau1: float = 0.1,
        tau2: float = 1e-3,
        beta: float = 0.1,
        prior_mul: float = 0.1,
        num_v: int = 100,
        tpr_grad: bool = False,
        semi_variance: tuple[float, float] = (1.0, 5.0),
        semi_variance_weight: float = 1.0,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        counts = torch.as_tensor(class_counts)
        if counts.ndim != 1 or not len(counts) or bool((counts <= 0).any()):
            raise ValueError(f"class_counts must be positive numbers, one a class, got {counts.tolist()}")
        check_positive("tau1", tau1)
        check_positive("tau2", tau2)
        check_fraction("beta", beta, zero=True)
        check_fraction("prior_mul", prior_mul, one=False)
        check_nonnegative("semi_variance_weight", semi_variance_weight)
        self.tau1, self.tau2, self.beta, self.tpr_grad, self.normalize = tau1, tau2, beta, tpr_grad, normalize
        self.semi_variance, self.semi_variance_weight = semi_variance, semi_variance_weight
        self.register_buffer("priors", prior_mul * counts.double() / counts.max())
        self.register_buffer("v", starting_values(num_v).repeat(len(counts), 1))

    def forward(self, embeddings: Float[Tensor, "n d"], target: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """The loss of embeddings (n, d) by classes (n,); v moves first, in training mode."""
        if target.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings and target must have shapes (n, d) and (n,), got {tuple(embeddings.shape)} and "
                f"{tuple(target.shape)}"
            )
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < len(self.v):
            raise ValueError(
                f"target must hold classes from 0 to {len(self.v) - 1}, got {int(target.min())} to {int(target.max())}"
            )
        wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        similarity = embedding_similarity(wide, normalize=self.normalize)
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
        return loss.to(embeddings.dtype)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"ids={len(self.v)}, tau1={self.tau1}, tau2={self.tau2}, beta={self.beta}, num_v={self.v.shape[1]}"
