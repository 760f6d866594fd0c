r"""Losses of answers and their slopes in closed form, for descents that take thousands of steps.

Every answer is turned so that it is a win or a tie. The loss of a win depends on z = d − λ alone.

The uniform link has no likelihood for what it says cannot be. Below a probability of 1/20 its −log p is continued by
the tangent, which keeps the loss convex and every slope finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.crowd.partial_ranking.tie_model import Link, normal_tie

_FLOOR = 0.05
CURVATURE: dict[Link, float] = {"logistic": 0.25, "normal": 1.0, "uniform": 0.25 / _FLOOR**2}
"""The most that the slope of a win changes with z."""


def win_loss(z: Tensor, link: Link) -> Tensor:
    """−log F(z)."""
    if link == "logistic":
        return -logsigmoid(z)
    return -torch.special.log_ndtr(z) if link == "normal" else _minus_log((z.clamp(max=1) + 1) / 2)


def win_slope(z: Tensor, link: Link) -> Tensor:
    """dL/dz of a win: its slope in d, and minus its slope in λ."""
    if link == "logistic":
        return torch.sigmoid(-z).neg_()
    if link == "normal":
        return -math.sqrt(2 / math.pi) / torch.special.erfcx(-z / math.sqrt(2))
    return torch.where(z < 1, -0.5 / ((z + 1) / 2).clamp(min=_FLOOR), 0.0)


def tie_loss(diff: Tensor, threshold: Tensor, link: Link) -> Tensor:
    """−log(F(d + λ) − F(d − λ))."""
    if link == "logistic":
        constant = torch.log(-torch.expm1(-2 * threshold))
        return -(logsigmoid(diff + threshold) + logsigmoid(threshold - diff) + constant)
    return -normal_tie(diff, threshold) if link == "normal" else _minus_log(_uniform_tie(diff, threshold))


def tie_slopes(diff: Tensor, threshold: Tensor, link: Link) -> tuple[Tensor, Tensor]:
    """dL/dd and dL/dλ of a tie."""
    low, high = diff - threshold, diff + threshold
    if link == "logistic":
        over, under = torch.sigmoid(low), torch.sigmoid(-high)
        return over - under, -over - under - 2 / torch.expm1(2 * threshold)
    if link == "normal":
        log_tie = normal_tie(diff, threshold) + 0.5 * math.log(2 * math.pi)
        upper, lower = (torch.exp(-0.5 * z * z - log_tie) for z in (high, low))
    else:
        scale = 0.5 / _uniform_tie(diff, threshold).clamp(min=_FLOOR)
        upper, lower = (high < 1) * scale, (low > -1) * scale
    return lower - upper, -lower - upper


def _uniform_tie(diff: Tensor, threshold: Tensor) -> Tensor:
    return ((diff + threshold).clamp(max=1) - (diff - threshold).clamp(min=-1)) / 2


def _minus_log(probability: Tensor) -> Tensor:
    held = probability.clamp(min=_FLOOR)
    return (held - probability) / _FLOOR - held.log()
