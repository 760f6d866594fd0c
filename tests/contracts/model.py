"""What a public name is entered as, so that one suite can hold all of its kind to the same contract.

Every name that a room exports stands in one list of `entries/<room>.py`: as a `Loss`, a `Measure` (a
`torchmetrics.Metric`), an `Optimizer`, a `Solver`, a `Function`, an estimator of `entries/estimators.py`, or in
`OTHERS` with a reason. `test_complete.py` fails for a name that stands nowhere.

`inputs(generator, n)` makes a good batch of n samples as keyword arguments. `exempt` maps the name of a contract test
to the reason why it does not apply, which is printed where the test is skipped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

Inputs = Callable[[Generator, int], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A public name.

    Attributes:
        name: dotted, such as "equipoise.ranking.AUROC".
        settings: good keyword arguments that build it (of a function: its settings).
        inputs: makes a good batch.
        exempt: contract test → why it does not apply.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs = lambda generator, n: {}
    exempt: Mapping[str, str] = field(default_factory=dict)

    @property
    def object(self) -> Any:
        """What the name stands for."""
        module, _, attribute = self.name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)

    def build(self, **changes: Any) -> Any:
        """A fresh object."""
        return self.object(**{**self.settings, **changes})

    def batch(self, n: int = 24, seed: int = 0) -> dict[str, Any]:
        """A good batch of n samples."""
        return self.inputs(Generator().manual_seed(seed), n)

    def __str__(self) -> str:
        return self.name.removeprefix("equipoise.")


@dataclass(frozen=True)
class Loss(Entry):
    """An `nn.Module` whose `forward` gives a loss.

    Attributes:
        functional: dotted name of the functional form that takes the same settings; None where there is none.
        undefined: a batch on which the loss is undefined and gives an attached zero; None where there is no such batch.
        gather: whether `gather=True` makes two processes give the loss of the union.
        adapt: makes a loss of tensors, that gives a scalar, of one that takes or gives a list or a dictionary.
    """

    functional: str | None = None
    undefined: Inputs | None = None
    gather: bool = False
    adapt: Callable[[Any], Any] = lambda loss: loss

    def build(self, **changes: Any) -> Any:
        """A fresh loss."""
        return self.adapt(super().build(**changes))


@dataclass(frozen=True)
class Measure(Entry):
    """A `torchmetrics.Metric`.

    Attributes:
        functional: dotted name of the function of the whole; None where there is none.
        undefined: a batch on which it is undefined and gives NaN with one warning; None where there is no such batch.
    """

    functional: str | None = None
    undefined: Inputs | None = None


@dataclass(frozen=True)
class Optimizer(Entry):
    """A `torch.optim.Optimizer`; `settings` hold what it takes beside the parameters.

    Attributes:
        per_sample: whether its closure must return the loss and the class of every sample; else PyTorch's does too.
    """

    per_sample: bool = True
    passes: ClassVar[int] = 2


@dataclass(frozen=True)
class Solver(Entry):
    """A `torch.optim.Optimizer` that is made of modules, and takes PyTorch's closure.

    Attributes:
        passes: how often a step calls its closure.
    """

    passes: int = 2

    def build(self, *modules: Any, **changes: Any) -> Any:
        """A fresh solver of some modules."""
        return self.object(*modules, **{**self.settings, **changes})


@dataclass(frozen=True)
class Function(Entry):
    """A function of tensors and settings: only its refusals are held by the suite; its own tests hold its values."""


def as_numpy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with NumPy's numbers, and sequences of numbers as arrays that are read backwards."""

    def turned(value: Any) -> Any:
        if type(value) in (bool, int, float):
            return {bool: np.bool_, int: np.int64, float: np.float64}[type(value)](value)
        if type(value) in (tuple, list) and {type(each) for each in value} <= {int, float}:
            return np.array(value[::-1])[::-1]
        return value

    return {name: turned(value) for name, value in settings.items()}


def in_other_types(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The batch with whole numbers in every other type that holds them, a matrix of 0 and 1 also in floating point."""
    for name, value in batch.items():
        if not isinstance(value, Tensor) or value.dtype is not torch.int64:
            continue
        kinds = [torch.int8, torch.int16, torch.int32, *([torch.uint8] if int(value.min()) >= 0 else [])]
        if set(value.unique().tolist()) <= {0, 1}:
            kinds += [torch.bool, *([torch.float32, torch.float64] if value.ndim == 2 else [])]
        for kind in kinds:
            yield {**batch, name: value.to(kind)}


def binary(generator: Generator, n: int) -> dict[str, Tensor]:
    """Scores (n,) and a target with both classes."""
    return {"scores": torch.randn(n, generator=generator), "target": (torch.arange(n) % 3 == 0).long()}


def one_class(generator: Generator, n: int) -> dict[str, Tensor]:
    """Scores (n,) of negatives only."""
    return {"scores": torch.randn(n, generator=generator), "target": torch.zeros(n, dtype=torch.long)}


def multiclass(classes: int = 4, logits: str = "logits") -> Inputs:
    """Logits (n, classes) and class indices."""

    def make(generator: Generator, n: int) -> dict[str, Tensor]:
        return {logits: torch.randn(n, classes, generator=generator), "target": torch.arange(n) % classes}

    return make


def multilabel(labels: int = 5, logits: str = "logits") -> Inputs:
    """Logits (n, labels) and a matrix of 0 and 1 with a relevant and an irrelevant label in every row."""

    def make(generator: Generator, n: int) -> dict[str, Tensor]:
        target = (torch.rand(n, labels, generator=generator) < 0.4).long()
        target[:, 0], target[:, 1] = 1, 0
        return {logits: torch.randn(n, labels, generator=generator), "target": target}

    return make


def renamed(inputs: Inputs, **names: str) -> Inputs:
    """The same batch under other argument names: `renamed(binary, scores="logits")`."""
    return lambda generator, n: {names.get(key, key): value for key, value in inputs(generator, n).items()}
