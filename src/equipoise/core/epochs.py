"""A training by epochs: the best one is kept, and an interrupted one goes on as if nothing had happened.

A trainer does one epoch at a time and can save and take up its state; `fit_epochs` runs it, keeps the best epoch by a
validation value, and stops when that does not improve.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from equipoise.core.signature import checked
from equipoise.core.types import Count


@runtime_checkable
class Trainer(Protocol):
    """What `fit_epochs` runs."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def epoch(self) -> float:
        """Train one epoch; the mean loss."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted training needs to go on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        ...


@dataclass
class TrainingHistory:
    """What `fit_epochs` saw.

    Attributes:
        losses: mean loss of each epoch.
        values: epoch → its validation value.
        best_epoch: the epoch whose weights the model has, from 0.
    """

    losses: list[float] = field(default_factory=list)
    values: dict[int, float] = field(default_factory=dict)
    best_epoch: int = -1


@checked
def fit_epochs(
    trainer: Trainer,
    epochs: Count,
    *,
    validate: Callable[[], float] | None = None,
    validate_every: Count = 1,
    patience: Count | None = None,
    progress: Callable[[int, float, float | None], None] | None = None,
    checkpoint: str | Path | None = None,
    fingerprint: str = "",
) -> TrainingHistory:
    """Train, and leave the model with the weights of its best epoch.

    Args:
        trainer: does an epoch at a time.
        epochs: most epochs.
        validate: gives a value, the higher the better; without it the last epoch is kept.
        validate_every: epochs between two of its calls; the last epoch is always judged.
        patience: stop after this many epochs without a better value; never by default.
        progress: told the epoch, its loss and its value, if there is one, after each.
        checkpoint: a file that is written after every epoch; a training that finds it goes on as if it had not been
            interrupted, and ends with the same weights bit for bit.
        fingerprint: of the data and the settings; a checkpoint with another one is not taken up.

    Raises:
        ValueError: if `patience` is given without `validate`, or `validate` gives NaN; if the checkpoint is of another
            training, or damaged.
        FloatingPointError: if a loss is not finite.
    """
    if patience is not None and validate is None:
        raise ValueError("patience needs validate, by which an epoch is better")
    history, best = TrainingHistory(), None
    if checkpoint is not None and Path(checkpoint).exists():
        history, best = _take_up(trainer, Path(checkpoint), fingerprint)
    for epoch in range(len(history.losses), epochs):
        if patience is not None and best is not None and epoch - 1 - history.best_epoch >= patience:
            break
        history.losses.append(trainer.epoch())
        if not math.isfinite(history.losses[-1]):
            raise FloatingPointError(f"the loss of epoch {epoch} is {history.losses[-1]}; lower the learning rate")
        due = (epoch + 1) % validate_every == 0 or epoch + 1 == epochs
        value = validate() if validate is not None and due else None
        if progress is not None:
            progress(epoch, history.losses[-1], value)
        if validate is None:
            history.best_epoch = epoch
        elif value is not None:
            if math.isnan(value):
                raise ValueError(f"validate gave NaN after epoch {epoch}, wanted a value to compare epochs by")
            history.values[epoch] = value
            if best is None or value > history.values[history.best_epoch]:
                history.best_epoch, best = epoch, copy.deepcopy(trainer.model.state_dict())
        if checkpoint is not None:
            _keep(trainer, history, best, Path(checkpoint), fingerprint)
    if best is not None:
        trainer.model.load_state_dict(best)
    return history


def _keep(
    trainer: Trainer, history: TrainingHistory, best: dict[str, Any] | None, path: Path, fingerprint: str
) -> None:
    state = {"fingerprint": fingerprint, "trainer": trainer.state_dict(), "history": asdict(history), "best": best}
    stage = path.with_name(f".{path.name}.new")
    torch.save(state, stage)
    os.replace(stage, path)


def _take_up(trainer: Trainer, path: Path, fingerprint: str) -> tuple[TrainingHistory, dict[str, Any] | None]:
    try:
        state = torch.load(path, weights_only=True)
        found = state["fingerprint"]
        history, best = TrainingHistory(**state["history"]), state["best"]
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, AttributeError) as error:
        why = str(error).strip().partition("\n")[0] or "it is cut off"
        raise ValueError(f"{path} is no checkpoint of a training: {why}") from error
    if found != fingerprint:
        raise ValueError(f"checkpoint {path} is of other data or settings; remove it or name another")
    trainer.load_state_dict(state["trainer"])
    return history, best
