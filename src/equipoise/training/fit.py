"""One training loop for all of the library: Lightning's, on tensors that fit in memory.

A run is a function of its seed: the batches of an epoch come from (seed, epoch), as do the random numbers of dropout. A
run with a folder writes a checkpoint after every epoch, and one that is killed at any moment and started again with the
same arguments goes on from there and ends with the same weights, bit for bit.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float, Int
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from equipoise.core.phases import set_epoch
from equipoise.core.registry import Request
from equipoise.core.validate import check_choice, check_nonnegative, check_positive
from equipoise.data.sampling.batches import StratifiedBatchSampler
from equipoise.training.module import Judge, KeepBest, ResumePoint, ScoringModule, SeedEachEpoch
from equipoise.training.optimizers import OPTIMIZERS, PLAIN

RESUME_FILE = "resume.ckpt"
_CHATTER = ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning")


@dataclass(frozen=True)
class Plan:
    """How long and how to train.

    Attributes:
        epochs: at most.
        batch_size: samples of a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        positive_rate: share of positives in every batch; None keeps the data's.
        patience: epochs without a better held-out result before stopping; needs held-out data. It is counted from
            where the loss and the optimizer have entered their last phase, and no weights of before are kept.
        optimizer: a name in `OPTIMIZERS`.
        seed: of batches and dropout.
        progress: whether to show Lightning's progress bar.
        accelerator: Lightning's choice of device.
    """

    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    positive_rate: float | None = None
    patience: int = 10
    optimizer: str = "adamw"
    seed: int = 0
    progress: bool = False
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_positive("learning_rate", self.learning_rate)
        check_nonnegative("weight_decay", self.weight_decay)


@dataclass(frozen=True)
class HeldOut:
    """Data to judge a run by while it goes on.

    Attributes:
        features: (m, d).
        target: (m,).
        judge: scores and targets to a number, higher being better.
    """

    features: Float[Tensor, "m d"]
    target: Int[Tensor, " m"]
    judge: Judge


@dataclass(frozen=True)
class Run:
    """What a run ended with.

    Attributes:
        module: the trained module, with its best weights where data were held out.
        epochs: how many were run, over all resumptions.
        best_epoch: the one whose weights were kept; None without held-out data.
        best: its held-out result; None without held-out data.
    """

    module: ScoringModule
    epochs: int
    best_epoch: int | None = None
    best: float | None = None


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by index: collating row by row would cost more than a small network's step."""

    def __init__(self, features: Tensor, target: Tensor) -> None:
        self.features, self.target = features, target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor]:
        return self.features[rows], self.target[rows]


def fit_module(
    network: nn.Module,
    loss: nn.Module,
    features: Float[Tensor, "n d"],
    target: Int[Tensor, " n"],
    plan: Plan,
    *,
    held_out: HeldOut | None = None,
    folder: Path | None = None,
) -> Run:
    """Train a scoring network.

    Args:
        network: maps (n, d) to (n, C), or (n, 1) for two classes; trained in place.
        loss: of (logits, target), any of this library or of yours.
        features: (n, d) training features, in the dtype of the network.
        target: (n,) class indices.
        plan: how to train.
        held_out: data to stop early by; without it, the run goes through all epochs and keeps the last weights.
        folder: where to write `resume.ckpt` after every epoch and `logs/metrics.csv`. A checkpoint found there is
            resumed. Nothing is written without it.

    Returns:
        The run. The caller's random state is as before.

    Raises:
        ValueError: if a setting of the plan cannot be met with these data.

    >>> x, y = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 2
    >>> from equipoise.ranking import PairwiseAUCLoss
    >>> fit_module(nn.Linear(3, 1), PairwiseAUCLoss(), x, y, Plan(epochs=2, batch_size=50)).epochs
    2
    """
    sampler = StratifiedBatchSampler(target, plan.batch_size, positive_rate=plan.positive_rate, seed=plan.seed)
    # A loader draws a seed for its workers whenever it is iterated, from the global generator unless it has its own.
    loader = DataLoader(_Rows(features, target), sampler=sampler, batch_size=None, generator=torch.Generator())
    counts = torch.bincount(target.long())
    request = Request(len(counts), tuple(counts.tolist()), total_epochs=plan.epochs)
    choice = OPTIMIZERS[plan.optimizer]
    module = ScoringModule(
        network,
        loss,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        sharpness=None if choice.name == PLAIN else partial(choice.build, request=request),
    )
    callbacks: list[lightning.Callback] = [SeedEachEpoch(plan.seed)]
    keep = None
    if held_out is not None:
        keep = KeepBest(
            held_out.features,
            held_out.target,
            held_out.judge,
            patience=plan.patience,
            first_epoch=max(_last_phase(loss, plan.epochs), math.ceil(choice.late * plan.epochs - 1e-9)),
        )
        callbacks.append(keep)
    resume = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        resume = folder / RESUME_FILE
        callbacks.append(ResumePoint(resume))
    with _quiet(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        trainer = lightning.Trainer(
            max_epochs=plan.epochs,
            accelerator=plan.accelerator,
            devices=1,
            callbacks=callbacks,
            logger=CSVLogger(folder, name="logs", version="") if folder is not None else False,
            enable_checkpointing=False,
            enable_progress_bar=plan.progress,
            enable_model_summary=False,
            log_every_n_steps=1_000_000,
            use_distributed_sampler=False,
        )
        found = resume is not None and resume.exists()
        trainer.fit(module, loader, ckpt_path=resume if found else None, weights_only=True if found else None)
    module.cpu()
    if keep is not None:
        keep.restore(module)
    module.eval()
    return Run(
        module,
        trainer.current_epoch,
        keep.best_epoch if keep is not None else None,
        keep.best if keep is not None else None,
    )


def _last_phase(loss: nn.Module, epochs: int) -> int:
    """The epoch in which the loss takes its last form: a model kept from before was trained for something else."""
    set_epoch(loss, 0, epochs)
    starts = [getattr(part, name, 0) for part in loss.modules() for name in ("late_epoch", "warmup_epochs")]
    # A phase that never begins, or not in this run, is not waited for.
    return max((n for n in starts if n < epochs), default=0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says about devices, workers and logging, for our own call only."""
    loggers = [logging.getLogger(name) for name in _CHATTER]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(lightning|pytorch_lightning)\b.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
