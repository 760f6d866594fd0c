"""What the modalities that are not in training say of the training samples, computed once a turn where that is exact.

During a turn the other learners do not change, so one pass over the training set serves every epoch of it:
(M − 1) passes in place of (M − 1) per epoch. A shared head that is trained in the turn does change; then the features
below it are kept, and only the head is run again. Where batches are augmented, or learners share weights with the one
in training, everything is computed anew for each batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from equipoise.multimodal.boosting.ensemble import ensemble_logits
from equipoise.multimodal.boosting.fusion import FusionTrainer
from equipoise.multimodal.boosting.loops import check_logits
from equipoise.multimodal.boosting.samples import Samples


class OtherModalities:
    """The sum of the others, and the one that was trained before, for any rows of the training set.

    Args:
        trainer: whose learners they are.
        names: of the modalities in the sum.
        previous: the one that was trained before, among `names`; None where there is none.
        samples: the training set.
        cached: whether to compute what does not change in advance.
        head_moves: whether the shared head is in training.
        batch_size: of the passes in advance.
    """

    def __init__(
        self,
        trainer: FusionTrainer,
        names: Sequence[str],
        previous: str | None,
        samples: Samples,
        *,
        cached: bool,
        head_moves: bool,
        batch_size: int = 1024,
    ) -> None:
        self.trainer, self.names, self.previous = trainer, list(names), previous
        self.head = trainer.ensemble.shared_head if head_moves else None
        self._kept: dict[str, Tensor] | None = None
        if cached:
            self._kept = self._in_advance(samples, batch_size)

    def needs(self) -> list[str]:
        """Modalities whose inputs must be read for a batch."""
        return self.names if self._kept is None else []

    @torch.no_grad()
    def __call__(self, rows: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Logits (k, C) of the sum, with the boost rate, and those of the one before, for a batch of these rows."""
        if not self.names:
            return None, None
        if self._kept is None:
            return self._added({name: self._learned(name, inputs[name]) for name in self.names})
        found = {name: value[rows.to(value.device)] for name, value in self._kept.items()}
        if self.head is not None:
            return self._added(found)
        return found["sum"], found.get("previous")

    @torch.no_grad()
    def _in_advance(self, samples: Samples, batch_size: int) -> dict[str, Tensor]:
        pieces: list[dict[str, Tensor]] = []
        device = self.trainer.device
        for rows in torch.arange(len(samples)).split(batch_size) if self.names else ():
            inputs = samples.read(rows, self.names, device)
            found = {name: self._learned(name, inputs[name]) for name in self.names}
            if self.head is None:
                total, previous = self._added(found)
                found = {"sum": total} if previous is None else {"sum": total, "previous": previous}
            pieces.append(found)
        return {name: torch.cat([piece[name] for piece in pieces]) for name in (pieces[0] if pieces else ())}

    def _learned(self, name: str, x: Tensor) -> Tensor:
        """Features below the head where that moves, else logits."""
        learner = self.trainer.ensemble.learner(name)
        with _in_evaluation(learner), self.trainer.loop.precision(self.trainer.device):
            if self.head is None:
                return self.trainer.part(name, x)
            found: Tensor = learner(x)
        return found

    def _added(self, learned: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        parts = learned
        if self.head is not None:
            with self.trainer.loop.precision(self.trainer.device), _in_evaluation(self.head):
                parts = {name: self.head(features) for name, features in learned.items()}
            for name, logits in parts.items():
                check_logits(logits, name, self.trainer.num_classes)
        before = None if self.previous is None else parts[self.previous]
        return ensemble_logits(parts, self.trainer.ensemble.boost_rate), before


@contextmanager
def _in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Without dropout and with running statistics, for a learner that rests; each module's mode is then put back."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
