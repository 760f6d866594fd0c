"""The contrast among predictions in training, where they are never all held: a few rows of the grid at a time.

    row i of the grid: predictions for noisy image i under all B conditions, and under its own view's

A row's loss needs nothing of other rows. Rows are predicted, turned into losses and forgotten, and predicted again for
the gradient, so that memory is that of one block of rows where B² predictions would not fit. The gradient is that of
the whole grid up to rounding.

Sampling is approximate: m negatives for each image in place of all, each of which stands for (B − 1) / m, whose
logarithm is added to its score. Then the sum over negatives has the right expectation, its logarithm not quite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Integer
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from equipoise.core.reduction import reduce_losses
from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import check_finite
from equipoise.multimodal.representation.dcr_loss import DCRLoss, row_losses

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy (n, ...), steps (n,), conditions (n, ...)) → predictions of the shape of the noisy."""


@checked
def dcr_grid_loss(
    predict: Predict,
    noisy: Float[Tensor, " b *n"],
    steps: Integer[Tensor, " b"],
    condition: Float[Tensor, " b *c"],
    condition_augmented: Float[Tensor, " b *c"],
    target: Float[Tensor, " b *n"],
    loss: DCRLoss | None = None,
    ids: Integer[Tensor, " b"] | Bool[Tensor, " b"] | None = None,
    *,
    rows: Count | None = None,
    negatives: Count | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "*r"]:
    """`dcr_loss` of predictions that are made here; gradients reach both conditions.

    Args:
        predict: a denoiser's `predict`; frozen, in evaluation mode.
        noisy: (B, ...) noisy latents.
        steps: (B,) of the noise, one for each image.
        condition: (B, ...) of the images.
        condition_augmented: (B, ...) of their augmented views.
        target: (B, ...) what the denoiser is trained to predict.
        loss: the settings, by default those of `DCRLoss()`.
        ids: (B,) the same for images that are the same.
        rows: images whose predictions are held at once, 1 for least memory (B at once); all by default. With less
            than all, predictions are made twice.
        negatives: m, sampled for each image without replacement; all by default. Approximate.
        generator: draws them, on the CPU; needed with `negatives`.

    Returns:
        As `dcr_loss`.

    Raises:
        ValueError: on shapes that disagree, negatives without a generator, or a prediction that is not finite.

    >>> def predict(noisy, steps, condition):
    ...     return noisy * condition
    >>> x, c = torch.randn(4, 3), torch.randn(4, 3)
    >>> all_at_once = dcr_grid_loss(predict, x, torch.zeros(4).long(), c, c, x)
    >>> torch.allclose(dcr_grid_loss(predict, x, torch.zeros(4).long(), c, c, x, rows=1), all_at_once)
    True
    """
    if negatives is not None and generator is None:
        raise ValueError("negatives are drawn at random; give a generator")
    settings, size = loss or DCRLoss(), len(noisy)
    numbers = torch.arange(size, device=noisy.device) if ids is None else ids
    plan = _all(numbers) if negatives is None or negatives >= size - 1 else _some(numbers, negatives, generator)

    def block(first: Tensor, condition: Tensor, condition_augmented: Tensor) -> Tensor:
        return _block(predict, noisy, steps, condition, condition_augmented, target, settings, plan, first)

    step = size if rows is None else min(rows, size)
    losses = []
    for first in torch.arange(size, device=noisy.device).split(step):
        if step < size and torch.is_grad_enabled():
            # Only the place of a block is kept: it is computed anew for the gradient, and forgotten again.
            losses.append(checkpoint(block, first, condition, condition_augmented, use_reentrant=False))
        else:
            losses.append(block(first, condition, condition_augmented))
    return reduce_losses(torch.cat(losses), settings.reduction)


class _Plan:
    """Whose conditions each row takes as negatives (B, m), which of them do not count, and the correction (B,)."""

    def __init__(self, columns: Tensor, excluded: Tensor, correction: Tensor | None) -> None:
        self.columns, self.excluded, self.correction = columns, excluded, correction


def _all(numbers: Tensor) -> _Plan:
    place = torch.arange(len(numbers), device=numbers.device)
    columns = place[: len(numbers) - 1].expand(len(numbers), -1)
    columns = columns + (columns >= place[:, None]).long()
    return _Plan(columns, numbers[columns] == numbers[:, None], None)


def _some(numbers: Tensor, count: int, generator: Generator | None) -> _Plan:
    """The first of a random order of those that may be negatives of each row."""
    allowed = numbers[:, None] != numbers
    keys = torch.rand(len(numbers), len(numbers), generator=generator).to(numbers.device)
    columns = keys.masked_fill(~allowed, 2.0).argsort(1)[:, :count]
    there = allowed.sum(1)
    correction = (there.clamp_min(1) / there.clamp(1, count)).log()
    return _Plan(columns, ~allowed.gather(1, columns), correction)


def _block(
    predict: Predict,
    noisy: Tensor,
    steps: Tensor,
    condition: Tensor,
    condition_augmented: Tensor,
    target: Tensor,
    settings: DCRLoss,
    plan: _Plan,
    first: Tensor,
) -> Tensor:
    columns = plan.columns[first]
    rows, count = columns.shape

    def predicted(times: int, given: Tensor, gradient: bool = True) -> Tensor:
        with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            x = noisy[first].repeat_interleave(times, 0)
            found = predict(x, steps[first].repeat_interleave(times), given)
        if found.shape != x.shape:
            raise ValueError(f"predict gave shape {tuple(found.shape)} for noisy latents of shape {tuple(x.shape)}")
        check_finite("the prediction", found)
        return found.reshape(rows, times, -1)

    own = condition[first]
    others = condition[columns.flatten()].reshape(rows, count, *condition.shape[1:])
    if settings.detach_negatives and count:
        anchor, against = predicted(1, own), predicted(count, others.flatten(0, 1), gradient=False)
    else:
        # One call, the own condition before the others.
        found = predicted(1 + count, torch.cat([own[:, None], others], 1).flatten(0, 1))
        anchor, against = found[:, :1], found[:, 1:]
    return row_losses(
        anchor[:, 0],
        against,
        predicted(1, condition_augmented[first])[:, 0],
        target[first].reshape(rows, -1),
        excluded=plan.excluded[first],
        temperature=settings.temperature,
        separate_denominators=settings.separate_denominators,
        augmented_weight=settings.augmented_weight,
        correction=None if plan.correction is None else plan.correction[first],
    )
