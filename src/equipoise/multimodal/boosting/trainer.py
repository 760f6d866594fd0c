"""Boosting over modalities: one learner is trained at a time, on what the others do not know yet.

    stage s:  k = schedule(s)
      turn           E_m epochs   reconcilement_loss(φ_k, y, β Σ_{m≠k} φ_m) + memory_consolidation_loss(φ_k, φ_previous)
                                  over the weights of φ_k, the others held constant, in evaluation mode
      rectification  E_g epochs   cross-entropy(β Σ_m φ_m, y) over all weights and β

Unlike classical boosting the ensemble has one learner for each modality throughout. Each turn and each rectification
has a fresh optimizer. In the first stage there is nothing to be reconciled with, unless each learner was warmed up
alone: its loss is the weighted cross-entropy. Where no rectification has touched a learner yet, it stays out of the sum
until its turn. The memory is the other learner that was updated last.

Hua et al., ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024; as in the authors' code, but that the
others are in evaluation mode, the memory term has its gradient, the first stage has no random target, and the best
stage is chosen by validation data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from equipoise.core.checkpoint import read_checkpoint, write_checkpoint
from equipoise.core.fingerprint import fingerprint
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, NumClasses, Positive, Whole
from equipoise.core.validate import check_choice
from equipoise.multimodal.boosting.consolidation import memory_consolidation_loss
from equipoise.multimodal.boosting.ensemble import ensemble_logits
from equipoise.multimodal.boosting.fusion import FusionTrainer, Monitor, kept_weights
from equipoise.multimodal.boosting.loops import Augment, OptimizerFactory, derived_seed, trainable
from equipoise.multimodal.boosting.others import OtherModalities
from equipoise.multimodal.boosting.reconcilement import ReconcilementLoss
from equipoise.multimodal.boosting.samples import Samples

_WARM, _ORDER, _TURN, _RECTIFICATION = range(4)


@dataclass(frozen=True)
class BoostingStage:
    """What a stage came to.

    Attributes:
        stage: from 0.
        modality: that had its turn.
        learning_rate: of the turn.
        loss: mean reconcilement loss over the turn's last epoch.
        consolidation: mean memory term over it; 0 where there is no memory.
        rectification: mean cross-entropy of the sum over the last epoch of the rectification; NaN without one.
        boost_rate: β after the stage.
        accuracy: of the sum on validation data; NaN without any.
        macro_accuracy: mean recall of the classes on it.
        by_modality: accuracy of each learner alone on it.
    """

    stage: int
    modality: str
    learning_rate: float
    loss: float
    consolidation: float
    rectification: float
    boost_rate: float
    accuracy: float = math.nan
    macro_accuracy: float = math.nan
    by_modality: dict[str, float] = field(default_factory=dict)


Schedule: TypeAlias = Literal["cyclic", "random"] | Callable[[int, Sequence[BoostingStage]], str]


class ReconBoostTrainer(FusionTrainer):
    """ReconBoost over any number of modalities.

    Args:
        learners: name → module from an input (n, ...) to logits (n, C), or with a shared head to features; trained in
            place, on the device where they are. Of a sequence the names are "0", "1", ….
        num_classes: C.
        loss: of (logits, target, other_logits or None), a scalar; `ReconcilementLoss()` where it is None.
        alpha: weight of the memory term; 0 leaves it out.
        epochs_per_stage: E_m.
        rectify_epochs: E_g; 0 for no rectification.
        schedule: "cyclic" in the order of the learners, "random", or a function of (stage, history) that names the
            modality of the stage.
        lr: learning rate of the turns.
        rectify_lr: that of the rectifications; None for the same.
        lr_decay: factor of both rates from each of `lr_milestones` on.
        lr_milestones: stages.
        optimizer_factory: makes an optimizer of (parameters, learning rate); SGD with momentum .9 and weight decay
            5e-4 where it is None.
        warm_start_epochs: epochs of plain cross-entropy for each learner alone, before the first stage.
        shared_head: a module from features to logits, the same for all modalities.
        update_shared_head: whether a turn trains the shared head, which moves what the other modalities say during it;
            that is followed exactly. Otherwise only rectifications and the warm start train it.
        cache: whether the others are computed once a turn where that is exact: not with `augment`, nor where learners
            share weights.
        augment: a function of (inputs by modality, generator) that changes a training batch; it is given the modalities
            that are read for the batch, which may not be all.
        batch_size: samples of a step.
        autocast: `torch.bfloat16` or `torch.float16` to run forward passes in; losses are computed in float32.
        monitor: the validation value by which the best stage is kept, "accuracy" or "macro_accuracy".
        seed: of batches, augmentation, dropout and the random schedule.

    Attributes:
        ensemble: the learners and β, with the weights of the best stage after `fit`.
        history: a `BoostingStage` for each stage.
        best_stage: whose weights the ensemble has; −1 before the first.

    Raises:
        ValueError: if a setting is out of range.

    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(90) % 3
    >>> x = {"audio": torch.eye(3)[y], "video": torch.eye(3)[y] + torch.randn(90, 3, generator=generator)}
    >>> learners = {"audio": nn.Linear(3, 3), "video": nn.Linear(3, 3)}
    >>> trainer = ReconBoostTrainer(learners, 3, lr=0.1).fit((x, y), max_stages=4)
    >>> [stage.modality for stage in trainer.history], trainer.evaluate((x, y)).accuracy > 0.9
    (['audio', 'video', 'audio', 'video'], True)
    >>> trainer.predict_proba({"video": x["video"]}).shape
    torch.Size([90, 3])
    """

    @checked
    def __init__(
        self,
        learners: Mapping[str, nn.Module] | Sequence[nn.Module],
        num_classes: NumClasses,
        *,
        loss: nn.Module | None = None,
        alpha: NonNegative = 0.5,
        epochs_per_stage: Count = 4,
        rectify_epochs: Whole = 4,
        schedule: Schedule = "cyclic",
        lr: Positive = 0.01,
        rectify_lr: Positive | None = None,
        lr_decay: Positive = 1.0,
        lr_milestones: Sequence[Whole] = (),
        optimizer_factory: OptimizerFactory | None = None,
        warm_start_epochs: Whole = 0,
        shared_head: nn.Module | None = None,
        update_shared_head: bool = True,
        cache: bool = True,
        augment: Augment | None = None,
        batch_size: Count = 64,
        autocast: torch.dtype | None = None,
        monitor: Monitor = "accuracy",
        seed: Whole = 0,
    ) -> None:
        super().__init__(
            learners,
            num_classes,
            batch_size=batch_size,
            optimizer_factory=optimizer_factory,
            shared_head=shared_head,
            autocast=autocast,
            augment=augment,
            monitor=monitor,
            seed=seed,
        )
        if not callable(schedule):
            check_choice("schedule", schedule, ("cyclic", "random"))
        self.loss = ReconcilementLoss() if loss is None else loss
        self.alpha, self.schedule = alpha, schedule
        self.epochs_per_stage, self.rectify_epochs = epochs_per_stage, rectify_epochs
        self.lr, self.rectify_lr = lr, lr if rectify_lr is None else rectify_lr
        self.lr_decay, self.lr_milestones = lr_decay, tuple(lr_milestones)
        self.warm_start_epochs, self.update_shared_head, self.cache = warm_start_epochs, update_shared_head, cache
        self.history: list[BoostingStage] = []
        self.best_stage = -1
        self._start = ""
        self._last: dict[str, Any] | None = None
        self._best: dict[str, Any] | None = None

    @checked
    def fit(
        self,
        train: Any,
        val: Any = None,
        *,
        max_stages: Count,
        patience: Count | None = None,
        progress: Callable[[BoostingStage], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> ReconBoostTrainer:
        """Train until there are `max_stages` stages in all, from where the last call or a loaded state ended.

        Args:
            train: (inputs by modality, target (n,)); an input is all samples (n, ...), or a function from row numbers
                (k,) to these samples (k, ...).
            val: the same of validation data, by which the best stage is kept; without it the last stage is.
            max_stages: stages in all.
            patience: stop after so many stages without a better value.
            progress: told of each stage.
            checkpoint: a file that is written after every stage. A trainer that has no stages yet takes it up, if it is
                of the same learners, data and settings, and ends as if it had not been interrupted.

        Raises:
            ValueError: if a modality is missing or unknown, sizes disagree, a label is no class, a learner gives other
                than C logits or has nothing to train; if `patience` is given without `val`; if the checkpoint is of
                another training, damaged, or in a folder that is not there.
            FloatingPointError: if a loss or a logit is not finite.
        """
        samples = self.samples(train, "train")
        judged = None if val is None else self.samples(val, "val")
        if patience is not None and judged is None:
            raise ValueError("patience needs val, by which a stage is better")
        if self._last is None:
            self._last, self._start = kept_weights(self.ensemble), fingerprint(self.ensemble)
        mark = "" if checkpoint is None else self.fingerprint(samples, judged)
        if checkpoint is not None and not self.history and (state := read_checkpoint(checkpoint, mark)) is not None:
            self.load_state_dict(state)
        self.ensemble.load_state_dict(self._last)
        while (stage := len(self.history)) < max_stages:
            if patience is not None and self._best is not None and stage - 1 - self.best_stage >= patience:
                break
            done = self._stage(stage, samples, judged)
            self.history.append(done)
            self._note(done, judged is not None)
            if checkpoint is not None:
                write_checkpoint(checkpoint, self.state_dict(), mark)
            if progress is not None:
                progress(done)
        self.ensemble.load_state_dict(self._last if self._best is None else self._best)
        self.ensemble.eval()
        return self

    def state_dict(self) -> dict[str, Any]:
        """What a trainer with the same settings needs to go on as if nothing had happened."""
        return {
            "weights": kept_weights(self.ensemble) if self._last is None else self._last,
            "start": self._start,
            "best": self._best,
            "best_stage": self.best_stage,
            "history": [asdict(stage) for stage in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, with the weights of its last stage."""
        self.ensemble.load_state_dict(state["weights"])
        self.history = [BoostingStage(**stage) for stage in state["history"]]
        self.best_stage, self._best, self._start = state["best_stage"], state["best"], state["start"]
        self._last = kept_weights(self.ensemble)

    def fingerprint(self, train: Samples, val: Samples | None) -> str:
        """What a training depends on, as a digest: learners as they were at first, data and settings."""
        settings = {name: value for name, value in vars(self).items() if name not in _COURSE}
        return fingerprint(settings, [vars(each) for each in (train, val) if each is not None])

    def _note(self, done: BoostingStage, judged: bool) -> None:
        self._last = kept_weights(self.ensemble)
        if not judged:
            self.best_stage = done.stage
            return
        value = getattr(done, self.monitor)
        if self._best is None or value > getattr(self.history[self.best_stage], self.monitor):
            self.best_stage, self._best = done.stage, self._last

    def _stage(self, stage: int, samples: Samples, judged: Samples | None) -> BoostingStage:
        if stage == 0 and self.warm_start_epochs:
            self._warm_start(samples)
        modality = self._scheduled(stage)
        factor = self.lr_decay ** sum(stage >= milestone for milestone in self.lr_milestones)
        found = self._turn(stage, modality, self.lr * factor, samples)
        rectified = self._rectify(stage, self.rectify_lr * factor, samples)
        values = {} if judged is None else self.judge(judged)._asdict()
        return BoostingStage(
            stage,
            modality,
            self.lr * factor,
            found["loss"],
            found.get("consolidation", 0.0),
            rectified,
            float(self.ensemble.boost_rate.detach()),
            **values,
        )

    def _scheduled(self, stage: int) -> str:
        if callable(self.schedule):
            name = self.schedule(stage, tuple(self.history))
            if name not in self.names:
                raise ValueError(f"schedule gave {name!r}, which is no modality; there are {', '.join(self.names)}")
            return name
        if self.schedule == "cyclic":
            return self.names[stage % len(self.names)]
        drawn = np.random.default_rng(derived_seed(self.loop.seed, _ORDER, stage)).integers(len(self.names))
        return self.names[int(drawn)]

    def _others(self, modality: str) -> tuple[list[str], str | None]:
        """The other learners that were ever trained, and the one of them that had its turn last."""
        turns = [done.modality for done in self.history]
        touched = bool(self.warm_start_epochs or (turns and self.rectify_epochs))
        names = [name for name in self.names if name != modality and (touched or name in turns)]
        previous = next((name for name in reversed(turns) if name != modality), None)
        return names, previous if self.alpha else None

    def _turn(self, stage: int, modality: str, lr: float, samples: Samples) -> dict[str, float]:
        ensemble, head = self.ensemble, self.ensemble.shared_head
        moving: list[nn.Module] = [ensemble.learner(modality)]
        if head is not None and self.update_shared_head:
            moving.append(head)
        names, previous = self._others(modality)
        ensemble.eval()
        others = OtherModalities(
            self,
            names,
            previous,
            samples,
            cached=self.cache and self.loop.augment is None and not self._shares(modality, names),
            head_moves=len(moving) > 1,
        )
        for module in moving:
            module.train()

        def losses(rows: Tensor, inputs: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
            other, before = others(rows, inputs)
            logits = self.part(modality, inputs[modality])
            found = {"loss": self.loss(logits, target, other)}
            if before is not None:
                found["consolidation"] = memory_consolidation_loss(logits, before, self.alpha)
            return found

        read = [modality, *others.needs()]
        return self._epochs(samples, read, moving, lr, losses, self.epochs_per_stage, (_TURN, stage), f"{modality!r}")

    def _rectify(self, stage: int, lr: float, samples: Samples) -> float:
        if not self.rectify_epochs:
            return math.nan
        self.ensemble.train()

        def losses(rows: Tensor, inputs: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
            total = ensemble_logits(self.parts(inputs, self.names), self.ensemble.boost_rate)
            return {"loss": cross_entropy(total, target)}

        place = (_RECTIFICATION, stage)
        return self._epochs(samples, self.names, [self.ensemble], lr, losses, self.rectify_epochs, place, "all")["loss"]

    def _warm_start(self, samples: Samples) -> None:
        for k, name in enumerate(self.names):
            learner, head = self.ensemble.learner(name), self.ensemble.shared_head
            moving = [learner] if head is None else [learner, head]
            self.ensemble.eval()
            for module in moving:
                module.train()

            def losses(rows: Tensor, inputs: dict[str, Tensor], target: Tensor, name: str = name) -> dict[str, Tensor]:
                return {"loss": cross_entropy(ensemble_logits({name: self.part(name, inputs[name])}), target)}

            epochs = self.warm_start_epochs
            self._epochs(samples, [name], moving, self.lr, losses, epochs, (_WARM, k), f"{name!r}")

    def _epochs(
        self,
        samples: Samples,
        read: Sequence[str],
        moving: Sequence[nn.Module],
        lr: float,
        losses: Callable[[Tensor, dict[str, Tensor], Tensor], dict[str, Tensor]],
        epochs: int,
        place: tuple[int, int],
        what: str,
    ) -> dict[str, float]:
        """Epochs with a fresh optimizer; the mean losses of the last."""
        parameters = trainable(moving)
        if not parameters:
            raise ValueError(f"the learner of {what} has no parameter to train; let one require a gradient")
        optimizer: Optimizer = self.optimizer_factory(parameters, lr)
        scaler = self.loop.scaler(self.device)
        found: dict[str, float] = {}
        for epoch in range(epochs):
            where = (*place, epoch)
            batches = self.loop.batches(samples, read, self.device, where)
            found = self.loop.epoch(batches, optimizer, scaler, losses, where)
        self.ensemble.zero_grad()
        return found

    def _shares(self, modality: str, others: Sequence[str]) -> bool:
        """Whether what is in training is also part of a learner that rests."""
        mine = {id(each) for each in self.ensemble.learner(modality).parameters()}
        return any(id(each) in mine for name in others for each in self.ensemble.learner(name).parameters())


_COURSE = ("ensemble", "history", "best_stage", "_last", "_best")
