"""Contrastive losses over all pairs of two sets of embeddings: InfoNCE, N-pair and NT-Xent in one kernel.

An anchor i has one or more positives among the candidates, with mean score s̄_i, and every other candidate that is not
excluded is a negative:

    L_i = log( offset + Σ_{j not excluded} exp(s_ij − s̄_i) )        s_ij = a_i · c_j / temperature

With one positive that is log(1 + offset + Σ_negatives exp(s_ij − s_i+)), so that offset 0 gives the cross-entropy of
naming the positive, and a constant > 0 a candidate that always scores log(offset) above the positive. Pairs of one
group (an identity, a picture, or a sample with itself) are no negatives of each other; a positive counts all the same.

    InfoNCE       candidates of another view or modality, positive i of anchor i, both normalised
    N-pair        the same with normalised candidates only: an anchor's norm is its own inverse temperature
    NT-Xent       2B views as anchors and as candidates, positive i ± B, and every view a group of its own

The table of scores is worked through by blocks of anchors and written out again for the gradient: O(n m d) time, and
the memory of a block. Where both sides are anchors in turn, one product serves both directions.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive

Normalized: TypeAlias = Literal["both", "candidates", "neither"]
"""Whose embeddings are divided by their norms."""

# Scores that are held at once.
_TABLE = 1 << 22
_EPS = 1e-12


class TwoWayLosses(NamedTuple):
    """Losses of both directions.

    Attributes:
        first: (n,) of the first side as anchors, the second as candidates.
        second: (n,) the other way round.
    """

    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]


@checked
def info_nce(
    anchors: Float[Tensor, "n d"],
    candidates: Float[Tensor, "m d"],
    positive: Int[Tensor, " n"] | Int[Tensor, "n p"] | None = None,
    *,
    groups: Int[Tensor, " n"] | None = None,
    candidate_groups: Int[Tensor, " m"] | None = None,
    normalize: Normalized = "both",
    temperature: Positive = 1.0,
    offset: NonNegative = 0.0,
    block_rows: Count | None = None,
) -> Float[Tensor, " n"]:
    """The loss of every anchor.

    Args:
        anchors: (n, d).
        candidates: (m, d).
        positive: (n,) or (n, p) index of each anchor's positives; None takes candidate i for anchor i.
        groups: (n,) of the anchors. Candidates of the same group are no negatives.
        candidate_groups: (m,) of the candidates; None takes those of the anchors, where m = n.
        normalize: which embeddings are divided by their norms.
        temperature: what scores are divided by.
        offset: a constant beside the sum over candidates.
        block_rows: anchors at a time; as many as make a table of 4 million scores by default.

    Returns:
        (n,) in the dtype of the embeddings, float32 for half precision. Gradients flow to both sides; a norm of zero
        gives scores of 0 and no gradient through the norm.

    Raises:
        ValueError: if a positive is no candidate, or there are groups on one side only.

    >>> one, two = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    >>> info_nce(one, two, temperature=0.5)
    tensor([0.4425, 0.2176])

    NT-Xent of two views of two pictures:

    >>> views, own = torch.cat([one, two]), torch.arange(4)
    >>> info_nce(views, views, own.roll(2), groups=own, temperature=0.5)
    tensor([0.5259, 0.3962, 0.5259, 1.0986])
    """
    held = _prepare(anchors, candidates, positive, groups, candidate_groups, normalize, temperature)
    blocks = _blocks(held, block_rows, two_way=False)
    return _loss(torch.cat([each.lse for each in blocks]), torch.cat([each.at for each in blocks]), offset)


@checked
def two_way_info_nce(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "n d"],
    *,
    groups: Int[Tensor, " n"] | None = None,
    normalize: Normalized = "both",
    temperature: Positive = 1.0,
    offset: NonNegative = 0.0,
    block_rows: Count | None = None,
) -> TwoWayLosses:
    """The losses of two sides whose rows belong together, each side's as anchors, from one product.

    Args:
        first: (n, d).
        second: (n, d), row i the positive of row i.
        groups: (n,) of the rows of both sides; other rows of the same group are no negatives.
        normalize: as in `info_nce`; "candidates" are those of each direction.
        temperature: as in `info_nce`.
        offset: as in `info_nce`.
        block_rows: as in `info_nce`.

    Returns:
        The losses (n,) of both directions.

    >>> one, two = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    >>> two_way_info_nce(one, two, temperature=0.5).second
    tensor([0.1269, 0.6931])
    """
    held = _prepare(first, second, None, groups, None, normalize, temperature)
    blocks = _blocks(held, block_rows, two_way=True)
    at = torch.cat([each.at for each in blocks])
    # A column's positive is that of the row with its number, at the other side's norm.
    back_at = torch.cat([each.back_at for each in blocks])
    back = torch.stack([each.back_lse for each in blocks]).logsumexp(0)
    return TwoWayLosses(_loss(torch.cat([each.lse for each in blocks]), at, offset), _loss(back, back_at, offset))


@checked
def table_info_nce(
    scores: Float[Tensor, "n m"],
    positive: Int[Tensor, " n"] | Int[Tensor, "n p"],
    *,
    excluded: Bool[Tensor, "n m"] | None = None,
    positive_weight: Float[Tensor, " p"] | None = None,
    offset: NonNegative = 0.0,
) -> Float[Tensor, " n"]:
    """The loss of every row of a table of scores that is small enough to be written out.

    Args:
        scores: (n, m), divided by the temperature already.
        positive: (n,) or (n, p) columns of each row's positives.
        excluded: (n, m) which are no negatives; a positive counts all the same.
        positive_weight: (p,) weights of the positives in s̄, which sum to 1; equal ones by default.
        offset: as in `info_nce`.

    >>> table_info_nce(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0, 1]]))
    tensor([0.9076])
    """
    _check_positive(positive, scores.shape[1])
    positive = positive.long().reshape(len(positive), -1)
    lse, at = _row_terms(scores, positive, excluded)
    return _loss(lse, at, offset, positive_weight)


class _Held(NamedTuple):
    """Both sides, ready for a product, the factors of its columns (m,) and rows (n,) in each direction, and labels."""

    anchors: Tensor
    candidates: Tensor
    of_columns: Tensor | None
    of_rows: Tensor | None
    positive: Tensor
    groups: Tensor | None
    candidate_groups: Tensor | None


class _Block(NamedTuple):
    """What a block of rows tells: logarithms of sums over all but the first positive, and scores of the positives."""

    lse: Tensor
    at: Tensor
    back_lse: Tensor
    back_at: Tensor


def _prepare(
    anchors: Tensor,
    candidates: Tensor,
    positive: Tensor | None,
    groups: Tensor | None,
    candidate_groups: Tensor | None,
    normalize: Normalized,
    temperature: float,
) -> _Held:
    n, m = len(anchors), len(candidates)
    if positive is None:
        if n != m:
            raise ValueError(f"positive must say which of {m} candidates belongs to each of {n} anchors")
        positive = torch.arange(n, device=anchors.device)
    _check_positive(positive, m)
    if candidate_groups is None and groups is not None:
        if n != m:
            raise ValueError(f"candidate_groups is missing: there are {m} candidates and {n} groups")
        candidate_groups = groups
    if groups is None and candidate_groups is not None:
        raise ValueError("groups is missing; pass the groups of the anchors beside candidate_groups")
    positive = positive.long().reshape(n, -1)
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, candidates.dtype), torch.float32)
    anchors, candidates = anchors.to(dtype), candidates.to(dtype)
    of_columns = of_rows = None
    if normalize == "both":
        anchors, candidates = (x * inverse_norms(x)[:, None] for x in (anchors, candidates))
    elif normalize == "candidates":
        of_columns, of_rows = inverse_norms(candidates), inverse_norms(anchors)
    return _Held(anchors / temperature, candidates, of_columns, of_rows, positive, groups, candidate_groups)


def inverse_norms(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """1 / ‖row‖, at most 10¹², and 0 without a gradient where the norm is 0.

    >>> inverse_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([0.2000, 0.0000])
    """
    norms = torch.linalg.vector_norm(rows, dim=1)
    return torch.where(norms > 0, 1 / norms.clamp_min(_EPS), 0)


def _check_positive(positive: Tensor, candidates: int) -> None:
    if torch.compiler.is_compiling():
        return
    low, high = int(positive.min()), int(positive.max())
    if low < 0 or high >= candidates:
        raise ValueError(f"positive holds {low if low < 0 else high}, wanted indices from 0 to {candidates - 1}")


def _blocks(held: _Held, block_rows: int | None, *, two_way: bool) -> list[_Block]:
    rows, columns = len(held.anchors), len(held.candidates)
    step = block_rows or max(1, _TABLE // columns)
    if step >= rows:
        return [_block(held, two_way, 0)]
    found = []
    for start in range(0, rows, step):
        part = slice(start, start + step)
        own = held._replace(
            anchors=held.anchors[part],
            of_rows=None if held.of_rows is None else held.of_rows[part],
            positive=held.positive[part],
            groups=None if held.groups is None else held.groups[part],
        )

        def block(*tensors: Tensor | None, first: int = start) -> _Block:
            return _block(_Held(*tensors), two_way, first)  # type: ignore[arg-type]

        if torch.is_grad_enabled():
            found.append(checkpoint(block, *own, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(block(*own))
    return found


def _block(held: _Held, two_way: bool, first: int) -> _Block:
    """The terms of some rows, of which the first has this number."""
    with torch.autocast(held.anchors.device.type, enabled=False):
        product = held.anchors @ held.candidates.T
    same = None
    if held.groups is not None and held.candidate_groups is not None:
        same = held.groups[:, None] == held.candidate_groups
    scores = product if held.of_columns is None else product * held.of_columns
    lse, at = _row_terms(scores, held.positive, same)
    if not two_way:
        return _Block(lse, at, lse, at)
    back = product if held.of_rows is None else product * held.of_rows[:, None]
    own = first + torch.arange(len(product), device=product.device)[:, None]
    left_out = _left_out(back, own, same)
    return _Block(lse, at, back.masked_fill(left_out, _nothing(back)).logsumexp(0), back.gather(1, own))


def _row_terms(scores: Tensor, positive: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor]:
    """log Σ exp over all that count but the first positive, and scores of the positives."""
    left_out = _left_out(scores, positive, excluded)
    return scores.masked_fill(left_out, _nothing(scores)).logsumexp(1), scores.gather(1, positive)


def _nothing(scores: Tensor) -> float:
    """A score whose exponential is 0; −∞ would make second derivatives NaN where it is all that a sum has."""
    return torch.finfo(scores.dtype).min / 4


def _left_out(scores: Tensor, positive: Tensor, excluded: Tensor | None) -> Tensor:
    """The excluded, but no positive, and the first positive, which is added apart so that small losses keep digits."""
    left_out = torch.zeros_like(scores, dtype=torch.bool) if excluded is None else excluded.clone()
    return left_out.scatter_(1, positive, False).scatter_(1, positive[:, :1], True)


def _loss(lse: Tensor, at: Tensor, offset: float, weight: Tensor | None = None) -> Tensor:
    mean = at.mean(1) if weight is None else (at * weight.to(at)).sum(1)
    others = lse - mean
    if offset > 0:
        others = torch.logaddexp(others, others.new_tensor(math.log(offset)))
    # Of a single positive the difference is 0 in value and in slope.
    first = at[:, 0] - mean if at.shape[1] > 1 else torch.zeros_like(mean)
    return torch.logaddexp(others, first)
