"""Epochs of mini-batches that depend on a seed and on nothing that ran before them.

The order of an epoch, its augmentation and its dropout come from the seed and the place of the epoch in the training,
so that no state of a generator has to be saved for a training to go on bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Optimizer

from equipoise.multimodal.boosting.samples import Samples

Augment: TypeAlias = Callable[[dict[str, Tensor], Generator], dict[str, Tensor]]
OptimizerFactory: TypeAlias = Callable[[list[nn.Parameter], float], Optimizer]


def default_optimizer(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    """SGD with momentum .9 and weight decay 5e-4, as the authors train."""
    return SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)


def trainable(modules: Iterable[nn.Module | nn.Parameter]) -> list[nn.Parameter]:
    """The parameters of some modules that are trained, each once, whatever names it goes by."""
    found: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in [module] if isinstance(module, nn.Parameter) else module.parameters():
            if parameter.requires_grad:
                found[id(parameter)] = parameter
    return list(found.values())


def derived_seed(seed: int, *place: int) -> int:
    """A seed for a place of a training.

    >>> derived_seed(0, 1, 2) == derived_seed(0, 2, 1)
    False
    """
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Loop:
    """How epochs are run.

    Attributes:
        batch_size: samples of a step.
        seed: of the training.
        autocast: half precision that forward passes run in, or None.
        augment: a function of (inputs by modality, generator) that changes a training batch, or None.
    """

    batch_size: int
    seed: int
    autocast: torch.dtype | None = None
    augment: Augment | None = None

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context of forward passes."""
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Keeps small gradients from vanishing in float16; does nothing elsewhere."""
        return torch.amp.GradScaler(device.type, enabled=self.autocast is torch.float16)

    def batches(
        self, samples: Samples, names: Sequence[str], device: torch.device, place: Sequence[int]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        """Rows, inputs and classes of all samples in the order of an epoch.

        A single sample that is left over joins the batch before it, since batch normalisation has no statistics of one.
        """
        generator = Generator().manual_seed(derived_seed(self.seed, *place))
        parts = list(torch.randperm(len(samples), generator=generator).split(self.batch_size))
        if self.batch_size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        for rows in parts:
            inputs = samples.read(rows, names, device)
            if self.augment is not None:
                inputs = self.augment(inputs, generator)
            yield rows, inputs, samples.classes(rows, device)

    def epoch(
        self,
        batches: Iterable[tuple[Tensor, dict[str, Tensor], Tensor]],
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        losses: Callable[[Tensor, dict[str, Tensor], Tensor], dict[str, Tensor]],
        place: Sequence[int],
        modulate: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """A step for each batch down the sum of its losses; their means over the samples, by name.

        Args:
            batches: see `batches`.
            optimizer: that steps.
            scaler: see `scaler`.
            losses: of (rows, inputs, classes), scalars by name.
            place: of the epoch in the training.
            modulate: called before each step, to change gradients.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        sums: dict[str, float] = {}
        count = 0
        with self.random(place):
            for rows, inputs, target in batches:
                optimizer.zero_grad(set_to_none=True)
                found = losses(rows, inputs, target)
                total = sum_of(found)
                check_loss(total)
                scaler.scale(total).backward()
                modulate()
                scaler.step(optimizer)
                scaler.update()
                count += len(rows)
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(rows)
        return {name: value / count for name, value in sums.items()}

    @contextmanager
    def random(self, place: Sequence[int]) -> Iterator[None]:
        """Dropout by the place in the training; the caller's random state is left alone."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(derived_seed(self.seed, *place, 1))
            yield


def sum_of(losses: dict[str, Tensor]) -> Tensor:
    """The sum of scalars."""
    first, *more = losses.values()
    for value in more:
        first = first + value
    return first


def check_loss(loss: Tensor) -> None:
    """Raise `ValueError` for what is no scalar, `FloatingPointError` for what is not finite."""
    if loss.ndim:
        raise ValueError(f"loss must give a scalar, got shape {tuple(loss.shape)}; take reduction='mean'")
    if not math.isfinite(float(loss.detach())):
        raise FloatingPointError(f"the loss has become {float(loss.detach())}; lower the learning rate")


def check_logits(logits: Tensor, name: str, num_classes: int) -> None:
    """Refuse what a learner gives where it has another form than (n, C), or is not finite.

    Raises:
        ValueError: if the shape is wrong.
        FloatingPointError: if a value is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(f"the learner of {name!r} gives shape {tuple(logits.shape)}, wanted (n, {num_classes})")
    # NaN and infinity survive a sum, in whose place they are looked for only if it overflows.
    if not math.isfinite(float(logits.detach().float().sum())) and not bool(torch.isfinite(logits.detach()).all()):
        raise FloatingPointError(f"the logits of {name!r} have become infinite or NaN; lower the learning rate")
