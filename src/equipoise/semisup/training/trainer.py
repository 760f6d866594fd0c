"""A trainer of a network on few labels and many samples without, an epoch at a time.

A run is a function of its settings: batches and views are drawn from generators of its own, whose states a checkpoint
holds, and the random numbers of dropout in an epoch come from (seed, epoch). A run that is killed and started again
with the same arguments ends with the weights of an unbroken one, bit for bit.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from equipoise.core.epochs import TrainingHistory, fit_epochs
from equipoise.core.fingerprint import fingerprint
from equipoise.core.signature import checked
from equipoise.core.types import OpenTarget
from equipoise.core.validate import check_finite
from equipoise.semisup.consistency.loss import WorstCaseConsistencyLoss
from equipoise.semisup.consistency.step import consistency_step, supervised_loss
from equipoise.semisup.training.averaging import EMATeacher
from equipoise.semisup.training.settings import SemiSupervisedSettings
from equipoise.semisup.views.multiple import MultiViewSampler


class SemiSupervisedTrainer:
    """Training on samples of which some have labels.

    Args:
        network: maps inputs (n, ...) to logits (n, C), C ≥ 2; trained in place, on the device where it is.
        inputs: (n, ...) of all samples, or a function from (k,) indices to inputs (k, ...), which reads them.
        target: (n,) class indices; −1 marks samples without a label.
        weak: a function of (batch, generator) that gives weak views, such as `ImageAugmentation.weak()`,
            `SignalAugmentation.weak()`, `TableAugmentation.weak()` or one of yours.
        strong: the same for strong views.
        settings: how to train; by default MaxMatch's, see `METHODS`.

    Attributes:
        network: what is trained.
        model: what predicts: the average of the network over its training, or the network where there is none.
        statistics: of the last epoch, means over its steps: losses, share of confident samples, gap between the worst
            and the mean view, and shares of the views that were worst.

    Raises:
        ValueError: if no sample has a label, or sizes disagree.

    >>> x = torch.randn(60, 4, generator=Generator().manual_seed(0))
    >>> y = torch.where(torch.arange(60) < 10, (x[:, 0] > 0).long(), -1)
    >>> from equipoise.semisup import TableAugmentation
    >>> views = {"weak": TableAugmentation.weak(), "strong": TableAugmentation.strong()}
    >>> settings = SemiSupervisedSettings.usual("maxmatch", epochs=2, batch_size=5)
    >>> trainer = SemiSupervisedTrainer(nn.Linear(4, 2), x, y, **views, settings=settings)
    >>> len(trainer.fit().losses), trainer.model(x).shape
    (2, torch.Size([60, 2]))
    """

    @checked
    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor | Callable[[Tensor], Tensor],
        target: OpenTarget,
        *,
        weak: Callable[[Tensor, Generator], Tensor],
        strong: Callable[[Tensor, Generator], Tensor],
        settings: SemiSupervisedSettings | None = None,
    ) -> None:
        if isinstance(inputs, Tensor):
            if len(inputs) != len(target):
                raise ValueError(f"inputs have {len(inputs)} rows, target has {len(target)}")
            if inputs.is_floating_point():
                check_finite("inputs", inputs)
        target = target.cpu()
        labelled = (target >= 0).nonzero().squeeze(1)
        if not len(labelled):
            raise ValueError("target has no labels, all are -1; at least one sample must have one")
        self.network, self.inputs, self.target = network, inputs, target
        self.weak, self.strong = weak, strong
        self.settings = chosen = settings or SemiSupervisedSettings()
        self.statistics: dict[str, float] = {}
        self._views = MultiViewSampler(
            weak, strong if chosen.strong_views else weak, chosen.variants, chosen.variant_probs
        )
        self._criterion = WorstCaseConsistencyLoss(
            chosen.threshold, chosen.aggregate, chosen.divergence, chosen.temperature, chosen.confidence_temperature
        )
        self._average = None if chosen.average is None else EMATeacher(network, chosen.average)
        self._optimizer = torch.optim.SGD(
            _parameter_groups(network, chosen.weight_decay),
            chosen.learning_rate,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov,
        )
        self._order = Generator().manual_seed(chosen.seed)
        self._draws = Generator(self._device).manual_seed(chosen.seed)
        self._labelled = _Rounds(labelled, self._order)
        self._unlabelled = (target < 0).nonzero().squeeze(1)
        self._step = 0

    @property
    def model(self) -> nn.Module:
        """What predicts."""
        return self.network if self._average is None else self._average.module

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        chosen = self.settings
        if len(self._unlabelled):
            return -(-len(self._unlabelled) // chosen.unlabelled_size)
        return -(-len(self._labelled) // chosen.batch_size)

    @checked
    def fit(
        self,
        *,
        validate: Callable[[nn.Module], float] | None = None,
        patience: int | None = None,
        progress: Callable[[int, float, float | None], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> TrainingHistory:
        """Train for all epochs, and leave the model in evaluation mode.

        Args:
            validate: gives a value of the model, the higher the better, after each epoch; the best epoch is kept.
            patience: stop after so many epochs without a better value.
            progress: told the epoch, its loss and its value after each.
            checkpoint: a file that is written after every epoch, and taken up if it is of a training with the same
                network, data, views and settings.

        Raises:
            ValueError: if the checkpoint is of another training, or damaged; see `fit_epochs`.
            FloatingPointError: if a loss is not finite.
        """

        def judged() -> float:
            self.model.eval()
            return 0.0 if validate is None else validate(self.model)

        history = fit_epochs(
            self,
            self.settings.epochs,
            validate=None if validate is None else judged,
            patience=patience,
            progress=progress,
            checkpoint=checkpoint,
            fingerprint="" if checkpoint is None else self.fingerprint(),
        )
        self.model.eval()
        return history

    def fingerprint(self) -> str:
        """What the rest of the training depends on, as a digest: network, data, views and settings."""
        return fingerprint(self.network, self.inputs, self.target, self.weak, self.strong, self.settings)

    def epoch(self) -> float:
        """Train on every unlabelled sample once; the mean loss of its steps."""
        seen: dict[str, list[float]] = defaultdict(list)
        shuffled = self._unlabelled[torch.randperm(len(self._unlabelled), generator=self._order)]
        batches = shuffled.split(self.settings.unlabelled_size) if len(shuffled) else [shuffled] * self.steps_per_epoch
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.settings.seed * 1_000_003 + self._step // self.steps_per_epoch)
            self.network.train()
            for rows in batches:
                for name, value in self._advance(rows).items():
                    seen[name].append(value)
        known = {name: [v for v in values if v == v] for name, values in seen.items()}
        self.statistics = {name: statistics.fmean(values) for name, values in known.items() if values}
        return statistics.fmean(seen["loss"])

    def _advance(self, rows: Tensor) -> dict[str, float]:
        total = self.steps_per_epoch * self.settings.epochs
        step = min(self._step, total - 1)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate(step, total)
        weight = self.settings.weight(step, total)
        taken = self._labelled.take(self.settings.batch_size)
        x = self._views.weak_view(self._read(taken), self._draws)
        y = self.target[taken].to(self._device)
        self._optimizer.zero_grad()
        if weight and len(rows):
            views = self._views(self._read(rows), self._draws)
            teacher = self._average if self.settings.average_predicts_targets else None
            done = consistency_step(
                self.network,
                x,
                y,
                *views,
                self._criterion,
                weight=weight,
                teacher=teacher,
                two_pass=self.settings.two_pass,
            )
            loss, found = done.loss, done.statistics
            found |= {"supervised": float(done.supervised), "consistency": float(done.consistency)}
        else:
            loss = supervised_loss(self.network(x), y)
            found = {"supervised": float(loss.detach())}
        loss.backward()
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self.network)
        self._step += 1
        return {"loss": float(loss.detach()), **found}

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _read(self, rows: Tensor) -> Tensor:
        taken = self.inputs[rows.to(self.inputs.device)] if isinstance(self.inputs, Tensor) else self.inputs(rows)
        return taken.to(self._device)

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on as if nothing had happened."""
        return {
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "labelled": self._labelled.state_dict(),
            "order": self._order.get_state(),
            "draws": self._draws.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step = state["step"]
        self._labelled.load_state_dict(state["labelled"])
        self._order.set_state(state["order"].cpu())
        self._draws.set_state(state["draws"].cpu())


class _Rounds:
    """Rows without end: all of them in random order, then all in another."""

    def __init__(self, rows: Tensor, generator: Generator) -> None:
        self.rows, self.generator = rows, generator
        self.left = rows[:0]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, count: int) -> Tensor:
        while len(self.left) < count:
            order = torch.randperm(len(self.rows), generator=self.generator)
            self.left = torch.cat([self.left, self.rows[order]])
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def state_dict(self) -> dict[str, Any]:
        # A slice would be saved with all of its storage.
        return {"left": self.left.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.left = state["left"]


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
