"""Other ways to train with outliers, called as `EDGELoss` is: (known logits, targets, outlier logits) → loss.

    energy fine-tuning     L_id + w (mean max(0, E(z) − m_in)² + mean max(0, m_out − E(z'))²)     E = −logsumexp
    uniform exposure       L_id + w mean (logsumexp(z') − mean_c z'_c)
    confidence control     L_id + λ₁ Σ (max_c p_c(z) − A)² + λ₂ Σ Σ_c |p_c(z') − 1/C|           p = softmax

The second is the cross-entropy between the softmax of an outlier and the uniform distribution. The third moves the
confidence to the accuracy A that was reached in training; its sums are over samples, as published, so that its weights
depend on the batch size.

They were made for exclusive classes, and see the softmax. Give them the loss of the task as `id_loss`: it is the mean
binary cross-entropy of labels that go together if absent, and `nn.CrossEntropyLoss()` for exclusive classes.

Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020; Hendrycks, Mazeika and Dietterich, "Deep Anomaly
Detection with Outlier Exposure", ICLR 2019; Papadopoulos et al., "Outlier Exposure with Confidence Control for
Out-of-Distribution Detection", Neurocomputing 2021 (OECC). The forms and weights are those of the baselines in the code
of EDGE (see `energy_gap`); the default energy margins are reconstructed.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, MayBeEmpty, NonNegative, Probability, Real, Scalar
from equipoise.core.validate import warn_once
from equipoise.openworld.outliers.detectors import energy
from equipoise.openworld.outliers.energy_gap import IdLoss, binary_cross_entropy

OutlierLogits: TypeAlias = Annotated[Float[Tensor, "m classes"], MayBeEmpty()]


@checked
def energy_margin_loss(
    id_logits: ClassScores, ood_logits: OutlierLogits, *, m_in: Real = -23.0, m_out: Real = -5.0
) -> Scalar:
    """Squared hinges that push the energy −logsumexp of known samples below m_in and that of outliers above m_out.

    Args:
        id_logits: (n, C) of known samples.
        ood_logits: (m, C) of outliers.
        m_in: where known samples pay nothing, on the scale of −logsumexp.
        m_out: where outliers pay nothing, above m_in.

    Returns:
        The sum of both means; the outliers' is zero, attached to the graph, where there are none (warned once).

    Raises:
        ValueError: on a bad argument, by name; if m_out is below m_in.

    >>> energy_margin_loss(torch.zeros(1, 1), torch.ones(2, 1), m_in=-0.5, m_out=0.0)
    tensor(1.2500)
    """
    _check_margins(m_in, m_out)
    loss = (-energy(id_logits) - m_in).relu().square().mean()
    if not len(ood_logits):
        return loss + _nothing(ood_logits)
    return loss + (m_out + energy(ood_logits)).relu().square().mean()


@checked
def uniform_exposure_loss(ood_logits: OutlierLogits) -> Scalar:
    """Cross-entropy of the outliers' softmax with the uniform distribution.

    Args:
        ood_logits: (m, C) of outliers.

    Returns:
        The mean of logsumexp_c z − mean_c z, which is log C for equal logits; zero, attached to the graph, without
        outliers (warned once).

    >>> uniform_exposure_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    tensor(0.6931)
    """
    if not len(ood_logits):
        return _nothing(ood_logits)
    return (energy(ood_logits) - ood_logits.mean(1)).mean()


@checked
def confidence_control_loss(
    id_logits: ClassScores,
    ood_logits: OutlierLogits,
    *,
    train_accuracy: Probability,
    lambda_in: NonNegative = 0.07,
    lambda_out: NonNegative = 0.05,
) -> Scalar:
    """Known samples as confident as the model is accurate, outliers uniform; sums over the batch.

    Args:
        id_logits: (n, C) of known samples.
        ood_logits: (m, C) of outliers.
        train_accuracy: A, in [0, 1].
        lambda_in: λ₁ of the squared differences of known samples.
        lambda_out: λ₂ of the absolute differences of outliers.

    Returns:
        The sum of both parts; the outliers' is zero, attached to the graph, where there are none (warned once).

    >>> confidence_control_loss(torch.zeros(1, 2), torch.zeros(3, 2), train_accuracy=1.0, lambda_in=1.0)
    tensor(0.2500)
    """
    confidence = id_logits.softmax(1).max(1).values
    loss = lambda_in * (confidence - train_accuracy).square().sum()
    if not len(ood_logits):
        return loss + _nothing(ood_logits)
    return loss + lambda_out * (ood_logits.softmax(1) - 1 / ood_logits.shape[1]).abs().sum()


class _LossWithOutliers(nn.Module):
    def __init__(self, id_loss: IdLoss | None) -> None:
        super().__init__()
        self.id_loss: IdLoss = binary_cross_entropy if id_loss is None else id_loss

    def _penalty(self, id_logits: Tensor, ood_logits: Tensor) -> Tensor:
        raise NotImplementedError

    @checked
    def forward(self, id_logits: ClassScores, target: Tensor, ood_logits: OutlierLogits) -> Scalar:
        """The loss of known samples' logits (n, C) by their targets, which `id_loss` reads, and outliers' (m, C)."""
        return self.id_loss(id_logits, target) + self._penalty(id_logits, ood_logits)


class EnergyMarginLoss(_LossWithOutliers):
    """Energy fine-tuning: the task's loss and `weight` times `energy_margin_loss`.

    Args:
        m_in: as in `energy_margin_loss`.
        m_out: as in `energy_margin_loss`.
        weight: of the hinges.
        id_loss: (logits, targets) → scalar; see the module.

    Raises:
        ValueError: if m_out is below m_in.

    >>> y, x = torch.arange(40) % 2, torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    >>> x[:40] += 4 * torch.nn.functional.one_hot(y)
    >>> model, loss = torch.nn.Linear(2, 2), EnergyMarginLoss(m_in=-4.0, m_out=-1.0, id_loss=nn.CrossEntropyLoss())
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> start = loss(model(x)[:40], y, model(x)[40:]).item()
    >>> for _ in range(20):
    ...     logits = model(x)
    ...     optimizer.zero_grad()
    ...     loss(logits[:40], y, logits[40:]).backward()
    ...     optimizer.step()
    >>> loss(logits[:40], y, logits[40:]).item() < start
    True
    """

    @checked
    def __init__(
        self, m_in: Real = -23.0, m_out: Real = -5.0, weight: NonNegative = 0.1, id_loss: IdLoss | None = None
    ) -> None:
        super().__init__(id_loss)
        _check_margins(m_in, m_out)
        self.m_in, self.m_out, self.weight = m_in, m_out, weight

    def _penalty(self, id_logits: Tensor, ood_logits: Tensor) -> Tensor:
        return self.weight * energy_margin_loss(id_logits, ood_logits, m_in=self.m_in, m_out=self.m_out)


class UniformExposureLoss(_LossWithOutliers):
    """Outlier exposure: the task's loss and `weight` times `uniform_exposure_loss`.

    Args:
        weight: of the cross-entropy of outliers.
        id_loss: (logits, targets) → scalar; see the module.

    >>> x, y = torch.eye(3), torch.tensor([0, 1])
    >>> model, loss = torch.nn.Linear(3, 2), UniformExposureLoss(id_loss=nn.CrossEntropyLoss())
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> for _ in range(50):
    ...     logits = model(x)
    ...     optimizer.zero_grad()
    ...     loss(logits[:2], y, logits[2:]).backward()
    ...     optimizer.step()
    >>> confidence = model(x).softmax(1).max(1).values
    >>> bool(confidence[2] < confidence[:2].min())
    True
    """

    @checked
    def __init__(self, weight: NonNegative = 0.5, id_loss: IdLoss | None = None) -> None:
        super().__init__(id_loss)
        self.weight = weight

    def _penalty(self, id_logits: Tensor, ood_logits: Tensor) -> Tensor:
        return self.weight * uniform_exposure_loss(ood_logits)


class ConfidenceControlLoss(_LossWithOutliers):
    """OECC: the task's loss and `confidence_control_loss`, with which a trained model is fine-tuned.

    Args:
        train_accuracy: A, the accuracy of the model on its training samples before.
        lambda_in: as in `confidence_control_loss`.
        lambda_out: as in `confidence_control_loss`.
        id_loss: (logits, targets) → scalar; see the module.

    >>> x, y = torch.eye(3), torch.tensor([0, 1])
    >>> model, loss = torch.nn.Linear(3, 2), ConfidenceControlLoss(0.9, 1.0, 1.0, nn.CrossEntropyLoss())
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> for _ in range(100):
    ...     logits = model(x)
    ...     optimizer.zero_grad()
    ...     loss(logits[:2], y, logits[2:]).backward()
    ...     optimizer.step()
    >>> confidence = model(x).softmax(1).max(1).values
    >>> bool(confidence[2] < confidence[:2].min())
    True
    """

    @checked
    def __init__(
        self,
        train_accuracy: Probability,
        lambda_in: NonNegative = 0.07,
        lambda_out: NonNegative = 0.05,
        id_loss: IdLoss | None = None,
    ) -> None:
        super().__init__(id_loss)
        self.train_accuracy, self.lambda_in, self.lambda_out = train_accuracy, lambda_in, lambda_out

    def _penalty(self, id_logits: Tensor, ood_logits: Tensor) -> Tensor:
        return confidence_control_loss(
            id_logits,
            ood_logits,
            train_accuracy=self.train_accuracy,
            lambda_in=self.lambda_in,
            lambda_out=self.lambda_out,
        )


def _check_margins(m_in: float, m_out: float) -> None:
    if m_out < m_in:
        raise ValueError(f"m_out={m_out!r} must not be below m_in={m_in!r}: outliers have the higher energy")


def _nothing(ood_logits: Tensor) -> Tensor:
    warn_once("the batch holds no outliers: their part of the loss is zero")
    return attached_zero(ood_logits)
