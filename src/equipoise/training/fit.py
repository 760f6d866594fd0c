"""One training loop for all of the library: Lightning's, on tensors that fit in memory.

A run is a function of its seed: the batches of an epoch come from (seed, epoch), as do the random numbers of dropout. A
run with a folder writes a checkpoint after every epoch, and one that is killed at any moment and started again with the
same arguments goes on from there and ends with the same weights, bit for bit. A run with any other argument, be it one
value of the data, refuses the checkpoint.
"""

from __future__ import annotations

import logging
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from equipoise.core.fingerprint import fingerprint
from equipoise.core.phases import set_epoch
from equipoise.core.registry import Request
from equipoise.core.signature import checked
from equipoise.core.types import ClassTarget, Count, NonNegative, OpenFraction, Positive, SampleWeight, Whole
from equipoise.core.validate import check_choice
from equipoise.data.sampling.batches import StratifiedBatchSampler
from equipoise.training.module import EpochLog, Judge, KeepBest, ResumePoint, ScoringModule, SeedEachEpoch
from equipoise.training.objectives import weighs_samples
from equipoise.training.optimizers import OPTIMIZERS, PLAIN

RESUME_FILE = "resume.ckpt"
_CHATTER = ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning")


@checked
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

    epochs: Count = 60
    batch_size: Count = 256
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-4
    positive_rate: OpenFraction | None = None
    patience: Count = 10
    optimizer: str = "adamw"
    seed: Whole = 0
    progress: bool = False
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)


@checked
@dataclass(frozen=True)
class HeldOut:
    """Data to judge a run by while it goes on.

    Attributes:
        features: (n, d).
        target: (n,) class indices.
        judge: scores and targets to a number, higher being better.
    """

    features: Float[Tensor, "n d"]
    target: ClassTarget
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


class _Rows(Dataset[tuple[Tensor, ...]]):
    """Whole batches by index: collating row by row would cost more than a small network's step."""

    def __init__(self, *columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, rows: Any) -> tuple[Tensor, ...]:
        return tuple(column[rows] for column in self.columns)


@checked
def fit_module(
    network: nn.Module,
    loss: nn.Module,
    features: Float[Tensor, "n d"],
    target: ClassTarget,
    plan: Plan,
    *,
    sample_weight: SampleWeight | None = None,
    held_out: HeldOut | None = None,
    folder: str | Path | None = None,
) -> Run:
    """Train a scoring network.

    Args:
        network: maps (n, d) to (n, C), or (n, 1) for two classes; trained in place.
        loss: of (logits, target), any of this library or of yours.
        features: (n, d) training features, in the dtype of the network.
        target: (n,) class indices.
        plan: how to train.
        sample_weight: (n,) non-negative, handed to the loss by that name with each batch; batches are drawn as without.
        held_out: data to stop early by; without it, the run goes through all epochs and keeps the last weights.
        folder: where to write `resume.ckpt` after every epoch and `logs/metrics.csv`. A checkpoint found there is
            resumed if it is of a run with these very arguments. Nothing is written without it.

    Returns:
        The run. The caller's random state is as before.

    Raises:
        ValueError: if a setting of the plan cannot be met with these data, the loss or the optimizer takes no weights
            of samples, or the folder holds the checkpoint of
            another run or a damaged one.

    >>> x, y = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 2
    >>> from equipoise.ranking import PairwiseAUCLoss
    >>> fit_module(nn.Linear(3, 1), PairwiseAUCLoss(), x, y, Plan(epochs=2, batch_size=50)).epochs
    2
    """
    choice = OPTIMIZERS[plan.optimizer]
    if sample_weight is not None:
        check_weighs_samples(loss, plan)
    data = (features, target) if sample_weight is None else (features, target, sample_weight)
    identity = run_identity(network, loss, data, plan, held_out) if folder is not None else {}
    sampler = StratifiedBatchSampler(target, plan.batch_size, positive_rate=plan.positive_rate, seed=plan.seed)
    # A loader draws a seed for its workers whenever it is iterated, from the global generator unless it has its own.
    loader = DataLoader(_Rows(*data), sampler=sampler, batch_size=None, generator=torch.Generator())
    counts = torch.bincount(target.long())
    request = Request(len(counts), tuple(counts.tolist()), total_epochs=plan.epochs)
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
    resume, found = None, False
    if folder is not None:
        resume = Path(folder) / RESUME_FILE
        found = _is_of(resume, identity)
        # The log comes before the checkpoint, which holds its rows.
        callbacks += [EpochLog(Path(folder) / "logs" / "metrics.csv"), ResumePoint(resume, identity)]
    with _quiet(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        trainer = lightning.Trainer(
            max_epochs=plan.epochs,
            accelerator=plan.accelerator,
            devices=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=plan.progress,
            enable_model_summary=False,
            log_every_n_steps=1_000_000,
            use_distributed_sampler=False,
        )
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


def check_weighs_samples(loss: nn.Module, plan: Plan) -> None:
    """Raise `ValueError` unless weights of samples reach the loss in every step."""
    if plan.optimizer != PLAIN:
        raise ValueError(
            f"optimizer={plan.optimizer!r} takes no sample_weight; leave it out, or use optimizer={PLAIN!r}"
        )
    if not weighs_samples(loss):
        raise ValueError(
            f"the loss {type(loss).__name__} takes no sample_weight; leave it out, or use a loss whose forward has it, "
            "such as PairwiseAUCLoss"
        )


def run_identity(
    network: nn.Module, loss: nn.Module, data: Sequence[Tensor], plan: Plan, held_out: HeldOut | None
) -> dict[str, str]:
    """The fingerprint of every argument that a run depends on; `data` are features, targets and weights if any."""
    settings = replace(plan, progress=False, accelerator="auto")
    parts: dict[str, Any] = {"network": network, "loss": loss, "plan": settings, "held_out": held_out}
    parts |= dict(zip(("features", "target", "sample_weight"), data, strict=False))
    return {name: fingerprint(part) for name, part in parts.items()}


def _is_of(resume: Path, identity: dict[str, str]) -> bool:
    """Whether there is a checkpoint of this run; raises `ValueError` for one of another run, or a damaged one."""
    if not resume.exists():
        return False
    try:
        with zipfile.ZipFile(resume) as parts:
            sound = parts.testzip() is None
        held = torch.load(resume, map_location="cpu", weights_only=True, mmap=True) if sound else {}
    except Exception:  # readers of damaged files raise of all kinds
        sound, held = False, {}
    if not sound:
        raise ValueError(f"{resume} is damaged; delete it to start anew")
    other = [name for name, own in identity.items() if held.get("identity", {}).get(name) != own]
    if other:
        raise ValueError(
            f"{resume} is of a run with another {', '.join(other)}; give another folder, or delete it to start anew"
        )
    return True


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
