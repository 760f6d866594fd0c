"""Adversarial and distributionally robust training on Lightning: every batch is changed by an adversary first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from equipoise.training.module import ScoringModule

Adversary = Callable[..., Tensor]
"""(model, inputs, target, objective, generator) → changes; `PGDAttack` and `WassersteinPerturbation` are such."""


class AdversarialScoringModule(ScoringModule):
    """A `ScoringModule` whose loss sees the inputs after an adversary has moved them.

    The adversary raises the loss's own `terms`, at its present variables. An adversary that is a module is part of this
    one: its state is saved with the weights.

    Args:
        network: maps inputs (n, ...) to scores (n, 1).
        loss: of (logits, target), with a method `terms` of the same arguments, such as `MinMaxAUCLoss` or `DRAUCLoss`.
        adversary: how inputs are moved.
        learning_rate: of AdamW.
        weight_decay: of AdamW, on the network only.
        seed: of the adversary's random starts; an epoch's are derived from (seed, epoch).

    Raises:
        ValueError: if the loss has no `terms`.

    >>> from equipoise.ranking import MinMaxAUCLoss, PGDAttack
    >>> module = AdversarialScoringModule(nn.Linear(3, 1), MinMaxAUCLoss(), PGDAttack(eps=0.1, step=0.05, steps=2))
    >>> x, y = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    >>> module.adversarial_loss(x, y).requires_grad
    True
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        adversary: Adversary,
        *,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(network, loss, learning_rate=learning_rate, weight_decay=weight_decay)
        if not hasattr(loss, "terms"):
            raise ValueError(
                f"{type(loss).__name__} has no `terms(scores, target)` for an adversary to raise; use MinMaxAUCLoss or "
                "DRAUCLoss, or give your loss such a method"
            )
        self.adversary, self.seed = adversary, seed
        self._generator = torch.Generator()
        self._generator.manual_seed(seed)

    def on_train_epoch_start(self) -> None:
        """Tell the loss the epoch, and derive the adversary's random numbers from it."""
        super().on_train_epoch_start()
        self._generator = torch.Generator(device=self.device)
        self._generator.manual_seed(self.seed * 1_000_003 + self.current_epoch)

    def adversarial_loss(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch after the adversary's move."""
        delta = self.adversary(self, inputs, target, self.loss.terms, self._generator)
        value: Tensor = self.loss(self(inputs + delta), target)
        return value

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        """The loss of a batch after the adversary's move."""
        inputs, target = batch
        loss = self.adversarial_loss(inputs, target)
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(target), prog_bar=True)
        return loss
