r"""How much of an answer is explained by a mistake of whoever gave it: the outlier term of each compared pair.

    squared     min_γ  ½ (y − s − γ)² + λ₁|γ|               γ = sign(y − s) max(|y − s| − λ₁, 0)
    logistic    min_γ  log(1 + exp(−y (s + γ))) + λ₁|γ|     γ = y max(τ − y s, 0),  τ = log((1 − λ₁) / λ₁)

s is the score of the left item less that of the right one, y = 1 says that left was preferred. What is left after γ is
minimised out is the Huber loss of y − s, or the logistic loss with its slope cut at λ₁ ("profile").

Xu et al., "Deep Robust Subjective Visual Property Prediction in Crowdsourcing", CVPR 2019, equation 3 for "squared".
The paper runs proximal gradient for "logistic"; the closed form is worked out here and tested against scalar
minimisation.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.core.signature import checked
from equipoise.core.types import Positive
from equipoise.core.validate import warn_once

OutlierModel: TypeAlias = Literal["squared", "logistic"]
Answers: TypeAlias = Integer[Tensor, " n"] | Bool[Tensor, " n"]
"""1 and −1; 1 and 0 where `binary=True` says so."""


class PairOutliers(NamedTuple):
    """What `outlier_gamma` returns.

    Attributes:
        gamma: (n,) the outlier term, 0 for answers that the scores explain.
        profile: (n,) the loss at this term.
        is_outlier: (n,) whether the term pulls towards the answer: y·s lies below 1 − λ₁ ("squared") or τ ("logistic").
            From λ₁ = 1 and ½ on, these are answers that the scores contradict; a lower price takes in those that they
            hardly agree with. An answer that they agree with too strongly has a term of the other sign ("squared"
            only), and is no outlier.
    """

    gamma: Tensor
    profile: Tensor
    is_outlier: Tensor


@checked
def outlier_gamma(
    score_diff: Float[Tensor, " n"],
    y: Answers,
    lambda1: Positive = 0.5,
    model: OutlierModel = "logistic",
    *,
    binary: bool = False,
) -> PairOutliers:
    """The outlier term of every answer, in closed form; it does not depend on how often the answer was given.

    Args:
        score_diff: (n,) score of the left item less that of the right one.
        y: (n,) 1 where left was preferred, −1 where right was.
        lambda1: price of a term of 1, above 0. From 1 on, "logistic" has no outliers.
        model: "squared" or "logistic".
        binary: whether y holds 0 for right instead of −1.

    Returns:
        Terms, losses and flags, each (n,).

    Raises:
        ValueError: on a bad argument, by name.

    >>> outlier_gamma(torch.tensor([0.2, -0.8]), torch.tensor([1, 1]), 1.2, "squared").gamma
    tensor([0.0000, 0.6000])
    """
    sign = as_signs(y, binary, score_diff)
    warn_of_no_outliers(lambda1, model)
    if model == "squared":
        residual = sign - score_diff
        gamma = residual - residual.clamp(-lambda1, lambda1)
    else:
        margin = sign * score_diff
        gamma = sign * (margin.clamp(min=turning_point(lambda1)) - margin)
    return PairOutliers(gamma, profiled(score_diff, sign, lambda1, model), gamma * sign > 0)


def profiled(score_diff: Tensor, sign: Tensor, lambda1: float, model: OutlierModel) -> Tensor:
    """The loss of each answer with its outlier term minimised out; signs are floating."""
    if model == "squared":
        residual = sign - score_diff
        kept = residual.clamp(-lambda1, lambda1)
        # ½ r² where nothing is cut off, λ|r| − ½ λ² beyond: no branch squares a large residual.
        return kept * (residual - kept / 2)
    margin = sign * score_diff
    kept = margin.clamp(min=turning_point(lambda1))
    return lambda1 * (kept - margin) - logsigmoid(kept)


def turning_point(lambda1: float) -> float:
    """The margin y·s below which the logistic loss is steeper than λ₁; −∞ where it never is."""
    return math.log1p(-lambda1) - math.log(lambda1) if lambda1 < 1 else -math.inf


def as_signs(y: Tensor, binary: bool, like: Tensor) -> Tensor:
    """Answers as 1 and −1 in the dtype of the scores.

    Raises:
        ValueError: if there is any other value, or y is boolean without `binary`.
    """
    if y.dtype is torch.bool and not binary:
        raise ValueError("y is boolean; say binary=True if True stands for left, or give 1 and -1")
    if not torch.compiler.is_compiling():
        wanted = (0, 1) if binary else (-1, 1)
        bad = (y != wanted[0]) & (y != wanted[1])
        if bool(bad.any()):
            value = y[bad][0].item()
            hint = "; say binary=True if 0 stands for right" if value == 0 else ""
            raise ValueError(f"y holds the value {value}, wanted {wanted[1]} (left) or {wanted[0]} (right){hint}")
    signs = y.to(like.dtype)
    return 2 * signs - 1 if binary else signs


def warn_of_no_outliers(lambda1: float, model: OutlierModel) -> None:
    """Say once that a logistic loss is never steeper than 1."""
    if model == "logistic" and lambda1 >= 1:
        warn_once(f"lambda1={lambda1:g}: gamma is always 0, for the logistic loss is never steeper than 1")
