"""A scoring network and its loss as a LightningModule, and the callbacks that keep what a run needs.

The loss may be any of this library or of yours, called as `loss(logits, target)`. Everything in it that is `Phased` is
told the epoch before the epoch begins.
"""

from __future__ import annotations

import copy
import csv
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equipoise.core.phases import set_epoch
from equipoise.core.solvers.saddle import descent_ascent

Judge = Callable[[Tensor, Tensor], Tensor]


class ScoringModule(lightning.LightningModule):
    """Trains a network that scores, with any loss of (logits, target).

    Args:
        network: maps features (n, d) to scores (n, C), or (n, 1) for two classes, which the loss sees as (n,).
        loss: of (logits, target).
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        sharpness: makes a sharpness-aware optimizer around AdamW of (parameter groups, lr=..., weight_decay=...); the
            loss is then taken sample by sample, on a copy of it with `reduction="none"`.

    Raises:
        ValueError: if the optimizer needs losses of samples and the loss has no `reduction`.

    >>> module = ScoringModule(nn.Linear(3, 1), nn.BCEWithLogitsLoss())
    >>> module(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        *,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        sharpness: Callable[..., Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.loss = network, loss if sharpness is None else sample_losses(loss)
        self.learning_rate, self.weight_decay, self.sharpness = learning_rate, weight_decay, sharpness
        self.automatic_optimization = sharpness is None

    def forward(self, features: Tensor) -> Tensor:
        """Scores of a batch, (n,) for two classes and (n, C) for more."""
        scores: Tensor = self.network(features)
        return scores.squeeze(1) if scores.ndim == 2 and scores.shape[1] == 1 else scores

    def on_train_epoch_start(self) -> None:
        """Tell the loss and an optimizer of stages which epoch it is."""
        set_epoch(self, self.current_epoch, self.trainer.max_epochs or 0)
        for optimizer in self.trainer.optimizers:
            if hasattr(optimizer, "set_epoch"):
                optimizer.set_epoch(self.current_epoch)

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        """The loss of a batch, which may hold weights; a sharpness-aware optimizer asks for it several times, without
        weights, and steps here.
        """
        features, target, *weight = batch
        if self.sharpness is None:
            options = {"sample_weight": weight[0]} if weight else {}
            loss: Tensor = self.loss(self(features), target, **options)
        else:
            optimizer: Any = self.optimizers()
            loss = optimizer.step(lambda: (self.loss(self(features), target), target))
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(target), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """AdamW, ascending what a saddle loss maximises; the loss's own variables without weight decay."""
        if self.sharpness is not None:
            return self.sharpness(
                list(self.network.parameters()), lr=self.learning_rate, weight_decay=self.weight_decay
            )
        return descent_ascent(torch.optim.AdamW, self, lr=self.learning_rate, weight_decay=self.weight_decay)


def sample_losses(loss: nn.Module) -> nn.Module:
    """A copy of a loss that gives the loss of every sample.

    Raises:
        ValueError: if a part of it has no `reduction`, such as a loss of pairs.
    """
    copied = copy.deepcopy(loss)
    part: Any
    for part in copied.modules():
        if hasattr(part, "reduction"):
            part.reduction = "none"
        elif not list(part.children()):
            raise ValueError(
                f"a sharpness-aware optimizer needs the loss of every sample, and {type(part).__name__} has no "
                "`reduction`; use optimizer='adamw'"
            )
    return copied


class KeepBest(lightning.Callback):
    """Judges held-out data after every epoch, stops when that stops improving, and keeps the best weights.

    Args:
        features: held-out features.
        target: held-out targets.
        judge: scores and targets to a number, higher being better.
        patience: stop after this many epochs without a better one.
        first_epoch: epochs before it are neither kept nor counted, such as a warm-up on another loss.
    """

    def __init__(self, features: Tensor, target: Tensor, judge: Judge, *, patience: int, first_epoch: int = 0) -> None:
        self.features, self.target, self.judge = features, target, judge
        self.patience, self.first_epoch = patience, first_epoch
        self.best, self.best_epoch = -math.inf, -1
        self.weights: dict[str, Tensor] = {}
        self.stopped = False

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Stop a resumed run that had come to its end."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Judge, keep, and ask to stop."""
        epoch = trainer.current_epoch
        module.eval()
        with torch.no_grad():
            scores = module(self.features.to(module.device)).cpu()
        module.train()
        value = float(self.judge(scores, self.target))
        module.log("held_out", value, prog_bar=True)
        if epoch < self.first_epoch:
            return
        if value > self.best:
            self.best, self.best_epoch = value, epoch
            self.weights = {name: w.detach().cpu().clone() for name, w in module.state_dict().items()}
        elif epoch - max(self.best_epoch, self.first_epoch) >= self.patience:
            trainer.should_stop = self.stopped = True

    def restore(self, module: nn.Module) -> None:
        """Put the best weights back."""
        if self.weights:
            module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors, which a checkpoint can hold without pickled objects."""
        return {name: getattr(self, name) for name in ("best", "best_epoch", "weights", "stopped")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        vars(self).update(state_dict)


class SeedEachEpoch(lightning.Callback):
    """Derives the random numbers of an epoch from (seed, epoch), so that a resumed epoch draws the same ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Seed torch's generator; `fit_module` restores the caller's afterwards."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)


class EpochLog(lightning.Callback):
    """Writes what was logged of every epoch as CSV, one row per epoch; a resumed run goes on after its last one.

    Args:
        path: where it is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write all rows anew."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **logged})
        with _written_aside(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
            names = dict.fromkeys(name for row in self.rows for name in row)
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.rows = state_dict["rows"]


class ResumePoint(lightning.Callback):
    """Writes a checkpoint after every epoch, aside first and then moved into place, so that one is always whole.

    Args:
        path: where it is written.
        identity: what tells this run from others, as names and digests; kept in the checkpoint.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path, self.identity = path, identity

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write the checkpoint of the epoch that ends."""
        with _written_aside(self.path) as aside:
            trainer.save_checkpoint(aside)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say whose it is."""
        checkpoint["identity"] = self.identity


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A path to write to, that takes the place of `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    yield aside
    os.replace(aside, path)
