r"""Answers to "which of two" that may be "neither": a threshold model, in forms that neither overflow nor underflow.

A person with scores s and threshold λ who compares i with j sees d = s_i − s_j with noise ε of distribution function F,
and

    says  1 if d + ε > λ,   −1 if d + ε ≤ −λ,   0 (a tie) between:

    P(1) = F(d − λ)        P(−1) = F(−d − λ)        P(0) = F(d + λ) − F(d − λ)

F is logistic (Bradley–Terry), normal (Thurstone–Mosteller), or uniform on [−1, 1]. A tie is computed without
subtracting two probabilities: for the logistic F, with σ its function,

    P(0) = (1 − e^{−2λ}) σ(d + λ) σ(λ − d)

and for the normal on the side where both tails are small.

Xu et al., "iSplit LBI", NeurIPS 2019, equations (3) to (6); the stable forms are derived here.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.core.reduction import Reduction, reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Positive, Range, Scores, Values

Link: TypeAlias = Literal["logistic", "normal", "uniform"]
Rule: TypeAlias = Literal["threshold", "argmax"]
Index: TypeAlias = Annotated[Integer[Tensor, " n"], ClassIndex(None)]
Answers: TypeAlias = Annotated[Integer[Tensor, " n"], Values(((-1, "prefers j"), (0, "a tie"), (1, "prefers i")))]
Threshold: TypeAlias = Annotated[Float[Tensor, " n"], Range(0)]
CommonThreshold: TypeAlias = Annotated[Float[Tensor, ""], Range(0, low_open=True)] | Positive


@checked
def tie_log_probabilities(score_diff: Scores, threshold: Threshold, link: Link = "logistic") -> Float[Tensor, "n 3"]:
    """Logarithms of the probabilities of each answer, in the columns −1, 0, 1.

    Args:
        score_diff: (n,) d, the score of i less that of j.
        threshold: (n,) λ ≥ 0; at 0 there are no ties.
        link: "logistic", "normal" or "uniform" noise.

    Returns:
        (n, 3); −∞ for an answer that cannot be, which only the uniform link and a threshold of 0 have.

    Raises:
        ValueError: on another shape, NaN, or a negative threshold.

    Equations (3) to (6) of the paper.

    >>> tie_log_probabilities(torch.tensor([-700.0]), torch.tensor([1.0]))
    tensor([[   0.0000, -699.1454, -701.0000]])
    """
    return log_probabilities(score_diff, threshold, link)


@checked
def tie_probabilities(score_diff: Scores, threshold: Threshold, link: Link = "logistic") -> Float[Tensor, "n 3"]:
    """Probabilities of each answer, in the columns −1, 0, 1; arguments as of `tie_log_probabilities`.

    Raises:
        ValueError: on another shape, NaN, or a negative threshold.

    Equations (3) to (6) of the paper.

    >>> tie_probabilities(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0]))
    tensor([[0.2689, 0.4621, 0.2689],
            [0.0180, 0.1012, 0.8808]])
    """
    if link == "uniform":
        return torch.stack(_uniform(score_diff, threshold), 1)
    return log_probabilities(score_diff, threshold, link).exp()


@checked
def tie_prediction(
    score_diff: Scores, threshold: Threshold, rule: Rule = "threshold", link: Link = "logistic"
) -> Int[Tensor, " n"]:
    """The answer to expect of each comparison: 1, 0 or −1.

    Args:
        score_diff: (n,) d.
        threshold: (n,) λ ≥ 0.
        rule: "threshold", what is said without noise: a tie where |d| ≤ λ. "argmax", the likeliest answer; of equally
            likely ones a tie, then 1.
        link: of "argmax".

    Raises:
        ValueError: on another shape, NaN, or a negative threshold.

    Rule (3) of the paper without its noise; "argmax" is an addition.

    >>> d, wide = torch.tensor([0.2, 0.5, -0.6]), torch.tensor([0.5, 0.5, 0.5])
    >>> tie_prediction(d, wide).tolist(), tie_prediction(d, wide, "argmax").tolist()
    ([0, 0, -1], [1, 1, -1])
    """
    if rule == "threshold":
        return (score_diff > threshold).long() - (score_diff < -threshold).long()
    # Of equal values `argmax` takes the first, so that a tie comes first.
    order = torch.tensor([0, 1, -1], device=score_diff.device)
    return order[log_probabilities(score_diff, threshold, link)[:, [1, 2, 0]].argmax(1)]


@checked
def tie_nll(
    user: Index,
    item_i: Index,
    item_j: Index,
    y: Answers,
    common_score: Float[Tensor, " items"],
    common_threshold: CommonThreshold,
    personal_score: Float[Tensor, "users items"] | None = None,
    personal_threshold: Float[Tensor, " users"] | None = None,
    link: Link = "logistic",
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative log-likelihood of answers under scores and thresholds that are common ones plus personal deviations.

    Args:
        user: (n,) index of who answered.
        item_i: (n,) index of the item that 1 prefers.
        item_j: (n,) index of the other.
        y: (n,) 1, −1, or 0 for a tie.
        common_score: (items,) c.
        common_threshold: above 0.
        personal_score: (users, items) deviations P of each user; none by default.
        personal_threshold: (users,) deviations; none by default.
        link: "logistic", "normal" or "uniform".
        reduction: "mean" over the answers, "sum", or "none".

    Returns:
        A scalar, or (n,) under "none"; infinite where the uniform link says that an answer cannot be.

    Raises:
        ValueError: naming the first bad row: an item compared with itself, an index out of range, or a user whose own
            threshold is not above 0; on another shape or NaN.

    Equations (6) and (7) of the paper; the mean is the authors' code.

    >>> who, left, right, said = torch.tensor([[0, 1], [0, 1], [1, 2], [1, 0]])
    >>> tie_nll(who, left, right, said, torch.tensor([1.0, 0.0, 0.0]), 0.5)
    tensor(0.9405)
    """
    check_answers(user, item_i, item_j, len(common_score))
    width = torch.as_tensor(common_threshold, dtype=common_score.dtype, device=common_score.device)
    users = {"personal_score": personal_score, "personal_threshold": personal_threshold}
    for name, given in users.items():
        if given is not None and len(user) and int(user.max()) >= len(given):
            raise ValueError(f"user holds {int(user.max())}, but {name} is of {len(given)} users")
    diff = common_score[item_i] - common_score[item_j]
    if personal_score is not None:
        diff = diff + personal_score[user, item_i] - personal_score[user, item_j]
    threshold = width.expand(len(user)) if personal_threshold is None else width + personal_threshold[user]
    bad = threshold <= 0
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"the threshold of user {int(user[row])} (common_threshold plus personal_threshold) is "
            f"{float(threshold[row].detach()):g} in row {row}, wanted a number above 0"
        )
    every = log_probabilities(diff, threshold, link)
    return reduce_losses(-every.gather(1, (y.long() + 1)[:, None]).squeeze(1), reduction)


def check_answers(user: Tensor, item_i: Tensor, item_j: Tensor, num_items: int) -> None:
    """Refuse an item beside itself, and an item that is not there."""
    same = item_i == item_j
    if same.any():
        row = int(same.nonzero()[0])
        raise ValueError(f"item_i and item_j of row {row} are both {int(item_i[row])}; leave the row out")
    for name, items in (("item_i", item_i), ("item_j", item_j)):
        if len(items) and int(items.max()) >= num_items:
            row = int(items.argmax())
            raise ValueError(f"{name} of row {row} is {int(items[row])}, wanted 0 to {num_items - 1}")


def log_probabilities(diff: Tensor, threshold: Tensor, link: Link) -> Tensor:
    """`tie_log_probabilities` without its checks."""
    if link == "uniform":
        return torch.stack([_safe_log(part) for part in _uniform(diff, threshold)], 1)
    if link == "logistic":
        above, below = logsigmoid(diff - threshold), logsigmoid(-diff - threshold)
        tie = torch.log(-torch.expm1(-2 * threshold)) + logsigmoid(diff + threshold) + logsigmoid(threshold - diff)
        return torch.stack([below, tie, above], 1)
    above, below = torch.special.log_ndtr(diff - threshold), torch.special.log_ndtr(-diff - threshold)
    return torch.stack([below, normal_tie(diff, threshold), above], 1)


def normal_tie(diff: Tensor, threshold: Tensor) -> Tensor:
    """log(Φ(d + λ) − Φ(d − λ)), from the two lower tails, after the sign of d is turned so that both are small."""
    far = diff.abs()
    near, away = torch.special.log_ndtr(threshold - far), torch.special.log_ndtr(-threshold - far)
    return near + torch.log(-torch.expm1(away - near))


def _uniform(diff: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = diff - threshold, diff + threshold
    tie = (high.clamp(max=1) - low.clamp(min=-1)) / 2
    return ((1 - high) / 2).clamp(0, 1), tie.clamp(0, 1), ((1 + low) / 2).clamp(0, 1)


def _safe_log(probability: Tensor) -> Tensor:
    """The logarithm, −∞ at 0 with a gradient of 0 and not NaN."""
    there = probability > 0
    return torch.where(there, torch.where(there, probability, 1.0).log(), -math.inf)
