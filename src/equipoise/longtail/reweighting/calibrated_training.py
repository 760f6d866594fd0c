"""The calibrated vector-scaling loss over a training run: when κ is fitted, and which phase it counts in.

    epoch < warm-up       first phase, κ = 1
    epoch < T₀            first phase, κ smoothed over the fits of the epochs before
    epoch ≥ T₀            last phase, κ begins at 1 and is smoothed anew

After each epoch κ is fitted to the last training batches' logits by class. Losses, bank and fit:
`longtail.reweighting.confidence_scale`.

Journal part of Wang et al., "A Unified Perspective for Loss-Oriented Imbalanced Learning via Localization", TPAMI 2026;
the course follows the authors' code. That the epochs of the warm-up are fitted too, and only not used, is
reconstructed.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.distributed import gather_rows
from equipoise.core.phases import Phased, first_late_epoch
from equipoise.core.signature import checked
from equipoise.core.types import ClassScores, ClassTarget, Fraction, NonNegative, Whole
from equipoise.longtail.reweighting.confidence_scale import ConfidenceScaleBank, CVSLoss

_NONE_YET = -1


class PhasedCVSLoss(Phased):
    """A `CVSLoss` that fits its class factors κ after every epoch and changes its phase by the epoch's number.

    The trainer must call `set_epoch(loss, epoch, total)` before every epoch. In training mode logits are noted as they
    come, with augmentation and dropout, as the authors do. What was noted and κ are part of the state, so that a
    resumed run goes on as an unbroken one.

    Args:
        class_counts: training samples per class: a list, array, tensor or `ClassStats`.
        gamma: as in `CVSLoss`.
        tau: as in `CVSLoss`.
        rho: as in `CVSLoss`.
        start: share of all epochs after which the last phase begins, in (0, 1].
        warm_up: how many epochs κ stays 1.
        gather: fit to what all processes of torch.distributed noted, so that κ is the same on all; `set_epoch` then
            waits for them.
        options: `n_bins`, `min_scale`, `max_scale` and `min_samples` of `fit_confidence_scale`.

    Raises:
        ValueError: on a bad argument, by name.

    >>> x, y = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)), (torch.arange(80) < 8).long()
    >>> model, loss = torch.nn.Linear(3, 2), PhasedCVSLoss([72, 8], warm_up=2, min_scale=0.1, max_scale=10.0)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> for epoch in range(10):
    ...     loss.set_epoch(epoch, 10)
    ...     optimizer.zero_grad()
    ...     loss(model(x + 2 * y[:, None]), y).backward()
    ...     optimizer.step()
    >>> loss.stage, loss.kappa.shape
    (2, torch.Size([2]))
    """

    smoothed: Tensor
    _fitted: Tensor

    @checked
    def __init__(
        self,
        class_counts: Any,
        gamma: NonNegative = 0.15,
        tau: NonNegative = 0.9,
        rho: NonNegative = 0.15,
        *,
        start: Fraction = 0.8,
        warm_up: Whole = 10,
        gather: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss = CVSLoss(class_counts, gamma, tau, rho)
        self.bank = ConfidenceScaleBank(class_counts, **options)
        self.start, self.warm_up, self.gather = start, warm_up, gather
        self.register_buffer("smoothed", torch.ones_like(self.loss.kappa))
        self.register_buffer("_fitted", torch.tensor(_NONE_YET))

    @property
    def stage(self) -> int:
        """1 for the first phase, 2 for the last."""
        return self.loss.stage

    @property
    def kappa(self) -> Float[Tensor, " c"]:
        """The class factors that count in this epoch."""
        return self.loss.kappa

    def set_epoch(self, epoch: int, total: int = 0) -> None:
        """Fit κ to the epoch that has ended, unless that was done, and enter the phase of this one.

        An earlier epoch than the last begins a new run, with nothing noted.

        Raises:
            ValueError: if `epoch` or `total` is negative.
            RuntimeError: if the epoch is not 0 and there is no total.
        """
        super().set_epoch(epoch, total)
        late = epoch >= first_late_epoch(self.start, epoch, total)
        if epoch < int(self._fitted):
            self.bank.rows = self.bank.rows[:0]
            self.smoothed.fill_(1)
            self._fitted.fill_(epoch)
        elif epoch > int(self._fitted):
            if int(self._fitted) != _NONE_YET:
                self._fit()
            if late and self.stage == 1:
                self.smoothed.fill_(1)
            self._fitted.fill_(epoch)
        used = late or epoch >= self.warm_up
        self.loss.set_stage(2 if late else 1, self.smoothed if used else None)

    def forward(self, logits: ClassScores, target: ClassTarget) -> Float[Tensor, ""]:
        """The loss of logits (n, C) by class indices (n,), −100 for what does not count; errors as `vs_loss`."""
        value: Tensor = self.loss(logits, target)
        counted = target >= 0
        if self.training and bool(counted.any()):
            self.bank.update(logits[counted], target[counted])
        return value

    def _fit(self) -> None:
        self.bank.kappa = self.smoothed.cpu()
        rows = self.bank.rows
        if self.gather:
            rows = gather_rows(rows.to(self.smoothed.device))
        self.smoothed.copy_(self.bank.fit_to(rows))

    def get_extra_state(self) -> Tensor:
        """What was noted of the last batches, for the state dict."""
        return self.bank.rows

    def set_extra_state(self, state: Tensor) -> None:
        """Note what `get_extra_state` gave."""
        self.bank.rows = state
