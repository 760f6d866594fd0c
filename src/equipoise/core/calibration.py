"""From scores that only rank to probabilities: a monotone logistic fit on held-out scores.

A ranking loss fixes the order of the scores, not where they lie. Two numbers mend that for two classes (Platt), and a
common scale with one offset a class for more:

    P(y = 1 | s) = σ(a s + b)              P(y = c | z) = softmax(a z + b)_c,   a > 0

One maximum-likelihood problem in C numbers, convex and solved by Newton steps: two classes are the logits (0, s). The
targets are smoothed as Platt does, (n_c + 1) / (n_c + C) for the class seen and 1 / (n_c + C) for the others, so that
separable scores get a finite scale. a > 0 keeps every order, and with it every ranking metric, as it was.

Platt, "Probabilistic outputs for support vector machines", 1999; Lin, Lin and Weng, "A note on Platt's probabilistic
outputs", Machine Learning 2007 (the Newton form). The smoothing for C > 2 is our generalisation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, ClassScores, ClassTarget, SampleWeight, Scores

_STEPS = 100
_TOLERANCE = 1e-10
# Scores that say the opposite of the labels ask for a < 0; they get almost a constant in their own order instead.
_LEAST_SCALE = 1e-3


@checked
def fit_platt(
    scores: Scores, target: BinaryTarget, *, sample_weight: SampleWeight | None = None
) -> tuple[float, float]:
    """Scale and offset that turn scores into log-odds: P(y = 1) = sigmoid(scale · score + offset).

    Args:
        scores: (n,) scores of samples that the model was not trained on, higher meaning more positive.
        target: 1 for positive, 0 for negative.
        sample_weight: (n,) non-negative, how often each sample counts.

    Returns:
        The scale, greater than 0, and the offset. If one class is absent, the smoothed frequency still is a number.

    >>> scale, offset = fit_platt(torch.tensor([-1.0, 0.0, 1.0, 2.0]), torch.tensor([0, 1, 0, 1]))
    >>> torch.sigmoid(scale * torch.tensor([-1.0, 2.0]) + offset)
    tensor([0.3504, 0.6496])
    """
    logits = torch.stack([torch.zeros_like(scores), scores], dim=1).double()
    scale, offset = _fit(logits, target.long(), sample_weight)
    return scale, float(offset[1] - offset[0])


@checked
def fit_scaling(
    logits: ClassScores, target: ClassTarget, *, shift: bool = True, sample_weight: SampleWeight | None = None
) -> tuple[float, Float[Tensor, " classes"]]:
    """Scale and offsets that turn logits into log-probabilities: P(y = c) = softmax(scale · logits + offset)_c.

    Args:
        logits: (n, C) logits of samples that the model was not trained on.
        target: class indices.
        shift: whether to fit offsets; without, they are 0 and the order of a sample's logits stays, such as that of a
            loss which decides for classes of equal share.
        sample_weight: (n,) non-negative, how often each sample counts.

    Returns:
        The common scale, greater than 0, and the offset of each class (they sum to 0) in the dtype of the logits.

    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [2.0, 0.0, 0.0]])
    >>> scale, offset = fit_scaling(logits, torch.tensor([0, 1, 2, 1]))
    >>> offset.argmax()
    tensor(1)
    """
    scale, offset = _fit(logits.detach().double(), target.long(), sample_weight, shift=shift)
    return scale, offset.to(logits.dtype)


def _fit(logits: Tensor, target: Tensor, weight: Tensor | None, *, shift: bool = True) -> tuple[float, Tensor]:
    """Newton's method with step halving on (scale, offset_1, ..., offset_{C−1}); offset_0 is 0 meanwhile."""
    classes = logits.shape[1]
    # Rows are free up to a constant, and the unit of the scores is the user's: neither should touch the arithmetic.
    z = logits.detach() - logits.detach().mean(1, keepdim=True)
    weight = z.new_ones(len(z)) if weight is None else weight.detach().double()
    unit = float((weight @ z.abs()).mean() / weight.sum().clamp_min(torch.finfo(z.dtype).tiny))
    z = z / unit if unit > 0 else z
    counts = torch.bincount(target, weight, minlength=classes)
    wanted = (1 / (counts + classes))[target, None].repeat(1, classes)
    wanted.scatter_(1, target[:, None], ((counts + 1) / (counts + classes))[target, None])
    start = torch.zeros(classes, dtype=torch.float64)
    start[0] = 1.0
    parameters = _newton(z, wanted, weight[:, None], start, free=slice(0 if unit > 0 else 1, classes if shift else 1))
    if parameters[0] < _LEAST_SCALE:
        start[0] = _LEAST_SCALE
        parameters = _newton(z, wanted, weight[:, None], start, free=slice(1, classes if shift else 1))
    offset = torch.cat([parameters.new_zeros(1), parameters[1:]])
    return float(parameters[0]) / (unit if unit > 0 else 1.0), offset - offset.mean()


def _newton(z: Tensor, wanted: Tensor, weight: Tensor, parameters: Tensor, *, free: slice) -> Tensor:
    def eta(parameters: Tensor) -> Tensor:
        shifted = parameters[0] * z
        shifted[:, 1:] += parameters[1:]
        return shifted

    def cost(parameters: Tensor) -> float:
        return -float((weight * wanted * eta(parameters).log_softmax(1)).sum())

    current = cost(parameters)
    if free.start == free.stop:
        return parameters
    for _ in range(_STEPS):
        p = eta(parameters).softmax(1)
        error = weight * (p - wanted)
        gradient = torch.cat([(error * z).sum().view(1), error[:, 1:].sum(0)])[free]
        mean = (p * z).sum(1, keepdim=True)
        across = (weight * p * (z - mean))[:, 1:].sum(0)
        hessian = torch.empty(len(parameters), len(parameters), dtype=p.dtype)
        hessian[0, 0] = (weight * p * (z - mean).square()).sum()
        hessian[0, 1:] = hessian[1:, 0] = across
        hessian[1:, 1:] = torch.diag((weight * p)[:, 1:].sum(0)) - (weight * p)[:, 1:].T @ p[:, 1:]
        hessian = hessian[free, free]
        ridge = 1e-12 * (1 + hessian.diagonal().max()) * torch.eye(len(hessian), dtype=p.dtype)
        step = torch.zeros_like(parameters)
        step[free] = -torch.linalg.solve(hessian + ridge, gradient)
        slope = float(gradient @ step[free])
        length = 1.0
        while (reached := cost(parameters + length * step)) > current + 1e-4 * length * slope and length > 1e-8:
            length /= 2
        if reached < current:
            parameters, current = parameters + length * step, reached
        if -slope < _TOLERANCE * (1 + abs(current)):
            break
    return parameters
